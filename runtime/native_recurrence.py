"""LSTM and GRU as compiled kernels (compiled_recurrence.py): what they are given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnc.compiler.ir import Value
from nnc.compiler.primitives import RECURRENCES

from .bound import Array, Bound, plain
from .machine_code import Codes

walks = Codes("compiled_recurrence")
Copy = Callable[[Array, Array], list[Bound] | None]


def _work(steps: int, n: int, units: int, gates: int) -> float:
    return steps * n * units * gates * (2 * units * 0.006 + 0.5)


def _steps_apart(x: Array) -> tuple[int, int] | None:
    """Elements of [steps, n, width] from a step to the next, and from a sample to the next; None where a sample is not one piece."""
    down, over, right = (s // x.itemsize for s in x.strides)
    return (down, over) if right == 1 or x.shape[2] == 1 else None


def recurrence(value: Value, arrays: tuple[Array, ...], copied: Copy) -> list[Bound] | None:
    kind = value.attributes["kind"]
    z, r, *b, out, turned, q, _ = arrays
    strides = _steps_apart(z)
    if kind not in ("lstm", "gru") or not plain(r, out, *b) or strides is None or out.size == 0:
        return None
    turn = copied(r.T, turned)
    if turn is None:
        return None
    _, steps, n, units = out.shape
    zeros = np.zeros(units, np.float32)
    given = (z, *strides, turned, *b, out, steps, n, units, int(value.attributes["reverse"]), q, zeros)
    return [*turn, Bound(walks.lstm if kind == "lstm" else walks.gru, given, _work(steps, n, units, RECURRENCES[kind][0]))]


def recurrence_gradient(value: Value, arrays: tuple[Array, ...]) -> list[Bound] | None:
    kind = value.attributes["kind"]
    g, cells, r, out, dh, carried = arrays[:6]
    if kind not in ("lstm", "gru") or not plain(cells, r, out) or out.size == 0:
        return None
    strides = _steps_apart(g)
    if strides is None:
        return None
    _, steps, n, units = cells.shape
    zeros = np.zeros(units, np.float32)
    given = (g, *strides, r, cells, out, steps, n, units, int(value.attributes["reverse"]), dh, carried, zeros)
    return [Bound(walks.lstm_back if kind == "lstm" else walks.gru_back, given, _work(steps, n, units, RECURRENCES[kind][0]))]
