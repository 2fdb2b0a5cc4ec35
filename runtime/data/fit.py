"""What data steps learn from the training rows: arrays by role, and classes. Figures are computed in float64.

The rows come in parts, as often as a step asks for them, so that they need not be in memory together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Parts = Callable[[], Iterator[Array]]
Learned = tuple[dict[str, Array], tuple[Any, ...] | None]
_AT_ONCE = 1 << 24  # elements that are sorted together


def _axes(values: Array) -> tuple[int, ...]:
    """All axes but the channel's: axis 0 of images, the last of everything else."""
    rank = values.ndim - 1
    channel = 1 if rank == 3 else rank
    return tuple(a for a in range(values.ndim) if a != channel or rank == 0)


def _over(parts: Parts, figure: Callable[[Array, tuple[int, ...]], Any], add: Callable[[Array, Array], Any] = np.add) -> Array:
    """A figure of each part by channel, in the shape that broadcasts against a sample, added up."""
    total: Any = None
    with np.errstate(over="ignore", invalid="ignore"):  # sums beyond the largest float are found as E405
        for values in parts():
            found = figure(values.astype(np.float64), _axes(values))[0]
            total = found if total is None else add(total, found)
    return np.asarray(total)


def _mean(parts: Parts) -> tuple[Array, Array]:
    """The mean of known values, 0 where no value is known, and how many are known."""

    def sums(x: Array, axes: tuple[int, ...]) -> Array:
        missing = np.isnan(x)
        each = np.isfinite(x).any(axes, keepdims=True), (~missing).sum(axes, keepdims=True), np.where(missing, 0.0, x).sum(axes, keepdims=True)
        return np.stack(each, axis=1)

    known, count, total = _over(parts, sums)
    return np.where(known, total, 0.0) / np.maximum(count, 1), count


def _standardize(parts: Parts, p: Any) -> Learned:
    mean, count = _mean(parts)
    squares = _over(parts, lambda x, axes: (np.where(np.isnan(x), 0.0, x - mean) ** 2).sum(axes, keepdims=True))
    std = np.sqrt(squares / np.maximum(count, 1))
    return {"mean": mean, "std": np.where(std > 0, std, 1.0)}, None


def _min_max(parts: Parts, p: Any) -> Learned:
    low = _over(parts, lambda x, axes: np.fmin.reduce(x, axes, keepdims=True), np.fmin)
    high = _over(parts, lambda x, axes: np.fmax.reduce(x, axes, keepdims=True), np.fmax)
    low, high = np.where(np.isnan(low), 0.0, low), np.where(np.isnan(high), 0.0, high)
    with np.errstate(over="ignore", invalid="ignore"):
        spread = high - low
    return {"min": low, "range": np.where(spread > 0, spread, 1.0)}, None


def _medians(parts: Parts) -> Array:
    """The median of known values by channel, some channels at a time; 0 where no value is known."""
    first = next(parts())
    keeps = _axes(first)
    channels = [axis for axis in range(first.ndim) if axis not in keeps]
    count = first.shape[channels[0]] if channels else 1
    size = sum(values.size for values in parts())
    step = max(1, _AT_ONCE * count // max(1, size))
    found = []
    for start in range(0, count, step):
        chosen = [values.take(range(start, min(start + step, count)), channels[0]) if channels else values for values in parts()]
        numbers = np.concatenate(chosen).astype(np.float64)
        known = np.isfinite(numbers).any(axis=keeps, keepdims=True)
        with np.errstate(over="ignore", invalid="ignore"):
            found.append(np.nanmedian(np.where(known, numbers, 0.0), axis=keeps, keepdims=True)[0])
    return np.concatenate(found, channels[0] - 1) if channels else np.asarray(found[0])


def _impute(parts: Parts, p: Any) -> Learned:
    if p.strategy == "constant":
        return {}, None
    return {"fill": _medians(parts) if p.strategy == "median" else _mean(parts)[0]}, None


def _classes(parts: Parts, p: Any) -> Learned:
    """The distinct known values, sorted."""
    found = {v for values in parts() for v in values.reshape(-1).tolist() if v != "" and v == v}
    return {}, tuple(sorted(found))


def _characters(parts: Parts, p: Any) -> Learned:
    """The distinct characters, sorted."""
    found = {point for values in parts() for point in np.unique(values).tolist()}
    return {}, tuple(chr(point) for point in sorted(found))


def _bucketize(parts: Parts, p: Any) -> Learned:
    """The quantiles that cut the training rows into equal shares."""
    if not isinstance(p.edges, int):
        return {}, None
    numbers = np.concatenate([values.astype(np.float64).reshape(-1) for values in parts()])
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


FITS: dict[str, Callable[[Parts, Any], Learned]] = {
    "standardize": _standardize,
    "min_max": _min_max,
    "impute": _impute,
    "category": _classes,
    "one_hot": _classes,
    "characters": _characters,
    "bucketize": _bucketize,
}
