"""NumPy kernels of convolution. The graph's images are [sample, channel, height, width]; here they are stored with channels last.

A convolution copies the patches under its window into a matrix and multiplies: out = patches . weights. Its weight gradient is
patches^T . g. Its input gradient, at stride 1, is the convolution of g with the window turned around; at other strides the products
g . weights^T are added back to the places that the patches came from. All three go through the batch in tiles: patches are written and
read while they lie in the cache, and the work space does not grow with the batch.

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

Array = np.ndarray[Any, Any]
Kernel = Callable[..., Any]
Edges = tuple[tuple[int, int], tuple[int, int]]


def last(x: Array) -> Array:
    """The image with its channels last: a view."""
    return x.transpose(0, 2, 3, 1)


def in_frame(x: Array, frame: Array, padding: Edges, fill: float = 0.0) -> Array:
    """The images [n, h, w, c] at their place in the first n of the padded frames, `fill` around them; a negative padding cuts."""
    frame = frame[: len(x)]
    frame.fill(fill)
    inside, taken = [], []
    for axis, (before, _) in zip((1, 2), padding, strict=True):
        start, skip = max(0, before), max(0, -before)
        length = min(frame.shape[axis] - start, x.shape[axis] - skip)
        inside.append(slice(start, start + length))
        taken.append(slice(skip, skip + length))
    frame[:, inside[0], inside[1]] = x[:, taken[0], taken[1]]
    return frame


def parts(count: int, size: int) -> list[slice]:
    """0 ... count - 1 in runs of `size`, the last one perhaps shorter."""
    return [slice(i, min(count, i + size)) for i in range(0, count, size)]


class Patches:
    """The patches of an image under a window, a tile at a time."""

    def __init__(self, window: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], padding: Edges, groups: int):
        self.window, self.stride, self.dilation, self.padding, self.groups = window, stride, dilation, padding, groups
        self.pads = any(map(any, padding))

    def framed(self, x: Array, frame: Array) -> Array:
        """A tile of samples with its padding: [n, h, w, c], channels first in memory if they were."""
        if not self.pads:
            return x
        n, _, _, c = x.shape
        _, high, wide, _ = frame.shape
        if channels_first(x):
            frame = frame[:n].reshape(n, c, high, wide).transpose(0, 2, 3, 1)
        return in_frame(x, frame, self.padding)

    def gather(self, x: Array, rows: slice, columns: Array, group: int) -> Array:
        """The patches of some output rows of a framed tile as a matrix [patch, tap and channel], a view of `columns`."""
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
            np.copyto(flat.reshape(view.shape), view)
            return flat.reshape(depth, patches).T
        view = as_strided(start, (n, high, wide, kh, kw, channels), (sn, down, right, below, beside, sc), writeable=False)
        np.copyto(flat.reshape(view.shape), view)
        return flat.reshape(patches, depth)


def channels_first(x: Array) -> bool:
    """Whether an image given as [n, h, w, c] has whole planes in memory."""
    return x.strides[2] == x.itemsize


def as_rows(y: Array, samples: slice, rows: slice, space: Array) -> Array:
    """Some rows of [n, h, w, c] as a matrix [place, channel]: a view where they lie so, else a copy in the work space."""
    part = y[samples, rows]
    if part.flags.c_contiguous:
        return part.reshape(-1, y.shape[3])
    flat = space.reshape(-1)[: part.size].reshape(part.shape)
    np.copyto(flat, part)
    return flat.reshape(-1, y.shape[3])


def group_columns(groups: int, channels: int) -> list[slice]:
    per = channels // groups
    return [slice(g * per, (g + 1) * per) for g in range(groups)]


def window_count(w: Value) -> int:
    return concrete(w.shape, 1)[0]


def _geometry(value: Value) -> tuple[Any, Any, Any, int]:
    a = value.attributes
    return a["stride"], a["dilation"], a["padding"], a["groups"]


def _multiply_patches(patches: Patches, x: Array, y: Array, frame: Array, columns: Array, matrix: Array, outs: list[slice]) -> None:
    """y = patches . matrix, group by group."""
    for samples in parts(len(x), columns.shape[0]):
        framed = patches.framed(x[samples], frame)
        for rows in parts(y.shape[1], columns.shape[1]):
            target = y[samples, rows].reshape(-1, y.shape[3])
            for group, out in enumerate(outs):
                np.matmul(patches.gather(framed, rows, columns, group), matrix[group], target[:, out])


def conv2d(value: Value, n: int, randomness: object) -> Kernel:
    x_value, w_value = value.operands
    stride, dilation, padding, groups = _geometry(value)
    if is_depthwise(x_value, groups):
        return _depthwise(value, n)
    window: Any = w_value.shape[2:]
    patches = Patches(window, stride, dilation, padding, groups)
    outs = group_columns(groups, window_count(w_value))

    def conv2d(x: Array, w: Array, out: Array, frame: Array, columns: Array, _rows: Array, matrix: Array) -> None:
        for g, o in enumerate(outs):
            np.copyto(matrix[g].reshape(*w.shape[2:], w.shape[1], -1), w[o].transpose(2, 3, 1, 0))
        _multiply_patches(patches, last(x), last(out), frame, columns, matrix, outs)

    return conv2d


def conv2d_weight_gradient(value: Value, n: int, randomness: object) -> Kernel:
    x_value, g_value = value.operands
    stride, dilation, padding, groups = _geometry(value)
    if is_depthwise(x_value, groups):
        return _depthwise_weight_gradient(value, n)
    _, out_channels, _, _ = concrete(g_value.shape, n)
    window: Any = value.shape[2:]
    patches = Patches(window, stride, dilation, padding, groups)
    outs = group_columns(groups, out_channels)

    def weight_gradient(x: Array, g: Array, out: Array, frame: Array, columns: Array, space: Array, part: Array, sums: Array) -> None:
        x, g = last(x), last(g)
        into = sums
        for some in parts(len(x), columns.shape[0]):
            framed = patches.framed(x[some], frame)
            for rows in parts(g.shape[1], columns.shape[1]):
                cotangent = as_rows(g, some, rows, space)
                for group, o in enumerate(outs):
                    np.matmul(patches.gather(framed, rows, columns, group).T, cotangent[:, o], into[group])
                if into is part:
                    np.add(sums, part, sums)
                into = part
        for group, o in enumerate(outs):
            np.copyto(out[o], sums[group].reshape(*out.shape[2:], out.shape[1], -1).transpose(3, 2, 0, 1))

    return weight_gradient


def conv2d_input_gradient(value: Value, n: int, randomness: object) -> Kernel:
    g_value, w_value = value.operands
    stride, dilation, _, groups = _geometry(value)
    if is_depthwise(value, groups):
        return _depthwise_input_gradient(value, n)
    if stride != (1, 1):
        return _scattered(value, n)
    _, channels, _, _ = concrete(value.shape, n)
    window: Any = w_value.shape[2:]
    patches = Patches(window, (1, 1), dilation, full_padding(value, g_value, window), groups)
    patches.pads = True
    ins, outs = group_columns(groups, channels), group_columns(groups, window_count(w_value))

    def input_gradient(g: Array, w: Array, out: Array, frame: Array, columns: Array, _rows: Array, matrix: Array) -> None:
        for group, o in enumerate(outs):
            turned = w[o, :, ::-1, ::-1]
            np.copyto(matrix[group].reshape(*w.shape[2:], -1, w.shape[1]), turned.transpose(2, 3, 0, 1))
        _multiply_patches(patches, last(g), last(out), frame, columns, matrix, ins)

    return input_gradient


def _scattered(value: Value, n: int) -> Kernel:
    """The input gradient at strides other than 1: each patch's cotangent is added to the places that the patch covers."""
    g_value, w_value = value.operands
    (down, right), (below, beside), padding, groups = _geometry(value)
    _, channels, _, _ = concrete(value.shape, n)
    _, out_channels, high, wide = concrete(g_value.shape, n)
    kh, kw = concrete(w_value.shape, n)[2:]
    ins, outs = group_columns(groups, channels), group_columns(groups, out_channels)
    inside = interior(padding, concrete(value.shape, n)[2:])

    def scattered(g: Array, w: Array, out: Array, frame: Array, columns: Array, space: Array, matrix: Array) -> None:
        g, image = last(g), last(out)
        for group, o in enumerate(outs):
            np.copyto(matrix[group].reshape(*w.shape[2:], w.shape[1], -1), w[o].transpose(2, 3, 1, 0))
        for some in parts(len(g), columns.shape[0]):
            whole = frame[: some.stop - some.start]
            whole.fill(0.0)
            for rows in parts(high, columns.shape[1]):
                cotangent = as_rows(g, some, rows, space)
                for group in range(groups):
                    flat = columns.reshape(-1)[: len(cotangent) * matrix.shape[1]]
                    np.matmul(cotangent[:, outs[group]], matrix[group].T, flat.reshape(len(cotangent), -1))
                    taps = flat.reshape(len(whole), rows.stop - rows.start, wide, kh, kw, -1)
                    add_patches(taps, whole[:, rows.start * down :, :, ins[group]])
            np.copyto(image[some], whole[:, inside[0], inside[1]])

    def add_patches(taps: Array, whole: Array) -> None:
        high = taps.shape[1]
        for u in range(kh):
            for v in range(kw):
                top, left = u * below, v * beside
                part = whole[:, top : top + (high - 1) * down + 1 : down, left : left + (wide - 1) * right + 1 : right]
                np.add(part, taps[:, :, :, u, v], part)

    return scattered


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

    def framed(self, x: Array, frame: Array) -> Array:
        return in_frame(x, frame, self.padding)


def _depthwise(value: Value, n: int) -> Kernel:
    x_value, w_value = value.operands
    shifts = _Shifts(value, n, w_value.shape[2:], value)
    multiplier = window_count(w_value) // concrete(x_value.shape, n)[1]

    def depthwise(x: Array, w: Array, out: Array, frame: Array, product: Array) -> None:
        x, y = last(x), last(out)
        taps = w.reshape(-1, multiplier, *w.shape[2:])
        for some in parts(len(x), len(frame)):
            framed = shifts.framed(x[some], frame)
            space = product[: len(framed)]
            for k in range(multiplier):
                target = y[some, :, :, k::multiplier]
                target[...] = 0.0
                for (u, v), part in shifts(framed):
                    np.multiply(part, taps[:, k, u, v], space)
                    np.add(target, space, target)

    return depthwise


def _depthwise_input_gradient(value: Value, n: int) -> Kernel:
    g_value, w_value = value.operands
    shifts = _Shifts(value, n, w_value.shape[2:], g_value)
    _, channels, *size = concrete(value.shape, n)
    multiplier = window_count(w_value) // channels
    inside = interior(shifts.padding, tuple(size))

    def input_gradient(g: Array, w: Array, out: Array, frame: Array, product: Array) -> None:
        g, image = last(g), last(out)
        taps = w.reshape(-1, multiplier, *w.shape[2:])
        for some in parts(len(g), len(frame)):
            whole = frame[: some.stop - some.start]
            whole.fill(0.0)
            space = product[: len(whole)]
            for k in range(multiplier):
                for (u, v), part in shifts(whole):
                    np.multiply(g[some, :, :, k::multiplier], taps[:, k, u, v], space)
                    np.add(part, space, part)
            np.copyto(image[some], whole[:, inside[0], inside[1]])

    return input_gradient


def _depthwise_weight_gradient(value: Value, n: int) -> Kernel:
    x_value, g_value = value.operands
    shifts = _Shifts(value, n, value.shape[2:], g_value)
    multiplier = window_count(value) // concrete(x_value.shape, n)[1]

    def weight_gradient(x: Array, g: Array, out: Array, frame: Array, product: Array) -> None:
        x, g = last(x), last(g)
        out.fill(0.0)
        taps = out.reshape(-1, multiplier, *out.shape[2:])
        for some in parts(len(x), len(frame)):
            framed = shifts.framed(x[some], frame)
            space = product[: len(framed)]
            for k in range(multiplier):
                for (u, v), part in shifts(framed):
                    np.multiply(part, g[some, :, :, k::multiplier], space)
                    taps[:, k, u, v] += over_places(np.add, space)

    return weight_gradient


def over_places(ufunc: np.ufunc, x: Array) -> Array:
    """Reduce [n, h, w, c] to [c]: whole rows of pixels first, so that the loops are long."""
    n, h, w, c = x.shape
    row = ufunc.reduce(x.reshape(n * h, w * c), axis=0)
    result: Array = ufunc.reduce(row.reshape(w, c), axis=0)
    return result
