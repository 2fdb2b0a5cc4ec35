"""Matrix products in float32 for processors with many wide registers, faster there than the BLAS's where matrices are no larger than a layer's.

Columns of b are copied into a panel as wide as a tile (tiles.py), in blocks of rows, which stays in the cache while all rows of a pass by: by the first
tile as it computes, unless they have to be turned around or cut off. a is read where it lies, turned around or not. Nothing is copied twice unless
threads share columns. Every element is the sum over the blocks of sums in the order of k, so that its bits do not depend on where threads divide
the product.
"""

from __future__ import annotations

from typing import Any

from .addresses import compiled, cut, kernel
from .tiles import tile, turn
from .vectors import WIDTH, load, store

VECTORS, ROWS, FEWER = 4, 6, 4  # of a tile: with 32 registers of 16 numbers, 24 hold sums
STRIP = VECTORS * WIDTH  # columns of a panel
_packing = tile(ROWS, VECTORS, whole=True, packing=True)
_whole, _fewer = tile(ROWS, VECTORS, whole=True), tile(FEWER, VECTORS, whole=True)
_some, _some_of_3, _some_of_2, _some_of_1 = (tile(rows, vectors, whole=False) for rows, vectors in ((ROWS, VECTORS), (8, 3), (12, 2), (12, 1)))


@compiled()
def _pack(b: int, step: int, turned: int, depth: int, width: int, vectors: int, panel: int) -> None:
    """Rows of a strip of b one after another, `vectors` vectors each; b's rows, or its columns where it is turned, lie `step` bytes from each other."""
    row = 4 * WIDTH * vectors
    if turned and width == STRIP and depth % WIDTH == 0:
        for v in range(0, STRIP, WIDTH):
            for p in range(0, depth, WIDTH):
                turn(b + v * step + 4 * p, step, WIDTH, WIDTH, panel + p * row + 4 * v, row)
    elif turned:
        for v in range(0, width, WIDTH):
            for p in range(0, depth, WIDTH):
                turn(b + v * step + 4 * p, step, min(WIDTH, width - v), min(WIDTH, depth - p), panel + p * row + 4 * v, row)
    else:
        for p in range(depth):
            for v in range(vectors):
                store(panel + p * row + 4 * v * WIDTH, load(b + p * step + 4 * v * WIDTH, min(WIDTH, width - v * WIDTH)), WIDTH)


@compiled()
def _strip(depth: int, a: int, down: int, right: int, panel: int, c: int, below: int, more: int, height: int, width: int, vectors: int,
           source: int, step: int) -> None:  # fmt: skip
    """All rows of a strip of c; the last of them in tiles of four where that fits. Where b's rows are still at a `source`, the first tile packs them."""
    i = 0
    if source != 0:
        _packing(depth, a, down, right, panel, c, below, more, ROWS, width, source, step)
        i = ROWS
    while i < height:
        left = height - i
        at, to = a + i * down, c + i * below
        if width == STRIP and left >= ROWS and left != 2 * FEWER:
            _whole(depth, at, down, right, panel, to, below, more, ROWS, width, 0, 0)
            i += ROWS
        elif width == STRIP and left >= FEWER and left != FEWER + 1:
            _fewer(depth, at, down, right, panel, to, below, more, FEWER, width, 0, 0)
            i += FEWER
        elif vectors == 4:
            _some(depth, at, down, right, panel, to, below, more, min(6, left), width, 0, 0)
            i += 6
        elif vectors == 3:
            _some_of_3(depth, at, down, right, panel, to, below, more, min(8, left), width, 0, 0)
            i += 8
        elif vectors == 2:
            _some_of_2(depth, at, down, right, panel, to, below, more, min(12, left), width, 0, 0)
            i += 12
        else:
            _some_of_1(depth, at, down, right, panel, to, below, more, min(12, left), width, 0, 0)
            i += 12


@compiled()
def _across(m: int, n: int, parts: int, packing: int) -> int:
    """Among how many parts the columns are divided, and the rows among the rest: the longest part is to be short. To pack a strip takes as long as the
    product with so many rows.
    """
    best, least = 1, 2**62
    for across in range(1, parts + 1):
        if parts % across == 0:
            down = parts // across
            strips = ((n + STRIP - 1) // STRIP + across - 1) // across
            taken = strips * ((m + down - 1) // down + packing)
            if taken < least:
                best, least = across, taken
    return best


@kernel
def product(a: Any, part: int, parts: int) -> None:
    """transpose a, transpose b, m, n, k, a, its row, b, its row, out, its row, a panel for each thread, its numbers: out = a b."""
    ta, tb, m, n, k = a[0], a[1], a[2], a[3], a[4]
    down, right = (4, 4 * a[6]) if ta else (4 * a[6], 4)
    beside, step = (4 * a[8], 4) if tb else (4, 4 * a[8])  # from a column of b to the next, from a row to the next
    across = _across(m, n, parts, 9 if tb else 2)
    first, last = cut(n, part % across, across, STRIP)
    top, bottom = cut(m, part // across, parts // across, FEWER)
    panel = a[11] + 4 * a[12] * part
    blocks = (k * STRIP + a[12] - 1) // a[12]
    deep = (k + WIDTH * blocks - 1) // (WIDTH * blocks) * WIDTH
    for p in range(0, k, deep):
        depth = min(deep, k - p)
        for j in range(first, last, STRIP):
            width = min(STRIP, last - j)
            vectors = (width + WIDTH - 1) // WIDTH
            source = a[7] + j * beside + p * step
            if tb or width < STRIP or bottom - top < ROWS:
                _pack(source, beside if tb else step, tb, depth, width, vectors, panel)
                source = 0
            at, to = a[5] + top * down + p * right, a[9] + 4 * (j + top * a[10])
            _strip(depth, at, down, right, panel, to, 4 * a[10], p, bottom - top, width, vectors, source, step)
