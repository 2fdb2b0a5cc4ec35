"""NumPy kernels of convolution and pooling, made as those in kernels.py are. Images are [sample, channel, height, width].

A convolution copies the patches under its window into the rows of a matrix: then it is one product, and so are its gradients.
Pooling goes over the places of its window: each is a strided view of the padded image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nnc.compiler.ir import Value, concrete

Array = np.ndarray[Any, Any]
Kernel = Callable[..., Any]


def _padder(padding: Any, fill: float) -> Callable[[Array, Array], Array]:
    """Copy an image into its padded work space; without padding the image itself is used."""
    (top, bottom), (left, right) = padding
    if not (top or bottom or left or right):
        return lambda x, padded: x

    def pad(x: Array, padded: Array) -> Array:
        padded.fill(fill)
        padded[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
        return padded

    return pad


def _interior(padding: Any, size: tuple[int, ...]) -> tuple[slice, ...]:
    (top, _), (left, _) = padding
    return slice(None), slice(None), slice(top, top + size[0]), slice(left, left + size[1])


def _patches(x: Array, out_size: tuple[int, ...], window: Any, stride: Any, dilation: Any) -> Array:
    """A view [sample, row, column, channel, kernel row, kernel column] of a padded image."""
    sn, sc, sh, sw = x.strides
    shape = (x.shape[0], *out_size, x.shape[1], *window)
    return as_strided(x, shape, (sn, sh * stride[0], sw * stride[1], sc, sh * dilation[0], sw * dilation[1]), writeable=False)


class _Convolution:
    """The geometry that the three products of a convolution share."""

    def __init__(self, value: Value, n: int, image: Value, weight: Value, output: Value):
        a = value.attributes
        self.stride, self.dilation, self.groups, self.padding = a["stride"], a["dilation"], a["groups"], a["padding"]
        self.image = concrete(image.shape, n)
        self.weight = concrete(weight.shape, n)
        self.output = concrete(output.shape, n)
        self.pad = _padder(self.padding, 0.0)
        taps = self.weight[2] * self.weight[3]
        self.columns = [slice(g * self.weight[1] * taps, (g + 1) * self.weight[1] * taps) for g in range(self.groups)]
        per = self.weight[0] // self.groups
        self.outputs = [slice(g * per, (g + 1) * per) for g in range(self.groups)]

    def gather(self, x: Array, padded: Array, columns: Array) -> None:
        """Patches of the image as rows of `columns`."""
        patches = _patches(self.pad(x, padded), self.output[2:], self.weight[2:], self.stride, self.dilation)
        np.copyto(columns.reshape(patches.shape), patches)

    def scatter(self, columns: Array, padded: Array, out: Array) -> None:
        """Add patches back to the places they came from."""
        kh, kw = self.weight[2:]
        oh, ow = self.output[2:]
        patches = columns.reshape(self.image[0], oh, ow, self.image[1], kh, kw)
        padded.fill(0.0)
        for i in range(kh):
            for j in range(kw):
                top, left = i * self.dilation[0], j * self.dilation[1]
                part = padded[:, :, top : top + oh * self.stride[0] : self.stride[0], left : left + ow * self.stride[1] : self.stride[1]]
                np.add(part, patches[..., i, j].transpose(0, 3, 1, 2), part)
        np.copyto(out, padded[_interior(self.padding, self.image[2:])])

    def channels_last(self, y: Array, rows: Array) -> None:
        n, c, h, w = self.output
        np.copyto(rows.reshape(n, h, w, c), y.transpose(0, 2, 3, 1))


def conv2d(value: Value, n: int, randomness: object) -> Kernel:
    x_value, w_value = value.operands
    c = _Convolution(value, n, x_value, w_value, value)

    def conv2d(x: Array, w: Array, out: Array, padded: Array, columns: Array, rows: Array) -> None:
        c.gather(x, padded, columns)
        flat = w.reshape(w.shape[0], -1)
        if c.groups == 1:
            np.matmul(columns, flat.T, rows)
        else:
            for o, k in zip(c.outputs, c.columns, strict=True):
                np.matmul(columns[:, k], flat[o].T, rows[:, o])
        batch, channels, high, wide = c.output
        np.copyto(out, rows.reshape(batch, high, wide, channels).transpose(0, 3, 1, 2))

    return conv2d


def conv2d_input_gradient(value: Value, n: int, randomness: object) -> Kernel:
    g_value, w_value = value.operands
    c = _Convolution(value, n, value, w_value, g_value)

    def input_gradient(g: Array, w: Array, out: Array, padded: Array, columns: Array, rows: Array) -> None:
        c.channels_last(g, rows)
        flat = w.reshape(w.shape[0], -1)
        if c.groups == 1:
            np.matmul(rows, flat, columns)
        else:
            for o, k in zip(c.outputs, c.columns, strict=True):
                np.matmul(rows[:, o], flat[o], columns[:, k])
        c.scatter(columns, padded, out)

    return input_gradient


def conv2d_weight_gradient(value: Value, n: int, randomness: object) -> Kernel:
    x_value, g_value = value.operands
    c = _Convolution(value, n, x_value, value, g_value)

    def weight_gradient(x: Array, g: Array, out: Array, padded: Array, columns: Array, rows: Array, flat: Array) -> None:
        c.gather(x, padded, columns)
        c.channels_last(g, rows)
        if c.groups == 1:
            np.matmul(rows.T, columns, flat)
        else:
            for o, k in zip(c.outputs, c.columns, strict=True):
                np.matmul(rows[:, o].T, columns[:, k], flat[o])
        np.copyto(out, flat.reshape(out.shape))

    return weight_gradient


# Pooling: one strided view of the padded image for each place of the window


def _places(value: Value, n: int, output: Value) -> list[tuple[slice, ...]]:
    window, stride = value.attributes["window"], value.attributes["stride"]
    _, _, oh, ow = concrete(output.shape, n)
    return [
        (slice(None), slice(None), slice(i, i + oh * stride[0], stride[0]), slice(j, j + ow * stride[1], stride[1]))
        for i in range(window[0])
        for j in range(window[1])
    ]


def max_pool(value: Value, n: int, randomness: object) -> Kernel:
    places = _places(value, n, value)
    pad = _padder(value.attributes["padding"], -np.inf)

    def max_pool(x: Array, out: Array, padded: Array) -> None:
        x = pad(x, padded)
        np.copyto(out, x[places[0]])
        for place in places[1:]:
            np.maximum(out, x[place], out=out)

    return max_pool


def _each_maximum(value: Value, n: int) -> Callable[[Array, Array, Array, Array, Array], Any]:
    """Go through the window's places with a mask of where the first maximum stands."""
    places = _places(value, n, value.operands[1])
    pad = _padder(value.attributes["padding"], -np.inf)

    def walk(x: Array, top: Array, padded: Array, free: Array, hit: Array) -> Any:
        x = pad(x, padded)
        free.fill(True)
        for place in places:
            np.equal(x[place], top, hit)
            np.logical_and(hit, free, hit)
            np.greater(free, hit, free)
            yield place

    return walk


def max_pool_gradient(value: Value, n: int, randomness: object) -> Kernel:
    walk = _each_maximum(value, n)
    inside = _interior(value.attributes["padding"], concrete(value.shape, n)[2:])

    def gradient(x: Array, top: Array, g: Array, out: Array, padded: Array, spread: Array, free: Array, hit: Array) -> None:
        spread.fill(0.0)
        for place in walk(x, top, padded, free, hit):
            part = spread[place]
            np.add(part, g, part, where=hit)
        np.copyto(out, spread[inside])

    return gradient


def max_pool_gather(value: Value, n: int, randomness: object) -> Kernel:
    walk = _each_maximum(value, n)
    pad = _padder(value.attributes["padding"], 0.0)

    def gather(x: Array, top: Array, g: Array, out: Array, padded: Array, spread: Array, free: Array, hit: Array) -> None:
        source = pad(g, spread)
        for place in walk(x, top, padded, free, hit):
            np.copyto(out, source[place], where=hit)

    return gather


def _inverse_counts(value: Value, n: int, image: Value, output: Value) -> Array:
    """1 / the number of elements of each window that are no padding."""
    (top, bottom), (left, right) = value.attributes["padding"]
    _, _, h, w = concrete(image.shape, n)
    inside = np.zeros((1, 1, h + top + bottom, w + left + right), value.dtype)
    inside[:, :, top : top + h, left : left + w] = 1
    counts = sum(inside[place] for place in _places(value, n, output))
    return 1 / np.asarray(counts, value.dtype)


def avg_pool(value: Value, n: int, randomness: object) -> Kernel:
    places = _places(value, n, value)
    pad = _padder(value.attributes["padding"], 0.0)
    inverse = _inverse_counts(value, n, value.operands[0], value)

    def avg_pool(x: Array, out: Array, padded: Array) -> None:
        x = pad(x, padded)
        np.copyto(out, x[places[0]])
        for place in places[1:]:
            np.add(out, x[place], out)
        np.multiply(out, inverse, out)

    return avg_pool


def avg_pool_gradient(value: Value, n: int, randomness: object) -> Kernel:
    places = _places(value, n, value.operands[0])
    inverse = _inverse_counts(value, n, value, value.operands[0])
    inside = _interior(value.attributes["padding"], concrete(value.shape, n)[2:])

    def gradient(g: Array, out: Array, padded: Array, scaled: Array) -> None:
        np.multiply(g, inverse, scaled)
        padded.fill(0.0)
        for place in places:
            part = padded[place]
            np.add(part, scaled, part)
        np.copyto(out, padded[inside])

    return gradient
