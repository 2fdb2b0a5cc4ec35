"""What data steps learn from the training rows: arrays by role, and classes. Figures are computed in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Learned = tuple[dict[str, Array], tuple[Any, ...] | None]


def _axes(values: Array) -> tuple[int, ...]:
    """All axes but the channel's: axis 0 of images, the last of everything else."""
    rank = values.ndim - 1
    channel = 1 if rank == 3 else rank
    return tuple(a for a in range(values.ndim) if a != channel or rank == 0)


def _figures(function: Callable[..., Any], values: Array) -> Array:
    """A statistic by channel over known values, in the shape that broadcasts against a sample; 0 where no value is known."""
    numbers = values.astype(np.float64)
    known = np.isfinite(numbers).any(axis=_axes(values), keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):  # sums beyond the largest float are found as E405
        found = function(np.where(known, numbers, 0.0), axis=_axes(values), keepdims=True)
    return np.asarray(np.asarray(found)[0])


def _standardize(values: Array, p: Any) -> Learned:
    std = _figures(np.nanstd, values)
    return {"mean": _figures(np.nanmean, values), "std": np.where(std > 0, std, 1.0)}, None


def _min_max(values: Array, p: Any) -> Learned:
    low = _figures(np.nanmin, values)
    spread = _figures(np.nanmax, values) - low
    return {"min": low, "range": np.where(spread > 0, spread, 1.0)}, None


def _impute(values: Array, p: Any) -> Learned:
    if p.strategy == "constant":
        return {}, None
    return {"fill": _figures(np.nanmedian if p.strategy == "median" else np.nanmean, values)}, None


def _classes(values: Array, p: Any) -> Learned:
    """The distinct known values, sorted."""
    flat = values.reshape(-1).tolist()
    found = {v for v in flat if v != "" and v == v}
    return {}, tuple(sorted(found))


def _characters(values: Array, p: Any) -> Learned:
    """The distinct characters, sorted."""
    return {}, tuple(chr(point) for point in np.unique(values).tolist())


def _bucketize(values: Array, p: Any) -> Learned:
    """The quantiles that cut the training rows into equal shares."""
    if not isinstance(p.edges, int):
        return {}, None
    numbers = values.astype(np.float64).reshape(-1)
    shares = np.arange(1, p.edges) / p.edges
    return {"edges": np.quantile(numbers[np.isfinite(numbers)], shares)}, None


def balanced(values: Array, classes: int, binary: bool) -> Array:
    """rows / (classes * rows of c) for each class c that a target of indices, of distributions or, if `binary`, of 0s and 1s holds; else 1.

    Over the rows that were counted these weights have the mean 1.
    """
    if binary:
        ones = float(values.sum(dtype=np.float64))
        counts = np.array([values.size - ones, ones])
    elif values.dtype.kind == "f":
        counts = values.reshape(-1, classes).sum(axis=0, dtype=np.float64)
    else:
        counts = np.bincount(values[(values >= 0) & (values < classes)], minlength=classes).astype(np.float64)
    there = counts > 0
    return np.where(there, counts.sum() / (max(1, there.sum()) * np.where(there, counts, 1.0)), 1.0)


FITS: dict[str, Callable[[Array, Any], Learned]] = {
    "standardize": _standardize,
    "min_max": _min_max,
    "impute": _impute,
    "category": _classes,
    "one_hot": _classes,
    "characters": _characters,
    "bucketize": _bucketize,
}
