"""Which rows train, validate and test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Refusal
from nnc.compiler.operation import Bound
from nnc.runtime.kernels import generator

Array = np.ndarray[Any, Any]
SPLITS = ("train", "validation", "test")


def _cuts(rows: int, shares: tuple[float, float, float]) -> tuple[int, int]:
    """Where training and validation end among `rows`."""
    return round(rows * shares[0]), round(rows * (shares[0] + shares[1]))


def split_rows(split: Bound | None, rows: int, classes: Array | None, fold: int = 0) -> dict[str, Array]:
    """Row numbers by split, in ascending order. `classes` are the values to stratify by; `fold` is the one that validates."""
    if split is None:
        return {"train": np.arange(rows)}
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


def _by_class(order: Array, classes: Array) -> list[Array]:
    """The shuffled rows of each class."""
    values = [str(v) for v in classes.reshape(len(classes), -1)[:, 0].tolist()]
    _, index = np.unique(np.array(values), return_inverse=True)
    return [order[index[order] == c] for c in range(index.max() + 1)]


def split_windows(split: Bound | None, rows: int, every: Sequence[Any], targets: Sequence[Any], fold: int = 0) -> tuple[dict[str, Array], Array]:
    """Sample numbers by split, and the rows to learn from.

    `ordered` cuts the rows: a sample belongs to the part that holds all its target rows, its inputs may reach back. `random` and
    `k_fold` draw samples, whose windows do not overlap.
    """
    stride, longest = every[0].stride, max(w.offset + w.length for w in every)
    samples = (rows - longest) // stride + 1
    if samples < 1:
        raise Refusal("E411", split="train", label=f"{rows} rows, and a sample takes {longest}", help="give more rows, or shorter windows")
    if split is None:
        return {"train": np.arange(samples)}, np.arange(rows)
    if split.name != "ordered":
        found = split_rows(split, samples, None, fold)
        covered = np.zeros(rows, bool)
        for w in every:
            for i in found["train"]:
                covered[i * stride + w.offset : i * stride + w.offset + w.length] = True
        return found, np.flatnonzero(covered)
    p = split.params
    first, second = _cuts(rows, (p.train, p.validation, p.test))
    begins = np.arange(samples) * stride
    low = begins + min(w.offset for w in targets or every)
    high = begins + max(w.offset + w.length for w in targets or every)
    found = {}
    for name, share, (start, stop) in zip(SPLITS, (p.train, p.validation, p.test), ((0, first), (first, second), (second, rows)), strict=True):
        members = np.flatnonzero((low >= start) & (high <= stop))
        if share > 0 and not len(members):
            raise Refusal("E411", split=name, label=f"{share:.4g} of {rows} rows holds no whole window", help="give it a larger share, or more rows")
        if share > 0:
            found[name] = members
    return found, np.arange(first)
