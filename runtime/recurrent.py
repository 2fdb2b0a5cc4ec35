"""The kernel of recurrent layers in inference: a loop over steps, as ONNX defines RNN, LSTM and GRU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnc.compiler.ir import Value

Array = np.ndarray[Any, Any]


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def _rnn(z: Array, r: Array, h: Array, c: Array) -> tuple[Array, Array]:
    return np.tanh(z + r), c


def _rnn_relu(z: Array, r: Array, h: Array, c: Array) -> tuple[Array, Array]:
    return np.maximum(z + r, 0), c


def _lstm(z: Array, r: Array, h: Array, c: Array) -> tuple[Array, Array]:
    units = h.shape[1]
    total = z + r
    gates = _sigmoid(total[:, : 3 * units])
    c = gates[:, 2 * units :] * c + gates[:, :units] * np.tanh(total[:, 3 * units :])
    return gates[:, units : 2 * units] * np.tanh(c), c


def _gru(z: Array, r: Array, h: Array, c: Array) -> tuple[Array, Array]:
    units = h.shape[1]
    gates = _sigmoid(z[:, : 2 * units] + r[:, : 2 * units])
    new = np.tanh(z[:, 2 * units :] + gates[:, units:] * r[:, 2 * units :])
    return new + gates[:, :units] * (h - new), c


CELLS: dict[str, Callable[[Array, Array, Array, Array], tuple[Array, Array]]] = {
    "rnn_tanh": _rnn,
    "rnn_relu": _rnn_relu,
    "lstm": _lstm,
    "gru": _gru,
}


def kernel(value: Value) -> Callable[[Array, Array, Array, Array, Array], None]:
    """States of every step or of the last, both directions beside each other."""
    cell, sequences = CELLS[value.attributes["kind"]], value.attributes["sequences"]

    def run(x: Array, w: Array, r: Array, b: Array, out: Array) -> None:
        n, steps, size = x.shape
        directions, width, units = r.shape
        rows = np.ascontiguousarray(x.transpose(1, 0, 2)).reshape(steps * n, size)
        for d in range(directions):
            z = (rows @ w[d].T + b[d, :width]).reshape(steps, n, width)
            h, c = np.zeros((n, units), x.dtype), np.zeros((n, units), x.dtype)
            place = slice(d * units, (d + 1) * units)
            for t in range(steps) if d == 0 else range(steps - 1, -1, -1):
                h, c = cell(z[t], h @ r[d].T + b[d, width:], h, c)
                if sequences:
                    out[:, t, place] = h
            if not sequences:
                out[:, place] = h

    return run
