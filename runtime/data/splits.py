"""Which rows train, validate and test."""

from __future__ import annotations

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


def split_rows(split: Bound | None, rows: int, classes: Array | None) -> dict[str, Array]:
    """Row numbers by split, in ascending order. `classes` are the values to stratify by."""
    if split is None:
        return {"train": np.arange(rows)}
    p = split.params
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


def _by_class(order: Array, classes: Array) -> list[Array]:
    """The shuffled rows of each class."""
    values = [str(v) for v in classes.reshape(len(classes), -1)[:, 0].tolist()]
    _, index = np.unique(np.array(values), return_inverse=True)
    return [order[index[order] == c] for c in range(index.max() + 1)]
