"""Devices: what CUDA needs is looked at in its order, and a refusal names the first thing that is missing, or the nodes without a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnxruntime
import pytest

from nnc.compiler.diagnostics import SpecError
from nnc.runtime import device
from nnc.runtime.device import DEVICES, PROVIDERS, EngineRefusal, elsewhere, obstacle, probe, require, session

NEWEST = device._version(onnxruntime.cuda_version or "13.0")
Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with everything that CUDA needs but for what is named; only what the system is asked is replaced."""

    def make(missing: tuple[str, ...] = (), status: int = 0, version: int = NEWEST[0] * 1000, packages: tuple[str, ...] = ("onnxruntime-gpu",)) -> None:
        def problem(name: str) -> str:
            return f"{name}: cannot open shared object file" if any(part in name for part in missing) else ""

        monkeypatch.setattr(device, "missing_library", problem)
        monkeypatch.setattr(device, "driver", lambda name: (status, version))
        monkeypatch.setattr(device, "installed", lambda package: package in packages)
        monkeypatch.setattr(onnxruntime, "cuda_version", f"{NEWEST[0]}.{NEWEST[1]}")
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("noise"))
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*(() if "cuda" in missing else (PROVIDERS["cuda"],)), PROVIDERS["cpu"]])

    obstacle.cache_clear()
    yield make
    obstacle.cache_clear()


def refusal(name: str) -> str:
    with pytest.raises(SpecError) as caught:
        require(name)
    (found,) = caught.value.diagnostics
    assert found.code == "E709"
    return f"{found.title}: {found.label}; {found.help}"


MAJOR = NEWEST[0]
CAUSES = {
    "both packages": ({"packages": ("onnxruntime", "onnxruntime-gpu")}, "both installed", "pip uninstall onnxruntime onnxruntime-gpu"),
    "CPU-only package": ({"missing": ("cuda",)}, "the one for CPUs alone", "pip install onnxruntime-gpu"),
    "no driver": ({"missing": ("libcuda.so", "nvcuda")}, "no NVIDIA driver", "install the driver"),
    "no GPU": ({"status": 100}, "finds no GPU (cuInit gives 100)", "CUDA_VISIBLE_DEVICES"),
    "old driver": ({"version": 12040}, "the driver knows CUDA 12.4", "newer driver"),
    "no CUDA": ({"missing": ("cublas",)}, f"the libraries of CUDA {MAJOR} are missing", "onnxruntime-gpu[cuda]"),
    "no cuDNN": ({"missing": ("cudnn",)}, "the libraries of cuDNN 9 are missing", "onnxruntime-gpu[cudnn]"),
    "driver before libraries": ({"missing": ("libcuda.so", "nvcuda", "cublas", "cudnn")}, "no NVIDIA driver", "install the driver"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_a_refusal_names_the_first_thing_that_is_missing(machine: Machine, capfd: pytest.CaptureFixture[str], case: str) -> None:
    about, cause, remedy = CAUSES[case]
    machine(**about)
    said = refusal("cuda")
    assert cause in said
    assert remedy in said
    assert "".join(capfd.readouterr()) == ""


def test_nothing_is_believed_that_no_session_shows(machine: Machine) -> None:
    """Everything seems to be there, and onnxruntime makes its session on the CPU all the same."""
    if PROVIDERS["cuda"] in real_providers():
        pytest.skip("a GPU is there")
    machine()
    assert "onnxruntime cannot use the GPU" in refusal("cuda")


def real_providers() -> list[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return list(onnxruntime.InferenceSession(probe(), options, providers=onnxruntime.get_available_providers()).get_providers())


def test_this_machine() -> None:
    """No cause exactly where a session runs on the GPU."""
    onnxruntime.set_default_logger_severity(4)
    obstacle.cache_clear()
    assert (obstacle() is None) == (PROVIDERS["cuda"] in real_providers())


def test_an_unknown_device() -> None:
    assert "use cpu or cuda" in refusal("tpu")
    assert DEVICES == ("cpu", "cuda")


def test_nodes_without_a_kernel_are_named() -> None:
    """A session on the CPU, asked for what is not on the GPU."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    made = onnxruntime.InferenceSession(probe(), options, providers=[PROVIDERS["cpu"]])
    assert elsewhere(made, PROVIDERS["cpu"]) == []
    assert elsewhere(made, PROVIDERS["cuda"]) == ["Add (Add)"]
    with pytest.raises(SpecError) as caught:
        device._require_nodes(made)
    (found,) = caught.value.diagnostics
    assert (found.code, found.label) == ("E709", "1 node would run on the CPU: Add (Add)")


def test_sessions_on_the_cpu() -> None:
    for optimise in (True, False):
        assert session(probe(), optimise=optimise).get_providers() == [PROVIDERS["cpu"]]
    assert session(probe(), dimensions={"batch": 3}).get_inputs()[0].shape == [3, 1]
    with pytest.raises(EngineRefusal, match="does not load"):
        session(b"no model")
