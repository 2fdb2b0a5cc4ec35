"""`nnc predict` with a bundle: onnxruntime gives what the run gives, from the same files, and nothing runs of a bundle that is damaged."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import csv as arrow_csv
from pyarrow import parquet
from runs import TINY, leftovers, nnc, process, refused, write
from test_commands import PEOPLE, columns_of, people, run_of_people

from nnc import terminal
from nnc.runtime import deployed, device
from nnc.runtime.bundle import MANIFEST


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of PEOPLE with its bundle in `export`; nothing changes it."""
    return run_of_people("run", tmp_path_factory.mktemp("people"))


def arrays_of(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return dict(arrays)


def agree(run: Path, rows: Path, out: Path) -> dict[str, Any]:
    """What the bundle predicts, where that is what the run predicts."""
    assert nnc("predict", run, rows, "-o", out / "run.npz").status == 0
    said = nnc("predict", run / "export", rows, "-o", out / "bundle.npz")
    assert said.status == 0, said.err
    mine, its = arrays_of(out / "run.npz"), arrays_of(out / "bundle.npz")
    for name, array in its.items():
        assert array.dtype.kind == mine[name].dtype.kind
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, mine[name], rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(array, mine[name])
    return its


def test_a_bundle_predicts_what_its_run_predicts(run: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.csv", people(5000, seed=4).replace("nurse", "pilot"))
    found = agree(run, rows, tmp_path)
    assert [*found] == ["rich", "income", "age"]
    assert set(found["income"].tolist()) == {"low", "high"}


def test_every_kind_of_file_gives_the_same(run: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.csv", people(300, seed=4).replace("?", ""))
    parquet.write_table(arrow_csv.read_csv(rows), tmp_path / "rows.parquet")
    wanted = None
    for source in ("csv", "parquet"):
        for target in ("csv", "parquet", "npz"):
            out = tmp_path / f"{source}.{target}"
            assert nnc("predict", run / "export", tmp_path / f"rows.{source}", "-o", out).status == 0
            found: dict[str, list[Any]] = columns_of(out) if target == "csv" else parquet.read_table(out).to_pydict() if target == "parquet" else {}
            if target == "npz":
                arrays = arrays_of(out)
                found = {"rich_0": arrays["rich"][:, 0], "rich_1": arrays["rich"][:, 1], "income": arrays["income"].tolist(), "age": arrays["age"][:, 0]}
            found = {name: cells if name == "income" else [np.float32(cell) for cell in cells] for name, cells in found.items()}
            wanted = wanted or found
            assert found == wanted, (source, target)


def test_arrays_for_a_bundle(tmp_path: Path) -> None:
    assert nnc("run", write(tmp_path / "tiny.nn", TINY), "-o", tmp_path / "run").status == 0
    np.savez(tmp_path / "rows.npz", x=np.linspace(0, 9, 5000).reshape(-1, 1))
    assert agree(tmp_path / "run", tmp_path / "rows.npz", tmp_path)["y"].shape == (5000, 1)


def test_where_it_ran_is_said_once(run: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.csv", people(20))
    said = nnc("predict", run / "export", rows, "-o", tmp_path / "out.csv")
    assert (said.out, said.err) == (f"{tmp_path / 'out.csv'}: 20 rows, by onnxruntime on the CPU\n", "")
    assert nnc("predict", run / "export", rows, "-o", tmp_path / "out.csv", "--device", "cpu").out == said.out
    assert nnc("predict", run, rows, "-o", tmp_path / "out.csv").out.endswith(" by NumPy on the CPU\n")


def test_a_gpu_that_is_not_used_is_an_error(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write(tmp_path / "rows.csv", people(20))
    refused(nnc("predict", run, rows, "-o", tmp_path / "out.csv", "--device", "cuda"), "E709", "predict with the bundle")
    monkeypatch.setattr(device, "obstacle", lambda: device.Obstacle("there is none", "buy one"))
    refused(nnc("predict", run / "export", rows, "-o", tmp_path / "out.csv", "--device", "cuda"), "E709", "there is none", "buy one")
    assert not (tmp_path / "out.csv").exists()


# Bundles that are not as they were exported


def test_nothing_of_a_damaged_bundle_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ran(*_: Any, **__: Any) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(deployed, "session", ran)
    rows, dist = write(tmp_path / "rows.csv", people(20)), tmp_path / "dist"
    for path in sorted(p for p in (run / "export").rglob("*") if p.is_file() and p.name != MANIFEST):
        name = path.relative_to(run / "export")
        for damage in (lambda data: data[:-1], lambda data: bytes([data[0] ^ 1]) + data[1:], lambda data: b"other" + data[5:]):
            shutil.rmtree(dist, ignore_errors=True)
            shutil.copytree(run / "export", dist)
            (dist / name).write_bytes(damage(path.read_bytes()))
            refused(nnc("predict", dist, rows, "-o", tmp_path / "out.csv"), "E703", name.as_posix())
    shutil.copy(dist / "signature.json", dist / "people.onnx")
    refused(nnc("predict", dist, rows, "-o", tmp_path / "out.csv"), "E703", "people.onnx holds what belongs to signature.json")
    (dist / MANIFEST).write_text("{}")
    refused(nnc("predict", dist, rows, "-o", tmp_path / "out.csv"), "E703", MANIFEST)
    assert not (tmp_path / "out.csv").exists()


def resealed(dist: Path, files: dict[str, bytes] | None = None, **changes: Any) -> None:
    """Change a bundle and have its manifest fit."""
    content = json.loads((dist / MANIFEST).read_text())
    for name, data in (files or {}).items():
        (dist / name).write_bytes(data)
        content["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    content = {key: value for key, value in (content | changes).items() if value is not None} | {"sha256": "0" * 64}
    text = json.dumps(content, indent=2) + "\n"
    (dist / MANIFEST).write_text(text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest(), 1))


def test_bundles_of_other_programs_are_refused(run: Path, tmp_path: Path) -> None:
    """Sound in every byte, and still not what this version writes."""
    rows, dist = write(tmp_path / "rows.csv", people(20)), tmp_path / "dist"
    others: list[tuple[dict[str, Any], str, str]] = [
        ({"schema": None}, "E703", "manifest.json does not say how rows are read"),
        ({"schema": {"columns": {"job": 3}, "rows": None}}, "E703", "manifest.json does not say"),
        ({"classes": [1]}, "E703", "manifest.json does not say"),
        ({"constants": 3}, "E703", "manifest.json does not say"),
        ({"files": {"signature.json": b"{}"}}, "E703", "signature.json does not say"),
        ({"files": {"signature.json": b"[1"}}, "E703", "signature.json"),
        ({"files": {"people.onnx": b"no model"}}, "E612", "does not load the file"),
    ]
    for change, code, words in others:
        shutil.rmtree(dist, ignore_errors=True)
        shutil.copytree(run / "export", dist)
        resealed(dist, **change)
        refused(nnc("predict", dist, rows, "-o", tmp_path / "out.csv"), code, words)
    shutil.rmtree(dist)
    shutil.copytree(run / "export", dist)
    resealed(dist)
    assert nnc("predict", dist, rows, "-o", tmp_path / "out.csv").status == 0


def test_a_directory_that_is_neither(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.csv", people(20))
    refused(nnc("predict", tmp_path, rows, "-o", tmp_path / "out.csv"), "E401", "no run directory")
    write(tmp_path / MANIFEST, '{"name": "a web page"}')
    refused(nnc("predict", tmp_path, rows, "-o", tmp_path / "out.csv"), "E703", MANIFEST)


def test_predictions_never_take_the_place_of_their_rows(run: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.csv", people(20))
    (tmp_path / "link.csv").symlink_to(rows)
    for target in (rows, tmp_path / "link.csv"):
        refused(nnc("predict", run, rows, "-o", target), "E704", "it is the input")
    assert rows.read_text("utf-8") == people(20)


# Rows


def test_rows_that_do_not_fit(run: Path, tmp_path: Path) -> None:
    for text, code, words in (
        ("job,hours\nclerk,3\n", "E402", "`gain`"),
        ("job,hours,gain\nclerk,x,1\n", "E404", "line 2 of rows.csv holds `x`"),
        ("job,hours,gain\nclerk,1,inf\n", "E405", "line 2"),
        ("", "E410", "empty"),
    ):
        refused(nnc("predict", run / "export", write(tmp_path / "rows.csv", text), "-o", tmp_path / "out.csv"), code, words)
    assert leftovers(tmp_path) == []
    rows = write(tmp_path / "rows.csv", "job,hours,gain\n")
    assert nnc("predict", run / "export", rows, "-o", tmp_path / "out.csv").status == 0
    assert (tmp_path / "out.csv").read_bytes() == b"rich_0,rich_1,income,age\r\n"


def test_a_missing_number_that_nothing_fills(tmp_path: Path) -> None:
    assert nnc("run", write(tmp_path / "tiny.nn", TINY), "-o", tmp_path / "run").status == 0
    rows = write(tmp_path / "rows.csv", "x\n1\n\"\"\n")
    for place in ("run", "run/export"):
        refused(nnc("predict", tmp_path / place, rows, "-o", tmp_path / "out.csv"), "E405", "a missing value", "column `x`, line 3 of rows.csv")


def test_a_value_without_a_place_in_the_network(tmp_path: Path) -> None:
    """An embedding with as many rows as there are categories has none for a new one."""
    write(tmp_path / "f.csv", "w,t\n" + "a,1\nb,2\n" * 10)
    spec = """
network(w: int64) { return y = w -> embedding(2, 1) }
data { source = csv("f.csv")  w = column(w) -> category  t = column(t) }
train { loss = mse(y, t)  optimizer = sgd(lr=0.1)  batch = 4  epochs = 1 }
"""
    assert nnc("run", write(tmp_path / "s.nn", spec), "-o", tmp_path / "run").status == 0
    rows = write(tmp_path / "rows.csv", "w\na\nb\nb\n")
    assert agree(tmp_path / "run", rows, tmp_path)["y"].shape == (3, 1)
    write(tmp_path / "rows.csv", "w\na\nc\n")
    refused(nnc("predict", tmp_path / "run", rows, "-o", tmp_path / "out.csv"), "E515")
    refused(nnc("predict", tmp_path / "run/export", rows, "-o", tmp_path / "out.csv"), "E612", "out of data bounds")


def test_windows(tmp_path: Path) -> None:
    write(tmp_path / "f.csv", "t\n" + "".join(f"{np.sin(i / 3):.4f}\n" for i in range(80)))
    spec = """
network(past: float32[4, 1]) { return next = past -> flatten -> dense(1) }
data {
  source = csv("f.csv")
  series = column(t) -> standardize
  past   = series -> window(4)
  future = series -> window(1, offset=4)
  split  = ordered(train=80%, validation=20%)
}
train { loss = mse(next, future)  optimizer = sgd(lr=0.1)  batch = 4  epochs = 1 }
"""
    said = nnc("run", write(tmp_path / "s.nn", spec), "-o", tmp_path / "run")
    assert said.status == 0, said.err
    found = agree(tmp_path / "run", tmp_path / "f.csv", tmp_path)
    assert found["row"].tolist() == list(range(4, 81))


def test_an_ensemble(tmp_path: Path) -> None:
    write(tmp_path / "people.csv", people())
    spec = PEOPLE.replace("batch = 16", "batch = 16  ensemble = bagging(2)")
    assert nnc("run", write(tmp_path / "people.nn", spec), "-o", tmp_path / "run").status == 0
    assert agree(tmp_path / "run", tmp_path / "people.csv", tmp_path)["age"].shape == (120, 1)


# Progress


class Terminal:
    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_progress_is_drawn_on_a_terminal_alone(run: Path, tmp_path: Path) -> None:
    shown = Terminal()
    rows = terminal.Rows(shown)  # type: ignore[arg-type]
    rows.INTERVAL = 0.0
    for _ in range(3):
        rows(1500)
    rows.close()
    assert re.fullmatch(r"(\r[\d,]+ rows  [\d,]+ rows/s *)+\n", shown.text)
    assert "4,500 rows" in shown.text
    assert process("predict", run / "export", write(tmp_path / "rows.csv", people(9)), "-o", tmp_path / "out.csv").err == ""
