"""The fast engine's own kernels, where it has one; elsewhere it uses NumPy's."""

from __future__ import annotations

import numpy as np

from nnc.compiler.ir import Value

from . import compiled
from .convolution import Array, Kernel, last
from .pooling import Windows
from .winograd import winograd


def faster(value: Value, n: int) -> Kernel | None:
    match value.op:
        case "max_pool":
            return _max_pool(value, n)
        case "max_pool_gradient":
            return _max_pool_gradient(value, n)
        case _:
            return winograd(value, n)


def _max_pool(value: Value, n: int) -> Kernel:
    windows = Windows(value, n, value.operands[0], value)

    def pool(x: Array, out: Array, frame: Array, rows: Array) -> None:
        x, y = _contiguous(last(x)), last(out)

        def tile(lane: int, some: slice) -> None:
            compiled.pooled(windows.framed(x[some], frame[lane], -np.inf), windows.stride, windows.window, y[some])

        windows.each_tile(frame, tile)

    return pool


def _max_pool_gradient(value: Value, n: int) -> Kernel:
    windows = Windows(value, n, value, value.operands[1])

    def gradient(x: Array, top: Array, g: Array, out: Array, frame: Array, whole: Array, free: Array, hit: Array, mask: Array) -> None:
        x, top, g, image = _contiguous(last(x)), _contiguous(last(top)), _contiguous(last(g)), last(out)

        def tile(lane: int, some: slice) -> None:
            framed = windows.framed(x[some], frame[lane], -np.inf)
            target = whole[lane, : len(framed)] if windows.pads else image[some]
            compiled.pooled_back(framed, top[some], g[some], windows.stride, windows.window, target)
            if windows.pads:
                np.copyto(image[some], target[:, windows.inside[0], windows.inside[1]])

        windows.each_tile(frame, tile)

    return gradient


def _contiguous(x: Array) -> Array:
    """The array in the order of its axes: the compiled loops are made for that."""
    return x if x.flags.c_contiguous else np.ascontiguousarray(x)
