"""Sums of terms whose own sums are known: a sum of b x, where b does not change along the axes, is b times the sum of x.

A sum is rewritten only where nothing is left to add up but what is added up anyway, or what is 0: the sum of what had its mean subtracted.
So the gradient of a batch normalisation goes through its image once less.
"""

from __future__ import annotations

from math import prod

from ..ir import Value, apply, constant, constant_of, rewired, topological

Axes = tuple[int, ...]
_DEEPEST = 8


def share_sums(roots: list[Value]) -> list[Value]:
    values = topological(roots)
    summed = {(v.operands[0], v.attributes["axes"]) for v in values if _is_sum(v)}
    new: dict[Value, Value] = {}
    for value in values:
        found = _rewritten(value, summed, new) if _is_sum(value) else None
        new[value] = found or rewired(value, new)
    return [new[r] for r in roots]


def _is_sum(value: Value) -> bool:
    return value.op == "reduce_sum" and not value.attributes["keepdims"] and len(value.attributes["axes"]) < value.operands[0].type.rank


def _rewritten(value: Value, summed: set[tuple[Value, Axes]], new: dict[Value, Value]) -> Value | None:
    x, axes = value.operands[0], value.attributes["axes"]
    summed.remove((x, axes))  # not by itself
    found = _sum(x, axes, summed, new)
    summed.add((x, axes))
    if found is not None and _is_zero(found):
        return apply("broadcast_to", found, shape=value.shape)
    return found if found is not None and found.type == value.type else None


def _is_zero(value: Value) -> bool:
    return constant_of(value) == 0


def _sum(x: Value, axes: Axes, summed: set[tuple[Value, Axes]], new: dict[Value, Value], depth: int = 0) -> Value | None:
    """The sum of x by sums that there are, the constant 0 where it is that, None where it takes another."""
    if (x, axes) in summed:
        return apply("reduce_sum", new[x], axes=axes, keepdims=False)
    if depth == _DEEPEST:
        return None
    if x.op == "subtract" and _is_mean(x.operands[1], x.operands[0], axes):
        return constant(0.0, x.dtype)
    parts: list[Value] = []
    match x.op:
        case "negative":
            found = _sum(x.operands[0], axes, summed, new, depth + 1)
            return found if found is None or _is_zero(found) else -found
        case "add" | "subtract":
            for operand in x.operands:
                part = _sum(operand, axes, summed, new, depth + 1) if operand.shape == x.shape else None
                if part is None:
                    return None
                parts.append(part)
            a, b = parts
            return a if _is_zero(b) else (b if x.op == "add" else -b) if _is_zero(a) else apply(x.op, a, b)
        case "multiply":
            for one, other in (x.operands, x.operands[::-1]):
                factor = _along(new[other], x, axes)
                if factor is not None and one.shape == x.shape:
                    found = _sum(one, axes, summed, new, depth + 1)
                    return found if found is None or _is_zero(found) else found * factor
    return None


def _along(b: Value, x: Value, axes: Axes) -> Value | None:
    """A factor that does not change along the axes, in the shape of the sum."""
    missing = x.type.rank - b.type.rank
    if any(axis >= missing and b.shape[axis - missing] != 1 for axis in axes):
        return None
    kept = tuple(d for i, d in enumerate(b.shape) if i + missing not in axes)
    return b if kept == b.shape else apply("reshape", b, shape=kept)


def _is_mean(m: Value, y: Value, axes: Axes) -> bool:
    while m.op in ("reshape", "broadcast_to"):
        m = m.operands[0]
    if m.op != "divide":
        return False
    total, count = m.operands
    return total.op == "reduce_sum" and total.operands[0] is y and total.attributes["axes"] == axes and _counts(count, y, axes)


def _counts(count: Value, y: Value, axes: Axes) -> bool:
    """Whether a value is the number of elements along the axes."""
    factors = list(count.operands) if count.op == "multiply" else [count]
    sizes = [f.attributes["axis"] for f in factors if f.op == "axis_size" and f.operands[0] is y]
    numbers = [constant_of(f) for f in factors if f.op != "axis_size"]
    if None in numbers or len(sizes) + len(numbers) != len(factors) or not set(sizes) <= set(axes):
        return False
    lengths = [y.shape[axis] for axis in axes if axis not in sizes]
    return all(isinstance(d, int) for d in lengths) and prod(n for n in numbers if n is not None) == prod(d for d in lengths if isinstance(d, int))
