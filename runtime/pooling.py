"""NumPy kernels of pooling, over images stored with their channels last, in tiles of samples.

A window is gone through place by place: the elements that stand there in all windows are one strided view of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnc.compiler.ir import Value, concrete
from nnc.compiler.workspace import INTEGER_OF, divides, pads

from .convolution import Array, Kernel, in_frame, interior, last, parts


class Windows:
    """The geometry of a pool from a large image to a small one."""

    def __init__(self, value: Value, n: int, large: Value, small: Value):
        a = value.attributes
        self.window, self.stride, self.padding = a["window"], a["stride"], a["padding"]
        self.samples, _, height, width = concrete(large.shape, n)
        _, _, self.high, self.wide = concrete(small.shape, n)
        self.inside = interior(self.padding, (height, width))
        self.pads = pads(value)
        self.down = [slice(i, i + (self.high - 1) * self.stride[0] + 1, self.stride[0]) for i in range(self.window[0])]
        self.right = [slice(j, j + (self.wide - 1) * self.stride[1] + 1, self.stride[1]) for j in range(self.window[1])]
        self.places = [(slice(None), i, j) for i in self.down for j in self.right]
        self.partition = divides(value, large, small)

    def framed(self, x: Array, frame: Array, fill: float) -> Array:
        return in_frame(x, frame, self.padding, fill) if self.pads else x


def _pool(value: Value, n: int, fill: float, merge: Callable[[Array, Array, Array], Any]) -> Kernel:
    """Merge the rows of each window, long runs of memory, and then what is left of its columns."""
    windows = Windows(value, n, value.operands[0], value)

    def pool(x: Array, out: Array, frame: Array, rows: Array) -> None:
        x, y = last(x), last(out)
        for some in parts(len(x), len(frame)):
            image = windows.framed(x[some], frame, fill)
            merged = rows[: len(image)]
            _merge_all([image[:, i] for i in windows.down], merge, merged)
            _merge_all([merged[:, :, j] for j in windows.right], merge, y[some])

    return pool


def _merge_all(parts: list[Array], merge: Callable[[Array, Array, Array], Any], out: Array) -> None:
    if len(parts) == 1:
        np.copyto(out, parts[0])
        return
    merge(parts[0], parts[1], out)
    for part in parts[2:]:
        merge(out, part, out)


def max_pool(value: Value, n: int, randomness: object) -> Kernel:
    return _pool(value, n, -np.inf, lambda a, b, out: np.maximum(a, b, out=out))


def avg_pool(value: Value, n: int, randomness: object) -> Kernel:
    """The sum of each window over the number of its elements that are no padding."""
    summed = _pool(value, n, 0.0, np.add)
    inverse = _inverse_counts(value, n, value.operands[0], value)

    def avg_pool(x: Array, out: Array, frame: Array, rows: Array) -> None:
        summed(x, out, frame, rows)
        y = last(out)
        np.multiply(y, inverse, y)

    return avg_pool


class _Winners:
    """Where the first maximum of each window stands, as masks of ones and zeros for integers of the elements' width."""

    def __init__(self, windows: Windows, dtype: str):
        self.windows, self.integer = windows, np.dtype(INTEGER_OF[dtype])

    def each(self, image: Array, top: Array, free: Array, hit: Array, mask: Array) -> Iterator[tuple[tuple[slice, ...], Array]]:
        free, hit, mask = free[: len(top)], hit[: len(top)], mask[: len(top)]
        free.fill(True)
        for place in self.windows.places:
            np.equal(image[place], top, hit)
            np.logical_and(hit, free, hit)
            np.greater(free, hit, free)
            np.negative(hit.view(np.int8), mask, casting="unsafe")
            yield place, mask


def max_pool_gradient(value: Value, n: int, randomness: object) -> Kernel:
    windows = Windows(value, n, value, value.operands[1])
    winners = _Winners(windows, value.dtype)

    def gradient(x: Array, top: Array, g: Array, out: Array, frame: Array, spread: Array, free: Array, hit: Array, mask: Array) -> None:
        x, top, g, image = last(x), last(top), last(g), last(out)
        for some in parts(len(x), len(frame)):
            walk = winners.each(windows.framed(x[some], frame, -np.inf), top[some], free, hit, mask)
            cotangent = g[some].view(winners.integer)
            if windows.partition:
                target = image[some].view(winners.integer)
                for place, chosen in walk:
                    np.bitwise_and(cotangent, chosen, target[place])
                continue
            whole = spread[: some.stop - some.start]
            whole.fill(0.0)
            for place, chosen in walk:
                np.bitwise_and(cotangent, chosen, chosen)
                part = whole[place]
                np.add(part, chosen.view(whole.dtype), part)
            np.copyto(image[some], whole[:, windows.inside[0], windows.inside[1]])

    return gradient


def max_pool_gather(value: Value, n: int, randomness: object) -> Kernel:
    """What stands in a second image where the first has its maxima."""
    windows = Windows(value, n, value.operands[0], value)
    winners = _Winners(windows, value.dtype)

    def gather(x: Array, top: Array, g: Array, out: Array, frame: Array, spread: Array, free: Array, hit: Array, mask: Array) -> None:
        x, top, g, y = last(x), last(top), last(g), last(out)
        for some in parts(len(x), len(frame)):
            second = windows.framed(g[some], spread, 0.0).view(winners.integer)
            target = y[some].view(winners.integer)
            target[...] = 0
            for place, chosen in winners.each(windows.framed(x[some], frame, -np.inf), top[some], free, hit, mask):
                np.bitwise_and(second[place], chosen, chosen)
                np.bitwise_or(target, chosen, target)

    return gather


def avg_pool_gradient(value: Value, n: int, randomness: object) -> Kernel:
    windows = Windows(value, n, value, value.operands[0])
    inverse = _inverse_counts(value, n, value, value.operands[0])

    def gradient(g: Array, out: Array, frame: Array, scaled: Array) -> None:
        g, image = last(g), last(out)
        for some in parts(len(g), len(frame)):
            share = scaled[: some.stop - some.start]
            np.multiply(g[some], inverse, share)
            if windows.partition:
                for place in windows.places:
                    np.copyto(image[some][place], share)
                continue
            whole = frame[: some.stop - some.start]
            whole.fill(0.0)
            for place in windows.places:
                part = whole[place]
                np.add(part, share, part)
            np.copyto(image[some], whole[:, windows.inside[0], windows.inside[1]])

    return gradient


def _inverse_counts(value: Value, n: int, large: Value, small: Value) -> Array:
    """1 / the number of elements of each window that are no padding: [1, h, w, 1]."""
    windows = Windows(value, n, large, small)
    (top, bottom), (left, right) = windows.padding
    _, _, h, w = concrete(large.shape, n)
    inside = np.zeros((1, h + top + bottom, w + left + right, 1), value.dtype)
    inside[:, windows.inside[0], windows.inside[1]] = 1
    counts = sum(inside[place] for place in windows.places)
    return 1 / np.asarray(counts, value.dtype)
