"""Parameters that start from a file of another training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Findings, Refusal
from nnc.compiler.schema import Files

from .files import read_any_arrays
from .model import Model

Array = np.ndarray[Any, Any]


def start_from(model: Model, root: Path) -> None:
    """Copy parameters of the same names from the safetensors file of the train section's `start`, if it has one; E512 names what does not fit."""
    train = model.program.train
    if train is None or train.start is None:
        return
    start, p = train.start, train.start.params
    findings = Findings(model.program.experiment.source)
    place = start.spans.get("file", start.span)
    arrays: dict[str, Array] = {}
    try:
        arrays = read_any_arrays(Files(root).path(p.file))
    except Refusal as refusal:
        findings.add_refusal(refusal, place)
    except ValueError as error:
        findings.add("E512", place, str(error), file=p.file, help="give a safetensors file, such as Model.save writes")
    findings.stop_on_errors()
    parts = [reference.name for reference in p.only]
    taken = 0
    for name in model.parameters:
        wanted = not parts or any(name == part or name.startswith(part + "/") for part in parts)
        if not wanted:
            continue
        if name not in arrays:
            if parts:
                findings.add("E512", place, f"it has no `{name}`", file=p.file, help="take only parts that the file holds")
            continue
        if arrays[name].shape != model.parameters[name].shape:
            findings.add("E512", place, f"`{name}` is {list(arrays[name].shape)} there, {list(model.parameters[name].shape)} here",
                         file=p.file, help="name the parts that fit with only=[...]")  # fmt: skip
            continue
        try:
            model.parameters[name] = arrays[name]
        except ValueError as error:
            findings.add("E512", place, str(error), file=p.file, help="take a file with finite numbers")
        taken += 1
    if not taken and not findings.errors:
        findings.add("E512", place, "no parameter of the network is in it", file=p.file, help="its arrays must have the network's parameter names")
    findings.stop_on_errors()
