"""exp and tanh for compiled loops, in arithmetic that LLVM turns into vector instructions.

exp takes out a power of two (Cody and Waite 1980) and sums a series of the rest; tanh is its series near 0 and 1 - 2 / (e^2x + 1) elsewhere
(coefficients: Cephes, Moshier 1989). In float32 both are accurate to a few units in the last place; in float64 the standard library's are called.
"""

import numba as nb
import numpy as np

f32, i32 = np.float32, np.int32


@nb.njit(error_model="numpy", fastmath={"contract"})
def exp_float32(x):  # type: ignore[no-untyped-def]
    c = f32(88.8) if x > f32(88.8) else x
    c = f32(-104.0) if c < f32(-104.0) else c
    n = (c * f32(1.44269504088896341) + f32(12582912.0)) - f32(12582912.0)
    r = c - n * f32(0.693359375)
    r = r - n * f32(-2.12194440e-4)
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    y = p * r * r + r + f32(1.0)
    k = i32(n)
    h = k >> i32(1)
    return y * i32((h + i32(127)) << i32(23)).view(f32) * i32((k - h + i32(127)) << i32(23)).view(f32)


@nb.njit(error_model="numpy", fastmath={"contract"})
def tanh_float32(x):  # type: ignore[no-untyped-def]
    m = abs(x)
    s = x * x
    p = f32(-5.70498872745e-3)
    p = p * s + f32(2.06390887954e-2)
    p = p * s + f32(-5.37397155531e-2)
    p = p * s + f32(1.33314422036e-1)
    p = p * s + f32(-3.33332819422e-1)
    near = p * s * x + x
    far = f32(1.0) - f32(2.0) / (exp_float32(m + m) + f32(1.0))
    far = -far if x < f32(0.0) else far
    return near if m < f32(0.625) else far


@nb.njit(error_model="numpy", fastmath={"contract"})
def exp_float64(x):  # type: ignore[no-untyped-def]
    return np.exp(x)


@nb.njit(error_model="numpy", fastmath={"contract"})
def tanh_float64(x):  # type: ignore[no-untyped-def]
    return np.tanh(x)
