"""What runs the steps of a training: `numpy`; `fast`, which compiles loops with numba (the extra `nnc-lang[fast]`); `onnxruntime`, on a device.

--engine says which, else the variable NNC_ENGINE; without either it is the fast one where numba can be imported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib import metadata

from .blas import has_product
from .device import require
from .files import refuse
from .machine_code import compiles, folder

ENGINES = ("numpy", "fast", "onnxruntime")


@dataclass(frozen=True)
class Engine:
    """`device` is where onnxruntime runs; the others have the CPU alone."""

    name: str
    device: str = "cpu"

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
    if wanted == "fast" and missing():
        refuse("E708", missing(), "pip install 'nnc-lang[fast]'", engine=wanted)
    return Engine(wanted or ("numpy" if missing() else "fast"))


@cache
def missing() -> str:
    """Why the fast engine cannot run here; empty where it can."""
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"no place to keep what is compiled: {error}"
    if not os.access(place, os.W_OK):
        return f"no place to keep what is compiled: {place} cannot be written"
    return compiles() or ("" if has_product() else "NumPy's BLAS has no product that compiled code can call")
