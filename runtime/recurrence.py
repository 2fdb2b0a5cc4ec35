"""NumPy kernels of recurrences in training: forward through the steps, and back.

At the usual sizes a call of NumPy takes a third of a microsecond however little it does, and three times as long where the rows of what it reads lie apart.
So the gates lie one behind the other here, [gates, n, units] in a step, where each is one piece of memory and neighbours are one too; a step is
as few calls as there can be, which are made ready when the step is bound; and what the backward walk multiplies the cotangent of a step with,
which depends on the forward values alone, is computed for all steps at once, in the very memory that the result goes to.

Sequences are [steps, n, units]; `r` is [gates units, units]. Of the blocks that are kept, the first holds the states. The others together are a record of
each step, [steps, blocks, n, units]:

    lstm: i, o, f, g, s = tanh(c), and c of the step before
    gru:  update, reset, new, and inner = R_h h + Rb_h

Where a forward step needs a product with a sigmoid it divides by its reciprocal, 1 + e^-x. All sigmoids are made from those at the end; e^-x
comes from -R and -z.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from nnc.compiler.ir import Value

from .divided import Array, Call, Divided, Phase

Kernel = Callable[..., Any]
Order = Sequence[int]  # the steps as time goes
Walked = Iterator[Call]


class _Walk(Divided):
    """One lane: each step in time waits for the one before."""

    def __init__(self, calls: Callable[..., Walked], order: Order):
        self.calls, self.order = calls, order

    def phases(self, *arrays: Array) -> list[Phase]:
        return [[list(self.calls(self.order, *arrays))]]


def recurrence(value: Value, n: int, randomness: object) -> Kernel:
    return _Walk(_FORWARD[value.attributes["kind"]], _order(value))


def recurrence_gradient(value: Value, n: int, randomness: object) -> Kernel:
    return _Walk(_BACKWARD[value.attributes["kind"]], _order(value))


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


def _records(kept: Array) -> Array:
    """What is kept of each step beside its state: [steps, blocks, n, units]."""
    blocks, steps, n, units = kept.shape
    return kept[1:].reshape(steps, blocks - 1, n, units)


def _apart(x: Array, gates: int) -> Array:
    """[..., n, gates units] seen as [..., gates, n, units]."""
    return x.reshape(*x.shape[:-1], gates, x.shape[-1] // gates).swapaxes(-2, -3)


def _turned(r: Array, out: Array, gates: int, negative: int) -> tuple[Array, Walked]:
    """R as the matrices of its gates [gates, units, units], turned around, so that h times them is a step; some of them negative."""
    units = r.shape[1]
    matrices = out.reshape(gates, units, units)

    def calls() -> Walked:
        yield np.copyto, (matrices, r.reshape(gates, units, units).swapaxes(1, 2))
        if negative:
            yield np.negative, (matrices[:negative], matrices[:negative])

    return matrices, calls()


def _rectified(x: Array, out: Array) -> None:
    np.maximum(x, 0, out=out)


def _is_positive(x: Array, out: Array) -> None:
    np.greater(x, 0, out, casting="unsafe")


def _rnn(activate: Callable[[Array, Array], Any]) -> Callable[..., Walked]:
    def walk(order: Order, z: Array, r: Array, out: Array, turned: Array, q: Array, space: Array) -> Walked:
        h = out[0]
        yield np.copyto, (turned, r.T)
        for t, before in _pairs(order):
            if before is None:
                yield activate, (z[t], h[t])
                continue
            yield np.dot, (h[before], turned, q)
            yield np.add, (q, z[t], q)
            yield activate, (q, h[t])

    return walk


def _rnn_back(slope: Callable[[Array, Array], Walked]) -> Callable[..., Walked]:
    def walk(order: Order, g: Array, kept: Array, r: Array, out: Array, dh: Array, _: Array) -> Walked:
        dz = out[0]
        yield from slope(kept[0], dz)
        for t, after in _back(order):
            if after is None:
                yield np.multiply, (dz[t], g[t], dz[t])
                continue
            yield np.dot, (dz[after], r, dh)
            yield np.add, (dh, g[t], dh)
            yield np.multiply, (dz[t], dh, dz[t])

    return walk


def _slope_of_tanh(h: Array, out: Array) -> Walked:
    yield np.multiply, (h, h, out)
    yield np.subtract, (1, out, out)


def _slope_of_relu(h: Array, out: Array) -> Walked:
    yield _is_positive, (h, out)


def _lstm(order: Order, z: Array, r: Array, out: Array, turned: Array, q: Array, space: Array) -> Walked:
    h, record = out[0], _records(out)
    matrices, turn = _turned(r, turned, 4, negative=3)
    product = q.reshape(4, *space.shape)
    one = np.ones((), z.dtype)  # NumPy takes longer to read a number of Python
    yield from turn
    yield np.copyto, (record[:, :4], _apart(z, 4))
    yield np.copyto, (record[order[0], 5], 0)
    for step, (t, before) in enumerate(_pairs(order)):
        now = record[t]
        i_o_f, o, g, s = now[:3], now[1], now[3], now[4]
        i_f, g_c = now[0:3:2], now[3:6:2]
        c = record[order[step + 1], 5] if step + 1 < len(order) else space
        if before is None:
            yield np.negative, (i_o_f, i_o_f)
        else:
            yield np.matmul, (h[before], matrices, product)
            yield np.subtract, (product[:3], i_o_f, i_o_f)
            yield np.add, (product[3], g, g)
        yield np.exp, (i_o_f, i_o_f)
        yield np.add, (i_o_f, one, i_o_f)
        yield np.tanh, (g, g)
        yield np.divide, (g_c, i_f, product[:2])
        yield np.add, (product[0], product[1], c)
        yield np.tanh, (c, s)
        yield np.divide, (s, o, h[t])
    yield np.divide, (one, record[:, :3], record[:, :3])


def _lstm_back(order: Order, g_h: Array, kept: Array, r: Array, out: Array, dh: Array, carried: Array, work: Array, to_c: Array) -> Walked:
    """dh = g + dz' R; dc = dh o (1 - s^2) + f' dc', the step after with a prime; dz of i, f, g is dc, of o dh, times the factors."""
    record, dz = _records(kept), out[0]
    steps, _, n, units = record.shape
    i_o_f, i, o, f, g, s = record[:, :3], record[:, 0], record[:, 1], record[:, 2], record[:, 3], record[:, 4]
    factor = dz.reshape(steps, 4, n, units)
    yield np.subtract, (1, i_o_f, factor[:, :3])
    yield np.multiply, (factor[:, :3], i_o_f, factor[:, :3])
    yield np.multiply, (factor[:, :3], record[:, 3:6], factor[:, :3])
    for x, gate, place in ((g, i, factor[:, 3]), (s, o, to_c)):
        yield np.multiply, (x, x, place)
        yield np.subtract, (1, place, place)
        yield np.multiply, (place, gate, place)
    cotangents, product = work[:4], work[4:]
    dc, of_h = cotangents[0], cotangents[1]
    for t, after in _back(order):
        if after is None:
            yield np.copyto, (of_h, g_h[t])
            yield np.multiply, (of_h, to_c[t], dc)
        else:
            yield np.dot, (dz[after], r, dh)
            yield np.add, (dh, g_h[t], of_h)
            yield np.multiply, (of_h, to_c[t], dh)
            yield np.multiply, (dc, f[after], carried)
            yield np.add, (dh, carried, dc)
        yield np.copyto, (cotangents[2:], dc)
        yield np.multiply, (factor[t], cotangents, product)
        yield np.copyto, (_apart(dz[t], 4), product)


def _gru(order: Order, z: Array, r: Array, b: Array, out: Array, turned: Array, q: Array, biases: Array) -> Walked:
    h, record = out[0], _records(out)
    matrices, turn = _turned(r, turned, 3, negative=2)
    product = q.reshape(3, *biases.shape)
    one = np.ones((), z.dtype)
    yield from turn
    yield np.copyto, (record[:, :3], _apart(z, 3))
    yield np.copyto, (biases, b)
    space = product[0]
    for t, before in _pairs(order):
        now = record[t]
        sigmoids, update, reset, new, inner = now[:2], now[0], now[1], now[2], now[3]
        if before is None:
            yield np.negative, (sigmoids, sigmoids)
            yield np.copyto, (inner, biases)
        else:
            yield np.matmul, (h[before], matrices, product)
            yield np.subtract, (product[:2], sigmoids, sigmoids)
            yield np.add, (product[2], biases, inner)
        yield np.exp, (sigmoids, sigmoids)
        yield np.add, (sigmoids, one, sigmoids)
        yield np.divide, (inner, reset, space)
        yield np.add, (space, new, space)
        yield np.tanh, (space, new)
        if before is None:
            yield np.negative, (new, space)
        else:
            yield np.subtract, (h[before], new, space)
        yield np.divide, (space, update, space)
        yield np.add, (space, new, h[t])
    yield np.divide, (one, record[:, :2], record[:, :2])


def _gru_back(order: Order, g: Array, kept: Array, r: Array, out: Array, dh: Array, carried: Array, work: Array) -> Walked:
    """dh = g + update' dh' + dq' R; dz and dq are dh times factors. They differ in the new state's gate alone: dq = reset dz there."""
    h, record = kept[0], _records(kept)
    steps, _, n, units = record.shape
    update, reset, new, inner = (record[:, k] for k in range(4))
    dz, dq = out
    factor, plain = dq.reshape(steps, 3, n, units), dz.reshape(steps, 3, n, units)[:, 0]
    of_update, of_reset, of_new = (factor[:, k] for k in range(3))
    late, early = (slice(1, None), slice(None, -1)) if order[0] == 0 else (slice(None, -1), slice(1, None))
    yield np.subtract, (h[early], new[late], of_update[late])
    yield np.negative, (new[order[0]], of_update[order[0]])
    yield np.subtract, (1, update, plain)
    yield np.multiply, (of_update, update, of_update)
    yield np.multiply, (of_update, plain, of_update)
    yield np.multiply, (new, new, of_new)
    yield np.subtract, (1, of_new, of_new)
    yield np.multiply, (plain, of_new, plain)
    yield np.multiply, (plain, reset, of_new)
    yield np.subtract, (1, reset, of_reset)
    yield np.multiply, (of_reset, of_new, of_reset)
    yield np.multiply, (of_reset, inner, of_reset)
    products, of_plain = work[:3], work[3]
    for t, after in _back(order):
        if after is None:
            yield np.copyto, (carried, g[t])
        else:
            yield np.multiply, (carried, update[after], carried)
            yield np.dot, (dq[after], r, dh)
            yield np.add, (carried, dh, carried)
            yield np.add, (carried, g[t], carried)
        yield np.multiply, (factor[t], carried, products)
        yield np.multiply, (plain[t], carried, of_plain)
        yield np.copyto, (_apart(dq[t], 3), products)
        yield np.copyto, (_apart(dz[t], 3)[:2], products[:2])
        yield np.copyto, (_apart(dz[t], 3)[2], of_plain)


_FORWARD: dict[str, Callable[..., Walked]] = {"rnn_tanh": _rnn(np.tanh), "rnn_relu": _rnn(_rectified), "lstm": _lstm, "gru": _gru}
_BACKWARD: dict[str, Callable[..., Walked]] = {
    "rnn_tanh": _rnn_back(_slope_of_tanh),
    "rnn_relu": _rnn_back(_slope_of_relu),
    "lstm": _lstm_back,
    "gru": _gru_back,
}
