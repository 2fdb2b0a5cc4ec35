"""Which module may import which, as data. Rows go downward: a module imports only modules whose rows stand above its own."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"compiler": "nnc.compiler", "runtime": "nnc.runtime", "nnc": "nnc"}
MOST_LINES = 450

LAYER = "diagnostics ir operation"  # what every family of operations stands on

# module: the modules that it may import, in the same folder unless they are named in full
COMPILER = {
    "record": "",
    "source": "record",
    "code": "record",
    "codes_language": "code",
    "codes_model": "code",
    "codes_run": "code",
    "codes_advice": "code",
    "codes": "code codes_advice codes_language codes_model codes_run",
    "shown": "",
    "diagnostics": "record source codes shown",
    "syntax": "record source",
    "tokens": "record source diagnostics syntax",
    "build": "source diagnostics syntax tokens",
    "parse": "source diagnostics syntax tokens build nnc.grammar",
    "ir": "record",
    "primitives": "ir",
    "verify": "ir",
    "autodiff": "ir primitives",
    "passes.common": "ir",
    "passes.pools": "ir",
    "passes.simplify": "ir",
    "passes.stable": "ir",
    "passes.products": "ir",
    "passes.sums": "ir",
    "passes.unroll": "ir",
    "passes": "ir passes.common passes.products passes.simplify passes.stable passes.sums",
    "quantise": "record ir",
    "halve": "ir",
    "layout": "ir",
    "workspace": "ir",
    "passes.tolerant": "ir workspace",
    "plan": "record ir layout workspace",
    "onnx_lowering": "ir",
    "onnx_recurrence": "ir onnx_lowering primitives",
    "onnx_training": "ir onnx_lowering onnx_recurrence",
    "onnx_export": "record ir onnx_lowering",
    "onnx_step": "ir onnx_export onnx_lowering onnx_training",
    "schema": "record diagnostics",
    "parquet": "diagnostics schema",
    "images": "record diagnostics schema",
    "declared": "",
    "operation": "declared record source ir",
    "ops.channels": "diagnostics ir",
    "ops.activations": f"{LAYER} ops.channels",
    "ops.layers": f"{LAYER} primitives ops.channels",
    "ops.convolution": f"{LAYER} primitives ops.layers",
    "ops.normalisation": f"{LAYER} primitives ops.channels ops.layers",
    "ops.recurrent": f"{LAYER} primitives ops.layers",
    "ops.shapes": LAYER,
    "ops.data": f"{LAYER} primitives ops.shapes",
    "ops.splits": "diagnostics operation ops.data",
    "ops.augmentations": "operation",
    "ops.initialisers": "diagnostics operation",
    "ops.losses": f"{LAYER} primitives",
    "ops.metrics": f"{LAYER} primitives ops.losses",
    "ops.optimisers": "ir operation",
    "ops.solvers": "operation ops.optimisers",
    "ops.penalties": "ir operation primitives",
    "ops.schedules": "diagnostics operation",
    "ops.sources": "diagnostics operation schema parquet images",
    "ops.training": "ir operation",
    "ops.tuning": "diagnostics operation",
    "ops.quantisation": "operation",
    "ops": "ops.activations ops.augmentations ops.convolution ops.data ops.initialisers ops.layers ops.losses ops.metrics ops.normalisation "
    "ops.optimisers ops.penalties ops.quantisation ops.recurrent ops.schedules ops.shapes ops.solvers ops.sources ops.splits ops.training ops.tuning",
    "experiment": "record source schema operation",
    "fields": "record operation",
    "values": "record source syntax operation experiment",
    "constants": "source diagnostics syntax values",
    "resolve": "source diagnostics syntax operation fields values constants",
    "declare": "source diagnostics syntax operation experiment fields values resolve",
    "blocks": "source diagnostics syntax values resolve declare",
    "network": "source diagnostics syntax operation experiment values resolve declare blocks",
    "data_section": "source diagnostics syntax schema operation ops.sources experiment values resolve declare",
    "check": "source diagnostics syntax parse schema operation ops experiment values constants resolve declare network data_section",
    "lower": "record source diagnostics shown ir operation experiment",
    "prepare": "diagnostics ir operation experiment",
    "bundles": "record ir lower",
    "objective": "record diagnostics ir primitives operation experiment fields lower",
    "sparse": "record ir experiment lower primitives",
    "training": "record ir primitives autodiff passes passes.stable passes.unroll operation experiment lower bundles objective sparse",
    "watching": "record ir ops.channels passes passes.stable primitives experiment lower bundles objective training",
    "program": "diagnostics ir passes passes.pools passes.tolerant plan experiment lower prepare bundles objective sparse training watching",
    "agree": "diagnostics ir operation ops.solvers experiment prepare objective sparse program",
    "cost": "record ir experiment program",
    "links": "ir experiment program",
    "advice_layers": "diagnostics operation experiment links",
    "advice_outputs": "diagnostics operation experiment links",
    "advice_training": "diagnostics ir operation passes.tolerant experiment training workspace cost links",
    "advice": "diagnostics program links advice_layers advice_outputs advice_training",
    "serve": "record diagnostics ir operation passes lower prepare objective program",
    "interface": "record experiment ir operation prepare program serve",
    "ensemble": "diagnostics ir passes lower prepare objective training program serve",
    "wrapping": "record tokens",
    "formatting": "source diagnostics parse tokens wrapping",
    "pipeline": "source diagnostics shown parse schema check lower program agree advice",
}
RUNTIME = {
    "files": "nnc.compiler.source nnc.compiler.diagnostics",
    "manifest": "",
    "bundle": "files manifest",
    "threads": "",
    "divided": "nnc.compiler.workspace",
    "convolution": "divided nnc.compiler.ir nnc.compiler.workspace",
    "pooling": "convolution divided nnc.compiler.ir nnc.compiler.workspace",
    "special": "",
    "recurrent": "nnc.compiler.ir",
    "recurrence": "divided nnc.compiler.ir",
    "solvers": "",
    "integers": "",
    "table_rows": "convolution divided nnc.compiler.source nnc.compiler.diagnostics nnc.compiler.ir nnc.compiler.workspace",
    "kernels": "convolution divided integers pooling special recurrence recurrent table_rows nnc.compiler.ir nnc.compiler.workspace",
    "machine_code": "files nnc.compiler.diagnostics",
    "loops": "machine_code nnc.compiler.ir",
    "vector_math": "",
    "blas": "machine_code threads",
    "device": "files nnc.compiler.ir nnc.compiler.onnx_export",
    "engine": "blas device files machine_code",
    "machine": "threads",
    "addresses": "machine_code",
    "compiled_csv": "addresses",
    "dense": "addresses blas vector_math",
    "turns": "addresses",
    "vectors": "addresses",
    "tiles": "addresses vectors",
    "masks": "addresses vectors",
    "products": "addresses tiles vectors",
    "interpolation": "",
    "transforms": "addresses interpolation vectors",
    "winograd": "addresses blas interpolation transforms vectors",
    "patches": "addresses blas vectors",
    "pools": "addresses vectors",
    "depthwise": "addresses vectors",
    "compiled_recurrence": "addresses blas vector_math",
    "bound": "",
    "native_depthwise": "bound machine_code nnc.compiler.ir",
    "images": "bound machine_code native_depthwise threads nnc.compiler.ir nnc.compiler.workspace",
    "native_recurrence": "bound machine_code nnc.compiler.ir nnc.compiler.primitives",
    "native": "bound images kernels machine_code native_recurrence threads nnc.compiler.ir",
    "team": "bound machine_code threads",
    "fusion": "bound kernels loops machine_code native team threads nnc.compiler.ir nnc.compiler.plan",
    "lanes": "divided threads nnc.compiler.ir nnc.compiler.workspace",
    "executor": "divided kernels fusion lanes threads nnc.compiler.ir nnc.compiler.layout nnc.compiler.plan nnc.compiler.workspace",
    "absorb": "kernels nnc.compiler.ir",
    "edge_rows": "kernels nnc.compiler.ir",
    "rounding": "edge_rows executor kernels nnc.compiler.ir",
    "verification": "device edge_rows executor kernels rounding nnc.compiler.ir nnc.compiler.plan",
    "export": "absorb device edge_rows kernels executor files machine rounding verification nnc.compiler.diagnostics nnc.compiler.ir nnc.compiler.onnx_export "
    "nnc.compiler.experiment nnc.compiler.interface nnc.compiler.program",
    "initial": "kernels files nnc.compiler.source nnc.compiler.diagnostics nnc.compiler.schema nnc.compiler.operation nnc.compiler.lower "
    "nnc.compiler.program",
    "parameters": "",
    "model": "divided kernels executor engine files export initial parameters solvers nnc.compiler.source nnc.compiler.diagnostics nnc.compiler.ir "
    "nnc.compiler.schema nnc.compiler.lower nnc.compiler.objective nnc.compiler.training nnc.compiler.serve nnc.compiler.pipeline",
    "ensemble": "kernels executor files export model nnc.compiler.ir nnc.compiler.training nnc.compiler.ensemble",
    "data.fit": "",
    "data.stored": "files",
    "data.decimals": "",
    "data.shortest": "",
    "data.texts": "data.decimals",
    "data.cells": "engine machine_code data.decimals",
    "data.growing": "",
    "data.delimited": "threads data.cells data.decimals data.growing data.texts nnc.compiler.diagnostics nnc.compiler.schema",
    "data.columnar": "nnc.compiler.diagnostics nnc.compiler.images nnc.compiler.parquet",
    "data.sources": "data.columnar data.delimited data.stored nnc.compiler.diagnostics nnc.compiler.images nnc.compiler.schema "
    "nnc.compiler.ops.sources",
    "data.augment": "kernels nnc.compiler.experiment nnc.compiler.objective",
    "data.balance": "kernels data.stored",
    "data.ahead": "machine threads data.augment data.stored nnc.compiler.experiment",
    "data.splits": "kernels nnc.compiler.diagnostics nnc.compiler.operation",
    "data.dataset": "kernels executor data.fit data.sources data.splits data.stored nnc.compiler.diagnostics nnc.compiler.ir nnc.compiler.schema "
    "nnc.compiler.experiment nnc.compiler.operation nnc.compiler.lower nnc.compiler.prepare nnc.compiler.pipeline",
    "data.row_files": "kernels data.columnar data.delimited nnc.compiler.diagnostics nnc.compiler.experiment nnc.compiler.images "
    "nnc.compiler.ops.sources nnc.compiler.parquet nnc.compiler.schema",
    "data.rows": "kernels model ensemble data.dataset data.row_files data.splits nnc.compiler.source nnc.compiler.diagnostics nnc.compiler.ir "
    "nnc.compiler.experiment nnc.compiler.prepare",
    "result_files": "files data.shortest nnc.compiler.diagnostics nnc.compiler.parquet",
    "predict": "kernels executor files model ensemble data.dataset data.rows result_files nnc.compiler.ir nnc.compiler.experiment",
    "deployed": "bundle data.dataset device files kernels model predict nnc.compiler.source nnc.compiler.ir nnc.compiler.lower nnc.compiler.pipeline",
    "metrics": "kernels executor model ensemble data.stored nnc.compiler.ir nnc.compiler.training",
    "members": "files kernels model ensemble data.dataset data.splits data.stored metrics nnc.compiler.experiment nnc.compiler.ensemble nnc.compiler.pipeline",
    "run": "files bundle initial machine model ensemble data.dataset data.stored nnc.compiler.watching nnc.compiler.program",
    "alone": "",
    "servers": "nnc.compiler.interface",
    "signature": "device edge_rows export kernels nnc.compiler.interface nnc.compiler.ir",
    "calibration": "kernels executor nnc.compiler.ir nnc.compiler.quantise",
    "quantisation": "calibration device edge_rows ensemble export kernels members metrics model verification data.dataset data.stored nnc.compiler.shown "
    "nnc.compiler.diagnostics nnc.compiler.ir nnc.compiler.passes nnc.compiler.quantise nnc.compiler.halve nnc.compiler.onnx_export "
    "nnc.compiler.operation nnc.compiler.ensemble",
    "deploy": "bundle ensemble export kernels machine model quantisation run servers signature data.dataset nnc.compiler.lower nnc.compiler.pipeline",
    "watch": "kernels executor model data.dataset nnc.compiler.watching",
    "baseline": "kernels model data.dataset data.stored metrics nnc.compiler.ir nnc.compiler.objective",
    "verdict": "model data.dataset metrics baseline nnc.compiler.operation nnc.compiler.objective",
    "start": "files model nnc.compiler.diagnostics nnc.compiler.schema",
    "onnx_steps": "device files kernels model threads nnc.compiler.ir nnc.compiler.onnx_export nnc.compiler.onnx_step nnc.compiler.onnx_training "
    "nnc.compiler.training",
    "steps": "divided engine executor kernels model onnx_steps threads",
    "train": "engine kernels machine_code files machine model ensemble data.dataset data.ahead data.balance metrics members run watch verdict start steps "
    "nnc.compiler.source nnc.compiler.diagnostics nnc.compiler.plan "
    "nnc.compiler.experiment nnc.compiler.lower nnc.compiler.training nnc.compiler.pipeline",
    "reproduce": "bundle data.dataset deploy engine ensemble files initial machine members model predict run threads train nnc.compiler.source "
    "nnc.compiler.diagnostics nnc.compiler.lower nnc.compiler.pipeline",
    "recorded": "files model run verdict nnc.compiler.program",
    "charts": "",
    "onnx_file": "files",
    "layered": "",
    "graph_picture": "charts layered onnx_file nnc.compiler.shown",
    "page": "charts",
    "report": "charts members page recorded verdict nnc.compiler.cost nnc.compiler.ir nnc.compiler.objective nnc.compiler.program nnc.compiler.shown",
    "build": "kernels engine export files machine model onnx_steps ensemble data.dataset members start nnc.compiler.plan nnc.compiler.pipeline",
    "warm": "build engine machine_code nnc.compiler.pipeline",
    "doctor": "device engine machine nnc.compiler.diagnostics",
}
TOP = {
    "nnc": "nnc.compiler.source nnc.compiler.diagnostics nnc.compiler.pipeline nnc.runtime.model nnc.runtime.ensemble nnc.runtime.data.dataset "
    "nnc.runtime.start nnc.runtime.train",
    "nnc.terminal": "nnc.compiler.diagnostics nnc.compiler.shown nnc.runtime.onnx_file nnc.runtime.train nnc.runtime.verdict",
    "nnc.commands": "nnc.terminal nnc.specs nnc.compiler.source nnc.compiler.codes nnc.compiler.diagnostics nnc.compiler.cost nnc.compiler.formatting "
    "nnc.compiler.lower nnc.compiler.shown nnc.compiler.pipeline nnc.runtime.files nnc.runtime.model nnc.runtime.ensemble nnc.runtime.members "
    "nnc.runtime.bundle nnc.runtime.data.dataset nnc.runtime.data.rows nnc.runtime.predict nnc.runtime.deployed nnc.runtime.reproduce "
    "nnc.runtime.metrics nnc.runtime.run nnc.runtime.deploy nnc.runtime.train nnc.runtime.build nnc.runtime.recorded nnc.runtime.report "
    "nnc.runtime.onnx_file nnc.runtime.graph_picture "
    "nnc.runtime.doctor nnc.runtime.engine nnc.runtime.machine_code nnc.runtime.warm",
    "nnc.cli": "nnc.commands nnc.compiler.source nnc.compiler.diagnostics nnc.compiler.shown",
    "nnc.__main__": "nnc.cli",
}

# Libraries that only some modules import; numpy is free to the runtime.
ONLY_IN = {
    "lark": {"nnc.compiler.parse", "nnc.compiler.build", "nnc.compiler.tokens"},
    "onnx": {"nnc.compiler.onnx_export", "nnc.runtime.onnx_file"},
    "onnxruntime": {"nnc.runtime.alone", "nnc.runtime.verification", "nnc.runtime.device", "nnc.runtime.engine", "nnc.runtime.onnx_steps"},
    "safetensors": {"nnc.runtime.files"},
    "threadpoolctl": {"nnc.runtime.threads"},
    "pyarrow": {"nnc.compiler.parquet"},
    "PIL": {"nnc.compiler.images"},
    "numba": {"nnc.runtime.machine_code", "nnc.runtime.vector_math"},
    "llvmlite": {f"nnc.runtime.{name}" for name in ("machine_code", "blas", "addresses", "compiled_csv", "vectors", "tiles", "masks", "transforms")},
}
THIRD_PARTY = {"lark", "onnx", "onnxruntime", "safetensors", "pydantic", "numpy", "threadpoolctl", "pyarrow", "PIL", "numba", "llvmlite"}


def table() -> dict[str, set[str]]:
    """The rows above with full names, in their order."""

    def full(package: str, row: str) -> set[str]:
        return {name if name.startswith("nnc.") else f"{package}.{name}" for name in row.split()}

    rows = {package: set() for package in ("nnc.grammar", "nnc.specs", "nnc.compiler", "nnc.runtime", "nnc.runtime.data")}
    rows |= {f"nnc.compiler.{name}": full("nnc.compiler", row) for name, row in COMPILER.items()}
    rows |= {f"nnc.runtime.{name}": full("nnc.runtime", row) for name, row in RUNTIME.items()}
    return rows | {name: full("nnc", row) for name, row in TOP.items()}


def modules() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(p for p in parts if p != "__init__")])] = path
    return found


MODULES = modules()
ROWS = table()


def imports(name: str) -> Iterator[tuple[str, bool]]:
    """What a module imports, functions and type checking included, and whether it does so when it is loaded."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {inner for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
    late |= {inner for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES or inner in ROWS else base, node not in late


def test_every_module_has_a_row_and_every_row_a_module() -> None:
    assert set(ROWS) - set(MODULES) == {"nnc.grammar", "nnc.specs"}
    assert set(MODULES) - set(ROWS) == set()


def test_rows_go_downward() -> None:
    seen: set[str] = set()
    for name, allowed in ROWS.items():
        assert allowed <= seen, f"{name} looks up at {allowed - seen}"
        seen.add(name)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_what_its_row_says(name: str) -> None:
    found = {target for target, _ in imports(name) if target.partition(".")[0] == "nnc"} - {name}
    assert found - ROWS[name] == set(), "imported, and not in the row"
    assert ROWS[name] - found == set(), "in the row, and not imported"


@pytest.mark.parametrize("name", MODULES)
def test_libraries_are_imported_where_they_belong(name: str) -> None:
    for target, at_load in imports(name):
        library = target.partition(".")[0]
        if library in ONLY_IN:
            assert name in ONLY_IN[library], f"{name} imports {library}"
        if name.startswith("nnc.compiler"):
            assert library != "numpy", "the compiler checks without arrays"
            assert not target.startswith("nnc.runtime")
        if not name.startswith(("nnc.compiler", "nnc.runtime")):
            assert library not in THIRD_PARTY, f"{name} is thin"
            assert not (at_load and target.startswith("nnc.runtime")), "`nnc check` starts without the runtime"


def test_a_check_loads_no_library_for_arrays() -> None:
    """Of itself or of what it stands on: a start has no time for any of them."""
    code = "import sys; from nnc.cli import main; main(['check', sys.argv[1]]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code, str(ROOT / "specs" / "digits.nn")], capture_output=True, text=True, timeout=60, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert loaded & THIRD_PARTY == {"lark", "pydantic"}
    assert not loaded & {"scipy", "asyncio", "multiprocessing"}


def test_every_library_of_the_table_is_imported_somewhere() -> None:
    used = {(target.partition(".")[0], name) for name in MODULES for target, _ in imports(name)}
    assert {(library, name) for library, places in ONLY_IN.items() for name in places} <= used


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_short_and_says_what_it_is(name: str) -> None:
    text = MODULES[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert ast.get_docstring(ast.parse(text))


# What a wheel holds

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def folder_of(package: str) -> Path:
    """The folder of a package, by the nearest entry of package-dir."""
    known, rest = package, []
    while known not in SETTINGS["package-dir"]:
        known, _, last = known.rpartition(".")
        rest.insert(0, last)
    return ROOT.joinpath(SETTINGS["package-dir"][known], *rest)


def test_the_list_of_packages_is_the_tree() -> None:
    listed = {folder_of(package) for package in SETTINGS["packages"]}
    assert len(listed) == len(SETTINGS["packages"])
    top = [ROOT / folder for folder in ("nnc", "compiler", "runtime", "grammar", "specs")]
    assert listed == {path.parent for folder in top for path in folder.rglob("__init__.py")}
    for folder in top:
        assert {path.parent for path in folder.rglob("*.py")} <= listed, "a folder of modules without __init__.py"


def test_package_data_is_there_and_whole() -> None:
    for package, patterns in SETTINGS["package-data"].items():
        for pattern in patterns:
            assert list(folder_of(package).glob(pattern)), f"{package} has no {pattern}"
    for package in SETTINGS["packages"]:
        folder = folder_of(package)
        shipped = {path for pattern in SETTINGS["package-data"].get(package, []) for path in folder.glob(pattern)}
        others = {path for path in folder.iterdir() if path.is_file() and path.suffix not in (".py", ".pyc") and not path.name.startswith(".")}
        assert others == shipped, f"{package}: files that a wheel would lack"
