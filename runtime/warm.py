"""`nnc doctor --warm`: what the fast engine would compile when a training begins, compiled ahead."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from nnc.compiler import pipeline

from . import machine_code
from .build import untrained
from .engine import require_fast


def warm(programs: Sequence[tuple[pipeline.Program, Path]], max_bytes: int) -> tuple[int, int]:
    """Compile every kernel of the engine, and the loops of these programs' steps; how many functions are kept now, and how many are new.

    E708 where the engine cannot run here.
    """
    require_fast()
    importlib.import_module(".fusion", __package__)  # it names every module of kernels
    before = _kept()
    for module in machine_code.modules:
        for code in module.every():
            assert code.address
    for program, root in programs:
        if program.train is None:
            continue
        model = untrained(program, root, max_bytes)[0][0]
        samples = model.samples or 1
        n = program.train.step_size(samples)
        for size in {n, samples % n or n}:  # the last batch of an epoch may be smaller
            model.step_program(size)
    after = _kept()
    return len(after), len(after - before)


def _kept() -> set[str]:
    return {path.name for path in machine_code.folder().glob("*.o")}
