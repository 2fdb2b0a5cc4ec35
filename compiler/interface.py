"""What goes into a served model and what comes out, as its user sees it: columns, categories, units, and what stands for a missing value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .experiment import Data, DataName
from .ir import Graph, TensorType
from .operation import Bound
from .prepare import Prepared
from .program import Program
from .record import record
from .serve import pairs_of, predictions, target_of

MOST_SHOWN = 12  # categories that a sentence names


@record
class Port:
    """An input or an output. `categories` are the values that an input knows or a decision gives, or what the places of the last axis stand for."""

    type: TensorType
    meaning: str
    columns: tuple[str, ...] = ()
    categories: tuple[Any, ...] = ()
    unit: str = ""
    missing: str = ""

    @property
    def text(self) -> str:
        parts = [self.meaning]
        if self.categories:
            more = f", ... ({len(self.categories)} in all)" if len(self.categories) > MOST_SHOWN else ""
            parts.append("categories: " + ", ".join(f"{c:.7g}" if isinstance(c, float) else str(c) for c in self.categories[:MOST_SHOWN]) + more)
        if self.unit:
            parts.append(f"unit: {self.unit}")
        if self.missing:
            parts.append(f"missing: {self.missing}")
        return "; ".join(parts)


@record
class Interface:
    inputs: dict[str, Port]
    outputs: dict[str, Port]


def interface(program: Program, graph: Graph) -> Interface:
    """The inputs and outputs of the program's serving graph."""
    data = program.experiment.data
    inputs = {}
    for name, value in graph.leaves("input").items():
        entry = data.names.get(name) if data is not None else None
        inputs[name] = Port(value.type, "what the network takes") if data is None or entry is None else _input(value.type, entry, data, program)
    found, prepared = predictions(program, "float32")
    outputs = {}
    for name, value in graph.outputs.items():
        if name in found:
            outputs[name] = _prediction(value.type, found[name].op, target_of(name, program, prepared), name, program)
        else:
            outputs[name] = _decision(value.type, name, prepared[name], program)
    return Interface(inputs, outputs)


def _input(kind: TensorType, entry: DataName, data: Data, program: Program) -> Port:
    steps = [step.bound for step in entry.steps]
    names = {bound.name for bound in steps}
    many = "s" if len(entry.columns) > 1 else ""
    meaning = f"column{many} {_listed(entry.columns)}"
    if entry.window is not None:
        meaning = f"{entry.window.length} rows in their order of {meaning}"
    if "characters" in names:
        meaning += ", as Unicode code points"
    known = _known(entry, data, program)
    missing = ""
    if kind.dtype == "string":
        missing = '"" (it is a category of its own)' if "" in known else '"", as any value that is no category'
    elif kind.is_float and "impute" in names:
        missing = f"NaN, {_imputed(next(bound for bound in steps if bound.name == 'impute'))}"
    elif kind.is_float and known and not any(isinstance(getattr(bound.params, "classes", None), int) for bound in steps):
        missing = "NaN, as any value that is no category"
    return Port(kind, meaning, entry.columns, known, missing=missing)


def _listed(columns: tuple[str, ...]) -> str:
    more = f", ... ({len(columns)} in all)" if len(columns) > MOST_SHOWN else ""
    return ", ".join(columns[:MOST_SHOWN]) + more


def _imputed(bound: Bound) -> str:
    p = bound.params
    return f"replaced by {p.value:g}" if p.strategy == "constant" else f"replaced by the {p.strategy} of the training rows"


def _known(entry: DataName, data: Data, program: Program) -> tuple[Any, ...]:
    """The values that a step of the data name tells apart, as the raw column holds them."""
    given = data.schema.columns[entry.columns[0]].classes if entry.single else None
    for step in entry.steps:
        if not step.bound.operation.extra.get("classes"):
            continue
        named = getattr(step.bound.params, "classes", None)
        if isinstance(named, int):
            return tuple(range(named))
        if named is None and given is not None:
            return tuple(range(len(given)))  # the column holds indices of classes with names
        classes = named if named is not None else (program.learned or {}).get(step.path, ())
        return tuple(ord(c) for c in classes) if step.bound.name == "characters" else tuple(classes)
    return ()


def _prediction(kind: TensorType, op: str, target: Prepared | None, name: str, program: Program) -> Port:
    """An output of the network, in the units of the column that it predicts."""
    column = _column(name, program)
    if target is None or column is None:
        return Port(kind, "what the network gives")
    classes = target.column.classes
    if classes is None:
        return Port(kind, f"the prediction of {_listed(column.columns)}", column.columns, unit=f"that of column {_listed(column.columns)}")
    what = {"softmax": "the probability", "sigmoid": "the probability", "log_softmax": "the logarithm of the probability"}.get(op, "the score")
    if kind.rank > 1 and kind.shape[-1] == len(classes):
        return Port(kind, f"{what} of each class of {_listed(column.columns)}, along the last axis", column.columns, tuple(classes))
    last = f" that it is {classes[-1]}" if len(classes) == 2 else ""
    return Port(kind, f"{what}{last}, of {_listed(column.columns)}", column.columns)


def _decision(kind: TensorType, target: str, prepared: Prepared, program: Program) -> Port:
    prediction = next(p for p, t in pairs_of(program) if t == target)
    assert program.experiment.data is not None
    columns = program.experiment.data.names[target].columns
    classes = prepared.column.classes
    if classes is None:
        return Port(kind, f"{prediction}, under the name of its target", columns, unit=f"that of column {_listed(columns)}")
    return Port(kind, f"the decision on {_listed(columns)} that {prediction} makes", columns, tuple(classes))


def _column(output: str, program: Program) -> DataName | None:
    data = program.experiment.data
    target = next((t for p, t in pairs_of(program) if p == output), None)
    return data.names.get(target) if data is not None and target is not None else None


def layer_notes(program: Program) -> Mapping[str, str]:
    """By the path of a layer or a data step, where the spec says it and how."""
    return dict(_notes(program))


def _notes(program: Program) -> Iterator[tuple[str, str]]:
    experiment = program.experiment
    bounds = [(application.path, application.span) for application in experiment.network.applications]
    if experiment.data is not None:
        bounds += [(f"data/{step.path}", step.bound.span) for name in experiment.data.names.values() for step in name.steps if step.bound.span is not None]
    for path, span in bounds:
        line, _ = experiment.source.location(span.start)
        yield path, f"line {line}: {' '.join(experiment.source.text[span.start : span.end].split())[:200]}"
