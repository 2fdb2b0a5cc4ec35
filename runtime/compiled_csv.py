"""Reading a csv file by compiled code: where its cells end, and decimal numbers as the nearest float64.

Cells are found by comparing 64 bytes at once, which gives 64 bits. Digits are read eight at a time, as in data/decimals.py. What they write is
m * 10^q, with m of at most 19 digits. Where m <= 2^53 and |q| <= 22, both are exact, and one multiplication or division rounds correctly.
Elsewhere m is multiplied by the highest 128 bits of 5^q: that these always suffice was proven by Mushtak and Lemire (2023, arXiv:2212.06644); the
rounding is Lemire's (2021, arXiv:2101.11408). Of a number with more digits the first 19 decide, if what follows makes no difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .addresses import compiled, float64_at, int64_at, integers, intrinsic, types, uint8_at, uint64_at

u64: Any = np.uint64
i64: Any = np.int64
Word = Any  # uint64; those that come from it may not meet int64, for both together are a float
_ONES = u64(0x0101010101010101)
_ZEROS = _ONES * u64(ord("0"))
_TO_TOP = _ONES * u64(0x76)  # 10 + 0x76 reaches the highest bit of a byte
_HIGH = _ONES * u64(0x80)
_POINT = _ONES * u64(ord(".") ^ ord("0"))
_POINT_BYTE = u64(ord(".") ^ ord("0"))
MOST_DIGITS = 19  # a uint64 holds them
LEAST, MOST = -342, 308  # of q, where a number is neither 0 nor infinite
TENS = 2 * (MOST - LEAST + 1)  # where powers of ten stand in the table: floats, then integers
_EXACT = 22  # powers of ten that are floats


@intrinsic
def _word(context: Any, address: Any) -> Any:
    """The eight bytes at any address."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        from llvmlite import ir

        return builder.load(builder.inttoptr(given[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.int64), made


def _compared(operator: str) -> Any:
    @intrinsic
    def compared(context: Any, address: Any, byte: Any) -> Any:
        def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            from llvmlite import ir

            shape = ir.VectorType(ir.IntType(8), 64)
            block = builder.load(builder.inttoptr(given[0], shape.as_pointer()), align=1)
            undefined = ir.Constant(shape, ir.Undefined)
            one = builder.insert_element(undefined, builder.trunc(given[1], ir.IntType(8)), ir.Constant(ir.IntType(32), 0))
            every = builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64))
            return builder.bitcast(builder.icmp_signed(operator, block, every), ir.IntType(64))

        return types.uint64(types.int64, types.int64), made

    return compared


_equal = _compared("==")  # which of 64 bytes are a byte
_below = _compared("<")


@intrinsic
def _high_product(context: Any, a: Any, b: Any) -> Any:
    """The upper half of a product."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        from llvmlite import ir

        wide = ir.IntType(128)
        whole = builder.mul(builder.zext(given[0], wide), builder.zext(given[1], wide))
        return builder.trunc(builder.lshr(whole, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), made


def _counting(name: str) -> Any:
    @intrinsic
    def counted(context: Any, word: Any) -> Any:
        def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            from llvmlite import ir

            return builder.ctpop(given[0]) if name == "ctpop" else getattr(builder, name)(given[0], ir.Constant(ir.IntType(1), 0))

        return types.int64(types.uint64), made

    return counted


_ones, _trailing, _leading = _counting("ctpop"), _counting("cttz"), _counting("ctlz")


@compiled()
def _first(count: int) -> Word:
    """The lowest bits of a word, at most all of them."""
    return ~u64(0) if count >= 64 else (u64(1) << u64(count)) - u64(1)


@integers(4)
def count(text: int, begin: int, stop: int, byte: int) -> int:
    """How often a byte occurs. Up to 63 bytes behind `stop` are looked at."""
    found = 0
    for at in range(begin, stop, 64):
        found += _ones(_equal(text + at, byte) & _first(stop - at))
    return found


@integers(8)
def ends(text: int, begin: int, stop: int, separator: int, columns: int, rows: int, out: int, about: int) -> int:
    """Where cells end, out [columns, rows], and in `about` whether all is ASCII and whether there are carriage returns.

    1; but 0 if there are quotes or zeros, or a line has not as many cells as there are columns.
    """
    odd, returns, wide = u64(0), u64(0), u64(0)
    to, column, row, last = int64_at(out), 0, 0, columns - 1
    for at in range(begin, stop, 64):
        here, inside = text + at, _first(stop - at)
        lines = _equal(here, 10) & inside
        odd |= (_equal(here, 34) | _equal(here, 0)) & inside
        returns |= _equal(here, 13) & inside
        wide |= _below(here, 0) & inside
        marks = (_equal(here, separator) & inside) | lines
        while marks != u64(0):
            place = _trailing(marks)
            newline = i64((lines >> u64(place)) & u64(1))
            if newline != i64(column == last) or row == rows:
                return 0
            to[column * rows + row] = at + place
            column = column + 1 - newline * columns
            row += newline
            marks &= marks - u64(1)
    told = int64_at(about)
    told[0], told[1] = wide == u64(0), returns != u64(0)
    return 1 if odd == u64(0) and row == rows and column == 0 else 0


@compiled()
def _joined(eight: Word) -> Word:
    """A word of eight digits becomes the integer that they write."""
    eight = (eight & u64(0x0F0F0F0F0F0F0F0F)) * u64(2561) >> u64(8)
    eight = (eight & u64(0x00FF00FF00FF00FF)) * u64(6553601) >> u64(16)
    return (eight & u64(0x0000FFFF0000FFFF)) * u64(42949672960001) >> u64(32)


@compiled()
def _not_digits(word: Word) -> Word:
    return ((word + _TO_TOP) | word) & _HIGH


@compiled()
def _points(word: Word) -> Word:
    """The lowest bit of the first byte of a word that was a point before `^ _ZEROS`; 0 where none was."""
    other = word ^ _POINT
    found = (other - _ONES) & ~other & _HIGH
    return (found & (u64(0) - found)) >> u64(7)


@compiled()
def _from_end(end: int, length: int, tens: int) -> tuple[Word, int, Word]:
    """The digits of a number of 9 to 24 characters without its point, how many of them stand behind that, and what is not 0 if it is no such number.

    As in data/decimals.py the point counts as a digit 0 first. All lengths go one way, for a branch that is not foreseen takes as long as the rest.
    """
    last, middle, first = _word(end - 8) ^ _ZEROS, _word(end - 16) ^ _ZEROS, _word(end - 24) ^ _ZEROS
    spare = u64(8 * max(16 - length, 0))
    middle = middle >> spare << spare
    half = u64(4 * min(24 - length, 8))  # 64 places at once are not defined
    first = first >> half >> half << half << half
    odd_last, odd_middle, odd_first = _not_digits(last) >> u64(7), _not_digits(middle) >> u64(7), _not_digits(first) >> u64(7)
    point = odd_last | odd_middle << u64(1) | odd_first << u64(2)
    beyond = _joined(first ^ odd_first * _POINT_BYTE)
    whole = _joined(last ^ odd_last * _POINT_BYTE) + _joined(middle ^ odd_middle * _POINT_BYTE) * u64(10**8) + beyond * u64(10**16)
    wrong = (point & (point - u64(1))) | u64(beyond >= u64(1000))  # 19 digits
    if point == u64(0):
        return whole, 0, wrong
    place = _trailing(point)
    behind = 7 - (place >> 3) + 8 * (place & 7)
    wrong |= u64(uint8_at(end - 1 - behind)[0] ^ 46) | u64(behind > MOST_DIGITS - 1)
    powers = uint64_at(tens)
    behind = min(behind, MOST_DIGITS - 1)
    return whole - whole // powers[behind + 1] * (powers[behind] * u64(9)), behind, wrong


@compiled()
def _nearest(m: Word, q: int, powers: int) -> Word:
    """The bits of the float64 nearest to m * 10^q; m is not 0."""
    tens = float64_at(powers + 8 * TENS)
    if m <= u64(1 << 53) and -_EXACT <= q <= _EXACT:
        value = np.float64(i64(m))
        return _bits(value / tens[-q] if q < 0 else value * tens[q])
    if q < LEAST:
        return u64(0)
    if q > MOST:
        return u64(0x7FF0000000000000)
    table, place = uint64_at(powers), 2 * (q - LEAST)
    zeros = _leading(m)
    w = m << u64(zeros)
    high, low = _high_product(w, table[place]), w * table[place]
    if high & u64(0x1FF) == u64(0x1FF):
        more = _high_product(w, table[place + 1])
        low += more
        if low < more:
            high += u64(1)
    top = i64(high >> u64(63))
    shift = u64(top + 9)
    significand = high >> shift
    exponent = ((217706 * q) >> 16) + 63 + top - zeros + 1023  # 217706 / 2^16 is log2(10)
    if exponent <= 0:
        if exponent < -62:
            return u64(0)
        significand >>= u64(1 - exponent)
        return (significand + (significand & u64(1))) >> u64(1)
    if low <= u64(1) and -4 <= q <= 23 and significand & u64(3) == u64(1) and significand << shift == high:
        significand -= u64(1)  # exactly between two floats: to the even one
    significand = (significand + (significand & u64(1))) >> u64(1)
    bits = (u64(exponent - 1) << u64(52)) + significand  # the highest bit of the significand adds 1 to the exponent
    return min(bits, u64(0x7FF0000000000000))


@intrinsic
def _bits(context: Any, value: Any) -> Any:
    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        from llvmlite import ir

        return builder.bitcast(given[0], ir.IntType(64))

    return types.uint64(types.float64), made


@compiled()
def _any(text: int, at: int, end: int, powers: int) -> tuple[Word, int]:
    """The bits of digits[.digits][e[+-]digits] of any length, and whether it is such a number and certain."""
    m, q, held, seen, point, dropped = u64(0), 0, 0, 0, 0, u64(0)
    bytes = uint8_at(text)
    while at < end:
        byte = i64(bytes[at])
        if 48 <= byte <= 57:
            seen += 1
            if held < MOST_DIGITS:
                m = m * u64(10) + u64(byte - 48)
                held += i64(m != u64(0))
                q -= point
            else:
                dropped |= u64(byte - 48)
                q += 1 - point
        elif byte == 46 and point == 0:
            point = 1
        else:
            break
        at += 1
    if seen == 0:
        return u64(0), 0
    if at < end:
        if bytes[at] | 0x20 != 101:
            return u64(0), 0
        at += 1
        sign = 1
        if at < end and (bytes[at] == 43 or bytes[at] == 45):
            sign = 44 - i64(bytes[at])
            at += 1
        if at == end or end - at > 8:
            return u64(0), 0
        power = 0
        while at < end:
            if bytes[at] < 48 or bytes[at] > 57:
                return u64(0), 0
            power = 10 * power + i64(bytes[at]) - 48
            at += 1
        q += sign * power
    if m == u64(0):
        return u64(0), 1
    found = _nearest(m, q, powers)
    return found, i64(dropped == u64(0) or found == _nearest(m + u64(1), q, powers))


@compiled()
def _number(text: int, start: int, end: int, powers: int) -> tuple[Word, int]:
    """The bits of the number in a cell, and whether it is one and certain."""
    bytes = uint8_at(text)
    while start < end and (bytes[start] == 32 or bytes[start] == 9):
        start += 1
    while start < end and (bytes[end - 1] == 32 or bytes[end - 1] == 9):
        end -= 1
    first = i64(bytes[start])
    sign = u64(first == 45) << u64(63)
    start += i64(first == 45 or first == 43)
    length = end - start
    if length <= 0:
        return u64(0), 0
    tens = float64_at(powers + 8 * TENS)
    integers = powers + 8 * (TENS + _EXACT + 1)
    if length <= 8:
        # The digits before a point move up by a byte, over it.
        word = (_word(text + start) ^ _ZEROS) << u64(8 * (8 - length))
        point = _points(word)
        if point != u64(0):
            word -= point * _POINT_BYTE
            before = (point - u64(1)) & word
            word = word - before + (before << u64(8))
        if _not_digits(word) == u64(0) and (length > 1 or point == u64(0)):
            value = np.float64(i64(_joined(word)))
            if point != u64(0):
                value /= tens[7 - (_trailing(point) >> 3)]
            return _bits(value) | sign, 1
    elif length <= 24:
        m, behind, wrong = _from_end(text + end, length, integers)
        if wrong == u64(0):
            return (_nearest(m, -behind, powers) if m != u64(0) else u64(0)) | sign, 1
    found, sure = _any(text, start, end, powers)
    return found | sign, sure


@integers(7)
def numbers(text: int, starts: int, ends: int, size: int, powers: int, out: int, sure: int) -> int:
    """The numbers of cells, and which of them are certain; how many are not. Up to 64 bytes before and behind a cell are looked at."""
    begin, end, to, flags = int64_at(starts), int64_at(ends), uint64_at(out), uint8_at(sure)
    uncertain = 0
    for i in range(size):
        bits, known = _number(text, begin[i], end[i], powers)
        to[i], flags[i] = bits, known
        uncertain += 1 - known
    return uncertain
