"""signature.json: what goes into a deployed model and what comes out."""

from __future__ import annotations

from typing import Any

from nnc.compiler.ir import Batch, TensorType

from .export import Exported


def signature(found: Exported) -> dict[str, Any]:
    """Inputs and outputs of the file by name, with dtype and shape; the first axis is the batch."""
    inputs = found.graph.leaves("input")
    return {
        "inputs": [{"name": name, **_type(value.type)} for name, value in inputs.items()],
        "outputs": [{"name": name, **_type(value.type)} for name, value in found.graph.outputs.items()],
    }


def _type(kind: TensorType) -> dict[str, Any]:
    return {"dtype": kind.dtype, "shape": ["batch" if isinstance(d, Batch) else d for d in kind.shape]}
