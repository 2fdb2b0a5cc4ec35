"""Where onnxruntime runs a graph, and why it cannot run on a GPU where it cannot.

onnxruntime names CUDA as available wherever the package for it is installed, and a CUDA session without a driver runs on the CPU. So what it needs
is looked at one by one, in the order in which it is needed, and every node's place is read from the session that was made.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import io
import shutil
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from typing import Any

from nnc.compiler.ir import Graph, N, TensorType, apply
from nnc.compiler.onnx_export import serialised, to_onnx

from .files import refuse

DEVICES = ("cpu", "cuda")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CUDNN = 9
SHOWN = 5  # nodes that a refusal names


class EngineRefusal(Exception):
    """onnxruntime does not load or run a file."""


@dataclass(frozen=True)
class Obstacle:
    """Why a device or an engine cannot be used on this machine, and what to do about it."""

    cause: str
    remedy: str


def errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; its own exceptions have no common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented, state.RuntimeException,
            RuntimeError, ValueError)  # fmt: skip


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def session(
    data: bytes,
    device: str = "cpu",
    *,
    optimise: bool = True,
    tf32: bool = False,
    whole: bool = True,
    dimensions: dict[str, int] | None = None,
    threads: int = 0,
) -> Any:
    """An InferenceSession of a serialised model in which every node runs on the device; without `whole` the CPU may take some.

    `dimensions` fixes named axes, such as the batch; `threads` are those of one operator, 0 for as many as onnxruntime likes. Raises EngineRefusal
    where onnxruntime does not load the model; E709 where the device cannot be used, or where it has no kernel for some nodes.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is an exception, and becomes a diagnostic
    for name, size in (dimensions or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    if device == "cuda":
        require(device)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    chosen: list[Any] = [(PROVIDERS["cuda"], {"use_tf32": str(int(tf32))})] if device == "cuda" else [PROVIDERS["cpu"]]
    try:
        made = ort.InferenceSession(data, options, providers=chosen, enable_fallback=0)
    except errors() as error:
        raise EngineRefusal(f"onnxruntime {ort.__version__} does not load the file: {first_line(error)}") from error
    if device == "cuda":
        _require_nodes(made, all_of_them=whole)
    return made


def require(device: str) -> None:
    """E709 with the cause where a device cannot be used."""
    if device not in DEVICES:
        refuse("E709", "there is no such device", f"use {' or '.join(DEVICES)}", device=device)
    found = obstacle() if device == "cuda" else None
    if found is not None:
        refuse("E709", found.cause, found.remedy, device=device)


def _require_nodes(made: Any, *, all_of_them: bool = True) -> None:
    left = elsewhere(made, PROVIDERS["cuda"]) if all_of_them else []
    if left:
        count = f"{len(left)} node{'s' if len(left) > 1 else ''}"
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        refuse("E709", f"{count} would run on the CPU: {', '.join(left[:SHOWN])}{more}", "run it without --device cuda", device="cuda")
    if made.get_providers()[0] != PROVIDERS["cuda"]:
        refuse("E709", "onnxruntime made a session on the CPU", "see `nnc doctor`", device="cuda")


def elsewhere(made: Any, provider: str) -> list[str]:
    """The nodes of a session that another provider has, with their operators."""
    places = ((place.ep_name, node) for place in made.get_provider_graph_assignment_info() for node in place.get_nodes())
    return [f"{node.name} ({node.op_type})" for name, node in places if name != provider]


# What CUDA needs


@cache
def obstacle() -> Obstacle | None:
    """Why CUDA cannot be used here, None where it can."""
    import onnxruntime as ort

    windows = sys.platform == "win32"
    if installed("onnxruntime") and installed("onnxruntime-gpu"):
        return Obstacle("onnxruntime and onnxruntime-gpu are both installed, and break each other",
                        "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu")  # fmt: skip
    if PROVIDERS["cuda"] not in ort.get_available_providers():
        return Obstacle("the installed onnxruntime is the one for CPUs alone", "pip uninstall onnxruntime, then pip install onnxruntime-gpu")
    wanted = _version(ort.cuda_version)
    return _driver("nvcuda.dll" if windows else "libcuda.so.1", wanted) or _libraries(wanted[0], windows) or _refusal()


def _driver(name: str, wanted: tuple[int, int]) -> Obstacle | None:
    """What is wrong with the driver: it is missing, it finds no GPU, or it is older than the CUDA that onnxruntime was built with."""
    problem = missing_library(name)
    if problem:
        tool = "" if shutil.which("nvidia-smi") else ", and there is no nvidia-smi"
        return Obstacle(f"there is no NVIDIA driver: {problem}{tool}", "install the driver, or give the container its GPU (docker run --gpus all)")
    status, version = driver(name)
    if status != 0:
        return Obstacle(f"the driver finds no GPU (cuInit gives {status})", "see whether nvidia-smi lists one, and whether CUDA_VISIBLE_DEVICES hides it")
    if version // 1000 < wanted[0]:
        have = f"{version // 1000}.{version % 1000 // 10}"
        return Obstacle(f"the driver knows CUDA {have}, onnxruntime was built with {wanted[0]}.{wanted[1]}", "install a newer driver")
    return None


def _libraries(major: int, windows: bool) -> Obstacle | None:
    """What is missing of CUDA and cuDNN, of NVIDIA's Python packages and where the system looks."""
    import onnxruntime as ort

    with redirect_stdout(io.StringIO()):  # it prints what it does not find
        ort.preload_dlls()
    pattern = "{}64_{}.dll" if windows else "lib{}.so.{}"
    for what, extra, stems, version in ((f"CUDA {major}", "cuda", ("cublasLt", "cublas", "cudart"), major), (f"cuDNN {CUDNN}", "cudnn", ("cudnn",), CUDNN)):
        names = [pattern.format(stem, version) for stem in stems]
        problems = [problem for problem in map(missing_library, names) if problem]
        if problems:
            return Obstacle(f"the libraries of {what} are missing: {'; '.join(problems)}", f"pip install 'onnxruntime-gpu[{extra}]', or install {what}")
    return None


def _refusal() -> Obstacle | None:
    """What remains where everything is there: whether onnxruntime really makes a session on the GPU."""
    import onnxruntime as ort

    try:
        made = ort.InferenceSession(probe(), _silent(), providers=[PROVIDERS["cuda"]], enable_fallback=0)
        problem = "" if made.get_providers()[0] == PROVIDERS["cuda"] else "it made a session on the CPU"
    except errors() as error:
        problem = first_line(error)
    return Obstacle(f"onnxruntime cannot use the GPU: {problem}", "see whether nvidia-smi lists a GPU with free memory") if problem else None


def _silent() -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    return options


def providers() -> dict[str, str]:
    """The execution providers that onnxruntime lists, each with why it cannot be used here; empty for one that can."""
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    found = {}
    for provider in ort.get_available_providers():
        if provider == PROVIDERS["cuda"]:
            problem = obstacle()
            found[provider] = "" if problem is None else f"{problem.cause}; {problem.remedy}"
            continue
        try:
            real = ort.InferenceSession(probe(), _silent(), providers=[provider], enable_fallback=0).get_providers()[0] == provider
        except errors():
            real = False
        found[provider] = "" if real else "no driver, or its libraries are missing"
    return found


def probe() -> bytes:
    """A model of one addition."""
    x = apply("input", name="x", type=TensorType("float32", (N, 1)))
    return serialised(to_onnx(Graph({"y": x + x}), {}, opset=18, name="probe", metadata={}))


# The border to the system


def installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def missing_library(name: str) -> str:
    """Why a shared library cannot be loaded; empty where it can."""
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return str(error).partition("\n")[0]
    return ""


def driver(name: str) -> tuple[int, int]:
    """The status of the CUDA driver's initialisation, 0 for success, and the newest CUDA it knows, 13000 for 13.0."""
    library, version = ctypes.CDLL(name), ctypes.c_int(0)
    status = int(library.cuInit(0))
    library.cuDriverGetVersion(ctypes.byref(version))
    return status, version.value


def _version(text: str) -> tuple[int, int]:
    major, _, rest = text.partition(".")
    return int(major), int(rest.partition(".")[0] or 0)
