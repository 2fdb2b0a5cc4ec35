"""Convolution and pooling over images, [channels, height, width]."""

from typing import Any, Literal

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Value, apply, constant, dims
from ..operation import Build, Fan, Incoming, Kind, NoParams, Params, operation
from ..primitives import total
from .layers import ConstrainedParams, require_float

Pair = int | tuple[int, int]
Padding = Literal["valid", "same"] | int | tuple[int, int]


def _pair(value: Pair, argument: str, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if min(pair) < least:
        raise Refusal("E207", at=argument, label=f"at least {least}", help=f"use {argument}={least} or more",
                      argument=argument, value=str(value), bound=f"at least {least}")  # fmt: skip
    return pair


def _image(x: Value, operation: str) -> tuple[int, int, int]:
    """Channels, height and width of an image, or a refusal."""
    require_float(x, operation)
    if x.type.rank != 4:
        raise Refusal("E303", label=f"{operation} takes images, [channels, height, width]", operand=f"a sample here is {dims(x.shape[1:])}",
                      help="reshape the input to three axes", operation=operation)  # fmt: skip
    _, channels, height, width = x.shape
    return channels, height, width  # type: ignore[return-value]


Edges = tuple[tuple[int, int], tuple[int, int]]


def _padding(padding: Padding, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Edges:
    """Elements added before and after, by axis; `same` gives ceil(in / stride) outputs, the odd element after."""
    if padding == "valid":
        return ((0, 0), (0, 0))
    if padding == "same":
        edges = []
        for i in range(2):
            out = -(-size[i] // stride[i])
            needed = max(0, (out - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 - size[i])
            edges.append((needed // 2, needed - needed // 2))
        return (edges[0], edges[1])
    high, wide = _pair(padding, "padding", 0)
    return ((high, high), (wide, wide))


def _require_fit(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], edges: Edges, at: str, exact: bool
) -> None:
    """E301 when the kernel does not fit its padded input, E308 when exact strides are wanted and leave a rest."""
    for i in range(2):
        reach, padded = (kernel[i] - 1) * dilation[i] + 1, size[i] + sum(edges[i])
        if reach > padded:
            spread = f", spread to {(kernel[0] - 1) * dilation[0] + 1}x{(kernel[1] - 1) * dilation[1] + 1}" if max(dilation) > 1 else ""
            missing = -(-(reach - size[i]) // 2)
            raise Refusal("E301", at=at, label=f"{at} is {kernel[0]}x{kernel[1]}{spread}", operand=f"the input here is {size[0]}x{size[1]}",
                          help=f"use {at} <= {(padded - 1) // dilation[i] + 1}, or padding={missing} or more",
                          argument=at)  # fmt: skip
        if exact and (padded - reach) % stride[i]:
            raise Refusal("E308", at="stride" if stride != (1, 1) else at, operand=f"the input here is {size[0]}x{size[1]}",
                          label=f"({size[i]} + {sum(edges[i])} - {reach}) / {stride[i]} + 1 is no integer",
                          help="change the stride or the padding, or leave out exact=true")  # fmt: skip


class Conv2dParams(ConstrainedParams):
    channels: int = Field(ge=1, description="number of output channels")
    kernel: Pair = Field(description="height and width of the window; one number for both")
    stride: Pair = Field(1, description="distance between windows")
    padding: Padding = Field("valid", description="valid: none; same: ceil(in / stride) outputs; or zeros on each side")
    dilation: Pair = Field(1, description="distance between the elements of a window")
    groups: int = Field(1, ge=1, description="number of groups of channels that do not mix")
    exact: bool = Field(False, description="refuse a size that the stride does not divide")


@operation(Kind.LAYER, Conv2dParams, facts={"linear_step"})
def conv2d(build: Build, x: Value, p: Conv2dParams) -> Value:
    """y[o, i, j] = b[o] + sum over c, u, v of w[o, c, u, v] * x[c, i S + u D, j S + v D] (cross-correlation).

    Shape: [in, h, w] -> [channels, (h + 2P - F) / S + 1, ...], rounded down; weight [out, in / groups, kh, kw]. Source: LeCun et al. 1989.

    Differs: padding=same puts the odd element after, as in Keras, TensorFlow and ONNX's SAME_UPPER; torch does so too, without strides alone. Keras's
    weight is [kh, kw, in / groups, out].
    """
    channels, height, width = _image(x, "conv2d")
    size = (height, width)
    kernel, stride, dilation = _pair(p.kernel, "kernel", 1), _pair(p.stride, "stride", 1), _pair(p.dilation, "dilation", 1)
    _require_groups(p.groups, channels, p.channels)
    edges = _padding(p.padding, size, kernel, stride, dilation)
    _require_fit(size, kernel, stride, dilation, edges, "kernel", p.exact)
    taps = kernel[0] * kernel[1]
    fan = Fan(channels // p.groups * taps, p.channels // p.groups * taps)
    w = build.parameter("weight", (p.channels, channels // p.groups, *kernel), p.init, fan=fan, incoming=Incoming((1, 2, 3)))
    y = apply("conv2d", x, w, stride=stride, padding=edges, dilation=dilation, groups=p.groups)
    if p.bias:
        b = build.parameter("bias", (p.channels,), p.bias_init, fan=fan)
        y = y + apply("reshape", b, shape=(p.channels, 1, 1))
    return y


class Conv1dParams(ConstrainedParams):
    channels: int = Field(ge=1, description="number of output channels")
    kernel: int = Field(ge=1, description="length of the window")
    stride: int = Field(1, ge=1, description="distance between windows")
    padding: Literal["valid", "same"] | int = Field("valid", description="as for conv2d")
    dilation: int = Field(1, ge=1, description="distance between the elements of a window")
    groups: int = Field(1, ge=1, description="number of groups of channels that do not mix")
    exact: bool = Field(False, description="refuse a size that the stride does not divide")


@operation(Kind.LAYER, Conv1dParams, facts={"linear_step"})
def conv1d(build: Build, x: Value, p: Conv1dParams) -> Value:
    """y[i, o] = b[o] + sum over c, u of w[o, c, u] * x[i S + u D, c] over sequences, [steps, features].

    Shape: [steps, in] -> [(steps + 2P - F) / S + 1, channels], rounded down; weight [out, in / groups, k]. Source: Waibel et al. 1989.

    Differs: Keras has sequences as here, [steps, features], torch and ONNX [features, steps].
    """
    require_float(x, "conv1d")
    if x.type.rank != 3:
        raise Refusal("E303", label="conv1d takes sequences, [steps, features]", operand=f"a sample here is {dims(x.shape[1:])}",
                      help="reshape the input to two axes", operation="conv1d")  # fmt: skip
    n, steps, channels = x.shape
    assert isinstance(steps, int)
    assert isinstance(channels, int)
    _require_groups(p.groups, channels, p.channels)
    kernel, stride, dilation = (1, p.kernel), (1, p.stride), (1, p.dilation)
    padding = (0, p.padding) if isinstance(p.padding, int) else p.padding
    edges = _padding(padding, (1, steps), kernel, stride, dilation)
    _require_fit((1, steps), kernel, stride, dilation, edges, "kernel", p.exact)
    fan = Fan(channels // p.groups * p.kernel, p.channels // p.groups * p.kernel)
    w = build.parameter("weight", (p.channels, channels // p.groups, p.kernel), p.init, fan=fan, incoming=Incoming((1, 2)))
    image = apply("reshape", apply("transpose", x, order=(0, 2, 1)), shape=(n, channels, 1, steps))
    flat = apply("reshape", w, shape=(p.channels, channels // p.groups, 1, p.kernel))
    y = apply("conv2d", image, flat, stride=stride, padding=edges, dilation=dilation, groups=p.groups)
    y = apply("transpose", apply("reshape", y, shape=(n, p.channels, y.shape[3])), order=(0, 2, 1))
    return y + build.parameter("bias", (p.channels,), p.bias_init, fan=fan) if p.bias else y


def _require_groups(groups: int, channels: int, out: int) -> None:
    if channels % groups or out % groups:
        raise Refusal("E306", at="groups", label=f"{groups} groups of {channels} -> {out} channels",
                      operand=f"the input here has {channels} channels",
                      help="groups must divide both numbers of channels", groups=groups)  # fmt: skip


class Conv2dTransposeParams(ConstrainedParams):
    channels: int = Field(ge=1, description="number of output channels")
    kernel: Pair = Field(description="height and width of the window; one number for both")
    stride: Pair = Field(1, description="distance between windows in the output")
    padding: int | tuple[int, int] = Field(0, description="elements cut from each side of the output")
    output_padding: int | tuple[int, int] = Field(0, description="elements added after the output")
    dilation: Pair = Field(1, description="distance between the elements of a window")
    groups: int = Field(1, ge=1, description="number of groups of channels that do not mix")


@operation(Kind.LAYER, Conv2dTransposeParams, facts={"linear_step"})
def conv2d_transpose(build: Build, x: Value, p: Conv2dTransposeParams) -> Value:
    """The transpose of conv2d's map: each element spreads over a window, y[o, i S + u D, ...] += w[c, o, u, v] * x[c, i, ...].

    Shape: [in, h, w] -> [channels, (h - 1) S - 2P + (F - 1) D + 1 + output_padding, ...]; weight [in, out / groups, kh, kw]. Source: Zeiler et al. 2010.

    Differs: Keras says padding with words and derives the output's size from them; sizes here are torch's and ONNX's.
    """
    channels, height, width = _image(x, "conv2d_transpose")
    kernel, stride, dilation = _pair(p.kernel, "kernel", 1), _pair(p.stride, "stride", 1), _pair(p.dilation, "dilation", 1)
    padding, extra = _pair(p.padding, "padding", 0), _pair(p.output_padding, "output_padding", 0)
    _require_groups(p.groups, channels, p.channels)
    size = []
    for i, length in enumerate((height, width)):
        out = (length - 1) * stride[i] - 2 * padding[i] + (kernel[i] - 1) * dilation[i] + 1 + extra[i]
        if extra[i] >= max(stride[i], dilation[i]) or out < 1:
            at = "padding" if out < 1 else "output_padding"
            bound = "small enough to leave an output" if out < 1 else f"less than the stride, {stride[i]}"
            raise Refusal("E207", at=at, label=f"the output would have {out} elements", help="use less", argument=at,
                          value=str(padding[i] if out < 1 else extra[i]), bound=bound)  # fmt: skip
        size.append(out)
    taps = kernel[0] * kernel[1]
    fan = Fan(channels // p.groups * taps, p.channels // p.groups * taps)
    by_group = Incoming((1, 3, 4), (p.groups, channels // p.groups, p.channels // p.groups, *kernel))
    w = build.parameter("weight", (channels, p.channels // p.groups, *kernel), p.init, fan=fan, incoming=by_group)
    edges = ((padding[0], padding[0]), (padding[1], padding[1]))
    y = apply("conv2d_input_gradient", x, w, size=tuple(size), stride=stride, padding=edges, dilation=dilation, groups=p.groups)
    if p.bias:
        y = y + apply("reshape", build.parameter("bias", (p.channels,), p.bias_init, fan=fan), shape=(p.channels, 1, 1))
    return y


class DepthwiseParams(ConstrainedParams):
    kernel: Pair = Field(description="height and width of the window; one number for both")
    multiplier: int = Field(1, ge=1, description="outputs of each channel")
    stride: Pair = Field(1, description="distance between windows")
    padding: Padding = Field("valid", description="as for conv2d")
    dilation: Pair = Field(1, description="distance between the elements of a window")
    exact: bool = Field(False, description="refuse a size that the stride does not divide")


@operation(Kind.LAYER, DepthwiseParams, facts={"linear_step"})
def depthwise_conv2d(build: Build, x: Value, p: DepthwiseParams) -> Value:
    """conv2d with a group for each channel. Shape: [c, h, w] -> [c * multiplier, ...]; weight [c * multiplier, 1, kh, kw]. Source: Sifre 2014."""
    channels, _, _ = _image(x, "depthwise_conv2d")
    given: dict[str, Any] = {name: getattr(p, name) for name in type(p).model_fields if name != "multiplier"}
    y: Value = conv2d(build, x, Conv2dParams(channels=channels * p.multiplier, groups=channels, **given))
    return y


class PoolParams(Params):
    window: Pair = Field(description="height and width of the window")
    stride: Pair | None = Field(None, description="distance between windows; the window when not given")
    padding: Padding = Field("valid", description="as for conv2d; padded elements do not count")
    exact: bool = Field(False, description="refuse a size that the stride does not divide")


def _pool(x: Value, p: PoolParams, name: str) -> dict[str, object]:
    _, height, width = _image(x, name)
    window = _pair(p.window, "window", 1)
    stride = window if p.stride is None else _pair(p.stride, "stride", 1)
    edges = _padding(p.padding, (height, width), window, stride, (1, 1))
    for i in range(2):
        if max(edges[i]) >= window[i]:
            raise Refusal("E207", at="padding", label="a window would lie wholly outside", help=f"use padding={window[i] - 1} or less",
                          argument="padding", value=str(max(edges[i])), bound=f"less than the window, {window[i]}")  # fmt: skip
    _require_fit((height, width), window, stride, (1, 1), edges, "window", p.exact)
    return {"window": window, "stride": stride, "padding": edges}


@operation(Kind.LAYER, PoolParams, facts={"pool"})
def max_pool(build: Build, x: Value, p: PoolParams) -> Value:
    """The largest element of each window, by channel. Of equal ones the first gets the gradient.

    Shape: [c, h, w] -> [c, (h + 2P - F) / S + 1, ...], rounded down. Source: Ranzato et al. 2007.

    Differs: torch refuses padding of more than half of the window; Keras and ONNX pad as here, with -inf.
    """
    return apply("max_pool", x, **_pool(x, p, "max_pool"))


@operation(Kind.LAYER, PoolParams, facts={"pool"})
def avg_pool(build: Build, x: Value, p: PoolParams) -> Value:
    """The mean of each window, by channel; padding is not counted (ONNX's count_include_pad=0). Shape as max_pool. Source: LeCun et al. 1998.

    Differs: Keras and ONNX leave padding out as well; torch counts its zeros unless count_include_pad=False.
    """
    return apply("avg_pool", x, **_pool(x, p, "avg_pool"))


@operation(Kind.LAYER, facts={"pool"})
def global_max_pool(build: Build, x: Value, p: NoParams) -> Value:
    """The largest element of each channel. Shape: [c, h, w] -> [c]. Source: Oquab et al. 2015.

    Differs: torch's AdaptiveMaxPool2d(1) and ONNX's GlobalMaxPool keep two axes of length 1; Keras drops them, as here.
    """
    channels, height, width = _image(x, "global_max_pool")
    size = (height, width)
    top = apply("max_pool", x, window=size, stride=size, padding=((0, 0), (0, 0)))
    return apply("reshape", top, shape=(x.shape[0], channels))


@operation(Kind.LAYER, facts={"pool"})
def global_avg_pool(build: Build, x: Value, p: NoParams) -> Value:
    """The mean of each channel. Shape: [c, h, w] -> [c]. Source: Lin et al. 2013, arXiv:1312.4400.

    Differs: torch's AdaptiveAvgPool2d(1) and ONNX's GlobalAveragePool keep two axes of length 1; Keras drops them, as here.
    """
    _, height, width = _image(x, "global_avg_pool")
    return total(x, 2, 3) * constant(1 / (height * width), x.dtype)


