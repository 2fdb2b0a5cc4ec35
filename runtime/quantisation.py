"""An exported file in fewer bits: made from the verified graph, judged by onnxruntime on real rows, refused where it loses too much.

One graph holds the outputs that are served and, beside them, the network's outputs as the loss takes them. The file is cut from it, and the figures
are those of the rest, so that they are figures of what the file computes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from statistics import median
from typing import Any, NoReturn

import numpy as np

from nnc.compiler.diagnostics import Findings
from nnc.compiler.ensemble import judging
from nnc.compiler.halve import halved
from nnc.compiler.ir import Graph
from nnc.compiler.onnx_export import Malformed
from nnc.compiler.operation import Bound
from nnc.compiler.passes import optimised
from nnc.compiler.quantise import observed, quantised, sites
from nnc.compiler.shown import figure

from .calibration import grids, whole_numbers
from .data.dataset import Opened
from .data.stored import Column
from .device import EngineRefusal, errors, first_line, session
from .edge_rows import verification_rows
from .ensemble import Ensemble
from .export import Exported, computed, encoded
from .kernels import Array
from .members import parts, require_same
from .metrics import Evaluator
from .model import Model
from .verification import batch_size

JUDGES = ("validation", "test", "train")  # the splits that figures are taken on: the first that there is
LATENCY_BATCHES = (1, 256)
LATENCY_SECONDS = 0.3  # for each batch
LEAST_RUNS, MOST_RUNS = 5, 200


# Rows


@dataclass(frozen=True)
class Rows:
    """Raw rows by data name: some to calibrate with, and those that figures are taken on."""

    calibration: dict[str, Array]
    judged: dict[str, Array]
    split: str


def rows_of(opened: Opened, digest: str, calibrate: int) -> Rows:
    """`calibrate` rows that were trained on, evenly spaced, and the rows of a split that no network has trained on, if there is one.

    E511 where the data has another digest than at training.
    """
    _, data = next(parts(opened))
    require_same(data, digest)
    known = dict(data.splits)
    if opened.program.experiment.members > 1:
        known["train"] = data.pool
    if opened.program.experiment.folds is not None:  # each fold validates one of the networks and trains the others
        known.pop("validation")
    train = known["train"]
    chosen = train[np.linspace(0, len(train) - 1, min(calibrate, len(train))).astype(int)]
    split = next(name for name in JUDGES if len(known.get(name, ())))
    return Rows(_taken(data.raw, chosen), _taken(data.raw, known[split]), split)


def _taken(raw: Mapping[str, Column], rows: Array) -> dict[str, Array]:
    return {name: array[rows] for name, array in raw.items()}


# The file


def in_fewer_bits(found: Exported, model: Model | Ensemble, opened: Opened, digest: str) -> Exported:
    """The exported file as the spec's `quantize` asks; its report says figures, sizes and times before and after.

    E621 where no layer has such a form, E620 where the figure gets worse than the spec allows.
    """
    experiment = model.program.experiment
    bound: Bound = experiment.export.params.quantize
    rows = rows_of(opened, digest, getattr(bound.params, "calibrate", 1))
    shared = model.shared if isinstance(model, Ensemble) else set(model.known)
    predicted, evaluation = judging([member.program for member in model.members], shared, "float32")
    graph, _ = model.serving()
    whole = optimised(Graph({**graph.outputs, **predicted}), inference=True)
    whole, arrays = computed(whole, {name: model.known[name].astype("float32") for name in whole.leaves("variable")})
    made, kept, rewritten = _calibrated(whole, arrays, rows) if bound.name == "int8" else _halved(whole, arrays)
    if not rewritten:
        _refuse(model, "E621", "dense layers, convolutions and embeddings have one", "leave `quantize` out", what=bound.name)
    evaluator = Evaluator(evaluation, model.known, model.arena)

    def written(outputs: Iterable[str], form: Graph, known: Mapping[str, Array]) -> bytes:
        return encoded(model.program, Graph({name: form.outputs[name] for name in outputs}), known, found.report["opset"], found.interface)

    try:
        data = written(graph.outputs, made, kept)
        _require_running(data, graph, rows)
        figures = [evaluator.figures(_predictions(written(form.outputs, form, known), [*predicted], form, rows.judged, evaluator.batch))
                   for form, known in ((whole, arrays), (made, kept))]  # fmt: skip
        times = latencies([found.data, data], graph, rows.judged)
    except (Malformed, EngineRefusal) as error:
        _refuse(model, "E601", str(error), "nothing was written; report the spec as a bug")
    name = _deciding(model, evaluator, figures[0])
    lost = worse(evaluator.better(name), figures[0][name], figures[1][name])
    if not lost <= bound.params.most:
        label = f"{name} on the {rows.split} split: {figure(figures[0][name])} before, {figure(figures[1][name])} after; it may lose {bound.params.most:.3g}"
        _refuse(model, "E620", label, "nothing was written; allow more with most=..., or leave `quantize` out", what=bound.name)
    before, after = ({"bytes": len(file), "figures": values, "milliseconds": spent}
                     for file, values, spent in zip((found.data, data), figures, times, strict=True))  # fmt: skip
    about = {
        "form": bound.name,
        "values_rewritten": rewritten,
        "calibration_rows": len(next(iter(rows.calibration.values()))) if bound.name == "int8" else 0,
        "split": rows.split,
        "rows": len(next(iter(rows.judged.values()))),
        "figure": name,
        "worse_by": lost,
        "most": bound.params.most,
        "before": before,
        "after": after,
    }
    report = found.report | {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "quantisation": about}
    return replace(found, data=data, report=report)


def _calibrated(graph: Graph, arrays: Mapping[str, Array], rows: Rows) -> tuple[Graph, dict[str, Array], int]:
    """In whole numbers of 8 bits: the graph, its variables, and how many products were rewritten."""
    places = sites(graph)
    inputs = graph_inputs(graph, rows.calibration)
    found = grids(observed(places), arrays, inputs, batch_size(graph, len(next(iter(inputs.values()))))) if observed(places) else {}
    made, stored = quantised(graph, found)
    known = {**arrays, **whole_numbers(stored, arrays)}
    return made, {name: known[name] for name in made.leaves("variable")}, len(places)


def _halved(graph: Graph, arrays: Mapping[str, Array]) -> tuple[Graph, dict[str, Array], int]:
    """In float16: the graph, its variables, and how many values are computed in it."""
    made, names = halved(graph)
    with np.errstate(over="ignore"):  # what is too large shows in the figures
        known = {**arrays, **{name: arrays[source].astype(np.float16) for name, source in names.items()}}
    kept = {name: known[name] for name in made.leaves("variable")}
    return made, kept, sum(array.dtype == np.float16 for array in kept.values())


def graph_inputs(graph: Graph, raw: Mapping[str, Array]) -> dict[str, Array]:
    """Raw columns as the graph's inputs take them."""
    kinds = {name: value.dtype for name, value in graph.leaves("input").items()}
    return {name: np.asarray(raw[name], object if kind == "string" else kind) for name, kind in kinds.items()}


# What onnxruntime makes of it


def _run(made: Any, names: Sequence[str] | None, inputs: Mapping[str, Array]) -> list[Array]:
    try:
        return [np.asarray(array) for array in made.run(names, inputs)]
    except errors() as error:
        raise EngineRefusal(f"onnxruntime does not run the file: {first_line(error)}") from error


def _require_running(data: bytes, graph: Graph, rows: Rows) -> None:
    """EngineRefusal where the file does not run on real and on edge rows, one by one and together, optimised or not."""
    given = verification_rows(graph, graph_inputs(graph, rows.calibration))
    for optimise in (False, True):
        made = session(data, optimise=optimise)
        for chosen in (*([row] for row in given.singles()), list(range(given.total))):
            _run(made, None, {name: array[chosen] for name, array in given.arrays.items()})


def _predictions(data: bytes, names: Sequence[str], graph: Graph, raw: Mapping[str, Array], size: int) -> Iterator[dict[str, Array]]:
    """Raw rows in batches, with what onnxruntime predicts for them. Decisions are left out: they have the names of targets."""
    made = session(data)
    for start in range(0, len(next(iter(raw.values()))), size):
        batch = {name: array[start : start + size] for name, array in raw.items()}
        yield batch | dict(zip(names, _run(made, names, graph_inputs(graph, batch)), strict=True))


def latencies(files: Sequence[bytes], graph: Graph, raw: Mapping[str, Array]) -> list[dict[str, float]]:
    """Milliseconds that each file takes for a batch, by its size: medians of runs in turn."""
    made = [session(data) for data in files]
    found: list[dict[str, float]] = [{} for _ in files]
    count = len(next(iter(raw.values())))
    for size in LATENCY_BATCHES:
        inputs = graph_inputs(graph, {name: array[np.arange(size) % count] for name, array in raw.items()})
        spent: list[list[float]] = [[] for _ in files]
        began = time.perf_counter()
        while len(spent[0]) < LEAST_RUNS + 1 or (len(spent[0]) < MOST_RUNS and time.perf_counter() - began < LATENCY_SECONDS):
            for one, kept in zip(made, spent, strict=True):
                start = time.perf_counter()
                _run(one, None, inputs)
                kept.append(1e3 * (time.perf_counter() - start))
        for kept, times in zip(spent, found, strict=True):
            times[str(size)] = median(kept[1:])
    return found


# What it may lose


def _deciding(model: Model | Ensemble, evaluator: Evaluator, figures: Mapping[str, Any]) -> str:
    """The figure that must not get worse: the goal's, else the first metric that is a number, else the loss."""
    train = model.program.train
    assert train is not None
    goal = train.goal.params.monitor.name.partition(".")[2] if train.goal is not None else ""
    metrics = [metric.key for metric in evaluator.evaluation.metrics]
    return next(name for name in (goal, *metrics, "loss") if isinstance(figures.get(name), int | float))


def worse(better: str, before: float, after: float) -> float:
    """By what share of itself a figure got worse; infinite where it is none any more."""
    if not (isfinite(before) and isfinite(after)):
        return inf
    lost = before - after if better == "higher" else after - before
    return lost / abs(before) if before else inf if lost > 0 else 0.0


def _refuse(model: Model | Ensemble, code: str, label: str, help: str, **values: Any) -> NoReturn:
    experiment = model.program.experiment
    findings = Findings(experiment.source)
    findings.add(code, experiment.export.at("quantize"), label, help=help, **values)
    findings.stop_on_errors()
    raise AssertionError("unreachable")
