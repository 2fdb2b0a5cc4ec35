"""How values lie in memory: images with their channels last, everything else in the order of its axes.

The graph speaks of images as [sample, channel, height, width]; nothing in it says how they are stored. Convolution and pooling want the
channels of a place beside each other, so what they make is stored as [sample, height, width, channel], and what is made of that element by
element lies alike. A view then costs nothing where it only names the axes anew, and a reshape is a copy only where it must be.
"""

from __future__ import annotations

from collections.abc import Sequence

from .ir import Shape, Value

Order = tuple[int, ...]  # the axes from the outermost in memory to the innermost
CHANNELS_LAST: Order = (0, 2, 3, 1)
IMAGES = frozenset(
    ("conv2d", "conv2d_input_gradient", "max_pool", "max_pool_gradient", "max_pool_gather", "avg_pool", "avg_pool_gradient"),
)
_FOLLOWERS = frozenset(("bernoulli", "normal", "concat", "pad"))  # beside the elementwise: they lie as their operands do


def in_order(order: Order | None, shape: Shape) -> bool:
    """Whether elements lie in the order of the axes. An axis of length 1 lies anywhere."""
    if order is None:
        return False
    moving = [axis for axis in order if shape[axis] != 1]
    return moving == sorted(moving)


def memory_orders(values: Sequence[Value]) -> tuple[dict[Value, Order | None], set[Value]]:
    """The order of each value, None where its elements do not fill their memory, and the views that are no copy."""
    orders: dict[Value, Order | None] = {}
    aliases: set[Value] = set()
    for value in values:
        if value.primitive.view:
            source = value.operands[0]
            if value.op != "reshape" or in_order(orders[source], source.shape):
                aliases.add(value)
                orders[value] = _of_view(value, orders[source])
                continue
        orders[value] = CHANNELS_LAST if _is_image(value, orders) else tuple(range(value.type.rank))
    return orders, aliases


def _is_image(value: Value, orders: dict[Value, Order | None]) -> bool:
    if value.op in IMAGES:
        return True
    if value.type.rank != 4 or not (value.primitive.elementwise or value.op in _FOLLOWERS):
        return False
    return any(orders[o] == CHANNELS_LAST and (o.shape == value.shape or value.op in _FOLLOWERS) for o in value.operands)


def _is_outermost(axis: int, order: Order, shape: Shape) -> bool:
    return next(a for a in order if shape[a] != 1 or a == axis) == axis


def _of_view(value: Value, order: Order | None) -> Order | None:
    source = value.operands[0]
    match value.op:
        case "transpose" if order is not None:
            axes: tuple[int, ...] = value.attributes["order"]
            return tuple(axes.index(axis) for axis in order)
        case "reshape" | "part":
            return tuple(range(value.type.rank))
        case "surrogate":
            return order
        case "slice" if order is not None and _is_outermost(value.attributes["axis"], order, source.shape):
            return order
        case _:
            return order if value.shape == source.shape else None
