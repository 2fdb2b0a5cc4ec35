"""Recurrences as compiled kernels (compiled_recurrence.py): what they are given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnc.compiler.ir import Value
from nnc.compiler.primitives import RECURRENCES

from .bound import Array, Bound, plain
from .machine_code import Codes

walks = Codes("compiled_recurrence")
_RNN = ("rnn_tanh", "rnn_relu")
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
    if not plain(r, out, *b) or strides is None or out.size == 0:
        return None
    turn = copied(r.T, turned)
    if turn is None:
        return None
    _, steps, n, units = out.shape
    given = (z, *strides, turned, *b, out, steps, n, units, int(value.attributes["reverse"]), q)
    work = _work(steps, n, units, RECURRENCES[kind][0])
    if kind in _RNN:
        return [*turn, Bound(walks.rnn, (*given, int(kind == "rnn_relu")), work)]
    return [*turn, Bound(walks.lstm if kind == "lstm" else walks.gru, (*given, np.zeros(units, np.float32)), work)]


def recurrence_gradient(value: Value, arrays: tuple[Array, ...]) -> list[Bound] | None:
    kind = value.attributes["kind"]
    g, cells, r, out, dh, carried = arrays[:6]
    if not plain(cells, r, out) or out.size == 0:
        return None
    strides = _steps_apart(g)
    if strides is None:
        return None
    _, steps, n, units = cells.shape
    given = (g, *strides, r, cells, out, steps, n, units, int(value.attributes["reverse"]), dh)
    work = _work(steps, n, units, RECURRENCES[kind][0])
    if kind in _RNN:
        return [Bound(walks.rnn_back, (*given, int(kind == "rnn_relu")), work)]
    return [Bound(walks.lstm_back if kind == "lstm" else walks.gru_back, (*given, carried, np.zeros(units, np.float32)), work)]
