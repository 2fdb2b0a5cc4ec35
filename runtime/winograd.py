"""Convolutions of 3x3 at stride 1 on the fast engine: Winograd's F(2x2, 3x3) (Lavin and Gray 2015, arXiv:1509.09308).

Four outputs of a 3x3 convolution come from a 4x4 piece of the image, d, as A^T [(G w G^T) * (B^T d B)] A, with 16 products for 36. The
products of many pieces are 16 matrix products. The gradient of the weights is G^T [sum over pieces of (B^T d B) * (A g A^T)] G.

A tile is some rows of pieces, whose arrays stay in the cache; what lies outside of an image is read as 0. Tiles belong to lanes, and lanes to
the parts of a kernel, so that what is computed depends on the number of lanes alone. float32 loses nothing: the error is that of
summing in another order, below 1e-6 of the largest value.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .addresses import compiled, float32_at, kernel, nb
from .blas import PLAIN, ROWS, TURNED, sgemm
from .vectors import WIDTH, inlined, load, load_apart, spread, store, store_apart

_sgemm = sgemm()
f32 = np.float32
FREQUENCIES = 16  # products of a piece


@inlined
def _window_row(a: Any, b: Any, c: Any, out: int, apart: int, count: int) -> None:
    half = spread(f32(0.5))
    ends, middle = half * (a + c), half * b
    store(out, a, count)
    store(out + apart, ends + middle, count)
    store(out + 2 * apart, ends - middle, count)
    store(out + 3 * apart, c, count)


@inlined
def _windows(w: int, by: int, step: int, out: int, apart: int, count: int) -> None:
    """G w G^T of windows that lie `step` bytes from one to the next; `by` is the bytes from an element of a window to the next."""
    half = spread(f32(0.5))
    a0, a1, a2 = load_apart(w, step, count), load_apart(w + by, step, count), load_apart(w + 2 * by, step, count)
    b0, b1, b2 = load_apart(w + 3 * by, step, count), load_apart(w + 4 * by, step, count), load_apart(w + 5 * by, step, count)
    c0, c1, c2 = load_apart(w + 6 * by, step, count), load_apart(w + 7 * by, step, count), load_apart(w + 8 * by, step, count)
    s0, s1, s2 = half * (a0 + c0), half * (a1 + c1), half * (a2 + c2)
    b0, b1, b2 = half * b0, half * b1, half * b2
    _window_row(a0, a1, a2, out, apart, count)
    _window_row(s0 + b0, s1 + b1, s2 + b2, out + 4 * apart, apart, count)
    _window_row(s0 - b0, s1 - b1, s2 - b2, out + 8 * apart, apart, count)
    _window_row(c0, c1, c2, out + 12 * apart, apart, count)


@kernel
def windows(a: Any, part: int, parts: int) -> None:
    """w, outer, inner, elements between windows of the outer and of the inner axis, whether turned around, out: the windows as [16, outer, inner]."""
    outer, inner = a[1], a[2]
    start, by = (a[0] + 32, -4) if a[5] else (a[0], 4)
    for i in range(outer * part // parts, outer * (part + 1) // parts):
        for k in range(0, inner, WIDTH):
            at = start + 4 * (i * a[3] + k * a[4])
            _windows(at, by, 4 * a[4], a[6] + 4 * (i * inner + k), 4 * outer * inner, min(WIDTH, inner - k))


@inlined
def _column(at: int, below: int, top: int, bottom: int, count: int) -> Any:
    """B^T of one column of a piece: its rows from `top` to `bottom` are in the image."""
    d0 = load(at, count if top <= 0 else 0)
    d1 = load(at + below, count if top <= 1 and bottom > 1 else 0)
    d2 = load(at + 2 * below, count if top <= 2 and bottom > 2 else 0)
    d3 = load(at + 3 * below, count if bottom > 3 else 0)
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3


@inlined
def _row(a: Any, b: Any, c: Any, d: Any, out: int, apart: int, count: int) -> None:
    store(out, a - c, count)
    store(out + apart, b + c, count)
    store(out + 2 * apart, c - b, count)
    store(out + 3 * apart, b - d, count)


@inlined
def _piece(at: int, below: int, beside: int, top: int, bottom: int, left: int, right: int, out: int, apart: int, count: int) -> None:
    """B^T d B of a piece whose rows top..bottom and columns left..right are in the image, at 16 places `apart`."""
    a0, a1, a2, a3 = _column(at, below, top, bottom, count if left <= 0 else 0)
    b0, b1, b2, b3 = _column(at + beside, below, top, bottom, count if left <= 1 and right > 1 else 0)
    c0, c1, c2, c3 = _column(at + 2 * beside, below, top, bottom, count if left <= 2 and right > 2 else 0)
    d0, d1, d2, d3 = _column(at + 3 * beside, below, top, bottom, count if right > 3 else 0)
    _row(a0, b0, c0, d0, out, apart, count)
    _row(a1, b1, c1, d1, out + 4 * apart, apart, count)
    _row(a2, b2, c2, d2, out + 8 * apart, apart, count)
    _row(a3, b3, c3, d3, out + 12 * apart, apart, count)


@compiled()
def _pieces(x: int, height: int, width: int, channels: int, top: int, left: int, down: int, right: int, first: int, last: int, out: int, apart: int) -> None:
    """The pieces of rows first..last of all images' rows of pieces, [16, pieces, channels]."""
    beside, below = 4 * channels, 4 * channels * width
    whole = channels // WIDTH * WIDTH
    for row in range(first, last):
        n, i = row // down, 2 * (row % down) - top
        low, high = max(0, -i), min(4, height - i)
        for j in range(right):
            v = 2 * j - left
            at = x + 4 * channels * ((n * height + i) * width + v)
            if low == 0 and high == 4 and v >= 0 and v + 4 <= width:
                for k in range(0, whole, WIDTH):
                    _piece(at + 4 * k, below, beside, 0, 4, 0, 4, out + 4 * k, apart, WIDTH)
                if whole < channels:
                    _piece(at + 4 * whole, below, beside, 0, 4, 0, 4, out + 4 * whole, apart, channels - whole)
            else:
                for k in range(0, channels, WIDTH):
                    _piece(at + 4 * k, below, beside, low, high, max(0, -v), min(4, width - v), out + 4 * k, apart, min(WIDTH, channels - k))
            out += 4 * channels


@inlined
def _sums(m: int, apart: int, count: int) -> Any:
    """A^T of four products of a column."""
    a, b, c, d = load(m, count), load(m + 4 * apart, count), load(m + 8 * apart, count), load(m + 12 * apart, count)
    return a + b + c, b - c - d


@inlined
def _outputs(m: int, apart: int, at: int, below: int, beside: int, under: int, next_to: int, count: int) -> None:
    """A^T m A; `under` and `next_to` are 0 where the second row or column lies outside, else 1."""
    a0, a1 = _sums(m, apart, count)
    b0, b1 = _sums(m + apart, apart, count)
    c0, c1 = _sums(m + 2 * apart, apart, count)
    d0, d1 = _sums(m + 3 * apart, apart, count)
    store(at, a0 + b0 + c0, count)
    store(at + beside, b0 - c0 - d0, count * next_to)
    store(at + below, a1 + b1 + c1, count * under)
    store(at + below + beside, b1 - c1 - d1, count * under * next_to)


@compiled()
def _joined(m: int, apart: int, height: int, width: int, channels: int, down: int, right: int, first: int, last: int, y: int) -> None:
    """The outputs of the pieces of rows first..last."""
    beside, below = 4 * channels, 4 * channels * width
    whole = channels // WIDTH * WIDTH
    for row in range(first, last):
        n, i = row // down, 2 * (row % down)
        at = y + (n * height + i) * below
        for j in range(right):
            if i + 1 < height and 2 * j + 1 < width:
                for k in range(0, whole, WIDTH):
                    _outputs(m + 4 * k, apart, at + 4 * k, below, beside, 1, 1, WIDTH)
                if whole < channels:
                    _outputs(m + 4 * whole, apart, at + 4 * whole, below, beside, 1, 1, channels - whole)
            else:
                under, next_to = int(i + 1 < height), int(2 * j + 1 < width)
                for k in range(0, channels, WIDTH):
                    _outputs(m + 4 * k, apart, at + 4 * k, below, beside, under, next_to, min(WIDTH, channels - k))
            m += 4 * channels
            at += 2 * beside


@inlined
def _spread_row(p: Any, q: Any, out: int, apart: int, count: int) -> None:
    store(out, p, count)
    store(out + apart, p + q, count)
    store(out + 2 * apart, p - q, count)
    store(out + 3 * apart, q, count)


@inlined
def _spread_piece(at: int, below: int, beside: int, under: int, next_to: int, out: int, apart: int, count: int) -> None:
    """A g A^T, but for the signs of its last row and column, which the sum of products gets (gathered_windows)."""
    p, q = load(at, count), load(at + beside, count * next_to)
    r, s = load(at + below, count * under), load(at + below + beside, count * under * next_to)
    _spread_row(p, q, out, apart, count)
    _spread_row(p + r, q + s, out + 4 * apart, apart, count)
    _spread_row(p - r, q - s, out + 8 * apart, apart, count)
    _spread_row(r, s, out + 12 * apart, apart, count)


@compiled()
def _spreads(g: int, height: int, width: int, channels: int, down: int, right: int, first: int, last: int, out: int, apart: int) -> None:
    """The cotangents of the pieces of rows first..last, [16, pieces, channels]."""
    beside, below = 4 * channels, 4 * channels * width
    whole = channels // WIDTH * WIDTH
    for row in range(first, last):
        n, i = row // down, 2 * (row % down)
        at = g + (n * height + i) * below
        for j in range(right):
            if i + 1 < height and 2 * j + 1 < width:
                for k in range(0, whole, WIDTH):
                    _spread_piece(at + 4 * k, below, beside, 1, 1, out + 4 * k, apart, WIDTH)
                if whole < channels:
                    _spread_piece(at + 4 * whole, below, beside, 1, 1, out + 4 * whole, apart, channels - whole)
            else:
                under, next_to = int(i + 1 < height), int(2 * j + 1 < width)
                for k in range(0, channels, WIDTH):
                    _spread_piece(at + 4 * k, below, beside, under, next_to, out + 4 * k, apart, min(WIDTH, channels - k))
            out += 4 * channels
            at += 2 * beside


@kernel
def convolution(a: Any, part: int, parts: int) -> None:
    """x, height, width, channels, padding at the top and left, y, height, width, channels, rows and columns of pieces in an image, images,
    rows of pieces in a tile, lanes, transformed windows, pieces, elements of a lane, of one of its 16, products, elements of a lane, of one of its 16.

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
            _pieces(a[0], a[1], a[2], channels, a[4], a[5], down, right, first, last, d, 4 * a[18])
            for f in range(FREQUENCIES):
                _sgemm(ROWS, PLAIN, PLAIN, count, given, channels, f32(1), float32_at(d + 4 * f * a[18]), channels,
                       float32_at(a[15] + 4 * f * channels * given), given, f32(0), float32_at(m + 4 * f * a[21]), given)  # fmt: skip
            _joined(m, 4 * a[21], a[7], a[8], given, down, right, first, last, a[6])


@kernel
def weight_gradient(a: Any, part: int, parts: int) -> None:
    """x, height, width, channels, padding at the top and left, g, height, width, channels, rows and columns of pieces in an image, images,
    rows of pieces in a tile, lanes, sums [lanes, 16, channels of x, channels of g], pieces, elements of a lane, of one of its 16, the cotangent's
    pieces, elements of a lane, of one of its 16."""
    channels, given, down, right, tile, lanes = a[3], a[9], a[10], a[11], a[13], a[14]
    rows = a[12] * down
    tiles = (rows + tile - 1) // tile
    size = channels * given
    for lane in range(part, lanes, parts):
        d, s, sums = a[16] + 4 * lane * a[17], a[19] + 4 * lane * a[20], a[15] + 4 * lane * FREQUENCIES * size
        begin, end = tiles * lane // lanes, tiles * (lane + 1) // lanes
        if begin == end:
            nb.carray(float32_at(sums), (FREQUENCIES * size,))[...] = f32(0)
        for t in range(begin, end):
            first, last = rows * t // tiles, rows * (t + 1) // tiles
            count = (last - first) * right
            _pieces(a[0], a[1], a[2], channels, a[4], a[5], down, right, first, last, d, 4 * a[18])
            _spreads(a[6], a[7], a[8], given, down, right, first, last, s, 4 * a[21])
            for f in range(FREQUENCIES):
                _sgemm(ROWS, TURNED, PLAIN, channels, given, count, f32(1), float32_at(d + 4 * f * a[18]), channels, float32_at(s + 4 * f * a[21]), given,
                       f32(0 if t == begin else 1), float32_at(sums + 4 * f * size), given)  # fmt: skip


@inlined
def _summed_row(sums: int, apart: int, lanes: int, of_lane: int, count: int) -> Any:
    """Four products, summed over the lanes, times G."""
    half = spread(f32(0.5))
    a, b, c, d = load(sums, count), load(sums + apart, count), load(sums + 2 * apart, count), load(sums + 3 * apart, count)
    for lane in range(1, lanes):
        at = sums + lane * of_lane
        a, b = a + load(at, count), b + load(at + apart, count)
        c, d = c + load(at + 2 * apart, count), d + load(at + 3 * apart, count)
    ends = half * (b + c)
    return a + ends, half * (b - c), ends - d


@kernel
def gathered_windows(a: Any, part: int, parts: int) -> None:
    """sums [lanes, 16, channels, given], lanes, channels, given, out [given, channels, 3, 3]: G^T of the sum of all lanes, G."""
    lanes, channels, given = a[1], a[2], a[3]
    apart, step = 4 * channels * given, 36 * channels
    half = spread(f32(0.5))
    for c in range(channels * part // parts, channels * (part + 1) // parts):
        for k in range(0, given, WIDTH):
            count = min(WIDTH, given - k)
            s = a[0] + 4 * (c * given + k)
            a0, a1, a2 = _summed_row(s, apart, lanes, 16 * apart, count)
            b0, b1, b2 = _summed_row(s + 4 * apart, apart, lanes, 16 * apart, count)
            c0, c1, c2 = _summed_row(s + 8 * apart, apart, lanes, 16 * apart, count)
            d0, d1, d2 = _summed_row(s + 12 * apart, apart, lanes, 16 * apart, count)
            s0, s1, s2 = half * (b0 + c0), half * (b1 + c1), half * (b2 + c2)
            y = a[4] + 36 * (k * channels + c)
            store_apart(y, step, a0 + s0, count)
            store_apart(y + 4, step, a1 + s1, count)
            store_apart(y + 8, step, a2 + s2, count)
            store_apart(y + 12, step, half * (b0 - c0), count)
            store_apart(y + 16, step, half * (b1 - c1), count)
            store_apart(y + 20, step, half * (b2 - c2), count)
            store_apart(y + 24, step, s0 - d0, count)
            store_apart(y + 28, step, s1 - d1, count)
            store_apart(y + 32, step, s2 - d2, count)
