"""The fast engine's own kernels, where it has one; elsewhere it uses NumPy's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnc.compiler.ir import Value
from nnc.compiler.primitives import RECURRENCES

from . import compiled
from .blas import has_product
from .convolution import Array, Kernel, last
from .pooling import Windows
from .recurrence import gates_of
from .threads import for_each, workers
from .winograd import winograd

LEAST_SAMPLES = 8  # of a thread of its own in a recurrence


def faster(value: Value, n: int) -> Kernel | None:
    match value.op:
        case "max_pool":
            return _max_pool(value, n)
        case "max_pool_gradient":
            return _max_pool_gradient(value, n)
        case "recurrence" | "recurrence_gradient" if value.dtype == "float32" and value.attributes["kind"] in ("lstm", "gru") and has_product():
            return _recurrence(value) if value.op == "recurrence" else _recurrence_gradient(value)
        case _:
            return winograd(value, n)


def _max_pool(value: Value, n: int) -> Kernel:
    windows = Windows(value, n, value.operands[0], value)

    def pool(x: Array, out: Array, frame: Array, rows: Array) -> None:
        x, y = _contiguous(last(x)), last(out)

        def tile(lane: int, some: slice) -> None:
            compiled.pooled(windows.framed(x[some], frame[lane], -np.inf), windows.stride, windows.window, y[some])

        windows.each_tile(frame, tile)

    return pool


def _max_pool_gradient(value: Value, n: int) -> Kernel:
    windows = Windows(value, n, value, value.operands[1])

    def gradient(x: Array, top: Array, g: Array, out: Array, frame: Array, whole: Array, free: Array, hit: Array, mask: Array) -> None:
        x, top, g, image = _contiguous(last(x)), _contiguous(last(top)), _contiguous(last(g)), last(out)

        def tile(lane: int, some: slice) -> None:
            framed = windows.framed(x[some], frame[lane], -np.inf)
            target = whole[lane, : len(framed)] if windows.pads else image[some]
            compiled.pooled_back(framed, top[some], g[some], windows.stride, windows.window, target)
            if windows.pads:
                np.copyto(image[some], target[:, windows.inside[0], windows.inside[1]])

        windows.each_tile(frame, tile)

    return gradient


def _recurrence(value: Value) -> Kernel:
    from . import compiled_recurrence as walks

    reverse, gates = value.attributes["reverse"], RECURRENCES[value.attributes["kind"]][0]

    def run(z: Array, r: Array, *others: Array) -> None:
        *b, out, _turned, q, _space = others
        held = gates_of(out, gates).reshape(z.shape)
        if gates == 4:
            _over_samples(z.shape[1], lambda first, last: walks.lstm(z, r, out[0], out[1], out[2], held, first, last, reverse))
        else:
            _over_samples(z.shape[1], lambda first, last: walks.gru(z, r, b[0], out[0], out[1], held, q, first, last, reverse))

    return run


def _recurrence_gradient(value: Value) -> Kernel:
    from . import compiled_recurrence as walks

    reverse, gates = value.attributes["reverse"], RECURRENCES[value.attributes["kind"]][0]

    def run(g: Array, cells: Array, r: Array, out: Array, dh: Array, dc: Array, *_: Array) -> None:
        held = gates_of(cells, gates).reshape(out.shape[1:])
        g = _contiguous(g)
        if gates == 4:
            _over_samples(g.shape[1], lambda first, last: walks.lstm_back(g, r, cells[1], cells[2], held, out[0], dh, dc, first, last, reverse))
        else:
            _over_samples(g.shape[1], lambda first, last: walks.gru_back(g, r, cells[0], cells[1], held, out[0], out[1], dh, first, last, reverse))

    return run


def _over_samples(n: int, walk: Callable[[int, int], None]) -> None:
    """Samples do not see each other: each thread walks through the steps of its own."""
    parts = max(1, min(workers(), n // LEAST_SAMPLES))
    for_each(parts, lambda i: walk(n * i // parts, n * (i + 1) // parts))


def _contiguous(x: Array) -> Array:
    """The array in the order of its axes: the compiled loops are made for that."""
    return x if x.flags.c_contiguous else np.ascontiguousarray(x)
