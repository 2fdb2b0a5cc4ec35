"""Data names as graphs: raw columns in, what the network or the loss takes out.

The same graph prepares the training rows in the NumPy runtime and stands in front of the network in the exported file, so the
two cannot differ. Figures that a step learns are variables `data/<name>/<step>/<role>`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .diagnostics import Findings, Note, Refusal
from .experiment import Data, DataName, InputTensor, Network
from .ir import FLOATS, Batch, N, Shape, TensorType, Value, apply, constant, dims, origin
from .operation import Bound, Column


class NotKnownYet(Exception):
    """Classes that only the whole source tells: `nnc build` finds them."""


@dataclass(eq=False, repr=False)
class FieldBuild:
    """What a data step asks for (operation.StepBuild)."""

    dtype: str
    path: str
    found: Callable[[], tuple[Any, ...]]

    def learned(self, role: str, shape: Shape) -> Value:
        return apply("variable", name=f"data/{self.path}/{role}", type=TensorType(self.dtype, shape))

    def classes(self) -> tuple[Any, ...]:
        return self.found()


@dataclass(eq=False, repr=False)
class Prepared:
    """A data name: its raw input, the column that comes out, and the way back from it to the column's units."""

    raw: Value
    column: Column
    inverse: Callable[[Value], Value] | None = None
    onward: Callable[[Value], Value] | None = None  # from the column's units to what comes out: undoes `inverse`
    stages: list[Column] = field(default_factory=list)  # the column before each step, then the last


def raw_type(data: Data, name: DataName, dtype: str) -> TensorType:
    """The type of the raw column or columns that feed a data name: of one row, or of the rows of a window."""
    column = data.schema.columns[name.columns[0]]
    kind = dtype if column.dtype in ("float", *FLOATS) or not name.single else column.dtype
    row = column.shape if name.single else (len(name.columns),)
    return TensorType(kind, (N, *((name.window.length,) if name.window is not None else ()), *row))


def _as_rows(raw: Value, name: DataName) -> Value:
    """The rows of all windows one after another: what steps before `window` take."""
    if name.window is None:
        return raw
    return apply("reshape", raw, shape=(Batch(name.window.length), *raw.shape[2:]))


def prepare(data: Data, name: DataName, dtype: str, learned: Mapping[str, tuple[Any, ...]] | None) -> Prepared:
    """The graph of a data name. `learned` holds the classes found by steps, by path; without it the schema's are taken.

    A step that does not fit raises a Refusal placed at its arguments.
    """
    raw = apply("input", name=name.name, type=raw_type(data, name, dtype))
    rows = _as_rows(raw, name)
    column = Column(rows, data.schema.columns[name.columns[0]].classes if name.single else None)
    prepared = Prepared(raw, column)
    back: list[Callable[[Value], Value]] = []
    on: list[Callable[[Value], Value]] = []
    invertible, windowed = True, False
    row_shape = rows.shape[1:]  # of the column where the window takes it up
    for step in name.steps:
        bound = step.bound
        before = column

        def found(path: str = step.path, before: Column = before) -> tuple[Any, ...]:
            if learned is not None:
                return learned[path]
            if before.value is rows and name.columns[0] in data.schema.values:
                return data.schema.values[name.columns[0]]
            raise NotKnownYet

        build = FieldBuild(dtype, step.path, found)
        prepared.stages.append(column)
        try:
            with origin(f"data/{step.path}"):
                column = bound.operation.function(build, column, bound.params)
        except Refusal as refusal:
            refusal.at = bound.spans.get(refusal.at, bound.span) if isinstance(refusal.at, str) else refusal.at or bound.span
            raise
        inverse = bound.operation.extra.get("inverse")
        if inverse is not None:
            back.insert(0, partial(_back, inverse, build, bound.params))
            on.append(partial(_on, build, bound))
        elif "keeps_units" not in bound.operation.facts:
            invertible = False
        if "window" not in bound.operation.facts and not windowed:
            row_shape = column.value.shape[1:]
        windowed = windowed or "window" in bound.operation.facts
    prepared.column = column
    prepared.stages.append(column)
    if invertible and back:

        def through(steps: list[Callable[[Value], Value]], way: str, y: Value) -> Value:
            with origin(f"data/{name.name}/{way}"):
                given = y.shape
                if windowed:  # figures were learned for rows
                    y = apply("reshape", y, shape=(Batch(name.window.length if name.window else 1), *row_shape))
                for step in steps:
                    y = step(y)
                return y if y.shape == given else apply("reshape", y, shape=given)

        prepared.inverse, prepared.onward = partial(through, back, "inverse"), partial(through, on, "onward")
    return prepared


def _back(inverse: Callable[..., Value], build: FieldBuild, p: Any, y: Value) -> Value:
    """The way back through one step."""
    return inverse(build, y, p)


def _on(build: FieldBuild, bound: Bound, y: Value) -> Value:
    """One step again."""
    column: Column = bound.operation.function(build, Column(y), bound.params)
    return column.value


def decode(index: Value, column: Column) -> Value:
    """The class that an index stands for, in the type of the classes."""
    classes = column.classes
    assert classes is not None
    if classes == tuple(range(len(classes))):
        return index
    dtype: str = next(d for kind, d in ((str, "string"), (int, "int64"), (int | float, "float32")) if all(isinstance(c, kind) for c in classes))
    default: Any = {"string": "", "int64": 0, "float32": 0.0}[dtype]
    return apply("lookup", index, keys=tuple(range(len(classes))), values=classes, default=default, dtype=dtype)


def decision(prediction: Value, column: Column) -> Value:
    """argmax for classes on the last axis, else a threshold of 0.5 for a single output; decoded to the original category."""
    if prediction.type.rank > 1 and prediction.shape[-1] != 1:
        index = apply("argmax", prediction, axis=prediction.type.rank - 1)
    else:
        above = apply("greater", prediction, constant(0.5, prediction.dtype))
        index = apply("cast", above, dtype="int64")
        if index.type.rank > 1:
            index = apply("reshape", index, shape=index.shape[:-1])
    return decode(index, column) if column.classes is not None else index


def check_feeds(network: Network, prepared: Mapping[str, Prepared], data: Data, findings: Findings, dtype: str) -> None:
    """Every input gets the dtype and the shape that it declares."""
    for declared in network.inputs:
        if declared.name not in prepared:
            continue
        got = prepared[declared.name].column.value.type
        wanted = TensorType(dtype if declared.dtype == "float32" else declared.dtype, (N, *declared.shape))
        if got != wanted and not _may_shrink(data, data.names[declared.name], prepared[declared.name], wanted):
            _mismatch(declared, got, wanted, data.names[declared.name], findings, _lacks_a_class(data, data.names[declared.name], got, wanted))


def _may_shrink(data: Data, name: DataName, prepared: Prepared, wanted: TensorType) -> bool:
    """Whether the input fits if some values stand outside the training rows only: known once the data is split."""
    values = data.schema.values.get(name.columns[0])
    last = name.steps[-1].bound if name.steps else None
    if values is None or data.split is None or last is None or last.name != "one_hot" or last.params.classes is not None:
        return False
    got = prepared.column.value.type
    return (got.dtype, got.shape[:-1]) == (wanted.dtype, wanted.shape[:-1]) and 0 < int(wanted.shape[-1]) < len(values)  # type: ignore[arg-type]


def _lacks_a_class(data: Data, name: DataName, got: TensorType, wanted: TensorType) -> bool:
    """Whether fewer classes than wanted may be those of one fold."""
    last = name.steps[-1].bound if name.steps else None
    folds = data.split is not None and "folds" in data.split.operation.facts
    return folds and last is not None and last.name == "one_hot" and got.rank == wanted.rank and got.size(1) < wanted.size(1)


def _spoken(kind: TensorType) -> str:
    """A type as the language writes it: a scalar per sample has no brackets."""
    return f"{kind.dtype}{dims(kind.shape[1:])}" if kind.rank > 1 else kind.dtype


def _mismatch(declared: InputTensor, got: TensorType, wanted: TensorType, name: DataName, findings: Findings, lacking: bool) -> None:
    have = _spoken(got)
    help = "name all classes, one_hot([...]): a fold may lack one" if lacking else f"declare the input as {have}"
    if got.dtype == "string":
        help = "turn the text into classes with `-> category`, or into `-> one_hot`"
    elif got.dtype != wanted.dtype:
        step = "-> scale(1/255)" if got.dtype == "uint8" else "-> one_hot" if got.dtype == "int64" else "-> category" if wanted.dtype == "int64" else ""
        help = f"add a step such as `{step}`, or declare the input as {have}" if step else f"declare the input as {have}"
    elif got.rank != wanted.rank and got.size(1) == wanted.size(1):
        help = "add `-> flatten` or `-> reshape([...])`, or declare the input as " + have
    note = Note(declared.span, f"the input wants {declared.dtype}{_spoken(wanted).removeprefix(wanted.dtype)}")
    findings.add("E407", name.span, f"this gives {have}", name=f"`{declared.name}`", help=help, notes=(note,))
