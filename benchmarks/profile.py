"""Where the time of a training step goes: each line of the plan with its share, medians over many steps.

    python benchmarks/profile.py specs/mnist_cnn.nn --batch 64 --data-root DIR

A spec without a data section, or one whose data cannot be read, is fed random numbers. `--by op` adds up by primitive, `--by origin` by layer.
With NNC_ENGINE=fast the lines are compiled kernels and their first numbers, each run by itself.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import nnc
from nnc.compiler.ir import concrete
from nnc.compiler.pipeline import analyse, read


def _program(spec: Path, root: Path) -> nnc.Program:
    """The spec with its data; without it where that cannot be read."""
    source = read(spec)
    try:
        return nnc.Program(analyse(source, root=root), root)
    except nnc.SpecError as error:
        if any(not d.code.startswith("E4") for d in error.diagnostics):
            raise SystemExit(str(error)) from None
    return nnc.Program(analyse(source, root=None), root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--by", choices=("step", "op", "origin"), default="op")
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds of all threads")
    parser.add_argument("--least", action="store_true", help="the least of all times, not the median: on a loaded machine the better figure")
    given = parser.parse_args()
    model = _program(given.spec, given.data_root or given.spec.parent).init(seed=0)
    n = given.batch or model.program.batch
    made = model.step_program(n)
    rng = np.random.default_rng(0)
    for array in made.inputs.values():
        array[...] = rng.integers(0, 2, array.shape) if array.dtype.kind in "iub" else rng.standard_normal(array.shape)
    executor = model._executors["step"]
    for name, array in executor.scalars.items():
        array[...] = 1e-3 if name == "lr" else model.stepper().scalars[name](1)
    labels = [(v, concrete(v.shape, n)) for v in made.plan.steps]
    joined = len(made.forward_steps) + len(made.update_steps) != len(made.steps) + len(made.plan.copies)
    copies = [name for name, _ in made.plan.copies]
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = []
    for kernel, arrays in (*made.forward_steps, *made.update_steps):
        if hasattr(kernel, "apart"):  # a program of compiled kernels
            calls += [(alone, (), name) for name, alone in kernel.apart()]
        else:
            calls.append((kernel, arrays, getattr(kernel, "__qualname__", repr(kernel))))
    times = np.zeros((given.steps, len(calls)))
    clock = time.process_time if given.cpu else time.perf_counter
    with np.errstate(all="ignore"):
        for step in range(-3, given.steps):
            for i, (kernel, arrays, _) in enumerate(calls):
                begun = clock()
                kernel(*arrays)
                times[step, i] = clock() - begun
    median = (times.min(axis=0) if given.least else np.median(times, axis=0)) * 1e6
    rows: dict[str, list[float]] = defaultdict(list)
    for i, us in enumerate(median):
        if joined:  # the fast engine's calls are no single steps
            key = f"{i:4} {calls[i][2]}" if given.by == "step" else calls[i][2].split()[0]
        elif i >= len(labels):
            key = f"copy {copies[i - len(labels)]}"
        else:
            value, shape = labels[i]
            key = {"op": value.op, "origin": value.origin or value.op}.get(given.by, f"{i:4} {value.op} {'x'.join(map(str, shape))} {value.origin}")
        rows[key].append(us)
    whole = median.sum()
    print(f"{given.spec}: batch {n}, {len(calls)} steps, {whole:,.0f} us, arena {made.plan.arena_bytes:,} bytes")
    for key, found in sorted(rows.items(), key=lambda item: -sum(item[1]))[: given.top]:
        print(f"{sum(found):10,.1f} us {100 * sum(found) / whole:5.1f}%  {len(found):4}x  {key}")


if __name__ == "__main__":
    main()
