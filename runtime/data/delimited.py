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
import os
import stat
import zlib
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Refusal
from nnc.compiler.schema import header_of, number
from nnc.runtime import threads

from .cells import Cells, Way, way
from .decimals import PADDING
from .growing import Growing
from .texts import Texts

Array = np.ndarray[Any, Any]
BLOCK = 1 << 21  # bytes for each thread
WORTH_A_THREAD = 1 << 18  # bytes
_HEAD = 1 << 16  # bytes that are read for the first line
_WINDOW = 1 << 12  # bytes that are looked through for a line end
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
        with self._opened(_HEAD) as source:
            source.require_text()
            first = next(source.rows(None), None)
        self.names = header_of(None if first is None else first[1], header, path)

    def _opened(self, size: int) -> _Bytes:
        return _Bytes(self.path, self.separator, self.way, size)

    def whole(self, numbers: Collection[str], texts: Collection[str]) -> tuple[dict[str, Array], Lines]:
        """All rows of the named columns, and where they stand. Raises as `blocks` does."""
        room, parts, lines = Growing(numbers), {name: [np.empty(0, object)] for name in texts}, Lines(self.path)
        for block in self.blocks(numbers, texts, room):
            lines.add(block.lines)
            for name, found in parts.items():
                found.append(block.columns[name])
        names = [*parts]
        joined = dict[str, Array]()

        def join(place: int) -> None:
            joined[names[place]] = np.concatenate(parts.pop(names[place]))  # they are let go one column after another

        threads.for_each(len(names), join)
        columns = room.columns() | joined
        return {name: columns[name] for name in self.names if name in columns}, lines

    def blocks(self, numbers: Collection[str], texts: Collection[str], room: Growing | None = None) -> Iterator[Block]:
        """The rows of the named columns, the numbers in `room` if that is given. Raises NoNumber, and Refusal for what cannot be read."""
        places = {name: i for i, name in enumerate(self.names)}
        floats = [_Numbers(name, places[name], self.gone) for name in self.names if name in numbers]
        strings = {name: _Texts(places[name], self.gone) for name in self.names if name in texts}
        size = self.path.stat().st_size
        with self._opened(BLOCK * threads.workers()) as source:
            if self.header:
                next(source.rows(None))
            while source.fill():
                tables = source.tables(len(self.names))
                if tables is not None:
                    rows, length = sum(cells.rows for cells in tables), source.stop - source.begin
                    into = (room or Growing([column.name for column in floats])).more(rows, rows * size // length)
                    yield from _together(tables, floats, strings, into, self.way)
                    source.done(length, rows)
                    continue
                read = list(source.rows(len(self.names)))
                if read:
                    into = (room or Growing([column.name for column in floats])).more(len(read), 0)
                    for column in floats:
                        column.irregular(read, into[column.name])
                    words = {name: column.irregular(read) for name, column in strings.items()}
                    yield Block({name: values.reshape(-1, 1) for name, values in into.items()} | words, [line for line, _ in read])


def _together(tables: Sequence[Cells], numbers: Sequence[_Numbers], texts: Mapping[str, _Texts], into: Mapping[str, Array], way: Way) -> list[Block]:
    edges = [0, *accumulate(cells.rows for cells in tables)]
    found: list[dict[str, Array]] = [{name: into[name][begin:end].reshape(-1, 1) for name in into} for begin, end in pairwise(edges)]

    def read(part: int) -> None:
        out = [found[part][column.name].reshape(-1) for column in numbers]
        sure = way.numbers(tables[part], [column.place for column in numbers], out)
        for column, values, certain in zip(numbers, out, sure, strict=True):
            column.regular(tables[part], values, certain)
        for name, strings in texts.items():
            found[part][name] = strings.regular(tables[part])

    threads.for_each(len(tables), read)
    return [Block(part, cells.lines) for part, cells in zip(found, tables, strict=True)]


class _Numbers:
    """A column of numbers, block by block."""

    def __init__(self, name: str, place: int, gone: Collection[str]):
        self.name, self.place, self.gone = name, place, gone
        self.known: dict[str, float] = {}
        self.absent = [value for value in map(number, gone) if value is not None]

    def regular(self, cells: Cells, values: Array, sure: Array) -> None:
        """Put right what is missing or uncertain."""
        for value in self.absent:
            sure &= values != value  # 1 and 1.0 are one number, and two cells
        if sure.all():
            return
        starts, ends = cells.column(self.place)
        values[starts == ends] = np.nan
        sure |= starts == ends
        for row in np.flatnonzero(~sure).tolist():
            values[row] = self._number(cells.cell(starts[row], ends[row]), cells.line + 1 + row)

    def irregular(self, rows: list[tuple[int, list[str]]], values: Array) -> None:
        values[...] = [self._number(row[self.place], line) for line, row in rows]

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

    def regular(self, cells: Cells) -> Array:
        starts, ends = cells.column(self.place)
        found = self.texts.of_bytes(cells.text, starts, ends) if cells.plain else None
        return self.texts.of([cells.cell(s, e) for s, e in zip(starts.tolist(), ends.tolist(), strict=True)]) if found is None else found

    def irregular(self, rows: list[tuple[int, list[str]]]) -> Array:
        return self.texts.of([row[self.place] for _, row in rows])


class _Bytes:
    """The bytes of a file in a padded buffer: whole lines from `begin` to `stop`, and the start of the next line behind them."""

    def __init__(self, path: Path, separator: str, way: Way, size: int):
        self.path, self.separator, self.way = path, separator, way
        self.file: gzip.GzipFile | io.FileIO | None = None
        self.buffer = np.zeros(size + 2 * PADDING, np.uint8)
        self.begin = self.stop = self.end = PADDING
        self.line = 0  # lines before `begin`
        self.offset = -PADDING  # of the buffer in the file
        self.finished = False

    def __enter__(self) -> _Bytes:
        try:
            self.file = gzip.open(self.path, "rb") if self.path.suffix == ".gz" else self.path.open("rb", buffering=0)
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
                got = self._filled(memoryview(self.buffer.data)[self.end : room])
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
        self.stop = self._behind_last_line(fresh)

    def _filled(self, space: memoryview) -> int:
        """Read on; several threads read a part each of a file that lies on a disk."""
        assert self.file is not None
        count = min(threads.workers(), len(space) // WORTH_A_THREAD)
        if count < 2 or isinstance(self.file, gzip.GzipFile) or not hasattr(os, "preadv") or not stat.S_ISREG(os.fstat(self.file.fileno()).st_mode):
            return self.file.readinto(space) or 0
        file, begin, edges = self.file.fileno(), self.file.tell(), [len(space) * part // count for part in range(count + 1)]
        got = [0] * count

        def read(part: int) -> None:
            at, stop = edges[part], edges[part + 1]
            while at < stop and (more := os.preadv(file, [space[at:stop]], begin + at)):
                at += more
            got[part] = at - edges[part]

        threads.for_each(count, read)
        whole = next((part for part in range(count) if edges[part] + got[part] < edges[part + 1]), count - 1)  # the first that met the end
        self.file.seek(begin + edges[whole] + got[whole])
        return edges[whole] + got[whole]

    def _behind_last_line(self, fresh: int) -> int:
        """Where the last line ends among the bytes from `fresh` on, or `begin`."""
        for stop in range(self.end, fresh, -_WINDOW):
            start = max(fresh, stop - _WINDOW)
            place = self.buffer[start:stop].tobytes().rfind(b"\n")
            if place >= 0:
                return start + place + 1
        return self.begin

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

    def tables(self, columns: int) -> list[Cells] | None:
        """The whole lines as tables of cells, one for each thread; None where they are less regular than that."""
        if not columns or len(self.separator.encode()) > 1 or self.separator in '"\r\n\0 ':
            return None
        size = self.stop - self.begin
        count = max(1, min(threads.workers(), size // WORTH_A_THREAD))
        edges = [self.begin]
        for part in range(1, count):
            edges.append(max(edges[-1], self._after_line(self.begin + size * part // count)))
        parts = [(begin, end) for begin, end in pairwise([*edges, self.stop]) if begin < end]
        found: list[Cells | None] = [None for _ in parts]

        def look(part: int) -> None:
            found[part] = self._table(columns, *parts[part])

        threads.for_each(len(parts), look)
        tables, line = list[Cells](), self.line
        for cells in found:
            if cells is None:
                return None
            tables.append(replace(cells, line=line))
            line += cells.rows
        return tables

    def _after_line(self, place: int) -> int:
        """Where the line ends in which a place is."""
        for start in range(place, self.stop, _WINDOW):
            found = self.buffer[start : min(start + _WINDOW, self.stop)].tobytes().find(b"\n")
            if found >= 0:
                return start + found + 1
        raise AssertionError("a block ends with a line")

    def _table(self, columns: int, begin: int, stop: int) -> Cells | None:
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
        return Cells(self.buffer, begin, ends.places, returns, 0, ends.ascii)

    def rows(self, wanted: int | None) -> Iterator[tuple[int, list[str]]]:
        """Rows by the csv module with the lines where they end: one row of any number of cells, or all rows of the block."""
        before = self.line

        def lines() -> Iterator[str]:
            while self.fill():
                stop = self.stop if wanted is not None else self._after_line(self.begin)
                block = io.StringIO(self.decoded(self.begin, stop), newline="")
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
