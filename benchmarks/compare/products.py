"""The bare matrix products of a step of a dense network: no contestant on NumPy's BLAS takes less time. Prints one line of JSON."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from workloads import WORKLOADS, Array, Dense


def products(workload: Dense) -> tuple[list[Callable[[], Array]], int]:
    """Forward, the weights' gradients and the inputs' gradients but the first, as calls; and the floating-point operations of all."""
    draw = np.random.default_rng(0)

    def product(a: Array, b: Array) -> Callable[[], Array]:
        out = np.empty((a.shape[0], b.shape[1]), np.float32)
        return lambda: np.matmul(a, b, out)

    calls, flops = [], 0
    for i, (fan_in, fan_out) in enumerate(pairwise(workload.sizes)):
        x, weight, cotangent = (
            draw.standard_normal(shape, np.float32) for shape in ((workload.batch, fan_in), (fan_in, fan_out), (workload.batch, fan_out))
        )
        calls += [product(x, weight), product(x.T, cotangent)] + ([product(cotangent, weight.T)] if i else [])
        flops += (3 if i else 2) * 2 * workload.batch * fan_in * fan_out
    return calls, flops


def measure(workload: Dense, seconds: float, clock: Callable[[], float]) -> dict[str, float | str]:
    calls, flops = products(workload)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        begun = clock()
        for call in calls:
            call()
        times.append(clock() - begun)
    return {"workload": workload.name, "step": min(times), "flops": flops}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=[name for name, workload in WORKLOADS.items() if isinstance(workload, Dense)])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds of all threads")
    given = parser.parse_args()
    chosen = WORKLOADS[given.workload]
    assert isinstance(chosen, Dense)
    print(json.dumps(measure(chosen, given.seconds, time.process_time if given.cpu else time.perf_counter)))
