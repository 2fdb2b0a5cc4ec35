"""Normalisation: by statistics of the batch, of a sample, or of groups of channels."""

from math import prod

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Value, apply
from ..operation import Build, Kind, Params, operation
from ..primitives import total
from .channels import along_channels, channel_axis, channels_of, other_axes
from .layers import require_float


def mean_over(x: Value, axes: tuple[int, ...]) -> Value:
    """The mean over axes that include the batch."""
    static = 1
    for axis in axes[1:]:
        size = x.shape[axis]
        assert isinstance(size, int)
        static *= size
    count = apply("axis_size", x, axis=0, dtype=x.dtype) * static
    return total(x, *axes) / count


class BatchNormParams(Params):
    momentum: float = Field(0.9, ge=0, lt=1, description="share of the old running statistics that an update keeps")
    epsilon: float = Field(1e-5, gt=0, description="added to the variance")


@operation(Kind.LAYER, BatchNormParams, facts={"norm", "transparent", "batch_statistics"})
def batch_norm(build: Build, x: Value, p: BatchNormParams) -> Value:
    """scale * (x - mean) / sqrt(var + epsilon) + bias, by channel.

    In training mean and var are the batch's (var biased), and running = momentum * running + (1 - momentum) * batch; in inference and in a frozen part
    they are the running ones. Source: Ioffe and Szegedy 2015, arXiv:1502.03167. Shape: any -> same.

    Differs: torch's momentum is the share of the new statistics, 0.1 for 0.9 here, and its running variance is the unbiased one, n / (n - 1) times this.
    ONNX's rule is the one here. Keras's momentum means the same as here and is 0.99, with epsilon 0.001.
    """
    require_float(x, "batch_norm")
    channels = channels_of(x, "batch_norm")
    scale = build.parameter("scale", (channels,), start=1.0)
    bias = build.parameter("bias", (channels,), start=0.0)
    running_mean = build.statistic("running_mean", (channels,), 0.0)
    running_var = build.statistic("running_var", (channels,), 1.0)
    if build.training and not build.frozen:
        axes = other_axes(x)
        mean = mean_over(x, axes)
        centred = x - along_channels(mean, x)
        var = mean_over(centred * centred, axes)
        build.update(running_mean, running_mean * p.momentum + mean * (1 - p.momentum))
        build.update(running_var, running_var * p.momentum + var * (1 - p.momentum))
    else:
        centred = x - along_channels(running_mean, x)
        var = running_var
    return centred * along_channels(scale / apply("sqrt", var + p.epsilon), x) + along_channels(bias, x)


class NormParams(Params):
    epsilon: float = Field(1e-5, gt=0, description="added to the variance")


def _centred(x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    """(x - mean) / sqrt(var + epsilon) over axes of a sample, var biased."""
    count = prod(x.shape[a] for a in axes)  # type: ignore[misc]
    centred = x - total(x, *axes, keepdims=True) * (1 / count)
    var = total(centred * centred, *axes, keepdims=True) * (1 / count)
    return centred / apply("sqrt", var + epsilon)


@operation(Kind.LAYER, NormParams, facts={"norm", "transparent"})
def layer_norm(build: Build, x: Value, p: NormParams) -> Value:
    """scale * (x - mean) / sqrt(var + epsilon) + bias, mean and var of each sample: over the last axis, or all axes of an image.

    scale and bias [channels]. Source: Ba et al. 2016, arXiv:1607.06450. Shape: any -> same.

    Differs: on images torch's LayerNorm([c, h, w]) has a scale for each element, here each channel has one; Keras normalises the last axis. epsilon is
    1e-5 in torch and ONNX, 0.001 in Keras.
    """
    require_float(x, "layer_norm")
    channels = channels_of(x, "layer_norm")
    axes = (1, 2, 3) if x.type.rank == 4 else (x.type.rank - 1,)
    scale, bias = build.parameter("scale", (channels,), start=1.0), build.parameter("bias", (channels,), start=0.0)
    return _centred(x, axes, p.epsilon) * along_channels(scale, x) + along_channels(bias, x)


class GroupNormParams(Params):
    groups: int = Field(ge=1, description="number of groups of channels")
    epsilon: float = Field(1e-5, gt=0, description="added to the variance")


@operation(Kind.LAYER, GroupNormParams, facts={"norm", "transparent"})
def group_norm(build: Build, x: Value, p: GroupNormParams) -> Value:
    """scale * (x - mean) / sqrt(var + epsilon) + bias, mean and var of each sample over a group of channels and all other axes.

    scale and bias [channels]. Source: Wu and He 2018, arXiv:1803.08494. Shape: any -> same.

    Differs: epsilon is 1e-5 in torch, 0.001 in Keras. ONNX's GroupNormalization of opset 18 has a scale for each group, from 21 on for each channel.
    """
    require_float(x, "group_norm")
    channels = channels_of(x, "group_norm")
    if channels % p.groups:
        raise Refusal("E306", at="groups", label=f"{p.groups} groups of {channels} channels", operand=f"the input here has {channels} channels",
                      help="groups must divide the number of channels", groups=p.groups)  # fmt: skip
    axis, n = channel_axis(x), x.shape[0]
    grouped = (*x.shape[:axis], p.groups, channels // p.groups, *x.shape[axis + 1 :])
    spread = apply("reshape", x, shape=grouped)
    axes = tuple(i for i in range(1, len(grouped)) if i != axis)
    y = apply("reshape", _centred(spread, axes, p.epsilon), shape=(n, *x.shape[1:]))
    scale, bias = build.parameter("scale", (channels,), start=1.0), build.parameter("bias", (channels,), start=0.0)
    return y * along_channels(scale, x) + along_channels(bias, x)
