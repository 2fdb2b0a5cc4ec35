"""Seconds to read a csv file, beside pandas.read_csv, by what its cells are.

    python benchmarks/csv_reading.py                               # every kind, 1,000,000 rows of 10 columns
    python benchmarks/csv_reading.py six-digits --rows 300000 --python ~/peers/bin/python

Each figure is the least over interleaved processes that read the file twice. What is compiled is kept before it is measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = 10
DISTINCT = 100_000  # rows, after which a file begins again
WORDS = ["Private", "Never-married", "Husband", "White", "United-States", "<=50K", ">50K", "Some-college", "HS-grad", "Exec-managerial", "Male", "Own-child"]
NUMPY, FAST, PANDAS = "numpy", "fast", "pandas"


def _words(random: np.random.Generator, rows: int) -> list[str]:
    return [WORDS[x] for x in random.integers(0, len(WORDS), rows)]


def _mixed(random: np.random.Generator, rows: int) -> list[list[Any]]:
    """Small integers beside words, as in the census."""
    return [_words(random, rows) if i % 2 else [str(x) for x in random.integers(0, 10 ** (1 + i), rows)] for i in range(COLUMNS)]


def _normal(form: str) -> Callable[[np.random.Generator, int], list[list[str]]]:
    return lambda random, rows: [[form % x for x in random.normal(0, 100, rows).tolist()] for _ in range(COLUMNS)]


KINDS: dict[str, Callable[[np.random.Generator, int], list[list[str]]]] = {
    "three-decimals": _normal("%.3f"),
    "six-digits": _normal("%.6g"),
    "17-digits": _normal("%.17g"),
    "integers": lambda random, rows: [[str(x) for x in random.integers(-(10**6), 10**6, rows)] for _ in range(COLUMNS)],
    "small-integers": lambda random, rows: [[str(x) for x in random.integers(0, 256, rows)] for _ in range(COLUMNS)],
    "words": lambda random, rows: [_words(random, rows) for _ in range(COLUMNS)],
    "names": lambda random, rows: [[f"n{x}" for x in random.integers(0, 10**9, rows)] for _ in range(COLUMNS)],
    "mixed": _mixed,
}


def write(path: Path, kind: str, rows: int) -> None:
    columns = KINDS[kind](np.random.default_rng(0), min(rows, DISTINCT))
    lines = "".join(",".join(row) + "\n" for row in zip(*columns, strict=True)).encode()
    whole, rest = divmod(rows, DISTINCT)
    with path.open("wb") as file:
        file.write((",".join(f"c{i}" for i in range(COLUMNS)) + "\n").encode())
        for _ in range(whole):
            file.write(lines)
        if rest:
            file.write(b"".join(lines.splitlines(keepends=True)[:rest]))


def reader(contestant: str, path: Path) -> Callable[[], Any]:
    if contestant == PANDAS:
        pd = importlib.import_module("pandas")

        return lambda: pd.read_csv(path)
    from nnc.compiler.ops.sources import CsvParams
    from nnc.compiler.schema import Files, csv_schema
    from nnc.runtime.data.sources import SOURCES

    params = CsvParams(path=path.name, header=True, separator=",", missing="")
    return lambda: SOURCES["csv"](params, Files(path.parent), csv_schema(path, ",", True, ()).columns)


def seconds(contestant: str, path: Path, python: str) -> float:
    """The faster of two readings in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")} | {"NNC_ENGINE": contestant}
    command = [python if contestant == PANDAS else sys.executable, __file__, "--one", contestant, "--path", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{contestant}: {done.stderr}")
    return float(json.loads(done.stdout))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[[], *KINDS], metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has pandas")
    parser.add_argument("--contestants", nargs="+", choices=(NUMPY, FAST, PANDAS), default=[NUMPY, FAST, PANDAS])
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a process of its own
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        read, times = reader(given.one, given.path), []
        for _ in range(2):
            begun = time.perf_counter()
            found = read()
            times.append(time.perf_counter() - begun)
            del found
        print(json.dumps(min(times)))
        return 0
    if PANDAS in given.contestants and subprocess.run([given.python, "-c", "import pandas"], capture_output=True, check=False).returncode:
        print(f"left out: {given.python} has no pandas")
        given.contestants.remove(PANDAS)
    if FAST in given.contestants:
        from nnc.runtime.data.cells import compiled

        compiled()
    print(f"{'seconds':15} {'MB':>5} " + " ".join(f"{name:>8}" for name in given.contestants) + "   of pandas' time")
    for kind in given.kinds or KINDS:
        with tempfile.TemporaryDirectory(prefix="nnc-csv-") as folder:
            path = Path(folder) / "rows.csv"
            write(path, kind, given.rows)
            least = dict.fromkeys(given.contestants, float("inf"))
            for turn in range(given.processes):
                for place in range(len(least)):
                    name = given.contestants[(turn + place) % len(least)]
                    least[name] = min(least[name], seconds(name, path, given.python))
            ratios = ", ".join(f"{name} {least[name] / least[PANDAS]:.2f}" for name in least if name != PANDAS) if PANDAS in least else ""
            print(f"{kind:15} {path.stat().st_size / 1e6:5.0f} " + " ".join(f"{t:8.3f}" for t in least.values()) + f"   {ratios}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
