"""Steps of a plan as compiled kernels: for a value and its arrays, the kernels to run in turn (dense.py) and what they are given.

What has no such form here (float64, images, rare operations) stays a call from Python, which parts a program in two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from nnc.compiler.ir import Value

from . import images
from .bound import Array, Bound, moved, plain
from .kernels import Randomness, stream_of
from .machine_code import Codes, has_wide_registers
from .native_recurrence import recurrence, recurrence_gradient
from .threads import workers

dense, masks, pools, products = Codes("dense"), Codes("masks"), Codes("pools"), Codes("products")
RUN = 512  # rows that are added up by themselves
SMALL = 10**6  # multiply-adds of a product that OpenBLAS takes as it lies, without packing; with b turned around it is slow at any size
PANEL, LINE = 3 * 2**12, 64  # numbers of a product's panel, as many as the first cache of a processor with wide registers holds; bytes on which it begins


def native(value: Value, arrays: tuple[Array, ...], randomness: Randomness, faults: Array) -> list[Bound] | None:
    """The kernels of a step; None where it has none, or its arrays lie otherwise than they need."""
    binder = _BINDERS.get(value.op)
    if binder is None or any(a.dtype.name not in ("float32", "int64") for a in arrays[: len(value.operands) + 1]):
        return None
    return binder(value, arrays, randomness, faults)


def _matrix(array: Array) -> tuple[bool, int] | None:
    """Whether a matrix lies transposed in memory, and the elements from one of its rows there to the next."""
    rows, columns = array.shape
    down, right = (s // array.itemsize for s in array.strides)
    if right == 1 or columns == 1:
        return False, max(down if rows > 1 else columns, columns)
    if down == 1 or rows == 1:
        return True, max(right, rows)
    return None


def _product(value: Value, arrays: tuple[Array, ...], randomness: Randomness, faults: Array) -> list[Bound] | None:
    a, b, out = arrays[:3]
    if a.ndim > 2 and b.ndim == 2 and plain(a, out) and not value.attributes["transpose_a"]:
        a, out = a.reshape(-1, a.shape[-1]), out.reshape(-1, out.shape[-1])
    if not a.ndim == b.ndim == out.ndim == 2 or out.size == 0 or a.size == 0:
        return None
    left, right, target = _matrix(a), _matrix(b), _matrix(out)
    if left is None or right is None or target is None or target[0]:
        return None
    ta, tb = value.attributes["transpose_a"] != left[0], value.attributes["transpose_b"] != right[0]
    k = a.shape[0] if value.attributes["transpose_a"] else a.shape[1]
    m, n = out.shape
    given = int(ta), int(tb), m, n, k, a, left[1], b, right[1], out, target[1]
    work = 2 * m * n * k * 0.006 + 300
    if has_wide_registers() and (tb or m * n * k > SMALL):
        return [Bound(products.product, (*given, _panels(workers()), PANEL), work)]
    return [Bound(dense.product, given, work)]


@cache
def _panels(threads: int) -> Array:
    """A panel for each thread of a team, which makes one product at a time."""
    room = np.empty(threads * PANEL + LINE // 4, np.float32)
    start = -room.ctypes.data % LINE // 4
    return room[start : start + threads * PANEL]


def _sum(value: Value, arrays: tuple[Array, ...], randomness: Randomness, faults: Array) -> list[Bound] | None:
    x, out = arrays[:2]
    axes = value.attributes["axes"]
    if x.dtype != np.float32 or x.size == 0 or not plain(out):
        return None
    if x.ndim == 4 and axes == (2, 3) and (image := x.transpose(0, 2, 3, 1)).flags.c_contiguous and x.shape[2] * x.shape[3] <= RUN:
        return [Bound(pools.sum_places, (image, len(x), x.shape[2] * x.shape[3], x.shape[1], out), moved(x))]
    if x.ndim == 4 and axes == (0, 2, 3):
        x = x.transpose(0, 2, 3, 1)
        axes = (0, 1, 2)
    if not plain(x):
        return None
    work = moved(x)
    if len(axes) == x.ndim:
        sums = np.zeros(workers(), np.float32)
        return _combined(Bound(dense.sum_apart, (x, x.size, sums), work), sums, out)
    if axes == tuple(range(len(axes))):
        columns = int(np.prod(x.shape[len(axes) :]))
        return _sum_of_rows(x, x.size // columns, columns, out)
    if axes == tuple(range(x.ndim - len(axes), x.ndim)):
        return [Bound(dense.sum_columns, (x, out.size, x.size // out.size, out), work)]
    return None


def _sum_of_rows(x: Array, rows: int, columns: int, out: Array) -> list[Bound]:
    """Parts take columns; of many rows, runs of them, whose sums are added then: so the error does not grow with their number."""
    if rows <= RUN:
        return [Bound(dense.sum_rows, (x, rows, columns, out), moved(x))]
    sums = np.zeros((-(-rows // RUN), columns), np.float32)
    return _combined(Bound(dense.sum_rows_apart, (x, rows, columns, sums, len(sums)), moved(x)), sums, out)


def _combined(apart: Bound, sums: Array, out: Array) -> list[Bound]:
    """Sums of parts, then their sum; a part that has nothing to do leaves a zero."""
    return [apart, Bound(dense.add_sums, (sums, len(sums), sums.size // len(sums), out), 0.0)]


def _dot(value: Value, arrays: tuple[Array, ...], randomness: Randomness, faults: Array) -> list[Bound] | None:
    x, y, out = arrays[:3]
    if x.dtype != np.float32 or not plain(x, y):
        return None
    sums = np.zeros(workers(), np.float32)
    return _combined(Bound(dense.dot_apart, (x, y, x.size, sums), moved(x)), sums, out)


def _softmax(value: Value, arrays: tuple[Array, ...], randomness: Randomness, faults: Array) -> list[Bound] | None:
    x, out = arrays[:2]
    if value.attributes["axis"] != x.ndim - 1 or not plain(x, out) or x.dtype != np.float32 or x.size == 0:
        return None
    columns = x.shape[-1]
    return [Bound(dense.softmax, (x, x.size // columns, columns, out, int(value.op == "log_softmax")), x.size * 3.0)]


def _pick(value: Value, arrays: tuple[Array, ...], randomness: Randomness, faults: Array) -> list[Bound] | None:
    x, index, out = arrays[:3]
    if not plain(x, index, out) or x.dtype != np.float32:
        return None
    return [Bound(dense.pick, (x, index.size, x.shape[-1], index, out), index.size * 1.0)]


def _one_hot(value: Value, arrays: tuple[Array, ...], randomness: Randomness, faults: Array) -> list[Bound] | None:
    index, out = arrays[:2]
    if not plain(index, out) or out.dtype != np.float32 or index.dtype != np.int64:
        return None
    return [Bound(dense.one_hot, (index, index.size, out.shape[-1], out), moved(out))]


def _gather(value: Value, arrays: tuple[Array, ...], randomness: Randomness, faults: Array) -> list[Bound] | None:
    table, index, out = arrays[:3]
    if not plain(table, index, out) or table.dtype != np.float32 or len(table) == 0 or index.dtype != np.int64:
        return None
    columns = table.size // len(table)
    return [Bound(dense.gather, (table, len(table), columns, index, index.size, out, columns, faults), moved(out) + index.size)]


def _row(x: Array, rows: int) -> int | None:
    """The elements from a row to the next, where so many rows are one piece each and lie equally far from each other."""
    seen = x.reshape(rows, -1)
    if not np.may_share_memory(seen, x) or not plain(seen[0]):
        return None
    return seen.strides[0] // x.itemsize


def _scatter_add(value: Value, arrays: tuple[Array, ...], randomness: Randomness, faults: Array) -> list[Bound] | None:
    g, index, out = arrays[:3]
    if not plain(index, out) or out.dtype != np.float32 or index.size == 0 or out.size == 0 or index.dtype != np.int64:
        return None
    row = _row(g, index.size)
    if row is None:
        return None
    columns = g.size // index.size
    return [Bound(dense.scatter_add, (g, row, index, index.size, out, len(out), columns), moved(out, g) + index.size)]


def _bernoulli(value: Value, arrays: tuple[Array, ...], randomness: Randomness, faults: Array) -> list[Bound] | None:
    out = arrays[1]
    if out.dtype != np.float32 or not plain(out.transpose(0, 2, 3, 1) if out.ndim == 4 else out):
        return None
    threshold = min(65535, round(value.attributes["probability"] * 65536))
    seed, stream = randomness.seed & (2**64 - 1), stream_of(value.attributes["stream"])
    return [Bound(masks.bernoulli, (out, out.size, _signed(seed), _signed(stream), randomness.counter, threshold), out.size * 0.4)]


def _signed(number: int) -> int:
    """The same 64 bits as a signed number."""
    return number - 2**64 if number >= 2**63 else number


def _copied(x: Array, out: Array) -> list[Bound] | None:
    """One array into another of its shape, however both lie."""
    if x.dtype != out.dtype or x.itemsize != 4 or x.size == 0:
        return None
    axes = [(n, x.strides[i] // 4, out.strides[i] // 4) for i, n in enumerate(x.shape) if n != 1]
    joined: list[tuple[int, int, int]] = []
    for n, down, below in axes:  # neighbours that are one axis in both
        if joined and joined[-1][1] == n * down and joined[-1][2] == n * below:
            joined[-1] = (joined[-1][0] * n, down, below)
        else:
            joined.append((n, down, below))
    if len(joined) > 4:
        return None
    if len(joined) == 1 and joined[0][0] > 4096:  # so that it can be shared
        n, down, below = joined[0]
        for rows in (64, 16, 4, 2):
            if n % rows == 0:
                joined = [(rows, down * n // rows, below * n // rows), (n // rows, down, below)]
                break
    while len(joined) < 4:
        joined.insert(0, (1, 0, 0))
    if joined[0][0] == 1 and joined[1][0] == 1:  # the first two axes are shared out
        joined = [joined[2], joined[0], joined[1], joined[3]] if joined[2][0] != 1 else joined
    return [Bound(dense.copy, (x, out, *(number for axis in joined for number in axis)), moved(x) * 2)]


def _reshape(value: Value, arrays: tuple[Array, ...], randomness: Randomness, faults: Array) -> list[Bound] | None:
    x, out = arrays[:2]
    if not plain(out):
        return None
    return _copied(x, out.reshape(x.shape))


def _concat(value: Value, arrays: tuple[Array, ...], randomness: Randomness, faults: Array) -> list[Bound] | None:
    *given, out = arrays
    start, axis = 0, value.attributes["axis"]
    found: list[Bound] = []
    for x in given:
        bound = _copied(x, out[(slice(None),) * axis + (slice(start, start + x.shape[axis]),)])
        if bound is None:
            return None
        found += bound
        start += x.shape[axis]
    return found


def _pad(value: Value, arrays: tuple[Array, ...], randomness: Randomness, faults: Array) -> list[Bound] | None:
    x, out = arrays[:2]
    if not plain(out) or out.itemsize != 4:
        return None
    axis, before = value.attributes["axis"], value.attributes["before"]
    bound = _copied(x, out[(slice(None),) * axis + (slice(before, before + x.shape[axis]),)])
    return bound if bound is None else [Bound(dense.fill, (out, out.size), moved(out)), *bound]


_BINDERS: dict[str, Callable[[Value, tuple[Array, ...], Randomness, Array], list[Bound] | None]] = {
    "matmul": _product,
    "reduce_sum": _sum,
    "dot": _dot,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "pick": _pick,
    "one_hot": _one_hot,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "bernoulli": _bernoulli,
    "reshape": _reshape,
    "concat": _concat,
    "pad": _pad,
    "recurrence": lambda value, arrays, randomness, faults: recurrence(value, arrays, _copied),
    "recurrence_gradient": lambda value, arrays, randomness, faults: recurrence_gradient(value, arrays, _copied),
    **dict.fromkeys(images.OPERATIONS, lambda value, arrays, randomness, faults: images.kernels(value, arrays)),
}


def copied(x: Array, out: Array) -> Sequence[Bound] | None:
    """A copy between two arrays, where it has a kernel."""
    return _copied(x, out)


def taken(column: Array, out: Array, rows: Array) -> Bound | None:
    """Rows of a column into an array; the numbers of the rows lie where `rows` says."""
    row = column.itemsize * (column.size // max(len(column), 1))
    if column.dtype != out.dtype or column.shape[1:] != out.shape[1:] or row % 4 or row == 0 or not plain(column, out):
        return None
    return Bound(dense.take, (column, row // 4, rows, len(out), out), moved(out) * 2 * out.itemsize / 4)
