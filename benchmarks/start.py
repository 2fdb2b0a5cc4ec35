"""How long `nnc check` takes from the start of its process, and how long compiling takes as networks grow deep.

    python benchmarks/start.py                          # specs/, and networks of 250, 500 and 1,000 layers
    python benchmarks/start.py --data-root DATA --processes 21

Every spec is checked by processes of its own, which take turns with those of the other specs and with one that starts Python and nothing else; a
first round, which may write bytecode and warm the page cache, does not count. The figure is the median. A deep network is checked, and its training
step planned, by this process: the best of three.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SPECS = Path(__file__).parent.parent / "specs"
TRAIN = """
data { source = npz("rows.npz")  x = column(x)  y = column(y)  split = random(train=80%, validation=20%, seed=1) }
train { loss = cross_entropy(p, y)  optimizer = adam(lr=0.001)  batch = 32  epochs = 1  metrics = [accuracy] }
"""
RESIDUAL = "r = x -> {0} -> batch_norm -> relu -> {0} -> batch_norm  return s = x + r -> relu -> linear"
BLOCKS = {  # the layers of a block, what it is, the shape that it takes, and what follows the last
    "dense, relu": (2, "return r = x -> dense(16) -> relu", "[16]", ""),
    "residual": (7, RESIDUAL.format("dense(16, bias=false)"), "[16]", ""),
    "residual, images": (7, RESIDUAL.format("conv2d(8, kernel=3, padding=same, bias=false)"), "[8, 8, 8]", "global_avg_pool -> "),
}


def deep(kind: str, layers: int) -> str:
    """A spec of about so many layers."""
    each, body, shape, end = BLOCKS[kind]
    return f"block b(x) {{ {body} }}\nnetwork(x: float32{shape}) {{ return p = x -> repeat({layers // each}, b()) -> {end}dense(3) -> softmax }}\n{TRAIN}"


def starts(commands: Sequence[Sequence[str]], processes: int) -> list[float]:
    """The median of the seconds that each command takes."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("OPENBLAS_") and name != "PYTHONDONTWRITEBYTECODE"}
    seconds: list[list[float]] = [[] for _ in commands]
    for turn in range(processes + 1):
        for command, found in zip(commands, seconds, strict=True):
            begun = time.perf_counter()
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)}: {done.stderr}")
            if turn:
                found.append(time.perf_counter() - begun)
    return [statistics.median(found) for found in seconds]


def compiled(text: str) -> float:
    """Seconds to compile a spec, as the command line does it: without looking for cycles among values."""
    from nnc.compiler.pipeline import analyse
    from nnc.compiler.source import Source

    best = float("inf")
    for _ in range(3):
        gc.collect()
        gc.disable()
        begun = time.perf_counter()
        program = analyse(Source("deep", text), root=None)
        program.training_bytes(program.batch)
        best = min(best, time.perf_counter() - begun)
        gc.enable()
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", metavar="DIR", help="where the data of the specs lies; without it sources are left unopened")
    parser.add_argument("--processes", type=int, default=15, metavar="N", help="of each spec; default: 15")
    parser.add_argument("--layers", type=int, nargs="*", default=[250, 500, 1000], metavar="N", help="default: 250 500 1000")
    given = parser.parse_args()
    data = ["--data-root", given.data_root] if given.data_root else ["--no-data"]
    specs = sorted(SPECS.glob("*.nn"))
    commands = [[sys.executable, "-c", "pass"], *([sys.executable, "-P", "-m", "nnc", "check", str(spec), *data] for spec in specs)]
    print(f"{'ms of a process':20}")
    for name, seconds in zip(["python alone", *(spec.stem for spec in specs)], starts(commands, given.processes), strict=True):
        print(f"{name:20} {1000 * seconds:7.0f}")
    print(f"\n{'ms to compile':20} " + " ".join(f"{layers:>7,}" for layers in given.layers) + " layers")
    for kind in BLOCKS:
        print(f"{kind:20} " + " ".join(f"{1000 * compiled(deep(kind, layers)):7.0f}" for layers in given.layers), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
