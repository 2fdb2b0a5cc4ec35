"""Convolutions of any window on the fast engine: patches of an image in a matrix, and its product with the weights.

A row of the matrix is what lies under the window at one place: for each row of the window its columns with all their channels, a run of memory
where the window has no gaps. What lies outside of the image is 0. A tile of patches stays in the cache between its copy and its product;
tiles belong to lanes, and lanes to the parts of a kernel. Images are [n, h, w, c] without gaps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .addresses import compiled, float32_at, kernel
from .blas import PLAIN, ROWS, TURNED, sgemm
from .vectors import WIDTH, load, store

_sgemm = sgemm()
f32 = np.float32
# Where the numbers of a geometry stand in the arguments of a kernel; y is the image whose places are the patches.
IMAGE, HEIGHT, WIDTH_OF, CHANNELS, HIGH, WIDE, DOWN, RIGHT, BELOW, BESIDE, TOP, LEFT, Y, Y_HEIGHT, Y_WIDTH, Y_CHANNELS = range(16)
IMAGES, GROUPS, TILE, LANES, MATRIX, PATCHES, PATCHES_OF_A_LANE = range(16, 23)


@compiled()
def _run(source: int, target: int, count: int) -> None:
    whole = count // WIDTH * WIDTH
    for k in range(0, whole, WIDTH):
        store(target + 4 * k, load(source + 4 * k, WIDTH), WIDTH)
    if whole < count:
        store(target + 4 * whole, load(source + 4 * whole, count - whole), count - whole)


@compiled()
def _clear(target: int, count: int) -> None:
    for k in range(0, count, WIDTH):
        store(target + 4 * k, load(target, 0), min(WIDTH, count - k))


@compiled()
def _added(source: int, target: int, count: int) -> None:
    for k in range(0, count, WIDTH):
        some = min(WIDTH, count - k)
        store(target + 4 * k, load(target + 4 * k, some) + load(source + 4 * k, some), some)


@compiled()
def _place(a: Any, line: int, at: int, left: int, inside: bool, back: bool) -> None:
    """One row of the window at one place: its columns from `left` of a line of the image, and whether the line is inside."""
    channels, wide, beside, width = a[CHANNELS], a[WIDE], a[BESIDE], a[WIDTH_OF]
    per = channels // a[GROUPS]
    for v in range(wide):
        x = left + v * beside
        if inside and 0 <= x < width:
            if back:
                _added(at, line + 4 * x * channels, per)
            else:
                _run(line + 4 * x * channels, at, per)
        elif not back:
            _clear(at, per)
        at += 4 * per


@compiled()
def _move(a: Any, first: int, last: int, group: int, patches: int, back: bool) -> None:
    """Patches of rows first..last of all images' rows of places from a group's channels into the matrix; `back`: added back to where they came from.

    Between `begin` and `end` the window's columns lie inside of the image, and without gaps they are one run of memory.
    """
    channels, high, wide, right, places = a[CHANNELS], a[HIGH], a[WIDE], a[RIGHT], a[Y_WIDTH]
    per = channels // a[GROUPS]
    run, depth = wide * per, high * wide * per
    begin = end = places
    if a[BESIDE] == 1 and per == channels:
        begin = min(places, (a[LEFT] + right - 1) // right if a[LEFT] > 0 else 0)
        end = max(begin, min(places, (a[WIDTH_OF] - wide + a[LEFT] + right) // right))
    for row in range(first, last):
        n, i = row // a[Y_HEIGHT], row % a[Y_HEIGHT] * a[DOWN] - a[TOP]
        for u in range(high):
            y = i + u * a[BELOW]
            inside = 0 <= y < a[HEIGHT]
            line = a[IMAGE] + 4 * ((n * a[HEIGHT] + y) * a[WIDTH_OF] * channels + group * per)
            at = patches + 4 * ((row - first) * places * depth + u * run)
            for j in range(begin):
                _place(a, line, at + 4 * j * depth, j * right - a[LEFT], inside, back)
            for j in range(end, places):
                _place(a, line, at + 4 * j * depth, j * right - a[LEFT], inside, back)
            source, target = line + 4 * (begin * right - a[LEFT]) * channels, at + 4 * begin * depth
            if not inside:
                if not back:
                    for j in range(end - begin):
                        _clear(target + 4 * j * depth, run)
            elif back:
                for j in range(end - begin):
                    _added(target + 4 * j * depth, source + 4 * j * right * channels, run)
            elif run <= WIDTH:
                for j in range(end - begin):
                    store(target + 4 * j * depth, load(source + 4 * j * right * channels, run), run)
            else:
                for j in range(end - begin):
                    _run(source + 4 * j * right * channels, target + 4 * j * depth, run)


@kernel
def convolution(a: Any, part: int, parts: int) -> None:
    """A geometry; y = patches . matrix, group by group; the matrix is [groups, patch, channels of y in a group]."""
    groups, lanes = a[GROUPS], a[LANES]
    depth, given = a[HIGH] * a[WIDE] * a[CHANNELS] // groups, a[Y_CHANNELS] // groups
    rows = a[IMAGES] * a[Y_HEIGHT]
    tiles = (rows + a[TILE] - 1) // a[TILE]
    for lane in range(part, lanes, parts):
        patches = a[PATCHES] + 4 * lane * a[PATCHES_OF_A_LANE]
        for t in range(tiles * lane // lanes, tiles * (lane + 1) // lanes):
            first, last = rows * t // tiles, rows * (t + 1) // tiles
            for group in range(groups):
                _move(a, first, last, group, patches, False)
                _sgemm(ROWS, PLAIN, PLAIN, (last - first) * a[Y_WIDTH], given, depth, f32(1), float32_at(patches), depth,
                       float32_at(a[MATRIX] + 4 * group * depth * given), given, f32(0),
                       float32_at(a[Y] + 4 * (first * a[Y_WIDTH] * a[Y_CHANNELS] + group * given)), a[Y_CHANNELS])  # fmt: skip


@kernel
def scattered(a: Any, part: int, parts: int) -> None:
    """A geometry; the image = the sum of the patches y . matrix at their places; the matrix is [groups, channels of y in a group, patch]."""
    groups, lanes = a[GROUPS], a[LANES]
    depth, given = a[HIGH] * a[WIDE] * a[CHANNELS] // groups, a[Y_CHANNELS] // groups
    size = a[HEIGHT] * a[WIDTH_OF] * a[CHANNELS]
    for lane in range(part, lanes, parts):
        patches = a[PATCHES] + 4 * lane * a[PATCHES_OF_A_LANE]
        for n in range(a[IMAGES] * lane // lanes, a[IMAGES] * (lane + 1) // lanes):
            _clear(a[IMAGE] + 4 * n * size, size)
            first, end = n * a[Y_HEIGHT], (n + 1) * a[Y_HEIGHT]
            while first < end:
                last = min(end, first + a[TILE])
                for group in range(groups):
                    _sgemm(ROWS, PLAIN, PLAIN, (last - first) * a[Y_WIDTH], depth, given, f32(1),
                           float32_at(a[Y] + 4 * (first * a[Y_WIDTH] * a[Y_CHANNELS] + group * given)), a[Y_CHANNELS],
                           float32_at(a[MATRIX] + 4 * group * depth * given), depth, f32(0), float32_at(patches), depth)  # fmt: skip
                    _move(a, first, last, group, patches, True)
                first = last


@kernel
def weight_gradient(a: Any, part: int, parts: int) -> None:
    """A geometry; its matrix is [lanes, groups, patch, channels of y in a group], each lane's sum of patches^T . y."""
    groups, lanes = a[GROUPS], a[LANES]
    depth, given = a[HIGH] * a[WIDE] * a[CHANNELS] // groups, a[Y_CHANNELS] // groups
    rows = a[IMAGES] * a[Y_HEIGHT]
    tiles = (rows + a[TILE] - 1) // a[TILE]
    for lane in range(part, lanes, parts):
        patches, sums = a[PATCHES] + 4 * lane * a[PATCHES_OF_A_LANE], a[MATRIX] + 4 * lane * groups * depth * given
        begin, end = tiles * lane // lanes, tiles * (lane + 1) // lanes
        if begin == end:
            _clear(sums, groups * depth * given)
        for t in range(begin, end):
            first, last = rows * t // tiles, rows * (t + 1) // tiles
            for group in range(groups):
                _move(a, first, last, group, patches, False)
                _sgemm(ROWS, TURNED, PLAIN, depth, given, (last - first) * a[Y_WIDTH], f32(1), float32_at(patches), depth,
                       float32_at(a[Y] + 4 * (first * a[Y_WIDTH] * a[Y_CHANNELS] + group * given)), a[Y_CHANNELS],
                       f32(0 if t == begin else 1), float32_at(sums + 4 * group * depth * given), given)  # fmt: skip


@kernel
def gathered(a: Any, part: int, parts: int) -> None:
    """sums [lanes, groups, taps, channels, given], lanes, groups, taps, channels, given, out [groups, given, channels, taps]: the sum of all lanes."""
    lanes, groups, taps, channels, given = a[1], a[2], a[3], a[4], a[5]
    rows = groups * channels
    for row in range(rows * part // parts, rows * (part + 1) // parts):
        group, c = row // channels, row % channels
        for t in range(taps):
            source = a[0] + 4 * ((group * taps + t) * channels + c) * given
            target = float32_at(a[6] + 4 * ((group * given * channels + c) * taps + t))
            for k in range(given):
                total = f32(0)
                for lane in range(lanes):
                    total += float32_at(source + 4 * lane * rows * taps * given)[k]
                target[k * channels * taps] = total
