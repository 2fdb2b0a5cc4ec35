"""signature.json: what goes into a deployed model and what comes out, with a request and the response to it.

The example is written in the Open Inference Protocol (v2), which Triton and KServe take as it stands.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnc.compiler.interface import Port
from nnc.compiler.ir import Batch

from .device import session
from .edge_rows import Rows
from .export import Exported
from .kernels import Array

EXAMPLE_ROWS = 2
MOST_NUMBERS = 10_000  # of an example with more than one row
DATATYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "uint8": "UINT8", "bool": "BOOL", "string": "BYTES"}


def signature(found: Exported) -> dict[str, Any]:
    """Inputs and outputs of the file by name, with dtype and shape; the first axis is the batch."""
    ports = found.interface
    return {
        "name": found.name,
        "model": found.file,
        "inputs": [{"name": name, **_described(port)} for name, port in ports.inputs.items()],
        "outputs": [{"name": name, **_described(port)} for name, port in ports.outputs.items()],
        "example": example(found),
    }


def _described(port: Port) -> dict[str, Any]:
    """What is known of a port; what is not is left out."""
    about = {"meaning": port.meaning, "columns": list(port.columns), "categories": list(port.categories), "unit": port.unit, "missing": port.missing}
    shape = ["batch" if isinstance(d, Batch) else d for d in port.type.shape]
    return {"dtype": port.type.dtype, "shape": shape} | {key: value for key, value in about.items() if value}


def example(found: Exported) -> dict[str, Any]:
    """A request and what onnxruntime gives for it."""
    made = session(found.data)
    inputs = _chosen(found.rows)
    outputs = dict(zip(found.interface.outputs, made.run(list(found.interface.outputs), inputs), strict=True))
    return {
        "request": {"inputs": [_tensor(name, array, found.interface.inputs[name]) for name, array in inputs.items()]},
        "response": {"model_name": found.name, "outputs": [_tensor(name, np.asarray(array), found.interface.outputs[name]) for name, array in outputs.items()]},
    }


def _chosen(rows: Rows) -> dict[str, Array]:
    """The first real rows without missing numbers, or else the first ones; rows of zeros and the like where no real ones are kept."""
    total = rows.real or rows.total
    whole = np.ones(total, bool)
    for array in rows.arrays.values():
        if array.dtype.kind == "f":
            whole &= np.isfinite(array[:total].reshape(total, -1)).all(1)
    order = np.argsort(~whole, kind="stable")
    count = EXAMPLE_ROWS if sum(array.size // len(array) for array in rows.arrays.values()) * EXAMPLE_ROWS <= MOST_NUMBERS else 1
    return {name: array[order[:count]] for name, array in rows.arrays.items()}


def _tensor(name: str, array: Array, port: Port) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "datatype": DATATYPES[port.type.dtype], "data": [_plain(item) for item in array.reshape(-1)]}


def _plain(item: Any) -> Any:
    """A number or a text as JSON has it: the fewest digits that give the number back, null where it is none."""
    if isinstance(item, np.floating):
        return float(str(item)) if np.isfinite(item) else None
    return item.item() if isinstance(item, np.generic) else item
