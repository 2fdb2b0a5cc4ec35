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
    parts: dict[Value, list[Value]] = {output: [constant(1.0, output.dtype)]}
    found: dict[Value, Value] = {}
    wanted = set(variables)
    for value in reversed(order):
        if value not in parts or value not in depends:
            continue
        with origin(value.origin):
            g = _sum(parts.pop(value))  # complete: every use of the value stands later in the order
            if value in wanted:
                found[value] = g
            if not value.operands:
                continue
            rule = value.primitive.gradient
            assert rule is not None, f"{value.op} has no gradient"
            for operand, part in zip(value.operands, rule(g, value, *value.operands), strict=True):
                if part is not None and operand in depends:
                    parts.setdefault(operand, []).append(_sum_to(part, operand))
    return [found.get(v) for v in variables]


def _sum(parts: list[Value]) -> Value:
    """The sum of cotangents; pieces of one axis are put beside each other."""
    parts = _pieces(parts)
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


def _pieces(parts: list[Value]) -> list[Value]:
    """Cotangents of slices, each padded with zeros to the whole, as one concatenation where they do not overlap."""
    padded = [p for p in parts if p.op == "pad"]
    axes = {p.attributes["axis"] for p in padded}
    if len(padded) < 2 or len(axes) > 1:
        return parts
    axis = axes.pop()
    whole = padded[0].shape
    end, joined = 0, []
    for p in sorted(padded, key=lambda p: p.attributes["before"]):
        start, piece = p.attributes["before"], p.operands[0]
        if start < end:
            return parts
        if start > end:
            joined.append(_zeros(piece, axis, start - end))
        joined.append(piece)
        end = start + piece.shape[axis]
    rest = whole[axis] - end
    if rest:
        joined.append(_zeros(joined[0], axis, rest))
    return [p for p in parts if p.op != "pad"] + [apply("concat", *joined, axis=axis)]


def _zeros(like: Value, axis: int, length: int) -> Value:
    return apply("broadcast_to", constant(0.0, like.dtype), shape=(*like.shape[:axis], length, *like.shape[axis + 1 :]))


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
