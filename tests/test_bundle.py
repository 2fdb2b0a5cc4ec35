"""The deployment bundle: written whole or not at all, refused where a byte of it is not as it was written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import TINY, nnc, refused, write

from nnc.compiler.diagnostics import SpecError
from nnc.runtime import files
from nnc.runtime.bundle import open_bundle


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    assert nnc("run", write(folder / "tiny.nn", TINY), "-o", folder / "run").status == 0
    return folder / "run"


@pytest.fixture
def dist(trained: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be damaged."""
    return Path(shutil.copytree(trained / "export", tmp_path / "dist"))


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal(path: Path) -> tuple[str, str]:
    with pytest.raises(SpecError) as raised:
        open_bundle(path)
    (found,) = raised.value.diagnostics
    return found.code, found.label


# Reading


def test_the_manifest_says_what_the_model_was_made_of(trained: Path) -> None:
    bundle, run = open_bundle(trained / "export"), json.loads((trained / "manifest.json").read_text())
    there = content(trained / "export")
    assert {name: entry["sha256"] for name, entry in bundle.manifest["files"].items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in there.items() if name != "manifest.json"
    }
    assert bundle.model == there["model.onnx"]
    assert bundle.spec == TINY
    assert bundle.verification["passed"]
    assert bundle.signature["inputs"][0]["name"] == "x"
    for key in ("split", "seed", "constants", "members", "environment"):
        assert bundle.manifest[key] == run[key]
    assert bundle.manifest["spec"] == {"name": "tiny.nn", "sha256": hashlib.sha256(TINY.encode()).hexdigest()}
    assert bundle.manifest["data"] == {"sha256": run["data"]["sha256"], "rows": {"train": 6, "validation": 2}}
    assert bundle.manifest["figures"] == json.loads((trained / "figures.json").read_text())
    assert bundle.manifest["parameters"]["count"] == sum(run["parameters"].values())
    assert str(trained.parent) not in (trained / "export/manifest.json").read_text(), "no path of this machine leaves it"


def test_equal_weights_have_equal_digests(trained: Path, tmp_path: Path) -> None:
    spec = write(tmp_path / "tiny.nn", TINY)
    found = []
    for changed in ("", "seed = 7"):
        write(spec, TINY.replace("epochs = 2", f"epochs = 2 {changed}"))
        assert nnc("run", spec, "-o", tmp_path / f"run{changed}").status == 0
        found.append(open_bundle(tmp_path / f"run{changed}" / "export").manifest)
    known = open_bundle(trained / "export").manifest
    assert found[0]["parameters"] == known["parameters"] != found[1]["parameters"]
    assert found[0]["split"] == known["split"]
    assert found[0]["files"]["model.onnx"]["sha256"] != found[1]["files"]["model.onnx"]["sha256"]
    assert found[0]["seed"] == 0 != found[1]["seed"]


def test_every_file_that_is_changed_cut_or_gone_is_named(dist: Path) -> None:
    for name, data in content(dist).items():
        path = dist / name
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        path.write_bytes(flipped)
        code, label = refusal(dist)
        assert code == "E703"
        assert label == (f"{name} was changed" if name != "manifest.json" else "manifest.json is not as nnc wrote it")
        path.write_bytes(data[:-1])
        code, label = refusal(dist)
        assert code == "E703"
        assert label == (f"{name} was cut short: {len(data) - 1:,} of {len(data):,} bytes" if name != "manifest.json" else label)
        path.unlink()
        assert refusal(dist)[0] == ("E703" if name != "manifest.json" else "E401")
        path.mkdir()
        assert refusal(dist)[0] == ("E703" if name != "manifest.json" else "E401")
        path.rmdir()
        path.write_bytes(data)
    assert open_bundle(dist).model


def test_files_that_changed_places_are_named(dist: Path) -> None:
    kept = content(dist)
    (dist / "spec.nn").write_bytes(kept["signature.json"])
    assert refusal(dist) == ("E703", "spec.nn holds what belongs to signature.json")


def test_every_byte_of_the_manifest_counts(dist: Path) -> None:
    data = (dist / "manifest.json").read_bytes()
    for place in range(0, len(data), 17):
        changed = bytearray(data)
        changed[place] ^= 4
        (dist / "manifest.json").write_bytes(changed)
        assert refusal(dist)[0] == "E703", place


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside", "manifest.json"])
def test_a_manifest_cannot_reach_outside(name: str, dist: Path) -> None:
    """Also not one whose digest fits."""
    (dist.parent / "outside").write_text("x")
    made = json.loads((dist / "manifest.json").read_text())
    made["files"][name] = {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
    made["sha256"] = "0" * 64
    made["sha256"] = hashlib.sha256((json.dumps(made, indent=2) + "\n").encode()).hexdigest()
    (dist / "manifest.json").write_text(json.dumps(made, indent=2) + "\n")
    assert refusal(dist) == ("E703", "manifest.json is not as nnc wrote it")


def test_what_is_no_bundle(trained: Path, tmp_path: Path) -> None:
    assert refusal(tmp_path)[0] == "E401"
    assert refusal(tmp_path / "none")[0] == "E401"
    assert refusal(trained) == ("E703", "manifest.json is not as nnc wrote it")


# Writing


def test_a_bundle_is_replaced_and_nothing_else(trained: Path, dist: Path) -> None:
    kept = content(dist)
    assert nnc("export", trained, "-o", dist).status == 0
    assert content(dist) == kept, "the same run gives the same bytes"
    (dist / "notes.txt").write_text("mine")
    refused(nnc("export", trained, "-o", dist), "E704", "notes.txt is not part of the bundle")
    assert content(dist) == kept | {"notes.txt": b"mine"}
    (dist / "notes.txt").unlink()
    (dist / "signature.json").write_text("edited by hand")
    refused(nnc("export", trained, "-o", dist), "E704", "signature.json was cut short", "would be lost")
    (dist / "signature.json").unlink()
    assert nnc("export", trained, "-o", dist).status == 0, "there is nothing to lose"
    assert content(dist) == kept


@pytest.mark.parametrize("name", ["manifest.json", "notes.txt"])
def test_a_place_that_is_taken_is_left_alone(name: str, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('{"name": "mine"}')
    refused(nnc("export", trained, "-o", tmp_path / "out"), "E704", "no bundle")
    refused(nnc("export", trained, "-o", tmp_path / "out" / name), "E704", "a file")
    refused(nnc("export", trained, "-o", trained), "E704")
    assert content(tmp_path / "out") == {name: b'{"name": "mine"}'}


def test_an_empty_directory_and_a_link_are_places(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert nnc("export", trained, "-o", tmp_path / "link").status == 0
    assert (tmp_path / "link").is_symlink()
    assert open_bundle(tmp_path / "real").model


CALLS = ("mkdir", "open", "write", "fsync", "rename", "close")


def failing(call: str, at: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Let the system refuse a call the `at`-th time; whether it came to that."""
    right, count = getattr(os, call), [0]

    def wrong(*arguments: Any, **more: Any) -> Any:
        count[0] += 1
        if count[0] == at:
            if call == "close":
                right(*arguments, **more)
            raise OSError(errno.ENOSPC, "No space left on device")
        return right(*arguments, **more)

    monkeypatch.setattr(os, call, wrong)
    return lambda: count[0] >= at


@pytest.mark.parametrize("exchanging", [True, False])
@pytest.mark.parametrize("call", CALLS)
def test_whatever_fails_the_old_bundle_is_whole(call: str, exchanging: bool, tmp_path: Path) -> None:
    """Every call of the system fails in turn, until the writing succeeds; where two directories cannot be exchanged as well."""
    old, new = {"a": b"old", "b/c/d": b"x"}, {"a": b"new", "b/d": b"y", "e": b"z"}
    for there in (old, {}):
        for at in range(1, 100):
            folder = tmp_path / f"{bool(there)}{at}"
            folder.mkdir()
            if there:
                files.write_directory(folder / "dist", there)
            with pytest.MonkeyPatch.context() as patch:
                if not exchanging:
                    patch.setattr(files, "_exchanged", lambda a, b: False)
                came = failing(call, at, patch)
                codes = []
                try:
                    files.write_directory(folder / "dist", new)
                except SpecError as error:
                    codes = [d.code for d in error.diagnostics]
            assert codes in ([], ["E701"])
            found = content(folder / "dist") if (folder / "dist").exists() else {}
            assert found == new if not codes else found in (there, new), "the last syncs come after the new name"
            rest = [p for p in folder.iterdir() if p.name != "dist"]
            assert all(p.match(files.TEMPORARY) for p in rest)
            assert not rest or call in ("open", "close"), "removing what is no longer wanted may fail as well"
            if not came():
                assert not codes
                break
        else:
            raise AssertionError("it never succeeded")


def test_the_export_in_a_run_belongs_to_its_model(tmp_path: Path) -> None:
    """A new training removes it; changed files in it stop the training before it begins."""
    spec, run = write(tmp_path / "tiny.nn", TINY), tmp_path / "run"
    assert nnc("run", spec, "-o", run).status == 0
    (run / "export" / "notes.txt").write_text("mine")
    refused(nnc("train", spec, "-o", run), "E704", "notes.txt")
    (run / "export" / "notes.txt").unlink()
    assert nnc("train", spec, "-o", run).status == 0
    assert not (run / "export").exists()
