"""Answers of the workloads' networks: the exported file in onnxruntime, Model.predict, torch eager and torch compiled, in interleaved processes.

    make bench-inference
    python benchmarks/compare/inference.py --workloads lenet lstm --contestants onnxruntime torch --processes 3
    python benchmarks/compare/inference.py --python ~/peers/bin/python   # torch from another environment
    python benchmarks/compare/inference.py --quick                       # whether it works; the figures mean nothing

All contestants have equal weights and answer with equal numbers, or their line is a failure. Lines, medians and a description of the machine go to
benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from answer import BATCHES, CONTESTANTS
from conditions import environment, machine, versions
from nnc_trainer import write
from processes import interleaved, line
from report import aligned
from workloads import WORKLOADS, Workload

HERE = Path(__file__).parent
PEERS = frozenset(("torch", "torch-compile"))
LIBRARIES = {"torch": "torch", "onnxruntime": "onnxruntime-gpu"}
FIGURES = ("cold", *(f"batch_{size}" for size in BATCHES))
TOLERANCE = 1e-4  # of the largest number of an answer


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("inference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME", help=", ".join(WORKLOADS))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME", help=", ".join(CONTESTANTS))
    parser.add_argument("--processes", type=int, default=5, help="of each contestant in each workload")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each batch size in a process, at least")
    parser.add_argument("--quick", action="store_true", help="one process of a few answers each")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has torch")
    parser.add_argument("--name", help="what the results are called; inference and the date when not given")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results", help="where they go")
    return parser.parse_args(given)


def prepare(workload: Workload, folder: Path) -> None:
    """The model in the forms that the contestants read, and rows for it."""
    import nnc

    data = workload.data(max(BATCHES))
    write(workload, data, folder)
    model = nnc.compile(workload.spec, data_root=folder).init(seed=1)
    inputs = {name: array for name, array in data.arrays().items() if name != "label"}
    for size in BATCHES:
        np.savez(folder / f"{workload.name}-{size}.npz", allow_pickle=False, **{name: array[:size] for name, array in inputs.items()})
    model.save(folder / f"{workload.name}.safetensors")
    model.export_onnx(folder / f"{workload.name}.onnx", inputs)
    np.savez(folder / f"{workload.name}-weights.npz", allow_pickle=False, **dict(model.parameters))


class Measurement:
    def __init__(self, given: argparse.Namespace, folder: Path):
        self.given, self.folder = given, folder
        self.processes = 1 if given.quick else given.processes
        self.versions = {"nnc's": versions(sys.executable, LIBRARIES), "peers'": versions(given.python, LIBRARIES)}
        chosen = list(dict.fromkeys(given.contestants))
        self.present = [name for name in chosen if name not in PEERS or "torch" in self.versions["peers'"]]
        self.absent = [name for name in chosen if name not in self.present]
        self.lines: list[dict[str, Any]] = []
        self.failures: list[dict[str, str]] = []

    def run(self) -> None:
        for name in dict.fromkeys(self.given.workloads):
            prepare(WORKLOADS[name], self.folder)
            if PEERS & set(self.present):
                subprocess.run([self.given.python, str(HERE / "torch_peer.py"), name, str(self.folder)], check=True, env=environment())
            known: list[float] = []
            for contestant in interleaved(self.present, self.processes):
                self.answer(contestant, name, known)

    def answer(self, contestant: str, workload: str, known: list[float]) -> None:
        """One process; `known` is what the first one of a workload answered."""
        if any(f["contestant"] == contestant and f["workload"] == workload for f in self.failures):
            return
        command = [self.given.python if contestant in PEERS else sys.executable, str(HERE / "answer.py"), contestant, workload, str(self.folder)]
        command += ["--runs", "1", "--seconds", "0"] if self.given.quick else ["--seconds", str(self.given.seconds)]
        found = line([*command, "--begun", repr(time.monotonic())], self.folder / f"caches-{contestant}-{workload}")
        error = found.get("error")
        if error is None:
            numbers = found.pop("answer")
            known.extend([] if known else numbers)
            if len(numbers) != len(known) or np.abs(np.subtract(numbers, known)).max() > TOLERANCE * np.abs(known).max():
                error = f"answers {numbers[:3]}, not {known[:3]}"
        if error is not None:
            self.failures.append({"contestant": contestant, "workload": workload, "error": error})
            print(f"{workload:8} {contestant:14} failed: {error}", flush=True)
            return
        self.lines.append(found)
        print(f"{workload:8} {contestant:14} {shown(found)}", flush=True)


def shown(figures: Mapping[str, float]) -> str:
    batches = "  ".join(f"{1e6 * figures[f'batch_{size}']:10,.0f} us for {size}" for size in BATCHES)
    return f"{figures['cold']:6.2f} s to the first answer  {batches}"


def summarise(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """By workload and contestant, medians over processes; `cold_first` is that of the first process, whose caches were empty."""
    grouped: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for one in lines:
        grouped.setdefault(one["workload"], {}).setdefault(one["contestant"], []).append(one)

    def medians(group: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        rest = group[1:] or group
        return {"cold_first": group[0]["cold"], "cold": median(one["cold"] for one in rest)} | {
            name: median(one[name] for one in group) for name in FIGURES if name != "cold"
        }

    return {workload: {name: medians(group) for name, group in contestants.items()} for workload, contestants in grouped.items()}


def tables(summary: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A table for each figure: a row a contestant, a column a workload."""
    text: list[str] = []
    names = list(dict.fromkeys(name for found in summary.values() for name in found))
    titles = {"cold": ("s to the first answer", 1.0, ".2f"), "cold_first": ("with empty caches", 1.0, ".2f")}
    titles |= {f"batch_{size}": (f"us, batch {size}", 1e6, ",.0f") for size in BATCHES}
    for figure, (title, unit, form) in titles.items():
        rows = [[name, *(format(unit * found[name][figure], form) if name in found else "" for found in summary.values())] for name in names]
        text += [*aligned([[title, *summary], *rows]), ""]
    return "\n".join(text)


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    about: dict[str, Any] = {"date": time.strftime("%Y-%m-%d %H:%M"), "machine": machine()}
    with tempfile.TemporaryDirectory(prefix="nnc-bench-") as folder:
        measurement = Measurement(options, Path(folder))
        if about["machine"]["load"] > about["machine"]["cores"] / 2:
            print(f"the machine is busy, with a load of {about['machine']['load']} on {about['machine']['cores']} cores: figures will mislead")
        if measurement.absent:
            print(f"not installed, left out: {', '.join(measurement.absent)}")
        measurement.run()
    summary = summarise(measurement.lines)
    about |= {"versions": measurement.versions, "quick": options.quick, "processes": measurement.processes, "load_after": machine()["load"]}
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{options.name or 'inference-' + ('quick' if options.quick else time.strftime('%Y-%m-%d'))}.json"
    whole = {**about, "summary": summary, "lines": measurement.lines, "failures": measurement.failures}
    path.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    print("", tables(summary), *(["a quick run: the figures mean nothing"] if options.quick else []), f"written to {path}", sep="\n")
    return 1 if measurement.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
