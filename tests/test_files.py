"""Files are whole or not there, and what was changed by anyone else is noticed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import random
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from runs import TINY, digest, leftovers, nnc, outcome, refused, write

import nnc as api
from nnc.compiler.diagnostics import SpecError
from nnc.runtime.files import read_arrays, replacing, write_arrays, write_bytes

CALLS = ("open", "write", "fsync", "replace", "mkdir")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the smallest training."""
    folder = tmp_path_factory.mktemp("tiny")
    said = nnc("train", write(folder / "tiny.nn", TINY), "-o", folder / "run")
    assert said.status == 0, said.err
    return folder / "run"


# A system that fails


class Failing:
    """The k-th call of a function of `os` fails, as on a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, k: int):
        self.left, self.happened = k, False
        self.real: Callable[..., Any] = getattr(os, name)
        monkeypatch.setattr(os, name, self.call)

    def call(self, *given: Any, **named: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            self.happened = True
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.real(*given, **named)


def failing_in_turn(name: str, act: Callable[[], Any]) -> Iterator[Any]:
    """What `act` says when the first call fails, the second, ... until nothing fails."""
    for k in range(1, 200):
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, name, k)
            said = act()
        if not failing.happened:
            assert said.status == 0, said.err
            return
        yield said
    raise AssertionError("it never succeeds")


@pytest.mark.parametrize("name", CALLS)
def test_every_failing_call_of_a_training(name: str, tmp_path: Path, tiny: Path) -> None:
    """One diagnostic, nothing half-written, and the run goes on or was never begun."""
    spec = write(tmp_path / "tiny.nn", TINY)
    run = tmp_path / "runs" / "tiny"
    expected, failures = outcome(tiny), 0

    def act() -> Any:
        begun = (run / "last.safetensors").is_file()
        return nnc("train", spec, "-o", run, *(["--resume"] if begun else []))

    for said in failing_in_turn(name, act):
        failures += 1
        refused(said, "E701", "No space left on device", status=3)
        assert_whole(tmp_path)
        said = act()
        assert said.status == 0, said.err
        assert outcome(run) == expected
        for path in [*run.iterdir(), run, run.parent]:
            path.rmdir() if path.is_dir() else path.unlink()
    assert failures >= {"mkdir": 2}.get(name, 10)
    assert_whole(tmp_path)
    assert outcome(run) == expected


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_failures_that_follow_each_other(name: str, tmp_path: Path, tiny: Path) -> None:
    """Every attempt fails a few calls later than the one before; no attempt loses what was reached."""
    spec, run = write(tmp_path / "tiny.nn", TINY), tmp_path / "run"

    def act() -> Any:
        return nnc("train", spec, "-o", run, *(["--resume"] if (run / "last.safetensors").is_file() else []))

    for said in failing_in_turn(name, act):
        refused(said, "E701", status=3)
        assert_whole(tmp_path)
    assert outcome(run) == outcome(tiny)


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace", "unlink"])
def test_every_failing_call_over_an_earlier_run(name: str, tmp_path: Path, tiny: Path) -> None:
    """A training that replaces a run and fails leaves no mixture of the two."""
    first, spec = write(tmp_path / "first.nn", TINY.replace("epochs = 2", "epochs = 3")), write(tmp_path / "tiny.nn", TINY)
    run = tmp_path / "run"
    assert nnc("train", first, "-o", run).status == 0
    earlier = outcome(run)
    for said in failing_in_turn(name, lambda: nnc("train", spec, "-o", run)):
        refused(said, "E701", status=3)
        assert_whole(tmp_path)
        if not (run / "last.safetensors").is_file():
            continue
        if read_arrays(run / "last.safetensors")[1]["spec"] == TINY:
            assert nnc("train", spec, "-o", run, "--resume").status == 0
            assert outcome(run) == outcome(tiny)
        else:
            assert outcome(run) == earlier  # it failed before it touched anything
    for said in failing_in_turn(name, lambda: nnc("train", first, "-o", run)):
        refused(said, "E701", status=3)
        assert nnc("train", spec, "-o", run).status == 0, "what is left is still known as nnc's own"


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("target", ["out.csv", "out.npz", "out.parquet"])
def test_every_failing_call_of_a_prediction(name: str, target: str, tmp_path: Path, tiny: Path) -> None:
    rows, out = write(tmp_path / "rows.csv", "x\n1\n2\n"), tmp_path / target
    out.write_bytes(b"what was there")
    for said in failing_in_turn(name, lambda: nnc("predict", tiny, rows, "-o", out)):
        refused(said, "E701", target, status=3)
        assert leftovers(tmp_path) == []
        replaced = name == "fsync" and out.read_bytes() != b"what was there"  # the directory's fsync comes after the rename
        assert replaced or name == "open" or out.read_bytes() == b"what was there"
    assert out.read_bytes() != b"what was there"


def assert_whole(folder: Path) -> None:
    """Every file can be read to its end, and none is left over."""
    assert leftovers(folder) == []
    for path in folder.rglob("*"):
        if path.suffix == ".safetensors":
            read_arrays(path)
        elif path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.suffix == ".jsonl":
            assert all(json.loads(line) for line in path.read_text("utf-8").splitlines())


def test_an_interruption_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_bytes(path, b"old")

    def interrupted() -> None:
        with replacing(path) as put:
            put(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data[:3])))
    write_bytes(tmp_path / "f", b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"


def test_the_order_of_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is on disk before the name, and the name before anyone goes on."""
    done: list[str] = []
    for name in ("write", "fsync", "replace"):
        real = getattr(os, name)

        def call(*given: Any, name: str = name, real: Callable[..., Any] = real) -> Any:
            kind = "directory" if name == "fsync" and stat.S_ISDIR(os.fstat(given[0]).st_mode) else name
            done.append(kind)
            return real(*given)

        monkeypatch.setattr(os, name, call)
    write_bytes(tmp_path / "f", b"x")
    assert done == ["write", "fsync", "replace", "directory"]


def test_permissions_are_the_users(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_bytes(tmp_path / "private", b"")
    finally:
        os.umask(before)
    write_bytes(tmp_path / "common", b"")
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "common").stat().st_mode) == 0o666 & ~before


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


# Files that are not as they were written


@pytest.fixture
def small(tmp_path: Path) -> Path:
    model = api.compile(TINY).init()
    model.step({"x": np.zeros((2, 1)), "t": np.ones((2, 1))})
    model.save(tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_every_flipped_byte_is_noticed(small: Path) -> None:
    data = bytearray(small.read_bytes())
    chosen = random.Random(1)
    for position in range(len(data)):
        flip = chosen.randrange(1, 256)
        data[position] ^= flip
        small.write_bytes(data)
        with pytest.raises(SpecError) as refusal:
            read_arrays(small)
        assert [d.code for d in refusal.value.diagnostics] == ["E702"], position
        data[position] ^= flip
    small.write_bytes(data)
    api.load(small)


def test_every_truncation_is_noticed(small: Path) -> None:
    data = small.read_bytes()
    for length in (*range(64), *range(64, len(data), 97), len(data) - 1):
        small.write_bytes(data[:length])
        with pytest.raises(SpecError, match="E702"):
            api.load(small)
    small.write_bytes(data + b"\0")
    with pytest.raises(SpecError, match="E702"):
        api.load(small)


class Mark:
    """Unpickled, it would make a directory."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("content", ["foreign", "pickle", "header", "nested", "list", "names"])
def test_foreign_files_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    match content:
        case "foreign":
            path.write_bytes(safetensors.numpy.save({"a": np.zeros(3)}))
        case "pickle":
            path.write_bytes(pickle.dumps(Mark(tmp_path / "executed")))
        case "header":
            path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
        case "nested":
            path.write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000)
        case "list":
            path.write_bytes(struct.pack("<Q", 4) + b"[1] ")
        case "names":
            path.write_bytes(safetensors.numpy.save({"a": np.zeros(3)}, {"nnc": "[]"}))
    with pytest.raises(SpecError, match="E702"):
        api.load(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("change", ["format", "spec", "overrides", "seed", "samples", "step", "schema", "classes", "name"])
def test_a_right_checksum_does_not_make_content_right(change: str, small: Path) -> None:
    """What nobody but a forger writes gets a diagnostic too."""
    arrays, about = read_arrays(small)
    for value in ("?", 7, None, [], {"x": {"y": 1}}):
        if (change, value) in (("seed", 7), ("samples", 7), ("samples", None), ("step", 7), ("name", 7), ("name", "?"), ("schema", None)):
            continue
        if change in ("name", "overrides", "classes") and not value:
            continue
        write_arrays(small, arrays, about | {change: value})
        try:
            api.load(small)
        except SpecError:
            continue
        assert change in ("name", "classes"), value
    write_arrays(small, arrays, {k: v for k, v in about.items() if k != change})
    with pytest.raises(SpecError, match="E702"):
        api.load(small)


@pytest.mark.parametrize("broken", ["missing", "shape", "dtype", "learned"])
def test_arrays_of_another_program(broken: str, small: Path) -> None:
    arrays, about = read_arrays(small)
    name = "data/x/standardize/mean" if broken == "learned" else "y/dense/weight"
    array = arrays.pop(name)
    if broken == "shape":
        arrays[name] = array[:, :1]
    elif broken == "dtype":
        arrays[name] = array.astype(np.float64)
    write_arrays(small, arrays, about)
    with pytest.raises(SpecError, match="E702"):
        api.load(small)


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    """Also those that are no blocks of memory, without elements, or without axes."""
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {"transposed": base.T, "strided": base[:, ::2, ::-1], "empty": np.zeros((0, 3)), "scalar": np.array(3.0), "integers": np.arange(3)}
    write_arrays(tmp_path / "a.safetensors", arrays, {"about": "0" * 64})
    found, about = read_arrays(tmp_path / "a.safetensors")
    assert about == {"about": "0" * 64}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape


def test_the_checksum_is_of_the_whole_file(tmp_path: Path) -> None:
    """As the format's description says, so that another program can check it: SHA-256 with the digest's place filled by zeros."""
    write_arrays(tmp_path / "a.safetensors", {"a": np.arange(3.0)}, {})
    data = (tmp_path / "a.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    known = json.loads(header["__metadata__"]["nnc"])["sha256"]
    assert hashlib.sha256(data.replace(known.encode(), b"0" * 64)).hexdigest() == known
    assert digest(safetensors.numpy.load(data)) == digest({"a": np.arange(3.0)})


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors", "manifest.json", "rows.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "gone", "directory"])
def test_a_damaged_run(name: str, damage: str, tiny: Path, tmp_path: Path) -> None:
    """eval, predict, export and --resume notice; what a command does not read may be damaged."""
    run = tmp_path / "run"
    run.mkdir()
    for path in tiny.iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    data = bytearray((run / name).read_bytes())
    (run / name).unlink()
    match damage:
        case "truncated":
            (run / name).write_bytes(data[: len(data) // 2])
        case "flipped":
            data[len(data) // 2] ^= 0x40
            (run / name).write_bytes(data)
        case "empty":
            (run / name).write_bytes(b"")
        case "directory":
            (run / name).mkdir()
    rows, spec = write(tmp_path / "rows.csv", "x\n1\n"), write(tmp_path / "tiny.nn", TINY)
    for said in (
        nnc("eval", run),
        nnc("predict", run, rows, "-o", tmp_path / "out.csv"),
        nnc("export", run, "-o", tmp_path / "export"),
        nnc("train", spec, "-o", run, "--resume"),
    ):
        assert said.status in (0, 1, 3), said.err
        assert len(said.errors()) == (said.status != 0), said.err
        assert set(said.errors()) <= {"E401", "E702", "E511", "E701", "E706"}
    assert nnc("export", run, "-o", tmp_path / "export").status != 0 or damage in ("gone", "directory", "flipped")
