"""What runs the steps of a training: `numpy`; `fast`, which compiles loops with numba (the extra `nnc-lang[fast]`); `onnxruntime`, on a device.

--engine says which, else the variable NNC_ENGINE; without either it is the fast one where numba can be imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from importlib.util import find_spec

from .blas import has_product
from .device import Obstacle, require
from .files import refuse
from .machine_code import compiles, folder

ENGINES = ("numpy", "fast", "onnxruntime")
_in_use: ContextVar[str] = ContextVar("engine in use", default="")


@dataclass(frozen=True)
class Engine:
    """`device` is where onnxruntime runs; the others have the CPU alone. `instead` says why it is not the fast one, whose numba is there."""

    name: str
    device: str = "cpu"
    instead: str = field(default="", compare=False)

    @property
    def described(self) -> str:
        """As checkpoints record it: bits are promised only for equal ones."""
        match self.name:
            case "fast":
                return f"fast, numba {metadata.version('numba')}"
            case "onnxruntime":
                import onnxruntime

                return f"onnxruntime {onnxruntime.__version__} on {self.device}"
        return self.name


def choose(name: str | None = None, device: str | None = None) -> Engine:
    """The engine of a training. E708 where the one that was asked for is not there, E709 where the device is not.

    A GPU that is asked for without an engine is onnxruntime's.
    """
    said = "--engine" if name else "NNC_ENGINE"
    wanted = name or os.environ.get("NNC_ENGINE", "")
    if wanted and wanted not in ENGINES:
        refuse("E708", f"{said}={wanted}", f"use {', '.join(ENGINES[:-1])} or {ENGINES[-1]}", engine=wanted)
    if device == "cuda" and not name:
        wanted = "onnxruntime"
    if wanted == "onnxruntime":
        require(device or "cpu")
        return Engine(wanted, device or "cpu")
    if device not in (None, "cpu"):
        refuse("E709", f"the engine {wanted} runs on the CPU", "use --engine onnxruntime", device=device)
    if wanted == "fast":
        require_fast()
    found = None if wanted else obstacle()
    if found is None:
        return Engine(wanted or "fast")
    return Engine("numpy", instead=found.cause if find_spec("numba") else "")


def require_fast() -> None:
    """E708 where the fast engine cannot run."""
    found = obstacle()
    if found is not None:
        refuse("E708", found.cause, found.remedy, engine="fast")


@cache
def obstacle() -> Obstacle | None:
    """Why the fast engine cannot run here; None where it can."""
    place, elsewhere = folder(), "name a directory that can be written in the variable NNC_CACHE"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return Obstacle(f"no place to keep what is compiled: {error}", elsewhere)
    if not os.access(place, os.W_OK):
        return Obstacle(f"no place to keep what is compiled: {place} cannot be written", elsewhere)
    why = compiles()
    if why:
        return Obstacle(why, "pip install --upgrade 'nnc-lang[fast]'" if find_spec("numba") else "pip install 'nnc-lang[fast]'")
    if not has_product():
        return Obstacle("NumPy's BLAS has no product that compiled code can call", "install the numpy of PyPI, which brings OpenBLAS")
    return None


@contextmanager
def using(engine: Engine) -> Iterator[None]:
    """Have what is not a step, such as the reading of files, go by this engine too."""
    before = _in_use.set(engine.name)
    try:
        yield
    finally:
        _in_use.reset(before)


def compiles_beside_steps() -> bool:
    """Whether what is not a step may run as compiled code: where it can, and NumPy's engine was not asked for."""
    return (_in_use.get() or os.environ.get("NNC_ENGINE", "")) != "numpy" and obstacle() is None
