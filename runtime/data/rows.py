"""Rows from outside: raw columns of a file, for `nnc eval --data` and `nnc predict`.

A file has the columns of the spec's source. An .npz may instead hold the raw inputs by data name, with the sample first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Findings, Refusal, did_you_mean
from nnc.compiler.experiment import Data, DataName
from nnc.compiler.schema import ColumnSchema, Files, npz_members, number, read_cells
from nnc.compiler.source import Source
from nnc.runtime.kernels import Array
from nnc.runtime.model import Model

from .dataset import Learned, prepare_all
from .sources import SOURCES, Table

CHUNK = 4096


def raw_batches(model: Model, path: Path, names: list[str]) -> Iterator[dict[str, Array]]:
    """Raw inputs in chunks, each under its data name. Raises SpecError for a file that does not fit."""
    try:
        if path.suffix == ".npz":
            yield from _from_npz(model, path, names)
        else:
            yield from _from_text(model, path, names)
    except Refusal as refusal:
        findings = Findings(Source(str(path), ""))
        findings.add_refusal(refusal, None)
        findings.stop_on_errors()


def _data(model: Model) -> Data | None:
    return model.program.experiment.data


def _from_npz(model: Model, path: Path, names: list[str]) -> Iterator[dict[str, Array]]:
    files = Files(path.parent)
    npz_members(files.path(path.name))
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    data = _data(model)
    found = {}
    for name in names:
        column = data.names[name].columns[0] if data is not None and name in data.names and data.names[name].single else name
        chosen = name if name in arrays else column
        if chosen not in arrays:
            raise Refusal("E402", column=name, label=f"{path.name} holds {', '.join(arrays)}", help=did_you_mean(name, arrays))
        found[name] = arrays[chosen]
    rows = len(next(iter(found.values())))
    for start in range(0, rows, CHUNK):
        yield {name: array[start : start + CHUNK] for name, array in found.items()}


def _from_text(model: Model, path: Path, names: list[str]) -> Iterator[dict[str, Array]]:
    data = _data(model)
    source = data.source if data is not None else None
    separator = source.params.separator if source is not None and source.name == "csv" else "\t" if path.suffix == ".tsv" else ","
    gone = {"", *(source.params.gone if source is not None and source.name == "csv" else ())}
    header = source.params.header if source is not None and source.name == "csv" else True
    columns, rows = read_cells(Files(path.parent).path(path.name), separator, header)
    places = {name: _places(model, name, columns, path) for name in names}
    while chunk := list(islice(rows, CHUNK)):
        batch = {}
        for name, (wanted, text) in places.items():
            batch[name] = _cells(chunk, wanted, [columns[i] for i in wanted], gone, text, path)
        yield batch


def _places(model: Model, name: str, columns: list[str], path: Path) -> tuple[list[int], bool]:
    """Which cells of a row make a raw input, and whether they are text."""
    data = _data(model)
    if data is None or name not in data.names:
        declared = next(i for i in model.program.experiment.network.inputs if i.name == name)
        wanted = _spread(name, ColumnSchema("float", declared.shape), columns)
        text = False
    else:
        entry: DataName = data.names[name]
        first = data.schema.columns[entry.columns[0]]
        wanted = list(entry.columns) if not entry.single or first.shape in ((), (1,)) else _spread(entry.columns[0], first, columns)
        text = first.dtype == "string"
    for column in wanted:
        if column not in columns:
            raise Refusal("E402", column=column, label=f"{path.name} has {len(columns)} columns", help=did_you_mean(column, columns))
    return [columns.index(column) for column in wanted], text


def _spread(column: str, schema: ColumnSchema, columns: list[str]) -> list[str]:
    """An array as cells: `pixels_0`, `pixels_1`, ... or, where there are exactly as many, all columns of the file."""
    size = int(np.prod(schema.shape, dtype=np.int64))
    if size == 1 and column in columns:
        return [column]
    return list(columns) if len(columns) == size else [f"{column}_{i}" for i in range(size)]


def _cells(chunk: list[tuple[int, list[str]]], wanted: list[int], names: list[str], gone: set[str], text: bool, path: Path) -> Array:
    if text:
        return np.array(["" if row[wanted[0]].strip() in gone else row[wanted[0]].strip() for _, row in chunk], object)
    found = np.empty((len(chunk), len(wanted)))
    for i, (line, row) in enumerate(chunk):
        for j, place in enumerate(wanted):
            cell = row[place].strip()
            value = float("nan") if cell in gone else number(cell)
            if value is None:
                raise Refusal("E404", step=f"`{names[j]}`", label=f"line {line} of {path.name} holds `{cell[:30]}`", help="give a number there")
            found[i, j] = value
    return found


def labelled(model: Model, path: Path) -> dict[str, Array]:
    """Every data name of a file of labelled rows, prepared with what training learned."""
    data = _data(model)
    findings = Findings(model.program.experiment.source)
    if data is None or "path" not in type(data.source.params).model_fields:
        findings.add("E401", None, "the spec's source takes no single file", path=str(path), help="give a spec with a csv, npz or npy source")
        findings.stop_on_errors()
    assert data is not None
    try:
        params = data.source.params.model_copy(update={"path": path.name})
        table: Table = SOURCES[data.source.name](params, Files(path.parent))
        for name, wanted in data.schema.columns.items():
            used = any(name in entry.columns for entry in data.names.values())
            if used and name not in table.columns:
                raise Refusal("E402", column=name, label=path.name, help=did_you_mean(name, table.columns))
            if used and (table.columns[name].dtype == object) != (wanted.dtype == "string"):
                raise Refusal("E404", step=f"column `{name}`", label=f"{path.name} holds {'text' if wanted.dtype != 'string' else 'numbers'} there",
                              help="give a file like the one that trained")  # fmt: skip
    except Refusal as refusal:
        findings = Findings(Source(str(path), ""))
        findings.add_refusal(refusal, None)
        findings.stop_on_errors()
        raise
    return prepare_all(model.program, table, Learned(model.learned, dict(model.program.learned or {})), findings)


def shaped(model: Model, raw: Mapping[str, Array], kinds: Mapping[str, Any]) -> dict[str, Array]:
    """Raw arrays in the dtypes and shapes of the serving graph's inputs; E513 where they cannot be."""
    found = {}
    for name, array in raw.items():
        kind = kinds[name]
        shape = (len(array), *kind.shape[1:])
        if array.size != np.prod(shape, dtype=np.int64):
            findings = Findings(Source("", ""))
            findings.add("E513", None, f"`{name}` has samples of shape {list(array.shape[1:])}, wanted is {list(kind.shape[1:])}", help="reshape it")
            findings.stop_on_errors()
        found[name] = array.reshape(shape) if kind.dtype == "string" else array.astype(kind.dtype).reshape(shape)
    return found
