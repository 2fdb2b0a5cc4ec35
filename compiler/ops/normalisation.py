"""Normalisation by statistics of the batch."""

from __future__ import annotations

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Value, apply
from ..operation import Build, Kind, Params, operation
from ..primitives import total
from .layers import require_float


def channel_axis(x: Value) -> int:
    """Channels are axis 0 of images, [channels, height, width], and the last axis of everything else."""
    return 1 if x.type.rank == 4 else x.type.rank - 1


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


@operation(Kind.LAYER, BatchNormParams, facts={"norm", "transparent"})
def batch_norm(build: Build, x: Value, p: BatchNormParams) -> Value:
    """scale * (x - mean) / sqrt(var + epsilon) + bias, by channel.

    In training mean and var are the batch's (var biased), and running = momentum * running + (1 - momentum) * batch; in
    inference and in a frozen part they are the running ones. Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
    """
    require_float(x, "batch_norm")
    if x.type.rank < 2:
        raise Refusal("E303", label="batch_norm wants channels", help="declare the input as float32[1]",
                      operand="this is a scalar per sample", operation="batch_norm")  # fmt: skip
    axis = channel_axis(x)
    channels = x.shape[axis]
    assert isinstance(channels, int)
    along = tuple(channels if i == axis else 1 for i in range(x.type.rank)) if axis != x.type.rank - 1 else (channels,)

    def spread(v: Value) -> Value:
        return v if v.shape == along else apply("reshape", v, shape=along)

    scale = build.parameter("scale", (channels,), start=1.0)
    bias = build.parameter("bias", (channels,), start=0.0)
    running_mean = build.statistic("running_mean", (channels,), 0.0)
    running_var = build.statistic("running_var", (channels,), 1.0)
    if build.training and not build.frozen:
        axes = tuple(i for i in range(x.type.rank) if i != axis)
        mean = mean_over(x, axes)
        centred = x - spread(mean)
        var = mean_over(centred * centred, axes)
        build.update(running_mean, running_mean * p.momentum + mean * (1 - p.momentum))
        build.update(running_var, running_var * p.momentum + var * (1 - p.momentum))
    else:
        centred = x - spread(running_mean)
        var = running_var
    return centred * spread(scale / apply("sqrt", var + p.epsilon)) + spread(bias)
