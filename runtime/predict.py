"""Predictions for a file of raw rows, chunk by chunk, with the graph that an export writes down."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .data.rows import raw_batches, shaped
from .executor import Arena, Executor
from .files import refuse, write_bytes
from .kernels import Array, Randomness
from .model import Model


def predict(model: Model, source: Path, target: Path) -> int:
    """Write outputs and decisions of every row; the number of rows. A target that fails is not left half-written."""
    graph, variables = model.serving(decisions=True)
    kinds = {name: value.type for name, value in graph.leaves("input").items()}
    executor = Executor(graph, variables, Randomness(0), Arena())
    batches = (executor.run(shaped(model, raw, kinds)) for raw in raw_batches(model, source, list(kinds)))
    if target.suffix == ".npz":
        parts = [{name: array.copy() for name, array in found.items()} for found in batches]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in graph.outputs} if parts else {}
        packed = io.BytesIO()
        np.savez(packed, **{n: a.astype(str) if a.dtype == object else a for n, a in whole.items()})  # type: ignore[arg-type]
        write_bytes(target, packed.getvalue())
        return len(next(iter(whole.values()))) if whole else 0
    return _write_csv(batches, target)


def _write_csv(batches: Any, target: Path) -> int:
    rows = 0
    temporary = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for found in batches:
                columns = {name: array.reshape(len(array), -1) for name, array in found.items()}
                if not rows:
                    writer.writerow(_header(columns))
                whole = np.concatenate([_cells(c) for c in columns.values()], axis=1)
                writer.writerows(whole.tolist())
                rows += len(whole)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
        temporary = ""
    except OSError as error:
        refuse("E701", str(error.strerror or error), "free some space, or choose another place with -o", path=str(target))
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
    return rows


def _cells(column: Array) -> Array:
    """Numbers with the digits that give them back."""
    if column.dtype.kind == "f":
        return np.array([[repr(float(str(v))) for v in row] for row in column], object).reshape(column.shape)
    return column.astype(object)


def _header(columns: dict[str, Array]) -> list[str]:
    return [name if c.shape[1] == 1 else f"{name}_{i}" for name, c in columns.items() for i in range(c.shape[1])]
