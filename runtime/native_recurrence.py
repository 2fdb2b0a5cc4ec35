"""Recurrences as compiled kernels (compiled_recurrence.py): what they are given.

A recurrence and its gradient are compiled both or neither: NumPy's kernels keep the gates in another order in memory (recurrence.py).
"""

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


def _in_pieces(x: Array, copied: Copy) -> tuple[list[Bound], tuple[Array, int, int]]:
    """[steps, n, width] with each sample in one piece, after a copy if need be; elements from a step to the next, and from a sample to the next."""
    copy: list[Bound] = []
    if x.strides[2] != x.itemsize and x.shape[2] > 1:
        whole = np.empty(x.shape, x.dtype)
        made = copied(x, whole)
        assert made is not None
        copy, x = made, whole
    down, over, _ = (s // x.itemsize for s in x.strides)
    return copy, (x, down, over)


def recurrence(value: Value, arrays: tuple[Array, ...], copied: Copy) -> list[Bound] | None:
    kind = value.attributes["kind"]
    z, r, *b, out, turned, q, _ = arrays
    if not plain(r) or out.size == 0:
        return None
    assert plain(out, *b)
    turn = copied(r.T, turned)
    assert turn is not None
    copy, of_input = _in_pieces(z, copied)
    _, steps, n, units = out.shape
    given = (*of_input, turned, *b, out, steps, n, units, int(value.attributes["reverse"]), q)
    work = _work(steps, n, units, RECURRENCES[kind][0])
    if kind in _RNN:
        return [*turn, *copy, Bound(walks.rnn, (*given, int(kind == "rnn_relu")), work)]
    return [*turn, *copy, Bound(walks.lstm if kind == "lstm" else walks.gru, (*given, np.zeros(units, np.float32)), work)]


def recurrence_gradient(value: Value, arrays: tuple[Array, ...], copied: Copy) -> list[Bound] | None:
    kind = value.attributes["kind"]
    g, cells, r, out, dh, carried = arrays[:6]
    if not plain(r) or out.size == 0:
        return None
    assert plain(cells, out)
    copy, cotangents = _in_pieces(g, copied)
    _, steps, n, units = cells.shape
    given = (*cotangents, r, cells, out, steps, n, units, int(value.attributes["reverse"]), dh)
    work = _work(steps, n, units, RECURRENCES[kind][0])
    if kind in _RNN:
        return [*copy, Bound(walks.rnn_back, (*given, int(kind == "rnn_relu")), work)]
    return [*copy, Bound(walks.lstm_back if kind == "lstm" else walks.gru_back, (*given, carried, np.zeros(units, np.float32)), work)]
