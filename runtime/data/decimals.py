"""Decimal numbers written in bytes to the nearest float64, many at once: the very bits that float(text) gives.

Digits are read eight at a time. A little-endian word holds eight characters, the first in its lowest byte; masked to the digits
that belong to the number, three multiplications join pairs, fours and eights of them. Most cells are read as the one, two or three words that
end where they end: the point counts as a digit 0 there, with f digits behind it, and the integer a that they write is
w 10^(f+1) + r. The number is m 10^-f with m = w 10^f + r = a - 9 w 10^f. In what is left over, the digits before and after the point are read
apart, and an exponent may follow.

Where m <= 2^53 and |q| <= 22, m and 10^|q| are both exact as float64, and one multiplication or division of m * 10^q rounds correctly. Where a < 2^52,
w is found by float64 as well: a quotient of such numbers that lies below an integer does so by more than rounding moves it.
Elsewhere, floats of 64 bits (x87) hold m and 10^|q| up to 10^27 exactly, and one operation rounds to 64 bits. Rounded again to 53 that is the nearest
float64, unless it lies exactly between two of them: which side the number was on is forgotten.
On processors without, m, shifted so that its highest bit is bit 63, is multiplied by the highest 64 bits of 5^q. The product is too small by
less than 2^64, so its upper word is right or one too small. Its highest 54 bits are a significand and the bit that rounds it. The
rounding is certain unless that bit is 1 and those below are 0, where the number may lie exactly between two floats, or that bit is 0
and those below are 1, where the error could carry into it. (Source: Lemire 2021, arXiv:2101.11408.)

What is uncertain, or not written as [+-]digits[.digits][e+-dd], is left to float(): a few numbers in a thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

PADDING = 64  # bytes before and after the text that may be looked at
MOST_DIGITS = 19  # a uint64 holds them
_FEW = 16  # that float() has read sooner than they are looked at again
_LARGEST = 250  # of |q|: neither subnormal nor infinite


def _word(byte: int) -> np.uint64:
    return np.uint64(int.from_bytes([byte] * 8))


_LAST = np.array([(1 << 64) - (1 << (64 - 8 * n)) for n in range(9)], np.uint64)  # the last n bytes of a word
_TENS = np.array([10**n for n in range(MOST_DIGITS + 1)], np.uint64)
_EXACT = np.array([float(10**n) for n in range(23)])
_WIDE_TENS = np.cumprod(np.array([1, *[10] * 27], np.longdouble))  # exact in 64 bits
_LOW = np.uint64((1 << 32) - 1)
_JOIN = (  # which parts hold digits, what joins two of them, how far the result stands up
    (_word(0x0F), np.uint64(10 * 2**8 + 1), np.uint64(8)),
    (np.uint64(0x00FF00FF00FF00FF), np.uint64(100 * 2**16 + 1), np.uint64(16)),
    (np.uint64(0x0000FFFF0000FFFF), np.uint64(10000 * 2**32 + 1), np.uint64(32)),
)


def words_of(text: Array) -> Array:
    """The eight bytes from each position on, as little-endian words: a view."""
    return np.ndarray((len(text) - 7,), "<u8", buffer=text.data, strides=(1,))


def _join(eight: Array) -> None:
    """Words of eight digits become the integers that these write."""
    for part, factor, up in _JOIN:
        eight &= part
        eight *= factor
        eight >>= up


def _digits(words: Array, ends: Array, lengths: Array, sure: Array) -> Array:
    """The integers whose last digits stand before `ends`; `sure` becomes false where there is something else than digits."""
    value = np.zeros(len(ends), np.uint64)
    wrong = np.zeros(len(ends), np.uint64)
    longest, shortest = int(lengths.max(initial=0)), int(lengths.min(initial=0))
    for done in range(0, longest, 8):
        eight = words[ends - (8 + done)]
        eight ^= _word(ord("0"))
        if shortest < done + 8:
            held = lengths - done
            eight &= _LAST.take(held, mode="clip")
        wrong |= eight + _word(0x76)  # 10 + 0x76 reaches the highest bit of a byte
        wrong |= eight
        _join(eight)
        if done:
            eight *= _TENS[done]
        value += eight
    wrong &= _word(0x80)
    sure &= wrong == 0
    return value


def _lowest(words: Array, byte: int) -> Array:
    """The lowest bit of the first byte of each word that is `byte`; 0 where none is."""
    other = words ^ _word(byte)
    found = other - _word(1)  # takes the highest bit from a byte that is 0; from those above it perhaps as well
    found &= _word(0x80)
    np.invert(other, other)
    found &= other
    found &= np.negative(found, other)
    found >>= np.uint64(7)
    return found


def _byte_of(bits: Array) -> Array:
    """Which byte of a word each single bit begins; -127 for no bit."""
    return (bits.astype(np.float64).view(np.int64) >> 55) - 127  # a float's exponent: 1023 = 127 * 8 + 7, and 8 more for a byte


def _points(words: Array, starts: Array, ends: Array) -> Array:
    """Where the decimal points stand; the very `ends` where none is found."""
    points = ends
    for done in (0, 8, 16):
        place = _byte_of(_lowest(words[starts + done], ord(".")))
        here = starts + done + place
        found = (place >= 0) & (here < ends)
        found &= points == ends
        if found.any():
            points = np.where(found, here, points)
        if not ((points == ends) & (ends - starts > done + 8)).any():
            break
    return points


def parse(text: Array, starts: Array, ends: Array) -> tuple[Array, Array]:
    """The numbers between `starts` and `ends`, and which of them are certain. The text is uint8, padded by PADDING bytes on both sides."""
    first = text.take(starts)
    negative = first == ord("-")
    lengths = ends - starts
    lengths -= negative | (first == ord("+"))
    words = next((words for words in (1, 2) if 8 * np.count_nonzero(lengths > 8 * words) <= len(ends)), 3)
    values, sure = _of_words(text, ends, lengths, words)
    if not sure.all():
        rest = np.flatnonzero(~sure & (lengths > 0))
        if len(rest) > _FEW:
            values[rest], sure[rest] = _left_over(text, ends[rest], lengths[rest])
    if negative.any():
        values.view(np.uint64)[...] |= negative.astype(np.uint64) << np.uint64(63)
    return values, sure


# By the exponent of the float64 that a single bit is, 8 b + t in the binary of it: the point is byte b of the word before t others. First for no point.
def _by_point(of: Callable[[int], int], none: int) -> Array:
    table = np.full(1024 + 64, none, np.uint64)
    for behind in range(24):
        table[1023 + 8 * (7 - behind % 8) + behind // 8] = of(behind) % 2**64
    return table


_BEHIND = _by_point(lambda behind: behind, 0)
_BEFORE_POINT = _by_point(lambda behind: min(10 ** (behind + 1), 2**64 - 1), 1)
_NINES = _by_point(lambda behind: 9 * 10**behind, 0)
_UNITS = _by_point(lambda behind: min(10**behind, 2**63), 1).astype(np.float64)
_WHOLE = 2**52


def _of_words(text: Array, ends: Array, lengths: Array, words: int) -> tuple[Array, Array]:
    """The numbers digits[.digits] of `lengths` characters before `ends`, no more than so many words hold, and which are that."""
    width = 8 * words
    held = np.ndarray((len(text) - width + 1,), f"V{width}", buffer=text.data, strides=(1,))[ends - width].view("<u8").reshape(-1, words)
    shortest = int(lengths.min(initial=width))
    sure = lengths <= width
    eight = np.ascontiguousarray(held.T)  # all words go through each call together: calls are few and long
    eight ^= _word(ord("0"))
    for place in range(words):
        behind = words - 1 - place  # words
        if shortest < 8 * (behind + 1):
            eight[place] &= _LAST.take(lengths - 8 * behind, mode="clip")
    odd = eight + _word(0x76)  # 10 + 0x76 reaches the highest bit of a byte
    odd |= eight
    odd &= _word(0x80)
    odd >>= np.uint64(7)
    eight ^= odd * np.uint64(ord(".") ^ ord("0"))
    _join(eight)
    if words == 3:
        sure &= eight[0] < 1000  # 19 digits
    whole, point = eight[0], odd[0]
    for place in range(1, words):
        whole *= np.uint64(10**8)
        whole += eight[place]
        point <<= np.uint64(1)
        point |= odd[place]
    if not point.any():
        if shortest < 1:
            sure &= lengths > 0
        return _scaled(whole, None, sure), sure
    sure &= (point & (point - np.uint64(1))) == 0
    which = point.astype(np.float64).view(np.int64)
    which >>= 52
    if (which == which[0]).all():
        which = which[:1]
    pointed, fraction = point != 0, _BEHIND.take(which).view(np.int64)
    sure &= (text.take(ends - 1 - fraction) == ord(".")) == pointed
    if shortest < 2:
        sure &= lengths > pointed
    if words < 3 and whole.max() < _WHOLE:
        return _pointed(whole.astype(np.float64), _UNITS.take(which), None if pointed.all() else pointed), sure
    before = whole // _BEFORE_POINT.take(which)
    before *= _NINES.take(which)
    whole -= before
    return _scaled(whole, -fraction, sure), sure


def _pointed(values: Array, units: Array, pointed: Array | None) -> Array:
    """m 10^-f from the values a, below _WHOLE, and the units 10^f; a itself where there is no point."""
    before = values / (10 * units)
    np.trunc(before, before)
    before *= units
    before *= 9
    if pointed is not None:
        before *= pointed
    values -= before
    values /= units
    return values


def _scaled(mantissa: Array, exponents: Array | None, sure: Array) -> Array:
    """mantissa * 10^exponents; `sure` becomes false where it is uncertain."""
    powers = np.zeros(1, np.int64) if exponents is None else exponents
    low, high = int(powers.min(initial=0)), int(powers.max(initial=0))
    if mantissa.max(initial=0) <= 2**53 and low >= -22 and high <= 22:
        return _exact(mantissa, powers, low, high)
    plain = mantissa <= 2**53
    plain &= np.abs(powers) <= 22
    if _wide() and 2 * np.count_nonzero(plain) < len(plain):
        values, certain = _nearest(mantissa, powers)
        sure &= certain
        return values
    values = _exact(mantissa, powers, low, high)
    rest = np.flatnonzero(sure & ~plain)
    values[rest], sure[rest] = _nearest(mantissa[rest], powers if len(powers) == 1 else powers[rest])
    return values


def _exact(mantissa: Array, exponents: Array, low: int, high: int) -> Array:
    """What one operation gives that rounds, where both sides of it are exact; `low` and `high` bound the exponents."""
    values = mantissa.astype(np.float64)
    if low < 0:
        values /= _EXACT.take(-exponents, mode="clip")
    if high > 0:
        values *= _EXACT.take(exponents, mode="clip")
    return values


def _left_over(text: Array, ends: Array, lengths: Array) -> tuple[Array, Array]:
    """Numbers of up to 19 digits, perhaps with exponents."""
    starts = ends - lengths
    values, sure = _without_exponent(text, starts, ends, None)
    if not sure.all():
        rest = np.flatnonzero(~sure)
        starts, ends = starts[rest], ends[rest]
        written, exponents = _exponents(text, starts, ends)
        if written.any():
            values[rest], sure[rest] = _without_exponent(text, starts, ends - 4 * written, exponents)
    return values, sure


def _without_exponent(text: Array, starts: Array, ends: Array, exponents: Array | None) -> tuple[Array, Array]:
    """The numbers whose digits end at `ends`, times ten to the `exponents`."""
    words = words_of(text)
    points = _points(words, starts, ends)
    whole, sure = points - starts, np.ones(len(starts), bool)
    if points is ends:
        sure &= (whole > 0) & (whole <= MOST_DIGITS)
        mantissa = _digits(words, ends, np.where(sure, whole, 0), sure)
    else:
        fraction = ends - points
        fraction -= fraction > 0
        count = whole + fraction
        sure &= (count > 0) & (count <= MOST_DIGITS)
        if not sure.all():
            whole, fraction = np.where(sure, whole, 0), np.where(sure, fraction, 0)
        mantissa = _digits(words, points, whole, sure)
        mantissa *= _TENS.take(fraction)
        mantissa += _digits(words, ends, fraction, sure)
        exponents = -fraction if exponents is None else exponents - fraction
    return _scaled(mantissa, exponents, sure), sure


def _exponents(text: Array, starts: Array, ends: Array) -> tuple[Array, Array]:
    """Which numbers end with an exponent written as e+dd or e-dd, and the exponents; 0 where there is none."""
    written = ((text[ends - 4] | 0x20) == ord("e")) & (ends - starts > 4)
    sign, tens, ones = (text[ends - place].astype(np.int64) for place in (3, 2, 1))
    tens, ones = tens - ord("0"), ones - ord("0")
    written &= ((sign == ord("+")) | (sign == ord("-"))) & (tens >= 0) & (tens <= 9) & (ones >= 0) & (ones <= 9)
    return written, np.where(written, np.where(sign == ord("-"), -1, 1) * (10 * tens + ones), 0)


@cache
def _fives() -> tuple[Array, Array]:
    """The highest 64 bits of 5^q, and by how many places they were moved up, for q from -_LARGEST to _LARGEST."""
    high, moved = [], []
    for q in range(-_LARGEST, _LARGEST + 1):
        power = 5 ** abs(q)
        place = power.bit_length() + 63 if q < 0 else 64 - power.bit_length()
        high.append((1 << place) // power if q < 0 else power << place if place > 0 else power >> -place)
        moved.append(place)
    return np.array(high, np.uint64), np.array(moved, np.int64)


@cache
def _wide() -> bool:
    """Whether np.longdouble has 64 bits and rounds to them."""
    number = np.longdouble
    return number().itemsize == 16 and np.finfo(number).nmant == 63 and int(number(2**32 + 1) * number(2**32 - 1)) == 2**64 - 1


def _nearest(mantissa: Array, exponents: Array) -> tuple[Array, Array]:
    """The floats nearest to mantissa * 10^exponent, and which of them are certain."""
    low, high = int(exponents.min(initial=0)), int(exponents.max(initial=0))
    if not _wide() or low <= -len(_WIDE_TENS) or high >= len(_WIDE_TENS):
        return _by_product(mantissa, np.broadcast_to(exponents, mantissa.shape))
    wide = mantissa.astype(np.longdouble)
    if low < 0:
        wide /= _WIDE_TENS.take(-exponents, mode="clip")
    if high > 0:
        wide *= _WIDE_TENS.take(exponents, mode="clip")
    return wide.astype(np.float64), (wide.view(np.uint64)[::2] & np.uint64(0x7FF)) != 0x400


def _by_product(mantissa: Array, exponents: Array) -> tuple[Array, Array]:
    """The same by products of 64 bits."""
    certain = (mantissa > 0) & (np.abs(exponents) <= _LARGEST)
    mantissa, place = np.where(certain, mantissa, 1), np.where(certain, exponents, 0) + _LARGEST
    # Without the bit below the highest one, rounding to a float cannot carry: the float's exponent is the place of the highest bit.
    leading = ((mantissa & ~(mantissa >> np.uint64(1))).astype(np.float64).view(np.int64) >> 52) - 1023
    shift = 63 - leading
    a, high = mantissa << shift.astype(np.uint64), _fives()[0][place]
    thirty_two = np.uint64(32)
    a1, a0, b1, b0 = a >> thirty_two, a & _LOW, high >> thirty_two, high & _LOW
    left, right = a1 * b0, a0 * b1
    middle = ((a0 * b0) >> thirty_two) + (left & _LOW) + (right & _LOW)
    upper = a1 * b1 + (left >> thirty_two) + (right >> thirty_two) + (middle >> thirty_two)
    top = upper >> np.uint64(63)
    significand = upper >> (top + np.uint64(9))
    rounds_up, below = significand & np.uint64(1), upper & np.uint64(0x1FF)
    certain &= np.where(rounds_up, below != 0, below != 0x1FF)
    significand = (significand + np.uint64(1)) >> np.uint64(1)
    exponent = 74 + top.astype(np.int64) - shift - _fives()[1][place] + (place - _LARGEST)
    return (((exponent + 1074).astype(np.uint64) << np.uint64(52)) + significand).view(np.float64), certain
