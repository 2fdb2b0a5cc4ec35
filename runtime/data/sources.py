"""Read the rows of a source. What each gives is declared in compiler/ops/sources.py; a test holds the two tables together."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Refusal
from nnc.compiler.ops.sources import WINE
from nnc.compiler.schema import ColumnSchema, Files, Schema, idx_bytes, idx_header, npy_header, npz_members, number, read_cells, read_text

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Table:
    """Columns as arrays with the sample first. `row_name` says where a row stands in the source, for messages."""

    columns: dict[str, Array]
    row_name: Callable[[int], str] = lambda row: f"row {row + 1}"

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def schema(self, promised: Schema) -> Schema:
        """The schema with what only the whole source tells: classes of integers."""
        columns = {}
        for name, array in self.columns.items():
            known = promised.columns[name]
            classes = known.classes
            if name == "text" and "text" in promised.values:
                columns[name] = known
                continue
            if classes is None and array.dtype == np.int64 and array.ndim == 1 and array.size and array.min() >= 0 and array.max() < 100_000:
                classes = tuple(range(int(array.max()) + 1))
            columns[name] = ColumnSchema(known.dtype, known.shape, classes)
        return Schema(columns, self.rows, promised.values)


def _csv(p: Any, files: Files) -> Table:
    path = files.path(p.path)
    names, rows = read_cells(path, p.separator, p.header)
    gone = {"", *p.gone}
    cells: list[list[str]] = [[] for _ in names]
    lines = []
    for line, row in rows:
        lines.append(line)
        for column, cell in zip(cells, row, strict=True):
            column.append(cell)
    columns = {name: _column(column, gone) for name, column in zip(names, cells, strict=True)}
    return Table(columns, lambda row: f"line {lines[row]} of {path.name}")


def _column(cells: list[str], gone: set[str]) -> Array:
    """Floats [rows, 1] with NaN for missing cells if every other cell is a number, else strings with "" for missing ones."""
    stripped = [c.strip() for c in cells]
    numbers: list[float] = []
    for cell in stripped:
        value = float("nan") if cell in gone else number(cell)
        if value is None:
            return np.array(["" if c in gone else c for c in stripped], object)
        numbers.append(value)
    return np.array(numbers, np.float64).reshape(-1, 1)


def _idx(p: Any, files: Files) -> Table:
    images, labels = files.path(p.images), files.path(p.labels)
    _, shape, _ = idx_header(images)
    pixels = np.frombuffer(idx_bytes(images), np.uint8).reshape(shape[0], 1, *shape[1:])
    return Table({"image": pixels, "label": np.frombuffer(idx_bytes(labels), np.uint8).astype(np.int64)})


def _npz(p: Any, files: Files) -> Table:
    path = files.path(p.path)
    npz_members(path)  # declared sizes against stored bytes, before anything is allocated
    try:
        with np.load(path, allow_pickle=False) as archive:
            return Table({name: _array(archive[name]) for name in archive.files})
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise Refusal("E410", label=str(error), path=p.path, help="write it with numpy.savez") from None


def _npy(p: Any, files: Files) -> Table:
    path = files.path(p.path)
    with path.open("rb") as file:
        npy_header(file, path.name)
    try:
        return Table({"array": _array(np.load(path, allow_pickle=False))})
    except (ValueError, OSError, EOFError) as error:
        raise Refusal("E410", label=str(error), path=p.path, help="write it with numpy.save") from None


def _array(array: Array) -> Array:
    """Signed and wide integers as int64, half floats as float32; others as they are."""
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        return array.astype(np.int64)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _table(p: Any, files: Files) -> Table:
    columns = {}
    for name, cells in p.columns.items():
        text = isinstance(cells[0], str)
        columns[name] = np.array(cells, object) if text else np.array(cells, np.float64).reshape(-1, 1)
    return Table(columns)


def _digits(p: Any, files: Files) -> Table:
    with gzip.open(Path(__file__).with_name("digits.csv.gz"), "rt", encoding="ascii") as file:
        cells = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return Table({"pixels": cells[:, :64], "digit": cells[:, 64].astype(np.int64)})


def _bundled(name: str, columns: tuple[str, ...], target: str) -> Table:
    """A table that ships with the package: number columns, then the class."""
    with gzip.open(Path(__file__).with_name(f"{name}.csv.gz"), "rt", encoding="ascii") as file:
        cells = np.loadtxt(file, delimiter=",", dtype=np.float64)
    return Table({c: cells[:, [i]] for i, c in enumerate(columns)} | {target: cells[:, -1].astype(np.int64)})


def _text(p: Any, files: Files) -> Table:
    path = files.path(p.path)
    points = np.frombuffer(read_text(path).encode("utf-32-le"), np.uint32)
    return Table({"text": points.astype(np.int64)}, lambda row: f"character {row + 1} of {path.name}")


SOURCES: dict[str, Callable[[Any, Files], Table]] = {
    "csv": _csv,
    "idx": _idx,
    "npz": _npz,
    "npy": _npy,
    "table": _table,
    "digits": _digits,
    "iris": lambda p, files: _bundled("iris", ("sepal_length", "sepal_width", "petal_length", "petal_width"), "species"),
    "wine": lambda p, files: _bundled("wine", WINE, "cultivar"),
    "text": _text,
}
