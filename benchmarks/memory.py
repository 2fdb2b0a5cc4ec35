"""Memory that a training takes beside memory that was predicted for it before it ran: what `nnc summary` prints.

    python benchmarks/memory.py                        # every workload, on NumPy's engine
    NNC_ENGINE=fast python benchmarks/memory.py vgg-s

Predicted are the bytes of all arrays that a step keeps: parameters, the optimiser's state, the batch, and the arena that the plan lays out. Measured are the
bytes that NumPy has allocated for arrays once a process has taken two steps, and the most that Python and NumPy together had at any moment of a third, less
what the data took; tracemalloc counts both. Each spec is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
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


def array_bytes() -> int:
    """What NumPy has allocated for arrays."""
    domain = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([domain]).traces)


def measure(spec: Path, root: Path) -> dict[str, int]:
    """Bytes predicted and measured for a step on a batch of the spec's size."""
    import nnc
    from nnc.compiler.pipeline import analyse, read

    program = analyse(read(spec), root=root)
    predicted, n = program.training_bytes(program.batch), program.batch
    targets = program.targets()
    random = np.random.default_rng(0)
    batch = {i.name: _some(random, i.dtype, (n, *i.shape)) for i in program.experiment.network.inputs}
    batch |= {name: _some(random, target.dtype, (n, *target.shape)) for name, target in targets.items() if name not in batch}
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(path.stem for path in SPECS.glob("*.nn"))
    parser.add_argument("workloads", nargs="*", choices=[[], *known], metavar="NAME", help=", ".join(known))
    parser.add_argument("--one", metavar="SPEC", help=argparse.SUPPRESS)  # a process of its own
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(Path(given.one), given.data)))
        return 0
    sys.path.insert(0, str(HERE / "compare"))
    from nnc_trainer import write
    from workloads import WORKLOADS

    worst = 0.0
    print(f"{'MiB':10} {'batch':>6} {'predicted':>10} {'held':>10} {'peak':>10}  peak / predicted")
    with tempfile.TemporaryDirectory(prefix="nnc-memory-") as folder:
        for name in given.workloads or known:
            write(WORKLOADS[name], WORKLOADS[name].data(WORKLOADS[name].batch), Path(folder))
            command = [sys.executable, __file__, "--one", str(SPECS / f"{name}.nn"), "--data", folder]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            ratio = found["peak"] / found["predicted"]
            worst = max(worst, abs(ratio - 1))
            print(f"{name:10} {found['batch']:>6} " + " ".join(f"{found[k] / MIB:10.2f}" for k in ("predicted", "held", "peak")) + f"  {ratio:.3f}", flush=True)
    print(f"off by at most {100 * worst:.1f}%")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
