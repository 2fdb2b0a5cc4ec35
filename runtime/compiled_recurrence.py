"""Recurrences compiled by numba, for the fast engine: all steps of some samples, forward and back, without the interpreter's lock.

The formulas and the memory are those of recurrence.py: the backward walk first finds what cotangents are multiplied with, at all steps,
and then walks. The product with R adds to what is there already, so the projected inputs need no pass of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .blas import PLAIN, ROWS, TURNED, has_product, sgemm
from .compiled import compiled_kernel
from .vector_math import exp_float32, tanh_float32

assert has_product()
_sgemm = sgemm()
f32 = np.float32


@compiled_kernel
def _add_product(a: Any, b: Any, turned: bool, out: Any) -> None:
    """out += a . b, or a . b^T."""
    k = a.shape[1]
    transpose = TURNED if turned else PLAIN
    _sgemm(ROWS, PLAIN, transpose, out.shape[0], out.shape[1], k, f32(1), a.ctypes, k, b.ctypes, b.shape[1], f32(1), out.ctypes, out.shape[1])


@compiled_kernel
def lstm(z: Any, r: Any, h: Any, c: Any, s: Any, gates: Any, first: int, last: int, reverse: bool) -> None:
    """Steps of samples first ... last; r is [4 units, units], gates [steps, n, 4 units]."""
    steps, _, units = h.shape
    for step in range(steps):
        t = steps - 1 - step if reverse else step
        before = t + 1 if reverse else t - 1
        now = gates[t, first:last]
        now[...] = z[t, first:last]
        if step > 0:
            _add_product(h[before, first:last], r, True, now)
        for n in range(first, last):
            g, state, cell, squashed = gates[t, n], h[t, n], c[t, n], s[t, n]
            for k in range(3 * units):
                g[k] = f32(1) / (f32(1) + exp_float32(-g[k]))
            for k in range(units):
                g[3 * units + k] = tanh_float32(g[3 * units + k])
            if step > 0:
                old = c[before, n]
                for k in range(units):
                    cell[k] = g[2 * units + k] * old[k] + g[k] * g[3 * units + k]
            else:
                for k in range(units):
                    cell[k] = g[k] * g[3 * units + k]
            for k in range(units):
                squashed[k] = tanh_float32(cell[k])
                state[k] = g[units + k] * squashed[k]


@compiled_kernel
def lstm_back(g_h: Any, r: Any, c: Any, s: Any, gates: Any, dz: Any, dh: Any, dc: Any, first: int, last: int, reverse: bool) -> None:
    steps, _, units = c.shape
    for step in range(steps):
        t = step if reverse else steps - 1 - step
        after = t - 1 if reverse else t + 1
        before = t + 1 if reverse else t - 1
        dh[first:last] = g_h[t, first:last]
        if step > 0:
            _add_product(dz[after, first:last], r, False, dh[first:last])
        for n in range(first, last):
            g, d, arrived, carried = gates[t, n], dz[t, n], dh[n], dc[n]
            if step > 0:
                later = gates[after, n]
                for k in range(units):
                    carried[k] = carried[k] * later[2 * units + k] + arrived[k] * g[units + k] * (f32(1) - s[t, n, k] * s[t, n, k])
            else:
                for k in range(units):
                    carried[k] = arrived[k] * g[units + k] * (f32(1) - s[t, n, k] * s[t, n, k])
            for k in range(units):
                i, o, new = g[k], g[units + k], g[3 * units + k]
                d[k] = carried[k] * new * i * (f32(1) - i)
                d[units + k] = arrived[k] * s[t, n, k] * o * (f32(1) - o)
                d[3 * units + k] = carried[k] * i * (f32(1) - new * new)
            if step < steps - 1:
                for k in range(units):
                    f = g[2 * units + k]
                    d[2 * units + k] = carried[k] * c[before, n, k] * f * (f32(1) - f)
            else:
                d[2 * units : 3 * units] = f32(0)


@compiled_kernel
def gru(z: Any, r: Any, b: Any, h: Any, inner: Any, gates: Any, q: Any, first: int, last: int, reverse: bool) -> None:
    """Steps of samples first ... last; r is [3 units, units], gates [steps, n, 3 units], q [n, 3 units]."""
    steps, _, units = h.shape
    for step in range(steps):
        t = steps - 1 - step if reverse else step
        before = t + 1 if reverse else t - 1
        q[first:last] = f32(0)
        if step > 0:
            _add_product(h[before, first:last], r, True, q[first:last])
        for n in range(first, last):
            g, x, p, state, own = gates[t, n], z[t, n], q[n], h[t, n], inner[t, n]
            for k in range(2 * units):
                g[k] = f32(1) / (f32(1) + exp_float32(-(x[k] + p[k])))
            for k in range(units):
                own[k] = p[2 * units + k] + b[k]
                g[2 * units + k] = tanh_float32(x[2 * units + k] + g[units + k] * own[k])
            if step > 0:
                old = h[before, n]
                for k in range(units):
                    state[k] = g[2 * units + k] + g[k] * (old[k] - g[2 * units + k])
            else:
                for k in range(units):
                    state[k] = g[2 * units + k] - g[k] * g[2 * units + k]


@compiled_kernel
def gru_back(g_h: Any, r: Any, h: Any, inner: Any, gates: Any, dz: Any, dq: Any, dh: Any, first: int, last: int, reverse: bool) -> None:
    """dh carries from step to step: g + update' dh' + dq' R."""
    steps, _, units = h.shape
    for step in range(steps):
        t = step if reverse else steps - 1 - step
        after = t - 1 if reverse else t + 1
        before = t + 1 if reverse else t - 1
        for n in range(first, last):
            carried, given = dh[n], g_h[t, n]
            if step > 0:
                later = gates[after, n]
                for k in range(units):
                    carried[k] = carried[k] * later[k] + given[k]
            else:
                for k in range(units):
                    carried[k] = given[k]
        if step > 0:
            _add_product(dq[after, first:last], r, False, dh[first:last])
        for n in range(first, last):
            g, d, e, carried = gates[t, n], dz[t, n], dq[t, n], dh[n]
            old = h[before, n] if step < steps - 1 else h[t, n]
            keep = f32(1) if step < steps - 1 else f32(0)
            for k in range(units):
                update, reset, new = g[k], g[units + k], g[2 * units + k]
                of_new = carried[k] * (f32(1) - update) * (f32(1) - new * new)
                of_update = carried[k] * (keep * old[k] - new) * update * (f32(1) - update)
                of_reset = of_new * inner[t, n, k] * reset * (f32(1) - reset)
                d[k] = of_update
                e[k] = of_update
                d[units + k] = of_reset
                e[units + k] = of_reset
                d[2 * units + k] = of_new
                e[2 * units + k] = of_new * reset
