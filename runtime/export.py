"""Export: the serving graph as an ONNX file that is written only if onnxruntime agrees with the NumPy runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nnc.compiler.diagnostics import Findings
from nnc.compiler.experiment import OPSETS, Experiment
from nnc.compiler.interface import Interface, interface, layer_notes
from nnc.compiler.ir import Graph, Value, apply, substitute
from nnc.compiler.onnx_export import Malformed, Notes, Unavailable, serialised, to_onnx
from nnc.compiler.program import Program

from .absorb import absorb
from .device import EngineRefusal
from .edge_rows import Rows, verification_rows
from .executor import Arena, Executor
from .files import write_bytes
from .kernels import Array, Randomness
from .machine import versions
from .rounding import ABSOLUTE, RELATIVE
from .verification import verify

MOST_BYTES = 2**31 - 2**20  # a protobuf message ends at 2 GiB; the nodes take some of it


@dataclass(frozen=True)
class Exported:
    """An ONNX file that agrees with the runtime, not yet written anywhere."""

    name: str
    file: str
    data: bytes
    interface: Interface
    rows: Rows
    report: dict[str, Any]


def exported(
    program: Program, graph: Graph, arrays: Mapping[str, Array], rows: Mapping[str, Array] | None = None, *, opset: int | None = None
) -> Exported:
    """The ONNX file of a serving graph and its variables, verified. E601 where the engines disagree.

    `rows` are raw rows, by input name; without them the verification has edge rows alone. `opset` takes the place of the spec's.
    """
    experiment, ports = program.experiment, interface(program, graph)
    file, chosen = experiment.export.params.file, opset if opset is not None else experiment.export.params.opset
    if chosen not in OPSETS:
        bound = f"from {OPSETS[0]} to {OPSETS[-1]}"
        _refuse("E207", experiment, f"opsets go {bound}", "use opset=18, or the one that your server runs", argument="opset", value=str(chosen), bound=bound)
    try:
        data = written(program, graph, arrays, chosen, ports)
        tried = verification_rows(graph, rows)
        report = verify(data, graph, arrays, tried)
    except (Malformed, EngineRefusal) as error:
        _refuse("E601", experiment, str(error), "nothing was written; report the spec as a bug")
    if not report["passed"]:
        _refuse("E601", experiment, _disagreement(report), "nothing was written; scale the inputs, or report the spec as a bug")
    about = {"file": file, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "opset": chosen}
    return Exported(_name(experiment), file, data, ports, tried, about | report)


def export(
    program: Program, graph: Graph, arrays: Mapping[str, Array], path: Path, rows: Mapping[str, Array] | None = None, *, opset: int | None = None
) -> dict[str, Any]:
    """Write the verified ONNX file alone; the verification's report. No file where `exported` refuses."""
    found = exported(program, graph, arrays, rows, opset=opset)
    write_bytes(path, found.data)
    return found.report | {"file": path.name}


def written(program: Program, graph: Graph, arrays: Mapping[str, Array], opset: int, ports: Interface) -> bytes:
    """The ONNX file of a serving graph, with everything constant computed. E605 where it is too large, E607 where the opset lacks an operator."""
    return encoded(program, *computed(graph, arrays), opset, ports)


def computed(graph: Graph, arrays: Mapping[str, Array]) -> tuple[Graph, dict[str, Array]]:
    """The graph with everything constant computed, scales and shifts behind a linear step among it."""
    return absorb(*fold(graph, arrays))


def encoded(program: Program, graph: Graph, arrays: Mapping[str, Array], opset: int, ports: Interface) -> bytes:
    """The ONNX file of a graph as it stands."""
    experiment = program.experiment
    size = sum(arrays[name].nbytes for name in graph.leaves("variable"))
    if size > MOST_BYTES:
        _refuse("E605", experiment, f"its arrays take {size / 2**30:.1f} GiB, an ONNX file holds less than 2", "make the network smaller")
    about = f"Raw columns in, decoded outputs out: preprocessing is part of the graph. Compiled from {_spec(experiment)} by nnc."
    notes = Notes(about, {name: port.text for name, port in (ports.inputs | ports.outputs).items()}, layer_notes(program))
    try:
        return serialised(to_onnx(graph, arrays, opset=opset, name=_name(experiment), metadata=metadata(experiment), notes=notes))
    except Unavailable as error:
        way = f"use opset = {error.needed} or more" if error.needed is not None else "report the spec as a bug"
        _refuse("E607", experiment, str(error), way, opset=error.opset, operator=error.operator)


def _refuse(code: str, experiment: Experiment, label: str, help: str, **values: Any) -> NoReturn:
    findings = Findings(experiment.source)
    findings.add(code, None, label, help=help, **values)
    findings.stop_on_errors()
    raise AssertionError("unreachable")


def _disagreement(report: dict[str, Any]) -> str:
    """What differs most, in words."""
    outputs = [*report["outputs"].items(), *report.get("tf32", {}).items()]
    name, worst = max(outputs, key=lambda item: (not item[1]["passed"], item[1]["differing"], item[1]["absolute"] or 0.0))
    bound = f"the bound is {ABSOLUTE:g} + {RELATIVE:g} of the value"
    size = f"`{name}` differs by {worst['absolute']:.3g}, {bound}" if worst["absolute"] is not None else f"`{name}` differs"
    return f"{size}; {worst['differing']:,} of {worst['compared']:,} rows"


def _name(experiment: Experiment) -> str:
    name = experiment.network.name or Path(experiment.source.name).stem.strip("<>") or "network"
    return name.encode("utf-8", "replace").decode()  # a file's name need not be UTF-8, text in ONNX is


def _spec(experiment: Experiment) -> str:
    """The name of the spec's file; where it lay is nobody's business."""
    return Path(experiment.source.name).name.encode("utf-8", "replace").decode()


def metadata(experiment: Experiment) -> dict[str, str]:
    digest = hashlib.sha256(experiment.source.text.encode()).hexdigest()
    return {"producer": f"nnc {versions().get('nnc-lang', '')}".strip(), "spec": _spec(experiment), "spec_sha256": digest}


def fold(graph: Graph, arrays: Mapping[str, Array]) -> tuple[Graph, dict[str, Array]]:
    """Values that depend on variables and constants alone become variables, computed once.

    A parameter in another shape keeps its name; anything else is named after its layer.
    """
    fixed: set[Value] = set()
    for value in graph.order():
        if value.op == "variable" or (value.operands and all(o in fixed or o.op == "constant" for o in value.operands)):
            fixed.add(value)
    needed = {o for v in graph.order() if v not in fixed for o in v.operands} | set(graph.roots)
    tops = {str(i): v for i, v in enumerate(v for v in graph.order() if v in fixed and v in needed and v.operands)}
    if not tops:
        return graph, dict(arrays)
    found = Executor(Graph(tops), arrays, Randomness(0), Arena()).at(1).run()
    constants = {v.name: arrays[v.name] for v in needed if v.op == "variable"}
    replace = {}
    for key, value in tops.items():
        source = value
        while source.op == "reshape":
            source = source.operands[0]
        name = source.name if source.op == "variable" else f"{value.origin or 'folded'}/{source.op}"
        while name in constants:
            name += "_"
        constants[name] = found[key].copy()
        replace[value] = apply("variable", name=name, type=value.type)
    return graph.map(lambda roots: substitute(roots, replace)), constants
