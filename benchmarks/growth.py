"""How a step's time grows with batch, width and depth: seconds per floating-point operation of dense networks.

    python benchmarks/growth.py                   # benchmarks/results/growth.json, and a drawing where matplotlib is installed
    python benchmarks/growth.py --grow depth

A flat curve is proportional growth; what falls is a cost per step, or per layer, that larger work hides.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compare import charts
from compare.conditions import environment, machine

USUAL = {"batch": 256, "width": 256, "depth": 2}
GROWING = {
    "batch": [32, 64, 128, 256, 512, 1024, 2048],
    "width": [64, 128, 256, 512, 1024, 2048, 4096],
    "depth": [2, 4, 8, 16, 32, 64, 128, 256, 512],
}
SPEC = """
block layer(x) {{ return x -> dense({width}, init=he_normal) -> relu }}
network(x: float32[{width}]) {{ return y = x -> repeat({depth}, layer) }}
train {{ loss = mse(y, target)  optimizer = sgd(lr=1e-9)  batch = {batch}  epochs = 1 }}
"""


def measure(size: dict[str, int], seconds: float, clock: Callable[[], float]) -> dict[str, float]:
    """The fastest step of a network, what it computes, and what it took to make it."""
    import numpy as np

    import nnc
    from nnc.compiler.cost import flops

    n = size["batch"]
    begun = time.perf_counter()
    model = nnc.compile(SPEC.format(**size)).init(seed=0)
    program = model.step_program(n)
    made = time.perf_counter() - begun
    draw = np.random.default_rng(0)
    for array in program.inputs.values():
        array[...] = draw.standard_normal(array.shape, np.float32)
    work = sum(flops(value, n) for value in model.stepper().graph.order())
    times: list[float] = []
    with np.errstate(all="ignore"):
        model.advance(program)
        while sum(times) < seconds or len(times) < 3:
            begun = clock()
            model.advance(program)
            times.append(clock() - begun)
    step = min(times)
    return {"step": step, "flops": work, "picoseconds_per_flop": 1e12 * step / work, "compile": made, "arena_bytes": program.plan.arena_bytes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grow", nargs="+", choices=GROWING, default=list(GROWING))
    parser.add_argument("--quick", action="store_true", help="the three smallest sizes, briefly")
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds of all threads: on a busy machine the better figure, under `taskset -c 0`")
    parser.add_argument("--name", default="growth")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    series: dict[str, list[dict[str, Any]]] = {}
    for quantity in given.grow:
        points = series[quantity] = []
        for value in GROWING[quantity][: 3 if given.quick else None]:
            found = measure(USUAL | {quantity: value}, 0.0 if given.quick else 0.5, time.process_time if given.cpu else time.perf_counter)
            points.append({"value": value, **found})
            print(f"{quantity:5} {value:5}  {1e3 * found['step']:10.3f} ms  {found['picoseconds_per_flop']:8.2f} ps/flop  "
                  f"compiled in {found['compile']:.2f} s, arena {found['arena_bytes'] / 2**20:,.1f} MiB", flush=True)  # fmt: skip
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / f"{given.name}.json"
    path.write_text(json.dumps({"machine": machine(), "clock": "CPU" if given.cpu else "wall", "usual": USUAL, "series": series}, indent=1) + "\n", "utf-8")
    if charts.installed():
        charts.curves(series, path.with_suffix(".svg"))


if __name__ == "__main__":
    if dict(os.environ) != environment():
        os.execve(sys.executable, sys.orig_argv, environment())
    main()
