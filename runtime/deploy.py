"""`nnc export`: from a finished run to a deployment bundle, verified and then written whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler import pipeline
from nnc.compiler.lower import NO_LIMIT

from .bundle import require_replaceable, write_bundle
from .data.dataset import open_data
from .ensemble import Ensemble
from .export import Exported, exported
from .kernels import Array
from .machine import versions
from .model import Model
from .quantisation import in_fewer_bits
from .run import Run
from .servers import kserve, service_name, triton_config
from .signature import signature


def deploy(run: Run, model: Model | Ensemble, directory: Path, *, opset: int | None = None, data_root: Path | None = None) -> dict[str, Any]:
    """Write the bundle of what a run trained; the report of its verification. Nothing is written where a check fails.

    Only a spec that asks for fewer bits needs the data again; `data_root` is where it lies now.
    """
    require_replaceable(directory)
    found = exported(model.program, *model.serving(), run.rows(), opset=opset)
    experiment = model.program.experiment
    if experiment.export.params.quantize is not None:
        data = run.manifest()["data"]
        root = data_root or Path(data["root"])
        opened = open_data(pipeline.analyse(experiment.source, root=root, overrides=experiment.overrides, max_bytes=NO_LIMIT), root, NO_LIMIT)
        found = in_fewer_bits(found, model, opened, data["sha256"])
    write_bundle(directory, found.name, found.file, files(found, model), provenance(run, model))
    return found.report


def files(found: Exported, model: Model | Ensemble) -> dict[str, bytes]:
    """The files of a bundle, by path below it, but for the manifest."""
    name = service_name(found.name)
    return {
        found.file: found.data,
        "signature.json": _json(signature(found)),
        "verification.json": _json(found.report),
        "spec.nn": model.program.experiment.source.text.encode(),
        "predict.py": Path(__file__).with_name("alone.py").read_bytes(),
        f"triton/{name}/config.pbtxt": triton_config(name, found.interface).encode(),
        f"triton/{name}/1/model.onnx": found.data,
        "kserve.yaml": kserve(name, found.report["sha256"]).encode(),
    }


def provenance(run: Run, model: Model | Ensemble) -> dict[str, Any]:
    """What the model was made of: enough to make it again, given the data, and to read rows for it."""
    known = run.manifest()
    name = Path(known["spec"]["name"]).name.encode("utf-8", "replace").decode()  # where it lay is nobody's business
    kept = {key: known[key] for key in ("split", "weights", "members", "seed", "constants", "environment")}
    data = {key: known["data"][key] for key in ("sha256", "rows")}
    parameters = {"count": sum(array.size for array in model.parameters.values()), "sha256": _digest(model.parameters)}
    read = {key: model.members[0].about()[key] for key in ("schema", "classes")}
    return {"spec": known["spec"] | {"name": name}, "data": data, **kept, **read, "figures": run.figures(), "parameters": parameters, "versions": versions()}


def _digest(arrays: Mapping[str, Array]) -> str:
    """SHA-256 over names, types, shapes and bytes: equal for weights that are equal bit for bit."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}:{array.dtype}:{array.shape}\n".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
