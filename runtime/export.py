"""Export: the serving graph as an ONNX file that is written only if onnxruntime agrees with the NumPy runtime.

Agreement is measured on given rows and on edge rows, at batch 1 and N, with graph optimisations off and on, on the CPU provider.
The bound is 1e-5 + 1e-4 of the reference, for each element; decisions must be equal where the margin is above it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnc.compiler.diagnostics import Findings
from nnc.compiler.ir import Graph, TensorType, Value, apply, concrete, substitute
from nnc.compiler.onnx_export import serialised, to_onnx

from .executor import Arena, Executor
from .files import write_bytes
from .kernels import Array, Randomness

if TYPE_CHECKING:
    from .model import Model

ABSOLUTE, RELATIVE = 1e-5, 1e-4


def export(model: Model, path: Path, rows: Mapping[str, Array] | None = None) -> dict[str, Any]:
    """Write the ONNX file; the verification's report. E601 and no file where the engines disagree."""
    graph, arrays = model.serving()
    experiment = model.program.experiment
    opset: int = experiment.export.params.opset
    name = experiment.network.name or Path(experiment.source.name).stem.strip("<>") or "network"
    spec = hashlib.sha256(experiment.source.text.encode()).hexdigest()
    folded, constants = fold(graph, arrays)
    data = serialised(to_onnx(folded, constants, opset=opset, name=name, metadata={"spec_sha256": spec}))
    report = verify(data, graph, arrays, verification_rows(graph, rows))
    if not report["passed"]:
        _refuse(report, experiment)
    write_bytes(path, data)
    return report | {"file": str(path), "sha256": hashlib.sha256(data).hexdigest(), "opset": opset, "bytes": len(data)}


def _refuse(report: dict[str, Any], experiment: Any) -> None:
    worst = max(report["outputs"].items(), key=lambda item: item[1]["excess"])
    findings = Findings(experiment.source)
    label = f"`{worst[0]}` differs by {worst[1]['absolute']:.3g}, the bound is {ABSOLUTE:g} + {RELATIVE:g} of the value"
    findings.add("E601", None, label, help="nothing was written; scale the inputs, or report the spec as a bug")
    findings.stop_on_errors()


def fold(graph: Graph, arrays: Mapping[str, Array]) -> tuple[Graph, dict[str, Array]]:
    """Values that depend on variables and constants alone become variables, computed once."""
    fixed: set[Value] = set()
    for value in graph.order():
        if value.op == "variable" or (value.operands and all(o in fixed or o.op == "constant" for o in value.operands)):
            fixed.add(value)
    tops = {o for v in graph.order() if v not in fixed for o in v.operands if o in fixed and o.operands}
    tops |= {v for v in graph.roots if v in fixed and v.operands}
    if not tops:
        return graph, dict(arrays)
    wanted = sorted(tops, key=lambda v: v.serial)
    found = Executor(Graph({str(i): v for i, v in enumerate(wanted)}), arrays, Randomness(0), Arena()).at(1).run()
    constants = dict(arrays)
    replace = {}
    for i, value in enumerate(wanted):
        name = f"{value.origin or 'folded'}/{value.op}_{i}"
        constants[name] = found[str(i)].copy()
        replace[value] = apply("variable", name=name, type=value.type)
    roots = substitute(graph.roots, replace)
    return Graph(dict(zip(graph.outputs, roots, strict=True))), constants


def verification_rows(graph: Graph, rows: Mapping[str, Array] | None) -> dict[str, Array]:
    """Given rows followed by edge rows: zeros, ones, large values, unknown categories."""
    inputs = {name: value.type for name, value in graph.leaves("input").items()}
    edges = {name: _edges(kind) for name, kind in inputs.items()}
    if rows is None:
        return edges
    return {name: np.concatenate([np.asarray(rows[name], edges[name].dtype), edges[name]]) for name in inputs}


def _edges(kind: TensorType) -> Array:
    """Eight rows that real data seldom holds."""
    shape = concrete(kind.shape, 8)
    if kind.dtype == "string":
        return np.array(["", "?", "never seen", " ", "0", "\u00e9", "a" * 100, "None"], object).reshape(-1, *([1] * (len(shape) - 1))).repeat(
            int(np.prod(shape[1:])), axis=-1) if len(shape) > 1 else np.array(["", "?", "never seen", " ", "0", "\u00e9", "a" * 100, "None"], object)  # fmt: skip
    edge = np.zeros(shape, kind.dtype)
    if kind.dtype == "uint8":
        edge[1:] = np.random.default_rng(0).integers(0, 256, edge[1:].shape)
        edge[1] = 255
    elif kind.dtype == "int64":
        edge[1:] = np.arange(7).reshape(-1, *([1] * (len(shape) - 1)))
    else:
        edge[1] = 1
        edge[2] = -1
        edge[3:] = np.random.default_rng(0).standard_normal(edge[3:].shape)
        edge[6] *= 100
    return edge


def verify(data: bytes, graph: Graph, arrays: Mapping[str, Array], rows: Mapping[str, Array]) -> dict[str, Any]:
    """Compare onnxruntime with the NumPy runtime; the largest differences by output, and whether all lie within the bound."""
    import onnxruntime as ort

    ort.set_default_logger_severity(4)  # a GPU build without CUDA prints warnings at every session
    executor = Executor(graph, arrays, Randomness(0), Arena())
    total = len(next(iter(rows.values())))
    outputs: dict[str, dict[str, Any]] = {n: {"absolute": 0.0, "relative": 0.0, "excess": 0.0, "differing": 0} for n in graph.outputs}
    levels = {"off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL, "on": ort.GraphOptimizationLevel.ORT_ENABLE_ALL}
    settings = []
    for label, level in levels.items():
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for size in dict.fromkeys((1, total)):
            settings.append(f"batch {size}, optimisations {label}")
            for start in range(0, total if size == total else min(total, 16), size):
                batch = {name: array[start : start + size] for name, array in rows.items()}
                wanted = {name: array.copy() for name, array in executor.run(batch).items()}
                got = dict(zip(wanted, session.run(list(wanted), {k: batch[k] for k in (i.name for i in session.get_inputs())}), strict=True))
                for name in outputs:
                    _compare(outputs[name], wanted[name], np.asarray(got[name]))
    passed = all(o["excess"] <= 0 and o["differing"] == 0 for o in outputs.values())
    return {"passed": passed, "rows": total, "settings": settings, "bound": {"absolute": ABSOLUTE, "relative": RELATIVE},
            "provider": "CPUExecutionProvider", "onnxruntime": ort.__version__, "outputs": outputs}  # fmt: skip


def _compare(worst: dict[str, Any], wanted: Array, got: Array) -> None:
    if wanted.shape != got.shape:
        worst["differing"] += 1
        return
    if wanted.dtype.kind != "f":
        worst["differing"] += int((wanted != got).sum())
        return
    both_nan = np.isnan(wanted) & np.isnan(got)
    difference = np.where(both_nan | (wanted == got), 0.0, np.abs(wanted.astype(np.float64) - got))
    difference = np.where(np.isnan(difference), np.inf, difference)
    bound = ABSOLUTE + RELATIVE * np.abs(np.where(np.isfinite(wanted), wanted, 0.0))
    worst["absolute"] = max(worst["absolute"], float(difference.max(initial=0.0)))
    scale = np.maximum(np.abs(np.where(np.isfinite(wanted), wanted, 1.0)), 1e-12)
    worst["relative"] = max(worst["relative"], float((difference / scale).max(initial=0.0)))
    worst["excess"] = max(worst["excess"], float((difference - bound).max(initial=0.0)))


