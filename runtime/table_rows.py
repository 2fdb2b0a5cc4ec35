"""NumPy kernels of rows of tables: taken, added up, and put back."""

from __future__ import annotations

import numpy as np

from nnc.compiler.diagnostics import Findings
from nnc.compiler.ir import Value, concrete
from nnc.compiler.source import Source
from nnc.compiler.workspace import workspace

from .convolution import Kernel
from .divided import Array


def gather(value: Value, n: int, randomness: object) -> Kernel:
    layer = value.origin

    def gather(table: Array, index: Array, out: Array) -> None:
        if index.size and index.view(np.uint64).max() >= len(table):  # below 0, too
            outside = index.max() if index.max() >= len(table) else index.min()
            findings = Findings(Source("", ""))
            findings.add("E515", None, f"the table has {len(table)} rows", layer=layer, index=int(outside),
                         help="give the table a row more than there are categories, for what training has not seen")  # fmt: skip
            findings.stop_on_errors()
        table.take(index, 0, out, "clip")

    return gather


def scatter_add(value: Value, n: int, randomness: object) -> Kernel:
    columns = value.type.size(n) // max(concrete(value.shape, n)[0], 1)
    further = np.arange(1, columns)[:, None]

    def add_numbers(g: Array, index: Array, out: Array, places: Array, numbers: Array) -> None:
        """Column by column, each number by itself to its place."""
        np.multiply(index.reshape(-1), columns, places[0])
        np.add(places[0], further, places[1:])
        np.copyto(numbers, g.reshape(-1, columns).T)
        out.fill(0.0)
        np.add.at(out.reshape(-1), places.reshape(-1), numbers.reshape(-1))

    return add_numbers if workspace(value, n) else _add_rows


def _add_rows(g: Array, index: Array, out: Array) -> None:
    """Rows of one index lie together after a stable sort, so that each sum is one reduction: pairwise, whose error hardly grows with its length."""
    flat = index.reshape(-1)
    rows = g.reshape(flat.size, -1)
    order = flat.argsort(kind="stable")
    sorted_index = flat[order]
    starts = np.flatnonzero(np.concatenate(([True], sorted_index[1:] != sorted_index[:-1])))
    out.fill(0.0)
    out.reshape(len(out), -1)[sorted_index[starts]] = np.add.reduceat(rows[order], starts, axis=0)


def coalesce(g: Array, index: Array, out: Array, sorted_rows: Array, sums: Array) -> None:
    """Sums as in scatter_add, and back to where their rows stood."""
    if not len(g):
        return
    order = index.argsort(kind="stable")
    sorted_index = index[order]
    first = np.concatenate(([True], sorted_index[1:] != sorted_index[:-1]))
    starts = np.flatnonzero(first)
    if len(starts) == len(g):
        np.copyto(out, g)
        return
    g.take(order, 0, sorted_rows, "clip")
    np.add.reduceat(sorted_rows, starts, axis=0, out=sums[: len(starts)])
    sums.take(np.cumsum(first) - 1, 0, sorted_rows, "clip")
    out[order] = sorted_rows


def scatter_update(table: Array, index: Array, rows: Array, out: Array) -> None:
    if out is not table:
        np.copyto(out, table)
    out[index] = rows
