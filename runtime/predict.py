"""Predictions for a file of raw rows, chunk by chunk, with the graph that an export writes down."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Refusal
from nnc.compiler.ir import TensorType, concrete
from nnc.compiler.parquet import arrow

from .data.columnar import as_parquet
from .data.rows import served
from .ensemble import Ensemble
from .executor import Arena, Executor
from .files import refuse, replacing
from .kernels import Array, Randomness
from .model import Model


def predict(model: Model | Ensemble, source: Path, target: Path) -> int:
    """Write outputs and decisions of every row; the number of rows. A target that fails is not left half-written."""
    graph, variables = model.serving(decisions=True, dtype=model.program.dtype)
    executor = Executor(graph, variables, Randomness(0), Arena())
    kinds = {name: value.type for name, value in graph.leaves("input").items()}
    outputs = {name: value.type for name, value in graph.outputs.items()}
    found = (Predicted(chunk.labels, executor.run(chunk.raw)) for chunk in served(model, source, kinds))
    if target.suffix == ".npz":
        return _write_npz(found, outputs, target)
    return _write_parquet(found, outputs, target) if target.suffix == ".parquet" else _write_csv(found, outputs, target)


@dataclass(frozen=True)
class Predicted:
    """Outputs of some rows, and what is told about the rows: files of images, or the last rows that windows see."""

    labels: dict[str, list[Any]]
    outputs: dict[str, Array]

    def named(self) -> dict[str, list[Any]]:
        """The labels under names that no output has."""
        return {f"{name}_" if name in self.outputs else name: values for name, values in self.labels.items()}


def _whole(batches: Iterator[Predicted], outputs: dict[str, TensorType]) -> dict[str, Array]:
    """Labels and outputs of all rows as arrays."""
    labels: dict[str, list[Any]] = {}
    parts: dict[str, list[Array]] = {name: [_empty(kind)] for name, kind in outputs.items()}
    for found in batches:
        for name, values in found.named().items():
            labels.setdefault(name, []).extend(values)
        for name, array in found.outputs.items():
            parts[name].append(array.astype(str) if array.dtype == object else array.copy())
    return {name: np.array(values) for name, values in labels.items()} | {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _write_npz(batches: Iterator[Predicted], outputs: dict[str, TensorType], target: Path) -> int:
    """Outputs as arrays, texts as fixed-width ones, which need no pickle."""
    whole = _whole(batches, outputs)
    packed = io.BytesIO()
    np.savez(packed, **whole)  # type: ignore[arg-type]
    with replacing(target) as write:
        write(packed.getvalue())
    return len(whole[next(iter(outputs))])


def _write_parquet(batches: Iterator[Predicted], outputs: dict[str, TensorType], target: Path) -> int:
    """The columns of the csv file, in their types."""
    try:
        arrow()
    except Refusal as refusal:
        refuse(refusal.code, refusal.label, refusal.help, **refusal.values)
    columns: dict[str, Array] = {}
    for name, array in _whole(batches, outputs).items():
        flat = array.reshape(len(array), -1) if len(array) else np.empty((0, outputs[name].size(1) if name in outputs else 1), array.dtype)
        columns |= dict(zip(_header(name, flat.shape[1]), (column.astype(object) if array.dtype.kind == "U" else column for column in flat.T), strict=True))
    packed = as_parquet(columns)
    with replacing(target) as write:
        write(packed)
    return len(next(iter(columns.values())))


def _empty(kind: TensorType) -> Array:
    return np.empty(concrete(kind.shape, 0), str if kind.dtype == "string" else kind.dtype)


def _write_csv(batches: Iterator[Predicted], outputs: dict[str, TensorType], target: Path) -> int:
    rows, begun = 0, False
    with replacing(target) as write:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        header = [cell for name, kind in outputs.items() for cell in _header(name, kind.size(1))]
        for found in batches:
            labels = found.named()
            if not begun:
                writer.writerow([*labels, *header])
                begun = True
            columns = [np.array(values, object).reshape(-1, 1) for values in labels.values()]
            whole = np.concatenate([*columns, *(_cells(found.outputs[name].reshape(len(found.outputs[name]), -1)) for name in outputs)], axis=1)
            writer.writerows(whole.tolist())
            rows += len(whole)
            write(text.getvalue().encode())
            text.seek(0)
            text.truncate()
        if not begun:
            writer.writerow(header)
        write(text.getvalue().encode())
    return rows


def _cells(column: Array) -> Array:
    """Numbers with the digits that give them back."""
    if column.dtype.kind == "f":
        return np.array([[repr(float(str(v))) for v in row] for row in column], object).reshape(column.shape)
    return column.astype(object)


def _header(name: str, size: int) -> list[str]:
    return [name] if size == 1 else [f"{name}_{i}" for i in range(size)]
