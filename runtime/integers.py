"""Kernels between real and whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def quantize(x: Array, scale: Array, zero: Array, out: Array, real: Array) -> None:
    """round(x / scale) + zero, a half to even, limited to what out can hold."""
    limits = np.iinfo(out.dtype)
    np.divide(x, scale, real)
    np.rint(real, real)
    np.add(real, zero, real, casting="unsafe")
    np.clip(real, limits.min, limits.max, real)
    np.copyto(out, real, casting="unsafe")


def dequantize(axis: int | None) -> Callable[..., None]:
    """(q - zero) * scale, with a scale for each place of an axis if there is one."""

    def kernel(q: Array, scale: Array, *rest: Array) -> None:
        *zero, out = rest
        shape = [-1 if place == axis else 1 for place in range(q.ndim)] if axis is not None else []
        np.copyto(out, q)
        if zero:
            np.subtract(out, zero[0].reshape(shape), out)
        np.multiply(out, scale.reshape(shape), out)

    return kernel
