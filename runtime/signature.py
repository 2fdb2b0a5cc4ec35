"""signature.json: what goes into a deployed model and what comes out."""

from __future__ import annotations

from typing import Any

from nnc.compiler.interface import Port
from nnc.compiler.ir import Batch

from .export import Exported


def signature(found: Exported) -> dict[str, Any]:
    """Inputs and outputs of the file by name, with dtype and shape; the first axis is the batch."""
    ports = found.interface
    return {
        "inputs": [{"name": name, **_described(port)} for name, port in ports.inputs.items()],
        "outputs": [{"name": name, **_described(port)} for name, port in ports.outputs.items()],
    }


def _described(port: Port) -> dict[str, Any]:
    """What is known of a port; what is not is left out."""
    about = {"meaning": port.meaning, "columns": list(port.columns), "categories": list(port.categories), "unit": port.unit, "missing": port.missing}
    shape = ["batch" if isinstance(d, Batch) else d for d in port.type.shape]
    return {"dtype": port.type.dtype, "shape": shape} | {key: value for key, value in about.items() if value}
