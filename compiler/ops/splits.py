"""Splits: which rows train, validate and test. The functions check what the arguments say; runtime/data/splits.py draws the rows."""

from typing import Annotated

from pydantic import Field

from ..diagnostics import Refusal
from ..operation import Bound, Kind, Of, Params, Reference, Refers, operation
from .data import Labels

PARTS = ("train", "validation", "test")


class SplitParams(Params):
    """What every split answers."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that get rows."""
        raise NotImplementedError

    @property
    def column(self) -> Reference | None:
        """The column of the source whose values decide."""
        return None


class SharesParams(SplitParams):
    train: float = Field(gt=0, le=1, description="share of the rows to learn from")
    validation: float = Field(0.0, ge=0, lt=1, description="share to watch and choose by")
    test: float = Field(0.0, ge=0, lt=1, description="share for the last figure")

    @property
    def shares(self) -> dict[str, float]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(name for name, share in self.shares.items() if share > 0)


class RandomParams(SharesParams):
    stratify: Annotated[Reference | None, Refers("data")] = Field(None, description="a data name whose classes keep their shares")
    seed: int = Field(0, ge=0, description="of the shuffle")


def check_shares(p: SharesParams) -> None:
    """Shares sum to 1."""
    if abs(p.train + p.validation + p.test - 1) > 1e-9:
        found = p.train + p.validation + p.test
        raise Refusal("E408", label=f"train + validation + test = {found:.0%}" if abs(found * 100 - round(found * 100)) < 1e-9 else f"they sum to {found:g}",
                      help=f"give what remains to one of them: train={max(0.0, 1 - p.validation - p.test):.4g}")  # fmt: skip


@operation(Kind.SPLIT, RandomParams, facts={"drawn"})
def random(p: RandomParams) -> None:
    """Rows drawn without replacement, fixed by the seed; with stratify each class keeps its share in every part."""
    check_shares(p)


@operation(Kind.SPLIT, SharesParams)
def ordered(p: SharesParams) -> None:
    """The first rows train, the next validate, the last test."""
    check_shares(p)


class GroupColumn(SplitParams):
    by: Annotated[Reference, Refers("column")] = Field(description="the column that says which group a row belongs to")


class GroupedParams(SharesParams, GroupColumn):
    stratify: Annotated[Reference | None, Refers("data")] = Field(None, description="a data name whose classes keep their shares, as far as groups allow")
    seed: int = Field(0, ge=0, description="of the order in which groups are taken")

    @property
    def column(self) -> Reference:
        return self.by


@operation(Kind.SPLIT, GroupedParams)
def grouped(p: GroupedParams) -> None:
    """All rows of a group, which have one value in the column, in one part; shares are of rows, and kept as far as groups allow.

    Groups are taken in an order drawn by the seed. Each goes to the part p for which the sum over the classes c of
    s_c (2 h_pc + s_c) / t_pc is least: s_c rows of the group, h_pc rows that the part has, t_pc rows of its share. That keeps the sum of
    (h - t)^2 / t smallest at each step. Without stratify there is one class. No part stays empty while there are groups for it. A window
    lies inside consecutive rows of one group.
    """
    check_shares(p)


class ByParams(SplitParams):
    by: Annotated[Reference, Refers("column")] = Field(description="the column whose values say where a row goes", alias="column")
    train: Labels = Field(min_length=1, description="values of rows to learn from")
    validation: Labels = Field((), description="values of rows to watch and choose by")
    test: Labels = Field((), description="values of rows for the last figure")

    @property
    def values(self) -> dict[str, Labels]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(name for name, values in self.values.items() if values)

    @property
    def column(self) -> Reference:
        return self.by


@operation(Kind.SPLIT, ByParams)
def by(p: ByParams) -> None:
    """Rows by the value of a column. Every value of the column stands in one list, and every value of a list in the column.

    A window belongs to the part that holds all its rows.
    """
    seen: dict[object, str] = {}
    for name, values in p.values.items():
        for value in values:
            if value in seen:
                raise Refusal("E207", at=name, label=f"{value!r} stands in {seen[value]} too" if seen[value] != name else f"{value!r} stands there twice",
                              help="name every value once", argument=name, value="the list", bound="distinct")  # fmt: skip
            seen[value] = name


class FilesParams(SplitParams):
    validation: Annotated[Bound | None, Of(Kind.SOURCE)] = Field(None, description="source of the rows to watch and choose by")
    test: Annotated[Bound | None, Of(Kind.SOURCE)] = Field(None, description="source of the rows for the last figure")

    @property
    def sources(self) -> dict[str, Bound]:
        return {name: bound for name, bound in (("validation", self.validation), ("test", self.test)) if bound is not None}

    @property
    def parts(self) -> tuple[str, ...]:
        return ("train", *self.sources)


@operation(Kind.SPLIT, FilesParams)
def files(p: FilesParams) -> None:
    """The source of the data section trains; the other parts come from files of their own, with columns as the source has them.

    A window lies inside one file.
    """
    if not p.sources:
        raise Refusal("E204", label="it names no file", help='write files(validation=csv("valid.csv"), test=csv("test.csv"))', operation="files",
                      argument="`validation` or `test`")  # fmt: skip


class FoldsParams(SplitParams):
    folds: int = Field(ge=2, description="k: the parts that take turns at validation, one for each member")
    test: float = Field(0.0, ge=0, lt=1, kw_only=True, description="share that no member sees, for the last figure")
    stratify: Annotated[Reference | None, Refers("data")] = Field(None, kw_only=True, description="a data name whose classes keep their shares")
    seed: int = Field(0, ge=0, kw_only=True, description="of the shuffle")

    @property
    def parts(self) -> tuple[str, ...]:
        """Every fold validates in its turn."""
        return PARTS if self.test > 0 else PARTS[:2]


@operation(Kind.SPLIT, FoldsParams, facts={"drawn", "folds"})
def k_fold(p: FoldsParams) -> None:
    """k networks are trained, each with another k-th of the rows as its validation split; their outputs are averaged.

    Data steps learn from a member's own training rows. Reported are the mean and the standard deviation of every figure over the members, and
    `out_of_fold`: every row as predicted by the member that has not seen it.
    """
