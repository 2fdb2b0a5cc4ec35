"""Compiled kernels of LSTM, GRU and plain recurrences in float32: all steps of a part of the samples, forward and back.

The formulas are those of recurrence.py. Kept are h, of an lstm c and tanh(c), of a gru R_h h + Rb_h, each [steps, n, units], and the gates
[steps, n, gates, units]. A step is one product with R, called from inside, and one loop over the units that does all that
is elementwise, so that what a step makes is still in the first cache when it is read again. Before the first step in time the state is a row of
zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .addresses import apart, compiled, float32_at, kernel
from .blas import PLAIN, ROWS, has_product, sgemm
from .vector_math import exp_float32, tanh_float32

assert has_product()
_sgemm = sgemm()
f32 = np.float32


@compiled()
def _product(rows: int, columns: int, k: int, a: int, b: int, out: int) -> None:
    """out = a b."""
    _sgemm(ROWS, PLAIN, PLAIN, rows, columns, k, f32(1), float32_at(a), k, float32_at(b), columns, f32(0), float32_at(out), columns)


@compiled()
def _sigmoid(x: Any) -> Any:
    return f32(1) / (f32(1) + exp_float32(-x))


@compiled()
def _at(step: int, steps: int, reverse: int) -> tuple[int, int]:
    """Where a step in time lies, and the one before it."""
    return (steps - 1 - step, steps - step) if reverse else (step, step - 1)


@compiled()
def _clear(x: int, count: int) -> None:
    numbers = float32_at(x)
    for i in range(count):
        numbers[i] = f32(0)


@compiled()
def _recurrent(first: int, last: int, units: int, gates: int, step: int, h: int, r: int, q: int) -> None:
    """q = h R^T for the samples of a part; 0 at the first step in time, before which there is no h."""
    row = gates * units
    if step == 0:
        _clear(q + 4 * first * row, (last - first) * row)
    else:
        _product(last - first, row, units, h + 4 * first * units, r, q + 4 * first * row)


@kernel
def lstm(a: Any, part: int, parts: int) -> None:
    """z, its step, its sample, R^T [units, 4 units], kept [7, steps, n, units], steps, n, units, reverse, q [n, 4 units], a row of zeros."""
    z, z_step, z_sample, r, kept, steps, n, units, reverse, q, zeros = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10]
    first, last = n * part // parts, n * (part + 1) // parts
    if first == last:
        return
    block = steps * n * units
    for step in range(steps):
        t, before = _at(step, steps, reverse)
        _recurrent(first, last, units, 4, step, kept + 4 * before * n * units, r, q)
        for s in range(first, last):
            at = kept + 4 * (t * n + s) * units
            old = zeros if step == 0 else kept + 4 * (block + (before * n + s) * units)
            x, p, g = z + 4 * (t * z_step + s * z_sample), q + 16 * s * units, kept + 4 * (3 * block + 4 * (t * n + s) * units)
            one = 4 * units
            _lstm_cell(units, float32_at(x), float32_at(x + one), float32_at(x + 2 * one), float32_at(x + 3 * one),
                       float32_at(p), float32_at(p + one), float32_at(p + 2 * one), float32_at(p + 3 * one),
                       float32_at(g), float32_at(g + one), float32_at(g + 2 * one), float32_at(g + 3 * one),
                       float32_at(old), float32_at(at), float32_at(at + 4 * block), float32_at(at + 8 * block))  # fmt: skip


@compiled()
def _lstm_cell(units: int, xi: Any, xo: Any, xf: Any, xg: Any, pi: Any, po: Any, pf: Any, pg: Any, gi: Any, go: Any, gf: Any, gg: Any,
               old: Any, h: Any, c: Any, squashed: Any) -> None:  # fmt: skip
    apart()
    for k in range(units):
        i, o, f, g = _sigmoid(xi[k] + pi[k]), _sigmoid(xo[k] + po[k]), _sigmoid(xf[k] + pf[k]), tanh_float32(xg[k] + pg[k])
        cell = f * old[k] + i * g
        s = tanh_float32(cell)
        gi[k], go[k], gf[k], gg[k], c[k], squashed[k], h[k] = i, o, f, g, cell, s, o * s


@kernel
def lstm_back(a: Any, part: int, parts: int) -> None:
    """g, its step, its sample, R [4 units, units], kept, dz [steps, n, 4 units], steps, n, units, reverse, dh [n, units], dc [n, units], a row of zeros.

    dc carries f dc from a step to the one before it.
    """
    g_h, g_step, g_sample, r, kept, dz = a[0], a[1], a[2], a[3], a[4], a[5]
    steps, n, units, reverse, dh, dc, zeros = a[6], a[7], a[8], a[9], a[10], a[11], a[12]
    first, last = n * part // parts, n * (part + 1) // parts
    if first == last:
        return
    block = steps * n * units
    _clear(dh + 4 * first * units, (last - first) * units)
    _clear(dc + 4 * first * units, (last - first) * units)
    for back in range(steps):
        t, before = _at(steps - 1 - back, steps, reverse)
        after = t - 1 if reverse else t + 1
        if back > 0:
            _product(last - first, units, 4 * units, dz + 16 * (after * n + first) * units, r, dh + 4 * first * units)
        for s in range(first, last):
            at = kept + 4 * (t * n + s) * units
            old = zeros if back == steps - 1 else kept + 4 * (block + (before * n + s) * units)
            x, g = dz + 16 * (t * n + s) * units, kept + 4 * (3 * block + 4 * (t * n + s) * units)
            one = 4 * units
            _lstm_cell_back(units, float32_at(g_h + 4 * (t * g_step + s * g_sample)), float32_at(dh + 4 * s * units), float32_at(dc + 4 * s * units),
                            float32_at(g), float32_at(g + one), float32_at(g + 2 * one), float32_at(g + 3 * one), float32_at(old), float32_at(at + 8 * block),
                            float32_at(x), float32_at(x + one), float32_at(x + 2 * one), float32_at(x + 3 * one))  # fmt: skip


@compiled()
def _lstm_cell_back(units: int, given: Any, dh: Any, dc: Any, gi: Any, go: Any, gf: Any, gg: Any, old: Any, squashed: Any,
                    di: Any, do: Any, df: Any, dg: Any) -> None:  # fmt: skip
    apart()
    for k in range(units):
        i, o, f, g, s = gi[k], go[k], gf[k], gg[k], squashed[k]
        of_h = dh[k] + given[k]
        of_c = dc[k] + of_h * o * (f32(1) - s * s)
        di[k] = of_c * g * i * (f32(1) - i)
        do[k] = of_h * s * o * (f32(1) - o)
        df[k] = of_c * old[k] * f * (f32(1) - f)
        dg[k] = of_c * i * (f32(1) - g * g)
        dc[k] = of_c * f


@kernel
def gru(a: Any, part: int, parts: int) -> None:
    """z, its step, its sample, R^T [units, 3 units], Rb of the new state, kept [5, steps, n, units], steps, n, units, reverse, q [n, 3 units],
    a row of zeros.
    """
    z, z_step, z_sample, r, b, kept, steps, n, units, reverse, q, zeros = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]
    first, last = n * part // parts, n * (part + 1) // parts
    if first == last:
        return
    block = steps * n * units
    for step in range(steps):
        t, before = _at(step, steps, reverse)
        _recurrent(first, last, units, 3, step, kept + 4 * before * n * units, r, q)
        for s in range(first, last):
            at = kept + 4 * (t * n + s) * units
            old = zeros if step == 0 else kept + 4 * (before * n + s) * units
            x, p, g = z + 4 * (t * z_step + s * z_sample), q + 12 * s * units, kept + 4 * (2 * block + 3 * (t * n + s) * units)
            one = 4 * units
            _gru_cell(units, float32_at(x), float32_at(x + one), float32_at(x + 2 * one), float32_at(p), float32_at(p + one), float32_at(p + 2 * one),
                      float32_at(b), float32_at(g), float32_at(g + one), float32_at(g + 2 * one), float32_at(old), float32_at(at),
                      float32_at(at + 4 * block))  # fmt: skip


@compiled()
def _gru_cell(units: int, xz: Any, xr: Any, xn: Any, pz: Any, pr: Any, pn: Any, b: Any, gz: Any, gr: Any, gn: Any, old: Any, h: Any, inner: Any) -> None:
    apart()
    for k in range(units):
        update, reset, own = _sigmoid(xz[k] + pz[k]), _sigmoid(xr[k] + pr[k]), pn[k] + b[k]
        new = tanh_float32(xn[k] + reset * own)
        gz[k], gr[k], gn[k], inner[k], h[k] = update, reset, new, own, new + update * (old[k] - new)


@kernel
def gru_back(a: Any, part: int, parts: int) -> None:
    """g, its step, its sample, R [3 units, units], kept, dz and dq [2, steps, n, 3 units], steps, n, units, reverse, dh [n, units], carried [n, units],
    a row of zeros.

    What is carried is update dh.
    """
    g_h, g_step, g_sample, r, kept, dz = a[0], a[1], a[2], a[3], a[4], a[5]
    steps, n, units, reverse, dh, passed, zeros = a[6], a[7], a[8], a[9], a[10], a[11], a[12]
    first, last = n * part // parts, n * (part + 1) // parts
    if first == last:
        return
    block = steps * n * units
    dq = dz + 12 * block
    _clear(dh + 4 * first * units, (last - first) * units)
    _clear(passed + 4 * first * units, (last - first) * units)
    for back in range(steps):
        t, before = _at(steps - 1 - back, steps, reverse)
        after = t - 1 if reverse else t + 1
        if back > 0:
            _product(last - first, units, 3 * units, dq + 12 * (after * n + first) * units, r, dh + 4 * first * units)
        for s in range(first, last):
            at = kept + 4 * (t * n + s) * units
            old = zeros if back == steps - 1 else kept + 4 * (before * n + s) * units
            row, g = 12 * (t * n + s) * units, kept + 4 * (2 * block + 3 * (t * n + s) * units)
            x, y, one = dz + row, dq + row, 4 * units
            _gru_cell_back(units, float32_at(g_h + 4 * (t * g_step + s * g_sample)), float32_at(dh + 4 * s * units), float32_at(passed + 4 * s * units),
                           float32_at(g), float32_at(g + one), float32_at(g + 2 * one), float32_at(old), float32_at(at + 4 * block),
                           float32_at(x), float32_at(x + one), float32_at(x + 2 * one),
                           float32_at(y), float32_at(y + one), float32_at(y + 2 * one))  # fmt: skip


@compiled()
def _gru_cell_back(units: int, given: Any, dh: Any, carried: Any, gz: Any, gr: Any, gn: Any, old: Any, inner: Any,
                   xz: Any, xr: Any, xn: Any, yz: Any, yr: Any, yn: Any) -> None:  # fmt: skip
    apart()
    for k in range(units):
        update, reset, new = gz[k], gr[k], gn[k]
        of_h = dh[k] + given[k] + carried[k]
        of_new = of_h * (f32(1) - update) * (f32(1) - new * new)
        of_update = of_h * (old[k] - new) * update * (f32(1) - update)
        of_reset = of_new * inner[k] * reset * (f32(1) - reset)
        xz[k], yz[k], xr[k], yr[k], xn[k], yn[k] = of_update, of_update, of_reset, of_reset, of_new, of_new * reset
        carried[k] = of_h * update


@kernel
def rnn(a: Any, part: int, parts: int) -> None:
    """z, its step, its sample, R^T [units, units], h [steps, n, units], steps, n, units, reverse, q [n, units], whether the activation is relu, not tanh."""
    z, z_step, z_sample, r, h, steps, n, units, reverse, q, relu = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10]
    first, last = n * part // parts, n * (part + 1) // parts
    if first == last:
        return
    for step in range(steps):
        t, before = _at(step, steps, reverse)
        _recurrent(first, last, units, 1, step, h + 4 * before * n * units, r, q)
        for s in range(first, last):
            x, p, out = float32_at(z + 4 * (t * z_step + s * z_sample)), float32_at(q + 4 * s * units), float32_at(h + 4 * (t * n + s) * units)
            if relu:
                _relu_cell(units, x, p, out)
            else:
                _tanh_cell(units, x, p, out)


@compiled()
def _tanh_cell(units: int, x: Any, p: Any, h: Any) -> None:
    apart()
    for k in range(units):
        h[k] = tanh_float32(x[k] + p[k])


@compiled()
def _relu_cell(units: int, x: Any, p: Any, h: Any) -> None:
    apart()
    for k in range(units):
        new = x[k] + p[k]
        h[k] = f32(0) if new <= f32(0) else new  # NaN stays NaN


@kernel
def rnn_back(a: Any, part: int, parts: int) -> None:
    """g, its step, its sample, R [units, units], h, dz [steps, n, units], steps, n, units, reverse, dh [n, units], whether relu."""
    g_h, g_step, g_sample, r, h, dz, steps, n, units, reverse, dh, relu = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]
    first, last = n * part // parts, n * (part + 1) // parts
    if first == last:
        return
    _clear(dh + 4 * first * units, (last - first) * units)
    for back in range(steps):
        t, _ = _at(steps - 1 - back, steps, reverse)
        after = t - 1 if reverse else t + 1
        if back > 0:
            _product(last - first, units, units, dz + 4 * (after * n + first) * units, r, dh + 4 * first * units)
        for s in range(first, last):
            at = 4 * (t * n + s) * units
            given, arrived = float32_at(g_h + 4 * (t * g_step + s * g_sample)), float32_at(dh + 4 * s * units)
            if relu:
                _relu_cell_back(units, given, arrived, float32_at(h + at), float32_at(dz + at))
            else:
                _tanh_cell_back(units, given, arrived, float32_at(h + at), float32_at(dz + at))


@compiled()
def _tanh_cell_back(units: int, given: Any, dh: Any, h: Any, dz: Any) -> None:
    apart()
    for k in range(units):
        dz[k] = (dh[k] + given[k]) * (f32(1) - h[k] * h[k])


@compiled()
def _relu_cell_back(units: int, given: Any, dh: Any, h: Any, dz: Any) -> None:
    apart()
    for k in range(units):
        dz[k] = (dh[k] + given[k]) * (f32(1) if h[k] > f32(0) else f32(0))
