"""Compiled kernels of dense networks in float32: products, sums, softmax, tables of rows, and moving elements.

Each reads its arguments in the order of its docstring (addresses.py tells how kernels are called). Work is cut where parts do not meet:
columns of a product, rows of a table, columns of a sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .addresses import apart, compiled, cut, float32_at, int32_at, int64_at, kernel, nb, summing
from .blas import PLAIN, ROWS, TURNED, has_product, sgemm
from .vector_math import exp_float32

assert has_product()
_sgemm = sgemm()
f32, i32 = np.float32, np.int32
STRIP = 16  # columns that a product's kernel takes at a time


@kernel
def product(a: Any, part: int, parts: int) -> None:
    """transpose a, transpose b, m, n, k, a, its row, b, its row, out, its row: out = a b."""
    ta, tb, m, n, k = a[0], a[1], a[2], a[3], a[4]
    left, right, out = a[5], a[7], a[9]
    if n >= m:
        first, last = cut(n, part, parts, STRIP)
        n = last - first
        right += 4 * first * (a[8] if tb else 1)
        out += 4 * first
    else:
        first, last = cut(m, part, parts, 4)
        m = last - first
        left += 4 * first * (1 if ta else a[6])
        out += 4 * first * a[10]
    if m > 0 and n > 0:
        _sgemm(ROWS, TURNED if ta else PLAIN, TURNED if tb else PLAIN, m, n, k, f32(1), float32_at(left), a[6], float32_at(right), a[8],
               f32(0), float32_at(out), a[10])  # fmt: skip


@kernel
def sum_rows(a: Any, part: int, parts: int) -> None:
    """x, rows, columns, out: the sum of the rows."""
    rows, columns = a[1], a[2]
    first, last = cut(columns, part, parts, STRIP)
    if last > first:
        _sum_rows(a[0] + 4 * first, rows, columns, last - first, a[3] + 4 * first)


@compiled()
def _sum_rows(x: int, rows: int, stride: int, width: int, out: int) -> None:
    """Four rows at a time: a sum that waits for memory at every row takes four times as long."""
    y = nb.carray(float32_at(out), (width,))
    y[...] = f32(0)
    row = 0
    while row + 4 <= rows:
        p = nb.carray(float32_at(x + 4 * row * stride), (width,))
        q = nb.carray(float32_at(x + 4 * (row + 1) * stride), (width,))
        r = nb.carray(float32_at(x + 4 * (row + 2) * stride), (width,))
        s = nb.carray(float32_at(x + 4 * (row + 3) * stride), (width,))
        for j in range(width):
            y[j] += (p[j] + q[j]) + (r[j] + s[j])
        row += 4
    while row < rows:
        p = nb.carray(float32_at(x + 4 * row * stride), (width,))
        for j in range(width):
            y[j] += p[j]
        row += 1


@kernel
def sum_rows_apart(a: Any, part: int, parts: int) -> None:
    """x, rows, columns, sums [chunks, columns], chunks: the sums of runs of rows."""
    rows, columns, chunks = a[1], a[2], a[4]
    for chunk in range(chunks * part // parts, chunks * (part + 1) // parts):
        first, last = rows * chunk // chunks, rows * (chunk + 1) // chunks
        _sum_rows(a[0] + 4 * first * columns, last - first, columns, columns, a[3] + 4 * chunk * columns)


@kernel
def add_sums(a: Any, part: int, parts: int) -> None:
    """sums, how many, columns, out."""
    if part == 0:
        _sum_rows(a[0], a[1], a[2], a[2], a[3])


@summing
def sum_columns(a: Any, part: int, parts: int) -> None:
    """x, rows, columns, out: the sum of each row."""
    rows, columns = a[1], a[2]
    first, last = cut(rows, part, parts, 16)
    out = nb.carray(float32_at(a[3]), (rows,))
    for i in range(first, last):
        x = nb.carray(float32_at(a[0] + 4 * i * columns), (columns,))
        total = f32(0)
        for j in range(columns):
            total += x[j]
        out[i] = total


BLOCK = 4096  # terms of a sum that are added up by themselves: the error does not grow with the length


@summing
def dot_apart(a: Any, part: int, parts: int) -> None:
    """x, y, size, sums [parts]: each part's share of the dot product."""
    first, last = cut(a[2], part, parts, BLOCK)
    whole = f32(0)
    while first < last:
        width = min(BLOCK, last - first)
        x, y = nb.carray(float32_at(a[0] + 4 * first), (width,)), nb.carray(float32_at(a[1] + 4 * first), (width,))
        total = f32(0)
        for i in range(width):
            total += x[i] * y[i]
        whole += total
        first += width
    nb.carray(float32_at(a[3]), (parts,))[part] = whole


@summing
def sum_apart(a: Any, part: int, parts: int) -> None:
    """x, size, sums [parts]: each part's share of the sum."""
    first, last = cut(a[1], part, parts, BLOCK)
    whole = f32(0)
    while first < last:
        width = min(BLOCK, last - first)
        x = nb.carray(float32_at(a[0] + 4 * first), (width,))
        total = f32(0)
        for i in range(width):
            total += x[i]
        whole += total
        first += width
    nb.carray(float32_at(a[2]), (parts,))[part] = whole


@kernel
def softmax(a: Any, part: int, parts: int) -> None:
    """x, rows, columns, out, whether its logarithm: softmax of each row; the row's maximum is taken out first."""
    columns = a[2]
    first, last = cut(a[1], part, parts, 4)
    for i in range(first, last):
        x = nb.carray(float32_at(a[0] + 4 * i * columns), (columns,))
        out = nb.carray(float32_at(a[3] + 4 * i * columns), (columns,))
        top = x[0]
        for j in range(1, columns):
            top = x[j] if x[j] > top or x[j] != x[j] else top
        total = f32(0)
        if a[4]:
            for j in range(columns):
                total += exp_float32(x[j] - top)
            shift = f32(np.log(total))
            for j in range(columns):
                out[j] = (x[j] - top) - shift
        else:
            for j in range(columns):
                out[j] = exp_float32(x[j] - top)
            for j in range(columns):
                total += out[j]
            for j in range(columns):
                out[j] /= total


@kernel
def pick(a: Any, part: int, parts: int) -> None:
    """x, rows, columns, index, out: x[i, index[i]]; an index outside is clipped, as NumPy's kernel does."""
    rows, columns = a[1], a[2]
    x, index, out = nb.carray(float32_at(a[0]), (rows, columns)), nb.carray(int64_at(a[3]), (rows,)), nb.carray(float32_at(a[4]), (rows,))
    first, last = cut(rows, part, parts, 16)
    for i in range(first, last):
        out[i] = x[i, min(max(index[i], 0), columns - 1)]


@kernel
def one_hot(a: Any, part: int, parts: int) -> None:
    """index, rows, columns, out: rows of zeros with a one where the index says; none where it is outside."""
    rows, columns = a[1], a[2]
    index, out = nb.carray(int64_at(a[0]), (rows,)), nb.carray(float32_at(a[3]), (rows, columns))
    first, last = cut(rows, part, parts, 16)
    out[first:last] = f32(0)
    for i in range(first, last):
        if 0 <= index[i] < columns:
            out[i, index[i]] = f32(1)


@kernel
def gather(a: Any, part: int, parts: int) -> None:
    """table, its rows, columns, index, size, out, out's row, fault: rows of a table; `fault` becomes 1 where the table has no such row."""
    height, columns, size = a[1], a[2], a[4]
    index = int64_at(a[3])
    first, last = cut(size, part, parts, 16)
    for i in range(first, last):
        at = index[i]
        if at < 0 or at >= height:
            int64_at(a[7])[0] = 1
            at = 0
        _copy_row(columns, float32_at(a[0] + 4 * at * columns), float32_at(a[5] + 4 * i * a[6]))


@compiled()
def _copy_row(columns: int, x: Any, out: Any) -> None:
    apart()
    for k in range(columns):
        out[k] = x[k]


@kernel
def take(a: Any, part: int, parts: int) -> None:
    """x, elements of 4 bytes in a row, address of the address of row numbers, how many, out: rows of x, which exist."""
    width, count = a[1], a[3]
    rows = nb.carray(int64_at(int64_at(a[2])[0]), (count,))
    first, last = cut(count, part, parts, 1)
    for i in range(first, last):
        x, out = nb.carray(int32_at(a[0] + 4 * rows[i] * width), (width,)), nb.carray(int32_at(a[4] + 4 * i * width), (width,))
        for k in range(width):
            out[k] = x[k]


@kernel
def scatter_add(a: Any, part: int, parts: int) -> None:
    """g, g's row, index, size, out, rows, columns: rows of g added into a table of zeros, in their order; a part has rows of the table."""
    size, rows, columns = a[3], a[5], a[6]
    index = int64_at(a[2])
    first, last = cut(rows, part, parts, 1)
    nb.carray(float32_at(a[4] + 4 * first * columns), ((last - first) * columns,))[...] = f32(0)
    for i in range(size):
        at = index[i]
        if first <= at < last:
            _add_row(columns, float32_at(a[0] + 4 * i * a[1]), float32_at(a[4] + 4 * at * columns))


@compiled()
def _add_row(columns: int, x: Any, out: Any) -> None:
    apart()
    for k in range(columns):
        out[k] += x[k]


@kernel
def copy(a: Any, part: int, parts: int) -> None:
    """x, out, then for four axes length, x's stride, out's stride, in elements of 4 bytes."""
    n, m, p, q = a[2], a[5], a[8], a[11]
    first, last = cut(n * m, part, parts, 1)
    for im in range(first, last):
        i, j = im // m, im % m
        for k in range(p):
            x = int32_at(a[0] + 4 * (i * a[3] + j * a[6] + k * a[9]))
            y = int32_at(a[1] + 4 * (i * a[4] + j * a[7] + k * a[10]))
            if a[12] == 1 and a[13] == 1:
                source, target = nb.carray(x, (q,)), nb.carray(y, (q,))
                for l in range(q):  # noqa: E741
                    target[l] = source[l]
            else:
                for l in range(q):  # noqa: E741
                    y[l * a[13]] = x[l * a[12]]


@kernel
def fill(a: Any, part: int, parts: int) -> None:
    """out, size: zeros, in elements of 4 bytes."""
    first, last = cut(a[1], part, parts, STRIP)
    nb.carray(int32_at(a[0] + 4 * first), (last - first,))[...] = i32(0)
