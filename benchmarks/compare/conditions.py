"""The same conditions for every process of a measurement, and what is written down about the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

# A BLAS kernel or a number of threads pinned by the environment hurts NumPy and scikit-learn alone. Without a safe path
# a script finds the modules beside it.
REMOVED = ("OPENBLAS_", "PYTHONSAFEPATH")
# With glibc's own thresholds large arrays go back to the system and are faulted in again in every step.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
# What is compiled and kept on disk: empty when the first process of a contestant starts.
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR", "NNC_CACHE")
# What else may bear on the figures, as it was found.
NOTED = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "LD_PRELOAD")

DISTRIBUTIONS = {"torch": "torch", "jax": "jax", "keras": "keras", "sklearn": "scikit-learn"}
PROBE = """
import importlib.metadata, json, sys
found = {"python": sys.version.split()[0]}
for library, distribution in json.loads(sys.argv[1]).items():
    try:
        found[library] = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def environment(caches: Path | None = None) -> dict[str, str]:
    """The environment of a measured process."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(REMOVED)}
    return kept | ALLOCATOR | ({} if caches is None else {key: str(caches / key.lower()) for key in CACHES})


def versions(python: str, libraries: dict[str, str] = DISTRIBUTIONS) -> dict[str, str]:
    """Versions of Python and of those libraries that this interpreter has."""
    said = subprocess.run([python, "-c", PROBE, json.dumps(libraries)], capture_output=True, text=True, check=True, env=environment())
    return dict(json.loads(said.stdout))


def machine() -> dict[str, Any]:
    """The machine, and how busy it is: a figure from a busy one is worth little."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.is_file() else []
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2),
        "environment": {key: os.environ[key] for key in NOTED if key in os.environ},
    }
