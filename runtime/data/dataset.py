"""A data section made ready: rows read and split, steps fitted on the training rows, every data name prepared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler import pipeline
from nnc.compiler.diagnostics import Findings, Refusal
from nnc.compiler.experiment import Data, DataName, Experiment
from nnc.compiler.ir import Graph
from nnc.compiler.lower import MAX_BYTES
from nnc.compiler.prepare import prepare
from nnc.compiler.schema import Files, Schema, number
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.kernels import Randomness

from .fit import FITS, balanced
from .sources import SOURCES, Table
from .splits import split_rows, split_windows

Array = np.ndarray[Any, Any]
CHUNK = 4096


@dataclass
class Learned:
    """What data steps found: arrays by variable name, classes by path."""

    arrays: dict[str, Array]
    classes: dict[str, tuple[Any, ...]]


@dataclass
class Dataset:
    """`arrays` holds every data name for all rows; `splits` the rows of each split; `raw` the raw column of each data name."""

    arrays: dict[str, Array]
    splits: dict[str, Array]
    raw: dict[str, Array]
    learned: Learned
    schema: Schema
    digest: str

    def rows(self, split: str) -> int:
        return len(self.splits[split])

    def batches(self, split: str, size: int) -> Iterator[dict[str, Array]]:
        """The split in its order, for evaluation."""
        rows = self.splits[split]
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            yield {name: array[chosen] for name, array in self.arrays.items()}


def raw_column(table: Table, name: DataName, dtype: str) -> Array:
    """The raw column or columns of a data name, as the graph's input takes them."""
    if name.single:
        column = table.columns[name.columns[0]]
        return column.astype(dtype) if column.dtype.kind == "f" else column
    return np.concatenate([table.columns[c].reshape(-1, 1).astype(dtype) for c in name.columns], axis=1)


def transform(graph: Graph, variables: Mapping[str, Array], raw: Mapping[str, Array]) -> dict[str, Array]:
    """Run a graph of data steps over all rows, in chunks."""
    executor = Executor(graph, variables, Randomness(0), Arena())
    rows = len(next(iter(raw.values())))
    parts: dict[str, list[Array]] = {name: [] for name in graph.outputs}
    for start in range(0, rows, CHUNK):
        found = executor.run({name: array[start : start + CHUNK] for name, array in raw.items()})
        for name, array in found.items():
            parts[name].append(array.copy())
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def windows(raw: Array, window: Any, samples: int) -> Array:
    """The rows of each sample beside each other."""
    within = raw[window.offset : window.offset + (samples - 1) * window.stride + window.length]
    view = np.lib.stride_tricks.sliding_window_view(within, window.length, axis=0)[:: window.stride]
    return np.ascontiguousarray(np.moveaxis(view, -1, 1))


def prepared_column(data: Data, name: DataName, raw: Array, dtype: str, learned: Learned) -> Array:
    """The raw rows of a data name through its steps."""
    made = prepare(data, name, dtype, learned.classes)
    if made.column.value is made.raw:
        return raw
    return transform(Graph({"column": made.column.value}), learned.arrays, {name.name: raw})["column"]


def fit(data: Data, raws: Mapping[str, Array], train: Array, dtype: str) -> Learned:
    """Fit each step on the training rows that reach it."""
    learned = Learned({}, {})
    for name in data.names.values():
        raw = raws[name.name]
        for place, step in enumerate(name.steps):
            if step.bound.name not in FITS or not step.bound.operation.extra.get("learns"):
                continue
            if step.path in learned.classes or any(key.startswith(f"data/{step.path}/") for key in learned.arrays):
                continue  # a step of a data name that this one starts from
            before = replace(name, steps=name.steps[:place])
            arrays, classes = FITS[step.bound.name](prepared_column(data, before, raw[train], dtype, learned), step.bound.params)
            for role, array in arrays.items():
                learned.arrays[f"data/{step.path}/{role}"] = array.astype(dtype)
            if classes is not None:
                learned.classes[step.path] = classes
    return learned


def load(program: pipeline.Program, root: Path, max_bytes: int = MAX_BYTES) -> tuple[pipeline.Program, Dataset]:
    """Read, split, fit and prepare; the program checked again with what the data turned out to be.

    Raises SpecError with one diagnostic for a file, row or value that does not fit.
    """
    experiment = program.experiment
    data = experiment.data
    assert data is not None
    findings = Findings(experiment.source)
    source = data.source
    try:
        table = SOURCES[source.name](source.params, Files(root))
        if not table.rows:
            raise Refusal("E410", label="it has no rows", path=str(getattr(source.params, "path", source.name)), help="give a file with rows")
        _check_kinds(data, table)
        schema = table.schema(data.schema)
        data = replace(data, schema=schema)
        raws = {name: raw_column(table, entry, program.dtype) for name, entry in data.names.items()}
        _check_distinct(data, raws, table)
        _check_infinite(data, raws, table, findings)
        stratify = getattr(data.split.params, "stratify", None) if data.split is not None else None
        try:
            cuts = {n: d.window for n, d in data.names.items() if d.window is not None}
            if cuts:
                inputs = {i.name for i in experiment.network.inputs}
                splits, fitted = split_windows(data.split, table.rows, [*cuts.values()], [w for n, w in cuts.items() if n not in inputs])
            else:
                splits = split_rows(data.split, table.rows, raws[stratify.name] if stratify is not None else None)
                fitted = splits["train"]
        except Refusal as refusal:
            findings.add_refusal(refusal, data.split.span if data.split else None)
            findings.stop_on_errors()
            raise
        learned = fit(data, raws, fitted, program.dtype)
        if cuts:
            samples = max(int(rows.max()) for rows in splits.values()) + 1
            raws = {name: windows(raws[name], window, samples) for name, window in cuts.items()}
    except Refusal as refusal:
        path = source.spans.get("path") or next(iter(source.spans.values()), source.span)
        findings.add_refusal(refusal, path)
        findings.stop_on_errors()
        raise
    arrays = prepare_all(experiment, data, program.dtype, raws, table.row_name, learned, findings)
    for name in {w.name: None for w in experiment.train.params.sample_weights()} if experiment.train is not None else ():
        if not arrays[name][splits["train"]].any():
            findings.add("E415", data.names[name].span, "in all training rows", name=name, what="all 0", help="give some training row a weight above 0")
    findings.stop_on_errors()
    for balance in program.balances:
        learned.arrays[balance.name] = balanced(arrays[balance.target][splits["train"]], balance.classes, balance.binary).astype(program.dtype)
    known = pipeline.analyse(experiment.source, root=None, overrides=experiment.overrides, schema=schema, learned=learned.classes, max_bytes=max_bytes)
    return known, Dataset(arrays, splits, raws, learned, schema, _digest(raws))


def _check_kinds(data: Data, table: Table) -> None:
    """Of a large file only the first rows were looked at before: a number column may turn out to hold text."""
    for name in data.names.values():
        for column in name.columns:
            if data.schema.columns[column].dtype == "float" and table.columns[column].dtype == object:
                row, cell = next((i, c) for i, c in enumerate(table.columns[column].tolist()) if c and number(c) is None)
                raise Refusal("E404", step=f"`{name.name}`", label=f"column `{column}` holds `{cell[:30]}` in {table.row_name(row)}",
                              help="numbers are wanted: repair the row, or name the word with csv(..., missing=[...])")  # fmt: skip


def _check_distinct(data: Data, raws: Mapping[str, Array], table: Table) -> None:
    """Numbers that are categories, such as long identifiers, stay apart in the program's precision."""
    for name, entry in data.names.items():
        raw, column = raws[name], table.columns[entry.columns[0]]
        if not entry.single or raw.dtype == column.dtype or raw.dtype.kind != "f" or not any(s.bound.operation.extra.get("classes") for s in entry.steps):
            continue
        whole, kept = np.unique(column), np.unique(raw)
        if len(kept) < len(whole):
            raise Refusal("E404", step=f"`{name}`", label=f"{len(whole):,} different numbers are {len(kept):,} in {raw.dtype}",
                          help="use precision = float64, or write the categories as words")  # fmt: skip


def _check_infinite(data: Data, raws: Mapping[str, Array], table: Table, findings: Findings) -> None:
    """An infinity is found before a step learns from it, which would spoil every row."""
    for name, raw in raws.items():
        if raw.dtype.kind == "f" and np.isinf(raw).any():
            found = not_finite(np.where(np.isinf(raw), raw, 0), data.names[name].columns, table.row_name)
            assert found is not None
            findings.add("E405", data.names[name].span, found.label, name=name, what=found.what, help="repair or remove the row")
    findings.stop_on_errors()


def prepare_all(
    experiment: Experiment, data: Data, dtype: str, raws: Mapping[str, Array], row_name: Callable[[int], str], learned: Learned, findings: Findings
) -> dict[str, Array]:
    """Every data name for the given raw rows; E405 or E406 names a row whose values do not fit."""
    inputs = {i.name for i in experiment.network.inputs}
    weights = {w.name for w in experiment.train.params.sample_weights()} if experiment.train is not None else set()
    arrays = {}
    for name, raw in raws.items():
        entry = data.names[name]
        array = arrays[name] = prepared_column(data, entry, raw, dtype, learned)
        found = not_finite(array, entry.columns, row_name) if array.dtype.kind == "f" else None
        if found is not None:
            findings.add("E405", entry.span, found.label, name=name, what=found.what, help="add `-> impute(median)`, or remove the rows")
        below = (array.reshape(len(array), -1) < 0).any(axis=1) if name in weights else np.zeros(0, bool)
        if below.any():
            first = int(np.argmax(below))
            findings.add("E415", entry.span, f"{array[first].min():g} in {row_name(first)}", name=name, what="below 0",
                         help="use 0 for rows that shall not count")  # fmt: skip
        classes = prepare(data, entry, dtype, learned.classes).column.classes
        if name not in inputs and classes is not None:
            row = _unseen(array, len(classes))
            if row is not None:
                findings.add("E406", entry.span, f"{_shown(raw[row])} in {row_name(row)}", name=name,
                             help="name all classes: category([...]), or remove the row")  # fmt: skip
    findings.stop_on_errors()
    return arrays


def _unseen(array: Array, classes: int) -> int | None:
    """The first row of a target that is none of its classes: an index outside them, or a row of zeros."""
    flat = array.reshape(len(array), -1)
    outside = ((flat < 0) | (flat >= classes)).any(axis=1) if array.dtype == np.int64 else ~flat.any(axis=1)
    return int(np.argmax(outside)) if outside.any() else None


@dataclass(frozen=True)
class NotFinite:
    """The first row with a NaN or an infinity, in words."""

    what: str
    label: str


def not_finite(array: Array, columns: Sequence[str], row_name: Callable[[int], str]) -> NotFinite | None:
    """Where an array of a data name, raw or prepared, holds what is no number."""
    flat = array.reshape(len(array), -1)
    bad = ~np.isfinite(flat).all(axis=1)
    if not bad.any():
        return None
    row = int(np.argmax(bad))
    place = int(np.argmax(~np.isfinite(flat[row])))
    column = columns[place] if flat.shape[1] == len(columns) else columns[0]
    more = int(bad.sum())
    label = f"column `{column}`, {row_name(row)}{f'; {more:,} rows in all' if more > 1 else ''}"
    return NotFinite("a missing value (NaN)" if np.isnan(flat[row, place]) else "an infinite value", label)


def _shown(raw: Any) -> str:
    """A raw value as the file has it, as far as that is known."""
    value = raw.reshape(-1)[0] if isinstance(raw, np.ndarray) else raw
    if isinstance(value, str):
        return f"`{value}`" if value else "a missing value"
    return "a missing value" if value != value else f"{float(value):.10g}"


def _digest(raws: Mapping[str, Array]) -> str:
    """SHA-256 over the raw columns in use."""
    digest = hashlib.sha256()
    for name in sorted(raws):
        array = raws[name]
        digest.update(f"{name}:{array.dtype}:{array.shape}".encode())
        if array.dtype == object:
            digest.update("\0".join(array.tolist()).encode())
        else:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
