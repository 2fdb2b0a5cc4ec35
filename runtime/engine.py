"""Which engine runs the steps of a training: `numpy`, or `fast`, which compiles loops with numba (the extra `nnc-lang[fast]`).

The fast one is used where numba can be imported; NNC_ENGINE=numpy or NNC_ENGINE=fast decides otherwise.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import metadata

from . import loops
from .files import refuse

ENGINES = ("numpy", "fast")


@cache
def engine() -> str:
    """The engine's name; E708 where the one that was asked for is not there."""
    wanted = os.environ.get("NNC_ENGINE", "")
    if wanted and wanted not in ENGINES:
        refuse("E708", f"NNC_ENGINE={wanted}", f"use {' or '.join(ENGINES)}, or unset it", engine=wanted)
    if wanted == "numpy":
        return wanted
    problem = missing()
    if problem and wanted:
        refuse("E708", problem, "pip install 'nnc-lang[fast]'", engine=wanted)
    return "numpy" if problem else "fast"


@cache
def missing() -> str:
    """Why the fast engine cannot run here; empty where it can."""
    place = loops.folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"no place to keep what is compiled: {error}"
    if not os.access(place, os.W_OK):
        return f"no place to keep what is compiled: {place} cannot be written"
    try:
        from . import compiled  # noqa: F401
    except ImportError as error:  # not installed, or not made for this NumPy
        return str(error)
    except RuntimeError as error:  # numba has no place to keep its own
        return str(error)
    return ""


def described() -> str:
    """The engine as checkpoints record it: bits are promised only for equal ones."""
    return f"fast, numba {metadata.version('numba')}" if engine() == "fast" else "numpy"
