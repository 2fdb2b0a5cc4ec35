"""Predictions for a file of raw rows, chunk by chunk, with the graph that an export writes down."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nnc.compiler.ir import TensorType, concrete

from .data.rows import served
from .ensemble import Ensemble
from .executor import Arena, Executor
from .files import replacing
from .kernels import Array, Randomness
from .model import Model


def predict(model: Model | Ensemble, source: Path, target: Path) -> int:
    """Write outputs and decisions of every row; the number of rows. A target that fails is not left half-written."""
    graph, variables = model.serving(decisions=True, dtype=model.program.dtype)
    executor = Executor(graph, variables, Randomness(0), Arena())
    kinds = {name: value.type for name, value in graph.leaves("input").items()}
    outputs = {name: value.type for name, value in graph.outputs.items()}
    found = (executor.run(raw) for raw in served(model, source, kinds))
    return _write_npz(found, outputs, target) if target.suffix == ".npz" else _write_csv(found, outputs, target)


def _write_npz(batches: Iterator[dict[str, Array]], outputs: dict[str, TensorType], target: Path) -> int:
    """Outputs as arrays, texts as fixed-width ones, which need no pickle."""
    parts: dict[str, list[Array]] = {name: [_empty(kind)] for name, kind in outputs.items()}
    for found in batches:
        for name, array in found.items():
            parts[name].append(array.astype(str) if array.dtype == object else array.copy())
    whole = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    packed = io.BytesIO()
    np.savez(packed, **whole)  # type: ignore[arg-type]
    with replacing(target) as write:
        write(packed.getvalue())
    return len(next(iter(whole.values())))


def _empty(kind: TensorType) -> Array:
    return np.empty(concrete(kind.shape, 0), str if kind.dtype == "string" else kind.dtype)


def _write_csv(batches: Iterator[dict[str, Array]], outputs: dict[str, TensorType], target: Path) -> int:
    rows = 0
    with replacing(target) as write:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow([cell for name, kind in outputs.items() for cell in _header(name, kind.size(1))])
        for found in batches:
            whole = np.concatenate([_cells(found[name].reshape(len(found[name]), -1)) for name in outputs], axis=1)
            writer.writerows(whole.tolist())
            rows += len(whole)
            write(text.getvalue().encode())
            text.seek(0)
            text.truncate()
        write(text.getvalue().encode())
    return rows


def _cells(column: Array) -> Array:
    """Numbers with the digits that give them back."""
    if column.dtype.kind == "f":
        return np.array([[repr(float(str(v))) for v in row] for row in column], object).reshape(column.shape)
    return column.astype(object)


def _header(name: str, size: int) -> list[str]:
    return [name] if size == 1 else [f"{name}_{i}" for i in range(size)]
