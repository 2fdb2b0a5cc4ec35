"""A bundle runs where only numpy and onnxruntime are; bare.py does it for any number of networks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bare import Case, environment, isolated, of_random_network, of_spec, of_table, tried
from test_specs import DATA

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("bare"))


def test_nothing_else_can_be_imported(bare: Path) -> None:
    for name in ("nnc", "onnx", "pydantic", "google.protobuf", "safetensors"):
        found = isolated(bare, f"import sys; sys.path.append(sys.argv[1]); import numpy, onnxruntime; import {name}")
        assert f"No module named '{name.partition('.')[0]}'" in found.stderr


def test_bundles_give_what_the_runtime_gives(bare: Path, tmp_path: Path) -> None:
    """Random networks, tables of numbers and categories with missing and unseen values, and two programs of specs/ from their raw columns on."""
    made: list[Case] = []
    for name, make in [*((str(s), of_random_network) for s in range(500, 506)), *((f"t{s}", of_table) for s in range(500, 506))]:
        folder = tmp_path / name
        folder.mkdir()
        made.append(make(int(name.lstrip("t")), folder))
    for name in ("digits", "and_gate"):
        (tmp_path / name).mkdir()
        made.append(of_spec(name, tmp_path / name, None))
    found = tried(made, bare)
    assert [compared.wrong for compared in found] == [""] * len(made)
    assert sum(compared.compared for compared in found) > 10_000
    assert sum(compared.undecided for compared in found) < 100
    raw = [array for case in made for array in case.raw.values()]
    assert any(array.dtype == object for array in raw)
    assert any((array != array).any() for array in raw if array.dtype.kind == "f"), "missing numbers"


def test_a_wrong_file_is_noticed(bare: Path, tmp_path: Path) -> None:
    """The weights of another network in the bundle, or an example that is not its own."""
    cases = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        cases.append(of_table(3, tmp_path / str(seed)))
    cases[1].model.parameters["pay/dense/bias"][...] += 1e-2
    tried(cases, bare)
    (tmp_path / "1" / "found.npz").write_bytes((tmp_path / "2" / "found.npz").read_bytes())
    assert "differ, by" in cases[0].compare().wrong
    (tmp_path / "2" / "said.txt").write_text((tmp_path / "1" / "said.txt").read_text())
    assert "predict.py says" in cases[1].compare().wrong


@pytest.mark.slow
def test_two_hundred_networks_and_every_program_of_specs() -> None:
    root = ["--data-root", str(DATA)] if DATA.is_dir() else []
    done = subprocess.run([sys.executable, HERE / "bare.py", "200", *root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
