"""A pool of maxima stands before what keeps the order of numbers: max(f(a), f(b)) = f(max(a, b)), to the last bit, where f never falls.

A bias and a rectifier after a convolution, which a pool follows, then go through the pooled image, not the whole one, forward and backward. The
gradient finds the maximum where it was, but where adding a bias would have rounded two numbers to one: then the larger of the two has it all.
"""

from __future__ import annotations

from collections import Counter

from ..ir import Value, rebuild, rewired, topological

_RISING = frozenset(("add", "maximum", "minimum"))


def pool_first(roots: list[Value]) -> list[Value]:
    values = topological(roots)
    users = Counter(operand for value in values for operand in value.operands)
    users.update(roots)
    new: dict[Value, Value] = {}
    for value in values:
        new[value] = _moved(value, users, new) if value.op == "max_pool" else rewired(value, new)
    return [new[r] for r in roots]


def _moved(pool: Value, users: Counter[Value], new: dict[Value, Value]) -> Value:
    """The pool of what the steps before it started from, and then those steps, as long as nothing else wants what they give."""
    steps: list[tuple[Value, int]] = []
    x = pool.operands[0]
    while users[x] == 1 and (index := _image(x)) is not None:
        steps.append((x, index))
        x = x.operands[index]
    result = rebuild(pool, (new[x],)) if steps else rewired(pool, new)
    for step, index in reversed(steps):
        other = new[step.operands[1 - index]]
        result = rebuild(step, (other, result) if index else (result, other))
    return result


def _image(value: Value) -> int | None:
    """Which operand of a step that keeps order the image is, where the other is the same for all of a channel."""
    if value.op not in _RISING:
        return None
    for index, (x, other) in enumerate((value.operands, value.operands[::-1])):
        if x.shape == value.shape and (other.shape == () or other.shape[-2:] == (1, 1)):
            return index
    return None
