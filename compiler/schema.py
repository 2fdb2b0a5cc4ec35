"""What a data source promises: columns with dtype, shape and classes, read from headers first and without numpy.

Paths are relative to the data root and may not leave it. Nothing is unpickled or evaluated, and a declared size is compared
with the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from .diagnostics import Refusal, suggestion
from .record import record

WHOLE_BYTES = 8_000_000  # `nnc check` reads whole columns of files up to this size
MAX_CATEGORIES = 100_000


@record
class ColumnSchema:
    """One column: its dtype and the shape of a sample; classes where they are known, in the order of their indices."""

    dtype: str
    shape: tuple[int, ...] = ()
    classes: tuple[Any, ...] | None = None


class InOrder(Mapping[str, tuple[Any, ...]]):
    """The distinct values of columns, found and sorted where they are asked for."""

    def __init__(self, values: dict[str, Callable[[], Iterable[Any]]]):
        self._values = values
        self._known: dict[str, tuple[Any, ...]] = {}

    def __getitem__(self, column: str) -> tuple[Any, ...]:
        if column not in self._known:
            found = set(self._values[column]())
            self._known[column] = (*sorted(v for v in found if v == v), *(v for v in found if v != v))  # NaN has no place in an order
        return self._known[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@record
class Schema:
    """The columns of a source; `rows` is None where only the whole file would tell."""

    columns: dict[str, ColumnSchema]
    rows: int | None = None
    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # distinct values, where whole columns are read
    other: Mapping[str, str] = field(default_factory=dict)  # columns that cannot be used, with their types

    def at_hand(self, column: str) -> tuple[Any, ...] | None:
        """The distinct values of a column where they are known without reading more: advice is worth no second look at a file."""
        return self.values.get(column) if isinstance(self.values, dict | InOrder) else None


@record
class Files:
    """A folder whose files may be read: the data root of a program. `otherwise` is what to do where a file is not there."""

    root: Path
    otherwise: str = "give the directory that holds it with --data-root"

    def path(self, name: str) -> Path:
        """The file of that name under the root; E409 if it lies elsewhere, E401 if it is not there."""
        path = self._below(name)
        if path.is_dir():
            raise Refusal("E410", label="it is a directory", path=name, help="name a file in it")
        self._require(path.is_file(), path, name)
        return path

    def folder(self, name: str) -> Path:
        """The folder of that name under the root, or the root itself as `.`; E409 and E401 as for files."""
        path = self._below(name)
        if path.is_file():
            raise Refusal("E410", label="it is a file", path=name, help="name the folder that holds folders of images")
        self._require(path.is_dir(), path, name)
        return path

    def _below(self, name: str) -> Path:
        root = self.root.resolve()
        path = root if "\0" in name else (root / name).resolve()
        if "\0" in name or (path != root and root not in path.parents):
            raise Refusal("E409", label=f"the data root is {self.root}", path=name,
                          help="move the file below the root, or give another root with --data-root")  # fmt: skip
        return path

    def _require(self, there: bool, path: Path, name: str) -> None:
        if not there:
            near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            close = suggestion(path.name, near)
            help = f"did you mean `{Path(name).with_name(close)}`?" if close else self.otherwise
            raise Refusal("E401", label=f"looked in {path.parent}", path=name, help=help)


# Tables of text


SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def separator_of(column: str, columns: Iterable[str]) -> str | None:
    """What the cells of a table stand between, where it has come out as one column whose name holds the wanted one; else None."""
    whole = [*columns]
    if len(whole) != 1:
        return None
    return next((s for s in SEPARATORS if s in whole[0] and column in (name.strip(' "') for name in whole[0].split(s))), None)


def cut_at(separator: str) -> str:
    """The way out where a table stands between other separators than its source says."""
    source = {"\t": "tsv(path)", ",": "csv(path)"}.get(separator, f'csv(path, separator="{separator}")')
    return f"the cells of the file stand between {SEPARATORS[separator]}: write source = {source}"


def read_cells(path: Path, separator: str, header: bool) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The column names of a delimited file, and its rows with their line numbers; RFC 4180 quoting, UTF-8."""
    reader = csv.reader(_lines(path), delimiter=separator, strict=True)
    try:
        first = next(reader, None)
    except csv.Error as error:
        raise _odd_quotes(path, separator, reader.line_num, error) from None
    names = header_of(first, header, path)
    assert first is not None

    def rows() -> Iterator[tuple[int, list[str]]]:
        if not header:
            yield 1, first
        try:
            for row in reader:
                if not row:
                    continue
                if len(row) != len(names):
                    raise Refusal("E403", label=f"line {reader.line_num} has {len(row)} cells, the first line {len(names)}",
                                  path=path.name, line=reader.line_num, help="repair the line, or check the separator")  # fmt: skip
                yield reader.line_num, row
        except csv.Error as error:
            raise _odd_quotes(path, separator, reader.line_num, error) from None

    return names, rows()


def _odd_quotes(path: Path, separator: str, number: int, error: csv.Error) -> Refusal:
    """A line that cannot be cut: a quote that another separator follows says where its cells end."""
    line = next(islice(_lines(path), number - 1, None), "")
    other = next((s for s in SEPARATORS if s != separator and f'"{s}' in line), None)
    help = "check its quotes" if other is None else cut_at(other)
    return Refusal("E410", label=f"line {number}: {error}", path=path.name, help=help)


def header_of(first: list[str] | None, header: bool, path: Path) -> list[str]:
    """The column names that the first row of a file gives: its cells, or c1, c2, ... without a header."""
    if first is None:
        raise Refusal("E410", label="the file is empty", path=path.name, help="give a file with a header and rows")
    names = [n.strip() for n in first] if header else [f"c{i + 1}" for i in range(len(first))]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise Refusal("E410", label=f"the header has `{twice}` twice", path=path.name, help="give every column a name of its own")
    return names


_UNREADABLE = (gzip.BadGzipFile, EOFError, OSError, zlib.error)


def _opened(path: Path) -> Any:
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="")


def _lines(path: Path) -> Iterator[str]:
    try:
        with _opened(path) as file:
            yield from file
    except UnicodeDecodeError:
        raise Refusal("E410", label=f"byte {_not_utf8(path)} is not UTF-8", path=path.name, help="save it as UTF-8") from None
    except _UNREADABLE as error:
        raise Refusal("E410", label=str(error), path=path.name, help="fetch or write the file again") from None


def _not_utf8(path: Path) -> int:
    """Where the first byte stands that is not UTF-8, a character cut off at the end included."""
    decoder, read = codecs.getincrementaldecoder("utf-8")(), 0
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        while block := file.read(1 << 20):
            begun = read - len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                return begun + error.start
            read += len(block)
    return read - len(decoder.getstate()[0])


def number(cell: str) -> float | None:
    """The cell as a float, or None; what only Python would read as a number (underscores) is text."""
    if "_" in cell:
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def csv_schema(path: Path, separator: str, header: bool, missing: Iterable[str]) -> Schema:
    """Names and types of a delimited file, from whole columns up to WHOLE_BYTES, else from its first rows."""
    names, rows = read_cells(path, separator, header)
    whole = path.stat().st_size <= WHOLE_BYTES
    distinct, count = (_pieces(path, separator, header, len(names)) if whole else None) or _rows(islice(rows, None if whole else 1000), len(names))
    gone = {"", *missing}
    columns, values = dict[str, ColumnSchema](), dict[str, Callable[[], Iterable[Any]]]()
    for name, seen in zip(names, distinct, strict=True):
        numbers = _numbers(seen, gone)
        columns[name] = ColumnSchema("string") if numbers is None else ColumnSchema("float", (1,))
        if whole and len(seen) < MAX_CATEGORIES:
            values[name] = ({c.strip() for c in seen} - gone).__iter__ if numbers is None else numbers
    return Schema(columns, count if whole else None, InOrder(values))


def _numbers(cells: set[str], gone: set[str]) -> Callable[[], Iterable[float]] | None:
    """The distinct numbers of cells; None where one is neither a number nor missing."""
    left = cells - gone
    joined = "".join(left)
    if "_" not in joined and all(number(cell) is None for cell in gone):  # else what float() takes may be text, or missing
        if joined.isascii() and joined.isdigit():
            return partial(map, float, left)
        try:
            return set(map(float, left)).__iter__
        except ValueError:
            pass  # perhaps a missing value with spaces around it
    found = {number(cell) for cell in left if cell.strip() not in gone}
    return None if None in found else found.__iter__  # type: ignore[return-value]


_PIECE = 1 << 16  # characters whose cells the processor's cache holds


def _pieces(path: Path, separator: str, header: bool, columns: int) -> tuple[list[set[str]], int] | None:
    """The distinct cells of each column, and how many rows there are, by cutting many lines at once.

    None where the csv module has to look, and perhaps to refuse: quotes, zeros, lone carriage returns, blank, long or ragged lines, bytes that are not UTF-8.
    """
    distinct: list[set[str]] = [set() for _ in range(columns)]
    rows, rest = 0, ""
    try:
        with _opened(path) as file:
            if header:
                file.readline()
            while columns > 1 and (piece := file.read(_PIECE)):
                piece = rest + piece
                stop = piece.rfind("\n") + 1
                if not stop:
                    return None
                rest = piece[stop:]
                lines = _add(distinct, piece[:stop], separator)
                if not lines:
                    return None
                rows += lines
    except (UnicodeDecodeError, *_UNREADABLE):
        return None
    if rest:
        lines = _add(distinct, rest + "\n", separator)
        rows += lines
    return None if columns == 1 or (rest and not lines) else (distinct, rows)


def _add(distinct: list[set[str]], text: str, separator: str) -> int:
    """Take the cells of whole lines in; how many lines, 0 where they are not regular."""
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    if "\r" in text or '"' in text or "\0" in text:
        return 0
    marked, columns = text[:-1].replace("\n", separator + "\n"), len(distinct)
    lines, cells = len(marked) - len(text) + 2, marked.split(separator)  # every line end but the last has come to be longer by a character
    first = "".join(cells[::columns]).split("\n")  # every line end stands before a first cell, or there are too few here
    if len(cells) != lines * columns or len(first) != lines:
        return 0
    for place, seen in enumerate(distinct):
        if len(seen) < MAX_CATEGORIES:
            seen.update(cells[place::columns] if place else first)
    return lines


def _rows(rows: Iterator[tuple[int, list[str]]], columns: int) -> tuple[list[set[str]], int]:
    """The distinct cells of each column, and how many rows there are."""
    distinct: list[set[str]] = [set() for _ in range(columns)]
    count = 0
    while block := [row for _, row in islice(rows, 256)]:  # turned into columns, whose cells are taken in one go
        count += len(block)
        for seen, column in zip(distinct, zip(*block, strict=True), strict=True):
            if len(seen) < MAX_CATEGORIES:
                seen.update(column)
    return distinct, count


# Arrays

_IDX_TYPES = {0x08: ("uint8", 1), 0x09: ("int8", 1), 0x0B: ("int16", 2), 0x0C: ("int32", 4), 0x0D: ("float32", 4), 0x0E: ("float64", 8)}

_MOST_PACKED = 1100  # what deflate can pack into a byte, and a little more


def idx_header(path: Path) -> tuple[str, tuple[int, ...], int]:
    """dtype, shape and length of the header of an idx file, gzipped or not."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            start = file.read(4)
            if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _IDX_TYPES or not 1 <= start[3] <= 4:
                raise Refusal("E410", label="no idx header at its start", path=path.name, help="give an idx file, such as MNIST's")
            raw = file.read(4 * start[3])
    except (gzip.BadGzipFile, EOFError, OSError, zlib.error) as error:
        raise Refusal("E410", label=str(error), path=path.name, help="fetch the file again") from None
    if len(raw) < 4 * start[3]:
        raise Refusal("E410", label="its header is cut short", path=path.name, help="fetch the file again")
    return _IDX_TYPES[start[2]][0], struct.unpack(f">{start[3]}I", raw), 4 + 4 * start[3]


def idx_size(path: Path) -> tuple[int, int]:
    """Where the elements of an idx file begin, and how many bytes they are; E410 if they cannot be in it."""
    dtype, shape, offset = idx_header(path)
    size = next(width for name, width in _IDX_TYPES.values() if name == dtype) * prod(shape)
    held = path.stat().st_size * (_MOST_PACKED if path.suffix == ".gz" else 1)
    if held < size:
        raise Refusal("E410", label=f"its header declares {size:,} bytes", path=path.name, help="fetch the file again")
    if path.suffix != ".gz" and held != offset + size:
        few = "more" if held > offset + size else "fewer"
        raise Refusal("E410", label=f"{few} bytes than the {size:,} that its header declares", path=path.name, help="fetch the file again")
    return offset, size


def idx_bytes(path: Path) -> bytes:
    """The elements of an idx file, exactly as many as its header declares; no more than that is read."""
    offset, size = idx_size(path)
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            file.read(offset)
            data = file.read(size)
            more = file.read(1)  # at the end of a gzip file its checksum is compared
    except (gzip.BadGzipFile, EOFError, OSError, zlib.error) as error:
        raise Refusal("E410", label=str(error), path=path.name, help="fetch the file again") from None
    except MemoryError:
        raise Refusal("E410", label=f"its header declares {size:,} bytes", path=path.name, help="fetch the file again") from None
    if len(data) < size:
        raise Refusal("E410", label=f"{len(data):,} bytes of the {size:,} that its header declares", path=path.name,
                      help="fetch the file again")  # fmt: skip
    if more:
        raise Refusal("E410", label=f"more bytes than the {size:,} that its header declares", path=path.name, help="fetch the file again")
    return data


_NPY_DTYPES = {"f4": "float32", "f8": "float64", "i8": "int64", "u1": "uint8", "i4": "int64", "i2": "int64", "i1": "int64",
               "u2": "int64", "u4": "int64", "f2": "float32", "b1": "bool"}  # fmt: skip
_NPY_HEADER = re.compile(
    r"^\{'descr': '(?P<order>[<>|=])(?P<dtype>[a-zA-Z][0-9]+)', 'fortran_order': (True|False), 'shape': \((?P<shape>[0-9, ]*)\),? *\}\s*$"
)


def npy_header(file: Any, name: str, held: int) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape that a .npy stream of `held` bytes declares; objects (pickles), and more elements than it holds, are refused."""
    start = file.read(10)
    if len(start) < 10 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        raise Refusal("E410", label="no .npy header at its start", path=name, help="write it with numpy.save or numpy.savez")
    length = struct.unpack("<H", start[8:10])[0]
    if start[6] > 1:
        length = struct.unpack("<I", start[8:10] + file.read(2))[0]
    if length > 10_000:
        raise Refusal("E410", label=f"a header of {length:,} bytes", path=name, help="write it with numpy.save or numpy.savez")
    text = file.read(length).decode("latin-1")
    match = _NPY_HEADER.match(text)
    if not match:
        raise Refusal("E410", label="its header is no plain array (pickled objects and records are not read)", path=name,
                      help="save numbers: float32, float64, integers or bool")  # fmt: skip
    dtype = _NPY_DTYPES.get(match["dtype"])
    if dtype is None:
        raise Refusal("E410", label=f"elements of type {match['dtype']}", path=name, help="save numbers: float32, float64, integers or bool")
    shape = tuple(int(d) for d in match["shape"].replace(" ", "").split(",") if d)
    if prod(shape) * int(match["dtype"][1:]) > held:
        raise Refusal("E410", label=f"its header declares {prod(shape):,} elements, and it has {held:,} bytes", path=name, help="write the file again")
    return dtype, shape


def npz_members(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The arrays of an .npz by name, with their declared dtype and shape, checked against the stored bytes."""
    import zipfile  # takes longer to import than a spec without an .npz takes to check

    try:
        with zipfile.ZipFile(path) as archive:
            found: dict[str, tuple[str, tuple[int, ...]]] = {}
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise Refusal("E410", label=f"`{name}` is encrypted, or packed in a way of its own", path=path.name, help="write it with numpy.savez")
                if info.file_size > info.compress_size * _MOST_PACKED + 1000:
                    raise Refusal("E410", label=f"`{name}` claims {info.file_size:,} bytes in {info.compress_size:,}", path=path.name,
                                  help="write the file again")  # fmt: skip
                if name in found:
                    raise Refusal("E410", label=f"it holds `{name}` twice", path=path.name, help="write the file again")
                with archive.open(info) as member:
                    dtype, shape = npy_header(member, path.name, info.file_size)
                found[name] = dtype, shape
            return found
    except (zipfile.BadZipFile, OSError, EOFError, struct.error, zlib.error, NotImplementedError) as error:
        raise Refusal("E410", label=str(error), path=path.name, help="write it with numpy.savez") from None


def array_schema(members: dict[str, tuple[str, tuple[int, ...]]], name: str) -> Schema:
    """Columns of arrays whose first axis is the sample; unequal numbers of rows are refused."""
    rows: dict[str, int] = {}
    for key, (_, shape) in members.items():
        if not shape:
            raise Refusal("E410", label=f"`{key}` is a single number", path=name, help="the first axis is the sample")
        rows[key] = shape[0]
    if len(set(rows.values())) > 1:
        (a, n), (b, m) = list({n: (k, n) for k, n in rows.items()}.values())[:2]
        raise Refusal("E410", label=f"`{a}` has {n} rows, `{b}` {m}", path=name, help="give every array the same first axis")
    columns = {key: ColumnSchema(dtype, tuple(shape[1:])) for key, (dtype, shape) in members.items()}
    return Schema(columns, next(iter(rows.values()), 0))


def read_text(path: Path) -> str:
    """A whole text file, UTF-8, with its line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refusal("E410", label=f"byte {error.start} is not UTF-8", path=path.name, help="save it as UTF-8") from None
