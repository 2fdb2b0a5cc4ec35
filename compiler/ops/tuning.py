"""The words of a tune section: domains of constants, the objective, the search. `nnc tune` runs it; everything else only checks it."""

from typing import Annotated

from pydantic import Field

from ..diagnostics import Refusal
from ..operation import Kind, NoParams, Params, Reference, Refers, operation


class RangeParams(Params):
    low: float = Field(description="the smallest value")
    high: float = Field(description="the largest value")


def _require_range(p: RangeParams, least: float) -> None:
    if not p.low < p.high:
        raise Refusal("E207", at="high", label=f"low is {p.low:g}", help="give low < high", argument="high", value=f"{p.high:g}",
                      bound="greater than low")  # fmt: skip
    if p.low <= least:
        raise Refusal("E207", at="low", label="a logarithm is taken", help="give a low above 0", argument="low", value=f"{p.low:g}",
                      bound="greater than 0")  # fmt: skip


@operation(Kind.DOMAIN, RangeParams)
def uniform(p: RangeParams) -> None:
    """Numbers from low to high, all equally likely."""
    _require_range(p, float("-inf"))


@operation(Kind.DOMAIN, RangeParams)
def log(p: RangeParams) -> None:
    """Numbers from low to high, their logarithms equally likely."""
    _require_range(p, 0.0)


class ObjectiveParams(Params):
    figure: Annotated[Reference, Refers("metric")] = Field(description="a figure such as val.loss")


@operation(Kind.OBJECTIVE, ObjectiveParams)
def minimize(p: ObjectiveParams) -> None:
    """The lower the figure, the better the trial."""


@operation(Kind.OBJECTIVE, ObjectiveParams)
def maximize(p: ObjectiveParams) -> None:
    """The higher the figure, the better the trial."""


class TrialsParams(Params):
    trials: int = Field(20, ge=1, description="number of trainings")


@operation(Kind.SEARCH)
def grid(p: NoParams) -> None:
    """Every combination of the listed values."""


@operation(Kind.SEARCH, TrialsParams)
def random(p: TrialsParams) -> None:
    """Values drawn from the domains."""


@operation(Kind.SEARCH, TrialsParams)
def bayesian(p: TrialsParams) -> None:
    """Values where the trials so far promise most."""
