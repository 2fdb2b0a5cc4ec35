"""{primitive: how it is written in ONNX operators}. Nothing here imports onnx: the emitter does the writing.

Only operators that every opset from 13 on has, in forms that onnxruntime's CPU provider runs in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .ir import Batch, Dim, Shape, Value

Body = Callable[["Emitter", list[str], list[str]], tuple[list[str], list[str]]]


class Emitter(Protocol):
    """What is written into. `parts` keeps, of a tensor, what lies along its first axis, each by itself."""

    opset: int
    parts: dict[str, list[str]]

    def node(self, op: str, *inputs: str, place: int = 0, domain: str = "", **attributes: Any) -> str:
        """Append an operator; the name of the output at `place`, those before it are left out."""
        ...

    def tensor(self, values: Any, dtype: str, shape: Sequence[int] | None = None) -> str:
        """The name of a constant; a scalar when no shape is given."""
        ...

    def several(self, op: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        """Append an operator; the names of its first outputs."""
        ...

    def scan(self, dtype: str, states: Sequence[str], sequences: Sequence[str], body: Body, *, reverse: bool) -> list[str]:
        """Walk through the first axis of the sequences; what the body gives of each step, along a first axis.

        The body gets the names of the states and of a step's elements, and gives the new states and its results.
        """
        ...

    @property
    def batch(self) -> str:
        """The number of samples, int64[1]."""
        ...


Lowering = Callable[[Emitter, Value, list[str]], str]


def _op(name: str) -> Lowering:
    return lambda emit, value, inputs: emit.node(name, *inputs)


def static(shape: Shape) -> list[int]:
    """The shape with -1 for the batch."""
    return [-1 if isinstance(d, Batch) else d for d in shape]


def sizes(emit: Emitter, dims: Sequence[int]) -> str:
    """Known integers as a tensor."""
    return emit.tensor(list(dims), "int64", [len(dims)])


def shape_of(emit: Emitter, shape: Shape) -> str:
    """A shape as a tensor; its axes of the batch have their size when the graph runs."""
    if not any(isinstance(d, Batch) for d in shape):
        return sizes(emit, static(shape))
    pieces = [_axis(emit, d) for d in shape]
    return emit.node("Concat", *pieces, axis=0) if len(pieces) > 1 else pieces[0]


def _axis(emit: Emitter, d: Dim) -> str:
    if not isinstance(d, Batch):
        return sizes(emit, [d])
    return emit.batch if d.factor == 1 else emit.node("Mul", emit.batch, sizes(emit, [d.factor]))


def zeros(emit: Emitter, dtype: str, shape: Shape) -> str:
    return emit.node("Expand", emit.tensor(0.0, dtype), shape_of(emit, shape))


def reshape_to(emit: Emitter, name: str, shape: Shape) -> str:
    """At most one axis may be of the batch."""
    return emit.node("Reshape", name, sizes(emit, static(shape)))


def _log1p(emit: Emitter, value: Value, inputs: list[str]) -> str:
    return emit.node("Log", emit.node("Add", inputs[0], emit.tensor(1.0, value.dtype)))


def _expm1(emit: Emitter, value: Value, inputs: list[str]) -> str:
    return emit.node("Sub", emit.node("Exp", inputs[0]), emit.tensor(1.0, value.dtype))


def _cast(emit: Emitter, value: Value, inputs: list[str]) -> str:
    return emit.node("Cast", inputs[0], to=value.dtype)


def _reduce_sum(emit: Emitter, value: Value, inputs: list[str]) -> str:
    axes = value.attributes["axes"]
    return emit.node("ReduceSum", inputs[0], sizes(emit, axes), keepdims=int(value.attributes["keepdims"]))


def _reduce_max(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """The axes are an input from opset 18 on, an attribute before."""
    axes, keepdims = value.attributes["axes"], int(value.attributes["keepdims"])
    if emit.opset >= 18:
        return emit.node("ReduceMax", inputs[0], sizes(emit, axes), keepdims=keepdims)
    return emit.node("ReduceMax", inputs[0], axes=list(axes), keepdims=keepdims)


def _dot(emit: Emitter, value: Value, inputs: list[str]) -> str:
    return emit.node("ReduceSum", emit.node("Mul", *inputs), keepdims=0)


def _argmax(emit: Emitter, value: Value, inputs: list[str]) -> str:
    return emit.node("ArgMax", inputs[0], axis=value.attributes["axis"], keepdims=0)


def _matmul(emit: Emitter, value: Value, inputs: list[str]) -> str:
    operands = []
    for operand, name, flag in zip(value.operands, inputs, ("transpose_a", "transpose_b"), strict=True):
        if value.attributes[flag]:
            rank = operand.type.rank
            name = emit.node("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2])
        operands.append(name)
    return emit.node("MatMul", *operands)


def _on_axis(op: str) -> Lowering:
    return lambda emit, value, inputs: emit.node(op, inputs[0], axis=value.attributes["axis"])


def pads(value: Value) -> list[int]:
    (top, bottom), (left, right) = value.attributes["padding"]
    return [top, left, bottom, right]


def _conv2d(emit: Emitter, value: Value, inputs: list[str]) -> str:
    a = value.attributes
    return emit.node("Conv", *inputs, strides=list(a["stride"]), pads=pads(value), dilations=list(a["dilation"]), group=a["groups"],
                     kernel_shape=list(value.operands[1].shape[2:]))  # fmt: skip


def extra_output(g: Any, size: Any, window: Any, stride: int, padding: tuple[int, int], dilation: int = 1) -> int:
    """Rows that a transposed convolution must add, because the last stride of the convolution left them over."""
    return int(size - ((g - 1) * stride - sum(padding) + (window - 1) * dilation + 1))


def _conv_transpose(emit: Emitter, value: Value, inputs: list[str]) -> str:
    a = value.attributes
    g, w = value.operands
    extra = [extra_output(g.shape[2 + i], a["size"][i], w.shape[2 + i], a["stride"][i], a["padding"][i], a["dilation"][i]) for i in range(2)]
    return emit.node("ConvTranspose", *inputs, strides=list(a["stride"]), pads=pads(value), dilations=list(a["dilation"]), group=a["groups"],
                     kernel_shape=list(w.shape[2:]), output_padding=extra)  # fmt: skip


def _pool(op: str, **more: Any) -> Lowering:
    def lower(emit: Emitter, value: Value, inputs: list[str]) -> str:
        a = value.attributes
        return emit.node(op, inputs[0], kernel_shape=list(a["window"]), strides=list(a["stride"]), pads=pads(value), **more)

    return lower


def _reshape(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """0 copies the operand's axis, which keeps the batch's name through shape inference; -1 where it is split or joined."""
    (x,) = value.operands
    kept = [isinstance(d, Batch) and i < x.type.rank and x.shape[i] == d for i, d in enumerate(value.shape)]
    dims = [0 if same else d for same, d in zip(kept, static(value.shape), strict=True)]
    return emit.node("Reshape", inputs[0], sizes(emit, dims))


def _transpose(emit: Emitter, value: Value, inputs: list[str]) -> str:
    return emit.node("Transpose", inputs[0], perm=list(value.attributes["order"]))


def _broadcast_to(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """Expand; an axis of 1 keeps what the operand has there, which the batch axis already is."""
    (source,) = value.operands
    offset = value.type.rank - source.type.rank
    for place, d in enumerate(value.shape):
        assert not isinstance(d, Batch) or (place >= offset and source.shape[place - offset] == d), "Expand to the batch"
    return emit.node("Expand", inputs[0], sizes(emit, [1 if isinstance(d, Batch) else d for d in value.shape]))


def _slice(emit: Emitter, value: Value, inputs: list[str]) -> str:
    a = value.attributes
    return emit.node("Slice", inputs[0], *(sizes(emit, [a[k]]) for k in ("start", "stop", "axis")))


def _pad(emit: Emitter, value: Value, inputs: list[str]) -> str:
    a, rank = value.attributes, value.type.rank
    pads = [0] * (2 * rank)
    pads[a["axis"]], pads[rank + a["axis"]] = a["before"], a["after"]
    return emit.node("Pad", inputs[0], sizes(emit, pads))


def _concat(emit: Emitter, value: Value, inputs: list[str]) -> str:
    return emit.node("Concat", *inputs, axis=value.attributes["axis"])


def _one_hot(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """Equal against 0..depth-1: OneHot would wrap negative indices."""
    depth = value.attributes["depth"]
    index = emit.node("Unsqueeze", inputs[0], sizes(emit, [value.type.rank - 1]))
    return emit.node("Cast", emit.node("Equal", index, emit.tensor(list(range(depth)), "int64", [depth])), to=value.dtype)


def _pick(emit: Emitter, value: Value, inputs: list[str]) -> str:
    axis = value.operands[0].type.rank - 1
    index = emit.node("Unsqueeze", inputs[1], sizes(emit, [axis]))
    return emit.node("Squeeze", emit.node("GatherElements", inputs[0], index, axis=axis), sizes(emit, [axis]))


_LABEL_KINDS = {"string": "strings", "int64": "int64s", "float32": "floats"}
_LABEL_DEFAULTS = {"string": "string", "int64": "int64", "float32": "float"}


def _lookup(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """LabelEncoder of the standard ai.onnx.ml operators: strings have no other way to become numbers."""
    a, source = value.attributes, value.operands[0].dtype
    (x,) = inputs
    if source in ("uint8", "bool"):  # it takes int64 alone
        x, source = emit.node("Cast", x, to="int64"), "int64"
    attributes = {
        f"keys_{_LABEL_KINDS[source]}": list(a["keys"]),
        f"values_{_LABEL_KINDS[value.dtype]}": list(a["values"]),
        f"default_{_LABEL_DEFAULTS[value.dtype]}": a["default"],
    }
    return emit.node("LabelEncoder", x, domain="ai.onnx.ml", **attributes)


def _recurrent(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """RNN, LSTM or GRU over steps first; their outputs are [steps, directions, N, units] and [directions, N, units]."""
    kind, _, activation = value.attributes["kind"].partition("_")
    directions, _, units = value.operands[2].shape
    assert isinstance(directions, int)
    attributes: dict[str, Any] = {"hidden_size": units, "direction": "bidirectional" if directions == 2 else "forward"}
    if kind == "gru":
        attributes["linear_before_reset"] = 1
    if activation:
        attributes["activations"] = [activation.capitalize()] * directions
    first = emit.node("Transpose", inputs[0], perm=[1, 0, 2])
    sequences = value.attributes["sequences"]
    found = emit.node(kind.upper(), first, *inputs[1:], place=0 if sequences else 1, **attributes)
    moved = emit.node("Transpose", found, perm=[2, 0, 1, 3] if sequences else [1, 0, 2])
    return emit.node("Reshape", moved, sizes(emit, static(value.shape)))


def _dequantize(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """The zero is always written: onnxruntime makes no product of whole numbers of a Gemm that leaves it out."""
    axis, (q, scale, *_) = value.attributes["axis"], value.operands
    zero = inputs[2] if len(inputs) == 3 else emit.tensor([0] * scale.type.size(1), q.dtype, static(scale.shape))
    return emit.node("DequantizeLinear", *inputs[:2], zero, **({} if axis is None else {"axis": axis}))


def _axis_size(emit: Emitter, value: Value, inputs: list[str]) -> str:
    axis = emit.tensor(value.attributes["axis"], "int64")
    size = emit.node("Gather", emit.node("Shape", inputs[0]), axis, axis=0)
    return emit.node("Cast", size, to=value.dtype)


LOWERINGS: dict[str, Lowering] = {
    "negative": _op("Neg"),
    "exp": _op("Exp"),
    "log": _op("Log"),
    "log1p": _log1p,
    "expm1": _expm1,
    "sqrt": _op("Sqrt"),
    "tanh": _op("Tanh"),
    "sigmoid": _op("Sigmoid"),
    "softplus": _op("Softplus"),
    "erf": _op("Erf"),
    "absolute": _op("Abs"),
    "sign": _op("Sign"),
    "floor": _op("Floor"),
    "add": _op("Add"),
    "subtract": _op("Sub"),
    "multiply": _op("Mul"),
    "divide": _op("Div"),
    "power": _op("Pow"),
    "maximum": _op("Max"),
    "minimum": _op("Min"),
    "greater": _op("Greater"),
    "greater_equal": _op("GreaterOrEqual"),
    "less": _op("Less"),
    "less_equal": _op("LessOrEqual"),
    "equal": _op("Equal"),
    "is_nan": _op("IsNaN"),
    "where": _op("Where"),
    "cast": _cast,
    "surrogate": lambda emit, value, inputs: inputs[0],
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_max,
    "dot": _dot,
    "argmax": _argmax,
    "matmul": _matmul,
    "softmax": _on_axis("Softmax"),
    "log_softmax": _on_axis("LogSoftmax"),
    "conv2d": _conv2d,
    "conv2d_input_gradient": _conv_transpose,
    "max_pool": _pool("MaxPool"),
    "avg_pool": _pool("AveragePool", count_include_pad=0),
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast_to,
    "slice": _slice,
    "pad": _pad,
    "concat": _concat,
    "gather": lambda emit, value, inputs: emit.node("Gather", *inputs, axis=0),
    "one_hot": _one_hot,
    "pick": _pick,
    "lookup": _lookup,
    "recurrent": _recurrent,
    "axis_size": _axis_size,
    "quantize": _op("QuantizeLinear"),
    "dequantize": _dequantize,
}
