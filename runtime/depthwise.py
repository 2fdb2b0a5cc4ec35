"""Depthwise convolutions on the fast engine: every channel has windows of its own. Images are [n, h, w, c] without gaps.

A convolution and the gradient of its image are one kind of sum, along rows and columns alike: target[t] = sum over s of source[start + t place + s step]
window[first + s tap]. The gradient at stride d has d of them along an axis, one for each remainder of a place by d, over the taps that reach
such places: a *phase*. What lies outside of the source is read as nothing.

Of `multiplier` outputs a channel, that of window k lies at channel * multiplier + k. Windows are [multiplier, tap, channel].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .addresses import compiled, int64_at, kernel
from .vectors import WIDTH, inlined, load, load_apart, plus_product, spread, store, store_apart

f32 = np.float32
BLOCK = 4  # places beside each other that share what is read of a window
RUN = 512  # places that are added up by themselves, so that the error does not grow with their number
# Where the numbers of a convolution stand in its arguments. READ and WRITTEN are the channels of the source and of the target for each of the windows'.
SOURCE, HEIGHT, WIDTH_OF, TARGET, ROWS, COLUMNS, IMAGES, CHANNELS, READ, WRITTEN, WINDOWS, HIGH, WIDE = range(13)
DOWN, BELOW, TAP_BELOW, ROW_PHASES, ROW_TABLE, RIGHT, BESIDE, TAP_BESIDE, COLUMN_PHASES, COLUMN_TABLE = range(13, 23)
# Where those of a phase stand: targets BEGIN..END have all taps in the source.
START, FIRST, TAPS, TARGETS, BEGIN, END, NUMBERS = range(7)
# Where those of a weight gradient stand in its arguments.
X, X_HEIGHT, X_WIDTH, G, G_ROWS, G_COLUMNS, G_IMAGES, C, MULTIPLIER, W_HIGH, W_WIDE, STEP_DOWN, STEP_RIGHT, GAP_BELOW, GAP_BESIDE = range(15)
TOP, LEFT, FULL_BEGIN, FULL_END, LANES, SUMS = range(15, 21)


@compiled()
def _outside(place: int, step: int, count: int, size: int) -> int:
    """How many of the first of so many places, `step` apart, lie outside of 0..size."""
    found = 0
    while found < count and not 0 <= place + found * step < size:
        found += 1
    return found


@compiled()
def _inside(place: int, step: int, low: int, count: int, size: int) -> int:
    """The end of those from `low` on that lie inside."""
    while low < count and 0 <= place + low * step < size:
        low += 1
    return low


@inlined
def _one(x: int, line: int, low: int, high: int, beside: int, left: int, right: int, w: int, row: int, tap: int, count: int) -> Any:
    """The sum at one place over the window's rows low..high and columns left..right."""
    total = spread(f32(0))
    for u in range(low, high):
        for v in range(left, right):
            total = plus_product(load(x + u * line + v * beside, count), load(w + u * row + v * tap, count), total)
    return total


@inlined
def _four(x: int, line: int, low: int, high: int, beside: int, taps: int, w: int, row: int, tap: int, right: int, out: int, next_to: int, count: int) -> None:
    """The sums at four places, whose sources lie `right` bytes apart, over all of the window's columns."""
    a = b = c = d = spread(f32(0))
    for u in range(low, high):
        for v in range(taps):
            window, here = load(w + u * row + v * tap, count), x + u * line + v * beside
            a = plus_product(load(here, count), window, a)
            b = plus_product(load(here + right, count), window, b)
            c = plus_product(load(here + 2 * right, count), window, c)
            d = plus_product(load(here + 3 * right, count), window, d)
    store(out, a, count)
    store(out + next_to, b, count)
    store(out + 2 * next_to, c, count)
    store(out + 3 * next_to, d, count)


@compiled()
def _line(a: Any, p: Any, out: int, line: int, low: int, high: int, x: int, w: int) -> None:
    """The places of a phase in one row of the target; x is the source's row of the first tap, w the window's. One window a channel."""
    channels, taps, begin, end = a[CHANNELS], p[TAPS], p[BEGIN], p[END]
    whole, one = channels // WIDTH * WIDTH, 4 * channels
    beside, tap, right, next_to, below = one * a[BESIDE], one * a[TAP_BESIDE], one * a[RIGHT], one * a[COLUMN_PHASES], one * a[WIDE] * a[TAP_BELOW]
    j = 0
    while j < p[TARGETS]:
        column, target = p[START] + j * a[RIGHT], out + j * next_to
        at = x + column * one
        if begin <= j and j + BLOCK <= end:
            for c in range(0, whole, WIDTH):
                _four(at + 4 * c, line, low, high, beside, taps, w + 4 * c, below, tap, right, target + 4 * c, next_to, WIDTH)
            if whole < channels:
                c, count = whole, channels - whole
                _four(at + 4 * c, line, low, high, beside, taps, w + 4 * c, below, tap, right, target + 4 * c, next_to, count)
            j += BLOCK
        else:
            first = _outside(column, a[BESIDE], taps, a[WIDTH_OF])
            last = _inside(column, a[BESIDE], first, taps, a[WIDTH_OF])
            for c in range(0, channels, WIDTH):
                count = min(WIDTH, channels - c)
                store(target + 4 * c, _one(at + 4 * c, line, low, high, beside, first, last, w + 4 * c, below, tap, count), count)
            j += 1


@compiled()
def _line_of_several(a: Any, p: Any, out: int, line: int, low: int, high: int, x: int, w: int) -> None:
    """The same with several windows a channel."""
    channels, taps, read, written = a[CHANNELS], p[TAPS], a[READ], a[WRITTEN]
    one, windows = 4 * channels, 4 * channels * a[HIGH] * a[WIDE]
    row, tap = one * a[WIDE] * a[TAP_BELOW], one * a[TAP_BESIDE]
    for j in range(p[TARGETS]):
        column = p[START] + j * a[RIGHT]
        first = _outside(column, a[BESIDE], taps, a[WIDTH_OF])
        last = _inside(column, a[BESIDE], first, taps, a[WIDTH_OF])
        for c in range(0, channels, WIDTH):
            count = min(WIDTH, channels - c)
            for k in range(written):
                total = spread(f32(0))
                for given in range(read):
                    for u in range(low, high):
                        for v in range(first, last):
                            at = x + u * line + (column + v * a[BESIDE]) * one * read + 4 * (c * read + given)
                            window = load(w + u * row + v * tap + (k + given) * windows + 4 * c, count)
                            total = plus_product(load_apart(at, 4 * read, count), window, total)
                store_apart(out + j * one * written * a[COLUMN_PHASES] + 4 * (c * written + k), 4 * written, total, count)


@kernel
def convolution(a: Any, part: int, parts: int) -> None:
    """The target: for each of its channels the sums of the source's places under that channel's window."""
    rows, channels, read, written = a[IMAGES] * a[ROWS], a[CHANNELS], a[READ], a[WRITTEN]
    for number in range(rows * part // parts, rows * (part + 1) // parts):
        n, y = number // a[ROWS], number % a[ROWS]
        p = int64_at(a[ROW_TABLE] + 8 * NUMBERS * (y % a[ROW_PHASES]))
        source = p[START] + y // a[ROW_PHASES] * a[DOWN]
        low = _outside(source, a[BELOW], p[TAPS], a[HEIGHT])
        high = _inside(source, a[BELOW], low, p[TAPS], a[HEIGHT])
        x = a[SOURCE] + 4 * channels * read * (n * a[HEIGHT] + source) * a[WIDTH_OF]
        line = 4 * channels * read * a[WIDTH_OF] * a[BELOW]
        w = a[WINDOWS] + 4 * channels * a[WIDE] * p[FIRST]
        for phase in range(a[COLUMN_PHASES]):
            table, target = int64_at(a[COLUMN_TABLE] + 8 * NUMBERS * phase), a[TARGET] + 4 * channels * written * (number * a[COLUMNS] + phase)
            window = w + 4 * channels * table[FIRST]
            if read == 1 and written == 1:
                _line(a, table, target, line, low, high, x, window)
            else:
                _line_of_several(a, table, target, line, low, high, x, window)


@inlined
def _added_four(x: int, line: int, low: int, high: int, beside: int, wide: int, right: int, g: int, next_to: int, sums: int, tap: int, count: int) -> None:
    """What four places beside each other add to the sums of all columns of the window."""
    g0, g1, g2, g3 = load(g, count), load(g + next_to, count), load(g + 2 * next_to, count), load(g + 3 * next_to, count)
    for u in range(low, high):
        for v in range(wide):
            here, at = x + u * line + v * beside, sums + (u * wide + v) * tap
            some = plus_product(load(here, count), g0, load(at, count))
            some = plus_product(load(here + right, count), g1, some)
            some = plus_product(load(here + 2 * right, count), g2, some)
            store(at, plus_product(load(here + 3 * right, count), g3, some), count)


@compiled()
def _row_added(a: Any, number: int, sums: int) -> None:
    """What a row of cotangents adds to the sums."""
    n, i, channels, multiplier, wide = number // a[G_ROWS], number % a[G_ROWS], a[C], a[MULTIPLIER], a[W_WIDE]
    whole, one, source = channels // WIDTH * WIDTH, 4 * channels, i * a[STEP_DOWN] - a[TOP]
    low = _outside(source, a[GAP_BELOW], a[W_HIGH], a[X_HEIGHT])
    high = _inside(source, a[GAP_BELOW], low, a[W_HIGH], a[X_HEIGHT])
    x, line = a[X] + one * (n * a[X_HEIGHT] + source) * a[X_WIDTH], one * a[X_WIDTH] * a[GAP_BELOW]
    beside, right = one * a[GAP_BESIDE], one * a[STEP_RIGHT]
    j = 0
    while j < a[G_COLUMNS]:
        column = j * a[STEP_RIGHT] - a[LEFT]
        at, g = x + one * column, a[G] + (number * a[G_COLUMNS] + j) * one * multiplier
        if multiplier == 1 and a[FULL_BEGIN] <= j and j + BLOCK <= a[FULL_END]:
            for c in range(0, whole, WIDTH):
                _added_four(at + 4 * c, line, low, high, beside, wide, right, g + 4 * c, one, sums + 4 * c, one, WIDTH)
            if whole < channels:
                c, count = whole, channels - whole
                _added_four(at + 4 * c, line, low, high, beside, wide, right, g + 4 * c, one, sums + 4 * c, one, count)
            j += BLOCK
        else:
            first = _outside(column, a[GAP_BESIDE], wide, a[X_WIDTH])
            last = _inside(column, a[GAP_BESIDE], first, wide, a[X_WIDTH])
            for c in range(0, channels, WIDTH):
                count = min(WIDTH, channels - c)
                for k in range(multiplier):
                    given = load_apart(g + 4 * (c * multiplier + k), 4 * multiplier, count)
                    for u in range(low, high):
                        for v in range(first, last):
                            total = sums + ((k * a[W_HIGH] + u) * wide + v) * one + 4 * c
                            store(total, plus_product(load(at + 4 * c + u * line + v * beside, count), given, load(total, count)), count)
            j += 1


@compiled()
def _settled(some: int, total: int, count: int) -> None:
    """Add sums to others, and make them 0."""
    zero = spread(f32(0))
    for k in range(0, count, WIDTH):
        size = min(WIDTH, count - k)
        store(total + 4 * k, load(total + 4 * k, size) + load(some + 4 * k, size), size)
        store(some + 4 * k, zero, size)


@kernel
def weight_gradient(a: Any, part: int, parts: int) -> None:
    """The sums of each lane's rows of cotangents, SUMS [lanes, 2, multiplier, tap, channel]: the second of two is work space."""
    lanes, rows = a[LANES], a[G_IMAGES] * a[G_ROWS]
    size = a[MULTIPLIER] * a[W_HIGH] * a[W_WIDE] * a[C]
    run = max(1, RUN // a[G_COLUMNS])
    for lane in range(part, lanes, parts):
        total = a[SUMS] + 8 * lane * size
        some = total + 4 * size
        for k in range(0, 2 * size, WIDTH):
            store(total + 4 * k, spread(f32(0)), min(WIDTH, 2 * size - k))
        first, last = rows * lane // lanes, rows * (lane + 1) // lanes
        for number in range(first, last):
            _row_added(a, number, some)
            if (number + 1 - first) % run == 0 or number + 1 == last:
                _settled(some, total, size)


@kernel
def gathered(a: Any, part: int, parts: int) -> None:
    """sums [lanes, 2, multiplier, tap, channel], lanes, multiplier, taps, channels, out [channel, multiplier, tap]: the sum of all lanes."""
    lanes, multiplier, taps, channels = a[1], a[2], a[3], a[4]
    size, row = multiplier * taps * channels, 4 * multiplier * taps
    for k in range(multiplier * taps * part // parts, multiplier * taps * (part + 1) // parts):
        for c in range(0, channels, WIDTH):
            count = min(WIDTH, channels - c)
            total = spread(f32(0))
            for lane in range(lanes):
                total = total + load(a[0] + 4 * (2 * lane * size + k * channels + c), count)
            store_apart(a[5] + c * row + 4 * k, row, total, count)
