"""Constant folding and identities.

Arithmetic on constants is done in float64, once, here. A rule may drop an operand only if the type of the result stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..ir import Value, apply, constant, constant_of, rebuild, rewrite

_FOLD: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "maximum": max,
    "minimum": min,
    "negative": lambda a: -a,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
}


def simplify(roots: list[Value], *, inference: bool = False) -> list[Value]:
    return rewrite(roots, lambda value: _simplest(value, inference))


def _simplest(value: Value, inference: bool) -> Value:
    folded = _folded(value)
    if folded is not None:
        return folded
    if value.primitive.elementwise:
        value = _unspread(value)
    rule = _RULES.get(value.op)
    replacement = rule(value) if rule else None
    if replacement is None and inference and value.op == "surrogate":
        replacement = value.operands[0]
    return replacement if replacement is not None and replacement.type == value.type else value


def _folded(value: Value) -> Value | None:
    if value.op not in _FOLD:
        return None
    numbers = [constant_of(o) for o in value.operands]
    if any(n is None for n in numbers):
        return None
    try:
        result = _FOLD[value.op](*numbers)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return constant(result, value.dtype) if math.isfinite(result) else None


def _unspread(value: Value) -> Value:
    """An elementwise step broadcasts by itself: a repeated operand need not be repeated before it."""
    operands = []
    for operand in value.operands:
        source = operand
        while source.op in ("broadcast_to", "reshape"):
            inner = source.operands[0]
            if source.op == "reshape" and inner.shape != ():
                break
            source = inner
        operands.append(source)
    slim = rebuild(value, tuple(operands)) if tuple(operands) != value.operands else value
    if slim.type == value.type:
        return slim
    for index, operand in enumerate(value.operands):  # keep one operand spread where the shape needs it
        kept = rebuild(value, tuple(operand if i == index else o for i, o in enumerate(operands)))
        if kept.type == value.type:
            return kept
    return value


def _add(value: Value) -> Value | None:
    a, b = value.operands
    if constant_of(b) == 0:
        return a
    if constant_of(a) == 0:
        return b
    if b.op == "negative":
        return apply("subtract", a, b.operands[0])
    return None


def _subtract(value: Value) -> Value | None:
    a, b = value.operands
    if constant_of(b) == 0:
        return a
    if b.op == "negative":
        return apply("add", a, b.operands[0])
    return None


def _multiply(value: Value) -> Value | None:
    a, b = value.operands
    if constant_of(a) is not None:
        a, b = b, a  # constants stand right
    y = constant_of(b)
    if y == 1:
        return a
    if y == -1:
        return apply("negative", a)
    if y is not None and a.op == "multiply":
        inner = constant_of(a.operands[1])
        if inner is not None:
            return apply("multiply", a.operands[0], constant(inner * y, value.dtype))
    return apply("multiply", a, b) if a is not value.operands[0] else None


def _divide(value: Value) -> Value | None:
    return value.operands[0] if constant_of(value.operands[1]) == 1 else None


def _negative(value: Value) -> Value | None:
    (x,) = value.operands
    if x.op == "negative":
        return x.operands[0]
    if x.op == "subtract":
        return apply("subtract", x.operands[1], x.operands[0])
    return None


def _reshape(value: Value) -> Value | None:
    (x,) = value.operands
    source = x.operands[0] if x.op == "reshape" else x
    if source.shape == value.shape:
        return source
    return apply("reshape", source, shape=value.shape) if source is not x else None


def _slice(value: Value) -> Value | None:
    """What was padded, where a slice takes just that."""
    (x,) = value.operands
    if x.op != "pad" or x.attributes["axis"] != value.attributes["axis"] or x.attributes["before"] != value.attributes["start"]:
        return None
    return x.operands[0]  # taken only where the type is the same


def _identity(value: Value) -> Value | None:
    return value.operands[0]  # taken only where the type is the same


def _transpose(value: Value) -> Value | None:
    (x,) = value.operands
    source, order = x, value.attributes["order"]
    if x.op == "transpose":
        source, order = x.operands[0], tuple(x.attributes["order"][i] for i in order)
    if order == tuple(range(len(order))):
        return source
    return apply("transpose", source, order=order) if source is not x else None


_RULES: dict[str, Callable[[Value], Value | None]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "negative": _negative,
    "reshape": _reshape,
    "broadcast_to": _identity,
    "cast": _identity,
    "transpose": _transpose,
    "slice": _slice,
}
