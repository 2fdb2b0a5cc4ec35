"""`nnc build`: the ONNX file with initial or given weights, and the plan of a step, without training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from nnc.compiler import pipeline, plan
from nnc.compiler.experiment import Experiment

from .data.dataset import load
from .export import export
from .files import digest_of, write_json, write_text
from .kernels import Array
from .machine import versions
from .model import Model
from .train import start_from


def _inputs(experiment: Experiment, root: Path) -> dict[str, object]:
    """What a build depends on: the spec, its constants, the files it names, and the versions that compile it."""
    files = {}
    bounds = [experiment.data.source] if experiment.data is not None else []
    if experiment.train is not None and experiment.train.params.start is not None:
        bounds.append(experiment.train.params.start)
    for bound in bounds:
        for value in bound.params.model_dump().values():
            if isinstance(value, str) and (root / value).is_file():
                files[value] = digest_of(root / value)
    spec = hashlib.sha256(experiment.source.text.encode()).hexdigest()
    return {"spec": spec, "constants": experiment.overrides, "files": files, "versions": versions()}


def build(program: pipeline.Program, root: Path, target: Path, max_bytes: int) -> list[str]:
    """The names of the files written into the target; none where nothing has changed since the last build."""
    inputs = _inputs(program.experiment, root)
    manifest = target / "manifest.json"
    try:
        known = json.loads(manifest.read_text())
        kept = {name: digest_of(target / name) for name in known["files"]}
        if known["inputs"] == json.loads(json.dumps(inputs)) and kept == known["files"]:
            return []
    except (OSError, ValueError, KeyError):
        pass  # no build yet, or not a whole one
    rows: dict[str, Array] | None = None
    train, samples, learned = program.train, None, {}
    if program.experiment.data is not None:
        program, data = load(program, root, max_bytes)
        samples, learned = data.rows("train"), data.learned.arrays
        chosen = data.splits["train"][:256]
        rows = {name: array[chosen] for name, array in data.raw.items()}
    model = Model(program, train.seed if train else 0, learned, samples)
    if train is not None and train.start is not None:
        from nnc.compiler.schema import Files

        start_from(model, train.start, Files(root))
    written = [program.experiment.export.params.file]
    export(model, target / written[0], rows)
    if train is not None:
        n = train.batch if isinstance(train.batch, int) else samples or 1
        write_text(target / "plan.txt", plan.show(plan.plan(model.stepper().graph, n)) + "\n")
        written.append("plan.txt")
    write_json(manifest, {"inputs": inputs, "files": {name: digest_of(target / name) for name in written}})
    return [*written, "manifest.json"]
