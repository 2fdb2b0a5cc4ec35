"""Float32 numbers as the shortest decimals that give them back, a whole column at once: the text of repr(float(str(x))).

x has the exponent e if 10^e <= |x| < 10^(e+1). The decimal of p digits nearest to x is m * 10^(e+1-p) with m = round(|x| * 10^(p-1-e)). It gives
x back if it is nearer to x than half the distance to the next float32, which times 10^(p-1-e) is the reach of x. No two decimals of six digits
lie within one reach, and nine digits always do, so p = 6, 7, 8 and 9 are tried; what is shorter than six ends in zeros.

This is computed in float64, with an error below 5e-7 in m. What lies closer than that to a decision (a tie, the edge of the reach), or
where floats are not evenly spaced around x (powers of two, subnormal numbers), is left to NumPy's own printing: few numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FILLER = 0xFF  # stands for nothing: no text in UTF-8 has this byte
WIDTH = 27  # a sign, "0.000", nine digits and the eight places for a point between them, "e-05"
_LEAD, _FIRST, _EXPONENT = 1, 6, 23
_CLOSE = 1e-6
_LEAST, _MOST = -38, 38  # exponents of normal float32
_TENS = np.array([float(f"1e{k}") for k in range(-_MOST, 9 - _LEAST)])
_DIGIT = np.array([[ord("0") + number // 10**place % 10 for number in range(1000)] for place in (2, 1, 0)], np.uint8)


def shortest(values: Array) -> Array:
    """Cells [n, WIDTH] of bytes for a float32 array [n]."""
    mantissa, exponent, sure = _decimals(values)
    digits = [_DIGIT[place].take(part) for part in (mantissa // 1_000_000, mantissa // 1000 % 1000, mantissa % 1000) for place in range(3)]
    count = np.ones(len(values), np.int8)
    for place in range(1, 9):
        np.copyto(count, place + 1, where=digits[place] != ord("0"))
    small, plain, far = (exponent < 0) & (exponent >= -4), (exponent >= 0) & (exponent < 8), exponent < -4
    sure &= exponent < 8
    text = np.full((WIDTH, len(values)), FILLER, np.uint8)
    np.copyto(text[0], ord("-"), where=np.signbit(values))
    for place, character in enumerate(b"0.000"):
        np.copyto(text[_LEAD + place], character, where=small & (exponent < 1 - place))
    written = np.where(plain, np.maximum(count, exponent + 2), count)
    for place, digit in enumerate(digits):
        np.copyto(text[_FIRST + 2 * place], digit, where=written > place)
    if plain.any():
        for place in range(8):
            np.copyto(text[_FIRST + 1 + 2 * place], ord("."), where=plain & (exponent == place))
    if far.any():
        np.copyto(text[_FIRST + 1], ord("."), where=far & (count > 1))
        size = np.abs(exponent)
        for place, part in enumerate((ord("e"), ord("-"), _DIGIT[1].take(size), _DIGIT[2].take(size))):
            np.copyto(text[_EXPONENT + place], part, where=far)
    cells = np.ascontiguousarray(text.T)
    for row in np.flatnonzero(~sure).tolist():
        cells[row] = np.frombuffer(repr(float(str(values[row]))).encode().ljust(WIDTH, bytes([FILLER])), np.uint8)
    return cells


def _decimals(values: Array) -> tuple[Array, Array, Array]:
    """Nine digits as an integer, the exponent of the first, and whether both are certain."""
    normal = np.abs(values) >= np.finfo(np.float32).tiny
    normal &= np.isfinite(values)
    x = np.where(normal, np.abs(values), 1).astype(np.float64)
    binary = np.frexp(x)[1] - 1
    exponent = (binary * 0.30103).astype(np.int64) - (binary < 0)  # floor(binary log10(2)), or one less
    exponent += x >= _TENS.take(exponent + 1 + _MOST)
    exponent += x >= _TENS.take(exponent + 1 + _MOST)
    half = np.ldexp(1.0, binary - 24)
    even = (values.view(np.uint32) & 0x7FFFFF) == 0  # a power of two
    mantissa, sure = np.empty(0), normal
    for p in (9, 8, 7, 6):
        scale = _TENS.take(p - 1 - exponent + _MOST)
        scaled = x * scale
        m = np.rint(scaled)
        off, reach = np.abs(scaled - m), half * scale
        if p == 9:
            mantissa, sure = m, sure & (off < 0.5 - _CLOSE)
            continue
        inside = off < reach
        m *= 10.0 ** (9 - p)
        np.copyto(mantissa, m, where=inside)
        sure = np.where(inside, off < np.minimum(reach, 0.5) - _CLOSE, sure & (off > reach + _CLOSE))
        if p == 6:
            sure &= normal & (~even | (off < _CLOSE))
    whole = mantissa.astype(np.int64)
    carried = whole == 1_000_000_000
    whole[carried] = 100_000_000
    exponent += carried
    zero = values == 0
    whole[zero], exponent[zero], sure[zero] = 0, 0, True
    return whole, exponent, sure
