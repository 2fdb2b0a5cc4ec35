"""{primitive: how it is written in ONNX operators}, for the primitives of a training step. Opset 18, standard operators alone.

Which operators: those that onnxruntime has kernels for on the CPU and on CUDA, and whose results are right with several threads.
ScatterND with a reduction loses updates where indices repeat, ScatterElements does not. Masks and noise are inputs of the graph.
"""

from __future__ import annotations

from typing import Any

from .ir import Batch, Dim, Graph, Shape, Value, constant_of, elements
from .onnx_lowering import LOWERINGS, Emitter, Lowering, extra_output, pads, reshape_to, shape_of, sizes, static, zeros
from .onnx_recurrence import recurrence, recurrence_gradient

# Names in the file that cannot be anyone's: of what the host computes for a step and reads of it, of new states, and of what is drawn
STEP, NEW, MASK, NOISE = "step:", "new:", "mask:", "noise:"


def drawn(graph: Graph) -> dict[str, Value]:
    """The random values of a step by the names of the inputs that they become: masks of bool, noise of the step's dtype."""
    found: dict[str, Value] = {}
    for value in graph.order():
        if value.op in ("bernoulli", "normal"):
            name = wanted = f"{MASK if value.op == 'bernoulli' else NOISE}{value.attributes['stream']}"
            count = 1
            while name in found:  # drawn in several shapes
                count += 1
                name = f"{wanted}:{count}"
            found[name] = value
    return found


def _broadcast_to(emit: Emitter, value: Value, inputs: list[str]) -> str:
    return emit.node("Expand", inputs[0], shape_of(emit, value.shape))


def _maximum(emit: Emitter, value: Value, inputs: list[str]) -> str:
    return emit.node("Relu", inputs[0]) if constant_of(value.operands[1]) == 0 else emit.node("Max", *inputs)


# Images

MOST_PLACES = 4  # of a window that is gone through place by place


def _conv2d_weight_gradient(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """The convolution of x by the cotangent, the axes of batch and channels swapped in both, stride and dilation swapped.

    Groups lie side by side as groups of that convolution: images [C / G, G N, H, W], kernels [O, N, ...], results [C / G, O, ...].
    """
    a, (x, g) = value.attributes, value.operands
    (n, channels, *size), outputs, groups = x.shape, g.shape[1], a["groups"]
    assert isinstance(n, Batch)
    assert isinstance(channels, int)
    images = inputs[0]
    if groups > 1:
        images = emit.node("Reshape", images, sizes(emit, [0, groups, channels // groups, *static(tuple(size))]))
        images = reshape_to(emit, emit.node("Transpose", images, perm=[2, 1, 0, 3, 4]), (channels // groups, Batch(groups * n.factor), *size))
    else:
        images = emit.node("Transpose", images, perm=[1, 0, 2, 3])
    kernels = emit.node("Transpose", inputs[1], perm=[1, 0, 2, 3])
    found = emit.node("Conv", images, kernels, strides=list(a["dilation"]), dilations=list(a["stride"]), pads=pads(value), group=groups,
                      kernel_shape=list(g.shape[2:]))  # fmt: skip
    for axis in range(2):
        if _reach(value, axis) > a["window"][axis]:
            found = emit.node("Slice", found, *(sizes(emit, [k]) for k in (0, a["window"][axis], 2 + axis)))
    assert isinstance(outputs, int)
    return emit.node("Transpose", found, perm=[1, 0, 2, 3])


def _reach(value: Value, axis: int) -> int:
    """How many places of the window the swapped convolution finds: more, where the last stride leaves rows over."""
    a, (x, g) = value.attributes, value.operands
    rows, out = x.shape[2 + axis], g.shape[2 + axis]
    assert isinstance(rows, int)
    assert isinstance(out, int)
    return (rows + sum(a["padding"][axis]) - (out - 1) * a["stride"][axis] - 1) // a["dilation"][axis] + 1  # type: ignore[no-any-return]


def _max_pool(emit: Emitter, value: Value, inputs: list[str]) -> str:
    image, window = value.operands[0], value.attributes["window"]
    if _tiles(value, image.shape, value.shape) and window[0] * window[1] <= MOST_PLACES:
        return LOWERINGS["max_pool"](emit, value, inputs)
    return _winners(emit, value, inputs[0])[0]


def _tiles(value: Value, large: Shape, small: Shape) -> bool:
    """Whether every element of the large image stands in exactly one window."""
    a = value.attributes
    covered = tuple(count * size for count, size in zip(small[2:], a["window"], strict=True))
    return a["stride"] == a["window"] and not any(map(any, a["padding"])) and covered == large[2:]


def _winners(emit: Emitter, value: Value, x: str) -> list[str]:
    """The maxima of the windows, and where in the flat input the first of each stands. Made once for one input and one geometry."""
    a = value.attributes
    key = f"{x} {a['window']} {a['stride']} {a['padding']}"
    if key not in emit.parts:
        emit.parts[key] = emit.several("MaxPool", x, count=2, kernel_shape=list(a["window"]), strides=list(a["stride"]), pads=pads(value))
    return emit.parts[key]


def _max_pool_gradient(emit: Emitter, value: Value, inputs: list[str]) -> str:
    (high, wide), small = value.attributes["window"], value.operands[1].shape
    if _tiles(value, value.shape, small) and high * wide <= MOST_PLACES:
        return _to_first_equal(emit, value, inputs)
    x, _, g = inputs
    places = reshape_to(emit, _winners(emit, value, x)[1], (Batch(),))
    flat = zeros(emit, value.dtype, (_count(value.shape),))
    overlapping = any(s < w for s, w in zip(value.attributes["stride"], value.attributes["window"], strict=True))
    more: dict[str, Any] = {"reduction": "add"} if overlapping else {}
    found = emit.node("ScatterElements", flat, places, reshape_to(emit, g, (Batch(),)), axis=0, **more)
    return reshape_to(emit, found, value.shape)


def _to_first_equal(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """The cotangent of a window to the first of its elements that is the maximum, place by place: a few passes, where indices take many."""
    (high, wide), (_, _, _, columns) = value.attributes["window"], value.operands[1].shape
    rows = Batch()  # of windows' rows, all images'
    x = reshape_to(emit, inputs[0], (rows, high, columns, wide))
    top, g = (reshape_to(emit, name, (rows, columns)) for name in inputs[1:])
    free = ""
    lines = []
    for i in range(high):
        line = emit.node("Gather", x, emit.tensor(i, "int64"), axis=1)
        places = []
        for j in range(wide):
            equal = emit.node("Equal", emit.node("Gather", line, emit.tensor(j, "int64"), axis=2), top)
            hit = emit.node("And", equal, free) if free else equal
            other = emit.node("Not", equal)
            free = emit.node("And", other, free) if free else other
            places.append(reshape_to(emit, emit.node("Mul", emit.node("Cast", hit, to=value.dtype), g), (rows, 1, columns, 1)))
        lines.append(emit.node("Concat", *places, axis=3) if wide > 1 else places[0])
    return reshape_to(emit, emit.node("Concat", *lines, axis=1) if high > 1 else lines[0], value.shape)


def _max_pool_gather(emit: Emitter, value: Value, inputs: list[str]) -> str:
    x, _, g = inputs
    places = reshape_to(emit, _winners(emit, value, x)[1], (Batch(),))
    return reshape_to(emit, emit.node("Gather", reshape_to(emit, g, (Batch(),)), places, axis=0), value.shape)


def _count(shape: Shape) -> Dim:
    count, power = elements(shape)
    return Batch(count) if power else count


def _avg_pool_gradient(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """Each cotangent over the number of elements of its window, to all of them: repeated, or a transposed convolution by ones where windows overlap."""
    a, (g,) = value.attributes, value.operands
    n, channels, *out = g.shape
    (high, wide), stride, size = a["window"], a["stride"], a["size"]
    counts = [[_inside(i, axis, a, size) for i in range(length)] for axis, length in enumerate(static(tuple(out)))]
    inverse = [1 / (rows * columns) for rows in counts[0] for columns in counts[1]]
    shares = emit.node("Mul", inputs[0], emit.tensor(inverse, value.dtype, [1, 1, *static(tuple(out))]))
    if _tiles(value, value.shape, g.shape):
        apart = (n, channels, out[0], 1, out[1], 1)
        repeated = emit.node("Expand", reshape_to(emit, shares, apart), sizes(emit, [1, 1, 1, high, 1, wide]))
        return reshape_to(emit, repeated, value.shape)
    assert isinstance(n, Batch)
    assert isinstance(channels, int)
    images = reshape_to(emit, shares, (Batch(n.factor * channels), 1, *out))
    ones = emit.tensor([1.0] * (high * wide), value.dtype, [1, 1, high, wide])
    extra = [extra_output(out[i], size[i], a["window"][i], stride[i], a["padding"][i]) for i in range(2)]
    found = emit.node("ConvTranspose", images, ones, strides=list(stride), pads=pads(value), kernel_shape=[high, wide], output_padding=extra)
    return reshape_to(emit, found, value.shape)


def _inside(i: int, axis: int, a: Any, size: Any) -> int:
    """How many elements of window i are no padding."""
    start = i * a["stride"][axis] - a["padding"][axis][0]
    return int(min(start + a["window"][axis], size[axis]) - max(start, 0))


# Flat arrays and rows of tables


def _pack(emit: Emitter, value: Value, inputs: list[str]) -> str:
    flat = [reshape_to(emit, name, (_count(o.shape),)) for o, name in zip(value.operands, inputs, strict=True)]
    return emit.node("Concat", *flat, axis=0) if len(flat) > 1 else flat[0]


def _part(emit: Emitter, value: Value, inputs: list[str]) -> str:
    (flat,), start = value.operands, value.attributes["start"]
    size = elements(value.shape)[0]
    whole = inputs[0] if flat.shape == (size,) else emit.node("Slice", inputs[0], *(sizes(emit, [k]) for k in (start, start + size, 0)))
    return reshape_to(emit, whole, value.shape)


def _as_rows(emit: Emitter, index: str, rows: str, shape: Shape) -> tuple[str, str]:
    """Indices [count] and rows [count, size] as ScatterElements wants them: an index for each element."""
    count, size = shape
    tall = reshape_to(emit, index, (count, 1))
    return emit.node("Expand", tall, sizes(emit, [1, *static((size,))])), reshape_to(emit, rows, shape)


def _scatter_add(emit: Emitter, value: Value, inputs: list[str]) -> str:
    (_, index), size = value.operands, elements(value.shape[1:])[0]
    rows = value.attributes["rows"]
    places, cotangents = _as_rows(emit, inputs[1], inputs[0], (_count(index.shape), size))
    found = emit.node("ScatterElements", zeros(emit, value.dtype, (rows, size)), places, cotangents, axis=0, reduction="add")
    return reshape_to(emit, found, value.shape)


def _coalesce(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """Rows of one index are added up where its last occurrence stands."""
    g, index = inputs
    count, size = value.shape
    last = emit.node("Range", emit.tensor(0, "int64"), emit.node("Squeeze", shape_of(emit, (count,))), emit.tensor(1, "int64"))
    table = _zeros_int(emit, value.attributes["rows"])
    stands = emit.node("Gather", emit.node("ScatterElements", table, index, last, axis=0, reduction="max"), index, axis=0)
    places, rows = _as_rows(emit, stands, g, (count, size))
    sums = emit.node("ScatterElements", zeros(emit, value.dtype, value.shape), places, rows, axis=0, reduction="add")
    return emit.node("Gather", sums, stands, axis=0)


def _zeros_int(emit: Emitter, count: int) -> str:
    return emit.node("Expand", emit.tensor(0, "int64"), sizes(emit, [count]))


def _scatter_update(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """An index that occurs more than once has equal rows: the order does not matter."""
    table, index, rows = inputs
    return emit.node("ScatterND", table, reshape_to(emit, index, (_count(value.operands[1].shape), 1)), rows)


def _slice(emit: Emitter, value: Value, inputs: list[str]) -> str:
    a = value.attributes
    known = emit.parts.get(inputs[0])
    if known is not None and a["axis"] == 0 and a["stop"] == a["start"] + 1:
        return emit.node("Unsqueeze", known[a["start"]], sizes(emit, [0]))
    return LOWERINGS["slice"](emit, value, inputs)


TRAINING: dict[str, Lowering] = LOWERINGS | {
    "maximum": _maximum,
    "broadcast_to": _broadcast_to,
    "slice": _slice,
    "conv2d_weight_gradient": _conv2d_weight_gradient,
    "max_pool": _max_pool,
    "max_pool_gradient": _max_pool_gradient,
    "max_pool_gather": _max_pool_gather,
    "avg_pool_gradient": _avg_pool_gradient,
    "pack": _pack,
    "part": _part,
    "scatter_add": _scatter_add,
    "coalesce": _coalesce,
    "scatter_update": _scatter_update,
    "recurrence": recurrence,
    "recurrence_gradient": recurrence_gradient,
}
