"""Winograd's matrices, as Toom and Cook find them: a product of polynomials is known from its values at some points and at infinity.

With outputs m and a window r, of n = m + r - 1 inputs d: y = A^T [(G w) * (B^T d)] has n products for m r. A row of A holds the powers of a
point, a row of G those of the window over prod(p - q) for the other points q, and a row of B^T the coefficients of prod(x - q). Points come in
pairs, p and -p, whose rows differ in the signs of every second place alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import prod

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Form:
    """F(m, r): `side` is m, `extent` n."""

    side: int
    extent: int
    of_input: Matrix  # B^T
    of_window: Matrix  # G
    of_cotangent: Matrix  # A


def form(outputs: int, window: int, points: tuple[Fraction, ...]) -> Form:
    """F(outputs, window) by these points and infinity."""
    extent = outputs + window - 1
    assert len(set(points)) == len(points) == extent - 1
    of_input, of_window, of_cotangent = [], [], []
    for p in points:
        others = [q for q in points if q != p]
        scale = 1 / prod((p - q for q in others), start=Fraction(1))
        of_input.append([*_coefficients(others), Fraction(0)])
        of_window.append([scale * p**k for k in range(window)])
        of_cotangent.append([p**k for k in range(outputs)])
    of_input.append(_coefficients(points))
    of_window.append([Fraction(k == window - 1) for k in range(window)])
    of_cotangent.append([Fraction(k == outputs - 1) for k in range(outputs)])
    return Form(outputs, extent, _numbers(of_input), _numbers(of_window), _numbers(of_cotangent))


def _coefficients(roots: list[Fraction] | tuple[Fraction, ...]) -> list[Fraction]:
    """Of prod(x - q), from the lowest power."""
    found = [Fraction(1)]
    for q in roots:
        found = [above - q * here for above, here in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return found


def _numbers(rows: list[list[Fraction]]) -> Matrix:
    return tuple(tuple(map(float, row)) for row in rows)


def turned(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


# Points near 1 in size keep the powers near 1, and with them the rounding errors: of a 3x3 convolution of 64 channels in float32, in millionths of
# the largest value, 0 +-1 +-2 leaves 5.6, 0 +-1 +-1/2 4.4, and 0 +-5/8 +-3/2, the best of all eighths, 1.2.
F2 = form(2, 3, (Fraction(0), Fraction(1), Fraction(-1)))
F4 = form(4, 3, (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)))
