"""NumPy kernels of convolution. The graph's images are [sample, channel, height, width]; here they are stored with channels last.

A convolution copies the patches under its window into a matrix and multiplies: out = patches . weights. Its weight gradient is
patches^T . g. Its input gradient, at stride 1, is the convolution of g with the window turned around; at other strides the products
g . weights^T are added back to the places that the patches came from. All three go through the samples of a lane in tiles: patches are
written and read while they lie in the cache, and the work space does not grow with the batch. The weights are turned into a matrix, and their
gradient back, tap by tap.

Images whose channels come first in memory (the network's input, mostly) give the patches as columns instead of rows: then long runs of
pixels are copied, not short runs of channels. A depthwise convolution has no product: it sums shifted images, each times one number a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nnc.compiler.ir import Value, concrete
from nnc.compiler.workspace import full_padding, is_depthwise

from .divided import Array, Calls, Divided, Phase, by_samples

Kernel = Callable[..., Any]
Edges = tuple[tuple[int, int], tuple[int, int]]


def last(x: Array) -> Array:
    """The image with its channels last: a view."""
    return x.transpose(0, 2, 3, 1)


def in_frame(x: Array, frame: Array, padding: Edges, fill: float = 0.0) -> tuple[Calls, Array]:
    """Put the images [n, h, w, c] at their place in the first n of the padded frames, `fill` around them; a negative padding cuts."""
    frame = frame[: len(x)]
    inside, taken = [], []
    for axis, (before, _) in zip((1, 2), padding, strict=True):
        start, skip = max(0, before), max(0, -before)
        length = min(frame.shape[axis] - start, x.shape[axis] - skip)
        inside.append(slice(start, start + length))
        taken.append(slice(skip, skip + length))
    return [(np.ndarray.fill, (frame, fill)), (np.copyto, (frame[:, inside[0], inside[1]], x[:, taken[0], taken[1]]))], frame


def parts(count: int, size: int) -> list[slice]:
    """0 ... count - 1 in runs of `size`, the last one perhaps shorter."""
    return [slice(i, min(count, i + size)) for i in range(0, count, size)]


class Patches:
    """The patches of an image under a window, a tile at a time."""

    def __init__(self, window: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], padding: Edges, groups: int):
        self.window, self.stride, self.dilation, self.padding, self.groups = window, stride, dilation, padding, groups
        self.pads = any(map(any, padding))

    def framed(self, x: Array, frame: Array) -> tuple[Calls, Array]:
        """A tile of samples with its padding: [n, h, w, c], channels first in memory if they were."""
        if not self.pads:
            return [], x
        n, _, _, c = x.shape
        _, high, wide, _ = frame.shape
        if channels_first(x):
            frame = frame[:n].reshape(n, c, high, wide).transpose(0, 2, 3, 1)
        return in_frame(x, frame, self.padding)

    def gather(self, x: Array, rows: slice, columns: Array, group: int) -> tuple[Calls, Array]:
        """Copy the patches of some output rows of a framed tile into a matrix [patch, tap and channel], a view of `columns`."""
        n = x.shape[0]
        if self.groups > 1:
            per = x.shape[3] // self.groups
            x = x[..., group * per : (group + 1) * per]
        channels = x.shape[3]
        high, wide = rows.stop - rows.start, columns.shape[2]
        kh, kw = self.window
        sn, sh, sw, sc = x.strides
        start = x[:, rows.start * self.stride[0] :]
        down, right = sh * self.stride[0], sw * self.stride[1]
        below, beside = sh * self.dilation[0], sw * self.dilation[1]
        patches = n * high * wide
        depth = kh * kw * channels
        flat = columns.reshape(-1)[: patches * depth]
        if channels_first(x):
            view = as_strided(start, (kh, kw, channels, n, high, wide), (below, beside, sc, sn, down, right), writeable=False)
            return [(np.copyto, (flat.reshape(view.shape), view))], flat.reshape(depth, patches).T
        view = as_strided(start, (n, high, wide, kh, kw, channels), (sn, down, right, below, beside, sc), writeable=False)
        return [(np.copyto, (flat.reshape(view.shape), view))], flat.reshape(patches, depth)


def channels_first(x: Array) -> bool:
    """Whether an image given as [n, h, w, c] has whole planes in memory."""
    return x.strides[2] == x.itemsize


def as_rows(y: Array, samples: slice, rows: slice, space: Array) -> tuple[Calls, Array]:
    """Some rows of [n, h, w, c] as a matrix [place, channel]: a view where they lie so, else a copy in the work space."""
    part = y[samples, rows]
    if part.flags.c_contiguous:
        return [], part.reshape(-1, y.shape[3])
    flat = space.reshape(-1)[: part.size].reshape(part.shape)
    return [(np.copyto, (flat, part))], flat.reshape(-1, y.shape[3])


def group_columns(groups: int, channels: int) -> list[slice]:
    per = channels // groups
    return [slice(g * per, (g + 1) * per) for g in range(groups)]


def window_count(w: Value) -> int:
    return concrete(w.shape, 1)[0]


def _geometry(value: Value) -> tuple[Any, Any, Any, int]:
    a = value.attributes
    return a["stride"], a["dilation"], a["padding"], a["groups"]


def _weights_to(matrix: Array, w: Array, outs: list[slice], turned: bool) -> Phase:
    """Tap by tap, the weights as [tap, channel, filter] in each group's matrix; turned, as [tap, filter, channel] with the window turned around."""
    _, per, kh, kw = w.shape
    taps = matrix.reshape(len(outs), kh, kw, -1, per if turned else matrix.shape[2])
    if turned:
        w = w[:, :, ::-1, ::-1]
    return [
        [(np.copyto, (taps[group, i, j], w[o, :, i, j] if turned else w[o, :, i, j].T)) for group, o in enumerate(outs)]
        for i in range(kh)
        for j in range(kw)
    ]


class _Products(Divided):
    """patches . matrix, group by group: a convolution and, at stride 1, its input gradient."""

    def __init__(self, patches: Patches, into: list[slice], outs: list[slice], turned: bool):
        """`into`: the channels that each group's product makes; `outs`: its filters."""
        self.patches, self.into, self.outs, self.turned = patches, into, outs, turned

    def phases(self, x: Array, w: Array, out: Array, frame: Array, columns: Array, _rows: Array, matrix: Array) -> list[Phase]:
        source, target = last(x), last(out)
        return [
            _weights_to(matrix, w, self.outs, self.turned),
            by_samples(len(x), lambda lane, some: self._lane(source[some], target[some], frame[lane], columns[lane], matrix)),
        ]

    def _lane(self, x: Array, y: Array, frame: Array, columns: Array, matrix: Array) -> Calls:
        calls: Calls = []
        for samples in parts(len(x), columns.shape[0]):
            moved, framed = self.patches.framed(x[samples], frame)
            calls += moved
            for rows in parts(y.shape[1], columns.shape[1]):
                target = y[samples, rows].reshape(-1, y.shape[3])
                for group, made in enumerate(self.into):
                    moved, some = self.patches.gather(framed, rows, columns, group)
                    calls += [*moved, (np.matmul, (some, matrix[group], target[:, made]))]
        return calls


def conv2d(value: Value, n: int, randomness: object) -> Kernel:
    x_value, w_value = value.operands
    stride, dilation, padding, groups = _geometry(value)
    if is_depthwise(x_value, groups):
        return _Depthwise(value, n)
    window: Any = w_value.shape[2:]
    outs = group_columns(groups, window_count(w_value))
    return _Products(Patches(window, stride, dilation, padding, groups), outs, outs, turned=False)


def conv2d_input_gradient(value: Value, n: int, randomness: object) -> Kernel:
    g_value, w_value = value.operands
    stride, dilation, _, groups = _geometry(value)
    if is_depthwise(value, groups):
        return _DepthwiseInputGradient(value, n)
    if stride != (1, 1):
        return _Scattered(value, n)
    window: Any = w_value.shape[2:]
    patches = Patches(window, (1, 1), dilation, full_padding(value, g_value, window), groups)
    patches.pads = True
    return _Products(patches, group_columns(groups, concrete(value.shape, n)[1]), group_columns(groups, window_count(w_value)), turned=True)


def conv2d_weight_gradient(value: Value, n: int, randomness: object) -> Kernel:
    x_value, _ = value.operands
    return (_DepthwiseWeightGradient if is_depthwise(x_value, value.attributes["groups"]) else _WeightGradient)(value, n)


class _WeightGradient(Divided):
    """patches^T . g, summed tile by tile and lane by lane."""

    def __init__(self, value: Value, n: int):
        stride, dilation, padding, groups = _geometry(value)
        window: Any = value.shape[2:]
        self.patches = Patches(window, stride, dilation, padding, groups)
        self.outs = group_columns(groups, window_count(value))

    def phases(self, x: Array, g: Array, out: Array, frame: Array, columns: Array, space: Array, part: Array, sums: Array) -> list[Phase]:
        image, cotangent = last(x), last(g)
        return [
            by_samples(len(x), lambda lane, some: self._lane(image[some], cotangent[some], *(each[lane] for each in (frame, columns, space, part, sums)))),
            self._added_up(out, part[0], sums),
        ]

    def _lane(self, x: Array, g: Array, frame: Array, columns: Array, space: Array, part: Array, sums: Array) -> Calls:
        calls: Calls = []
        into = sums
        for samples in parts(len(x), columns.shape[0]):
            moved, framed = self.patches.framed(x[samples], frame)
            calls += moved
            for rows in parts(g.shape[1], columns.shape[1]):
                moved, cotangent = as_rows(g, samples, rows, space)
                calls += moved
                for group, o in enumerate(self.outs):
                    moved, some = self.patches.gather(framed, rows, columns, group)
                    calls += [*moved, (np.matmul, (some.T, cotangent[:, o], into[group]))]
                if into is part:
                    calls.append((np.add, (sums, part, sums)))
                into = part
        return calls

    def _added_up(self, out: Array, total: Array, sums: Array) -> Phase:
        _, per, kh, kw = out.shape
        sums = sums.reshape(len(sums), len(self.outs), kh, kw, per, -1)
        total = total.reshape(sums.shape[1:])
        phase: Phase = []
        for i in range(kh):
            for j in range(kw):
                copies: Calls = [(np.copyto, (out[o, :, i, j], total[group, i, j].T)) for group, o in enumerate(self.outs)]
                phase.append([(np.add.reduce, (sums[:, :, i, j], 0, None, total[:, i, j])), *copies])
        return phase


class _Scattered(Divided):
    """The input gradient at strides other than 1: each patch's cotangent is added to the places that the patch covers."""

    def __init__(self, value: Value, n: int):
        g_value, w_value = value.operands
        self.stride, self.dilation, padding, groups = _geometry(value)
        _, channels, *size = concrete(value.shape, n)
        _, out_channels, *_ = concrete(g_value.shape, n)
        self.window = concrete(w_value.shape, n)[2:]
        self.ins, self.outs = group_columns(groups, channels), group_columns(groups, out_channels)
        self.inside = interior(padding, tuple(size))

    def phases(self, g: Array, w: Array, out: Array, frame: Array, columns: Array, space: Array, matrix: Array) -> list[Phase]:
        cotangent, image = last(g), last(out)
        return [
            _weights_to(matrix, w, self.outs, turned=False),
            by_samples(len(g), lambda lane, some: self._lane(cotangent[some], image[some], frame[lane], columns[lane], space[lane], matrix)),
        ]

    def _lane(self, g: Array, image: Array, frame: Array, columns: Array, space: Array, matrix: Array) -> Calls:
        calls: Calls = []
        for some in parts(len(g), columns.shape[0]):
            whole = frame[: some.stop - some.start]
            calls.append((np.ndarray.fill, (whole, 0.0)))
            for rows in parts(g.shape[1], columns.shape[1]):
                moved, cotangent = as_rows(g, some, rows, space)
                calls += moved
                for group, o in enumerate(self.outs):
                    flat = columns.reshape(-1)[: len(cotangent) * matrix.shape[1]]
                    calls.append((np.matmul, (cotangent[:, o], matrix[group].T, flat.reshape(len(cotangent), -1))))
                    taps = flat.reshape(len(whole), rows.stop - rows.start, g.shape[2], *self.window, -1)
                    calls += self._added(taps, whole[:, rows.start * self.stride[0] :, :, self.ins[group]])
            calls.append((np.copyto, (image[some], whole[:, self.inside[0], self.inside[1]])))
        return calls

    def _added(self, taps: Array, whole: Array) -> Calls:
        (down, right), (below, beside) = self.stride, self.dilation
        _, high, wide, kh, kw, _ = taps.shape
        calls: Calls = []
        for u in range(kh):
            for v in range(kw):
                top, left = u * below, v * beside
                part = whole[:, top : top + (high - 1) * down + 1 : down, left : left + (wide - 1) * right + 1 : right]
                calls.append((np.add, (part, taps[:, :, :, u, v], part)))
        return calls


def interior(padding: Edges, size: tuple[int, ...]) -> tuple[slice, slice]:
    (top, _), (left, _) = padding
    return slice(top, top + size[0]), slice(left, left + size[1])


# Depthwise: every channel has windows of its own, `multiplier` of them; output channel c * multiplier + k belongs to channel c


class _Shifts:
    """The views of a framed image under each element of the window."""

    def __init__(self, value: Value, n: int, window: Any, y: Value):
        (self.down, self.right), (self.below, self.beside), self.padding, _ = _geometry(value)
        self.window = window
        _, _, self.high, self.wide = concrete(y.shape, n)

    def __call__(self, frame: Array) -> Iterator[tuple[tuple[int, int], Array]]:
        for u in range(self.window[0]):
            for v in range(self.window[1]):
                top, left = u * self.below, v * self.beside
                yield (u, v), frame[:, top : top + (self.high - 1) * self.down + 1 : self.down, left : left + (self.wide - 1) * self.right + 1 : self.right]

    def framed(self, x: Array, frame: Array) -> tuple[Calls, Array]:
        return in_frame(x, frame, self.padding)


def _by_multiplier(w: Array, channels: int) -> Array:
    """The windows as [channel, multiplier, row, column]."""
    return w.reshape(channels, -1, *w.shape[2:])


class _Depthwise(Divided):
    def __init__(self, value: Value, n: int):
        self.shifts = _Shifts(value, n, value.operands[1].shape[2:], value)

    def phases(self, x: Array, w: Array, out: Array, frame: Array, product: Array) -> list[Phase]:
        taps, image, target = _by_multiplier(w, x.shape[1]), last(x), last(out)
        return [by_samples(len(x), lambda lane, some: self._lane(image[some], taps, target[some], frame[lane], product[lane]))]

    def _lane(self, x: Array, taps: Array, y: Array, frame: Array, product: Array) -> Calls:
        calls: Calls = []
        multiplier = taps.shape[1]
        for some in parts(len(x), len(frame)):
            moved, framed = self.shifts.framed(x[some], frame)
            calls += moved
            space = product[: len(framed)]
            for k in range(multiplier):
                target = y[some, :, :, k::multiplier]
                calls.append((np.ndarray.fill, (target, 0.0)))
                for (u, v), part in self.shifts(framed):
                    calls += [(np.multiply, (part, taps[:, k, u, v], space)), (np.add, (target, space, target))]
        return calls


class _DepthwiseInputGradient(Divided):
    def __init__(self, value: Value, n: int):
        g_value, w_value = value.operands
        self.shifts = _Shifts(value, n, w_value.shape[2:], g_value)
        _, self.channels, *size = concrete(value.shape, n)
        self.inside = interior(self.shifts.padding, tuple(size))

    def phases(self, g: Array, w: Array, out: Array, frame: Array, product: Array) -> list[Phase]:
        taps, cotangent, image = _by_multiplier(w, self.channels), last(g), last(out)
        return [by_samples(len(g), lambda lane, some: self._lane(cotangent[some], taps, image[some], frame[lane], product[lane]))]

    def _lane(self, g: Array, taps: Array, image: Array, frame: Array, product: Array) -> Calls:
        calls: Calls = []
        multiplier = taps.shape[1]
        for some in parts(len(g), len(frame)):
            whole = frame[: some.stop - some.start]
            calls.append((np.ndarray.fill, (whole, 0.0)))
            space = product[: len(whole)]
            for k in range(multiplier):
                for (u, v), part in self.shifts(whole):
                    calls += [(np.multiply, (g[some, :, :, k::multiplier], taps[:, k, u, v], space)), (np.add, (part, space, part))]
            calls.append((np.copyto, (image[some], whole[:, self.inside[0], self.inside[1]])))
        return calls


class _DepthwiseWeightGradient(Divided):
    def __init__(self, value: Value, n: int):
        self.shifts = _Shifts(value, n, value.shape[2:], value.operands[1])

    def phases(self, x: Array, g: Array, out: Array, frame: Array, product: Array, sums: Array) -> list[Phase]:
        image, cotangent = last(x), last(g)
        return [
            by_samples(len(x), lambda lane, some: self._lane(image[some], cotangent[some], frame[lane], product[lane], sums[lane])),
            [[(np.add.reduce, (sums, 0, None, out))]],
        ]

    def _lane(self, x: Array, g: Array, frame: Array, product: Array, sums: Array) -> Calls:
        taps = _by_multiplier(sums, x.shape[3])
        multiplier = taps.shape[1]
        calls: Calls = [(np.ndarray.fill, (sums, 0.0))]
        for some in parts(len(x), len(frame)):
            moved, framed = self.shifts.framed(x[some], frame)
            calls += moved
            space = product[: len(framed)]
            for k in range(multiplier):
                for (u, v), part in self.shifts(framed):
                    calls += [(np.multiply, (part, g[some, :, :, k::multiplier], space)), (_add_places, (space, taps[:, k, u, v]))]
        return calls


def _add_places(x: Array, out: Array) -> None:
    out += over_places(np.add, x)


def over_places(ufunc: np.ufunc, x: Array) -> Array:
    """Reduce [n, h, w, c] to [c]: whole rows of pixels first, so that the loops are long."""
    n, h, w, c = x.shape
    row = ufunc.reduce(x.reshape(n * h, w * c), axis=0)
    result: Array = ufunc.reduce(row.reshape(w, c), axis=0)
    return result
