"""Depthwise convolutions as compiled kernels (depthwise.py): what they are given. Images are [n, h, w, c] without gaps, windows [multiplier, tap, channel]."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

from nnc.compiler.ir import Value

from .bound import Argument, Array, Bound
from .machine_code import Codes

depthwise = Codes("depthwise")
TAP, PLACE = 0.03, 0.3  # nanoseconds of an element's product, and of reading and writing an element


def _full(start: int, place: int, step: int, taps: int, targets: int, size: int) -> tuple[int, int]:
    """Of so many targets those whose taps all lie in a source of this size; target t reads start + t place + s step."""
    reach = step * (taps - 1)
    begin = min(targets, max(0, -((start + min(0, reach)) // place)))
    return begin, max(begin, min(targets, (size - 1 - start - max(0, reach)) // place + 1))


def _axis(back: bool, taps: int, stride: int, dilation: int, before: int, source: int, target: int) -> tuple[Argument, ...]:
    """An axis of a convolution, or of its way back from cotangents to images: steps of a target and of a tap in the source, of taps, and the phases."""
    common = gcd(stride, dilation)
    place, step, tap, phases = (1, -dilation // common, stride // common, stride) if back else (stride, dilation, 1, 1)
    rows = []
    for p in range(phases):
        targets = max(0, -(-(target - p) // phases))
        first = next((s for s in range(taps) if (p + before - s * dilation) % stride == 0), taps) if back else 0
        start = (p + before - first * dilation) // stride if back else -before
        count = len(range(first, taps, tap))
        rows.append((start, first, count, targets, *_full(start, place, step, count, targets, source)))
    return place, step, tap, phases, np.array(rows, np.int64)


def convolution(value: Value, source: Array, windows: Array, size: tuple[int, int], target: Array, *, back: bool) -> Bound:
    """The convolution of images; `back`: the images' gradient, from cotangents."""
    a = value.attributes
    channels, multiplier = windows.shape[2], windows.shape[0]
    axes = [_axis(back, size[i], a["stride"][i], a["dilation"][i], a["padding"][i][0], source.shape[1 + i], target.shape[1 + i]) for i in (0, 1)]
    read, written = (multiplier, 1) if back else (1, multiplier)
    given = (source, *source.shape[1:3], target, *target.shape[1:3], len(target), channels, read, written, windows, *size)
    return Bound(depthwise.convolution, (*given, *axes[0], *axes[1]), min(source.size, target.size) * size[0] * size[1] * TAP + target.size * PLACE)


def weight_gradient(value: Value, x: Array, g: Array, sums: Array, lanes: int, out: Array) -> list[Bound]:
    """sums [lanes at least, 2, multiplier, tap, channel] are work space."""
    a = value.attributes
    size: Any = out.shape[2:]
    multiplier, taps, channels = sums.shape[2:]
    (top, _), (left, _) = a["padding"]
    full = _full(-left, a["stride"][1], a["dilation"][1], size[1], g.shape[2], x.shape[2])
    given = (x, *x.shape[1:3], g, *g.shape[1:3], len(g), channels, multiplier, *size, *a["stride"], *a["dilation"], top, left, *full, lanes, sums)
    return [
        Bound(depthwise.weight_gradient, given, g.size * (taps * TAP + PLACE)),
        Bound(depthwise.gathered, (sums, lanes, multiplier, taps, channels, out), lanes * out.size * PLACE),
    ]
