"""NumPy kernels of recurrences in training: forward through the steps, and back.

What the backward walk multiplies the cotangent of a step with depends on the forward values alone: it is computed for all steps at once,
into the very array that the result goes to. So a step is one small product and a few short loops. Sequences are [steps, n, units];
`r` is [gates units, units], and what it gives, [n, gates units], has the gates beside each other. Of the blocks that are kept, the last ones
together hold the gates in that form too: a step's gates are then one piece of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnc.compiler.ir import Value

from .special import sigmoid

Array = np.ndarray[Any, Any]
Kernel = Callable[..., Any]
Order = Sequence[int]  # the steps as time goes


def recurrence(value: Value, n: int, randomness: object) -> Kernel:
    walk = _FORWARD[value.attributes["kind"]]
    order = _order(value)

    def run(z: Array, r: Array, *others: Array) -> None:
        *b, out, turned, q, space = others
        np.copyto(turned, r.T)
        walk(z, turned, b, out, q, space, order)

    return run


def recurrence_gradient(value: Value, n: int, randomness: object) -> Kernel:
    walk = _BACKWARD[value.attributes["kind"]]
    order = _order(value)
    return lambda g, cells, r, out, *spaces: walk(g, cells, r, out, spaces, order)


def _order(value: Value) -> Order:
    steps = value.operands[0].shape[0]
    assert isinstance(steps, int)
    return range(steps - 1, -1, -1) if value.attributes["reverse"] else range(steps)


def _pairs(order: Order) -> list[tuple[int, int | None]]:
    """Each step with the one before it in time, None for the first."""
    return list(zip(order, [None, *order], strict=False))


def _back(order: Order) -> list[tuple[int, int | None]]:
    """Each step, from the last back, with the one after it in time, None for the last."""
    return _pairs(order[::-1])


def gates_of(cells: Array, count: int) -> Array:
    """The gates of all steps [steps, n, count, units]: the memory of the last blocks."""
    _, steps, n, units = cells.shape
    return cells[-count:].reshape(steps, n, count, units)


def _shift(order: Order) -> tuple[slice, slice, int]:
    """Of arrays over all steps: those that have a step before them, those before, and the first in time."""
    if order[0] == 0:
        return slice(1, None), slice(None, -1), 0
    return slice(None, -1), slice(1, None), len(order) - 1


def _rnn(activate: Callable[[Array, Array], Any], z: Array, r: Array, out: Array, q: Array, order: Order) -> None:
    (h,) = out
    for t, before in _pairs(order):
        if before is None:
            activate(z[t], h[t])
            continue
        np.matmul(h[before], r, q)
        np.add(q, z[t], q)
        activate(q, h[t])


def _rnn_back(g: Array, r: Array, dz: Array, spaces: Sequence[Array], order: Order) -> None:
    """`dz` holds the slopes of the activation."""
    dh, _ = spaces
    for t, after in _back(order):
        np.multiply(dz[t], _arrived(g[t], dz, after, r, dh), dz[t])


def _arrived(g: Array, dq: Array, after: int | None, r: Array, dh: Array) -> Array:
    """The cotangent of a state: what came from outside, and what came through R from the step after."""
    if after is None:
        return g
    np.matmul(dq[after], r, dh)
    np.add(dh, g, dh)
    return dh


def _rnn_tanh(z: Array, r: Array, b: list[Array], out: Array, q: Array, space: Array, order: Order) -> None:
    _rnn(np.tanh, z, r, out, q, order)


def _rnn_relu(z: Array, r: Array, b: list[Array], out: Array, q: Array, space: Array, order: Order) -> None:
    _rnn(lambda x, h: np.maximum(x, 0, out=h), z, r, out, q, order)


def _rnn_tanh_back(g: Array, cells: Array, r: Array, out: Array, spaces: Sequence[Array], order: Order) -> None:
    h, dz = cells[0], out[0]
    np.multiply(h, h, dz)
    np.subtract(1, dz, dz)
    _rnn_back(g, r, dz, spaces, order)


def _rnn_relu_back(g: Array, cells: Array, r: Array, out: Array, spaces: Sequence[Array], order: Order) -> None:
    h, dz = cells[0], out[0]
    np.greater(h, 0, dz, casting="unsafe")
    _rnn_back(g, r, dz, spaces, order)


def _lstm(z: Array, r: Array, b: list[Array], out: Array, q: Array, space: Array, order: Order) -> None:
    h, c, s = out[:3]
    gates = gates_of(out, 4)
    for t, before in _pairs(order):
        now = gates[t].reshape(z[t].shape)
        if before is None:
            np.copyto(now, z[t])
        else:
            np.matmul(h[before], r, now)
            np.add(now, z[t], now)
        i, o, f, g = (gates[t, :, k] for k in range(4))
        sigmoids = now[:, : 3 * c.shape[2]]
        sigmoid(sigmoids, sigmoids)
        np.tanh(g, g)
        np.multiply(i, g, c[t])
        if before is not None:
            np.multiply(f, c[before], space)
            np.add(c[t], space, c[t])
        np.tanh(c[t], s[t])
        np.multiply(o, s[t], h[t])


def _lstm_back(g_h: Array, cells: Array, r: Array, out: Array, spaces: Sequence[Array], order: Order) -> None:
    """dh = g + dz' R; dc = dh o (1 - s^2) + f' dc', the step after with a prime; dz of i, f, g is dc, of o dh, times the factors."""
    _, c, s = cells[:3]
    i, o, f, g = (gates_of(cells, 4)[:, :, k] for k in range(4))
    dh, dc, space, to_c = spaces
    dz = out[0]
    steps, n, units = c.shape
    factor = dz.reshape(steps, n, 4, units)
    late, early, first = _shift(order)
    of_i, of_o, of_f, of_g = (factor[:, :, k] for k in range(4))
    for gate, product, place in ((i, g, of_i), (o, s, of_o), (f, None, of_f)):
        np.subtract(1, gate, place)
        np.multiply(place, gate, place)
        if product is not None:
            np.multiply(place, product, place)
    np.multiply(of_f[late], c[early], of_f[late])
    of_f[first] = 0
    np.multiply(g, g, of_g)
    np.subtract(1, of_g, of_g)
    np.multiply(of_g, i, of_g)
    np.multiply(s, s, to_c)
    np.subtract(1, to_c, to_c)
    np.multiply(to_c, o, to_c)
    for t, after in _back(order):
        arrived = _arrived(g_h[t], dz, after, r, dh)
        if after is None:
            np.multiply(arrived, to_c[t], dc)
        else:
            np.multiply(dc, f[after], dc)
            np.multiply(arrived, to_c[t], space)
            np.add(dc, space, dc)
        now = factor[t]
        np.multiply(now[:, 0], dc, now[:, 0])
        np.multiply(now[:, 1], arrived, now[:, 1])
        np.multiply(now[:, 2:], dc[:, None], now[:, 2:])


def _gru(z: Array, r: Array, b: list[Array], out: Array, q: Array, space: Array, order: Order) -> None:
    h, inner = out[:2]
    gates, units = gates_of(out, 3), h.shape[2]
    for t, before in _pairs(order):
        sigmoids, of_z, of_new = gates[t].reshape(q.shape)[:, : 2 * units], z[t, :, : 2 * units], z[t, :, 2 * units :]
        if before is None:
            np.copyto(sigmoids, of_z)
            inner[t] = b[0]
        else:
            np.matmul(h[before], r, q)
            np.add(q[:, : 2 * units], of_z, sigmoids)
            np.add(q[:, 2 * units :], b[0], inner[t])
        sigmoid(sigmoids, sigmoids)
        update, reset, new = (gates[t, :, k] for k in range(3))
        np.multiply(reset, inner[t], new)
        np.add(new, of_new, new)
        np.tanh(new, new)
        if before is None:
            np.negative(new, h[t])
        else:
            np.subtract(h[before], new, h[t])
        np.multiply(h[t], update, h[t])
        np.add(h[t], new, h[t])


def _gru_back(g: Array, cells: Array, r: Array, out: Array, spaces: Sequence[Array], order: Order) -> None:
    """dh = g + update' dh' + dq' R; dz and dq are dh times factors. They differ in the new state's gate alone: dq = reset dz there."""
    h, inner = cells[:2]
    update, reset, new = (gates_of(cells, 3)[:, :, k] for k in range(3))
    dh, carried = spaces
    dz, dq = out
    steps, n, units = h.shape
    factor, plain = dq.reshape(steps, n, 3, units), dz.reshape(steps, n, 3, units)[:, :, 2]
    late, early, first = _shift(order)
    of_update, of_reset, of_new = (factor[:, :, k] for k in range(3))
    np.subtract(h[early], new[late], of_update[late])
    np.negative(new[first], of_update[first])
    np.subtract(1, update, plain)
    np.multiply(of_update, update, of_update)
    np.multiply(of_update, plain, of_update)
    np.multiply(new, new, of_new)
    np.subtract(1, of_new, of_new)
    np.multiply(plain, of_new, plain)
    np.multiply(plain, reset, of_new)
    np.subtract(1, reset, of_reset)
    np.multiply(of_reset, of_new, of_reset)
    np.multiply(of_reset, inner, of_reset)
    for t, after in _back(order):
        if after is None:
            np.copyto(carried, g[t])
        else:
            np.multiply(carried, update[after], carried)
            np.matmul(dq[after], r, dh)
            np.add(carried, dh, carried)
            np.add(carried, g[t], carried)
        np.multiply(factor[t], carried[:, None], factor[t])
        np.multiply(plain[t], carried, plain[t])
    np.copyto(dz.reshape(steps, n, 3, units)[:, :, :2], factor[:, :, :2])


_FORWARD: dict[str, Callable[..., None]] = {"rnn_tanh": _rnn_tanh, "rnn_relu": _rnn_relu, "lstm": _lstm, "gru": _gru}
_BACKWARD: dict[str, Callable[..., None]] = {"rnn_tanh": _rnn_tanh_back, "rnn_relu": _rnn_relu_back, "lstm": _lstm_back, "gru": _gru_back}
