"""Convolutions whose rounding errors may be larger than they have to be: what computes them may then take a faster form."""

from __future__ import annotations

from ..ir import Value, rewrite
from ..workspace import CONVOLUTIONS


def tolerant(roots: list[Value], error: float) -> list[Value]:
    """Every convolution, and every gradient of one, with an attribute `error`: what rounding may leave, of the largest value of the result."""

    def marked(value: Value) -> Value:
        if value.op not in CONVOLUTIONS:
            return value
        return Value(value.primitive, value.operands, {**value.attributes, "error": error}, value.type, value.origin)

    return rewrite(roots, marked)
