"""Train the workloads with nnc and with every peer that is installed, in interleaved processes, and compare.

    make bench                                              # everything
    python benchmarks/compare --workloads mlp-m lstm --contestants nnc torch jax-epoch --processes 3
    python benchmarks/compare --python ~/peers/bin/python   # the peers from another environment
    taskset -c 0 python benchmarks/compare --cpu            # on a machine that others use: CPU seconds on one core
    python benchmarks/compare --quick                       # whether it works; the figures mean nothing

Lines, summary and a description of the machine go to benchmarks/results/NAME.json, a drawing beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import charts
from conditions import machine, versions
from contestants import CONTESTANTS, Contestant
from processes import interleaved, line, outrun
from report import summarise, tables
from workloads import WORKLOADS, Dense, Workload

HERE = Path(__file__).parent
QUICK_STEPS = 3


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME", help=", ".join(WORKLOADS))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME", help=", ".join(CONTESTANTS))
    parser.add_argument("--processes", type=int, default=5, help="of each contestant in each workload")
    parser.add_argument("--rest", type=float, default=2.0, metavar="TIMES",
                        help="a peer that after two processes takes so many times as long as the fastest one is not run again (default: 2)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="one process of a few steps each")
    parser.add_argument("--cpu", action="store_true", help="CPU seconds of all threads: under `taskset -c 0`, what a machine that others use still tells")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--name", help="what the results are called; the date when not given, or `quick`")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results", help="where they go")
    parser.add_argument("--data", type=Path, help="keep the files of the workloads' data there, for benchmarks/profile.py")
    return parser.parse_args(given)


class Measurement:
    def __init__(self, given: argparse.Namespace, folder: Path):
        self.given, self.folder = given, folder
        self.data = given.data or folder
        self.data.mkdir(parents=True, exist_ok=True)
        self.ways = ["--cpu"] if given.cpu else []
        self.processes = 1 if given.quick else given.processes
        self.versions = versions(given.python)
        chosen = [CONTESTANTS[name] for name in dict.fromkeys(given.contestants)]
        self.present = [c for c in chosen if all(find_spec(library) if c.own else library in self.versions for library in c.libraries)]
        self.absent = [c.name for c in chosen if c not in self.present]
        self.lines: list[dict[str, Any]] = []
        self.limits: list[dict[str, Any]] = []
        self.failures: list[dict[str, str]] = []

    def run(self) -> Iterator[None]:
        """Measure, a workload at a time."""
        for name in dict.fromkeys(self.given.workloads):
            workload = WORKLOADS[name]
            if isinstance(workload, Dense):
                for _ in range(self.processes):
                    self.limit(workload)
            for contestant in interleaved([c for c in self.present if c.takes(workload)], self.processes):
                if not self.rests(contestant, workload):
                    self.train(contestant, workload)
            yield

    def rests(self, contestant: Contestant, workload: Workload) -> bool:
        of_peers = [found for found in self.lines if found["workload"] == workload.name and not CONTESTANTS[found["contestant"]].own]
        return not contestant.own and outrun(contestant.name, of_peers, self.given.rest)

    def limit(self, workload: Dense) -> None:
        found = line([sys.executable, str(HERE / "products.py"), workload.name, *self.ways, *(["--seconds", "0"] if self.given.quick else [])], self.folder)
        if "error" in found:
            self.failed("products", workload, found["error"])
        else:
            self.limits.append(found)

    def train(self, contestant: Contestant, workload: Workload) -> None:
        if any(f["contestant"] == contestant.name and f["workload"] == workload.name for f in self.failures):
            return
        samples = QUICK_STEPS * workload.batch if self.given.quick else workload.samples
        command = [sys.executable if contestant.own else self.given.python, str(HERE / "worker.py"), contestant.name, workload.name, str(self.data)]
        command += ["--samples", str(samples), *self.ways]
        if self.given.quick:
            command += ["--epochs", "1", "--seconds", "0"]
        found = line(command, self.folder / f"caches-{contestant.name}-{workload.name}")
        if "error" in found:
            self.failed(contestant.name, workload, found["error"])
        elif found["steps"] != workload.steps(samples):
            self.failed(contestant.name, workload, f"made {found['steps']:g} steps an epoch, not {workload.steps(samples)}")
        else:
            self.lines.append(found)
            print(f"{workload.name:8} {contestant.name:16} {1e6 * found['epoch'] / found['steps']:12,.1f} us/step", flush=True)

    def failed(self, contestant: str, workload: Workload, error: str) -> None:
        self.failures.append({"contestant": contestant, "workload": workload.name, "error": error})
        print(f"{workload.name:8} {contestant:16} failed: {error}", flush=True)


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    about: dict[str, Any] = {"date": time.strftime("%Y-%m-%d %H:%M"), "machine": machine()}
    with tempfile.TemporaryDirectory(prefix="nnc-bench-") as folder:
        measurement = Measurement(options, Path(folder))
        if not options.cpu and about["machine"]["load"] > about["machine"]["cores"] / 2:
            print(f"the machine is busy, with a load of {about['machine']['load']} on {about['machine']['cores']} cores: figures will mislead")
        if measurement.absent:
            print(f"not installed, left out: {', '.join(measurement.absent)}")
        options.results.mkdir(parents=True, exist_ok=True)
        path = options.results / f"{options.name or ('quick' if options.quick else time.strftime('%Y-%m-%d'))}.json"
        about |= {"versions": measurement.versions, "quick": options.quick, "clock": "CPU" if options.cpu else "wall", "processes": measurement.processes}
        for _ in measurement.run():  # written after each workload, for a measurement takes long and may be cut off
            summary = summarise(measurement.lines, measurement.limits, [c.name for c in measurement.present if c.own])
            about["load_after"] = machine()["load"]
            whole = {**about, "summary": summary, "lines": measurement.lines, "limits": measurement.limits, "failures": measurement.failures}
            path.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    print("", tables(summary), "", *(["a quick run: the figures mean nothing"] if options.quick else []), f"written to {path}", sep="\n")
    if charts.installed() and summary["geometric_mean"]:
        charts.ratios(summary, path.with_suffix(".svg"))
    return 1 if measurement.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
