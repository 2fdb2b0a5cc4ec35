"""Rows from outside: raw columns of a file, for `nnc eval --data` and `nnc predict`, a chunk at a time.

A file has the columns of the spec's source. An .npz may instead hold the raw inputs by data name, with the sample first.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Findings, Refusal, did_you_mean
from nnc.compiler.experiment import Data, DataName
from nnc.compiler.ir import TensorType
from nnc.compiler.prepare import raw_type
from nnc.compiler.schema import ColumnSchema, Files, array_schema, npz_members, number, read_cells
from nnc.compiler.source import Source
from nnc.runtime.ensemble import Ensemble
from nnc.runtime.kernels import Array
from nnc.runtime.model import Model

from .dataset import Learned, not_finite, prepare_all, prepared_column

CHUNK = 4096
ROWS_WANTED = "give the path of a file of rows"
Kinds = Mapping[str, TensorType]


@dataclass(frozen=True)
class Chunk:
    """Raw inputs under their data names; `row_name` says where a row stands in the file."""

    raw: dict[str, Array]
    row_name: Callable[[int], str]


def raw_chunks(model: Model | Ensemble, path: Path, kinds: Kinds) -> Iterator[Chunk]:
    """The raw inputs of the given types. Raises SpecError for a file that does not fit."""
    try:
        chunks = _from_npz if path.suffix == ".npz" else _from_text
        for chunk in chunks(model, path, list(kinds)):
            yield Chunk({name: _shaped(name, array, kinds[name], path) for name, array in chunk.raw.items()}, chunk.row_name)
    except Refusal as refusal:
        findings = Findings(Source(str(path), ""))
        findings.add_refusal(refusal, None)
        findings.stop_on_errors()


def served(model: Model | Ensemble, path: Path, kinds: Kinds) -> Iterator[dict[str, Array]]:
    """Raw inputs for the serving graph; E405 where the network would get what is no number."""
    data = model.program.experiment.data
    for chunk in raw_chunks(model, path, kinds):
        findings = Findings(Source(str(path), ""))
        for name, raw in chunk.raw.items():
            if raw.dtype.kind != "f" or np.isfinite(raw).all():
                continue
            entry = data.names[name] if data is not None else None
            for learned in _preparations(model):
                array = raw if data is None or entry is None else prepared_column(data, entry, raw.astype(model.program.dtype), model.program.dtype, learned)
                found = not_finite(array, entry.columns if entry is not None else (name,), chunk.row_name) if array.dtype.kind == "f" else None
                if found is not None:
                    findings.add("E405", None, found.label, name=name, what=found.what, help="the spec does not `impute` it: remove the row, or give a number")
                    break
        findings.stop_on_errors()
        yield chunk.raw


def labelled(model: Model | Ensemble, path: Path) -> Iterator[dict[str, Array]]:
    """Every data name of a file of labelled rows, prepared with what training learned; for an ensemble raw, once each member has taken it."""
    data = model.program.experiment.data
    findings = Findings(Source(str(path), ""))
    if data is None:
        findings.add("E514", None, "it does not say how labelled rows are read", help="train a spec with a data section", missing="data")
        findings.stop_on_errors()
    assert data is not None
    kinds = {name: raw_type(data, entry, model.program.dtype) for name, entry in data.names.items()}
    empty = True
    for chunk in raw_chunks(model, path, kinds):
        empty = False
        for learned in _preparations(model):
            prepared = prepare_all(model.program.experiment, data, model.program.dtype, chunk.raw, chunk.row_name, learned, findings)
        yield prepared if len(model.members) == 1 else chunk.raw
    if empty:
        findings.add("E410", None, "it has no rows", path=str(path), help="give a file with labelled rows")
        findings.stop_on_errors()


def _preparations(model: Model | Ensemble) -> list[Learned]:
    """What data steps have learned, each time that it differs."""
    members = model.members[:1] if isinstance(model, Ensemble) and model.alike else model.members
    return [Learned(m.learned, dict(m.program.learned or {})) for m in members]


def _shaped(name: str, array: Array, kind: TensorType, path: Path) -> Array:
    """The array in the dtype and shape of a raw input."""
    shape = (len(array), *(d for d in kind.shape[1:] if isinstance(d, int)))
    if array.size != np.prod(shape, dtype=np.int64):
        raise Refusal("E407", name=f"`{name}`", label=f"samples of shape {list(array.shape[1:])}, wanted is {list(shape[1:])}",
                      help="give rows like those that trained; windows are given ready, as an .npz")  # fmt: skip
    if kind.dtype == "string":
        return array.reshape(shape)
    if kind.dtype in ("int64", "uint8", "bool"):
        cast = _whole(name, array, np.dtype(kind.dtype))
        return cast.reshape(shape)
    return array.astype(kind.dtype).reshape(shape)


def _whole(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Numbers as integers, refused where that would change one."""
    with np.errstate(invalid="ignore"):
        cast = array.astype(dtype)
    wrong = (cast != array).reshape(len(array), -1)
    if wrong.any():
        row = int(np.argmax(wrong.any(axis=1)))
        value = array.reshape(len(array), -1)[row][int(np.argmax(wrong[row]))]
        raise Refusal("E407", name=f"`{name}`", label=f"row {row + 1} holds {float(value):g}, {dtype} is wanted", help="give whole numbers in range")
    return cast


# Arrays


def _from_npz(model: Model | Ensemble, path: Path, names: list[str]) -> Iterator[Chunk]:
    array_schema(npz_members(Files(path.parent, ROWS_WANTED).path(path.name)), path.name)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise Refusal("E410", label=str(error), path=path.name, help="write it with numpy.savez") from None
    data = model.program.experiment.data
    found = {}
    for name in names:
        entry = data.names.get(name) if data is not None else None
        if name in arrays or entry is None or not all(c in arrays for c in entry.columns):
            chosen = [name]
        else:
            chosen = list(entry.columns)
        if not all(c in arrays for c in chosen):
            raise Refusal("E402", column=name, label=f"{path.name} holds {', '.join(arrays) or 'nothing'}", help=did_you_mean(name, arrays))
        parts = [arrays[c] for c in chosen]
        found[name] = parts[0] if len(parts) == 1 else np.concatenate([a.reshape(len(a), -1) for a in parts], axis=1)
    rows = len(next(iter(found.values())))
    for start in range(0, rows, CHUNK):
        yield Chunk({name: array[start : start + CHUNK] for name, array in found.items()}, _row_of(start, path))


def _row_of(start: int, path: Path) -> Callable[[int], str]:
    return lambda row: f"row {start + row + 1} of {path.name}"


# Text


@dataclass(frozen=True)
class _Cells:
    """Which cells of a row make a raw input, and whether they are text."""

    names: list[str]
    places: list[int]
    text: bool


def _from_text(model: Model | Ensemble, path: Path, names: list[str]) -> Iterator[Chunk]:
    data = model.program.experiment.data
    source = data.source if data is not None else None
    separator = source.params.separator if source is not None and source.name == "csv" else "\t" if path.suffix == ".tsv" else ","
    gone = {"", *(source.params.gone if source is not None and source.name == "csv" else ())}
    header = source.params.header if source is not None and source.name == "csv" else True
    columns, rows = read_cells(Files(path.parent, ROWS_WANTED).path(path.name), separator, header)
    chosen = {name: _places(model, name, columns, path) for name in names}
    while chunk := list(islice(rows, CHUNK)):
        lines = [line for line, _ in chunk]
        raw = {name: _texts(chunk, cells, gone) if cells.text else _numbers(chunk, cells, gone, path) for name, cells in chosen.items()}
        yield Chunk(raw, _line_of(lines, path))


def _line_of(lines: list[int], path: Path) -> Callable[[int], str]:
    return lambda row: f"line {lines[row]} of {path.name}"


def _places(model: Model | Ensemble, name: str, columns: list[str], path: Path) -> _Cells:
    data: Data | None = model.program.experiment.data
    entry: DataName | None = data.names.get(name) if data is not None else None
    if data is None or entry is None:
        declared = next(i for i in model.program.experiment.network.inputs if i.name == name)
        wanted = _spread(name, ColumnSchema("float", declared.shape), columns)
        text = False
    else:
        first = data.schema.columns[entry.columns[0]]
        wanted = list(entry.columns) if not entry.single or first.shape in ((), (1,)) else _spread(entry.columns[0], first, columns)
        text = first.dtype == "string"
    for column in wanted:
        if column not in columns:
            raise Refusal("E402", column=column, label=f"{path.name} has {', '.join(columns[:12])}{', ...' if len(columns) > 12 else ''}",
                          help=did_you_mean(column, columns))  # fmt: skip
    at = {column: i for i, column in enumerate(columns)}
    return _Cells(wanted, [at[column] for column in wanted], text)


def _spread(column: str, schema: ColumnSchema, columns: list[str]) -> list[str]:
    """An array as cells: `pixels_0`, `pixels_1`, ... or, where there are exactly as many, all columns of the file."""
    size = int(np.prod(schema.shape, dtype=np.int64))
    if size == 1 and column in columns:
        return [column]
    return list(columns) if len(columns) == size else [f"{column}_{i}" for i in range(size)]


def _texts(chunk: list[tuple[int, list[str]]], cells: _Cells, gone: set[str]) -> Array:
    stripped = [row[cells.places[0]].strip() for _, row in chunk]
    return np.array(["" if cell in gone else cell for cell in stripped], object)


def _numbers(chunk: list[tuple[int, list[str]]], cells: _Cells, gone: set[str], path: Path) -> Array:
    found = np.empty((len(chunk), len(cells.places)))
    for i, (line, row) in enumerate(chunk):
        for j, place in enumerate(cells.places):
            cell = row[place].strip()
            value = float("nan") if cell in gone else number(cell)
            if value is None:
                raise Refusal("E404", step=f"`{cells.names[j]}`", label=f"line {line} of {path.name} holds `{cell[:30]}`", help="give a number there")
            found[i, j] = value
    return found
