"""`nnc build`: the ONNX file with initial or given weights, the training step as another (training.onnx), and the plan of a step, without training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnc.compiler import pipeline, plan

from .data.dataset import open_data
from .engine import choose
from .ensemble import Ensemble
from .export import metadata
from .files import TEMPORARY, digest_of, refuse, write_bytes, write_json, write_text
from .kernels import Array
from .machine import versions
from .members import parts, seeds
from .model import Model
from .onnx_steps import training_file, unwritten
from .start import start_from

STEP_FILE = "training.onnx"


def _inputs(program: pipeline.Program, root: Path) -> dict[str, object]:
    """What a build depends on: the spec, its constants, the files it names, and the versions that compile it."""
    experiment = program.experiment
    drawn = {p.draw.file for p in program.inference.parameters.values() if p.draw.file}
    files = {name: digest_of(root / name) for name in sorted(drawn) if (root / name).is_file()}
    bounds = [experiment.data.source] if experiment.data is not None else []
    if experiment.data is not None and experiment.data.split is not None and experiment.data.split.name == "files":
        bounds += experiment.data.split.params.sources.values()
    if experiment.train is not None and experiment.train.params.start is not None:
        bounds.append(experiment.train.params.start)
    for bound in bounds:
        for value in bound.params.model_dump().values():
            if isinstance(value, str) and (root / value).is_file():
                files[value] = digest_of(root / value)
            elif bound.name == "image_folder" and value:
                below = sorted(p for p in (root / value).rglob("*") if p.is_file())
                files |= {p.relative_to(root).as_posix(): digest_of(p) for p in below}
    spec = hashlib.sha256(experiment.source.text.encode()).hexdigest()
    found = {"spec": spec, "constants": experiment.overrides, "files": files, "versions": versions()}
    return dict(json.loads(json.dumps(found)))


def _known(target: Path) -> dict[str, Any] | None:
    """The manifest of the last build, None where there is none; E704 if the directory holds something else."""
    if target.exists() and not target.is_dir():
        refuse("E704", "it is a file", "give another directory with -o", path=str(target))
    if not target.is_dir() or all(p.match(TEMPORARY) for p in target.iterdir()):
        return None
    try:
        known = json.loads((target / "manifest.json").read_text("utf-8"))
        if known.keys() == {"inputs", "files"} and isinstance(known["files"], dict):
            return dict(known)
    except (OSError, ValueError, AttributeError):
        if all(p.name in ("manifest.json", "plan.txt") or p.suffix == ".onnx" for p in target.iterdir()):
            return None  # a build whose manifest is damaged
    refuse("E704", "it holds files that are no build", "give another directory with -o", path=str(target))


def untrained(program: pipeline.Program, root: Path, max_bytes: int) -> tuple[list[Model], dict[str, Array] | None]:
    """The networks with the weights that they start from, and rows to verify an export with."""
    experiment = program.experiment
    if experiment.data is None:
        models, rows = [Model(program, seeds(experiment)[0], root=root)], None
    else:
        models = []
        for (known, data), seed in zip(parts(open_data(program, root, max_bytes)), seeds(experiment), strict=True):
            models.append(Model(known, seed, data.learned.arrays, data.rows("train"), root))
        rows = {name: array[data.splits["train"][:256]] for name, array in data.raw.items()}
    for model in models:
        start_from(model, root)
    return models, rows


def build(program: pipeline.Program, root: Path, target: Path, max_bytes: int, note: Callable[[str], None] = lambda text: None) -> list[str]:
    """The names of the files written into the target; none where nothing has changed since the last build. `note` is told why one is left out."""
    inputs = _inputs(program, root)
    manifest = target / "manifest.json"
    known = _known(target)
    try:
        if known is not None and known["inputs"] == inputs and {name: digest_of(target / name) for name in known["files"]} == known["files"]:
            return []
    except OSError:
        pass  # a file of the last build is gone
    models, rows = untrained(program, root, max_bytes)
    model = models[0]
    write_json(manifest, {"inputs": None, "files": {}})  # whose directory this is, should the rest not be written
    written = [program.experiment.export.params.file]
    (model if len(models) == 1 else Ensemble(models)).export_onnx(target / written[0], rows)
    train = model.program.train
    if train is not None:
        n = train.step_size(model.samples)
        write_text(target / "plan.txt", plan.show(plan.plan(model.stepper().graph, n)) + "\n")
        written.append("plan.txt")
        problem = unwritten(model) or ("the model has that name" if STEP_FILE in written else "")
        if problem:
            note(f"no {STEP_FILE}: {problem}")
        else:
            write_bytes(target / STEP_FILE, training_file(model, model.step_apart(metrics=True), metadata(program.experiment)))
            written.append(STEP_FILE)
        engine = choose()
        if engine.name == "fast":
            model.step_program(n)  # its loops are compiled ahead of the training
        elif engine.instead:
            note(f"nothing is compiled ahead: {engine.instead}")
    write_json(manifest, {"inputs": inputs, "files": {name: digest_of(target / name) for name in written}})
    return [*written, "manifest.json"]
