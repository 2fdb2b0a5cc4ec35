"""`nnc doctor`: what this machine offers, and what stands in the way. It reads and never sets."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nnc.compiler.diagnostics import SpecError

from .device import providers
from .engine import choose, obstacle
from .machine import blas, cpu, usable_cores, versions


@dataclass(frozen=True)
class Finding:
    what: str
    found: str
    problem: str = ""


def examine() -> list[Finding]:
    known = versions()
    found = [Finding("processor", f"{cpu()}, {usable_cores()} usable cores"), _blas()]
    found.append(_engine())
    found += [Finding(name, version) for name, version in known.items()]
    if "onnxruntime" in known and "onnxruntime-gpu" in known:
        found.append(Finding("onnxruntime", "both builds installed", "they break each other: pip uninstall onnxruntime onnxruntime-gpu, then install one"))
    found += _providers()
    return found


def _engine() -> Finding:
    hindered = obstacle()
    why = f" (fast: {hindered.cause}; {hindered.remedy})" if hindered else ""
    try:
        return Finding("engine", choose().described + why)
    except SpecError as error:
        asked = error.diagnostics[0]
        return Finding("engine", f"none: {asked.label}", f"the environment asks for NNC_ENGINE={os.environ['NNC_ENGINE']}: {asked.help}")


def _blas() -> Finding:
    known = blas()
    if not known:
        return Finding("BLAS", "not OpenBLAS; its kernel cannot be read")
    shown = f"{known['library']}, kernel {known['kernel']}, {known['threads']} threads"
    pinned = {k: v for k, v in os.environ.items() if k.startswith("OPENBLAS_") and k != "OPENBLAS_NUM_THREADS"}
    if pinned:
        names = ", ".join(f"{k}={v}" for k, v in pinned.items())
        return Finding("BLAS", shown, f"the environment pins it with {names}: unset these unless you know that they are faster")
    return Finding("BLAS", shown)


def _providers() -> list[Finding]:
    """Providers that a session really gets: onnxruntime lists CUDA also where it cannot run."""
    try:
        found = providers()
    except ImportError as error:
        return [Finding("onnxruntime", "missing", f"{error}: pip install onnxruntime")]
    return [Finding("provider", f"{name}{': listed by onnxruntime, not usable: ' + why if why else ''}") for name, why in found.items()]
