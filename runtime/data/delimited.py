"""Rows of a delimited file, a block of whole lines at a time, as fast as separators are found.

The positions of separators and line ends come from one pass over a block's bytes. If they form a table, with a line end after every
last cell, the cells of a column are read together: numbers by cells.py, texts eight bytes at a time. Several threads read a part of
the block's lines each.
Whatever is less regular (quotes, blank or ragged lines, lone carriage returns) goes through the csv module, a block at a time, so
that both ways give the same cells, lines and refusals.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Refusal
from nnc.compiler.schema import header_of, number
from nnc.runtime import threads

from .cells import Way, way
from .decimals import PADDING
from .texts import Texts

Array = np.ndarray[Any, Any]
BLOCK = 1 << 21  # bytes for each thread
WORTH_A_THREAD = 1 << 18  # bytes
_KNOWN = 10_000  # cells that are remembered, so that equal ones are one object


class NoNumber(Exception):
    """A cell of a number column that is neither a number nor missing."""

    def __init__(self, column: str, line: int, cell: str):
        self.column, self.line, self.cell = column, line, cell
        super().__init__(column)


@dataclass(frozen=True)
class Block:
    """Some rows: floats [rows, 1] with NaN for missing cells, texts with "" for them, and the lines where they end in the file."""

    columns: dict[str, Array]
    lines: Sequence[int]


class Lines:
    """Where rows stand in a file, for messages."""

    def __init__(self, path: Path):
        self.path, self._starts, self._blocks = path, [0], list[Sequence[int]]()

    def add(self, lines: Sequence[int]) -> None:
        self._blocks.append(lines)
        self._starts.append(self._starts[-1] + len(lines))

    def __call__(self, row: int) -> str:
        place = bisect_right(self._starts, row) - 1
        return f"line {self._blocks[place][row - self._starts[place]]} of {self.path.name}"


class Delimited:
    """A file of text; `names` are its columns. `separator` stands between cells, `missing` are cells that mean a missing value."""

    def __init__(self, path: Path, separator: str, header: bool, missing: Collection[str]):
        self.path, self.separator, self.header, self.gone = path, separator, header, {"", *missing}
        self.way = way(path.stat().st_size if path.is_file() else 0)
        with self._opened() as source:
            source.require_text()
            first = next(source.rows(None), None)
        self.names = header_of(None if first is None else first[1], header, path)

    def _opened(self) -> _Bytes:
        return _Bytes(self.path, self.separator, self.way)

    def blocks(self, numbers: Collection[str], texts: Collection[str]) -> Iterator[Block]:
        """The rows of the named columns. Raises NoNumber, and Refusal for what cannot be read."""
        places = {name: i for i, name in enumerate(self.names)}
        columns: dict[str, _Numbers | _Texts] = {name: _Numbers(name, places[name], self.gone, self.way) for name in self.names if name in numbers}
        columns |= {name: _Texts(places[name], self.gone) for name in self.names if name in texts}
        with self._opened() as source:
            if self.header:
                next(source.rows(None))
            while source.fill():
                tables = source.tables(len(self.names))
                if tables is not None:
                    yield from _together(tables, columns)
                    source.done(source.stop - source.begin, sum(cells.rows for cells in tables))
                    continue
                rows = list(source.rows(len(self.names)))
                if rows:
                    yield Block({name: column.irregular(rows) for name, column in columns.items()}, [line for line, _ in rows])


def _together(tables: Sequence[_Cells], columns: Mapping[str, _Numbers | _Texts]) -> list[Block]:
    found: list[dict[str, Array]] = [{} for _ in tables]

    def read(part: int) -> None:
        for name, column in columns.items():
            found[part][name] = column.regular(tables[part])

    threads.for_each(len(tables), read)
    return [Block(part, cells.lines) for part, cells in zip(found, tables, strict=True)]


@dataclass(frozen=True)
class _Cells:
    """Cells of a block that form a table: where those of each column end in the padded text."""

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


class _Numbers:
    """A column of numbers, block by block."""

    def __init__(self, name: str, place: int, gone: Collection[str], way: Way):
        self.name, self.place, self.gone, self.way = name, place, gone, way
        self.known: dict[str, float] = {}
        self.absent = [value for value in map(number, gone) if value is not None]

    def regular(self, cells: _Cells) -> Array:
        starts, ends = cells.column(self.place)
        values, sure = self.way.numbers(cells.text, starts, ends)
        for value in self.absent:
            sure &= values != value  # 1 and 1.0 are one number, and two cells
        if not sure.all():
            values[starts == ends] = np.nan
            sure |= starts == ends
            for row in np.flatnonzero(~sure).tolist():
                values[row] = self._number(cells.cell(starts[row], ends[row]), cells.line + 1 + row)
        return values.reshape(-1, 1)

    def irregular(self, rows: list[tuple[int, list[str]]]) -> Array:
        return np.array([self._number(row[self.place], line) for line, row in rows], np.float64).reshape(-1, 1)

    def _number(self, cell: str, line: int) -> float:
        value = self.known.get(cell)
        if value is None:
            stripped = cell.strip()
            value = float("nan") if stripped in self.gone else number(stripped)
            if value is None:
                raise NoNumber(self.name, line, stripped)
            if len(self.known) < _KNOWN:
                self.known[cell] = value
        return value


class _Texts:
    """A column of texts, block by block."""

    def __init__(self, place: int, gone: Collection[str]):
        self.place, self.texts = place, Texts(gone)

    def regular(self, cells: _Cells) -> Array:
        starts, ends = cells.column(self.place)
        found = self.texts.of_bytes(cells.text, starts, ends) if cells.plain else None
        return self.texts.of([cells.cell(s, e) for s, e in zip(starts.tolist(), ends.tolist(), strict=True)]) if found is None else found

    def irregular(self, rows: list[tuple[int, list[str]]]) -> Array:
        return self.texts.of([row[self.place] for _, row in rows])


class _Bytes:
    """The bytes of a file in a padded buffer: whole lines from `begin` to `stop`, and the start of the next line behind them."""

    def __init__(self, path: Path, separator: str, way: Way):
        self.path, self.separator, self.way = path, separator, way
        self.file: gzip.GzipFile | io.BufferedReader | None = None
        self.buffer = np.zeros(BLOCK * threads.workers() + 2 * PADDING, np.uint8)
        self.begin = self.stop = self.end = PADDING
        self.line = 0  # lines before `begin`
        self.offset = -PADDING  # of the buffer in the file
        self.finished = False

    def __enter__(self) -> _Bytes:
        try:
            self.file = gzip.open(self.path, "rb") if self.path.suffix == ".gz" else self.path.open("rb")
        except OSError as error:
            raise Refusal("E410", label=str(error), path=self.path.name, help="fetch or write the file again") from None
        return self

    def __exit__(self, *_: object) -> None:
        assert self.file is not None
        self.file.close()

    def fill(self) -> bool:
        """Have whole lines in the buffer; false at the end of the file."""
        while self.begin == self.stop and not (self.finished and self.stop == self.end):
            self._read()
        return self.begin < self.stop

    def _read(self) -> None:
        """Move what is left to the front and read on. The last line gets an end if it has none."""
        assert self.file is not None
        left = self.end - self.begin
        if left + PADDING > len(self.buffer) // 2:  # a long line
            self.buffer = np.concatenate([self.buffer, np.zeros(len(self.buffer), np.uint8)])
        self.buffer[PADDING : PADDING + left] = self.buffer[self.begin : self.end].copy()
        self.offset += self.begin - PADDING
        self.begin, self.end = PADDING, PADDING + left
        fresh, room = self.end, len(self.buffer) - PADDING - 1
        try:
            while self.end < room and not self.finished:
                got = self.file.readinto(memoryview(self.buffer.data)[self.end : room])
                self.end += got
                self.finished = not got
        except (gzip.BadGzipFile, EOFError, OSError, zlib.error) as error:
            raise Refusal("E410", label=str(error), path=self.path.name, help="fetch or write the file again") from None
        if self.offset + fresh == 0 and self.buffer[PADDING : PADDING + 3].tobytes() == b"\xef\xbb\xbf":
            self.begin += 3
        if self.finished:
            if self.end > self.begin and self.buffer[self.end - 1] != ord("\n"):
                self.buffer[self.end] = ord("\n")
                self.end += 1
            self.stop = self.end
            return
        self.stop = fresh + self.buffer[fresh : self.end].tobytes().rfind(b"\n") + 1
        if self.stop == fresh:
            self.stop = self.begin

    def require_text(self) -> None:
        """E410 for a file that does not begin like text, before anything is made of its first line."""
        self.fill()
        self.decoded(self.begin, self.stop)

    def done(self, length: int, lines: int) -> None:
        """The first `length` bytes were read."""
        self.line += lines
        self.begin += length

    def decoded(self, begin: int, stop: int) -> str:
        try:
            return self.buffer[begin:stop].tobytes().decode()
        except UnicodeDecodeError as error:
            label = f"byte {self.offset + begin + error.start} is not UTF-8"
            raise Refusal("E410", label=label, path=self.path.name, help="save it as UTF-8") from None

    def tables(self, columns: int) -> list[_Cells] | None:
        """The whole lines as tables of cells, one for each thread; None where they are less regular than that."""
        if not columns or len(self.separator.encode()) > 1 or self.separator in '"\r\n\0 ':
            return None
        size = self.stop - self.begin
        count = max(1, min(threads.workers(), size // WORTH_A_THREAD))
        edges = [self.begin]
        for part in range(1, count):
            edges.append(max(edges[-1], self._after_line(self.begin + size * part // count)))
        parts = [(begin, end) for begin, end in pairwise([*edges, self.stop]) if begin < end]
        found: list[_Cells | None] = [None for _ in parts]

        def look(part: int) -> None:
            found[part] = self._table(columns, *parts[part])

        threads.for_each(len(parts), look)
        tables, line = list[_Cells](), self.line
        for cells in found:
            if cells is None:
                return None
            tables.append(replace(cells, line=line))
            line += cells.rows
        return tables

    def _after_line(self, place: int) -> int:
        """Where the line ends in which a place is."""
        return place + self.buffer[place : self.stop].tobytes().find(b"\n") + 1

    def _table(self, columns: int, begin: int, stop: int) -> _Cells | None:
        ends = self.way.ends(self.buffer, begin, stop, ord(self.separator), columns)
        if ends is None:
            return None
        if not ends.ascii:
            self.decoded(begin, stop)
        last, returns = ends.places[-1], None
        if ends.returns:
            found = begin + np.flatnonzero(self.buffer[begin:stop] == ord("\r"))
            if not (self.buffer[found + 1] == ord("\n")).all():
                return None
            returns = (self.buffer[last - 1] == ord("\r")).astype(np.int64)
        lengths = np.diff(last, prepend=begin - 1)
        if lengths.max() >= csv.field_size_limit() or (columns == 1 and (lengths - 1 - (0 if returns is None else returns)).min() == 0):
            return None  # a blank line is no row
        return _Cells(self.buffer, begin, ends.places, returns, 0, ends.ascii)

    def rows(self, wanted: int | None) -> Iterator[tuple[int, list[str]]]:
        """Rows by the csv module with the lines where they end: one row of any number of cells, or all rows of the block."""
        before = self.line

        def lines() -> Iterator[str]:
            while self.fill():
                block = io.StringIO(self.decoded(self.begin, self.stop), newline="")
                for line in block:
                    self.done(len(line.encode()), 1)
                    yield line

        self.fill()
        limit = self.offset + self.stop
        reader = csv.reader(lines(), delimiter=self.separator, strict=True)
        try:
            for row in reader:
                line = before + reader.line_num
                if wanted is not None and row and len(row) != wanted:
                    raise Refusal("E403", label=f"line {line} has {len(row)} cells, the first line {wanted}",
                                  path=self.path.name, line=line, help="repair the line, or check the separator")  # fmt: skip
                if row or wanted is None:
                    yield line, row
                if wanted is None or self.offset + self.begin >= limit:
                    return
        except csv.Error as error:
            raise Refusal("E410", label=f"line {before + reader.line_num}: {error}", path=self.path.name, help="check its quotes") from None
