"""Losses in the forms that do not overflow, before gradients are taken.

ln softmax(z) becomes log_softmax(z), ln sigmoid(z) becomes -softplus(-z), ln(1 - sigmoid(z)) becomes -softplus(z), and the
whole binary cross-entropy y ln a + (1 - y) ln(1 - a), a = sigmoid(z), becomes y z - softplus(z), whose gradient is y - a. A floor that keeps the
logarithm finite, ln max(softmax(z), tiny), goes with it.
"""

from __future__ import annotations

from ..ir import Value, apply, constant_of, rewrite

TINY = 1e-30  # no floor that means something is lower


def stabilise(roots: list[Value]) -> list[Value]:
    return rewrite(rewrite(roots, _binary_cross_entropy), _logarithm)


def _logarithm(value: Value) -> Value:
    if value.op != "log":
        return value
    (a,) = value.operands
    if a.op == "maximum" and a.operands[0].op in ("softmax", "sigmoid") and 0 < (constant_of(a.operands[1]) or 0) <= TINY:
        a = a.operands[0]  # what the floor is for does not happen
    if a.op == "softmax":
        return apply("log_softmax", a.operands[0], axis=a.attributes["axis"])
    if a.op == "sigmoid":
        return -apply("softplus", -a.operands[0])
    z = _complement(a)
    return value if z is None else -apply("softplus", z)


def _complement(a: Value) -> Value | None:
    """z, where a = 1 - sigmoid(z)."""
    if a.op == "subtract" and constant_of(a.operands[0]) == 1 and a.operands[1].op == "sigmoid":
        return a.operands[1].operands[0]
    return None


def _binary_cross_entropy(value: Value) -> Value:
    if value.op != "add" or any(o.op != "multiply" for o in value.operands):
        return value
    (y, log_a), (rest, log_b) = value.operands[0].operands, value.operands[1].operands
    if log_a.op != "log" or log_b.op != "log" or log_a.operands[0].op != "sigmoid":
        return value
    z = log_a.operands[0].operands[0]
    whole = rest.op == "subtract" and constant_of(rest.operands[0]) == 1 and rest.operands[1] is y
    if whole and _complement(log_b.operands[0]) is z:
        return y * z - apply("softplus", z)
    return value
