"""How a step's time grows with batch, width and depth: picoseconds per floating-point operation of dense networks, on both engines.

    python benchmarks/growth.py                        # benchmarks/results/growth.json, and a drawing where matplotlib is installed
    python benchmarks/growth.py --grow depth --values 256 512    # these points again; what else the file holds stays

Beside the engines stand the bare products: the matrix products of the same step on NumPy's BLAS, on arrays of the same number and size. Nothing that
computes with that BLAS is faster. The operations of all three are counted as the products'. A flat curve is proportional growth; what falls is a cost per
step, or per layer, that larger work hides.

Each figure is from processes of its own that take turns: the fastest step of a process, the median over processes. `first` is the time from before nnc is
imported to the end of the first step. With depth each size begins with an empty cache of compiled code, and that process's time is `first_cold`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "compare"))
import charts
from conditions import environment, machine
from processes import interleaved, line

USUAL = {"batch": 256, "width": 256, "depth": 2}
GROWING = {
    "batch": [32, 64, 128, 256, 512, 1024, 2048],
    "width": [64, 128, 256, 512, 1024, 2048, 4096],
    "depth": [2, 4, 8, 16, 32, 64, 128, 256, 512],
}
CONTESTANTS = ("numpy", "fast", "products")
SPEC = """
block layer(x) {{ return x -> dense({width}, init=he_normal) -> relu }}
network(x: float32[{width}]) {{ return y = x -> repeat({depth}, layer) }}
train {{ loss = mse(y, target)  optimizer = sgd(lr=1e-9)  batch = {batch}  epochs = 1 }}
"""
Clock = Callable[[], float]


def fastest(step: Callable[[], object], seconds: float, clock: Clock) -> float:
    step()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        begun = clock()
        step()
        times.append(clock() - begun)
    return min(times)


def bare(size: Mapping[str, int], seconds: float, clock: Clock) -> dict[str, float]:
    """The products of a step, and how many operations they are."""
    from products import products
    from workloads import Dense

    n, sizes = size["batch"], (size["width"],) * (size["depth"] + 1)
    calls, flops = products(Dense(name="", batch=n, samples=n, optimizer="sgd", sizes=sizes))

    def step() -> None:
        for call in calls:
            call()

    return {"step": fastest(step, seconds, clock), "flops": flops}


def trained(size: Mapping[str, int], seconds: float, clock: Clock) -> dict[str, float]:
    """The fastest step of a network, and what it took to come to the first."""
    begun = clock()
    import numpy as np

    import nnc
    from nnc.runtime.engine import choose
    from nnc.runtime.steps import steps_on

    n = size["batch"]
    model = nnc.compile(SPEC.format(**size)).init(seed=0)
    steps = steps_on(choose(), model, n)
    step = steps.at(n)
    draw = np.random.default_rng(0)
    for array in step.inputs.values():
        array[...] = draw.standard_normal(array.shape, np.float32)
    with np.errstate(all="ignore"), steps.running():
        step.advance()
        first = clock() - begun
        return {"step": fastest(step.advance, seconds, clock), "first": first, "arena_bytes": model.step_program(n).plan.arena_bytes}


def point(quantity: str, value: int, given: argparse.Namespace, caches: Path) -> dict[str, Any]:
    """One size, measured by every contestant."""
    size = USUAL | {quantity: value}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in given.contestants}
    for name in interleaved(given.contestants, given.processes):
        command = [sys.executable, __file__, "--one", name, "--size", json.dumps(size), "--seconds", str(given.seconds)] + ["--cpu"] * given.cpu
        got = line(command, caches, NNC_ENGINE="fast" if name == "fast" else "numpy")
        if "error" in got:
            raise SystemExit(f"{name} at {quantity} {value}: {got['error']}")
        found[name].append(got)
    flops = found["products"][0]["flops"]
    figures: dict[str, Any] = {"value": value, "flops": flops}
    for name, lines in found.items():
        step = median(each["step"] for each in lines)
        figures[name] = {"step": step, "picoseconds_per_flop": 1e12 * step / flops}
        if name != "products":
            figures[name] |= {"first": median(each["first"] for each in lines[1:] or lines), "arena_bytes": lines[0]["arena_bytes"]}
            figures[name] |= {"first_cold": lines[0]["first"]} if quantity == "depth" else {}
    return figures


def grow(quantity: str, known: list[dict[str, Any]], given: argparse.Namespace) -> list[dict[str, Any]]:
    """The points of a quantity: those that are measured now in place of those known."""
    points = {each["value"]: each for each in known}
    with tempfile.TemporaryDirectory(prefix="nnc-growth-") as folder:
        for value in (v for v in GROWING[quantity][: 3 if given.quick else None] if not given.values or v in given.values):
            found = points[value] = point(quantity, value, given, Path(folder) / (str(value) if quantity == "depth" else ""))
            print(f"{quantity:5} {value:5}  " + "  ".join(f"{name} {shown(found[name])}" for name in given.contestants), flush=True)
    return [points[value] for value in sorted(points)]


def shown(figures: Mapping[str, float]) -> str:
    first = f", first after {figures['first']:.2f} s" if "first" in figures else ""
    cold = f", {figures['first_cold']:.2f} cold" if "first_cold" in figures else ""
    return f"{1e3 * figures['step']:9.3f} ms {figures['picoseconds_per_flop']:6.2f} ps/flop{first}{cold}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grow", nargs="+", choices=GROWING, default=list(GROWING))
    parser.add_argument("--values", nargs="+", type=int, help="only these sizes")
    parser.add_argument("--processes", type=int, default=3, help="of each contestant at each size")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each process, at least")
    parser.add_argument("--quick", action="store_true", help="the three smallest sizes, briefly")
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds of all threads: on a busy machine the better figure, under `taskset -c 0`")
    parser.add_argument("--name", default="growth")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)  # a process of its own
    parser.add_argument("--size", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measured = bare if given.one == "products" else trained
        print(json.dumps(measured(given.size, given.seconds, time.process_time if given.cpu else time.perf_counter)))
        return
    from nnc.runtime.engine import obstacle  # not in a measured process, whose imports are timed

    without = obstacle()
    if without:
        print(f"left out: fast, {without.cause}")
    given.contestants = [name for name in CONTESTANTS if name != "fast" or not without]
    if given.quick:
        given.processes, given.seconds = 1, 0.0
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / f"{given.name}.json"
    known = json.loads(path.read_text("utf-8"))["series"] if path.is_file() else {}
    series = {quantity: known[quantity] for quantity in GROWING if quantity in known}
    for quantity in given.grow:
        series[quantity] = grow(quantity, series.get(quantity, []), given)
    written = {"machine": machine(), "clock": "CPU" if given.cpu else "wall", "usual": USUAL, "series": series}
    path.write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    if charts.installed():
        charts.growth(series, path.with_suffix(".svg"))


if __name__ == "__main__":
    if dict(os.environ) != environment():
        os.execve(sys.executable, sys.orig_argv, environment())
    main()
