"""`nnc reproduce`: a training made again from its manifest gives the same bytes, and where it does not, why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import DIGITS, TINY, Said, leftovers, nnc, outcome, refused, write
from test_commands import PEOPLE, people

from nnc.runtime import machine, threads
from nnc.runtime.bundle import MANIFEST
from nnc.runtime.files import read_arrays, write_arrays


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A run of PEOPLE with its bundle, and its data beside it."""
    write(tmp_path / "people.csv", people())
    said = nnc("run", write(tmp_path / "people.nn", PEOPLE), "-o", tmp_path / "run", "--set", "width=5")
    assert said.status == 1  # no such constant
    spec = PEOPLE.replace("dense(4)", "dense(width)").replace("\nnetwork", "let width = 4\nnetwork")
    said = nnc("run", write(tmp_path / "people.nn", spec), "-o", tmp_path / "run", "--set", "width=5")
    assert said.status == 0, said.err
    return tmp_path


def found(said: Said) -> dict[str, tuple[bool, str]]:
    """By what was compared, whether it was equal and what was told."""
    return {line[2:31].strip(): (line[0] == " ", line[32:]) for line in said.out.splitlines() if line[0] in " !"}


def test_a_run_is_reproduced_bit_for_bit(made: Path, tmp_path: Path) -> None:
    """Also where the spec has gone or changed since: what was trained lies in the run."""
    (made / "people.nn").unlink()
    said = nnc("reproduce", made / "run" / MANIFEST, "-o", tmp_path / "again")
    assert said.status == 0, said.err + said.out
    assert said.out.endswith("\nreproduced: the same bytes\n")
    told = found(said)
    assert [*told] == ["data", "split", "environment", "weights", "predictions of rich", "predictions of income", "predictions of age"]
    assert all(equal for equal, _ in told.values())
    assert outcome(tmp_path / "again") == outcome(made / "run")


def test_a_bundle_is_reproduced_byte_for_byte(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a copy far from the run, with the data wherever it is now."""
    shutil.copytree(made / "run" / "export", made / "elsewhere" / "dist")
    shutil.rmtree(made / "run")
    before = sorted(made.rglob("*"))
    said = nnc("reproduce", made / "elsewhere" / "dist", "--data-root", made)
    assert said.status == 0, said.err + said.out
    assert found(said)["people.onnx"][0]
    assert sorted(made.rglob("*")) == before, "nothing is left behind"
    assert leftovers(made) == []
    monkeypatch.chdir(made / "elsewhere")
    refused(nnc("reproduce", "dist/manifest.json"), "E401", "people.csv")


def test_an_ensemble_and_early_stopping(tmp_path: Path) -> None:
    spec = write(tmp_path / "digits.nn", DIGITS.replace("batch     = 32", "batch = 32 ensemble = bagging(2)"))
    assert nnc("run", spec, "-o", tmp_path / "run", "--set", "epochs=2").status == 0
    for manifest in ("run", "run/export"):
        said = nnc("reproduce", tmp_path / manifest / MANIFEST)
        assert said.status == 0, said.err + said.out


def test_another_opset(tmp_path: Path) -> None:
    assert nnc("train", write(tmp_path / "tiny.nn", TINY), "-o", tmp_path / "run").status == 0
    assert nnc("export", tmp_path / "run", "-o", tmp_path / "dist", "--opset", "15").status == 0
    assert nnc("reproduce", tmp_path / "dist").status == 0


def test_a_file_of_any_name(tmp_path: Path) -> None:
    """Also one that stands behind its copies in the alphabet."""
    assert nnc("run", write(tmp_path / "tiny.nn", TINY + 'export { file = "wine.onnx" }'), "-o", tmp_path / "run").status == 0
    assert found(nnc("reproduce", tmp_path / "run/export"))["wine.onnx"][0]


# What differs


def test_data_that_changed_ends_it(made: Path, tmp_path: Path) -> None:
    write(made / "people.csv", people(seed=1))
    said = nnc("reproduce", made / "run", "-o", tmp_path / "again")
    assert said.status == 1
    assert said.out.endswith("not reproduced\n")
    told = found(said)
    assert not told["data"][0]
    assert "recorded is" in told["data"][1]
    assert "weights" not in told
    assert not (tmp_path / "again").exists(), "nothing was trained"


def test_weights_that_a_training_starts_from(tmp_path: Path) -> None:
    assert nnc("train", write(tmp_path / "tiny.nn", TINY), "-o", tmp_path / "first").status == 0
    shutil.copy(tmp_path / "first" / "last.safetensors", tmp_path / "w.safetensors")
    spec = write(tmp_path / "second.nn", TINY.replace("train {", 'train {\n start = weights("w.safetensors")'))
    assert nnc("train", spec, "-o", tmp_path / "run").status == 0
    assert found(nnc("reproduce", tmp_path / "run"))["w.safetensors"][0]
    arrays, about = read_arrays(tmp_path / "w.safetensors")
    write_arrays(tmp_path / "w.safetensors", arrays, about | {"more": 1})
    said = nnc("reproduce", tmp_path / "run")
    assert said.status == 1
    assert not found(said)["w.safetensors"][0]


def test_weights_that_differ_are_named_and_measured(made: Path) -> None:
    """A single weight that is not what training made it."""
    path = made / "run" / "last.safetensors"
    arrays, about = read_arrays(path)
    name = next(n for n in arrays if n.endswith("dense/bias"))
    arrays[name].reshape(-1)[0] += np.float32(0.25)
    write_arrays(path, arrays, about)
    said = nnc("reproduce", made / "run")
    assert said.status == 1
    told = found(said)
    assert not told["weights"][0]
    assert "1 of" in told["weights"][1]
    assert "by at most 2.5e-01" in told["weights"][1]
    assert name in told["weights"][1]
    assert "kept rows" in told["predictions of rich"][1]


def test_versions_and_machines_that_differ_are_told(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not decide: the bytes do."""
    real = machine.platform.machine

    monkeypatch.setattr(machine.platform, "machine", lambda: "another")
    said = nnc("reproduce", made / "run")
    assert said.status == 0, said.err
    assert found(said)["machine"] == (False, f"another here, recorded is {real()}")
    assert "weights" in found(said)


def edited(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | changes))


def test_the_recorded_engine_and_threads_are_taken(made: Path) -> None:
    """Where this machine has them; else what it took is told."""
    content = json.loads((made / "run" / MANIFEST).read_text())["environment"]
    if not content["blas"]:
        pytest.skip("the BLAS does not tell its threads")
    here = machine.blas()["threads"]
    edited(made / "run", environment=content | {"blas": content["blas"] | {"threads": 2 if here != 2 else 1}})
    told = found(nnc("reproduce", made / "run"))
    assert "blas threads" not in told
    assert machine.blas()["threads"] == here, "and given back"
    assert threads.workers() == here
    edited(made / "run", environment=content | {"engine": "steam, 1.0 on coal"})
    told = found(nnc("reproduce", made / "run"))
    assert told["engine"] == (False, "numpy here, recorded is steam, 1.0 on coal")


# What cannot be repeated


def test_manifests_that_are_none(made: Path, tmp_path: Path) -> None:
    refused(nnc("reproduce", tmp_path / "none" / MANIFEST), "E401")
    refused(nnc("reproduce", made / "run" / "spec.nn"), "E613", "not called manifest.json")
    other = tmp_path / "other"
    other.mkdir()
    for text in ("{}", "[1, 2]", "no json", "\x00", '{"name": "app", "version": "1"}', "[" * 100_000, '{"spec": {"sha256": 1}}'):
        refused(nnc("reproduce", write(other / MANIFEST, text)), "E702")
    refused(nnc("reproduce", write(other / MANIFEST, '{"format": 1, "files": {}, "model": "m"}')), "E703")
    assert nnc("build", write(tmp_path / "tiny.nn", TINY), "-o", tmp_path).status == 0
    refused(nnc("reproduce", tmp_path / "tiny" / MANIFEST), "E702")


def test_runs_that_are_not_whole(made: Path, tmp_path: Path) -> None:
    run = made / "run"
    refused(nnc("reproduce", run, "-o", run), "E704", "what is to be reproduced")
    (made / "people.csv").rename(made / "gone.csv")
    refused(nnc("reproduce", run), "E401", "people.csv")
    (made / "gone.csv").rename(made / "people.csv")
    for change in ({"split": None}, {"constants": 3}, {"environment": "x"}, {"spec": json.loads((run / MANIFEST).read_text())["spec"] | {"name": 1}}):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        shutil.copytree(run, tmp_path / "other")
        edited(tmp_path / "other", **change)
        refused(nnc("reproduce", tmp_path / "other"), "E613", "does not record all")
    (run / "figures.json").rename(run / "kept")
    refused(nnc("reproduce", run), "E613", "has not ended")
    (run / "kept").rename(run / "figures.json")
    write(run / "spec.nn", (run / "spec.nn").read_text() + "\n")
    refused(nnc("reproduce", run), "E702", "not the spec that was trained")
    (run / "spec.nn").unlink()
    refused(nnc("reproduce", run), "E401", "spec.nn")
