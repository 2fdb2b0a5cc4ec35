"""A data section made ready: rows read and split, steps fitted on the training rows, every data name prepared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nnc.compiler import pipeline
from nnc.compiler.diagnostics import Findings, Refusal
from nnc.compiler.experiment import Data, DataName, Experiment
from nnc.compiler.ir import Graph
from nnc.compiler.lower import MAX_BYTES
from nnc.compiler.operation import Bound
from nnc.compiler.prepare import prepare
from nnc.compiler.schema import ColumnSchema, Files, Schema, number
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.kernels import Randomness

from .fit import FITS, balanced
from .sources import SOURCES, Table, joined
from .splits import Rows, split_rows, split_windows
from .stored import Column, Stored, beside, parts

Array = np.ndarray[Any, Any]
CHUNK = 4096
Read = TypeVar("Read")


@dataclass
class Learned:
    """What data steps found: arrays by variable name, classes by path."""

    arrays: dict[str, Array]
    classes: dict[str, tuple[Any, ...]]


@dataclass
class Dataset:
    """`arrays` holds every data name for all rows; `splits` the rows of each split; `raw` the raw column of each data name.

    `pool` are the rows that the members of an ensemble draw from, or validate on in turn: the training split, or all folds.
    """

    arrays: dict[str, Column]
    splits: dict[str, Array]
    pool: Array
    raw: dict[str, Column]
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


def raw_column(table: Table, name: DataName, dtype: str) -> Column:
    """The raw column or columns of a data name, as the graph's input takes them."""
    if name.single:
        column = table.columns[name.columns[0]]
        return column.astype(dtype, copy=False) if column.dtype.kind == "f" else column
    return beside([table.columns[c] for c in name.columns], dtype)


def transform(graph: Graph, variables: Mapping[str, Array], raw: Mapping[str, Array]) -> dict[str, Array]:
    """Run a graph of data steps over all rows, in chunks."""
    return _in_chunks(Executor(graph, variables, Randomness(0), Arena()), raw)


def _in_chunks(executor: Executor, raw: Mapping[str, Array]) -> dict[str, Array]:
    rows = len(next(iter(raw.values())))
    found: dict[str, list[Array]] = {name: [] for name in executor.graph.outputs}
    for start in range(0, rows, CHUNK):
        for name, array in executor.run({name: array[start : start + CHUNK] for name, array in raw.items()}).items():
            found[name].append(array.copy())
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


def windows(raw: Array, window: Any, starts: Array) -> Array:
    """The rows of each sample beside each other; samples start at the given rows."""
    cut: Array = raw[(starts + window.offset)[:, None] + np.arange(window.length)]
    return cut


def _windowed(raw: Column, window: Any, starts: Array) -> Column:
    if not isinstance(raw, Stored):
        return windows(raw, window, starts)
    rows = lambda chosen: raw.rows((starts[chosen] + window.offset)[..., None] + np.arange(window.length))  # noqa: E731
    return Stored(rows, (len(starts), window.length, *raw.shape[1:]), raw.dtype)


def _prepared(data: Data, name: DataName, raw: Column, dtype: str, learned: Learned) -> Column:
    """The raw rows of a data name through its steps, of stored rows when they are asked for."""
    if not isinstance(raw, Stored):
        return prepared_column(data, name, raw, dtype, learned)
    made = prepare(data, name, dtype, learned.classes)
    if made.column.value is made.raw:
        return raw
    executor = Executor(Graph({"column": made.column.value}), learned.arrays, Randomness(0), Arena())
    return raw.through(lambda rows: _in_chunks(executor, {name.name: rows})["column"])


def prepared_column(data: Data, name: DataName, raw: Array, dtype: str, learned: Learned) -> Array:
    """The raw rows of a data name through its steps."""
    made = prepare(data, name, dtype, learned.classes)
    if made.column.value is made.raw:
        return raw
    return transform(Graph({"column": made.column.value}), learned.arrays, {name.name: raw})["column"]


def fit(data: Data, raws: Mapping[str, Column], train: Array, dtype: str) -> Learned:
    """Fit each step on the training rows that reach it."""
    learned = Learned({}, {})
    for name in data.names.values():
        raw = raws[name.name]
        for place, step in enumerate(name.steps):
            if step.bound.name not in FITS or not step.bound.operation.extra.get("learns"):
                continue
            if step.path in learned.classes or any(key.startswith(f"data/{step.path}/") for key in learned.arrays):
                continue  # a step of a data name that this one starts from
            before = _prepared(data, replace(name, steps=name.steps[:place]), _taken(raw, train), dtype, learned)
            arrays, classes = FITS[step.bound.name](partial(_parts_of, before), step.bound.params)
            for role, array in arrays.items():
                learned.arrays[f"data/{step.path}/{role}"] = array.astype(dtype)
            if classes is not None:
                learned.classes[step.path] = classes
    return learned


def _parts_of(column: Column) -> Iterator[Array]:
    return (array for _, array in parts(column))


def _taken(column: Column, rows: Array) -> Column:
    return Stored(lambda chosen: column.rows(rows[chosen]), (len(rows), *column.shape[1:]), column.dtype) if isinstance(column, Stored) else column[rows]


@dataclass(frozen=True)
class Opened:
    """A data section whose source has been read and looked through, before it is split."""

    program: pipeline.Program
    data: Data
    table: Table
    raws: dict[str, Column]  # the raw column of each data name, by row of the source
    sizes: dict[str, int] | None  # rows of each file of the split
    max_bytes: int

    def dataset(self, fold: int = 0) -> tuple[pipeline.Program, Dataset]:
        """Split, fit and prepare; the program checked again with what the data turned out to be. `fold` is the one that validates, of a k_fold."""
        experiment, data, raws = self.program.experiment, self.data, self.raws
        findings = Findings(experiment.source)
        cuts = {n: d.window for n, d in data.names.items() if d.window is not None}
        try:
            splits, starts, fitted = self._splits(cuts, fold)
        except Refusal as refusal:
            at = data.split.spans.get(refusal.at, data.split.span) if data.split and isinstance(refusal.at, str) else data.split.span if data.split else None
            findings.add_refusal(refusal, at)
            findings.stop_on_errors()
            raise
        learned = _at_the_source(data.source, findings, lambda: fit(data, raws, fitted, self.program.dtype))
        if cuts:
            raws = {name: _windowed(raws[name], window, starts) for name, window in cuts.items()}
        row_name = (lambda sample: self.table.row_name(int(starts[sample]))) if cuts else self.table.row_name
        arrays = prepare_all(experiment, data, self.program.dtype, raws, row_name, learned, findings)
        self._weigh(arrays, splits["train"], learned, findings)
        known = pipeline.analyse(
            experiment.source, root=None, overrides=experiment.overrides, schema=data.schema, learned=learned.classes, max_bytes=self.max_bytes
        )
        folds = [splits["train"], splits["validation"]] if experiment.folds is not None else [splits["train"]]
        return known, Dataset(arrays, splits, np.sort(np.concatenate(folds)), raws, learned, data.schema, self._digest(raws))

    def _splits(self, cuts: Mapping[str, Any], fold: int) -> tuple[dict[str, Array], Array, Array]:
        """The samples of each split, the row where each sample starts, and the rows to learn from."""
        split, rows = self.data.split, self._rows()
        if cuts:
            inputs = {i.name for i in self.program.experiment.network.inputs}
            return split_windows(split, rows, [*cuts.values()], [w for n, w in cuts.items() if n not in inputs], fold)
        splits = split_rows(split, rows, fold).rows
        return splits, np.arange(rows.count), splits["train"]

    def _rows(self) -> Rows:
        """What the split may look at."""
        split = self.data.split
        stratify = getattr(split.params, "stratify", None) if split is not None else None
        classes = self.raws[stratify.name][:] if stratify is not None else None
        return Rows(self.table.rows, self.table.row_name, self._deciding(), classes, self.sizes)

    def _deciding(self) -> Array | None:
        column = self.data.split.params.column if self.data.split is not None else None
        return self.table.columns[column.name][:] if column is not None else None

    def _digest(self, raws: Mapping[str, Column]) -> str:
        """SHA-256 over everything that training depends on."""
        deciding = self._deciding()
        return _digest({**raws, "split": deciding} if deciding is not None else raws, self.sizes)

    def _weigh(self, arrays: Mapping[str, Column], train: Array, learned: Learned, findings: Findings) -> None:
        """Sample weights leave something to train on; balanced class weights are counted."""
        section = self.program.experiment.train
        for name in {w.name: None for w in section.params.sample_weights()} if section is not None else ():
            if not any(array.any() for _, array in parts(arrays[name], train)):
                findings.add("E415", self.data.names[name].span, "in all training rows", name=name, what="all 0",
                             help="give some training row a weight above 0")  # fmt: skip
        findings.stop_on_errors()
        for balance in self.program.balances:
            learned.arrays[balance.name] = balanced(arrays[balance.target][train], balance.classes, balance.binary).astype(self.program.dtype)


def open_data(program: pipeline.Program, root: Path, max_bytes: int = MAX_BYTES) -> Opened:
    """Read the source whole. Raises SpecError with one diagnostic for a file, row or value that does not fit."""
    experiment = program.experiment
    assert experiment.data is not None
    data, source, findings = experiment.data, experiment.data.source, Findings(experiment.source)

    def read() -> tuple[Table, dict[str, int] | None, Data, dict[str, Column]]:
        table, sizes = _read(data, Files(root), findings)
        known = replace(data, schema=table.schema(data.schema))
        raws = {name: raw_column(table, entry, program.dtype) for name, entry in known.names.items()}
        _check_distinct(known, raws, table)
        _check_infinite(known, raws, table, findings)
        return table, sizes, known, raws

    table, sizes, known, raws = _at_the_source(source, findings, read)
    return Opened(program, known, table, raws, sizes, max_bytes)


def load(program: pipeline.Program, root: Path, max_bytes: int = MAX_BYTES) -> tuple[pipeline.Program, Dataset]:
    """Read, split, fit and prepare, for one network: the first fold's where there are folds."""
    return open_data(program, root, max_bytes).dataset()


def _at_the_source(source: Bound, findings: Findings, read: Callable[[], Read]) -> Read:
    """Run; a refusal is placed at the source."""
    try:
        return read()
    except Refusal as refusal:
        findings.add_refusal(refusal, source.spans.get("path") or next(iter(source.spans.values()), source.span))
        findings.stop_on_errors()
        raise


def _read(data: Data, files: Files, findings: Findings) -> tuple[Table, dict[str, int] | None]:
    """The rows of the source, and of the files of the split behind them; then how many each part has."""
    source = data.source
    used = {column for name in data.names.values() for column in name.columns}
    decides = data.split.params.column if data.split is not None else None
    used |= {decides.name} if decides is not None else set()
    wanted = {name: column for name, column in data.schema.columns.items() if not data.names or name in used}
    tables = {"train": _table(data, source, files, wanted)}
    for part in data.further:
        assert data.split is not None
        bound = data.split.params.sources[part]
        try:
            tables[part] = _table(data, bound, files, wanted)
        except Refusal as refusal:
            findings.add_refusal(refusal, bound.span)
    findings.stop_on_errors()
    if len(tables) == 1:
        return tables["train"], None
    schemas = [data.schema, *data.further.values()]
    return joined([*tables.values()], schemas, [*wanted]), {part: table.rows for part, table in tables.items()}


def _table(data: Data, source: Bound, files: Files, wanted: dict[str, ColumnSchema]) -> Table:
    table = SOURCES[source.name](source.params, files, wanted)
    if not table.rows:
        raise Refusal("E410", label="it has no rows", path=str(getattr(source.params, "path", source.name)), help="give a file with rows")
    _check_kinds(data, table)
    return table


def _check_kinds(data: Data, table: Table) -> None:
    """Of a large file only the first rows were looked at before: a number column may turn out to hold text."""
    for name in data.names.values():
        for column in name.columns:
            if data.schema.columns[column].dtype == "float" and table.columns[column].dtype == object:
                row, cell = next((i, c) for i, c in enumerate(table.columns[column][:].tolist()) if c and number(c) is None)
                raise Refusal("E404", step=name.name, label=f"column `{column}` holds `{cell[:30]}` in {table.row_name(row)}",
                              help="numbers are wanted: repair the row, or name the word with csv(..., missing=[...])")  # fmt: skip


def _check_distinct(data: Data, raws: Mapping[str, Column], table: Table) -> None:
    """Numbers that are categories, such as long identifiers, stay apart in the program's precision."""
    for name, entry in data.names.items():
        raw, column = raws[name], table.columns[entry.columns[0]]
        if not entry.single or raw.dtype == column.dtype or raw.dtype.kind != "f" or not any(s.bound.operation.extra.get("classes") for s in entry.steps):
            continue
        whole, kept = ({value for _, array in parts(numbers) for value in np.unique(array).tolist() if value == value} for numbers in (column, raw))
        if len(kept) < len(whole):
            raise Refusal("E404", step=name, label=f"{len(whole):,} different numbers are {len(kept):,} in {raw.dtype}",
                          help="use precision = float64, or write the categories as words")  # fmt: skip


def _check_infinite(data: Data, raws: Mapping[str, Column], table: Table, findings: Findings) -> None:
    """An infinity is found before a step learns from it, which would spoil every row."""
    for name, raw in raws.items():
        found = not_finite(raw, data.names[name].columns, table.row_name, np.isinf) if raw.dtype.kind == "f" else None
        if found is not None:
            findings.add("E405", data.names[name].span, found.label, name=name, what=found.what, help="repair or remove the row")
    findings.stop_on_errors()


def prepare_all(
    experiment: Experiment, data: Data, dtype: str, raws: Mapping[str, Column], row_name: Callable[[int], str], learned: Learned, findings: Findings
) -> dict[str, Column]:
    """Every data name for the given raw rows; E405 or E406 names a row whose values do not fit."""
    inputs = {i.name for i in experiment.network.inputs}
    weights = {w.name for w in experiment.train.params.sample_weights()} if experiment.train is not None else set()
    arrays = {}
    for name, raw in raws.items():
        entry = data.names[name]
        at = entry.span if findings.source is experiment.source else None  # rows of a new file are no mistake of the spec
        array = arrays[name] = _prepared(data, entry, raw, dtype, learned)
        found = not_finite(array, entry.columns, row_name) if array.dtype.kind == "f" else None
        if found is not None:
            findings.add("E405", at, found.label, name=name, what=found.what, help="add `-> impute(median)`, or remove the rows")
        first = _first(array, lambda rows: (rows < 0).any(axis=1)) if name in weights else None
        if first is not None:
            findings.add("E415", at, f"{array[first].min():g} in {row_name(first)}", name=name, what="below 0",
                         help="use 0 for rows that shall not count")  # fmt: skip
        classes = prepare(data, entry, dtype, learned.classes).column.classes
        if name not in inputs and classes is not None:
            row = _unseen(array, len(classes))
            if row is not None:
                findings.add("E406", at, f"{_shown(raw[row])} in {row_name(row)}", name=name,
                             help="name all classes: category([...]), or remove the row")  # fmt: skip
    findings.stop_on_errors()
    return arrays


def _first(array: Column, wrong: Callable[[Array], Any]) -> int | None:
    """The first row of which a function of rows [n, width] says so."""
    for start, part in parts(array):
        found = wrong(part.reshape(len(part), -1))
        if found.any():
            return start + int(np.argmax(found))
    return None


def _unseen(array: Column, classes: int) -> int | None:
    """The first row of a target that is none of its classes: an index outside them, or a row of zeros."""
    if array.dtype == np.int64:
        return _first(array, lambda rows: ((rows < 0) | (rows >= classes)).any(axis=1))
    return _first(array, lambda rows: ~rows.any(axis=1))


@dataclass(frozen=True)
class NotFinite:
    """The first row with a NaN or an infinity, in words."""

    what: str
    label: str


def not_finite(array: Column, columns: Sequence[str], row_name: Callable[[int], str], wrong: Callable[[Array], Array] | None = None) -> NotFinite | None:
    """Where an array of a data name, raw or prepared, holds what is no number, or only such of it as `wrong` finds."""
    more, first = 0, None
    for start, part in parts(array):
        flat = part.reshape(len(part), -1)
        bad = wrong(flat) if wrong is not None else ~np.isfinite(flat)
        rows = bad.any(axis=1)
        if not rows.any():
            continue
        more += int(rows.sum())
        if first is None:
            row = int(np.argmax(rows))
            place = int(np.argmax(bad[row]))
            column = columns[place] if flat.shape[1] == len(columns) else columns[0]
            first = f"column `{column}`, {row_name(start + row)}", bool(np.isnan(flat[row, place]))
    if first is None:
        return None
    label, missing = first
    return NotFinite("a missing value (NaN)" if missing else "an infinite value", f"{label}{f'; {more:,} rows in all' if more > 1 else ''}")


def _shown(raw: Any) -> str:
    """A raw value as the file has it, as far as that is known."""
    value = raw.reshape(-1)[0] if isinstance(raw, np.ndarray) else raw
    if isinstance(value, str):
        return f"`{value}`" if value else "a missing value"
    return "a missing value" if value != value else f"{float(value):.10g}"


def _digest(raws: Mapping[str, Column], sizes: Mapping[str, int] | None) -> str:
    """SHA-256 over the raw columns in use, and how many rows come from which file of a split."""
    digest = hashlib.sha256(repr(sizes).encode() if sizes is not None else b"")
    for name in sorted(raws):
        array = raws[name]
        digest.update(f"{name}:{array.dtype}:{array.shape}".encode())
        if array.dtype == object:
            digest.update("\0".join(array[:].tolist()).encode())
        else:
            for _, part in parts(array):
                digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
