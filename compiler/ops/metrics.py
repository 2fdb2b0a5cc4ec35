"""Metrics: sums over samples as graph terms, in float64, and how the totals make the figure.

A metric fits a pair of prediction and target, or it does not; `fits` says so.
"""

from collections.abc import Callable
from math import exp, prod, sqrt
from typing import Any, Literal

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Batch, Value, apply, constant
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


@operation(Kind.METRIC, AccuracyParams, operands=2, fits=_classes, better="higher", most=1.0, facts={"majority"})
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


@operation(Kind.METRIC, TopKParams, operands=2, fits=is_index, better="higher", most=1.0)
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


@operation(Kind.METRIC, operands=2, fits=_numeric, better="higher", most=1.0, facts={"units"})
def r2(a: Value, y: Column, p: NoParams) -> Sums:
    """1 - sum (a - y)^2 / sum (y - mean y)^2, averaged over outputs; a constant target gives 0 unless it is met."""
    value, target = _both(a, y)
    if value.type.rank == 1:
        value, target = (apply("reshape", v, shape=(v.shape[0], 1)) for v in (value, target))
    d = value - target
    return Sums({"errors": total(d * d, 0), "squares": total(target * target, 0), "targets": total(target, 0), "count": _count(a, 1)}, _r2)


# Decisions against targets, counted


def _decided(a: Value, y: Column, threshold: float) -> tuple[Value, Value, int]:
    """Decisions and targets as class indices [n], and the number of classes: argmax, or a threshold for a single output."""
    count = prod(d for d in a.shape[1:-1] if isinstance(d, int)) if a.type.rank > 1 else 1
    if is_index(a, y) or (a.type.rank > 1 and a.shape[-1] != 1):
        axis = a.type.rank - 1
        k = a.shape[-1]
        assert isinstance(k, int)
        decided = apply("argmax", a, axis=axis)
        wanted = _index(a, y) if is_index(a, y) else apply("argmax", _both(a, y)[1], axis=axis)
    else:
        k, count = 2, _elements(a)
        value, target = _both(a, y)
        decided = apply("cast", apply("greater", value, constant(threshold, "float64")), dtype="int64")
        wanted = apply("cast", apply("greater", target, constant(0.5, "float64")), dtype="int64")
    flat = (Batch(count),)
    return apply("reshape", decided, shape=flat), apply("reshape", wanted, shape=flat), k


def _confusion(a: Value, y: Column, threshold: float) -> Value:
    """[k, k]: rows are targets, columns decisions."""
    decided, wanted, k = _decided(a, y, threshold)
    hot = [apply("one_hot", v, depth=k, dtype="float64") for v in (wanted, decided)]
    return apply("matmul", *hot, transpose_a=True, transpose_b=False)


def _decidable(a: Value, y: Column) -> bool:
    return is_index(a, y) or (_numeric(a, y) and (a.type.rank == 2 or a.shape[-1] == 1))


class CountedParams(Params):
    average: Literal["binary", "macro", "micro", "none"] | None = Field(
        None, description="binary: the class of index 1; macro: the mean over classes; micro: over all decisions; none: a figure each"
    )
    threshold: float = Field(0.5, description="what a single output must exceed to mean 1")


def _counted(a: Value, y: Column, p: CountedParams, score: Callable[[Any, Any, Any], Any]) -> Sums:
    """A score of true positives, decided positives and wanted positives, by class and averaged; 0 where its denominator is 0."""

    def finish(totals: Totals) -> Any:
        matrix = totals["confusion"]
        hits, decided, wanted = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
        average = p.average or ("binary" if len(matrix) == 2 else "macro")
        if average == "micro":
            return float(score(hits.sum(), decided.sum(), wanted.sum()))
        each = [float(score(*counts)) for counts in zip(hits, decided, wanted, strict=True)]
        if average == "binary":
            return each[1]
        return each if average == "none" else sum(each) / len(each)

    return Sums({"confusion": _confusion(a, y, p.threshold)}, finish)


@operation(Kind.METRIC, CountedParams, operands=2, fits=_decidable, better="higher", most=1.0)
def precision(a: Value, y: Column, p: CountedParams) -> Sums:
    """True positives / all decided positive; macro over classes for more than two."""
    return _counted(a, y, p, lambda hits, decided, wanted: hits / decided if decided else 0.0)


@operation(Kind.METRIC, CountedParams, operands=2, fits=_decidable, better="higher", most=1.0)
def recall(a: Value, y: Column, p: CountedParams) -> Sums:
    """True positives / all that are positive; macro over classes for more than two."""
    return _counted(a, y, p, lambda hits, decided, wanted: hits / wanted if wanted else 0.0)


@operation(Kind.METRIC, CountedParams, operands=2, fits=_decidable, better="higher", most=1.0)
def f1(a: Value, y: Column, p: CountedParams) -> Sums:
    """2 precision recall / (precision + recall); macro over classes for more than two."""
    return _counted(a, y, p, lambda hits, decided, wanted: 2 * hits / (decided + wanted) if decided + wanted else 0.0)


class ThresholdParams(Params):
    threshold: float = Field(0.5, description="what a single output must exceed to mean 1")


@operation(Kind.METRIC, ThresholdParams, operands=2, fits=_decidable, better="higher", most=1.0)
def confusion_matrix(a: Value, y: Column, p: ThresholdParams) -> Sums:
    """How often each class (row) was decided to be each class (column)."""
    return Sums({"confusion": _confusion(a, y, p.threshold)}, lambda totals: [[int(c) for c in row] for row in totals["confusion"].tolist()])


def _auc(scores: Any, positive: Any) -> float:
    """The share of (positive, negative) pairs in the right order, ties counting half: the area under the curve of both counts."""
    order = scores.argsort()
    ordered, hits = scores[order], positive[order].cumsum()
    ends = [*(ordered[1:] != ordered[:-1]).nonzero()[0].tolist(), len(ordered) - 1]  # of runs of equal scores
    above = hits[ends]
    below = [end + 1 for end in ends] - above
    area = above[0] * below[0] / 2 + ((above[1:] - above[:-1]) * (below[1:] + below[:-1])).sum() / 2
    return float(area / (above[-1] * below[-1])) if above[-1] * below[-1] else float("nan")


@operation(Kind.METRIC, operands=2, fits=_decidable, better="higher", most=1.0)
def auc(a: Value, y: Column, p: NoParams) -> Sums:
    """The area under the ROC curve; for several classes the mean over classes of each against the rest.

    Differs: as scikit-learn's; Keras's AUC is a sum over 200 thresholds.
    """
    if is_index(a, y):
        k = a.shape[-1]
        target = apply("one_hot", _index(a, y), depth=k, dtype="float64")
        value = apply("cast", a, dtype="float64")
    else:
        value, target = _both(a, y)
        k = a.shape[-1] if a.type.rank > 1 else 1
    assert isinstance(k, int)
    flat = (Batch(_elements(a) // k), k)

    def finish(totals: Totals) -> float:
        scores, positive = totals["scores"], totals["targets"] > 0.5
        columns = [1] if k == 2 else range(k)
        found = [_auc(scores[:, c], positive[:, c]) for c in columns]
        known = [f for f in found if f == f]
        return sum(known) / len(known) if known else float("nan")

    return Sums({"scores": apply("reshape", value, shape=flat), "targets": apply("reshape", target, shape=flat)}, finish)


# Likelihoods


def _log_likelihood(a: Value, y: Column) -> tuple[Value, int]:
    """The sum over a batch of ln a at the target, and how many positions a sample has."""
    tiny = constant(1e-38 if a.dtype == "float32" else 1e-300, a.dtype)
    if is_index(a, y):
        picked = apply("pick", a, _index(a, y))
        logs = apply("log", apply("cast", apply("maximum", picked, tiny), dtype="float64"))
        return total(logs), _elements(a) // a.shape[-1]  # type: ignore[operator]
    value, target = _both(a, y)
    if a.type.rank > 1 and a.shape[-1] != 1:
        logs = target * apply("log", apply("maximum", value, constant(1e-38, "float64")))
        return total(logs), _elements(a) // a.shape[-1]  # type: ignore[operator]
    floor = constant(1e-38, "float64")
    yes, no = (apply("log", apply("maximum", v, floor)) for v in (value, 1.0 - value))
    return total(target * yes + (1.0 - target) * no), _elements(a)


@operation(Kind.METRIC, operands=2, fits=_classes, better="lower")
def log_loss(a: Value, y: Column, p: NoParams) -> Sums:
    """mean -ln a at the target, per position."""
    logs, positions = _log_likelihood(a, y)
    return Sums({"sum": logs, "count": _count(a, positions)}, lambda totals: -_ratio(totals))


@operation(Kind.METRIC, operands=2, fits=is_index, better="lower")
def perplexity(a: Value, y: Column, p: NoParams) -> Sums:
    """e^(mean -ln a at the target, per position)."""
    logs, positions = _log_likelihood(a, y)
    return Sums({"sum": logs, "count": _count(a, positions)}, lambda totals: exp(-_ratio(totals)))
