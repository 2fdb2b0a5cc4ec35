"""Work space of the kernels: for each primitive that wants some, the types of its arrays at batch size n.

Convolutions and pools divide the batch into lanes, which threads share, and go through each in tiles whose work space stays in a core's
caches, so that it does not grow with the batch. It does not depend on the machine. In NumPy's engine the first axis of what each lane has for itself
is the lane's number, and a kernel reads the size of its tile from the arrays that it is given; an array without elements stands where it needs none
after all (no padding, say).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from .ir import TensorType, Value, concrete

# NumPy's engine. Lanes are few, so that its calls are long: threads of Python wait for each other between them.
NUMPY_LANES = 4
TILE = 2**18  # elements of a tile's largest array, 1 MiB in float32

INTEGER_OF = {"float32": "int32", "float64": "int64", "int64": "int64"}  # of the same width, for selecting by masks


def image(value: Value, n: int) -> tuple[int, int, int, int]:
    """Samples, height, width, channels."""
    samples, channels, height, width = concrete(value.shape, n)
    return samples, height, width, channels


def lanes_of(n: int) -> list[slice]:
    """The samples of each lane of NumPy's engine."""
    lanes = min(NUMPY_LANES, n)
    return [slice(n * lane // lanes, n * (lane + 1) // lanes) for lane in range(lanes)]


def tile_of(n: int, rows: int, row: int) -> tuple[int, int]:
    """Samples and rows of a tile of a lane of n samples, where a row takes `row` elements: whole samples, or some rows of one."""
    if rows * row <= TILE:
        tiles = -(-n // (TILE // max(1, rows * row)))
        return -(-n // tiles), rows
    parts = -(-rows // max(1, TILE // row))
    return 1, -(-rows // parts)


def is_depthwise(image: Value, groups: int) -> bool:
    return groups > 1 and groups == image.shape[1]


def padded(height: int, width: int, padding: Any) -> tuple[int, int]:
    return height + sum(padding[0]), width + sum(padding[1])


def _lanes(n: int) -> tuple[int, int]:
    """How many lanes a batch has, and the most samples of one."""
    lanes = lanes_of(n)
    return len(lanes), max(some.stop - some.start for some in lanes)


def _convolution(value: Value, n: int, x: Value, y: Value, window: Any, spread: bool) -> tuple[TensorType, ...]:
    """A tile of the padded image, of its patches, of the output's rows, and the weights as a matrix.

    The patches are those of x under the window; with `spread` the image is what the patches are added into.
    """
    a, kind = value.attributes, value.dtype
    _, height, width, channels = image(x, n)
    _, rows, columns, out = image(y, n)
    taps, groups = window[0] * window[1], a["groups"]
    lanes, most = _lanes(n)
    if is_depthwise(x, groups):
        samples, _ = tile_of(most, 1, rows * columns * channels)
        return (
            TensorType(kind, (lanes, samples, *padded(height, width, a["padding"]), channels)),
            TensorType(kind, (lanes, samples, rows, columns, channels)),
        )
    depth = taps * channels // groups
    samples, some = tile_of(most, rows, columns * depth)
    edges = (samples, *padded(height, width, a["padding"]), channels) if spread or any(map(any, a["padding"])) else (0,)
    return (
        TensorType(kind, (lanes, *edges)),
        TensorType(kind, (lanes, samples, some, columns, depth)),
        TensorType(kind, (lanes, samples, some, columns, out)),
        TensorType(kind, (groups, depth, out // groups)),
    )


def full_padding(value: Value, g: Value, window: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """What the cotangent of a convolution of stride 1 is padded with, so that its convolution with the turned window is the gradient.

    Negative where the convolution was padded by more than its window reaches.
    """
    edges = []
    for i in range(2):
        reach = (window[i] - 1) * value.attributes["dilation"][i]
        before = reach - value.attributes["padding"][i][0]
        edges.append((before, value.shape[2 + i] + reach - g.shape[2 + i] - before))
    return edges[0], edges[1]


def _conv2d(value: Value, n: int) -> tuple[TensorType, ...]:
    x, w = value.operands
    return _convolution(value, n, x, value, w.shape[2:], spread=False)


def _conv2d_weight_gradient(value: Value, n: int) -> tuple[TensorType, ...]:
    """Instead of the weights, each lane's sum of their gradient and what is added to it."""
    x, g = value.operands
    *space, matrix = _convolution(value, n, x, g, value.attributes["window"], spread=False)
    lanes, _ = _lanes(n)
    if is_depthwise(x, value.attributes["groups"]):
        return (*space, matrix, TensorType(value.dtype, (lanes, *concrete(value.shape, n))))
    sums = TensorType(value.dtype, (lanes, *matrix.shape))
    return (*space, sums, sums)


def _conv2d_input_gradient(value: Value, n: int) -> tuple[TensorType, ...]:
    g, w = value.operands
    window: Any = w.shape[2:]
    if value.attributes["stride"] != (1, 1) or is_depthwise(value, value.attributes["groups"]):
        return _convolution(value, n, value, g, window, spread=True)
    groups = value.attributes["groups"]
    _, height, width, channels = image(value, n)
    _, _, _, out = image(g, n)
    depth = window[0] * window[1] * out // groups
    lanes, most = _lanes(n)
    samples, rows = tile_of(most, height, width * depth)
    reach = [(window[i] - 1) * value.attributes["dilation"][i] for i in range(2)]
    kind = value.dtype
    return (
        TensorType(kind, (lanes, samples, height + reach[0], width + reach[1], out)),
        TensorType(kind, (lanes, samples, rows, width, depth)),
        TensorType(kind, (lanes, 0)),
        TensorType(kind, (groups, depth, channels // groups)),
    )


def pads(value: Value) -> bool:
    return any(map(any, value.attributes["padding"]))


def divides(value: Value, large: Value, small: Value) -> bool:
    """Whether every element of a pool's large image stands in exactly one window."""
    window, stride = value.attributes["window"], value.attributes["stride"]
    exact = all(size == step * count for size, step, count in zip(large.shape[2:], stride, small.shape[2:], strict=True))
    return exact and window == stride and not pads(value)


def _pool_tile(value: Value, n: int, of: Value, small: Value) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A tile of the padded image, of the pooled one, and no more than a tile's number of samples."""
    _, height, width, channels = image(of, n)
    high, wide = padded(height, width, value.attributes["padding"])
    lanes, most = _lanes(n)
    samples, _ = tile_of(most, 1, high * wide * channels)
    return (lanes, samples, high, wide, channels), (lanes, samples, *image(small, n)[1:]), (lanes, samples, 0)


def _pool(value: Value, n: int) -> tuple[TensorType, ...]:
    whole, small, none = _pool_tile(value, n, value.operands[0], value)
    return TensorType(value.dtype, whole if pads(value) else none), TensorType(value.dtype, (*whole[:2], small[2], *whole[3:]))


def _max_pool_choice(value: Value, n: int, spread: bool) -> tuple[TensorType, ...]:
    """The padded image, a second one or what the windows are added into, and masks."""
    x, top, _ = value.operands
    whole, small, none = _pool_tile(value, n, x, top)
    kind = value.dtype
    second = not divides(value, x, top) if spread else pads(value)
    return (TensorType(kind, whole if pads(value) else none), TensorType(kind, whole if second else none), TensorType("bool", small),
            TensorType("bool", small), TensorType(INTEGER_OF[kind], small))  # fmt: skip


def _avg_pool_gradient(value: Value, n: int) -> tuple[TensorType, ...]:
    (g,) = value.operands
    whole, small, none = _pool_tile(value, n, value, g)
    return TensorType(value.dtype, none if divides(value, value, g) else whole), TensorType(value.dtype, small)


def _softmax(value: Value, n: int) -> tuple[TensorType, ...]:
    axis = value.attributes["axis"]
    return (value.type.with_shape(1 if i == axis else d for i, d in enumerate(value.shape)),)


def is_zero(value: Value) -> bool:
    """Whether a value is the constant 0, not -0."""
    return value.op == "constant" and repr(value.attributes["value"]) in ("0", "0.0")


def _where(value: Value, n: int) -> tuple[TensorType, ...]:
    if value.dtype not in INTEGER_OF:
        return ()
    kind = value.type.with_dtype(INTEGER_OF[value.dtype])
    return (kind,) if is_zero(value.operands[2]) else (kind, kind)


SHORT = 64  # numbers of a row


def _scatter_add(value: Value, n: int) -> tuple[TensorType, ...]:
    """Short rows added into a table of more rows than they are, where few meet: the place of each number, and the numbers, column by column."""
    table, rows = concrete(value.shape, n), value.operands[1].type.size(n)
    columns = prod(table[1:])
    if not 0 < columns <= SHORT or not 0 < rows <= table[0]:
        return ()
    return TensorType("int64", (columns, rows)), TensorType(value.dtype, (columns, rows))


def _recurrence(value: Value, n: int) -> tuple[TensorType, ...]:
    """R turned around, what R h gives in a step, and one array of a state."""
    z, r = value.operands[:2]
    _, samples, width = concrete(z.shape, n)
    return (TensorType(value.dtype, r.shape[::-1]), TensorType(value.dtype, (samples, width)), TensorType(value.dtype, (samples, *r.shape[1:])))


def _recurrence_gradient(value: Value, n: int) -> tuple[TensorType, ...]:
    """Two arrays of a state; of an lstm or gru what a step multiplies its gates with and what that gives, and of an lstm an array of all steps."""
    steps, samples, units = concrete(value.operands[0].shape, n)
    state, work = (samples, units), {"lstm": [(8, samples, units), (steps, samples, units)], "gru": [(4, samples, units)]}
    return tuple(TensorType(value.dtype, shape) for shape in (state, state, *work.get(value.attributes["kind"], ())))


# The fast engine's convolutions and pools, which read what lies outside of an image as nothing and need no frame. Winograd's F(2x2, 3x3) is what it
# does where it may, F(4x4, 3x3) where a larger error is allowed too. Their 16 or 36 streams of memory are kept apart, or they would fall into the same
# lines of the cache.
APART = 80
LEAST_CHANNELS = 8
LANES = 8  # that the threads share; a fixed number, for sums are taken lane by lane, and the plan does not know the machine
SMALL_PIECE, LARGE_PIECE = 2, 4
LARGE_PIECE_ERROR = 3e-5  # what F(4x4, 3x3) may leave, of the largest value
WINDOWS_COST = 64  # pieces whose products take as long as the windows take to be transformed, read from memory and, for their gradient, added up
FAST_TILE = 2**16  # elements of a tile's array: its arrays lie in the second cache together
PRODUCT = 10**6  # multiply-adds of a tile's product: OpenBLAS takes what is no larger as it lies, which is twice as fast for so few columns
CONVOLUTIONS = frozenset(("conv2d", "conv2d_input_gradient", "conv2d_weight_gradient"))
_POOLS = frozenset(("max_pool", "max_pool_gradient", "avg_pool", "avg_pool_gradient"))


def _images(value: Value) -> tuple[Value, Value]:
    """The large image and the small one of a convolution or of its gradients."""
    first, second = value.operands
    return {"conv2d": (first, value), "conv2d_input_gradient": (value, first), "conv2d_weight_gradient": (first, second)}[value.op]


def has_tiles(value: Value) -> bool:
    """Whether the fast engine has kernels of its own for an operation on images."""
    return value.dtype == "float32" and (value.op in _POOLS or value.op in CONVOLUTIONS)


def has_depthwise(value: Value) -> bool:
    """Whether every channel of a convolution, or of one of its gradients, has windows of its own."""
    return value.op in CONVOLUTIONS and is_depthwise(_images(value)[0], value.attributes["groups"])


def piece_side(value: Value, samples: int) -> int:
    """The side of the pieces of outputs that Winograd's form makes at once; 0 where a convolution, or a gradient of one, does not take it.

    It is for windows of 3x3 at stride 1 in float32, with channels enough. Pieces of 4x4 take 36 products for the 64 of four pieces of 2x2. They lose
    where many of them hang over the edges of small images, and where there are so few that transforming 36 windows takes longer than that saves:
    measured, 0.4 times as fast on one image of 8x8 with 128 channels, 0.8 on images of 5x5 and 6x6, 1.05 on 9x9, 1.4 on 7x7 and from 16x16 on.
    """
    if value.op not in CONVOLUTIONS or value.dtype != "float32":
        return 0
    a = value.attributes
    window = a["window"] if value.op == "conv2d_weight_gradient" else value.operands[1].shape[2:]
    channels = [int(each.shape[1]) for each in _images(value)]  # type: ignore[arg-type]
    fits = tuple(window) == (3, 3) and a["stride"] == a["dilation"] == (1, 1) and a["groups"] == 1 and min(channels) >= LEAST_CHANNELS
    if not fits:
        return 0
    sides = (SMALL_PIECE, LARGE_PIECE) if a.get("error", 0.0) >= LARGE_PIECE_ERROR else (SMALL_PIECE,)
    return min(sides, key=lambda side: _products(value, samples, side))


def _pieced(value: Value) -> tuple[Value, Value]:
    """The image that is read, and the one whose pieces are made or, for the gradient of the weights, read as well."""
    large, small = _images(value)
    return (small, large) if value.op == "conv2d_input_gradient" else (large, small)


def _products(value: Value, samples: int, side: int) -> int:
    """What pieces of a side cost, in products of all channels."""
    _, height, width = _pieced(value)[1].shape[1:]
    assert isinstance(height, int)
    assert isinstance(width, int)
    return (side + 2) ** 2 * (samples * -(-height // side) * -(-width // side) + WINDOWS_COST)


def _fast_tile(rows: int, row: int, product: int) -> tuple[int, int]:
    """Lanes, and the rows of a tile, of all images' rows together; a row has so many elements, and its product so many multiply-adds."""
    tile = max(1, min(-(-rows // LANES), FAST_TILE // max(1, row), PRODUCT // max(1, product)))
    return min(LANES, rows), tile


def _winograd(value: Value, n: int) -> tuple[TensorType, ...]:
    """A tile's pieces, the products or the cotangent's pieces, and the transformed weights or each lane's sum of their gradient."""
    read, pieces = _pieced(value)
    samples, height, width, out = image(pieces, n)
    side = piece_side(value, samples)
    frequencies = (side + 2) ** 2
    channels = image(read, n)[3]
    down, right = -(-height // side), -(-width // side)
    lanes, rows = _fast_tile(samples * down, right * 16 * max(channels, out), right * channels * out)  # as many pieces, whatever their size
    count, kind = rows * right, value.dtype
    matrices = frequencies, channels * out + APART
    weights = (lanes, *matrices) if value.op == "conv2d_weight_gradient" else matrices
    return (
        TensorType(kind, (lanes, frequencies, count * channels + APART)),
        TensorType(kind, (lanes, frequencies, count * out + APART)),
        TensorType(kind, weights),
    )


def _patches(value: Value, n: int) -> tuple[TensorType, ...]:
    """A tile's patches, and the weights as a matrix or each lane's sum of their gradient."""
    large, small = _images(value)
    window: Any = value.attributes["window"] if value.op == "conv2d_weight_gradient" else value.operands[1].shape[2:]
    turned = value.op == "conv2d_input_gradient" and value.attributes["stride"] == (1, 1)
    of, places = (small, large) if turned else (large, small)
    _, height, width, out = image(places, n)
    taps, groups = window[0] * window[1], value.attributes["groups"]
    depth = taps * image(of, n)[3] // groups
    lanes, rows = _fast_tile(n * height, width * depth, width * depth * out // groups)
    weights = (groups, depth, out // groups)
    return (
        TensorType(value.dtype, (lanes, rows * width * depth)),
        TensorType(value.dtype, (lanes, *weights) if value.op == "conv2d_weight_gradient" else weights),
    )


def _depthwise(value: Value, n: int) -> tuple[TensorType, ...]:
    """The windows as [multiplier, tap, channel], or each lane's sums of their gradient, twice."""
    large, small = _images(value)
    window: Any = value.attributes["window"] if value.op == "conv2d_weight_gradient" else value.operands[1].shape[2:]
    _, rows, _, out = image(small, n)
    channels = image(large, n)[3]
    shape = (out // channels, window[0] * window[1], channels)
    return (TensorType(value.dtype, (min(LANES, n * rows), 2, *shape) if value.op == "conv2d_weight_gradient" else shape),)


def _tiles(value: Value, n: int, orders: Mapping[Value, Any]) -> tuple[TensorType, ...]:
    """The work space of a kernel on tiles, then an image for each operand that does not lie with its channels last."""
    if value.op in _POOLS:
        kinds: tuple[TensorType, ...] = ()
    elif piece_side(value, image(value.operands[0], n)[0]):
        kinds = _winograd(value, n)
    else:
        kinds = (_depthwise if has_depthwise(value) else _patches)(value, n)
    weights = value.operands[1] if value.op in ("conv2d", "conv2d_input_gradient") else None
    return (*kinds, *(o.type for o in value.operands if o is not weights and orders.get(o) != (0, 2, 3, 1)))


WORKSPACE: dict[str, Callable[[Value, int], tuple[TensorType, ...]]] = {
    "conv2d": _conv2d,
    "conv2d_weight_gradient": _conv2d_weight_gradient,
    "conv2d_input_gradient": _conv2d_input_gradient,
    "max_pool": _pool,
    "max_pool_gradient": lambda value, n: _max_pool_choice(value, n, spread=True),
    "max_pool_gather": lambda value, n: _max_pool_choice(value, n, spread=False),
    "avg_pool": _pool,
    "avg_pool_gradient": _avg_pool_gradient,
    "softmax": _softmax,
    "log_softmax": lambda value, n: (value.type, *_softmax(value, n)),
    "pick": lambda value, n: (value.operands[1].type,),
    "where": _where,
    "coalesce": lambda y, n: (y.type, y.type),
    "quantize": lambda value, n: (value.operands[0].type,),
    "scatter_add": _scatter_add,
    "recurrence": _recurrence,
    "recurrence_gradient": _recurrence_gradient,
}


def workspace(value: Value, n: int, orders: Mapping[Value, Any] | None = None) -> tuple[TensorType, ...]:
    """The arrays that the kernel of a value takes after its result; with the order of each value in memory, those of the fast engine's kernel."""
    if orders is not None and has_tiles(value):
        return _tiles(value, n, orders)
    wanted = WORKSPACE.get(value.op)
    return wanted(value, n) if wanted else ()
