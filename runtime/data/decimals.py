"""Decimal numbers written in bytes to the nearest float64, a whole column at once: the very bits that float(text) gives.

Digits are read eight at a time. A little-endian word holds eight characters, the first in its lowest byte; masked to the digits
that belong to the number, three multiplications join pairs, fours and eights of them. A number of up to eight characters is one
word, in which the digits before the point move up by a byte, over the point. In longer numbers the digits before and after the
point are read apart, and make one integer m of at most 19 digits, so that the number is m * 10^q.

Where m <= 2^53 and |q| <= 22, m and 10^|q| are both exact as float64, and one multiplication or division rounds correctly.
Elsewhere m, shifted so that its highest bit is bit 63, is multiplied by the highest 64 bits of 5^q. The product is too small by
less than 2^64, so its upper word is right or one too small. Its highest 54 bits are a significand and the bit that rounds it. The
rounding is certain unless that bit is 1 and those below are 0, where the number may lie exactly between two floats, or that bit is 0
and those below are 1, where the error could carry into it. (Source: Lemire 2021, arXiv:2101.11408.)

What is uncertain, or not written as [+-]digits[.digits][e+-dd], is left to float(): a few numbers in a thousand.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

PADDING = 64  # bytes before and after the text that may be looked at
MOST_DIGITS = 19  # a uint64 holds them
_LOOKED_AT = 100  # numbers of a column that tell how long the others may be
_LARGEST = 250  # of |q|: neither subnormal nor infinite


def _word(byte: int) -> np.uint64:
    return np.uint64(int.from_bytes([byte] * 8))


_LAST = np.array([(1 << 64) - (1 << (64 - 8 * n)) for n in range(9)], np.uint64)  # the last n bytes of a word
_TENS = np.array([10**n for n in range(MOST_DIGITS + 1)], np.uint64)
_EXACT = np.array([float(10**n) for n in range(23)])
_FRACTION = np.array([*(float(10 ** (7 - byte)) for byte in range(8)), 1.0])  # by the byte of the point; the last, to which -127 wraps, for none
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
    short = len(starts) and int((ends[:_LOOKED_AT] - starts[:_LOOKED_AT]).sum()) <= 8 * len(starts[:_LOOKED_AT])
    values, sure = _of_one_word(text, starts, ends) if short else _without_exponent(text, starts, ends, None)
    if short and not sure.all():
        rest = np.flatnonzero(~sure)
        values[rest], sure[rest] = _without_exponent(text, starts[rest], ends[rest], None)
    if not sure.all():
        rest = np.flatnonzero(~sure)
        starts, ends = starts[rest], ends[rest]
        written, exponents = _exponents(text, starts, ends)
        if written.any():
            values[rest], sure[rest] = _without_exponent(text, starts, ends - 4 * written, exponents)
    return values, sure


def _of_one_word(text: Array, starts: Array, ends: Array) -> tuple[Array, Array]:
    """The numbers [-]digits[.digits] of up to eight characters beside the sign, and which are that."""
    words = words_of(text)
    word, lengths = words[starts], ends - starts
    negative = (word & np.uint64(0xFF)) == ord("-")
    if negative.any():
        lengths -= negative
        word = words[starts + negative]
    word ^= _word(ord("0"))
    word <<= ((8 - lengths) * 8).view(np.uint64)
    point = _lowest(word, ord(".") ^ ord("0"))
    pointed = point.any()
    if pointed:
        word -= point * np.uint64(ord(".") ^ ord("0"))
        before = point - np.minimum(point, np.uint64(1))
        before &= word
        word -= before
        before <<= np.uint64(8)
        word += before
    wrong = word + _word(0x76)
    wrong |= word
    wrong &= _word(0x80)
    sure = wrong == 0
    if lengths.max(initial=0) > 8:
        sure &= lengths <= 8
    if lengths.min(initial=2) < 2:
        sure &= lengths.view(np.uint64) > np.minimum(point, np.uint64(1))
    _join(word)
    values = word.astype(np.float64)
    if pointed:
        values /= float(_FRACTION[_byte_of(point[:1])[0]]) if (point == point[0]).all() else _FRACTION.take(_byte_of(point), mode="wrap")
    values.view(np.uint64)[...] |= negative.astype(np.uint64) << np.uint64(63)
    return values, sure


def _without_exponent(text: Array, starts: Array, ends: Array, exponents: Array | None) -> tuple[Array, Array]:
    """The numbers whose digits end at `ends`, times ten to the `exponents`."""
    words = words_of(text)
    first = text[starts]
    signed = (first == ord("-")) | (first == ord("+"))
    if signed.any():
        starts = starts + signed
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
    values = mantissa.astype(np.float64)
    if exponents is not None:
        plain = mantissa <= 2**53
        if exponents.min(initial=0) < 0:
            values /= _EXACT.take(-exponents, mode="clip")
        if exponents.max(initial=0) > 0:
            values *= _EXACT.take(exponents, mode="clip")
        plain &= (exponents >= -22) & (exponents <= 22)
    elif len(mantissa) and mantissa.max() > 2**53:
        plain, exponents = mantissa <= 2**53, np.zeros(len(values), np.int64)
    else:
        plain = sure
    if plain is not sure:
        rest = np.flatnonzero(sure & ~plain)
        if len(rest):
            assert exponents is not None
            values[rest], sure[rest] = _nearest(mantissa[rest], exponents[rest])
    np.negative(values, out=values, where=first == ord("-"))
    return values, sure


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


def _nearest(mantissa: Array, exponents: Array) -> tuple[Array, Array]:
    """The floats nearest to mantissa * 10^exponent, and which of them are certain."""
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
