"""Which rows train, validate and test, and where windows of rows begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Refusal
from nnc.compiler.operation import Bound
from nnc.runtime.kernels import generator

Array = np.ndarray[Any, Any]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Rows:
    """What a split may look at: how many rows there are, in files of which sizes, and the columns that it names."""

    count: int
    row_name: Callable[[int], str]
    deciding: Array | None = None  # the column of `grouped` and `by`
    classes: Array | None = None  # the values to stratify by
    files: Mapping[str, int] | None = None  # rows of each file of `files`, in order


@dataclass(frozen=True)
class Parts:
    """Row numbers by split, in ascending order, and for each row what a window may not cross (None: nothing)."""

    rows: dict[str, Array]
    series: Array | None = None


def _cuts(rows: int, shares: tuple[float, float, float]) -> tuple[int, int]:
    """Where training and validation end among `rows`."""
    return round(rows * shares[0]), round(rows * (shares[0] + shares[1]))


def split_rows(split: Bound | None, rows: Rows, fold: int = 0) -> Parts:
    """The rows of each part; `fold` is the one that validates. Raises E411 and E416, at an argument of the split."""
    if split is None:
        return Parts({"train": np.arange(rows.count)})
    if split.name == "ordered" or "drawn" in split.operation.facts:
        return Parts(_by_shares(split, rows.count, rows.classes, fold))
    if split.name == "files":
        assert rows.files is not None
        which = np.repeat(np.arange(len(rows.files)), [*rows.files.values()])
        return Parts({name: np.flatnonzero(which == i) for i, name in enumerate(rows.files)}, which)
    values, which = _values(split, rows)
    parts = _grouped(split.params, values, which, rows) if split.name == "grouped" else _by(split.params, values, which)
    part = parts[which]
    found = {name: np.flatnonzero(part == i) for i, name in enumerate(SPLITS) if name in split.params.parts}
    return Parts(found, which if split.name == "grouped" else part)


def _by_shares(split: Bound, rows: int, classes: Array | None, fold: int) -> dict[str, Array]:
    p = split.params
    if "folds" in split.operation.facts:
        return _folds(p, rows, classes, fold)
    shares = (p.train, p.validation, p.test)
    if split.name == "ordered":
        groups = [np.arange(rows)]
    else:
        order = generator(p.seed, "split").permutation(rows)
        groups = [order] if classes is None else _by_class(order, classes)
    parts: dict[str, list[Array]] = {name: [] for name in SPLITS}
    for group in groups:
        first, second = _cuts(len(group), shares)
        for name, part in zip(SPLITS, (group[:first], group[first:second], group[second:]), strict=True):
            parts[name].append(part)
    found = {}
    for name, share in zip(SPLITS, shares, strict=True):
        members = np.sort(np.concatenate(parts[name]))
        if share > 0 and len(members) == 0:
            raise Refusal("E411", split=name, label=f"{share:.4g} of {rows} rows", help="give it a larger share, or more rows")
        if share > 0:
            found[name] = members
    return found


def _folds(p: Any, rows: int, classes: Array | None, fold: int) -> dict[str, Array]:
    """Every k-th row of the shuffled ones validates, class after class, so that folds differ by a row at most, as do their shares of a class."""
    order = generator(p.seed, "split").permutation(rows)
    groups = [order] if classes is None else _by_class(order, classes)
    kept = [round(len(group) * (1 - p.test)) for group in groups]
    pool = np.concatenate([group[:n] for group, n in zip(groups, kept, strict=True)])
    test = np.sort(np.concatenate([group[n:] for group, n in zip(groups, kept, strict=True)]))
    if len(pool) < p.folds:
        raise Refusal("E411", split="validation", label=f"{p.folds} folds of {len(pool)} rows", help=f"use at most {len(pool)} folds, or more rows")
    if p.test > 0 and not len(test):
        raise Refusal("E411", split="test", label=f"{p.test:.4g} of {rows} rows", help="give it a larger share, or more rows")
    mine = np.arange(len(pool)) % p.folds == fold
    found = {"train": np.sort(pool[~mine]), "validation": np.sort(pool[mine])}
    return found | {"test": test} if p.test > 0 else found


def bootstrap(rows: Array, seed: int) -> Array:
    """As many of the rows, drawn with replacement, in ascending order."""
    return np.sort(rows[generator(seed, "bootstrap").integers(0, len(rows), len(rows))])


def _class_numbers(classes: Array) -> Array:
    values = [str(v) for v in classes.reshape(len(classes), -1)[:, 0].tolist()]
    return np.unique(np.array(values), return_inverse=True)[1]


def _by_class(order: Array, classes: Array) -> list[Array]:
    """The shuffled rows of each class."""
    index = _class_numbers(classes)
    return [order[index[order] == c] for c in range(index.max() + 1)]


# Splits by a column


def _values(split: Bound, rows: Rows) -> tuple[list[Any], Array]:
    """The distinct values of the deciding column in the order of their first rows, and for each row the place of its value."""
    assert rows.deciding is not None
    flat = rows.deciding.reshape(-1).tolist()
    missing = next((i for i, v in enumerate(flat) if v == "" or v != v), None)
    if missing is not None and not (split.name == "by" and "" in [v for values in split.params.values.values() for v in values]):
        raise Refusal("E416", column=split.params.column.name, label=f"a missing value in {rows.row_name(missing)}",
                      help="fill it in, or remove the row")  # fmt: skip
    places: dict[Any, int] = {}
    which = np.fromiter((places.setdefault(v, len(places)) for v in flat), np.int64, len(flat))
    return [*places], which


def _grouped(p: Any, values: Sequence[Any], which: Array, rows: Rows) -> Array:
    """The part of each group: see compiler/ops/splits.py for the rule."""
    names = [name for name in SPLITS if name in p.parts]
    if len(values) < len(names):
        raise Refusal("E411", split=names[-1], at="by", label=f"{len(values)} groups for {len(names)} parts",
                      help="name a column with more groups, or use fewer parts")  # fmt: skip
    classes = np.zeros(rows.count, np.int64) if rows.classes is None else _class_numbers(rows.classes)
    sizes = np.zeros((len(values), int(classes.max()) + 1))
    np.add.at(sizes, (which, classes), 1)
    wanted = np.array([p.shares[name] for name in names])[:, None] * sizes.sum(axis=0)
    held = np.zeros_like(wanted)
    parts = np.empty(len(values), np.int64)
    for taken, group in enumerate(generator(p.seed, "split").permutation(len(values)).tolist()):
        size = sizes[group]
        cost = (size * (2 * held + size) / wanted).sum(axis=1)
        empty = ~held.any(axis=1)
        if len(values) - taken <= int(empty.sum()):
            cost[~empty] = np.inf
        chosen = int(np.argmin(cost))
        held[chosen] += size
        parts[group] = SPLITS.index(names[chosen])
    return parts


def _by(p: Any, values: Sequence[Any], which: Array) -> Array:
    """The part of each value: E416 for one that stands in no list, or does not occur."""
    column = p.column.name
    text = isinstance(values[0], str)
    places: dict[Any, int] = {}
    for i, name in enumerate(SPLITS):
        for value in p.values[name]:
            if isinstance(value, str) != text:
                raise Refusal("E416", at=name, column=column, label=f"the column holds {'text' if text else 'numbers'}",
                              help="write the values as the column holds them")  # fmt: skip
            if value not in values:
                raise Refusal("E416", at=name, column=column, label=f"no row holds {_shown(value)}", help="leave it out, or correct it")
            places[value] = i
    left = [i for i, value in enumerate(values) if value not in places]
    if left:
        count = int(np.count_nonzero(which == left[0]))
        more = f", and {len(left) - 1} other values stand in none" if len(left) > 1 else ""
        raise Refusal("E416", at="column", column=column, label=f"{_shown(values[left[0]])} stands in {count:,} rows and in no list{more}",
                      help="add it to train, validation or test")  # fmt: skip
    return np.array([places[value] for value in values])


def _shown(value: Any) -> str:
    return f"`{value}`" if isinstance(value, str) else f"{value:.10g}"


# Windows


def starts_of(every: Sequence[Any], rows: int, series: Array | None) -> Array:
    """The first row of each sample: windows advance by their stride, anew in every run of rows with one number of `series`."""
    stride, longest = every[0].stride, max(w.offset + w.length for w in every)
    edges = np.array([0, rows]) if series is None else np.concatenate([[0], np.flatnonzero(np.diff(series)) + 1, [rows]])
    runs = [np.arange(begin, end - longest + 1, stride) for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    return np.concatenate(runs).astype(np.int64)


def split_windows(
    split: Bound | None, rows: Rows, every: Sequence[Any], targets: Sequence[Any], fold: int = 0
) -> tuple[dict[str, Array], Array, Array]:
    """Sample numbers by split, the first row of each sample, and the rows to learn from.

    `ordered` cuts the rows: a sample belongs to the part that holds all its target rows, its inputs may reach back. `random` and
    `k_fold` draw samples, whose windows do not overlap. Under `grouped`, `by` and `files` all rows of a sample are in one group, part or file.
    """
    longest = max(w.offset + w.length for w in every)
    if rows.count < longest:
        raise Refusal("E411", split="train", label=f"{rows.count} rows, and a sample takes {longest}", help="give more rows, or shorter windows")
    if split is None or split.name == "ordered" or "drawn" in split.operation.facts:
        starts = starts_of(every, rows.count, None)
        found, fitted = _in_one_series(split, rows.count, starts, every, targets, fold)
        return found, starts, fitted
    parts = split_rows(split, rows)
    starts = starts_of(every, rows.count, parts.series)
    found = {}
    for name, members in parts.rows.items():
        inside = np.zeros(rows.count, bool)
        inside[members] = True
        found[name] = np.flatnonzero(inside[starts])
        if not len(found[name]):
            raise Refusal("E411", split=name, label=f"its {len(members):,} rows hold no {longest} consecutive ones of one series",
                          help="sort the rows so that each series stands together, or use shorter windows")  # fmt: skip
    return found, starts, parts.rows["train"]


def _in_one_series(
    split: Bound | None, rows: int, starts: Array, every: Sequence[Any], targets: Sequence[Any], fold: int
) -> tuple[dict[str, Array], Array]:
    """Sample numbers by split and the rows to learn from, where all rows follow one another."""
    if split is None:
        return {"train": np.arange(len(starts))}, np.arange(rows)
    p = split.params
    if split.name != "ordered":
        found = _by_shares(split, len(starts), None, fold)
        covered = np.zeros(rows, bool)
        for w in every:
            for start in starts[found["train"]].tolist():
                covered[start + w.offset : start + w.offset + w.length] = True
        return found, np.flatnonzero(covered)
    first, second = _cuts(rows, (p.train, p.validation, p.test))
    low = starts + min(w.offset for w in targets or every)
    high = starts + max(w.offset + w.length for w in targets or every)
    found = {}
    for name, share, (start, stop) in zip(SPLITS, (p.train, p.validation, p.test), ((0, first), (first, second), (second, rows)), strict=True):
        members = np.flatnonzero((low >= start) & (high <= stop))
        if share > 0 and not len(members):
            raise Refusal("E411", split=name, label=f"{share:.4g} of {rows} rows holds no whole window", help="give it a larger share, or more rows")
        if share > 0:
            found[name] = members
    return found, np.arange(first)
