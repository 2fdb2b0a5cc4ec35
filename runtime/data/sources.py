"""Read the rows of a source. What each gives is declared in compiler/ops/sources.py; a test holds the two tables together."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Refusal
from nnc.compiler.images import labelled
from nnc.compiler.ops.sources import WINE
from nnc.compiler.schema import ColumnSchema, Files, Schema, idx_bytes, idx_header, idx_size, npy_header, npz_members, read_text

from .columnar import parquet_batches, pixels
from .delimited import Delimited, NoNumber
from .stored import Column, Stored, chained, in_file, in_npy, large_members, parts, too_large

Array = np.ndarray[Any, Any]
Wanted = Mapping[str, ColumnSchema]


@dataclass(frozen=True)
class Table:
    """Columns as arrays with the sample first. `row_name` says where a row stands in the source, for messages."""

    columns: Mapping[str, Column]
    row_name: Callable[[int], str] = lambda row: f"row {row + 1}"

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def schema(self, promised: Schema) -> Schema:
        """The schema with what only the whole source tells: classes of integers."""
        columns = dict(promised.columns)
        for name, array in self.columns.items():
            known = promised.columns[name]
            classes = known.classes
            if name == "text" and "text" in promised.values:
                columns[name] = known
                continue
            if classes is None and array.dtype == np.int64 and array.ndim == 1 and array.size:
                low, high = (function(function(part) for _, part in parts(array)) for function in (min, max))
                if low >= 0 and high < 100_000:
                    classes = tuple(range(int(high) + 1))
            columns[name] = ColumnSchema(known.dtype, known.shape, classes)
        return Schema(columns, self.rows, promised.values)


def joined(tables: Sequence[Table], schemas: Sequence[Schema], columns: Sequence[str]) -> Table:
    """The rows of several tables one after another. Classes with names are those of the first, whatever numbers they have elsewhere."""
    found: dict[str, list[Column]] = {name: [] for name in columns}
    for table, schema in zip(tables, schemas, strict=True):
        for name in columns:
            mine, its = schemas[0].columns[name].classes, schema.columns[name].classes
            array = table.columns[name]
            if mine is not None and its is not None and mine != its and isinstance(its[0], str):
                places = np.array([mine.index(c) if c in mine else len(mine) for c in its])
                array = array.through(places.__getitem__) if isinstance(array, Stored) else places[array]
            found[name].append(array)
    ends = np.cumsum([table.rows for table in tables]).tolist()

    def row_name(row: int) -> str:
        place = bisect_right(ends, row)
        return tables[place].row_name(row - (ends[place - 1] if place else 0))

    return Table({name: chained(arrays) for name, arrays in found.items()}, row_name)


def _delimited(p: Any, files: Files, wanted: Wanted) -> Table:
    """Columns of text as the schema promises, or where a number column turns out to hold something else."""
    path = files.path(p.path)
    source = Delimited(path, p.separator, p.header, p.gone)
    texts = {name for name, column in wanted.items() if column.dtype == "string"}
    while True:
        try:
            return Table(*source.whole(wanted.keys() - texts, texts))
        except NoNumber as other:
            texts.add(other.column)


def _idx(p: Any, files: Files, wanted: Wanted) -> Table:
    images, labels = files.path(p.images), files.path(p.labels)
    _, shape, offset = idx_header(images)
    shape = (shape[0], 1, *shape[1:])
    if images.suffix != ".gz" and too_large(prod(shape)):
        idx_size(images)
        pixels: Column = in_file(images, offset, shape, np.dtype(np.uint8))
    else:
        pixels = np.frombuffer(idx_bytes(images), np.uint8).reshape(shape)
    return Table({"image": pixels, "label": np.frombuffer(idx_bytes(labels), np.uint8).astype(np.int64)})


def _npz(p: Any, files: Files, wanted: Wanted) -> Table:
    path = files.path(p.path)
    members = npz_members(path)  # declared sizes against stored bytes, before anything is allocated
    try:
        large = large_members(path, {name for name, (_, shape) in members.items() if too_large(prod(shape))})
        with np.load(path, allow_pickle=False) as archive:
            return Table({name: _array(large[name] if name in large else archive[name]) for name in archive.files})
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise Refusal("E410", label=str(error), path=p.path, help="write it with numpy.savez") from None


def _npy(p: Any, files: Files, wanted: Wanted) -> Table:
    path = files.path(p.path)
    with path.open("rb") as file:
        _, shape = npy_header(file, path.name, path.stat().st_size)
    try:
        stored = in_npy(path, 0) if too_large(prod(shape)) else None
        if stored is not None:
            return Table({"array": _array(stored)})
        return Table({"array": _array(np.load(path, allow_pickle=False))})
    except (ValueError, OSError, EOFError) as error:
        raise Refusal("E410", label=str(error), path=p.path, help="write it with numpy.save") from None


def _array(array: Column) -> Column:
    """Signed and wide integers as int64, half floats as float32; others as they are."""
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        return array.astype(np.int64)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _table(p: Any, files: Files, wanted: Wanted) -> Table:
    columns = {}
    for name, cells in p.columns.items():
        text = isinstance(cells[0], str)
        columns[name] = np.array(cells, object) if text else np.array(cells, np.float64).reshape(-1, 1)
    return Table(columns)


def _digits(p: Any, files: Files, wanted: Wanted) -> Table:
    with gzip.open(Path(__file__).with_name("digits.csv.gz"), "rt", encoding="ascii") as file:
        cells = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return Table({"pixels": cells[:, :64], "digit": cells[:, 64].astype(np.int64)})


def _bundled(name: str, columns: tuple[str, ...], target: str) -> Table:
    """A table that ships with the package: number columns, then the class."""
    with gzip.open(Path(__file__).with_name(f"{name}.csv.gz"), "rt", encoding="ascii") as file:
        cells = np.loadtxt(file, delimiter=",", dtype=np.float64)
    return Table({c: cells[:, [i]] for i, c in enumerate(columns)} | {target: cells[:, -1].astype(np.int64)})


def _text(p: Any, files: Files, wanted: Wanted) -> Table:
    path = files.path(p.path)
    points = np.frombuffer(read_text(path).encode("utf-32-le"), np.uint32)
    return Table({"text": points.astype(np.int64)}, lambda row: f"character {row + 1} of {path.name}")


def _parquet(p: Any, files: Files, wanted: Wanted) -> Table:
    path = files.path(p.path)
    batches = [*parquet_batches(path, wanted)]
    empty = {name: np.empty(0, object) if c.dtype == "string" else np.empty((0, 1)) for name, c in wanted.items()}
    return Table({name: np.concatenate([empty[name], *(part.pop(name) for part in batches)]) for name in wanted}, lambda row: f"row {row + 1} of {path.name}")


def _image_folder(p: Any, files: Files, wanted: Wanted) -> Table:
    folder = files.folder(p.path)
    found = labelled(folder, files.root)
    columns = {"label": np.array(found.labels, np.int64)}
    if "image" in wanted:
        columns["image"] = pixels(found.paths, wanted["image"].shape)
    return Table(columns, lambda row: found.paths[row].relative_to(folder).as_posix())


# A reader gives the columns that are wanted, with what their schema promises; it may give more.
SOURCES: dict[str, Callable[[Any, Files, Wanted], Table]] = {
    "csv": _delimited,
    "tsv": lambda p, files, wanted: _delimited(p.as_csv, files, wanted),
    "idx": _idx,
    "npz": _npz,
    "npy": _npy,
    "table": _table,
    "digits": _digits,
    "iris": lambda p, files, wanted: _bundled("iris", ("sepal_length", "sepal_width", "petal_length", "petal_width"), "species"),
    "wine": lambda p, files, wanted: _bundled("wine", WINE, "cultivar"),
    "text": _text,
    "parquet": _parquet,
    "image_folder": _image_folder,
}
