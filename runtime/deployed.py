"""A deployment bundle that predicts: onnxruntime runs its model, its spec says how files of rows are read."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from nnc.compiler import pipeline
from nnc.compiler.ir import Graph, N, TensorType, concrete
from nnc.compiler.lower import NO_LIMIT
from nnc.compiler.source import Source

from .bundle import Bundle
from .data.dataset import Learned
from .device import EngineRefusal, errors, first_line, session
from .files import refuse
from .kernels import Array
from .model import schema_in
from .predict import Predictor


class Port(BaseModel):
    """An input or an output of the file."""

    model_config = ConfigDict(strict=True)

    name: str
    dtype: str
    shape: list[int | str]

    @property
    def type(self) -> TensorType:
        return TensorType(self.dtype, (N, *(d for d in self.shape[1:] if isinstance(d, int))))


class Signature(BaseModel):
    model_config = ConfigDict(strict=True)

    inputs: list[Port]
    outputs: list[Port]


def of_bundle(bundle: Bundle, device: str = "cpu") -> Predictor:
    """E612 where onnxruntime does not load the model, or does not run it; E709 where the device cannot be used."""
    program, classes = _program(bundle)
    try:
        signature = Signature.model_validate_json(bundle.content["signature.json"])
    except (KeyError, ValidationError):
        _unreadable(bundle, "signature.json")
    try:
        made = session(bundle.model, device)
    except EngineRefusal as refusal:
        refuse("E612", str(refusal), "use the onnxruntime that verification.json names", path=str(bundle.path))
    wanted = [port.name for port in signature.outputs]

    def compute(raw: dict[str, Array]) -> dict[str, Array]:
        try:
            return dict(zip(wanted, made.run(wanted, raw), strict=True))
        except errors() as error:
            refuse("E612", first_line(error), "look for a value that the network was not made for, such as an unseen category", path=str(bundle.path))

    return Predictor(
        program.experiment, "float32", [_stand_in(program, classes)], {port.name: port.type for port in signature.inputs},
        {port.name: port.type for port in signature.outputs}, compute, f"onnxruntime on {'the CPU' if device == 'cpu' else device.upper()}",
    )  # fmt: skip


def _program(bundle: Bundle) -> tuple[pipeline.Program, dict[str, tuple[Any, ...]]]:
    """The checked spec with what the source of its training was, and the classes that its steps found."""
    try:
        known = bundle.manifest
        classes = {str(path): tuple(found) for path, found in known["classes"].items()}
        schema = None if known["schema"] is None else schema_in(known["schema"])
        source = Source(str(known["spec"]["name"]), bundle.spec)
        return pipeline.analyse(source, root=None, overrides=dict(known["constants"]), schema=schema, learned=classes, max_bytes=NO_LIMIT), classes
    except (KeyError, TypeError, AttributeError, ValueError):
        _unreadable(bundle, "manifest.json")


def _unreadable(bundle: Bundle, name: str) -> NoReturn:
    refuse("E703", f"{name} does not say how rows are read", "export it again with this version", path=str(bundle.path))


def _stand_in(program: pipeline.Program, classes: dict[str, tuple[Any, ...]]) -> Learned:
    """Ones for all that data steps have learned, which is inside the model: enough to see whether a missing value is filled."""
    arrays: dict[str, Array] = {}
    for prepared in program.prepared.values():
        for name, value in Graph({"column": prepared.column.value}).leaves("variable").items():
            arrays[name] = np.ones(concrete(value.shape, 1), "float32")
    return Learned(arrays, classes)
