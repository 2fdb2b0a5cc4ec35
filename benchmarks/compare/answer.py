"""One process of the comparison of inference: one contestant answers. Prints one line of JSON.

`cold` counts from the start of the process, whose time `--begun` gives, to the first answer to one row: libraries imported, the model read from its file.
The times of a batch are medians of at least `--runs` and `--seconds` after some that warm up.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Inputs = Mapping[str, Array]
Answers = Callable[[Inputs], Array]

BATCHES = (1, 256)
WARM_UP, MOST_RUNS = 3, 2000


def onnxruntime_answers(folder: Path, workload: str) -> Answers:
    """The exported file in onnxruntime, with its own number of threads."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / f"{workload}.onnx"), providers=["CPUExecutionProvider"])

    def answer(inputs: Inputs) -> Array:
        return np.asarray(session.run(None, dict(inputs))[0])

    return answer


def nnc_answers(folder: Path, workload: str) -> Answers:
    """Model.predict of the NumPy runtime."""
    import nnc

    model = nnc.load(folder / f"{workload}.safetensors")

    def answer(inputs: Inputs) -> Array:
        (found,) = model.predict(inputs).values()
        return found

    return answer


def torch_answers(folder: Path, workload: str, *, compiled: bool = False) -> Answers:
    """The torch network of the workload, from its state_dict; compiled for each batch size if it is."""
    import torch
    import torch_peer
    from workloads import WORKLOADS

    network = torch_peer.Answering(WORKLOADS[workload])
    network.load_state_dict(torch.load(folder / f"{workload}.pt", weights_only=True))
    network.eval()
    function = torch.compile(network, dynamic=False) if compiled else network

    def answer(inputs: Inputs) -> Array:
        with torch.inference_mode():
            found: Array = function(*(torch.from_numpy(array) for array in torch_peer.operands(inputs))).numpy()
            return found

    return answer


CONTESTANTS: dict[str, Callable[[Path, str], Answers]] = {
    "onnxruntime": onnxruntime_answers,
    "nnc": nnc_answers,
    "torch": torch_answers,
    "torch-compile": lambda folder, workload: torch_answers(folder, workload, compiled=True),
}


def read(path: Path) -> Inputs:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def times(answer: Answers, inputs: Inputs, runs: int, seconds: float) -> list[float]:
    for _ in range(WARM_UP):
        answer(inputs)
    found: list[float] = []
    while len(found) < runs or (len(found) < MOST_RUNS and sum(found) < seconds):
        begun = time.perf_counter()
        answer(inputs)
        found.append(time.perf_counter() - begun)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("workload")
    parser.add_argument("folder", type=Path, help="where the models and the rows are")
    parser.add_argument("--begun", type=float, required=True, help="time.monotonic() when the process was started")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.5)
    given = parser.parse_args()
    answer = CONTESTANTS[given.contestant](given.folder, given.workload)
    first = answer(read(given.folder / f"{given.workload}-1.npz"))
    cold = time.monotonic() - given.begun
    found: dict[str, Any] = {"contestant": given.contestant, "workload": given.workload, "cold": cold, "answer": first.ravel().tolist()}
    for size in BATCHES:
        rows = read(given.folder / f"{given.workload}-{size}.npz")
        found[f"batch_{size}"] = median(times(answer, rows, given.runs, given.seconds))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
