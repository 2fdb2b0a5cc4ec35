"""Data that is not taken into memory: the same rows, figures and refusals as in memory, within memory that does not grow with the file."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnc as api
from nnc.compiler.diagnostics import SpecError
from nnc.runtime.data import sources, stored

Array = np.ndarray[Any, Any]
SPEC = """
network(x: float32[4, 2]) { h = x -> flatten -> dense(8) -> relu  return y = h -> dense(3) -> softmax }
data {
  source = npz("f.npz")
  x = column(a) -> impute(median) -> standardize
  t = column(t) -> category
  split = random(train=60%, validation=20%, test=20%, stratify=t)
}
train { loss = cross_entropy(y, t)  optimizer = adam(lr=0.01)  batch = 7  epochs = 2  metrics = [accuracy] }
"""
WINDOWS = """
network(past: float32[6, 3]) { return next = past -> flatten -> dense(3) }
data {
  source = npy("f.npy")
  past = column(array) -> standardize -> window(6)
  next = column(array) -> standardize -> window(1, offset=6) -> flatten
  split = ordered(train=70%, validation=10%, test=20%)
}
train { loss = mse(next, next_target)  optimizer = sgd(lr=0.01)  batch = 5  epochs = 2 }
"""
IDX = """
network(image: float32[1, 3, 5]) { return y = image -> flatten -> dense(4) -> softmax }
data {
  source = idx(images="i", labels="l")
  image = column(image) -> scale(1/255) -> min_max
  label = column(label)
}
train { loss = cross_entropy(y, label)  optimizer = sgd(lr=0.01)  batch = 5  epochs = 2  shuffle = false }
"""


def arrays(folder: Path) -> str:
    drawn = np.random.default_rng(0)
    a = drawn.normal(size=(100, 4, 2)).astype("f8")
    a[3, 1, 0] = np.nan
    np.savez(folder / "f.npz", a=a, t=drawn.integers(0, 3, 100).astype("i4"))
    return SPEC


def series(folder: Path) -> str:
    np.save(folder / "f.npy", np.random.default_rng(0).normal(size=(80, 3)).astype(">f4"))
    return WINDOWS.replace("next_target", "goal").replace("  next = column", "  goal = column")


def images(folder: Path) -> str:
    drawn = np.random.default_rng(0)
    (folder / "i").write_bytes(struct.pack(">I3I", 0x803, 30, 3, 5) + drawn.integers(0, 256, 450, np.uint8).tobytes())
    (folder / "l").write_bytes(struct.pack(">II", 0x801, 30) + drawn.integers(0, 4, 30, np.uint8).tobytes())
    return IDX


def train(folder: Path, spec: str, run: str = "run") -> Any:
    (folder / "s.nn").write_text(spec, "utf-8")
    return api.train(folder / "s.nn", out=folder / run)


@pytest.mark.parametrize("made", [arrays, series, images])
def test_the_same_training(made: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bit of what is learned, of the weights and of the figures."""
    spec = made(tmp_path)
    usual = train(tmp_path, spec, "usual")
    monkeypatch.setattr(sources, "too_large", lambda size: True)
    other = train(tmp_path, spec, "other")
    assert any(isinstance(column, stored.Stored) for column in other.data.raw.values())
    assert other.data.digest == usual.data.digest
    assert other.figures == usual.figures
    for name, array in usual.data.learned.arrays.items():
        np.testing.assert_array_equal(other.data.learned.arrays[name], array)
    for name, array in usual.model.parameters.items():
        np.testing.assert_array_equal(other.model.parameters[name], array)
    for name, array in usual.data.arrays.items():
        np.testing.assert_array_equal(other.data.arrays[name][:], array[:])


def test_parts_of_any_size_teach_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = arrays(tmp_path)
    usual = train(tmp_path, spec, "usual").data.learned
    monkeypatch.setattr(stored, "PART", 8 * 8 * 7)
    other = train(tmp_path, spec, "other").data.learned
    assert other.classes == usual.classes
    for name, array in usual.arrays.items():
        np.testing.assert_allclose(other.arrays[name], array, rtol=1e-6)


def test_a_row_that_is_no_number_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "too_large", lambda size: True)
    monkeypatch.setattr(stored, "PART", 1000)
    a = np.zeros((90, 4, 2), "f4")
    a[71, 2, 1] = np.inf
    np.savez(tmp_path / "f.npz", a=a, t=np.arange(90) % 3)
    with pytest.raises(SpecError) as found:
        train(tmp_path, SPEC)
    (only,) = found.value.diagnostics
    assert (only.code, only.label) == ("E405", "column `a`, row 72")


def test_a_file_that_becomes_shorter_is_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(400))
    column = stored.in_file(path, 0, (100,), np.dtype("f4"))
    with path.open("r+b") as file:
        file.truncate(200)
    assert not column[np.array([3, 49, 2])].any()
    with pytest.raises(SpecError, match="changed while it was read"):
        column[np.array([3, 50])]


def test_a_flipped_bit_of_an_npz_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = arrays(tmp_path)
    monkeypatch.setattr(sources, "too_large", lambda size: True)
    content = bytearray((tmp_path / "f.npz").read_bytes())
    content[1000] ^= 1
    (tmp_path / "f.npz").write_bytes(content)
    with pytest.raises(SpecError) as found:
        train(tmp_path, spec)
    assert [d.code for d in found.value.diagnostics] == ["E410"]


MEASURED = """
import resource, sys
import nnc
from nnc.runtime.data import sources
sources.too_large = lambda size: size > 1_000_000
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = nnc.train(sys.argv[1] + "/s.nn", out=sys.argv[1] + "/run")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, found.figures["test"]["loss"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system counts memory in other units")
def test_memory_stays_below_the_file(tmp_path: Path) -> None:
    """300 MB that are mostly a hole in the file, standardized, shuffled, evaluated, kept as rows to verify with, in less than half of that."""
    rows = 75_000
    with (tmp_path / "f.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, 1000)})
        begin = file.tell()
        for row in (0, rows - 1):
            file.seek(begin + 4000 * row)
            file.write(np.random.default_rng(row).normal(size=1000).astype("f4").tobytes())
    (tmp_path / "s.nn").write_text("""
network(x: float32[1000]) { return y = x -> dense(2) -> dense(1000) }
data { source = npy("f.npy")  x = column(array) -> standardize  t = column(array) -> scale(0.5)  split = random(train=80%, validation=10%, test=10%) }
train { loss = mse(y, t)  optimizer = sgd(lr=0.01)  batch = 1000  epochs = 1 }
""")
    done = subprocess.run([sys.executable, "-P", "-c", MEASURED, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown, loss = done.stdout.split()
    assert float(loss) < 10
    assert int(grown) * 1024 < (tmp_path / "f.npy").stat().st_size / 2, done.stdout


def test_npz_members_that_are_packed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "too_large", lambda size: True)
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        for name, kind, array in (("a", zipfile.ZIP_STORED, np.arange(6.0)), ("b", zipfile.ZIP_DEFLATED, np.arange(6))):
            np.save(tmp_path / "part.npy", array)
            archive.write(tmp_path / "part.npy", f"{name}.npy", kind)
    found = stored.large_members(tmp_path / "f.npz", {"a", "b"})
    assert found.keys() == {"a"}
    assert found["a"][:].tolist() == [0, 1, 2, 3, 4, 5]
