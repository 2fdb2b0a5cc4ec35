"""Files of rows by kind: .npz, parquet, folders of images, plain text, and delimited text for everything else.

A reader gives raw columns under their data names, some rows at a time. What the file lacks, or holds in another form, is a Refusal.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Refusal, did_you_mean
from nnc.compiler.experiment import Data, DataName, Experiment
from nnc.compiler.images import Images, labelled, unlabelled
from nnc.compiler.ops.sources import text_params
from nnc.compiler.parquet import parquet_schema
from nnc.compiler.schema import SEPARATORS, ColumnSchema, Files, array_schema, npz_members, read_text, separator_of
from nnc.runtime.kernels import Array

from .columnar import parquet_batches, pixels
from .delimited import Delimited, NoNumber

CHUNK = 4096
ROWS_WANTED = "give the path of a file of rows"


@dataclass(frozen=True)
class Chunk:
    """Raw inputs under their data names; `row_name` says where a row stands in the file, `labels` what is told about it beside predictions."""

    raw: dict[str, Array]
    row_name: Callable[[int], str]
    series: Array | None = None  # the column of a `grouped` split, if the file has it
    labels: dict[str, list[Any]] = field(default_factory=dict)


def read(experiment: Experiment, path: Path, names: list[str]) -> Iterator[Chunk]:
    """The rows of a file, for these data names."""
    data = experiment.data
    if path.is_dir():
        return _from_folder(experiment, path, names)
    if path.suffix == ".npz":
        return _from_npz(experiment, path, names)
    if path.suffix == ".parquet" or (data is not None and data.source.name == "parquet" and path.suffix not in (".csv", ".tsv")):
        return _from_parquet(experiment, path, names)
    if data is not None and data.source.name == "text":
        return _from_plain(path, names)
    return _from_text(experiment, path, names)


def series_column(data: Data | None) -> str | None:
    """The column whose runs windows stay in."""
    return data.split.params.column.name if data is not None and data.split is not None and data.split.name == "grouped" else None


# Arrays


def _from_npz(experiment: Experiment, path: Path, names: list[str]) -> Iterator[Chunk]:
    array_schema(npz_members(Files(path.parent, ROWS_WANTED).path(path.name)), path.name)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise Refusal("E410", label=str(error), path=path.name, help="write it with numpy.savez") from None
    data = experiment.data
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
    series = arrays.get(series_column(data) or "")
    rows = len(next(iter(found.values())))
    for start in range(0, rows, CHUNK):
        part = slice(start, start + CHUNK)
        yield Chunk({name: array[part] for name, array in found.items()}, _row_of(start, path), None if series is None else series[part])


def _row_of(start: int, path: Path) -> Callable[[int], str]:
    return lambda row: f"row {start + row + 1} of {path.name}"


# Parquet


def _from_parquet(experiment: Experiment, path: Path, names: list[str]) -> Iterator[Chunk]:
    data = experiment.data
    file = Files(path.parent, ROWS_WANTED).path(path.name)
    schema = parquet_schema(file)
    chosen = {name: _places(experiment, name, [*schema.columns], path) for name in names}
    for name, columns in chosen.items():
        text = _is_text(data, name)
        for column in columns:
            if text != (schema.columns[column].dtype == "string"):
                raise Refusal("E404", step=name, label=f"column `{column}` of {path.name} holds {'numbers' if text else 'text'}",
                              help=f"give {'text' if text else 'numbers'} there")  # fmt: skip
    group = series_column(data)
    wanted = {column for columns in chosen.values() for column in columns} | ({group} if group is not None and group in schema.columns else set())
    start = 0
    for held, rows in _even(((batch, np.empty(len(next(iter(batch.values()))))) for batch in parquet_batches(file, sorted(wanted))), CHUNK):
        raw = {name: _joined([held[column] for column in columns]) for name, columns in chosen.items()}
        yield Chunk(raw, _row_of(start, path), held.get(group or ""))
        start += len(rows)


# Images


def _from_folder(experiment: Experiment, path: Path, names: list[str]) -> Iterator[Chunk]:
    """Images of a folder, and the classes of its folders where labels are wanted."""
    data = experiment.data
    if data is None or data.source.name != "image_folder":
        raise Refusal("E410", label="it is a directory", path=str(path), help="give a file of rows")
    columns = {name: data.names[name].columns[0] for name in names}
    if "label" in columns.values():
        found = labelled(path, path)
        known = data.schema.columns["label"].classes or ()
        other = next((c for c in found.classes if c not in known), None)
        if other is not None:
            raise Refusal("E406", name="label", label=f"`{other}` is a folder of {path.name}", help=f"the classes are {', '.join(map(str, known))}")
        labels = np.array([known.index(found.classes[i]) for i in found.labels], np.int64)
    else:
        found, labels = unlabelled(path), np.empty(0, np.int64)
    for start in range(0, len(found.paths), CHUNK):
        part = Images(found.paths[start : start + CHUNK])
        raw = {n: pixels(part.paths, data.schema.columns[c].shape) if c == "image" else labels[start : start + CHUNK] for n, c in columns.items()}
        files = [p.relative_to(path).as_posix() for p in part.paths]
        yield Chunk(raw, files.__getitem__, None, {"file": files})


# Text


def _from_plain(path: Path, names: list[str]) -> Iterator[Chunk]:
    """A text, a row a character."""
    content = read_text(Files(path.parent, ROWS_WANTED).path(path.name))
    points = np.frombuffer(content.encode("utf-32-le"), np.uint32).astype(np.int64)
    yield Chunk(dict.fromkeys(names, points), lambda row: f"character {row + 1} of {path.name}")


def _from_text(experiment: Experiment, path: Path, names: list[str]) -> Iterator[Chunk]:
    data = experiment.data
    given = text_params(data.source) if data is not None else None
    separator = given.separator if given is not None else "\t" if path.suffix == ".tsv" else ","
    file = Files(path.parent, ROWS_WANTED).path(path.name)
    source = Delimited(file, separator, given.header if given is not None else True, given.gone if given is not None else ())
    chosen = {name: _places(experiment, name, source.names, path) for name in names}
    group = series_column(data)
    group = group if group in source.names else None
    texts = {column for name, columns in chosen.items() for column in columns if _is_text(data, name)}
    numbers = {column for columns in chosen.values() for column in columns} - texts
    if data is not None and group is not None and group not in numbers:
        (texts if data.schema.columns[group].dtype == "string" else numbers).add(group)
    try:
        for held, lines in _even(((block.columns, np.array(block.lines)) for block in source.blocks(numbers, texts)), CHUNK):
            raw = {name: _joined([held[column] for column in columns]) for name, columns in chosen.items()}
            yield Chunk(raw, _line_of(lines, path), held[group] if group is not None else None)
    except NoNumber as found:
        step = next((name for name, columns in chosen.items() if found.column in columns), found.column)
        raise Refusal("E404", step=step, label=f"line {found.line} of {path.name} holds `{found.cell[:30]}`", help="give a number there") from None


def _joined(columns: list[Array]) -> Array:
    return columns[0] if len(columns) == 1 else np.ascontiguousarray(np.concatenate(columns, axis=1))


def _even(blocks: Iterator[tuple[dict[str, Array], Array]], size: int) -> Iterator[tuple[dict[str, Array], Array]]:
    """The same rows, `size` at a time: what a row gives then does not depend on how a file was read."""
    held: tuple[dict[str, Array], Array] | None = None
    for columns, rows in blocks:
        if held is not None:
            columns, rows = {name: np.concatenate([held[0][name], array]) for name, array in columns.items()}, np.concatenate([held[1], rows])
        whole = len(rows) - len(rows) % size
        for start in range(0, whole, size):
            yield {name: array[start : start + size] for name, array in columns.items()}, rows[start : start + size]
        held = {name: array[whole:] for name, array in columns.items()}, rows[whole:]
    if held is not None and len(held[1]):
        yield held


def _line_of(lines: Array, path: Path) -> Callable[[int], str]:
    return lambda row: f"line {lines[row]} of {path.name}"


def _is_text(data: Data | None, name: str) -> bool:
    entry = data.names.get(name) if data is not None else None
    return data is not None and entry is not None and data.schema.columns[entry.columns[0]].dtype == "string"


def _places(experiment: Experiment, name: str, columns: list[str], path: Path) -> list[str]:
    """The columns of the file that make a raw input."""
    data = experiment.data
    entry: DataName | None = data.names.get(name) if data is not None else None
    if data is None or entry is None:
        declared = next(i for i in experiment.network.inputs if i.name == name)
        wanted = _spread(name, ColumnSchema("float", declared.shape), columns)
    else:
        first = data.schema.columns[entry.columns[0]]
        wanted = list(entry.columns) if not entry.single or first.shape in ((), (1,)) else _spread(entry.columns[0], first, columns)
    for column in wanted:
        if column not in columns:
            separator = separator_of(column, columns)
            read = text_params(data.source) if data is not None else None
            if separator is not None and read is not None and read.separator in SEPARATORS:
                raise Refusal("E402", column=column, label=f"the cells of {path.name} stand between {SEPARATORS[separator]}",
                              help=f"write them with {SEPARATORS[read.separator]} between, as the source of the spec has them")  # fmt: skip
            raise Refusal("E402", column=column, label=f"{path.name} has {', '.join(columns[:12])}{', ...' if len(columns) > 12 else ''}",
                          help=did_you_mean(column, columns))  # fmt: skip
    return wanted


def _spread(column: str, schema: ColumnSchema, columns: list[str]) -> list[str]:
    """An array as cells: `pixels_0`, `pixels_1`, ... or, where there are exactly as many, all columns of the file."""
    size = int(np.prod(schema.shape, dtype=np.int64))
    if size == 1 and column in columns:
        return [column]
    return list(columns) if len(columns) == size else [f"{column}_{i}" for i in range(size)]
