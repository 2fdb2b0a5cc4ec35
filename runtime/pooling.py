"""NumPy kernels of pooling, over images stored with their channels last, in tiles of each lane's samples.

A window is gone through place by place: the elements that stand there in all windows are one strided view of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnc.compiler.ir import Value, concrete
from nnc.compiler.workspace import INTEGER_OF, divides, pads

from .convolution import Kernel, in_frame, interior, last, parts
from .divided import Array, Calls, Divided, Phase, by_samples


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

    def framed(self, x: Array, frame: Array, fill: float) -> tuple[Calls, Array]:
        return in_frame(x, frame, self.padding, fill) if self.pads else ([], x)


Merge = Callable[[Array, Array, Array], Any]


class _Pool(Divided):
    """Merge the rows of each window, long runs of memory, and then what is left of its columns. An average is a sum times `factor`."""

    def __init__(self, value: Value, n: int, fill: float, merge: Merge, factor: Array | None = None):
        self.windows, self.fill, self.merge, self.factor = Windows(value, n, value.operands[0], value), fill, merge, factor

    def phases(self, x: Array, out: Array, frame: Array, rows: Array) -> list[Phase]:
        image, small = last(x), last(out)
        return [by_samples(len(x), lambda lane, some: self._lane(image[some], small[some], frame[lane], rows[lane]))]

    def _lane(self, x: Array, y: Array, frame: Array, rows: Array) -> Calls:
        calls: Calls = []
        for some in parts(len(x), len(frame)):
            moved, image = self.windows.framed(x[some], frame, self.fill)
            merged = rows[: len(image)]
            calls += [
                *moved,
                *self._merged([image[:, i] for i in self.windows.down], merged),
                *self._merged([merged[:, :, j] for j in self.windows.right], y[some]),
            ]
            if self.factor is not None:
                calls.append((np.multiply, (y[some], self.factor, y[some])))
        return calls

    def _merged(self, parts: list[Array], out: Array) -> Calls:
        if len(parts) == 1:
            return [(np.copyto, (out, parts[0]))]
        return [(self.merge, (parts[0], parts[1], out)), *((self.merge, (out, part, out)) for part in parts[2:])]


def _maximum(a: Array, b: Array, out: Array) -> None:
    np.maximum(a, b, out=out)  # NumPy deprecates a third positional argument


def max_pool(value: Value, n: int, randomness: object) -> Kernel:
    return _Pool(value, n, -np.inf, _maximum)


def avg_pool(value: Value, n: int, randomness: object) -> Kernel:
    """The sum of each window over the number of its elements that are no padding."""
    return _Pool(value, n, 0.0, np.add, _inverse_counts(value, n, value.operands[0], value))


class _Choice(Divided):
    """Go through a maximum pool's windows by where the first maximum of each stands: by masks of ones and zeros for integers of the elements' width."""

    def __init__(self, value: Value, n: int, large: Value):
        self.windows = Windows(value, n, large, value.operands[1])
        self.integer = np.dtype(INTEGER_OF[value.dtype])

    def phases(self, x: Array, top: Array, g: Array, out: Array, *space: Array) -> list[Phase]:
        """The work space: a tile of the framed image, another one, and three arrays for masks."""
        images = [last(each) for each in (x, top, g, out)]
        return [by_samples(len(x), lambda lane, some: self._lane(*(each[some] for each in images), *(each[lane] for each in space)))]

    def _lane(self, x: Array, top: Array, g: Array, y: Array, frame: Array, second: Array, *masks: Array) -> Calls:
        calls: Calls = []
        for some in parts(len(x), len(frame)):
            moved, image = self.windows.framed(x[some], frame, -np.inf)
            free, hit, mask = (each[: len(image)] for each in masks)
            calls += [*moved, *self._tile(image, top[some], g[some], y[some], second[: len(image)], free, hit, mask)]
        return calls

    def _tile(self, image: Array, top: Array, g: Array, y: Array, second: Array, free: Array, hit: Array, mask: Array) -> Calls:
        raise NotImplementedError

    def _chosen(self, image: Array, top: Array, free: Array, hit: Array, mask: Array) -> Iterator[tuple[tuple[slice, ...], Calls]]:
        """Each place of the windows, and what fills `mask` for it."""
        calls: Calls = [(np.ndarray.fill, (free, True))]
        for place in self.windows.places:
            calls += [(np.equal, (image[place], top, hit)), (np.logical_and, (hit, free, hit)), (np.greater, (free, hit, free)), (_widened, (hit, mask))]
            yield place, calls
            calls = []


def _widened(hit: Array, mask: Array) -> None:
    np.negative(hit.view(np.int8), mask, casting="unsafe")


class _MaxPoolGradient(_Choice):
    def _tile(self, image: Array, top: Array, g: Array, y: Array, second: Array, free: Array, hit: Array, mask: Array) -> Calls:
        cotangent = g.view(self.integer)
        calls: Calls = []
        if self.windows.partition:
            target = y.view(self.integer)
            for place, chosen in self._chosen(image, top, free, hit, mask):
                calls += [*chosen, (np.bitwise_and, (cotangent, mask, target[place]))]
            return calls
        calls.append((np.ndarray.fill, (second, 0.0)))
        for place, chosen in self._chosen(image, top, free, hit, mask):
            part = second[place]
            calls += [*chosen, (np.bitwise_and, (cotangent, mask, mask)), (np.add, (part, mask.view(second.dtype), part))]
        down, right = self.windows.inside
        return [*calls, (np.copyto, (y, second[:, down, right]))]


class _MaxPoolGather(_Choice):
    def _tile(self, image: Array, top: Array, g: Array, y: Array, second: Array, free: Array, hit: Array, mask: Array) -> Calls:
        calls, other = self.windows.framed(g, second, 0.0)
        other, target = other.view(self.integer), y.view(self.integer)
        calls.append((np.ndarray.fill, (target, 0)))
        for place, chosen in self._chosen(image, top, free, hit, mask):
            calls += [*chosen, (np.bitwise_and, (other[place], mask, mask)), (np.bitwise_or, (target, mask, target))]
        return calls


def max_pool_gradient(value: Value, n: int, randomness: object) -> Kernel:
    return _MaxPoolGradient(value, n, value)


def max_pool_gather(value: Value, n: int, randomness: object) -> Kernel:
    """What stands in a second image where the first has its maxima."""
    return _MaxPoolGather(value, n, value.operands[0])


class _AvgPoolGradient(Divided):
    def __init__(self, value: Value, n: int):
        self.windows, self.factor = Windows(value, n, value, value.operands[0]), _inverse_counts(value, n, value, value.operands[0])

    def phases(self, g: Array, out: Array, frame: Array, scaled: Array) -> list[Phase]:
        cotangent, image = last(g), last(out)
        return [by_samples(len(g), lambda lane, some: self._lane(cotangent[some], image[some], frame[lane], scaled[lane]))]

    def _lane(self, g: Array, image: Array, frame: Array, scaled: Array) -> Calls:
        calls: Calls = []
        for some in parts(len(g), len(frame)):
            share = scaled[: some.stop - some.start]
            calls.append((np.multiply, (g[some], self.factor, share)))
            if self.windows.partition:
                calls += [(np.copyto, (image[some][place], share)) for place in self.windows.places]
                continue
            whole = frame[: some.stop - some.start]
            calls.append((np.ndarray.fill, (whole, 0.0)))
            calls += [(np.add, (whole[place], share, whole[place])) for place in self.windows.places]
            calls.append((np.copyto, (image[some], whole[:, self.windows.inside[0], self.windows.inside[1]])))
        return calls


def avg_pool_gradient(value: Value, n: int, randomness: object) -> Kernel:
    return _AvgPoolGradient(value, n)


def _inverse_counts(value: Value, n: int, large: Value, small: Value) -> Array:
    """1 / the number of elements of each window that are no padding: [1, h, w, 1]."""
    windows = Windows(value, n, large, small)
    (top, bottom), (left, right) = windows.padding
    _, _, h, w = concrete(large.shape, n)
    inside = np.zeros((1, h + top + bottom, w + left + right, 1), value.dtype)
    inside[:, windows.inside[0], windows.inside[1]] = 1
    counts = sum(inside[place] for place in windows.places)
    return 1 / np.asarray(counts, value.dtype)
