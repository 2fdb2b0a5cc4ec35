"""Kernels compiled by numba, for the fast engine: what NumPy needs many passes over an image for.

Images are [sample, height, width, channel]; the inner loops go over channels, which LLVM vectorises. Nothing here starts threads: kernels
call these for parts of a batch (runtime/threads.py), without the interpreter's lock.

Winograd's F(2x2, 3x3) (Lavin and Gray 2015, arXiv:1509.09308): four outputs of a 3x3 convolution from a 4x4 piece of the image, d, as
A^T [(G w G^T) * (B^T d B)] A, with 16 products for 36. The products of all pieces are 16 matrix products; these kernels are what stands around them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from .machine_code import numba

nb = numba()
F = TypeVar("F", bound=Callable[..., None])


def compiled_kernel(function: F) -> F:
    """Compiled for the types that it is called with, and kept on disk."""
    made: F = nb.njit(nogil=True, error_model="numpy", cache=True)(function)
    return made


@compiled_kernel
def pieces(frame: Any, first: int, last: int, right: int, out: Any) -> None:
    """B^T d B of every 4x4 piece, two apart, in some rows of pieces of a padded image: [16, pieces, channels]."""
    channels = frame.shape[3]
    at = 0
    for n in range(frame.shape[0]):
        for i in range(first, last):
            for j in range(right):
                d = frame[n, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
                for k in range(channels):
                    a0, a1, a2, a3 = d[0, 0, k] - d[2, 0, k], d[0, 1, k] - d[2, 1, k], d[0, 2, k] - d[2, 2, k], d[0, 3, k] - d[2, 3, k]
                    b0, b1, b2, b3 = d[1, 0, k] + d[2, 0, k], d[1, 1, k] + d[2, 1, k], d[1, 2, k] + d[2, 2, k], d[1, 3, k] + d[2, 3, k]
                    c0, c1, c2, c3 = d[2, 0, k] - d[1, 0, k], d[2, 1, k] - d[1, 1, k], d[2, 2, k] - d[1, 2, k], d[2, 3, k] - d[1, 3, k]
                    e0, e1, e2, e3 = d[1, 0, k] - d[3, 0, k], d[1, 1, k] - d[3, 1, k], d[1, 2, k] - d[3, 2, k], d[1, 3, k] - d[3, 3, k]
                    out[0, at, k], out[1, at, k], out[2, at, k], out[3, at, k] = a0 - a2, a1 + a2, a2 - a1, a1 - a3
                    out[4, at, k], out[5, at, k], out[6, at, k], out[7, at, k] = b0 - b2, b1 + b2, b2 - b1, b1 - b3
                    out[8, at, k], out[9, at, k], out[10, at, k], out[11, at, k] = c0 - c2, c1 + c2, c2 - c1, c1 - c3
                    out[12, at, k], out[13, at, k], out[14, at, k], out[15, at, k] = e0 - e2, e1 + e2, e2 - e1, e1 - e3
                at += 1


@compiled_kernel
def joined(m: Any, first: int, last: int, right: int, out: Any) -> None:
    """A^T m A of every piece into its 2x2 outputs; an odd last row or column takes half of its pieces."""
    samples, height, width, channels = out.shape
    at = 0
    for n in range(samples):
        for i in range(first, last):
            for j in range(right):
                y = out[n, 2 * i :, 2 * j :]
                whole = 2 * i + 1 < height and 2 * j + 1 < width
                for k in range(channels):
                    a0, a1 = m[0, at, k] + m[1, at, k] + m[2, at, k], m[1, at, k] - m[2, at, k] - m[3, at, k]
                    b0, b1 = m[4, at, k] + m[5, at, k] + m[6, at, k], m[5, at, k] - m[6, at, k] - m[7, at, k]
                    c0, c1 = m[8, at, k] + m[9, at, k] + m[10, at, k], m[9, at, k] - m[10, at, k] - m[11, at, k]
                    e0, e1 = m[12, at, k] + m[13, at, k] + m[14, at, k], m[13, at, k] - m[14, at, k] - m[15, at, k]
                    y[0, 0, k] = a0 + b0 + c0
                    if whole:
                        y[0, 1, k], y[1, 0, k], y[1, 1, k] = a1 + b1 + c1, b0 - c0 - e0, b1 - c1 - e1
                    else:
                        if 2 * j + 1 < width:
                            y[0, 1, k] = a1 + b1 + c1
                        if 2 * i + 1 < height:
                            y[1, 0, k] = b0 - c0 - e0
                at += 1


@compiled_kernel
def spread(g: Any, first: int, last: int, right: int, out: Any) -> None:
    """A g A^T of every 2x2 piece of a cotangent: [16, pieces, channels]; what lies outside is 0."""
    samples, height, width, channels = g.shape
    at = 0
    for n in range(samples):
        for i in range(first, last):
            for j in range(right):
                below, beside = min(2 * i + 1, height - 1), min(2 * j + 1, width - 1)
                v = g.dtype.type(1 if 2 * i + 1 < height else 0)
                h = g.dtype.type(1 if 2 * j + 1 < width else 0)
                for k in range(channels):
                    p, q = g[n, 2 * i, 2 * j, k], g[n, 2 * i, beside, k] * h
                    r, s = g[n, below, 2 * j, k] * v, g[n, below, beside, k] * (v * h)
                    t0, t1, t2, t3 = p, p + q, p - q, -q
                    u0, u1, u2, u3 = r, r + s, r - s, -s
                    out[0, at, k], out[1, at, k], out[2, at, k], out[3, at, k] = t0, t1, t2, t3
                    out[4, at, k], out[5, at, k], out[6, at, k], out[7, at, k] = t0 + u0, t1 + u1, t2 + u2, t3 + u3
                    out[8, at, k], out[9, at, k], out[10, at, k], out[11, at, k] = t0 - u0, t1 - u1, t2 - u2, t3 - u3
                    out[12, at, k], out[13, at, k], out[14, at, k], out[15, at, k] = -u0, -u1, -u2, -u3
                at += 1


@compiled_kernel
def pooled(x: Any, stride: Any, window: Any, out: Any) -> None:
    """The largest element of each window of a padded image; NaN stays NaN."""
    samples, height, width, channels = out.shape
    for n in range(samples):
        for i in range(height):
            for j in range(width):
                y = out[n, i, j]
                for u in range(window[0]):
                    for v in range(window[1]):
                        here = x[n, i * stride[0] + u, j * stride[1] + v]
                        if u == 0 and v == 0:
                            for k in range(channels):
                                y[k] = here[k]
                        else:
                            for k in range(channels):
                                y[k] = here[k] if here[k] > y[k] or here[k] != here[k] else y[k]


@compiled_kernel
def pooled_back(x: Any, top: Any, g: Any, stride: Any, window: Any, out: Any) -> None:
    """The cotangent of each window goes to its first maximum, added to what other windows brought there. `out` is padded like x."""
    samples, height, width, channels = top.shape
    free = np.empty(channels, np.bool_)
    out[...] = 0
    for n in range(samples):
        for i in range(height):
            for j in range(width):
                t, c = top[n, i, j], g[n, i, j]
                free[:] = True
                for u in range(window[0]):
                    for v in range(window[1]):
                        here, there = x[n, i * stride[0] + u, j * stride[1] + v], out[n, i * stride[0] + u, j * stride[1] + v]
                        for k in range(channels):
                            hit = free[k] & (here[k] == t[k])
                            there[k] += c[k] if hit else 0
                            free[k] = free[k] & (not hit)
