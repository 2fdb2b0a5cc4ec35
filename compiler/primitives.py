"""The closed table: every tensor operation there is, with its type rule and its gradient written in the same table.

Operations (ops/) are expressions over these. NumPy kernels stand in runtime/kernels.py and ONNX lowerings in
onnx_lowering.py, keyed by the names here; a test holds the three together.

Elementwise primitives broadcast as NumPy and ONNX do; autodiff sums a cotangent back to its operand's shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi, sqrt
from typing import Any

from .ir import PRIMITIVES, Batch, Dim, Primitive, Shape, TensorType, Value, apply, constant, constant_of, dims, elements

Gradient = Callable[..., tuple[Value | None, ...]]


def _define(name: str, infer: Callable[..., TensorType], gradient: Gradient | None = None, **facts: Any) -> None:
    assert name not in PRIMITIVES, name
    PRIMITIVES[name] = Primitive(name, infer, gradient, **facts)


# Type rules


def broadcast(*shapes: Shape) -> Shape:
    """The common shape, aligned at the last axis; an axis of length 1 stretches."""
    if shapes.count(shapes[0]) == len(shapes):
        return shapes[0]
    result: list[Dim] = []
    for place in range(1, max(map(len, shapes)) + 1):
        found: Dim = 1
        for shape in shapes:
            if place <= len(shape) and shape[-place] != 1:
                assert found in (1, shape[-place]), f"shapes {' and '.join(map(dims, shapes))} do not broadcast"
                found = shape[-place]
        result.append(found)
    return tuple(reversed(result))


def _same(x: TensorType, **_: Any) -> TensorType:
    return x


def _broadcast(*operands: TensorType, **_: Any) -> TensorType:
    dtypes = {o.dtype for o in operands}
    assert len(dtypes) == 1, f"mixed dtypes {dtypes}"
    return TensorType(operands[0].dtype, broadcast(*(o.shape for o in operands)))


def _compare(a: TensorType, b: TensorType) -> TensorType:
    return _broadcast(a, b).with_dtype("bool")


def _where(condition: TensorType, a: TensorType, b: TensorType) -> TensorType:
    assert condition.dtype == "bool"
    return TensorType(_broadcast(a, b).dtype, broadcast(condition.shape, a.shape, b.shape))


def _reduce(x: TensorType, axes: tuple[int, ...], keepdims: bool) -> TensorType:
    assert all(0 <= a < x.rank for a in axes), (x, axes)
    if keepdims:
        return x.with_shape(1 if i in axes else d for i, d in enumerate(x.shape))
    return x.with_shape(d for i, d in enumerate(x.shape) if i not in axes)


def _matmul(a: TensorType, b: TensorType, transpose_a: bool, transpose_b: bool) -> TensorType:
    assert a.dtype == b.dtype
    assert a.rank == b.rank >= 2
    assert a.shape[:-2] == b.shape[:-2]
    rows, inner = (a.shape[-1], a.shape[-2]) if transpose_a else (a.shape[-2], a.shape[-1])
    inner_b, columns = (b.shape[-1], b.shape[-2]) if transpose_b else (b.shape[-2], b.shape[-1])
    assert inner == inner_b, f"{a} times {b}"
    return a.with_shape((*a.shape[:-2], rows, columns))


def window_output(size: int, window: int, stride: int, padding: tuple[int, int], dilation: int = 1) -> int:
    """(in + 2P - F) / S + 1, rounded down, for one axis."""
    return (size + sum(padding) - (window - 1) * dilation - 1) // stride + 1


def _conv2d(x: TensorType, w: TensorType, stride: Any, padding: Any, dilation: Any, groups: int, **_: Any) -> TensorType:
    n, channels, *size = x.shape
    assert channels == w.shape[1] * groups, f"{x} with {w} in {groups} groups"  # type: ignore[operator]
    out = [
        window_output(size[i], w.shape[2 + i], stride[i], padding[i], dilation[i])  # type: ignore[arg-type]
        for i in range(2)
    ]
    return x.with_shape((n, w.shape[0], *out))


def _pool(x: TensorType, window: Any, stride: Any, padding: Any) -> TensorType:
    n, channels, *size = x.shape
    out = [window_output(size[i], window[i], stride[i], padding[i]) for i in range(2)]  # type: ignore[arg-type]
    return x.with_shape((n, channels, *out))


def _reshape(x: TensorType, shape: Shape) -> TensorType:
    assert elements(x.shape) == elements(shape), f"{x} to {dims(shape)}"
    return x.with_shape(shape)


def _concat(*operands: TensorType, axis: int) -> TensorType:
    first = operands[0]
    for o in operands:
        assert o.shape[:axis] == first.shape[:axis]
        assert o.shape[axis + 1 :] == first.shape[axis + 1 :]
    lengths = [o.shape[axis] for o in operands]
    if isinstance(lengths[0], Batch):
        whole: Dim = Batch(sum(d.factor for d in lengths if isinstance(d, Batch)))
    else:
        whole = sum(d for d in lengths if isinstance(d, int))
    assert len({type(d) for d in lengths}) == 1
    return first.with_shape((*first.shape[:axis], whole, *first.shape[axis + 1 :]))


def _slice(x: TensorType, axis: int, start: int, stop: int) -> TensorType:
    length = x.shape[axis]
    assert not isinstance(length, Batch)
    assert 0 <= start < stop <= length
    return x.with_shape((*x.shape[:axis], stop - start, *x.shape[axis + 1 :]))


def _pad(x: TensorType, axis: int, before: int, after: int) -> TensorType:
    length = x.shape[axis]
    assert not isinstance(length, Batch)
    return x.with_shape((*x.shape[:axis], length + before + after, *x.shape[axis + 1 :]))


def _pick(x: TensorType, index: TensorType) -> TensorType:
    assert index.dtype == "int64"
    assert index.shape == x.shape[:-1]
    return x.with_shape(index.shape)


def _recurrent(x: TensorType, w: TensorType, r: TensorType, b: TensorType, kind: str, sequences: bool) -> TensorType:
    n, steps, _ = x.shape
    width = r.shape[0] * r.shape[2]  # type: ignore[operator]
    return x.with_shape((n, steps, width) if sequences else (n, width))


# Gates and kept blocks of each recurrence. Kept are first the state h, then what the gradient needs, lstm c, tanh(c) and the gates i, o, f, g;
# gru R_h h + Rb_h, the update and reset gates and the new state. How those lie in their blocks is for whoever computes both.
RECURRENCES = {"rnn_tanh": (1, 1), "rnn_relu": (1, 1), "lstm": (4, 7), "gru": (3, 5)}


def _recurrence(z: TensorType, r: TensorType, *b: TensorType, kind: str, reverse: bool) -> TensorType:
    steps, n, width = z.shape
    assert r.shape == (width, width // RECURRENCES[kind][0])  # type: ignore[operator]
    assert len(b) == (kind == "gru")
    return z.with_shape((RECURRENCES[kind][1], steps, n, r.shape[1]))


def _recurrence_cotangents(g: TensorType, cells: TensorType, r: TensorType, kind: str, reverse: bool) -> TensorType:
    return g.with_shape((2 if kind == "gru" else 1, *g.shape[:2], r.shape[0]))


def _pack(*operands: TensorType) -> TensorType:
    sizes = [elements(o.shape) for o in operands]
    assert all(power == 0 for _, power in sizes)
    return TensorType(operands[0].dtype, (sum(size for size, _ in sizes),))


# Gradients


def total(x: Value, *axes: int, keepdims: bool = False) -> Value:
    """The sum over some axes, or over all of them."""
    chosen = axes or tuple(range(x.type.rank))
    return apply("reduce_sum", x, axes=tuple(sorted(a % x.type.rank for a in chosen)), keepdims=keepdims) if chosen else x


def dot(a: Value, b: Value) -> Value:
    """The sum of the products of all elements of two values of one shape."""
    assert a.shape == b.shape
    return apply("dot", a, b)


def vector(values: Sequence[float], dtype: str) -> Value:
    """Numbers as one axis; they are put together once, when a plan is bound."""
    parts = [apply("reshape", constant(float(v), dtype), shape=(1,)) for v in values]
    return parts[0] if len(parts) == 1 else apply("concat", *parts, axis=0)


def root(x: Value) -> Value:
    """sqrt(x) for x >= 0; its slope at 0 is taken as 0."""
    inside = apply("greater", x, constant(0.0, x.dtype))
    return mask(apply("sqrt", apply("where", inside, x, constant(1.0, x.dtype))), inside)


def mask(g: Value, condition: Value) -> Value:
    """g where the condition holds, else 0."""
    return apply("where", condition, g, constant(0.0, g.dtype))


def expand(x: Value, like: Value, axes: tuple[int, ...]) -> Value:
    """Undo a reduction of `like` over `axes`: the axes come back and the value is repeated along them."""
    kept = tuple(1 if i in axes else d for i, d in enumerate(like.shape))
    x = x if x.shape == kept else apply("reshape", x, shape=kept)
    return apply("broadcast_to", x, shape=like.shape)


def _power_gradient(g: Value, y: Value, x: Value, e: Value) -> tuple[Value | None, ...]:
    return g * e * apply("power", x, e - 1.0), g * y * apply("log", x)


def _reduce_max_gradient(g: Value, y: Value, x: Value) -> tuple[Value | None, ...]:
    axes = y.attributes["axes"]
    at_top = apply("cast", apply("equal", x, expand(y, x, axes)), dtype=x.dtype)
    share = at_top / expand(total(at_top, *axes), x, axes)
    return (share * expand(g, x, axes),)


def _matmul_gradient(g: Value, y: Value, a: Value, b: Value) -> tuple[Value | None, ...]:
    def product(left: Value, right: Value, transpose_left: bool, transpose_right: bool) -> Value:
        return apply("matmul", left, right, transpose_a=transpose_left, transpose_b=transpose_right)

    ta, tb = y.attributes["transpose_a"], y.attributes["transpose_b"]
    left = product(b, g, tb, True) if ta else product(g, b, False, not tb)
    right = product(g, a, True, ta) if tb else product(a, g, not ta, False)
    return left, right


def _softmax_gradient(g: Value, y: Value, x: Value) -> tuple[Value | None, ...]:
    return (y * (g - total(g * y, y.attributes["axis"], keepdims=True)),)


def _log_softmax_gradient(g: Value, y: Value, x: Value) -> tuple[Value | None, ...]:
    return (g - apply("exp", y) * total(g, y.attributes["axis"], keepdims=True),)


def _conv2d_gradient(g: Value, y: Value, x: Value, w: Value) -> tuple[Value | None, ...]:
    return (
        apply("conv2d_input_gradient", g, w, size=x.shape[2:], **y.attributes),
        apply("conv2d_weight_gradient", x, g, window=w.shape[2:], **y.attributes),
    )


def _convolution(y: Value) -> dict[str, Any]:
    return {k: y.attributes[k] for k in ("stride", "padding", "dilation", "groups")}


def _conv2d_input(g: TensorType, w: TensorType, size: Any, groups: int, **_: Any) -> TensorType:
    return g.with_shape((g.shape[0], w.shape[1] * groups, *size))  # type: ignore[operator]


def _conv2d_weight(x: TensorType, g: TensorType, window: Any, groups: int, **_: Any) -> TensorType:
    return x.with_shape((g.shape[1], x.shape[1] // groups, *window))  # type: ignore[operator]


def _conv2d_input_gradient(gg: Value, y: Value, g: Value, w: Value) -> tuple[Value | None, ...]:
    settings = _convolution(y)
    return (
        apply("conv2d", gg, w, **settings),
        apply("conv2d_weight_gradient", gg, g, window=w.shape[2:], **settings),
    )


def _conv2d_weight_gradient(gg: Value, y: Value, x: Value, g: Value) -> tuple[Value | None, ...]:
    settings = _convolution(y)
    return (
        apply("conv2d_input_gradient", g, gg, size=x.shape[2:], **settings),
        apply("conv2d", x, gg, **settings),
    )


def states(cells: Value) -> Value:
    """The states [steps, N, units] of a recurrence: nothing else of its result is for others to read."""
    return apply("reshape", apply("slice", cells, axis=0, start=0, stop=1), shape=cells.shape[1:])


def _recurrence_gradient(g: Value, y: Value, z: Value, r: Value, *b: Value) -> tuple[Value | None, ...]:
    """Back through the steps for the cotangents of what W x_t and R h_(t-1) gave; the weights' gradients are then single products."""
    found = apply("recurrence_gradient", states(g), y, r, **y.attributes)
    steps, n, width = z.shape
    of_input, of_state = (apply("reshape", apply("slice", found, axis=0, start=i, stop=i + 1), shape=z.shape) for i in (0, found.shape[0] - 1))  # type: ignore[operator]
    by_bias = (apply("slice", total(of_state, 0, 1), axis=0, start=width - r.shape[1], stop=width),) if b else ()  # type: ignore[operator]
    if steps == 1:  # h_0 is 0
        return of_input, None, *by_bias
    assert isinstance(steps, int)
    assert isinstance(n, Batch)
    early, late = (0, steps - 1), (1, steps)
    before, after = (late, early) if y.attributes["reverse"] else (early, late)

    def rows(x: Value, part: tuple[int, int]) -> Value:
        some = apply("slice", x, axis=0, start=part[0], stop=part[1])
        return apply("reshape", some, shape=(Batch(n.factor * (steps - 1)), x.shape[2]))

    by_r = apply("matmul", rows(of_state, after), rows(states(y), before), transpose_a=True, transpose_b=False)
    return of_input, by_r, *by_bias


def _concat_gradient(g: Value, y: Value, *operands: Value) -> tuple[Value | None, ...]:
    axis, start, parts = y.attributes["axis"], 0, []
    for operand in operands:
        length = operand.shape[axis]
        assert isinstance(length, int), "whole batches are joined after differentiation alone (passes/products.py)"
        stop = start + length
        parts.append(apply("slice", g, axis=axis, start=start, stop=stop))
        start = stop
    return tuple(parts)


def _slice_gradient(g: Value, y: Value, x: Value) -> tuple[Value | None, ...]:
    a = y.attributes
    return (apply("pad", g, axis=a["axis"], before=a["start"], after=x.shape[a["axis"]] - a["stop"]),)


def _pad_gradient(g: Value, y: Value, x: Value) -> tuple[Value | None, ...]:
    axis, before = y.attributes["axis"], y.attributes["before"]
    return (apply("slice", g, axis=axis, start=before, stop=before + x.shape[axis]),)


def _transpose_gradient(g: Value, y: Value, x: Value) -> tuple[Value | None, ...]:
    order = y.attributes["order"]
    return (apply("transpose", g, order=tuple(order.index(i) for i in range(len(order)))),)


def _pick_gradient(g: Value, y: Value, x: Value, index: Value) -> tuple[Value | None, ...]:
    hot = apply("one_hot", index, depth=x.shape[-1], dtype=x.dtype)
    return hot * apply("reshape", g, shape=(*g.shape, 1)), None


# The table


_define("input", lambda name, type: type, leaf=True)  # a tensor of the batch
_define("variable", lambda name, type: type, leaf=True)  # a parameter, a running statistic, a slot of the optimiser
_define("scalar", lambda name, dtype: TensorType(dtype, ()), leaf=True)  # a number the host computes for each step
_define("constant", lambda value, dtype: TensorType(dtype, ()), leaf=True)
_define("axis_size", lambda x, axis, dtype: TensorType(dtype, ()), lambda g, y, x: (None,))

_UNARY: dict[str, Gradient] = {
    "negative": lambda g, y, x: (-g,),
    "exp": lambda g, y, x: (g * y,),
    "log": lambda g, y, x: (g / x,),
    "log1p": lambda g, y, x: (g / (x + 1.0),),
    "expm1": lambda g, y, x: (g * (y + 1.0),),
    "sqrt": lambda g, y, x: (g * 0.5 / y,),
    "tanh": lambda g, y, x: (g * (1.0 - y * y),),
    "sigmoid": lambda g, y, x: (g * (y * (1.0 - y)),),
    "softplus": lambda g, y, x: (g * apply("sigmoid", x),),
    "erf": lambda g, y, x: (g * apply("exp", -(x * x)) * (2 / sqrt(pi)),),
    "absolute": lambda g, y, x: (g * apply("sign", x),),
    "sign": lambda g, y, x: (None,),
    "floor": lambda g, y, x: (None,),
}
for _name, _gradient in _UNARY.items():
    _define(_name, _same, _gradient, elementwise=True)

_BINARY: dict[str, Gradient] = {
    "add": lambda g, y, a, b: (g, g),
    "subtract": lambda g, y, a, b: (g, -g),
    "multiply": lambda g, y, a, b: (g * b, g * a),
    "divide": lambda g, y, a, b: (g / b, -(g * y / b)),
    "power": _power_gradient,
    # At a tie the cotangent goes to the second operand: relu = maximum(x, 0) has slope 0 at 0.
    # The result is above a constant where the operand is, and the operand need not be kept for that.
    "maximum": lambda g, y, a, b: (mask(g, apply("greater", a if constant_of(b) is None else y, b)), mask(g, apply("less_equal", a, b))),
    "minimum": lambda g, y, a, b: (mask(g, apply("less", a, b)), mask(g, apply("greater_equal", a, b))),
}
for _name, _gradient in _BINARY.items():
    _define(_name, _broadcast, _gradient, elementwise=True)

for _name in ("greater", "greater_equal", "less", "less_equal", "equal"):
    _define(_name, _compare, lambda g, y, a, b: (None, None), elementwise=True)

_define("is_nan", lambda x: x.with_dtype("bool"), lambda g, y, x: (None,), elementwise=True)
_define("where", _where, lambda g, y, c, a, b: (None, mask(g, c), apply("where", c, constant(0.0, g.dtype), g)),
        elementwise=True)  # fmt: skip
_define("cast", lambda x, dtype: x.with_dtype(dtype), lambda g, y, x: (apply("cast", g, dtype=x.dtype) if x.type.is_float else None,),
        elementwise=True)  # fmt: skip
# The value of the first operand, the gradient of the second: training through a step.
_define("surrogate", _broadcast, lambda g, y, a, b: (None, g), view=True)

_define("reduce_sum", _reduce, lambda g, y, x: (expand(g, x, y.attributes["axes"]),))
_define("dot", lambda a, b: TensorType(a.dtype, ()), lambda g, y, a, b: (g * b, g * a))  # sum of products of all elements
_define("reduce_max", _reduce, _reduce_max_gradient)
_define("argmax", lambda x, axis: TensorType("int64", x.shape[:axis] + x.shape[axis + 1 :]), lambda g, y, x: (None,))
_define("matmul", _matmul, _matmul_gradient)
_define("softmax", lambda x, axis: x, _softmax_gradient)
_define("log_softmax", lambda x, axis: x, _log_softmax_gradient)

_define("conv2d", _conv2d, _conv2d_gradient)
_define("conv2d_input_gradient", _conv2d_input, _conv2d_input_gradient)
_define("conv2d_weight_gradient", _conv2d_weight, _conv2d_weight_gradient)
_define("max_pool", _pool, lambda g, y, x: (apply("max_pool_gradient", x, y, g, **y.attributes),))
_define("max_pool_gradient", lambda x, y, g, **_: x,
        lambda gg, y, x, top, g: (None, None, apply("max_pool_gather", x, top, gg, **y.attributes)))  # fmt: skip
_define("max_pool_gather", lambda x, top, g, **_: top,
        lambda gg, y, x, top, g: (None, None, apply("max_pool_gradient", x, top, gg, **y.attributes)))  # fmt: skip
_define("avg_pool", _pool, lambda g, y, x: (apply("avg_pool_gradient", g, size=x.shape[2:], **y.attributes),))  # fmt: skip
_define("avg_pool_gradient", lambda g, size, **_: g.with_shape((*g.shape[:2], *size)),
        lambda gg, y, g: (apply("avg_pool", gg, **{k: v for k, v in y.attributes.items() if k != "size"}),))  # fmt: skip

_define("reshape", _reshape, lambda g, y, x: (apply("reshape", g, shape=x.shape),), view=True)
_define("transpose", lambda x, order: x.with_shape(x.shape[i] for i in order), _transpose_gradient, view=True)
_define("broadcast_to", lambda x, shape: x.with_shape(broadcast(x.shape, shape)), lambda g, y, x: (g,), view=True)
_define("slice", _slice, _slice_gradient, view=True)
_define("pad", _pad, _pad_gradient)
_define("concat", _concat, _concat_gradient)
# Many parameters in one flat array, and one of them in place: an update is then a few long elementwise steps.
_define("pack", _pack)
_define("part", lambda flat, start, shape: flat.with_shape(shape), view=True)

_define("one_hot", lambda index, depth, dtype: TensorType(dtype, (*index.shape, depth)), lambda g, y, i: (None,))
_define("pick", _pick, _pick_gradient)
# Rows of a table [rows, ...] by index, and rows added into a table of zeros by index.
_define("gather", lambda table, index: table.with_shape((*index.shape, *table.shape[1:])),
        lambda g, y, table, index: (apply("scatter_add", g, index, rows=table.shape[0]), None))  # fmt: skip
_define("scatter_add", lambda g, index, rows: g.with_shape((rows, *g.shape[index.rank :])),
        lambda gg, y, g, index: (apply("gather", gg, index), None))  # fmt: skip
# Each row of g [count, ...] as the sum of all rows of its index: gather(scatter_add(g, index, rows), index), without the table. And a table with some
# rows replaced, those of an index that occurs more than once being equal; the plan writes them over the table.
_define("coalesce", lambda g, index, rows: g, lambda gg, y, g, index: (apply("coalesce", gg, index, **y.attributes), None))
_define("scatter_update", lambda table, index, rows: table)
# The position of each element among `keys`, or `default`; keys are strings, integers or floats.
_define("lookup", lambda x, keys, values, default, dtype: x.with_dtype(dtype), lambda g, y, x: (None,))

# Whole numbers q = round(x / scale) + zero, limited to those that zero's type has, and the way back, (q - zero) * scale. A scale is one number, or one
# for each place of an axis of q; zero is 0 where it is not given.
_define("quantize", lambda x, scale, zero: x.with_dtype(zero.dtype))
_define("dequantize", lambda q, scale, zero=None, axis=None: q.with_dtype(scale.dtype))

# A recurrent layer as a whole, for inference.
_define("recurrent", _recurrent)
# Its steps in training, from the projected inputs z [steps, N, gates units] and R (and Rb_h of a gru). The first gives the states and what the
# gradient needs of each step, as blocks; the second walks back. It has no gradient of its own: passes/unroll.py writes a
# recurrence out where a second derivative is wanted.
_define("recurrence", _recurrence, _recurrence_gradient)
_define("recurrence_gradient", _recurrence_cotangents)

# Standard normal, and 1 with the given probability, else 0: from (seed, stream, step); the operand only gives the shape.
_define("normal", lambda x, stream: x, lambda g, y, x: (None,))
_define("bernoulli", lambda x, probability, stream: x, lambda g, y, x: (None,))
