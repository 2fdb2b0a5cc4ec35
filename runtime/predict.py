"""Predictions for a file of raw rows, chunk by chunk, from the graph of a run or from an exported file (deployed.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.experiment import Experiment
from nnc.compiler.ir import TensorType, concrete

from .data.dataset import Learned
from .data.rows import preparations, served
from .ensemble import Ensemble
from .executor import Arena, Executor
from .files import require_other
from .kernels import Array, Randomness
from .model import Model
from .result_files import Kind, write_results


@dataclass(frozen=True)
class Predictor:
    """`compute` gives outputs for raw inputs; the experiment says how files hold them, `preparations` what data steps have learned."""

    experiment: Experiment
    dtype: str
    preparations: Sequence[Learned]
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    compute: Callable[[dict[str, Array]], Mapping[str, Array]]
    engine: str


def of_model(model: Model | Ensemble) -> Predictor:
    """Outputs and decisions of what was trained, by the NumPy runtime."""
    graph, variables = model.serving(decisions=True, dtype=model.program.dtype)
    inputs = {name: value.type for name, value in graph.leaves("input").items()}
    outputs = {name: value.type for name, value in graph.outputs.items()}
    executor = Executor(graph, variables, Randomness(0), Arena())
    return Predictor(model.program.experiment, model.program.dtype, preparations(model), inputs, outputs, executor.run, "NumPy on the CPU")


def predict(by: Predictor, source: Path, target: Path, progress: Callable[[int], None] = lambda rows: None) -> int:
    """Write the outputs for every row; the number of rows. `progress` is told how many rows more are done. E704 where `target` is `source`."""
    require_other(target, source)

    def found() -> Iterator[dict[str, Array]]:
        for chunk in served(by.experiment, source, by.inputs, by.dtype, by.preparations):
            outputs = by.compute(chunk.raw)
            yield _beside(chunk.labels, outputs)
            progress(len(next(iter(outputs.values()))))

    return write_results(found(), {name: _kind(kind) for name, kind in by.outputs.items()}, target)


def _beside(labels: Mapping[str, list[Any]], outputs: Mapping[str, Array]) -> dict[str, Array]:
    """What is told about rows (files of images, or the last rows that windows see), under names that no output has, and the outputs."""
    return {f"{name}_" if name in outputs else name: _label(values) for name, values in labels.items()} | dict(outputs)


def _label(values: list[Any]) -> Array:
    """Numbers; or names of files, which need not be UTF-8."""
    return np.array([value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value for value in values],
                    object if isinstance(values[0], str) else None)  # fmt: skip


def _kind(kind: TensorType) -> Kind:
    return Kind(np.dtype(object if kind.dtype == "string" else kind.dtype), concrete(kind.shape, 0)[1:])
