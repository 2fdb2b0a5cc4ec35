"""Memory that a training takes beside memory that was predicted for it before it ran: what `nnc summary` prints.

    python benchmarks/memory.py                        # every workload, on both engines
    python benchmarks/memory.py vgg-s --engines fast

Predicted are the bytes of all arrays that a step keeps: parameters, the optimiser's state, the batch, and the arena that the plan lays out. Measured are the
bytes that NumPy has allocated for arrays once a process has taken two steps, and the most that Python and NumPy together had at any moment of a third, less
what the data took; tracemalloc counts both. Each spec is measured in a process of its own, which has trained another model of it before: modules
that are imported and code that is compiled are no arrays of a step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SPECS = HERE / "workloads"
MIB = 2**20
ENGINES = ("numpy", "fast")


def array_bytes() -> int:
    """What NumPy has allocated for arrays."""
    domain = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([domain]).traces)


def measure(spec: Path, root: Path) -> dict[str, int]:
    """Bytes predicted and measured for a step on a batch of the spec's size."""
    import nnc
    from nnc.compiler.pipeline import analyse, read
    from nnc.runtime.engine import choose

    program = analyse(read(spec), root=root)
    fast, n = choose().name == "fast", program.batch
    predicted = program.training_bytes(n, fast)
    targets = program.targets()
    random = np.random.default_rng(0)
    batch = {i.name: _some(random, i.dtype, (n, *i.shape)) for i in program.experiment.network.inputs}
    batch |= {name: _some(random, target.dtype, (n, *target.shape)) for name, target in targets.items() if name not in batch}
    nnc.compile(spec, data_root=root).init(seed=1).step(batch)
    tracemalloc.start()
    before = array_bytes()
    model = nnc.compile(spec, data_root=root).init(seed=1)
    for _ in range(2):
        model.step(batch)
    held = array_bytes() - before
    current, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    model.step(batch)
    passing = tracemalloc.get_traced_memory()[1] - current
    tracemalloc.stop()
    return {"batch": n, "predicted": predicted, "held": held, "peak": held + passing}


def _some(random: np.random.Generator, dtype: str, shape: Sequence[int]) -> np.ndarray:
    return random.normal(size=shape).astype(dtype) if dtype.startswith("float") else random.integers(0, 2, shape)


def _process(spec: Path, folder: Path, engine: str) -> dict[str, int]:
    command = [sys.executable, __file__, "--one", str(spec), "--data", str(folder)]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"NNC_ENGINE": engine}).stdout))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.stem for path in SPECS.glob("*.nn"))
    parser.add_argument("workloads", nargs="*", choices=[[], *known], metavar="NAME", help=", ".join(known))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--one", metavar="SPEC", help=argparse.SUPPRESS)  # a process of its own
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(Path(given.one), given.data)))
        return 0
    sys.path.insert(0, str(HERE / "compare"))
    from nnc_trainer import write
    from workloads import WORKLOADS

    from nnc.runtime.engine import obstacle

    worst = 0.0
    print(f"{'MiB':8} {'engine':6} {'batch':>6} {'predicted':>10} {'held':>10} {'peak':>10}  peak / predicted")
    with tempfile.TemporaryDirectory(prefix="nnc-memory-") as folder:
        for name in given.workloads or known:
            write(WORKLOADS[name], WORKLOADS[name].data(WORKLOADS[name].batch), Path(folder))
            for engine in given.engines:
                if engine == "fast" and obstacle() is not None:
                    continue
                found = _process(SPECS / f"{name}.nn", Path(folder), engine)
                ratio = found["peak"] / found["predicted"]
                worst = max(worst, abs(ratio - 1))
                figures = " ".join(f"{found[k] / MIB:10.2f}" for k in ("predicted", "held", "peak"))
                print(f"{name:8} {engine:6} {found['batch']:>6} {figures}  {ratio:.3f}", flush=True)
    print(f"off by at most {100 * worst:.1f}%")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
