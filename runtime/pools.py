"""Pooling on the fast engine. Images are [n, h, w, c] without gaps; what lies outside of an image belongs to no window.

The arguments of a pool begin with: the large image, its height, width and channels, the window's height and width, stride down and right, padding
at the top and left, the small image, its height and width, images.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .addresses import compiled, kernel
from .vectors import WIDTH, inlined, larger, load, spread, store, where_equal

f32 = np.float32


@inlined
def _edges(a: Any, i: int, j: int) -> Any:
    """The part of a window that lies in the image: first and last row, first and last column."""
    y, x = i * a[6] - a[8], j * a[7] - a[9]
    return max(0, y), max(0, min(a[1], y + a[4])), max(0, x), max(0, min(a[2], x + a[5]))


@inlined
def _largest(x: int, line: int, beside: int, top: int, bottom: int, left: int, right: int, target: int, count: int) -> None:
    found = spread(f32(-np.inf))
    for u in range(top, bottom):
        for v in range(left, right):
            found = larger(load(x + u * line + v * beside, count), found)
    store(target, found, count)


@kernel
def max_pool(a: Any, part: int, parts: int) -> None:
    """The largest element of each window; NaN stays NaN."""
    channels, high, wide = a[3], a[11], a[12]
    beside, line = 4 * channels, 4 * channels * a[2]
    whole = channels // WIDTH * WIDTH
    rows = a[13] * high
    for row in range(rows * part // parts, rows * (part + 1) // parts):
        n, i = row // high, row % high
        x = a[0] + n * a[1] * line
        for j in range(wide):
            top, bottom, left, right = _edges(a, i, j)
            target = a[10] + (row * wide + j) * beside
            for k in range(0, whole, WIDTH):
                _largest(x + 4 * k, line, beside, top, bottom, left, right, target + 4 * k, WIDTH)
            if whole < channels:
                _largest(x + 4 * whole, line, beside, top, bottom, left, right, target + 4 * whole, channels - whole)


@inlined
def _sent(x: int, out: int, line: int, beside: int, top: int, bottom: int, left: int, right: int, y: int, g: int, alone: bool, count: int) -> None:
    largest, rest, zero = load(y, count), load(g, count), spread(f32(0))
    for u in range(top, bottom):
        for v in range(left, right):
            at = u * line + v * beside
            here = load(x + at, count)
            share = where_equal(here, largest, rest, zero)
            rest = where_equal(here, largest, zero, rest)
            store(out + at, share if alone else share + load(out + at, count), count)


@inlined
def _all_sent(x: int, out: int, line: int, beside: int, top: int, bottom: int, left: int, right: int, y: int, g: int, alone: bool, channels: int) -> None:
    whole = channels // WIDTH * WIDTH
    for k in range(0, 4 * whole, 4 * WIDTH):
        _sent(x + k, out + k, line, beside, top, bottom, left, right, y + k, g + k, alone, WIDTH)
    if whole < channels:
        k, some = 4 * whole, channels - whole
        _sent(x + k, out + k, line, beside, top, bottom, left, right, y + k, g + k, alone, some)


@compiled()
def _clear(target: int, count: int) -> None:
    zero = spread(f32(0))
    for k in range(0, count, WIDTH):
        store(target + 4 * k, zero, min(WIDTH, count - k))


@kernel
def max_pool_gradient(a: Any, part: int, parts: int) -> None:
    """Then the cotangent, the image of cotangents, and whether no element is in several windows: each window's cotangent goes to its first maximum.

    Where the windows divide the image, the image of cotangents may be the large one itself.
    """
    channels, high, wide, images, alone = a[3], a[11], a[12], a[13], a[16] != 0
    beside, line = 4 * channels, 4 * channels * a[2]
    size = a[1] * a[2] * channels
    covered = alone and a[8] == 0 and a[9] == 0 and high * a[6] == a[1] and wide * a[7] == a[2] and a[4] == a[6] and a[5] == a[7]
    pairs = a[4] == a[5] == a[6] == a[7] == 2 and a[8] == a[9] == 0 and 2 * high <= a[1] and 2 * wide <= a[2]
    for n in range(images * part // parts, images * (part + 1) // parts):
        x, out = a[0] + 4 * n * size, a[15] + 4 * n * size
        if not covered:
            _clear(out, size)
        for i in range(high):
            for j in range(wide):
                at = ((n * high + i) * wide + j) * beside
                y, g = a[10] + at, a[14] + at
                if pairs:  # loops of a known length, which LLVM unrolls
                    corner = 2 * i * line + 2 * j * beside
                    _all_sent(x + corner, out + corner, line, beside, 0, 2, 0, 2, y, g, True, channels)
                else:
                    top, bottom, left, right = _edges(a, i, j)
                    _all_sent(x, out, line, beside, top, bottom, left, right, y, g, alone, channels)


@kernel
def avg_pool(a: Any, part: int, parts: int) -> None:
    """The mean of each window's elements."""
    channels, high, wide = a[3], a[11], a[12]
    beside, line = 4 * channels, 4 * channels * a[2]
    rows = a[13] * high
    for row in range(rows * part // parts, rows * (part + 1) // parts):
        n, i = row // high, row % high
        x = a[0] + n * a[1] * line
        for j in range(wide):
            top, bottom, left, right = _edges(a, i, j)
            share = spread(f32(1) / f32((bottom - top) * (right - left)))
            target = a[10] + (row * wide + j) * beside
            for k in range(0, channels, WIDTH):
                count = min(WIDTH, channels - k)
                total = spread(f32(0))
                for u in range(top, bottom):
                    for v in range(left, right):
                        total = total + load(x + 4 * k + u * line + v * beside, count)
                store(target + 4 * k, total * share, count)


@kernel
def avg_pool_gradient(a: Any, part: int, parts: int) -> None:
    """The large image = the cotangents, in the small one, of all windows that an element is in, each over the number of the window's elements."""
    channels, high, wide, images = a[3], a[11], a[12], a[13]
    beside, line, size = 4 * channels, 4 * channels * a[2], a[1] * a[2] * channels
    for n in range(images * part // parts, images * (part + 1) // parts):
        x = a[0] + 4 * n * size
        _clear(x, size)
        for i in range(high):
            for j in range(wide):
                top, bottom, left, right = _edges(a, i, j)
                share = spread(f32(1) / f32((bottom - top) * (right - left)))
                g = a[10] + ((n * high + i) * wide + j) * beside
                for k in range(0, channels, WIDTH):
                    count = min(WIDTH, channels - k)
                    given = load(g + 4 * k, count) * share
                    for u in range(top, bottom):
                        for v in range(left, right):
                            at = x + 4 * k + u * line + v * beside
                            store(at, load(at, count) + given, count)


@kernel
def sum_places(a: Any, part: int, parts: int) -> None:
    """x, images, places, channels, out: the sum of each image over its places."""
    images, places, channels = a[1], a[2], a[3]
    for n in range(images * part // parts, images * (part + 1) // parts):
        for k in range(0, channels, WIDTH):
            count = min(WIDTH, channels - k)
            at = a[0] + 4 * (n * places * channels + k)
            total = spread(f32(0))
            for _ in range(places):
                total = total + load(at, count)
                at += 4 * channels
            store(a[4] + 4 * (n * channels + k), total, count)
