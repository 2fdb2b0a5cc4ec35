"""Convolutions of 3x3 at stride 1 on the fast engine: Winograd's F(2x2, 3x3) and F(4x4, 3x3) (Lavin and Gray 2015, arXiv:1509.09308).

A piece of m x m outputs of a 3x3 convolution comes from an n x n piece of the image, d, as A^T [(G w G^T) * (B^T d B)] A with n = m + 2: 16
products for 36 where m is 2, 36 for 144 where it is 4. The products of many pieces are n^2 matrix products. The gradient of the weights is
G^T [sum over pieces of (B^T d B) * (A g A^T)] G.

A tile is some rows of pieces, whose arrays stay in the cache; what lies outside of an image is read as 0. Tiles belong to lanes, and lanes to
the parts of a kernel, so that what is computed depends on the number of lanes alone. In float32 F(2, 3) loses nothing: its error is that of
summing in another order, below 1e-6 of the largest value. F(4, 3) may leave 3e-5.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .addresses import CompiledKernel, compiled, float32_at, kernel, nb
from .blas import PLAIN, ROWS, TURNED, sgemm
from .interpolation import F2, F4, Form, turned
from .transforms import Image, Stack, Windows, transform
from .vectors import WIDTH, inlined, load, store

_sgemm = sgemm()
f32 = np.float32


def _at_pieces(transformed: Any, side: int, extent: int) -> Any:
    """A function of compiled code that has each piece of an image, of extent x extent elements and `side` from its neighbours, transformed."""

    @compiled()
    def at_pieces(x: int, height: int, width: int, channels: int, top: int, left: int, down: int, right: int, first: int, last: int, out: int,
                  apart: int) -> None:  # fmt: skip
        """The pieces of rows first..last of all images' rows of pieces, and [n^2, pieces, channels], whose n^2 streams lie `apart` bytes from each other."""
        beside, below = 4 * channels, 4 * channels * width
        whole = channels // WIDTH * WIDTH
        for row in range(first, last):
            n, i = row // down, side * (row % down) - top
            low, high = max(0, -i), min(extent, height - i)
            for j in range(right):
                v = side * j - left
                at = x + 4 * channels * ((n * height + i) * width + v)
                if low == 0 and high == extent and v >= 0 and v + extent <= width:
                    for k in range(0, whole, WIDTH):
                        transformed((at + 4 * k, below, beside, 0, extent, 0, extent), (out + 4 * k, apart), WIDTH)
                    if whole < channels:
                        transformed((at + 4 * whole, below, beside, 0, extent, 0, extent), (out + 4 * whole, apart), channels - whole)
                else:
                    begin, end = max(0, -v), min(extent, width - v)
                    for k in range(0, channels, WIDTH):
                        transformed((at + 4 * k, below, beside, low, high, begin, end), (out + 4 * k, apart), min(WIDTH, channels - k))
                out += 4 * channels

    return at_pieces


def kernels_of(form: Form) -> tuple[CompiledKernel, CompiledKernel, CompiledKernel, CompiledKernel]:
    """windows, convolution, weight_gradient and gathered_windows of a form."""
    side, extent = form.side, form.extent
    frequencies = extent**2  # products of a piece
    image, stack = Image(), Stack(extent)
    of_windows = transform(form.of_window, Windows(), stack)
    to_windows = transform(turned(form.of_window), stack, Windows())
    to_outputs = transform(turned(form.of_cotangent), stack, image)
    cut = _at_pieces(transform(form.of_input, image, stack), side, extent)
    spread = _at_pieces(transform(form.of_cotangent, image, stack), side, side)
    joined = _at_pieces(inlined(lambda at, of, count: to_outputs(of, at, count)), side, side)

    def windows(a: Any, part: int, parts: int) -> None:
        """w, outer, inner, elements between windows of the outer and of the inner axis, whether turned around, out, elements of one of its n^2:
        G w G^T as [n^2, outer, inner]."""
        outer, inner = a[1], a[2]
        start, by = (a[0] + 32, -4) if a[5] else (a[0], 4)
        for i in range(outer * part // parts, outer * (part + 1) // parts):
            for k in range(0, inner, WIDTH):
                at = start + 4 * (i * a[3] + k * a[4])
                of_windows((at, by, 4 * a[4]), (a[6] + 4 * (i * inner + k), 4 * a[7]), min(WIDTH, inner - k))

    def convolution(a: Any, part: int, parts: int) -> None:
        """x, height, width, channels, padding at the top and left, y, height, width, channels, rows and columns of pieces in an image, images,
        rows of pieces in a tile, lanes, transformed windows, pieces, elements of a lane, of one of its n^2, products, elements of a lane, of one of
        its n^2, elements of one of the n^2 matrices of windows.

        Images are [n, h, w, c] without gaps.
        """
        channels, given, down, right, tile, lanes = a[3], a[9], a[10], a[11], a[13], a[14]
        rows = a[12] * down
        tiles = (rows + tile - 1) // tile
        for lane in range(part, lanes, parts):
            d, m = a[16] + 4 * lane * a[17], a[19] + 4 * lane * a[20]
            for t in range(tiles * lane // lanes, tiles * (lane + 1) // lanes):
                first, last = rows * t // tiles, rows * (t + 1) // tiles
                count = (last - first) * right
                cut(a[0], a[1], a[2], channels, a[4], a[5], down, right, first, last, d, 4 * a[18])
                for f in range(frequencies):
                    _sgemm(ROWS, PLAIN, PLAIN, count, given, channels, f32(1), float32_at(d + 4 * f * a[18]), channels,
                           float32_at(a[15] + 4 * f * a[22]), given, f32(0), float32_at(m + 4 * f * a[21]), given)  # fmt: skip
                joined(a[6], a[7], a[8], given, 0, 0, down, right, first, last, m, 4 * a[21])

    def weight_gradient(a: Any, part: int, parts: int) -> None:
        """x, height, width, channels, padding at the top and left, g, height, width, channels, rows and columns of pieces in an image, images,
        rows of pieces in a tile, lanes, sums [lanes, n^2, channels of x, channels of g], pieces, elements of a lane, of one of its n^2, the
        cotangent's pieces, elements of a lane, of one of its n^2, elements of one of the n^2 sums of a lane."""
        channels, given, down, right, tile, lanes = a[3], a[9], a[10], a[11], a[13], a[14]
        rows = a[12] * down
        tiles = (rows + tile - 1) // tile
        for lane in range(part, lanes, parts):
            d, s, sums = a[16] + 4 * lane * a[17], a[19] + 4 * lane * a[20], a[15] + 4 * lane * frequencies * a[22]
            begin, end = tiles * lane // lanes, tiles * (lane + 1) // lanes
            if begin == end:
                nb.carray(float32_at(sums), (frequencies * a[22],))[...] = f32(0)
            for t in range(begin, end):
                first, last = rows * t // tiles, rows * (t + 1) // tiles
                count = (last - first) * right
                cut(a[0], a[1], a[2], channels, a[4], a[5], down, right, first, last, d, 4 * a[18])
                spread(a[6], a[7], a[8], given, 0, 0, down, right, first, last, s, 4 * a[21])
                for f in range(frequencies):
                    _sgemm(ROWS, TURNED, PLAIN, channels, given, count, f32(1), float32_at(d + 4 * f * a[18]), channels, float32_at(s + 4 * f * a[21]),
                           given, f32(0 if t == begin else 1), float32_at(sums + 4 * f * a[22]), given)  # fmt: skip

    def gathered_windows(a: Any, part: int, parts: int) -> None:
        """sums [lanes, n^2, channels, given], lanes, channels, given, elements of one of the n^2, out [given, channels, 3, 3]: G^T of the sum of all
        lanes, G."""
        lanes, channels, given = a[1], a[2], a[3]
        apart = 4 * a[4]
        for c in range(channels * part // parts, channels * (part + 1) // parts):
            for k in range(0, given, WIDTH):
                count = min(WIDTH, given - k)
                first = a[0] + 4 * (c * given + k)
                for f in range(frequencies):
                    total = load(first + f * apart, count)
                    for lane in range(1, lanes):
                        total = total + load(first + (lane * frequencies + f) * apart, count)
                    store(first + f * apart, total, count)
                to_windows((first, apart), (a[5] + 36 * (k * channels + c), 4, 36 * channels), count)

    def named(function: Any) -> CompiledKernel:
        function.__name__ += str(side)
        return kernel(function)

    return named(windows), named(convolution), named(weight_gradient), named(gathered_windows)


windows2, convolution2, weight_gradient2, gathered_windows2 = kernels_of(F2)
windows4, convolution4, weight_gradient4, gathered_windows4 = kernels_of(F4)
