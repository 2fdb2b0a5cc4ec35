"""What this machine offers: versions, BLAS, execution providers. Nothing here changes a setting."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from .threads import blas_libraries

PACKAGES = ("nnc-lang", "numpy", "lark", "pydantic", "safetensors", "threadpoolctl", "numba", "onnx", "onnxruntime-gpu", "onnxruntime")


def versions() -> dict[str, str]:
    """Installed versions of nnc and of what it stands on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def blas() -> dict[str, Any]:
    """The library, the kernel and the threads of NumPy's BLAS, or empty where it is one that does not tell."""
    for library in blas_libraries():
        told = library.info()
        return {"library": told["internal_api"], "kernel": told.get("architecture") or "", "threads": told["num_threads"]}
    return {}


def environment(engine: str) -> dict[str, Any]:
    """What a run's bits depend on, beside its spec, its data and its seed: the engine as it describes itself, and the rest."""
    known = versions()
    kept = {name: known[name] for name in ("python", "numpy", "nnc-lang") if name in known}
    return {"versions": kept, "engine": engine, "blas": blas(), "machine": platform.machine(), "system": platform.system()}


def cpu() -> str:
    """The processor's name, as the system gives it."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
