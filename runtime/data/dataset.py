"""A data section made ready: rows read and split, steps fitted on the training rows, every data name prepared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler import pipeline
from nnc.compiler.diagnostics import Findings, Refusal
from nnc.compiler.experiment import Data, DataName
from nnc.compiler.ir import Graph
from nnc.compiler.lower import MAX_BYTES
from nnc.compiler.prepare import prepare
from nnc.compiler.schema import Files, Schema
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.kernels import Randomness

from .fit import FITS
from .sources import SOURCES, Table
from .splits import split_rows

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


def _prepared(data: Data, name: DataName, raw: Array, dtype: str, learned: Learned) -> Array:
    made = prepare(data, name, dtype, learned.classes)
    if made.column.value is made.raw:
        return raw
    return transform(Graph({"column": made.column.value}), learned.arrays, {name.name: raw})["column"]


def fit(data: Data, table: Table, train: Array, dtype: str) -> tuple[Learned, dict[str, Array]]:
    """Fit each step on the training rows that reach it; also the raw column of every data name."""
    learned = Learned({}, {})
    raws = {}
    for name in data.names.values():
        raw = raws[name.name] = raw_column(table, name, dtype)
        for place, step in enumerate(name.steps):
            if step.bound.name not in FITS or not step.bound.operation.extra.get("learns"):
                continue
            if step.path in learned.classes or any(key.startswith(f"data/{step.path}/") for key in learned.arrays):
                continue  # a step of a data name that this one starts from
            before = replace(name, steps=name.steps[:place])
            arrays, classes = FITS[step.bound.name](_prepared(data, before, raw[train], dtype, learned), step.bound.params)
            for role, array in arrays.items():
                learned.arrays[f"data/{step.path}/{role}"] = array.astype(dtype)
            if classes is not None:
                learned.classes[step.path] = classes
    return learned, raws


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
        schema = table.schema(data.schema)
        data = replace(data, schema=schema)
        stratify = getattr(data.split.params, "stratify", None) if data.split is not None else None
        classes = raw_column(table, data.names[stratify.name], program.dtype) if stratify is not None else None
        try:
            splits = split_rows(data.split, table.rows, classes)
        except Refusal as refusal:
            findings.add_refusal(refusal, data.split.span if data.split else None)
            findings.stop_on_errors()
            raise
        learned, raws = fit(data, table, splits["train"], program.dtype)
    except Refusal as refusal:
        path = source.spans.get("path") or next(iter(source.spans.values()), source.span)
        findings.add_refusal(refusal, path)
        findings.stop_on_errors()
        raise
    known = pipeline.analyse(experiment.source, root=None, overrides=experiment.overrides, schema=schema, learned=learned.classes, max_bytes=max_bytes)
    arrays = prepare_all(known, table, learned, findings)
    return known, Dataset(arrays, splits, raws, learned, schema, _digest(raws))


def prepare_all(program: pipeline.Program, table: Table, learned: Learned, findings: Findings) -> dict[str, Array]:
    """Every data name for all rows of a table; E405 or E406 names a row whose values do not fit."""
    data = program.experiment.data
    assert data is not None
    arrays = {name: _prepared(data, entry, raw_column(table, entry, program.dtype), program.dtype, learned) for name, entry in data.names.items()}
    _check_values(program, arrays, table, findings)
    findings.stop_on_errors()
    return arrays


def _check_values(program: pipeline.Program, arrays: Mapping[str, Array], table: Table, findings: Findings) -> None:
    """No NaN where a number is wanted, and no class in a target that training has not seen."""
    experiment = program.experiment
    assert experiment.data is not None
    inputs = {i.name for i in experiment.network.inputs}
    for name, array in arrays.items():
        entry = experiment.data.names[name]
        if array.dtype.kind == "f":
            bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
            if bad.any():
                row = int(np.argmax(bad))
                found = array.reshape(len(array), -1)[row]
                column = entry.columns[int(np.argmax(~np.isfinite(found)))] if len(found) == len(entry.columns) else entry.columns[0]
                what = "a missing value (NaN)" if np.isnan(found).any() else "an infinite value"
                findings.add("E405", entry.span, f"column `{column}`, {table.row_name(row)}; {int(bad.sum())} rows in all", name=name, what=what,
                             help="add `-> impute(median)`, or remove the rows")  # fmt: skip
        classes = program.prepared[name].column.classes
        if name not in inputs and classes is not None and array.dtype == np.int64:
            outside = (array < 0) | (array >= len(classes))
            if outside.any():
                row = int(np.argmax(outside.reshape(len(array), -1).any(axis=1)))
                shown = table.columns[entry.columns[0]][row]
                value = shown.reshape(-1)[0] if isinstance(shown, np.ndarray) else shown
                findings.add("E406", entry.span, f"{value!r} in {table.row_name(row)}", name=name,
                             help="name all classes: category([...]), or remove the row")  # fmt: skip


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
