"""Two ways to find the cells of a csv file and to read their numbers, with the same results: NumPy's, and compiled code of compiled_csv.py.

A way has `ends`, where the cells of some whole lines end, and `numbers`, what they are as float64 and whether that is certain. Both take text as uint8
that is padded by PADDING bytes on both sides, and may be called from several threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from nnc.runtime import engine
from nnc.runtime.machine_code import Codes

from .decimals import PADDING, parse

Array = np.ndarray[Any, Any]
codes = Codes("compiled_csv")

# Bytes of a file from which on compiled code is used: loading it takes 10 ms, which it saves in 10 MB; compiling it takes 3 s once, which it saves in ten
# readings of 200 MB. In between it is used where it is kept already.
WORTH_LOADING = 10_000_000
WORTH_COMPILING = 200_000_000


@dataclass(frozen=True)
class Ends:
    """Where cells end, [columns, rows]."""

    places: Array
    ascii: bool
    returns: bool  # whether there are carriage returns


class Way(Protocol):
    def ends(self, text: Array, begin: int, stop: int, separator: int, columns: int) -> Ends | None:
        """The cells of whole lines; None if these hold quotes or zeros, or have not as many cells as there are columns."""

    def numbers(self, text: Array, starts: Array, ends: Array) -> tuple[Array, Array]:
        """The numbers of cells, and which of them are certain."""


def way(size: int) -> Way:
    """The faster one for a file of so many bytes."""
    if size < WORTH_LOADING or not engine.compiles_beside_steps():
        return ByNumPy()
    return compiled() if size >= WORTH_COMPILING or all(code.kept for code in (codes.count, codes.ends, codes.numbers)) else ByNumPy()


class ByNumPy:
    def ends(self, text: Array, begin: int, stop: int, separator: int, columns: int) -> Ends | None:
        block = text[begin:stop]
        data = block.tobytes()
        if b'"' in data or b"\0" in data:
            return None
        newlines = block == ord("\n")
        rows = int(np.count_nonzero(newlines))
        marks = np.flatnonzero((block == separator) | newlines)
        if len(marks) != rows * columns:
            return None
        places = np.ascontiguousarray(marks.reshape(rows, columns).T)
        if not newlines[places[-1]].all():
            return None
        places += begin
        return Ends(places, data.isascii(), b"\r" in data)

    def numbers(self, text: Array, starts: Array, ends: Array) -> tuple[Array, Array]:
        return parse(text, starts, ends)


class Compiled:
    def __init__(self) -> None:
        self._count, self._ends, self._numbers = codes.count.callable(4), codes.ends.callable(8), codes.numbers.callable(7)
        self._powers = _powers()

    def ends(self, text: Array, begin: int, stop: int, separator: int, columns: int) -> Ends | None:
        assert stop + PADDING <= len(text)
        rows = self._count(text.ctypes.data, begin, stop, ord("\n"))
        if rows * columns > stop - begin:
            return None
        places, about = np.empty((columns, rows), np.int64), np.empty(2, np.int64)
        regular = self._ends(text.ctypes.data, begin, stop, separator, columns, rows, places.ctypes.data, about.ctypes.data)
        return Ends(places, bool(about[0]), bool(about[1])) if regular else None

    def numbers(self, text: Array, starts: Array, ends: Array) -> tuple[Array, Array]:
        starts, ends = np.ascontiguousarray(starts), np.ascontiguousarray(ends)
        assert starts.dtype == ends.dtype == np.int64
        values, sure = np.empty(len(ends)), np.empty(len(ends), bool)
        addresses = [array.ctypes.data for array in (text, starts, ends, self._powers, values, sure)]
        self._numbers(*addresses[:3], len(ends), *addresses[3:])
        return values, sure


@cache
def compiled() -> Compiled:
    return Compiled()


def _powers() -> Array:
    """What the compiled code looks up: the highest 128 bits of 5^q in two words, powers of ten as floats, and as integers.

    5^q is rounded down, but up for q from -27 to -1, where a quotient may be exact: so has it the proof that 128 bits suffice.
    """
    fives: list[int] = []
    for q in range(-342, 309):
        power = 5 ** abs(q)
        bits = power.bit_length()
        whole = power << 128 >> bits if q >= 0 else (1 << bits + 127) // power + (q >= -27)
        fives += [whole >> 64, whole & (1 << 64) - 1]
    floats = np.array([float(10**n) for n in range(23)]).view(np.uint64)
    return np.concatenate([np.array(fives, np.uint64), floats, np.array([10**n for n in range(20)], np.uint64)])
