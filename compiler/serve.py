"""The graph that leaves the house: raw columns in, preprocessing, network, outputs in the column's units, decisions decoded.

The NumPy runtime runs it for `nnc predict` and as the reference of every export; onnx_export.py writes it down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .diagnostics import Findings
from .ir import Graph, Value, origin, substitute
from .lower import lower
from .objective import pairs
from .operation import Column
from .passes import optimised
from .prepare import Prepared, decision, prepare
from .program import Program
from .record import record


@record
class Answer:
    """What is served under a name: a value, and the column whose classes it decides on where it is to be a decision."""

    value: Value
    decides: Column | None = None


def predictions(program: Program, dtype: str) -> tuple[dict[str, Value], dict[str, Prepared]]:
    """The network's outputs from raw columns, in the network's units, and the data names that inputs and targets have."""
    experiment = program.experiment
    forward = lower(experiment.network, Findings(experiment.source), training=False, dtype=dtype)
    prepared = {}
    if experiment.data is not None:
        used = {*forward.inputs, *(target for _, target in pairs_of(program))}
        for name, entry in experiment.data.names.items():
            if name in used:
                prepared[name] = prepare(experiment.data, entry, dtype, program.learned)
    replace: dict[Value, Value] = {forward.inputs[name]: prepared[name].column.value for name in forward.inputs if name in prepared}
    return dict(zip(forward.outputs, substitute(list(forward.outputs.values()), replace), strict=True)), prepared


def pairs_of(program: Program) -> list[tuple[str, str]]:
    return pairs(program.train) if program.train else []


def target_of(output: str, program: Program, prepared: Mapping[str, Prepared]) -> Prepared | None:
    """The target whose column's units an output is in, if it is in any."""
    return next((prepared[t] for p, t in pairs_of(program) if p == output and t in prepared), None)


def answers(program: Program, outputs: Sequence[str] = (), *, decisions: bool = False, dtype: str = "float32") -> dict[str, Answer]:
    """By name `outputs`, or the export section's, or all; with `decisions` the decision on every target beside them."""
    found, prepared = predictions(program, dtype)
    paired = pairs_of(program)
    chosen = list(outputs) or [r.name for r in program.experiment.export.params.outputs] or list(found)
    if decisions:
        chosen = list(dict.fromkeys([*chosen, *(t for _, t in paired if t in prepared and prepared[t].column.classes is not None)]))
    served = {}
    for name in chosen:
        value = found[name if name in found else next(p for p, t in paired if t == name)]
        target = target_of(name, program, prepared) if name in found else prepared.get(name)
        if name not in found and target is not None and target.column.classes is not None:
            served[name] = Answer(value, target.column)
        else:
            served[name] = Answer(value if target is None or target.inverse is None else target.inverse(value))
    return served


def decided(answer: Answer, name: str) -> Value:
    """The value, or the decision that it makes."""
    with origin(f"decision/{name}"):
        return answer.value if answer.decides is None else decision(answer.value, answer.decides)


def serving_graph(program: Program, outputs: Sequence[str] = (), *, decisions: bool = False, dtype: str = "float32") -> Graph:
    """The answers as a graph. An output paired with a numeric target comes in the units of the target's column."""
    found = answers(program, outputs, decisions=decisions, dtype=dtype)
    return optimised(Graph({name: decided(answer, name) for name, answer in found.items()}), inference=True)
