"""Losses per sample; the loss of a batch is their mean. `a` is the prediction, `y` the target.

Prediction and target must have equal shapes after axes of length 1 are dropped; nothing broadcasts. cross_entropy works on
the last axis, which an index target lacks, and averages over other axes; the others sum or average over a sample.
"""

from __future__ import annotations

from math import prod

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Shape, Value, apply, constant, dims
from ..operation import Build, Column, Kind, NoParams, Params, operation
from ..primitives import total


def squeezed(shape: Shape) -> Shape:
    """The axes of a sample without those of length 1."""
    return tuple(d for d in shape[1:] if d != 1)


def is_index(a: Value, y: Column) -> bool:
    """Whether the target holds the class's index on the prediction's last axis."""
    return (
        y.value.dtype == "int64"
        and a.type.rank >= 2
        and a.shape[-1] != 1
        and squeezed(y.value.shape) == tuple(d for d in a.shape[1:-1] if d != 1)
    )


def same_shape(a: Value, y: Column) -> bool:
    return squeezed(a.shape) == squeezed(y.value.shape)


def aligned(a: Value, y: Column, loss: str) -> Value:
    """The target in the prediction's dtype and shape."""
    if not same_shape(a, y) or y.value.dtype == "string":
        raise mismatch(a, y, loss)
    value = y.value if y.value.dtype == a.dtype else apply("cast", y.value, dtype=a.dtype)
    return value if value.shape == a.shape else apply("reshape", value, shape=a.shape)


def mismatch(a: Value, y: Column, loss: str) -> Refusal:
    has, got = dims(a.shape[1:]), f"{y.value.dtype}{dims(y.value.shape[1:])}"
    help = "end the network with dense(units) of the target's size"
    if y.classes is not None and loss == "cross_entropy" and a.type.rank < 3:
        help = f"end the network with dense({len(y.classes)}) -> softmax"
    elif y.value.dtype == "int64" and loss != "cross_entropy":
        help = "use cross_entropy for classes, or one_hot the target"
    elif y.value.dtype == "string":
        help = "turn the text into classes with `-> category`"
    return Refusal("E502", label=f"the prediction is {has}, the target {got}", help=help, loss=loss)


def _class_index(a: Value, y: Column) -> Value:
    """An index target with the prediction's leading axes; more classes than outputs are refused."""
    outputs = a.shape[-1]
    if y.classes is not None and len(y.classes) > outputs:  # type: ignore[operator]
        raise Refusal("E503", label=f"{outputs} outputs for {len(y.classes)} classes",
                      help=f"end the network with dense({len(y.classes)}) -> softmax", classes=len(y.classes),
                      outputs=outputs)  # fmt: skip
    return y.value if y.value.shape == a.shape[:-1] else apply("reshape", y.value, shape=a.shape[:-1])


def _sum(x: Value) -> Value:
    """Sum over all axes of a sample."""
    return x if x.type.rank == 1 else total(x, *range(1, x.type.rank))


def _mean(x: Value) -> Value:
    """Mean over all axes of a sample."""
    count = prod(d for d in x.shape[1:] if isinstance(d, int))
    return _sum(x) if count == 1 else _sum(x) * (1 / count)


@operation(Kind.LOSS, operands=2, facts={"numeric"})
def quadratic(build: Build, a: Value, y: Column, p: NoParams) -> Value:
    """1/2 ||a - y||^2."""
    d = a - aligned(a, y, "quadratic")
    return _sum(d * d) * 0.5


@operation(Kind.LOSS, operands=2, facts={"numeric"})
def mse(build: Build, a: Value, y: Column, p: NoParams) -> Value:
    """mean (a - y)^2."""
    d = a - aligned(a, y, "mse")
    return _mean(d * d)


@operation(Kind.LOSS, operands=2, facts={"numeric"})
def mae(build: Build, a: Value, y: Column, p: NoParams) -> Value:
    """mean |a - y|; its slope at a = y is 0."""
    return _mean(apply("absolute", a - aligned(a, y, "mae")))


class HuberParams(Params):
    delta: float = Field(1.0, gt=0, description="where the square turns into a line")


@operation(Kind.LOSS, HuberParams, operands=2, facts={"numeric"})
def huber(build: Build, a: Value, y: Column, p: HuberParams) -> Value:
    """sum of 1/2 d^2 where |d| <= delta, else delta (|d| - delta/2), d = a - y. Source: Huber 1964."""
    d = a - aligned(a, y, "huber")
    size = apply("absolute", d)
    inside = apply("less_equal", size, constant(p.delta, a.dtype))
    return _sum(apply("where", inside, d * d * 0.5, (size - p.delta / 2) * p.delta))


class CrossEntropyParams(Params):
    smoothing: float = Field(0.0, ge=0, lt=1, description="s: the target becomes (1 - s) y + s / classes")


@operation(Kind.LOSS, CrossEntropyParams, operands=2, facts={"classes"})
def cross_entropy(build: Build, a: Value, y: Column, p: CrossEntropyParams) -> Value:
    """-sum y ln a on the last axis, averaged over other axes; for a class index y, -ln a_y.

    After softmax the pair becomes the stable log_softmax form.
    """
    log_a = apply("log", a)
    if is_index(a, y):
        picked = apply("pick", log_a, _class_index(a, y))
        if p.smoothing:
            uniform = total(log_a, -1) * (p.smoothing / a.shape[-1])  # type: ignore[operator]
            picked = picked * (1 - p.smoothing) + uniform
        return _mean(-picked)
    if a.type.rank < 2 or y.value.dtype == "int64":
        raise mismatch(a, y, "cross_entropy")
    target = aligned(a, y, "cross_entropy")
    if p.smoothing:
        target = target * (1 - p.smoothing) + p.smoothing / a.shape[-1]  # type: ignore[operator]
    return _mean(-total(target * log_a, -1))


@operation(Kind.LOSS, operands=2, facts={"binary"})
def binary_cross_entropy(build: Build, a: Value, y: Column, p: NoParams) -> Value:
    """-sum [y ln a + (1 - y) ln(1 - a)] over outputs. After sigmoid the pair becomes ln(1 + e^z) - y z."""
    target = aligned(a, y, "binary_cross_entropy")
    if y.value.dtype == "int64" and y.classes is not None and len(y.classes) > 2:
        raise Refusal("E503", label=f"{len(y.classes)} classes on one output", help=f"use dense({len(y.classes)}) -> softmax and cross_entropy",
                      classes=len(y.classes), outputs=1)  # fmt: skip
    return -_sum(target * apply("log", a) + (1.0 - target) * apply("log", 1.0 - a))
