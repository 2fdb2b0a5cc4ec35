"""Functions that NumPy lacks: the logistic function, and the error function.

erfc(x) e^(x^2) (1 + 2x) is smooth on [0, inf); with t = (x - 3) / (x + 3) it is a Chebyshev series on [-1, 1], whose coefficients were
computed with 50 digits. 26 terms give float64, 14 float32; erf(-x) = -erf(x).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_CENTRE = 3.0
_COEFFICIENTS = (
    1.17756257419656005,
    0.00535390453961567677,
    -0.0937755034228420905,
    0.0543665255574432205,
    -0.0189765967078452074,
    0.00445342606146271157,
    -0.000633553171055314694,
    0.0000176617195231715919,
    0.0000128415328640566707,
    -2.00722856590599144e-6,
    -1.8075227904148371e-7,
    7.54982834382509283e-8,
    1.88566852383860279e-9,
    -2.699519049798364e-9,
    -1.46007911993910494e-11,
    1.03616074459694897e-10,
    1.47571597662347301e-12,
    -4.27734006439691082e-12,
    -2.07922492859798998e-13,
    1.81345020031769624e-13,
    1.97342557454473883e-14,
    -7.28794373759267316e-15,
    -1.51698786902281157e-15,
    2.35141122587814035e-16,
    1.00061116918216676e-16,
    -2.05725281695385462e-18,
)


def erf(x: Array, out: Array) -> None:
    """2 / sqrt(pi) * integral of e^(-u^2) from 0 to x; the absolute error is at most three units in the last place of 1."""
    size = np.minimum(np.abs(x), 10)  # where erf is 1 in float64; infinities stay out of the quotient
    t = 2 * (size - _CENTRE) / (size + _CENTRE)
    terms = _COEFFICIENTS if x.dtype == np.float64 else _COEFFICIENTS[:14]
    last = before = np.zeros_like(size)
    for c in reversed(terms[1:]):  # Clenshaw's recurrence
        last, before = c + t * last - before, last
    series = terms[0] + t / 2 * last - before
    np.exp(-size * size, out)
    np.copysign(1 - out * series / (1 + 2 * size), x, out)


def sigmoid(x: Array, out: Array) -> None:
    """1 / (1 + e^-x): an overflow of e^-x gives the right limit, 0."""
    np.negative(x, out)
    np.exp(out, out)
    np.add(out, 1.0, out)
    np.reciprocal(out, out)
