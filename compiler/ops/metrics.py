"""Metrics: sums over samples as graph terms, in float64, and how the totals make the figure.

A metric fits a pair of prediction and target, or it does not; `fits` says so.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import Any

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Value, apply, constant
from ..operation import Column, Kind, NoParams, Params, Sums, operation
from ..primitives import total
from .losses import is_index, same_shape

Totals = dict[str, Any]


def _elements(a: Value) -> int:
    return prod(d for d in a.shape[1:] if isinstance(d, int))


def _count(a: Value, per_sample: int) -> Value:
    return apply("axis_size", a, axis=0, dtype="float64") * float(per_sample)


def _both(a: Value, y: Column) -> tuple[Value, Value]:
    """Prediction and target in float64 and in one shape."""
    target = apply("cast", y.value, dtype="float64")
    shaped = target if target.shape == a.shape else apply("reshape", target, shape=a.shape)
    return apply("cast", a, dtype="float64"), shaped


def _index(a: Value, y: Column) -> Value:
    return y.value if y.value.shape == a.shape[:-1] else apply("reshape", y.value, shape=a.shape[:-1])


def _numeric(a: Value, y: Column) -> bool:
    return same_shape(a, y) and y.value.dtype != "string"


def _classes(a: Value, y: Column) -> bool:
    return is_index(a, y) or _numeric(a, y)


def _ratio(totals: Totals) -> float:
    return float(totals["sum"] / totals["count"])


class AccuracyParams(Params):
    threshold: float = Field(0.5, description="what a single output must exceed to mean 1")


@operation(Kind.METRIC, AccuracyParams, operands=2, fits=_classes, better="higher")
def accuracy(a: Value, y: Column, p: AccuracyParams) -> Sums:
    """The share of right decisions: argmax for classes and one-hot targets, else a threshold for each element."""
    if is_index(a, y):
        right = apply("equal", apply("argmax", a, axis=a.type.rank - 1), _index(a, y))
        per_sample = _elements(a) // a.shape[-1]  # type: ignore[operator]
    elif a.type.rank > 1 and a.shape[-1] != 1 and y.value.dtype != "int64":
        target = y.value if y.value.shape == a.shape else apply("reshape", y.value, shape=a.shape)
        axis = a.type.rank - 1
        right = apply("equal", apply("argmax", a, axis=axis), apply("argmax", target, axis=axis))
        per_sample = _elements(a) // a.shape[-1]  # type: ignore[operator]
    else:
        value, target = _both(a, y)
        decided = apply("cast", apply("greater", value, constant(p.threshold, "float64")), dtype="float64")
        wanted = apply("cast", apply("greater", target, constant(0.5, "float64")), dtype="float64")
        right = apply("equal", decided, wanted)
        per_sample = _elements(a)
    return Sums({"sum": total(apply("cast", right, dtype="float64")), "count": _count(a, per_sample)}, _ratio)


class TopKParams(Params):
    k: int = Field(ge=1, description="how many of the largest outputs may hold the class")


@operation(Kind.METRIC, TopKParams, operands=2, fits=is_index, better="higher")
def top_k(a: Value, y: Column, p: TopKParams) -> Sums:
    """The share of samples whose class is among the k largest outputs: fewer than k outputs exceed it."""
    if p.k > a.shape[-1]:  # type: ignore[operator]
        raise Refusal("E207", at="k", label=f"the prediction has {a.shape[-1]} outputs", help=f"use k <= {a.shape[-1]}", argument="k",
                      value=str(p.k), bound=f"at most {a.shape[-1]}")  # fmt: skip
    index = _index(a, y)
    own = apply("reshape", apply("pick", a, index), shape=(*index.shape, 1))
    above = total(apply("cast", apply("greater", a, own), dtype="float64"), -1)
    found = apply("cast", apply("less", above, constant(float(p.k), "float64")), dtype="float64")
    return Sums({"sum": total(found), "count": _count(a, _elements(a) // a.shape[-1])}, _ratio)  # type: ignore[operator]


@operation(Kind.METRIC, operands=2, fits=_numeric, better="lower", facts={"units"})
def mae(a: Value, y: Column, p: NoParams) -> Sums:
    """mean |a - y|, in the column's units."""
    value, target = _both(a, y)
    return Sums({"sum": total(apply("absolute", value - target)), "count": _count(a, _elements(a))}, _ratio)


def _squares(a: Value, y: Column) -> dict[str, Value]:
    value, target = _both(a, y)
    d = value - target
    return {"sum": total(d * d), "count": _count(a, _elements(a))}


@operation(Kind.METRIC, operands=2, fits=_numeric, better="lower", facts={"units"})
def mse(a: Value, y: Column, p: NoParams) -> Sums:
    """mean (a - y)^2, in the column's units squared."""
    return Sums(_squares(a, y), _ratio)


@operation(Kind.METRIC, operands=2, fits=_numeric, better="lower", facts={"units"})
def rmse(a: Value, y: Column, p: NoParams) -> Sums:
    """sqrt(mean (a - y)^2), in the column's units."""
    return Sums(_squares(a, y), lambda totals: sqrt(_ratio(totals)))


_ROUNDING = 1e-12  # what remains of a sum of squares, relative to it, when all that was not rounding is subtracted


def _r2(totals: Totals) -> float:
    errors, squares, targets = (totals[term].ravel() for term in ("errors", "squares", "targets"))
    scores = []
    for error, square, target in zip(errors, squares, targets, strict=True):
        spread = square - target**2 / totals["count"]
        scores.append(1 - error / spread if spread > _ROUNDING * square else float(error == 0))
    return float(sum(scores) / len(scores))


@operation(Kind.METRIC, operands=2, fits=_numeric, better="higher", facts={"units"})
def r2(a: Value, y: Column, p: NoParams) -> Sums:
    """1 - sum (a - y)^2 / sum (y - mean y)^2, averaged over outputs; a constant target gives 0 unless it is met."""
    value, target = _both(a, y)
    if value.type.rank == 1:
        value, target = (apply("reshape", v, shape=(v.shape[0], 1)) for v in (value, target))
    d = value - target
    return Sums({"errors": total(d * d, 0), "squares": total(target * target, 0), "targets": total(target, 0), "count": _count(a, 1)}, _r2)
