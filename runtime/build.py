"""`nnc build`: the ONNX file with initial or given weights, and the plan of a step, without training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nnc.compiler import pipeline, plan
from nnc.compiler.schema import Files

from .data.dataset import load
from .files import TEMPORARY, digest_of, refuse, write_json, write_text
from .kernels import Array
from .machine import versions
from .model import Model
from .train import start_from


def _inputs(program: pipeline.Program, root: Path) -> dict[str, object]:
    """What a build depends on: the spec, its constants, the files it names, and the versions that compile it."""
    experiment = program.experiment
    drawn = {p.draw.file for p in program.inference.parameters.values() if p.draw.file}
    files = {name: digest_of(root / name) for name in sorted(drawn) if (root / name).is_file()}
    bounds = [experiment.data.source] if experiment.data is not None else []
    if experiment.train is not None and experiment.train.params.start is not None:
        bounds.append(experiment.train.params.start)
    for bound in bounds:
        for value in bound.params.model_dump().values():
            if isinstance(value, str) and (root / value).is_file():
                files[value] = digest_of(root / value)
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


def build(program: pipeline.Program, root: Path, target: Path, max_bytes: int) -> list[str]:
    """The names of the files written into the target; none where nothing has changed since the last build."""
    inputs = _inputs(program, root)
    manifest = target / "manifest.json"
    known = _known(target)
    try:
        if known is not None and known["inputs"] == inputs and {name: digest_of(target / name) for name in known["files"]} == known["files"]:
            return []
    except OSError:
        pass  # a file of the last build is gone
    rows: dict[str, Array] | None = None
    train, samples, learned = program.train, None, {}
    if program.experiment.data is not None:
        program, data = load(program, root, max_bytes)
        samples, learned = data.rows("train"), data.learned.arrays
        chosen = data.splits["train"][:256]
        rows = {name: array[chosen] for name, array in data.raw.items()}
    model = Model(program, train.seed if train else 0, learned, samples, root)
    if train is not None and train.start is not None:
        start_from(model, train.start, Files(root))
    write_json(manifest, {"inputs": None, "files": {}})  # whose directory this is, should the rest not be written
    written = [program.experiment.export.params.file]
    model.export_onnx(target / written[0], rows)
    if train is not None:
        n = train.batch if isinstance(train.batch, int) else samples or 1
        write_text(target / "plan.txt", plan.show(plan.plan(model.stepper().graph, n)) + "\n")
        written.append("plan.txt")
    write_json(manifest, {"inputs": inputs, "files": {name: digest_of(target / name) for name in written}})
    return [*written, "manifest.json"]
