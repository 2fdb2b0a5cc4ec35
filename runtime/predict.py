"""Predictions for a file of raw rows, chunk by chunk, with the graph that an export writes down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.ir import TensorType, concrete

from .data.rows import served
from .ensemble import Ensemble
from .executor import Arena, Executor
from .kernels import Array, Randomness
from .model import Model
from .result_files import Kind, write_results


def predict(model: Model | Ensemble, source: Path, target: Path, progress: Callable[[int], None] = lambda rows: None) -> int:
    """Write outputs and decisions of every row; the number of rows. `progress` is told how many rows more are done."""
    graph, variables = model.serving(decisions=True, dtype=model.program.dtype)
    executor = Executor(graph, variables, Randomness(0), Arena())
    kinds = {name: value.type for name, value in graph.leaves("input").items()}

    def found() -> Iterator[dict[str, Array]]:
        for chunk in served(model, source, kinds):
            outputs = executor.run(chunk.raw)
            yield beside(chunk.labels, outputs)
            progress(len(next(iter(outputs.values()))))

    return write_results(found(), {name: _kind(value.type) for name, value in graph.outputs.items()}, target)


def beside(labels: dict[str, list[Any]], outputs: dict[str, Array]) -> dict[str, Array]:
    """What is told about rows (files of images, or the last rows that windows see), under names that no output has, and the outputs."""
    return {f"{name}_" if name in outputs else name: _label(values) for name, values in labels.items()} | outputs


def _label(values: list[Any]) -> Array:
    """Numbers; or names of files, which need not be UTF-8."""
    return np.array([value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value for value in values],
                    object if isinstance(values[0], str) else None)  # fmt: skip


def _kind(kind: TensorType) -> Kind:
    return Kind(np.dtype(object if kind.dtype == "string" else kind.dtype), concrete(kind.shape, 0)[1:])
