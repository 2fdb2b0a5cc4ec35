"""Splits by groups, by a column and by files; windows under each; and training rows drawn by class."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import digest, history, nnc, refused, write
from sklearn.model_selection import GroupShuffleSplit
from test_data import read, refusal, spec

import nnc as api
from nnc.runtime.data.balance import by_class, draw, size
from nnc.runtime.data.dataset import Dataset
from nnc.runtime.files import read_arrays

Array = np.ndarray[Any, Any]


def table(**columns: list[Any]) -> str:
    return "source = table(" + ", ".join(f"{name}={json.dumps(values)}" for name, values in columns.items()) + ")"


def read_split(folder: Path, split: str, body: str = "a = column(a)\n t = column(t)", **columns: list[Any]) -> Dataset:
    return read(folder, spec(f"{table(**columns)}\n {body}\n split = {split}"))


def patients(rows: int, groups: int) -> dict[str, list[Any]]:
    drawn = np.random.default_rng(2)
    return {"a": list(range(rows)), "t": [0] * rows, "g": [f"p{i}" for i in drawn.integers(0, groups, rows).tolist()]}


@pytest.mark.parametrize("groups", [3, 10, 200])
def test_groups_stay_together(groups: int, tmp_path: Path) -> None:
    columns = patients(2000, groups)
    found = read_split(tmp_path, "grouped(by=g, train=70%, validation=20%, test=10%)", **columns).splits
    assert sorted(np.concatenate([*found.values()]).tolist()) == list(range(2000))
    held = {name: {columns["g"][row] for row in rows.tolist()} for name, rows in found.items()}
    assert all(held.values())
    assert sum(len(groups) for groups in held.values()) == len(set(columns["g"]))
    if groups == 200:
        for name, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
            assert abs(len(found[name]) / 2000 - share) < 0.01


def test_groups_are_drawn_by_the_seed(tmp_path: Path) -> None:
    columns = patients(300, 30)
    first, again, other = (read_split(tmp_path, f"grouped(by=g, train=70%, test=30%, seed={s})", **columns).splits["test"].tolist() for s in (1, 1, 2))
    assert first == again != other


def test_groups_as_close_to_the_shares_as_scikit_learn(tmp_path: Path) -> None:
    """Groups of very different sizes."""
    drawn = np.random.default_rng(0)
    groups = [f"g{i}" for i, n in enumerate(drawn.geometric(0.05, 60)) for _ in range(n)]
    rows = len(groups)
    ours, theirs = [], []
    for seed in range(10):
        split = f"grouped(by=g, train=80%, test=20%, seed={seed})"
        ours.append(abs(len(read_split(tmp_path, split, a=[1] * rows, t=[1] * rows, g=groups).splits["test"]) / rows - 0.2))
        _, test = next(GroupShuffleSplit(1, test_size=0.2, random_state=seed).split(groups, groups=groups))
        theirs.append(abs(len(test) / rows - 0.2))
    assert np.mean(ours) < np.mean(theirs)


def test_groups_with_stratify(tmp_path: Path) -> None:
    """A rare class that stands in few groups keeps its share better than without stratify."""
    drawn = np.random.default_rng(1)
    groups = [f"g{i}" for i in range(80) for _ in range(10)]
    rare = set(drawn.choice(80, 12, replace=False).tolist())
    classes = ["rare" if int(g[1:]) in rare else "usual" for g in groups]
    body = "a = column(a)\n t = column(t)\n k = column(k) -> category"

    def off(split: str) -> float:
        data = read_split(tmp_path, split, body, a=[1] * 800, t=[1] * 800, g=groups, k=classes)
        return abs(Counter(classes[r] for r in data.splits["test"].tolist())["rare"] - 0.25 * 120)

    found = [off(f"grouped(by=g, train=75%, test=25%, stratify=k, seed={s})") for s in range(5)]
    assert max(found) <= 10, "one group"


def test_numbers_as_groups(tmp_path: Path) -> None:
    found = read_split(tmp_path, "grouped(by=g, train=50%, test=50%)", a=[1, 2, 3, 4], t=[1, 2, 3, 4], g=[7, 8, 7, 8]).splits
    assert {tuple(rows.tolist()) for rows in found.values()} == {(0, 2), (1, 3)}


def test_rows_by_a_column(tmp_path: Path) -> None:
    columns = {"a": [1, 2, 3, 4, 5], "t": [0] * 5, "year": [2019, 2021, 2020, 2022, 2019]}
    found = read_split(tmp_path, "by(year, train=[2019, 2020], validation=[2021], test=[2022])", **columns).splits
    assert {name: rows.tolist() for name, rows in found.items()} == {"train": [0, 2, 4], "validation": [1], "test": [3]}
    words = read_split(tmp_path, 'by(fold, train=["x"], test=["y"])', a=[1, 2, 3], t=[0] * 3, fold=["y", "x", "x"]).splits
    assert {name: rows.tolist() for name, rows in words.items()} == {"train": [1, 2], "test": [0]}


def test_words_for_a_column_of_numbers(tmp_path: Path) -> None:
    text = spec(table(a=[1, 2], t=[1, 2], y=[1, 2]) + '\n a = column(a)\n t = column(t)\n split = by(y, train=["1"], test=["2"])')
    assert "the column holds numbers" in refusal(tmp_path, text).label


# Files


def files(folder: Path, first: str = "a,c\n1,x\n2,y\n3,x\n4,y\n", valid: str = "a,c\n5,y\n", test: str = "c,more,a\nx,0,6\ny,0,7\n") -> str:
    for name, content in (("train.csv", first), ("valid.csv", valid), ("test.csv", test)):
        write(folder / name, content)
    data = 'source = csv("train.csv")\n a = column(a) -> standardize\n t = column(c) -> category'
    data += '\n split = files(validation=csv("valid.csv"), test=csv("test.csv"))'
    return spec(data, body="return y = a -> dense(2) -> softmax", loss="cross_entropy(y, t)", train="metrics = [accuracy]")


def test_parts_from_files(tmp_path: Path) -> None:
    data = read(tmp_path, files(tmp_path))
    assert {name: rows.tolist() for name, rows in data.splits.items()} == {"train": [0, 1, 2, 3], "validation": [4], "test": [5, 6]}
    np.testing.assert_allclose(data.arrays["a"].reshape(-1), (np.arange(1, 8) - 2.5) / np.std([1, 2, 3, 4]), rtol=1e-6)
    assert data.arrays["t"].tolist() == [0, 1, 0, 1, 1, 0, 1]


def test_a_row_of_a_file_is_named(tmp_path: Path) -> None:
    assert "`z` in line 3 of test.csv" in refusal(tmp_path, files(tmp_path, test="a,c\n6,x\n7,z\n")).label
    assert "column `a`, line 2 of valid.csv" in refusal(tmp_path, files(tmp_path, valid="a,c\n,x\n")).label
    assert refusal(tmp_path, files(tmp_path, valid="a,c\n")).code == "E410"


def test_text_that_looks_like_numbers_elsewhere(tmp_path: Path) -> None:
    """A column of text is text in every file."""
    data = read(tmp_path, files(tmp_path, first="a,c\n1,x\n2,01\n", valid="a,c\n5,01\n", test="a,c\n6,01\n"))
    assert data.arrays["t"].tolist() == [1, 0, 0, 0]


def test_a_run_on_files(tmp_path: Path) -> None:
    path = write(tmp_path / "s.nn", files(tmp_path))
    assert nnc("run", path, "-o", tmp_path / "run").status == 0
    found = json.loads(nnc("eval", tmp_path / "run", "--format", "json").out)
    assert found.keys() == {"train", "validation", "test"}
    assert nnc("predict", tmp_path / "run", tmp_path / "test.csv", "-o", tmp_path / "out.csv").status == 0
    assert len((tmp_path / "out.csv").read_text("utf-8").splitlines()) == 3
    write(tmp_path / "valid.csv", "a,c\n5,y\n6,x\n")
    refused(nnc("eval", tmp_path / "run"), "E511")


def test_a_row_that_moves_to_another_part_is_noticed(tmp_path: Path) -> None:
    """The columns in use are the same, the split is not."""
    columns = {"a": [1, 2, 3, 4], "t": [1, 2, 3, 4]}
    first, second = (read_split(tmp_path, "by(k, train=[0], test=[1])", **columns, k=k) for k in ([0, 0, 1, 1], [0, 1, 0, 1]))
    assert first.digest != second.digest


# Windows

SERIES = "history = series -> window(2)\n next = series -> window(1, offset=2)"


def windowed(folder: Path, split: str, source: str) -> Dataset:
    data = f"{source}\n series = column(v)\n {SERIES}\n split = {split}"
    return read(folder, spec(data, "history: float32[2, 1]", "return y = history -> flatten -> dense(1)", "mse(y, next)"))


def seen(data: Dataset, split: str) -> list[list[float]]:
    both = np.concatenate([data.arrays["history"], data.arrays["next"]], axis=1)
    return both[data.splits[split]].reshape(-1, 3).tolist()  # type: ignore[no-any-return]


def test_windows_stay_in_a_group(tmp_path: Path) -> None:
    """A group may come back later: its runs are apart."""
    source = table(v=[1, 2, 3, 4, 11, 12, 13, 5, 6, 7], g=["p"] * 4 + ["q"] * 3 + ["p"] * 3)
    data = windowed(tmp_path, "grouped(by=g, train=60%, test=40%)", source)
    wanted = {"p": [[1, 2, 3], [2, 3, 4], [5, 6, 7]], "q": [[11, 12, 13]]}
    assert sorted([seen(data, "train"), seen(data, "test")], key=len) == [wanted["q"], wanted["p"]]


def test_windows_stay_in_a_part(tmp_path: Path) -> None:
    source = table(v=[1, 2, 3, 4, 5, 6, 7], y=[2019, 2019, 2020, 2020, 2021, 2021, 2021])
    data = windowed(tmp_path, "by(y, train=[2019, 2020], test=[2021])", source)
    assert (seen(data, "train"), seen(data, "test")) == ([[1, 2, 3], [2, 3, 4]], [[5, 6, 7]])


def test_windows_stay_in_a_file(tmp_path: Path) -> None:
    write(tmp_path / "more.csv", "v\n7\n8\n9\n10\n")
    data = windowed(tmp_path, 'files(test=csv("more.csv"))', table(v=[1, 2, 3, 4]))
    assert (seen(data, "train"), seen(data, "test")) == ([[1, 2, 3], [2, 3, 4]], [[7, 8, 9], [8, 9, 10]])


def test_a_stride_begins_anew_in_every_file(tmp_path: Path) -> None:
    write(tmp_path / "more.csv", "v\n" + "".join(f"{i}\n" for i in range(20, 26)))
    data = 'source = table(v=[1, 2, 3, 4, 5])\n x = column(v) -> window(2, stride=2)\n split = files(test=csv("more.csv"))'
    found = read(tmp_path, spec(data, "x: float32[2, 1]", "return y = x -> flatten -> dense(1)").partition("train {")[0])
    assert found.arrays["x"].reshape(-1, 2).tolist() == [[1, 2], [3, 4], [20, 21], [22, 23], [24, 25]]


def test_the_row_of_a_window_is_named(tmp_path: Path) -> None:
    write(tmp_path / "f.csv", "v\n1\n2\n3\n4\n\n\n,\n".replace(",", '""') + "6\n")
    found = refusal(tmp_path, spec('source = csv("f.csv")\n x = column(v) -> window(2, stride=2)', "x: float32[2, 1]", "return y = x -> flatten -> dense(1)")
                    .partition("train {")[0])  # fmt: skip
    assert "line 8 of f.csv" in found.label


# Drawing by class


def test_drawn_rows() -> None:
    """Every class as often as the largest; every row of a class as often as any other, but for one time."""
    values = np.array([0] * 50 + [1] * 7 + [2] * 20)
    rows = np.arange(0, 77, 1)
    groups = by_class(rows, values)
    assert size(groups) == 150
    epochs = [draw(groups, 3, epoch) for epoch in range(4)]
    for found in epochs:
        assert Counter(values[found].tolist()) == {0: 50, 1: 50, 2: 50}
        times = Counter(found.tolist())
        assert {times[r] for r in range(50, 57)} == {7, 8}
        assert {times[r] for r in range(57, 77)} == {2, 3}
    assert len({tuple(found.tolist()) for found in epochs}) == 4, "other rows twice in another epoch"
    np.testing.assert_array_equal(epochs[2], draw(groups, 3, 2))
    np.testing.assert_array_equal(values[by_class(rows, np.eye(3)[values])[1]], 1)


BALANCED = """
network(a: float32[1]) {{ return y = a -> dense(2) -> softmax }}
data {{
  {source}
  a = column(a)
  t = column(t) -> category{balance}
  split = ordered(train=80%, test=20%)
}}
train {{ loss = cross_entropy(y, t)  optimizer = adam(lr=0.05)  batch = 16  epochs = {epochs}  metrics = [accuracy] }}
"""


def unbalanced() -> dict[str, list[Any]]:
    """One row in ten is of the second class, which lies a little to the right."""
    drawn = np.random.default_rng(4)
    rare = (np.arange(500) % 10 == 0).tolist()
    return {"a": np.round(drawn.normal(0, 1, 500) + 1.5 * np.array(rare), 4).tolist(), "t": ["rare" if r else "usual" for r in rare]}


def test_training_on_balanced_classes(tmp_path: Path) -> None:
    """Without it the rare class is hardly predicted; with it about as often as it is drawn."""
    shares = []
    for balance in ("", " -> class_balance"):
        path = write(tmp_path / "s.nn", BALANCED.format(source=table(**unbalanced()), balance=balance, epochs=30))
        result = api.train(path, out=tmp_path / f"run{len(shares)}")
        rows = result.data.splits["test"]
        rare = result.data.arrays["t"][rows] == result.data.learned.classes["t/category"].index("rare")
        chosen = result.model.predict({"a": result.data.arrays["a"][rows]})["y"].argmax(axis=1) == result.data.learned.classes["t/category"].index("rare")
        shares.append(chosen[rare].mean())
        assert len(result.data.splits["train"]) == 400
    assert shares[1] > shares[0] + 0.3


def test_balanced_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Stopped by a signal after some steps, and resumed, a run ends as one that was left alone."""
    text = BALANCED.format(source=table(**unbalanced()), balance=" -> class_balance", epochs=3)
    write(tmp_path / "s.nn", text)
    assert nnc("train", tmp_path / "s.nn", "-o", tmp_path / "whole").status == 0
    interrupted = (
        "import os, signal, sys\nfrom nnc.runtime.train import Trainer\nfrom nnc.runtime import train\n"
        "steps = [0]\nadvance = train.Model.advance\n"
        "def counted(self, *given):\n    steps[0] += 1\n    if steps[0] == 57: os.kill(os.getpid(), signal.SIGTERM)\n    return advance(self, *given)\n"
        "train.Model.advance = counted\nfrom nnc.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    write(tmp_path / "interrupted.py", interrupted)
    done = subprocess.run([sys.executable, tmp_path / "interrupted.py", "train", tmp_path / "s.nn", "-o", tmp_path / "cut"], capture_output=True, check=False)
    assert done.returncode == 130, done.stderr
    assert nnc("train", tmp_path / "s.nn", "-o", tmp_path / "cut", "--resume").status == 0
    assert [json.loads(line)["step"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text("utf-8").splitlines()] == [45, 90, 135]
    whole, cut = (Path(tmp_path / name) for name in ("whole", "cut"))
    assert digest(read_arrays(whole / "last.safetensors")[0]) == digest(read_arrays(cut / "last.safetensors")[0])
    assert history(whole) == history(cut)
