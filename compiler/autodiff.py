"""Reverse-mode differentiation: a walk over the graph that emits primitives, so that its result is a graph again."""

from __future__ import annotations

from collections.abc import Sequence

from .ir import Value, apply, constant, origin, topological
from .primitives import total


def gradients(output: Value, variables: Sequence[Value]) -> list[Value | None]:
    """d output / d variable for a scalar output; None where the output does not depend on the variable.

    Only values between a variable and the output are visited. The cotangent of a value is the sum over its uses of
    the gradient rule of the user; it is reduced to the operand's shape where the user broadcast.
    """
    assert output.shape == (), output.type
    order = topological([output])
    depends = set(variables)
    for value in order:
        if any(o in depends for o in value.operands):
            depends.add(value)
    cotangents: dict[Value, Value] = {output: constant(1.0, output.dtype)}
    wanted = set(variables)
    for value in reversed(order):
        g = cotangents.get(value)
        if g is None or value not in depends or not value.operands:
            continue
        rule = value.primitive.gradient
        assert rule is not None, f"{value.op} has no gradient"
        with origin(value.origin):
            if value not in wanted:
                del cotangents[value]  # complete: every use of the value stands later in the order
            for operand, part in zip(value.operands, rule(g, value, *value.operands), strict=True):
                if part is None or operand not in depends:
                    continue
                part = _sum_to(part, operand)
                known = cotangents.get(operand)
                cotangents[operand] = part if known is None else known + part
    return [cotangents.get(v) for v in variables]


def _sum_to(g: Value, operand: Value) -> Value:
    """Sum a cotangent over the axes along which the operand was broadcast; repeat it where it is too small."""
    if g.shape == operand.shape:
        return g
    extra = g.type.rank - operand.type.rank
    if extra < 0 or g.shape == ():
        return apply("broadcast_to", g, shape=operand.shape)
    stretched = tuple(
        i for i, d in enumerate(g.shape) if i < extra or (operand.shape[i - extra] == 1 and d != 1)
    )
    g = total(g, *stretched) if stretched else g
    if g.shape != operand.shape and g.type.rank < operand.type.rank:
        g = apply("reshape", g, shape=tuple(1 if operand.shape[i] == 1 else d for i, d in enumerate(operand.shape)))
    return g if g.shape == operand.shape else apply("broadcast_to", g, shape=operand.shape)
