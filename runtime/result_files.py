"""Files of results by kind: .npz, .parquet, csv for everything else.

csv and parquet are written as the rows come; the arrays of an .npz stand there whole. A file that fails is not left half-written.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Refusal
from nnc.compiler.parquet import arrow

from .data.shortest import FILLER, WIDTH, shortest
from .files import refuse, replacing

Array = np.ndarray[Any, Any]
Rows = dict[str, Array]
GROUP = 1 << 16  # rows that parquet keeps together
FORMATTED = 1 << 15  # rows that are written as text together
_MOST = 1 << 23  # bytes of a table of cells
_NOTHING = bytes([FILLER])


@dataclass(frozen=True)
class Kind:
    """What a name's rows hold: a dtype, object for texts, and the shape of a row."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def write_results(batches: Iterator[Rows], kinds: Mapping[str, Kind], target: Path) -> int:
    """Write arrays by name, row on the first axis; how many rows there were. `kinds` are written even where no batch comes."""
    return {".npz": _write_npz, ".parquet": _write_parquet}.get(target.suffix, _write_csv)(batches, kinds, target)


def _columns(rows: Mapping[str, Array]) -> dict[str, Array]:
    """A column for each element of a row: `name`, or `name_0`, `name_1`, ..."""
    columns: dict[str, Array] = {}
    for name, array in rows.items():
        size = int(np.prod(array.shape[1:], dtype=np.int64))
        flat = array.reshape(len(array), size)
        columns |= {name if size == 1 else f"{name}_{i}": column for i, column in enumerate(flat.T)}
    return columns


def _none(kinds: Mapping[str, Kind]) -> Rows:
    return {name: np.empty((0, *kind.shape), kind.dtype) for name, kind in kinds.items()}


# npz


def _write_npz(batches: Iterator[Rows], kinds: Mapping[str, Kind], target: Path) -> int:
    """Texts as fixed-width ones, which need no pickle."""
    parts: dict[str, list[Array]] = {}
    for rows in batches:
        for name, array in rows.items():
            parts.setdefault(name, []).append(array.astype(str) if array.dtype == object else array.copy())
    whole = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    whole = whole or {name: array.astype(str) if array.dtype == object else array for name, array in _none(kinds).items()}
    packed = io.BytesIO()
    np.savez(packed, **whole)  # type: ignore[arg-type]
    with replacing(target) as write:
        write(packed.getvalue())
    return len(next(iter(whole.values())))


# Parquet


class _Sink(io.RawIOBase):
    """What pyarrow writes to."""

    def __init__(self, write: Callable[[bytes], None]):
        self._write, self._place = write, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._write(data)
        self._place += len(data)
        return len(data)

    def tell(self) -> int:
        return self._place


def _write_parquet(batches: Iterator[Rows], kinds: Mapping[str, Kind], target: Path) -> int:
    """The columns of the csv file, in their types."""
    try:
        pa, library = arrow()
    except Refusal as refusal:
        refuse(refusal.code, refusal.label, refusal.help, **refusal.values)

    def table(parts: Sequence[Rows]) -> Any:
        found = [_columns(part) for part in parts]
        arrays = {name: np.concatenate([columns[name] for columns in found]) for name in found[0]}
        return pa.table({name: pa.array(array, pa.string() if array.dtype == object else None) for name, array in arrays.items()})

    empty, rows, held = table([_none(kinds)]), 0, list[Rows]()
    with replacing(target) as write:
        writer: Any = None
        for batch in batches:
            held.append({name: array.copy() for name, array in batch.items()})
            rows += len(next(iter(batch.values())))
            writer = writer or library.ParquetWriter(_Sink(write), table(held).schema)
            if sum(len(next(iter(part.values()))) for part in held) >= GROUP:
                writer.write_table(table(held))
                held.clear()
        writer = writer or library.ParquetWriter(_Sink(write), empty.schema)
        if held or not rows:
            writer.write_table(table(held) if held else empty)
        writer.close()
    return rows


# csv, as RFC 4180 has it


def _write_csv(batches: Iterator[Rows], kinds: Mapping[str, Kind], target: Path) -> int:
    rows, begun = 0, False
    with replacing(target) as write:
        for batch in _joined(batches):
            columns = _columns(batch)
            if not begun:
                write(_header(columns))
                begun = True
            cells = [_Floats(column) if column.dtype == np.float32 else _texts(column, alone=len(columns) == 1) for column in columns.values()]
            rows += len(next(iter(columns.values())))
            for lines in _lines(cells):
                write(lines)
        if not begun:
            write(_header(_columns(_none(kinds))))
    return rows


def _joined(batches: Iterator[Rows]) -> Iterator[Rows]:
    """The same rows, more at a time: a call of NumPy's for few rows costs more than what it does."""
    held: list[Rows] = []
    for batch in batches:
        held.append({name: array.copy() for name, array in batch.items()})
        if sum(len(next(iter(part.values()))) for part in held) >= FORMATTED:
            yield {name: np.concatenate([part[name] for part in held]) for name in held[0]}
            held.clear()
    if held:
        yield {name: np.concatenate([part[name] for part in held]) for name in held[0]}


def _header(columns: Mapping[str, Array]) -> bytes:
    return b",".join(map(_quoted, columns)) + b"\r\n"


def _quoted(text: str) -> bytes:
    if any(mark in text for mark in ',"\r\n'):
        text = '"' + text.replace('"', '""') + '"'
    return text.encode()


@dataclass(frozen=True)
class _Floats:
    values: Array

    @property
    def width(self) -> int:
        return WIDTH

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice) -> _Floats:
        return _Floats(self.values[part])

    def cells(self) -> Array:
        return shortest(self.values)


@dataclass(frozen=True)
class _Texts:
    """Cells that are few distinct texts, or not: `which` of the texts stands in a row."""

    texts: Array  # of bytes
    lengths: Array
    which: Array

    @property
    def width(self) -> int:
        return int(self.lengths[self.which].max())

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, part: slice) -> _Texts:
        return _Texts(self.texts, self.lengths, self.which[part])

    def cells(self) -> Array:
        used, which = np.unique(self.which, return_inverse=True)
        width = self.width
        filled = b"".join(text.ljust(width, _NOTHING) for text in self.texts[used].tolist())
        return np.frombuffer(filled, np.uint8).reshape(len(used), width)[which]


def _texts(column: Array, *, alone: bool) -> _Texts:
    """Whole numbers, texts, and floats other than float32 with the digits that give them back. A text that stands alone in its row is never nothing."""
    if column.dtype.kind != "f":
        given = [str(cell) for cell in column.tolist()]
    elif column.dtype == np.float64:
        given = list(map(repr, column.tolist()))
    else:
        given = [repr(float(str(cell))) for cell in column]
    places = {text: place for place, text in enumerate(dict.fromkeys(given))}
    texts = np.empty(len(places), object)
    texts[:] = [_quoted(text) or (b'""' if alone else b"") for text in places]
    return _Texts(texts, np.array([len(text) for text in texts]), np.fromiter(map(places.__getitem__, given), np.intp, len(given)))


def _lines(columns: Sequence[_Floats | _Texts]) -> Iterator[bytes]:
    """The lines of a table, in parts that take a bounded amount of memory."""
    rows = len(columns[0])
    if rows > 1 and rows * sum(column.width + 1 for column in columns) > _MOST:
        for half in (slice(0, rows // 2), slice(rows // 2, rows)):
            yield from _lines([column[half] for column in columns])
        return
    parts: list[Array] = []
    for column in columns:
        parts += [column.cells(), np.full((rows, 1), ord(","), np.uint8)]
    parts[-1] = np.broadcast_to(np.frombuffer(b"\r\n", np.uint8), (rows, 2))
    yield np.concatenate(parts, axis=1).tobytes().translate(None, _NOTHING)
