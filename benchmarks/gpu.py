"""Exported models and training steps on a GPU: onnxruntime beside torch, each in a process of its own.

    python benchmarks/gpu.py                                  # needs CUDA; says in one line what is missing, and exits with 2
    python benchmarks/gpu.py --python ~/peers/bin/python      # torch from another environment
    python benchmarks/gpu.py --device cpu --quick             # whether it works; the figures mean nothing

For each workload, with equal weights: where onnxruntime placed every node of the exported file, and that it makes a session without the CPU to fall back
on; the time of 1 and 256 rows, from rows on the host to an answer on the host and with both kept on the device; what TF32 changes; and the time of
a training step, the batch copied to the device and the loss read from it. Figures go to benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
COMPARE = HERE / "compare"
sys.path[:] = [str(COMPARE), *(p for p in sys.path if Path(p).resolve() != HERE)]  # torch would take the profile.py beside this for Python's

from answer import BATCHES, Array, Inputs, read  # noqa: E402
from conditions import environment, machine, versions  # noqa: E402
from inference import LIBRARIES, prepare  # noqa: E402
from processes import line  # noqa: E402
from report import aligned  # noqa: E402
from workloads import WORKLOADS, Workload  # noqa: E402

WARM_UP, MOST_RUNS = 5, 2000
STEPS = 20  # at least, of a training


def times(run: Callable[[], Any], seconds: float) -> float:
    """Seconds that a run takes, the median of some after others that warm up."""
    for _ in range(WARM_UP if seconds else 1):
        run()
    found: list[float] = []
    while len(found) < (STEPS if seconds else 1) or (len(found) < MOST_RUNS and sum(found) < seconds):
        begun = time.perf_counter()
        run()
        found.append(time.perf_counter() - begun)
    return median(found)


# onnxruntime


def strict_session(data: bytes, device: str) -> list[str]:
    """The providers of a session that must not fall back to the CPU: onnxruntime raises where it would have to."""
    import onnxruntime as ort

    from nnc.runtime.device import PROVIDERS

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if device != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return list(ort.InferenceSession(data, options, providers=[PROVIDERS[device]], enable_fallback=0).get_providers())


def placement(data: bytes, device: str) -> dict[str, dict[str, int]]:
    """By provider, how many nodes of each operator it has."""
    import onnxruntime as ort

    from nnc.runtime.device import PROVIDERS

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    made = ort.InferenceSession(data, options, providers=[PROVIDERS[device]], enable_fallback=0)
    found: dict[str, Counter[str]] = {}
    for place in made.get_provider_graph_assignment_info():
        found.setdefault(place.ep_name, Counter()).update(node.op_type for node in place.get_nodes())
    return {name: dict(operators) for name, operators in found.items()}


def bound_run(session: Any, inputs: Inputs, device: str) -> Callable[[], Any]:
    """A run between arrays that stay on the device."""
    import onnxruntime as ort

    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device))
    for output in session.get_outputs():
        binding.bind_output(output.name, device)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def on_onnxruntime(workload: Workload, folder: Path, device: str, seconds: float) -> dict[str, Any]:
    import nnc
    from nnc.runtime.device import session
    from nnc.runtime.model import Model
    from nnc.runtime.onnx_steps import OnnxSteps

    data = (folder / f"{workload.name}.onnx").read_bytes()
    found: dict[str, Any] = {"placement": placement(data, device), "providers": strict_session(data, device)}
    rows = {size: dict(read(folder / f"{workload.name}-{size}.npz")) for size in BATCHES}
    answers: dict[bool, Array] = {}
    for tf32 in (False, True):
        made = session(data, device, tf32=tf32)
        kept = found["tf32" if tf32 else "float32"] = {}
        for size, inputs in rows.items():
            kept[f"host_{size}"] = times(partial(made.run, None, inputs), seconds)
            kept[f"device_{size}"] = times(bound_run(made, inputs, device), seconds)
        answers[tf32] = np.asarray(made.run(None, rows[max(BATCHES)])[0])
    found["answer"] = answers[False].ravel().tolist()
    found["tf32_changes"] = float(np.abs(answers[True] - answers[False]).max() / np.abs(answers[False]).max())
    model = nnc.load(folder / f"{workload.name}.safetensors")
    assert isinstance(model, Model)
    steps = OnnxSteps(model, device)
    filled = steps.at(workload.batch)
    batch = {name: array[: workload.batch] for name, array in read(folder / f"{workload.name}.npz").items()}
    losses: list[float] = []

    def step() -> None:
        for name, array in filled.inputs.items():
            np.copyto(array, batch[name], casting="unsafe")
        filled.advance()
        losses.append(float(filled.outputs["loss"]))

    found["step"] = times(step, seconds)
    return found | {"losses": losses[:3]}


# torch


def on_torch(workload: Workload, folder: Path, device: str, seconds: float) -> dict[str, Any]:
    import torch
    import torch_peer

    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch has no CUDA device")
    network = torch_peer.Answering(workload)
    network.load_state_dict(torch.load(folder / f"{workload.name}.pt", weights_only=True))
    network = network.to(device)
    network.eval()
    found: dict[str, Any] = {}

    def finished() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for tf32 in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        kept = found["tf32" if tf32 else "float32"] = {}
        for size in BATCHES:
            arrays = [torch.from_numpy(array) for array in torch_peer.operands(read(folder / f"{workload.name}-{size}.npz"))]
            there = [array.to(device) for array in arrays]

            def host(arrays: Any = arrays) -> Any:
                with torch.inference_mode():
                    return network(*(array.to(device) for array in arrays)).cpu()

            def kept_there(there: Any = there) -> None:
                with torch.inference_mode():
                    network(*there)
                finished()

            kept[f"host_{size}"] = times(host, seconds)
            kept[f"device_{size}"] = times(kept_there, seconds)
        if not tf32:
            found["answer"] = host().ravel().tolist()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    data = read(folder / f"{workload.name}.npz")
    inputs = [torch.from_numpy(array) for array in torch_peer.operands({n: a for n, a in data.items() if n != "label"})]
    training = torch_peer.TorchTraining(workload, network.network.train(), inputs, torch.from_numpy(data["label"]))
    objective = training.objective
    training.objective = lambda label, *inputs: objective(label.to(device), *(x.to(device) for x in inputs))
    chosen = torch.arange(workload.batch)
    losses: list[float] = []
    found["step"] = times(lambda: losses.append(training.step(chosen)), seconds)
    return found | {"losses": losses[:3]}


ENGINES = {"onnxruntime": on_onnxruntime, "torch": on_torch}


# All of it


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME", help=", ".join(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=0.5, help="of each figure, at least")
    parser.add_argument("--quick", action="store_true", help="one run of each")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has torch")
    parser.add_argument("--name", help="what the results are called; gpu and the date when not given")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where they go")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)  # a process of one engine, for one workload
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def tables(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Microseconds: a row an engine and a precision, a column a workload."""
    figures = [f"{where}_{size}" for size in BATCHES for where in ("host", "device")]
    titles = {f"{where}_{size}": f"us, batch {size}, {where}" for size in BATCHES for where in ("host", "device")}
    text: list[str] = []
    for figure in figures:
        rows = [[titles[figure], *found]]
        for engine in ENGINES:
            for precision in ("float32", "tf32"):
                kept = [w[engine].get(precision) for w in found.values()]
                rows.append([f"{engine}, {precision}", *(f"{1e6 * k[figure]:,.0f}" if k else "" for k in kept)])
        text += [*aligned(rows), ""]
    steps = [["us, a training step", *found]]
    steps += [[engine, *(f"{1e6 * w[engine]['step']:,.0f}" if "step" in w[engine] else "" for w in found.values())] for engine in ENGINES]
    return "\n".join([*text, *aligned(steps)])


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    seconds = 0.0 if options.quick else options.seconds
    if options.engine is not None:
        print(json.dumps(ENGINES[options.engine](WORKLOADS[options.workloads[0]], options.folder, options.device, seconds)))
        return 0
    from nnc.runtime.device import obstacle

    missing = obstacle() if options.device == "cuda" else None
    if missing is not None:
        print(f"no CUDA device: {missing.cause}; {missing.remedy}")
        return 2
    peers = versions(options.python, LIBRARIES)
    about: dict[str, Any] = {"date": time.strftime("%Y-%m-%d %H:%M"), "device": options.device, "machine": machine(), "quick": options.quick}
    about["versions"] = {"nnc's": versions(sys.executable, LIBRARIES), "peers'": peers}
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="nnc-gpu-") as name:
        folder = Path(name)
        for workload in options.workloads:
            prepare(WORKLOADS[workload], folder)
            if "torch" in peers:
                subprocess.run([options.python, str(COMPARE / "torch_peer.py"), workload, str(folder)], check=True, env=environment())
            kept = found[workload] = {}
            for engine in ENGINES:
                command = [options.python if engine == "torch" else sys.executable, str(HERE / "gpu.py"), "--engine", engine, "--workloads", workload]
                command += ["--folder", name, "--device", options.device, "--seconds", str(seconds), *(["--quick"] if options.quick else [])]
                kept[engine] = line(command, folder / "caches") if engine != "torch" or "torch" in peers else {"error": "torch is not installed"}
                said = kept[engine].get("error") or f"{1e6 * kept[engine]['step']:,.0f} us a step, {1e6 * kept[engine]['float32']['device_1']:,.0f} us a row"
                print(f"{workload:8} {engine:12} {said}", flush=True)
            both = [kept[engine].pop("answer") for engine in ENGINES if "answer" in kept[engine]]
            if len(both) == len(ENGINES):
                kept["answers_differ_by"] = float(np.abs(np.subtract(*both)).max() / np.abs(both[1]).max())
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{options.name or 'gpu-' + time.strftime('%Y-%m-%d')}.json"
    path.write_text(json.dumps(about | {"workloads": found}, indent=1) + "\n", "utf-8")
    print("", tables(found), "", f"written to {path}", sep="\n")
    return 1 if any("error" in w["onnxruntime"] for w in found.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
