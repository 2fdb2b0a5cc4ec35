"""Bundles where nothing but numpy and onnxruntime can be imported: `python tests/bare.py 200 --data-root DATA` tries that many random networks,
half as many random tables, and every program of specs/.

Each is exported. A process that finds no other library runs model.onnx on raw rows, with graph optimisations off and on, at batch 1, 7 and N, and
the bundle's predict.py on its example. What comes out is compared with the NumPy runtime: within 1e-5 + 1e-4 of the value, and what float32's rounding
alone accounts for (rounding.py) where the network cancels or amplifies; how many elements need that is said. Decisions are equal
unless rounding decides them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from drawing import network

import nnc
from nnc.compiler.ir import topological
from nnc.runtime.bundle import open_bundle, write_bundle
from nnc.runtime.deploy import files
from nnc.runtime.edge_rows import EDGE_ROWS, Rows
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.export import exported
from nnc.runtime.kernels import Array, Randomness
from nnc.runtime.rounding import trust

SPECS = Path(__file__).parent.parent / "specs"
ALLOWED = ("numpy", "numpy.libs", "onnxruntime")
SIZES = (1, 7)

RUNNER = """
import contextlib, io, json, runpy, sys
from pathlib import Path
sys.path.append(sys.argv[1])
import numpy as np, onnxruntime as ort
for name in ("nnc", "onnx", "google", "torch", "pydantic", "lark", "safetensors", "scipy", "sklearn"):
    try:
        __import__(name)
        sys.exit(f"{name} can be imported")
    except ImportError:
        pass
for case in map(Path, sys.argv[2:]):
    manifest = json.loads((case / "bundle" / "manifest.json").read_text())
    with np.load(case / "raw.npz") as archive:
        raw = {name: archive[name].astype(object) if archive[name].dtype.kind == "U" else archive[name] for name in archive.files}
    rows = len(next(iter(raw.values())))
    found = {}
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(str(case / "bundle" / manifest["model"]), options, providers=["CPUExecutionProvider"])
        assert session.get_providers()[0] == "CPUExecutionProvider"
        names = [o.name for o in session.get_outputs()]
        for size in SIZES + (rows,):
            parts = [session.run(names, {n: a[i : i + size] for n, a in raw.items()}) for i in range(0, min(rows, 6 * size), size)]
            for name, column in zip(names, zip(*parts)):
                whole = np.concatenate(column)
                found[f"{level}/{size}/{name}"] = whole.astype(str) if whole.dtype == object else whole
    np.savez(case / "found.npz", **found)
    said, sys.argv[1:] = io.StringIO(), []
    with contextlib.redirect_stdout(said):
        runpy.run_path(str(case / "bundle" / "predict.py"), run_name="__main__")
    (case / "said.txt").write_text(said.getvalue())
""".replace("SIZES", str(SIZES))


def environment(folder: Path) -> Path:
    """A directory of links to the two libraries, for sys.path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ALLOWED:
        spec = importlib.util.find_spec(name.partition(".")[0])
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).parent.parent / name
        if source.is_dir():
            (folder / name).symlink_to(source)
    return folder


def isolated(folder: Path, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A program in a Python that reads no environment, no site and no user directory; `folder` is what it may import beside the standard library."""
    command = [sys.executable, "-I", "-S", "-c", program, str(folder), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=580)


@dataclass
class Compared:
    """What one case has shown."""

    compared: int = 0
    rounded: int = 0  # elements that need the allowance for rounding
    undecided: int = 0  # rows
    wrong: str = ""


@dataclass
class Case:
    """A bundle on disk, its model, and raw rows to try it on."""

    folder: Path
    model: Any
    raw: dict[str, Array]

    def write(self) -> None:
        """The bundle as `nnc export` writes it, but for what only a run knows."""
        found = exported(self.model.program, *self.model.serving(), {name: array[:64] for name, array in self.raw.items()})
        write_bundle(self.folder / "bundle", found.name, found.file, files(found, self.model), {})
        self.keep()

    def keep(self) -> None:
        graph, _ = self.model.serving()
        self.raw = {n: np.asarray(self.raw[n], object if v.dtype == "string" else v.dtype) for n, v in graph.leaves("input").items()}
        np.savez(self.folder / "raw.npz", **{n: a.astype(str) if a.dtype == object else a for n, a in self.raw.items()})  # type: ignore[arg-type]

    def compare(self) -> Compared:
        """What the bare process wrote, against the NumPy runtime."""
        graph, arrays = self.model.serving()
        total = len(next(iter(self.raw.values())))
        wanted = {n: a.copy() for n, a in Executor(graph, arrays, Randomness(0), Arena()).run(self.raw).items()}
        known = trust(graph, arrays, Rows(self.raw, total - EDGE_ROWS), total)
        result = Compared()
        with np.load(self.folder / "found.npz") as archive:
            for key in archive.files:
                name = key.split("/", 2)[2]
                self._add(result, key, archive[key], wanted[name][: len(archive[key])], known[name].decided, known[name].rounding)
        self._example(result)
        return result

    def _add(self, result: Compared, key: str, found: Array, wanted: Array, decided: Array, rounding: Array) -> None:
        decided, rounding = decided[: len(found)], rounding[: len(found)]
        result.undecided += int((~decided).sum())
        if found.shape != wanted.shape:
            result.wrong = f"{key}: {found.shape}, wanted {wanted.shape}"
            return
        found, wanted = found[decided].reshape(decided.sum(), -1), wanted[decided].reshape(decided.sum(), -1)
        result.compared += found.size
        if wanted.dtype.kind != "f":
            same = found == wanted.astype(found.dtype)
            result.wrong = result.wrong or ("" if same.all() else f"{key}: {int((~same).sum())} other decisions")
            return
        with np.errstate(all="ignore"):
            distance = np.where((found == wanted) | (np.isnan(found) & np.isnan(wanted)), 0.0, np.abs(found - wanted.astype(np.float64)))
            plain = 1e-5 + 1e-4 * np.abs(wanted)
        result.rounded += int((~(distance <= plain)).sum())
        beyond = ~(distance <= plain + rounding[decided][:, None])
        if beyond.any():
            result.wrong = result.wrong or f"{key}: {int(beyond.sum())} of {beyond.size} differ, by {distance[beyond].max():.3g} at most"

    def _example(self, result: Compared) -> None:
        """predict.py gives the response that signature.json promises."""
        bundle = open_bundle(self.folder / "bundle")
        said = dict(line.split(" ", 1) for line in (self.folder / "said.txt").read_text().splitlines())
        for output in bundle.signature["example"]["response"]["outputs"]:
            printed = np.array(json.loads(said[output["name"]], parse_constant=lambda text: None), object).reshape(-1).tolist()
            if printed != [_single(item) if output["datatype"] == "FP32" else item for item in output["data"]]:
                result.wrong = result.wrong or f"predict.py says {printed} for {output['name']}, signature.json {output['data']}"


def _single(number: float | None) -> float | None:
    return None if number is None else float(np.float32(number))


# What is tried


def of_random_network(seed: int, folder: Path) -> Case:
    """A random network of the whole layer table, on normal draws."""
    drawn, model, _ = network(seed)
    return Case(folder, model, {i.name: array for i in drawn.inputs for name, array in drawn.batch(40, seed + 1).items() if name == i.name})


def of_table(seed: int, folder: Path) -> Case:
    """A random table of numbers and categories, some missing, and a network on it; tried on rows with values that training has not seen."""
    random = np.random.default_rng(seed)
    numbers, words = [f"n{i}" for i in range(int(random.integers(1, 5)))], [f"w{i}" for i in range(int(random.integers(1, 4)))]
    scaler = random.choice(["standardize", "min_max", "min_max(low=-1, high=1)", "clip(-40, 60) -> standardize", "scale(0.05)"])
    names = [f"numbers = columns({', '.join(numbers)}) -> impute({random.choice(['median', 'mean', 'constant, value=7'])}) -> {scaler}",
             "level = column(level) -> category([0.5, 2.5, 7.25]) -> one_hot", "count = column(count) -> one_hot(4)"]  # fmt: skip
    inputs, parts = [f"numbers: float32[{len(numbers)}]", "level: float32[3]", "count: float32[4]"], ["numbers", "level", "count"]
    body = []
    for word in words:
        if random.random() < 0.5:
            names.append(f'{word} = column({word}) -> one_hot(["ash", "beech, red", "elm"])')
            inputs.append(f"{word}: float32[3]")
            parts.append(word)
        else:
            names.append(f"{word} = column({word}) -> category")
            inputs.append(f"{word}: int64")
            body.append(f"e{word} = {word} -> embedding(9, {int(random.integers(1, 5))})")
            parts.append(f"e{word}")
    layers = " -> ".join(str(random.choice(["dense(7) -> batch_norm -> relu", "dense(6) -> tanh", "dense(5) -> layer_norm -> swish"])) for _ in range(2))
    spec = "\n".join([
        f"network table({', '.join(inputs)}) {{", *body, f"h = concat({', '.join(parts)}) -> {layers}",
        "return pay = h -> dense(1), kind = h -> dense(3) -> softmax, old = h -> dense(1) -> sigmoid }",
        'data { source = csv("table.csv", missing="?")', *names, f"wage = column(wage) -> {random.choice(['standardize', 'min_max', 'log1p -> standardize'])}",
        "tree = column(tree) -> category", "age = column(age) -> category([3, 11])", "split = random(train=80%, validation=20%) }",
        "train { loss = mse(pay, wage) + cross_entropy(kind, tree) + binary_cross_entropy(old, age) optimizer = adam(lr=0.01) batch = 16 epochs = 1 }",
        f"export {{ outputs = [pay, kind, old, wage, tree, age]  opset = {int(random.integers(13, 27))} }}",
    ])  # fmt: skip
    (folder / "table.nn").write_text(spec)
    write_table(folder / "table.csv", _rows(random, numbers, words, 80, seen=True))
    result = nnc.train(folder / "table.nn", out=folder / "run")
    fresh = _rows(random, numbers, words, 40, seen=False)
    raw: dict[str, Array] = {"numbers": np.array([[_number(row[n]) for n in numbers] for row in fresh], np.float32)}
    raw |= {name: np.array([[_number(row[name])] for row in fresh], np.float32) for name in ("level", "count")}
    raw |= {word: np.array(["" if row[word] == "?" else row[word] for row in fresh], object) for word in words}
    return Case(folder, result.model, raw)


def _rows(random: np.random.Generator, numbers: list[str], words: list[str], count: int, *, seen: bool) -> list[dict[str, str]]:
    known = ["ash", "beech, red", "elm", "?"]
    return [
        {n: "?" if random.random() < 0.2 else f"{random.normal(5, 20):.3f}" for n in numbers}
        | {w: str(random.choice(known if seen else [*known, "oak", "\u00e9rable", ""])) for w in words}
        | {"level": str(random.choice(["0.5", "2.5", "7.25"] if seen else ["0.5", "2.5", "9"])), "count": str(random.integers(0, 4 if seen else 7))}
        | {"wage": f"{random.uniform(1, 90):.2f}", "tree": str(random.choice(["fir", "pine", "yew"])), "age": str(random.choice([3, 11]))}
        for _ in range(count)
    ]


def _number(cell: str) -> float:
    return float("nan") if cell == "?" else float(cell)


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    lines = [",".join(rows[0]), *(",".join(f'"{cell}"' if "," in cell else cell for cell in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def of_spec(name: str, folder: Path, root: Path | None) -> Case:
    """A program of specs/, trained for one epoch; tried on its own rows, some of them with missing and unseen values."""
    text = re.sub(r"epochs( *)= *\d+", r"epochs\1= 1", (SPECS / f"{name}.nn").read_text("utf-8"))
    (folder / f"{name}.nn").write_text(text, "utf-8")
    result = nnc.train(folder / f"{name}.nn", out=folder / "run", data_root=root)
    graph, _ = result.model.serving()
    raw = {n: np.array(result.data.raw[n][-200:], object if v.dtype == "string" else v.dtype) for n, v in graph.leaves("input").items()}
    _disturb(raw, graph)
    return Case(folder, result.model, raw)


def _disturb(raw: Mapping[str, Array], graph: Any) -> None:
    """Missing values where the spec has an answer to them, and words that training has not seen."""
    imputed = {o.name for v in graph.order() if v.op == "is_nan" for o in topological([v]) if o.op == "input"}
    for place, (name, array) in enumerate(raw.items()):
        if array.dtype == object:
            array[place::7] = ""
            array[place + 1 :: 11] = "never seen"
        elif name in imputed:
            array[place::5, ..., place % array.shape[-1]] = np.nan


def tried(cases: list[Case], bare: Path) -> list[Compared]:
    """Write the bundles, run them all in one bare process, compare."""
    for case in cases:
        case.write()
    done = isolated(bare, RUNNER, *(case.folder for case in cases))
    assert done.returncode == 0, done.stderr[-2000:]
    return [case.compare() for case in cases]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--data-root", type=Path, help="where the data of specs/ is; without it those with data of their own")
    options = parser.parse_args()
    began, failed, total = time.monotonic(), 0, Compared()
    seeds = range(options.seed, options.seed + options.count)
    work: list[tuple[str, Any, Any]] = [(f"network {seed}", of_random_network, seed) for seed in seeds]
    work += [(f"table {seed}", of_table, seed) for seed in seeds[: len(seeds) // 2]]
    specs = [path.stem for path in sorted(SPECS.glob("*.nn")) if options.data_root or path.stem in ("and_gate", "digits")]
    work += [(name, lambda name, folder: of_spec(name, folder, options.data_root), name) for name in specs]
    with tempfile.TemporaryDirectory() as directory:
        bare = environment(Path(directory) / "bare")
        for start in range(0, len(work), 50):
            cases = []
            for index, (_, make, key) in enumerate(work[start : start + 50], start):
                folder = Path(directory) / str(index)
                folder.mkdir()
                cases.append(make(key, folder))
            for (name, _, _), found in zip(work[start:], tried(cases, bare), strict=False):
                total.compared += found.compared
                total.rounded += found.rounded
                total.undecided += found.undecided
                if found.wrong:
                    failed += 1
                    print(f"{name}: {found.wrong}", flush=True)
    print(f"{len(work)} bundles ({', '.join(specs)} among them), {failed} wrong; {total.compared:,} elements compared, {total.rounded:,} of them beyond "
          f"1e-5 + 1e-4 of the value by rounding; {total.undecided:,} rows undecided; {time.monotonic() - began:.0f} s")  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
