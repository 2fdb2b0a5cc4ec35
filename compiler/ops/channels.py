"""Where channels are: axis 0 of images, [channels, height, width], and the last axis of everything else."""

from ..diagnostics import Refusal
from ..ir import Value, apply


def channel_axis(x: Value) -> int:
    """The axis of channels, the batch counted."""
    return 1 if x.type.rank == 4 else x.type.rank - 1


def channels_of(x: Value, operation: str) -> int:
    """The number of channels; a scalar per sample has none."""
    if x.type.rank < 2:
        raise Refusal("E303", label=f"{operation} wants channels", help="declare the input as float32[1]",
                      operand="this is a scalar per sample", operation=operation)  # fmt: skip
    channels = x.shape[channel_axis(x)]
    assert isinstance(channels, int)
    return channels


def along_channels(v: Value, x: Value) -> Value:
    """An array [channels] in the shape that broadcasts against x."""
    if channel_axis(x) == x.type.rank - 1:
        return v
    return apply("reshape", v, shape=(v.shape[0], *(1,) * (x.type.rank - 2)))


def other_axes(x: Value) -> tuple[int, ...]:
    """All axes but that of channels, the batch included."""
    return tuple(i for i in range(x.type.rank) if i != channel_axis(x))
