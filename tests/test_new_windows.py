"""Windows of new rows: `nnc predict` and `nnc eval --data` cut them from a file as training did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import nnc, refused, write

import nnc as api

SPEC = """
network(history: float32[3, 1]) {{ return forecast = history -> flatten -> dense({out}) }}
data {{
  source  = {source}
  series  = column(v) -> standardize
  history = series -> window(3, stride={stride})
  next    = series -> window({out}, offset=3, stride={stride})
  split   = {split}
}}
train {{ loss = mse(forecast, next)  optimizer = adam(lr=0.05)  batch = 8  epochs = 3  metrics = [mae]  precision = float64 }}
"""


def trained(folder: Path, stride: int = 1, out: int = 1, split: str = "ordered(train=70%, test=30%)", more: str = "") -> tuple[Any, list[float]]:
    values = (np.round(np.sin(np.arange(60) / 3), 6) + 2).tolist()
    group = [int(i >= 30) for i in range(60)]
    write(folder / "f.csv", "v,g\n" + "".join(f"{v!r},{g}\n" for v, g in zip(values, group, strict=True)))
    path = write(folder / "s.nn", SPEC.format(source='csv("f.csv")', stride=stride, out=out, split=split) + more)
    return api.train(path, out=folder / "run"), values


def predicted(folder: Path, name: str) -> tuple[list[str], np.ndarray[Any, Any]]:
    said = nnc("predict", folder / "run", folder / name, "-o", folder / "out.csv")
    assert said.status == 0, said.err
    header, *rows = [line.split(",") for line in (folder / "out.csv").read_text("utf-8").splitlines()]
    return header, np.array(rows, float)


def by_hand(result: Any, values: list[float], starts: list[int]) -> np.ndarray[Any, Any]:
    """The network's output for the windows that begin at rows, in the column's units."""
    mean, std = (result.model.learned[f"data/series/standardize/{role}"].reshape(-1)[0] for role in ("mean", "std"))
    windows = np.array([values[s : s + 3] for s in starts])[:, :, None]
    return result.model.predict({"history": (windows - mean) / std})["forecast"] * std + mean  # type: ignore[no-any-return]


@pytest.mark.parametrize(("stride", "out"), [(1, 1), (2, 1), (4, 3)])
def test_every_window_of_inputs_gives_a_forecast(stride: int, out: int, tmp_path: Path) -> None:
    """Also the last, whose target is not in the file yet."""
    result, _ = trained(tmp_path, stride, out)
    new = [2.0, 2.3, 2.5, 2.9, 2.7, 2.2, 1.9]
    write(tmp_path / "new.csv", "g,v\n" + "".join(f"0,{v}\n" for v in new))
    header, rows = predicted(tmp_path, "new.csv")
    starts = list(range(0, 5, stride))
    assert header == ["row", *(["forecast"] if out == 1 else [f"forecast_{i}" for i in range(out)])]
    assert rows[:, 0].tolist() == [s + 3 for s in starts], "the last row that each forecast sees"
    np.testing.assert_allclose(rows[:, 1:], by_hand(result, new, starts).reshape(len(starts), -1), rtol=1e-12)


def test_rows_and_ready_windows_give_the_same(tmp_path: Path) -> None:
    _, values = trained(tmp_path)
    _, rows = predicted(tmp_path, "f.csv")
    ready = np.lib.stride_tricks.sliding_window_view(np.array(values), 3)[:, :, None]
    np.savez(tmp_path / "ready.npz", history=ready)
    np.savez(tmp_path / "rows.npz", v=np.array(values))
    header, windows = predicted(tmp_path, "ready.npz")
    assert header == ["forecast"]
    np.testing.assert_array_equal(windows[:, 0], rows[:, 1])
    np.testing.assert_array_equal(predicted(tmp_path, "rows.npz")[1], rows)


def test_figures_of_new_rows(tmp_path: Path) -> None:
    """`eval --data` wants targets, so it takes the windows that have them: on the file that trained, those of training and test."""
    result, values = trained(tmp_path, split="ordered(train=100%)")
    found = json.loads(nnc("eval", tmp_path / "run", "--data", tmp_path / "f.csv", "--format", "json").out)["data"]
    assert found["mae"] == pytest.approx(result.figures["train"]["mae"], rel=1e-12)
    starts = list(range(57))
    wanted = np.abs(by_hand(result, values, starts).reshape(-1) - np.array(values[3:])).mean()
    assert found["mae"] == pytest.approx(wanted, rel=1e-9)


def test_windows_of_new_groups(tmp_path: Path) -> None:
    """They stay inside a run of one group where the file says which rows these are; else the file is one series."""
    trained(tmp_path, split="grouped(by=g, train=50%, test=50%)")
    write(tmp_path / "new.csv", "v,g\n" + "".join(f"{v},{g}\n" for v, g in zip(range(8), [5, 5, 5, 5, 9, 9, 9, 9], strict=True)))
    assert predicted(tmp_path, "new.csv")[1][:, 0].tolist() == [3, 4, 7, 8]
    write(tmp_path / "one.csv", "v\n" + "".join(f"{v}\n" for v in range(8)))
    assert predicted(tmp_path, "one.csv")[1][:, 0].tolist() == [3, 4, 5, 6, 7, 8]


def test_too_few_rows(tmp_path: Path) -> None:
    trained(tmp_path)
    write(tmp_path / "new.csv", "v\n1\n2\n")
    refused(nnc("predict", tmp_path / "run", tmp_path / "new.csv", "-o", tmp_path / "o.csv"), "E410", "2 rows, and a sample takes 3")
    write(tmp_path / "new.csv", "v\n1\n2\n3\n")
    assert predicted(tmp_path, "new.csv")[1][:, 0].tolist() == [3]
    refused(nnc("eval", tmp_path / "run", "--data", tmp_path / "new.csv"), "E410", "3 rows, and a sample takes 4")
    write(tmp_path / "new.csv", "v\n1\n\n\n2\n3\n,\n4\n".replace(",", '""'))
    refused(nnc("predict", tmp_path / "run", tmp_path / "new.csv", "-o", tmp_path / "o.csv"), "E405", "line 5")


def test_new_text(tmp_path: Path) -> None:
    """Windows of characters of another text file."""
    write(tmp_path / "a.txt", "abcabcabc" * 10)
    text = """
network(chars: int64[3]) { return next = chars -> embedding(4, 4) -> dense(4) -> softmax }
data {
  source = text("a.txt")
  symbols = characters()
  chars = symbols -> window(3, stride=3)
  label = symbols -> window(3, stride=3, offset=1)
}
train { loss = cross_entropy(next, label)  optimizer = adam(lr=0.1)  batch = 8  epochs = 20  metrics = [accuracy] }
"""
    assert nnc("train", write(tmp_path / "s.nn", text), "-o", tmp_path / "run").status == 0, nnc("check", tmp_path / "s.nn").err
    write(tmp_path / "new.txt", "bcabcabc")
    found = json.loads(nnc("eval", tmp_path / "run", "--data", tmp_path / "new.txt", "--format", "json").out)
    assert found["data"]["accuracy"] == 1
