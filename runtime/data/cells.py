"""Two ways to find the cells of a csv file and to read their numbers, with the same results: NumPy's, and compiled code of compiled_csv.py.

A way has `ends`, where the cells of some whole lines end, and `numbers`, what they are as float64 and whether that is certain. Both may be called from
several threads.
"""

from __future__ import annotations

from collections.abc import Sequence
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
_LOOKED_AT = 100  # numbers of a column that tell how long the others may be
_TOGETHER = 1 << 16  # cells that one call of NumPy goes through


@dataclass(frozen=True)
class Ends:
    """Where cells end, [columns, rows]."""

    places: Array
    ascii: bool
    returns: bool  # whether there are carriage returns


@dataclass(frozen=True)
class Cells:
    """Cells of a block that form a table: where those of each column end in the text, uint8 that is padded by PADDING bytes on both sides."""

    text: Array
    begin: int
    ends: Array  # [columns, rows]
    returns: Array | None  # 1 where a carriage return stands before the end of a row
    line: int  # lines before the first
    plain: bool  # whether every byte is a character

    @property
    def rows(self) -> int:
        return len(self.ends[0])

    @property
    def lines(self) -> range:
        return range(self.line + 1, self.line + 1 + self.rows)

    def column(self, place: int) -> tuple[Array, Array]:
        """Where the cells of a column start and end."""
        ends = self.ends[place]
        if place:
            starts = self.ends[place - 1] + 1
        else:
            starts = np.empty_like(ends)
            starts[0] = self.begin
            np.add(self.ends[-1, :-1], 1, starts[1:])
        return starts, ends - self.returns if self.returns is not None and place == len(self.ends) - 1 else ends

    def cell(self, start: int, end: int) -> str:
        return self.text[start:end].tobytes().decode()


class Way(Protocol):
    def ends(self, text: Array, begin: int, stop: int, separator: int, columns: int) -> Ends | None:
        """The cells of whole lines; None if these hold quotes or zeros, or have not as many cells as there are columns."""

    def numbers(self, cells: Cells, places: Sequence[int], out: Sequence[Array]) -> Sequence[Array]:
        """Write the numbers of some columns, and tell for each column which of them are certain."""


def way(size: int) -> Way:
    """The faster one for a file of so many bytes."""
    if size < WORTH_LOADING or not engine.compiles_beside_steps():
        return ByNumPy()
    return compiled() if size >= WORTH_COMPILING or all(code.kept for code in (codes.count, codes.ends, codes.numbers)) else ByNumPy()


@cache
def _keep_memory() -> None:
    """Have glibc's malloc keep what is freed: it gives larger arrays back to the system each time, until one of such a size has been freed."""
    np.empty((1 << 25) - (1 << 16), np.uint8)


class ByNumPy:
    def __init__(self) -> None:
        _keep_memory()

    def ends(self, text: Array, begin: int, stop: int, separator: int, columns: int) -> Ends | None:
        block = text[begin:stop]
        found = block <= ord('"')  # zeros, line ends and quotes; a few others, which are sorted out
        if separator > ord('"'):
            found |= block == separator
        marks = np.flatnonzero(found)
        bytes = block.take(marks)
        newlines = bytes == ord("\n")
        here = (bytes == separator) | newlines
        returns = False
        if not here.all():
            others = bytes[~here]
            if ((others == ord('"')) | (others == 0)).any():
                return None
            returns = bool((others == ord("\r")).any())
            marks, newlines = marks[here], newlines[here]
        rows = int(np.count_nonzero(newlines))
        if len(marks) != rows * columns or not newlines[columns - 1 :: columns].all():
            return None
        places = marks.reshape(rows, columns).T
        marks += begin
        return Ends(places, int(block.max()) < 128, returns)

    def numbers(self, cells: Cells, places: Sequence[int], out: Sequence[Array]) -> Sequence[Array]:
        """Columns whose cells are about as long are read together: NumPy's calls are few, and hold Python's lock seldom."""
        every = np.ascontiguousarray(cells.ends.T)
        starts = np.empty_like(every)
        starts.reshape(-1)[0] = cells.begin
        np.add(every.reshape(-1)[:-1], 1, starts.reshape(-1)[1:])
        if cells.returns is not None:
            every = every.copy()
            every[:, -1] -= cells.returns
        sure = np.ones((len(places), cells.rows), bool)
        words = ((every[:_LOOKED_AT] - starts[:_LOOKED_AT]).mean(0) - 1) // 8
        for size in set(words.take(places).tolist()):
            group = [at for at, place in enumerate(places) if words[place] == size]
            chosen = slice(None) if len(group) == every.shape[1] else [places[at] for at in group]
            step = max(1, _TOGETHER // len(group))
            for at in range(0, cells.rows, step):
                rows = slice(at, at + step)
                values, certain = (a.reshape(-1, len(group)) for a in parse(cells.text, starts[rows, chosen].reshape(-1), every[rows, chosen].reshape(-1)))
                for index, to in enumerate(group):
                    out[to][rows] = values[:, index]
                if not certain.all():
                    sure[group, rows] = certain.T
        return [*sure]


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

    def numbers(self, cells: Cells, places: Sequence[int], out: Sequence[Array]) -> Sequence[Array]:
        return [self._column(cells.text, *cells.column(place), values) for place, values in zip(places, out, strict=True)]

    def _column(self, text: Array, starts: Array, ends: Array, values: Array) -> Array:
        sure = np.empty(len(ends), bool)
        assert starts.dtype == ends.dtype == np.int64
        assert all(array.flags.c_contiguous and array.size == ends.size for array in (starts, ends, values))
        addresses = [array.ctypes.data for array in (text, starts, ends, self._powers, values, sure)]
        self._numbers(*addresses[:3], len(ends), *addresses[3:])
        return sure


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
