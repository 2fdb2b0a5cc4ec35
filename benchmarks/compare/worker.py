"""One process of the comparison: one contestant trains one workload. Prints one line of JSON.

The time of an epoch is the best of at least `--epochs` and `--seconds`, after two that warm up. `first_epoch` counts from before the
contestant's libraries are imported to the end of its first epoch, without the making and placing of the data. `memory` is how far the
process grew beyond its imports and data. With `--cpu` all times are CPU seconds.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contestants import CONTESTANTS, Contestant, Training
from workloads import WORKLOADS, Workload

Clock = Callable[[], float]
STATUS = Path("/proc/self/status")


class Growth:
    """How much memory a process takes beyond what it has now; where the system cannot forget an old peak, beyond that peak."""

    def __init__(self) -> None:
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # freed memory would hide growth: the allocators keep it
        if trim is not None:
            trim(0)
        self.forgets = False
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.forgets = True
        except OSError:
            pass
        self.start = self._status("VmRSS") if self.forgets else self._peak()

    def bytes(self) -> int:
        return self._peak() - self.start

    def _peak(self) -> int:
        return self._status("VmHWM") if self.forgets else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    @staticmethod
    def _status(name: str) -> int:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
        return int(line.split()[1]) * 1024


def timed(training: Training, clock: Clock) -> tuple[float, Any]:
    begun = clock()
    loss = training.epoch()
    return clock() - begun, loss


def measure(contestant: Contestant, workload: Workload, folder: Path, *, samples: int, epochs: int, seconds: float, clock: Clock) -> dict[str, Any]:
    data = workload.data(samples)
    if "keras" in contestant.libraries:
        os.environ["KERAS_BACKEND"] = next(iter(contestant.options))
    begun = clock()
    module = importlib.import_module(contestant.module)
    imported = clock() - begun
    held = module.place(workload, data, contestant.options, folder)
    growth = Growth()
    begun = clock()
    training = module.prepare(workload, held, contestant.options)
    first_loss = training.epoch()
    first = clock() - begun
    training.epoch()
    times: list[float] = []
    while len(times) < epochs or sum(times) < seconds:
        took, loss = timed(training, clock)
        times.append(took)
    done = 2 + len(times)
    return {
        "contestant": contestant.name,
        "workload": workload.name,
        "epoch": min(times),
        "epochs": done,
        "steps": training.steps() / done,
        "samples": samples,
        "imports": imported,
        "first_epoch": imported + first,
        "memory": growth.bytes(),
        "first_loss": first_loss,
        "last_loss": loss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("folder", type=Path, help="for the data file that nnc reads")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds of all threads")
    given = parser.parse_args()
    workload = WORKLOADS[given.workload]
    found = measure(CONTESTANTS[given.contestant], workload, given.folder,
                    samples=given.samples or workload.samples, epochs=given.epochs, seconds=given.seconds,
                    clock=time.process_time if given.cpu else time.perf_counter)  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
