"""Windows of series and texts: which rows a sample holds, which split it belongs to, and what is learned from which rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_data import read

from nnc.runtime.data.dataset import Dataset

SPEC = """
network(history: float32[{length}, 1]) {{ return next = history -> lstm(2) -> dense({ahead}) }}
data {{
  source  = csv("series.csv")
  series  = column(v) -> min_max
  history = series -> window(length={length}, stride={stride})
  future  = series -> window(length={ahead}, stride={stride}, offset={offset})
  {split}
}}
train {{ loss = mse(next, future)  optimizer = sgd(lr=0.01)  batch = 4  epochs = 1 }}
"""
ORDERED = "split = ordered(train=50%, validation=25%, test=25%)"


def series(folder: Path, rows: int = 40, split: str = ORDERED, **sizes: int) -> Dataset:
    """The column counts from 0, so that a raw value is the number of its row."""
    (folder / "series.csv").write_text("v\n" + "\n".join(map(str, range(rows))) + "\n")
    return read(folder, SPEC.format(split=split, **sizes))


def windows_by_hand(rows: int, length: int, ahead: int, offset: int, stride: int) -> list[tuple[list[int], list[int]]]:
    """Every sample that the rows allow: the rows of its input and of its target."""
    found, start = [], 0
    while max(start + length, start + offset + ahead) <= rows:
        found.append((list(range(start, start + length)), list(range(start + offset, start + offset + ahead))))
        start += stride
    return found


SIZES = [
    {"length": 5, "ahead": 1, "offset": 5, "stride": 1},
    {"length": 4, "ahead": 3, "offset": 4, "stride": 1},
    {"length": 6, "ahead": 2, "offset": 7, "stride": 3},
    {"length": 4, "ahead": 4, "offset": 1, "stride": 4},
    {"length": 1, "ahead": 1, "offset": 39, "stride": 1},
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_sample_holds_its_rows_and_no_sample_is_missing(sizes: dict[str, int], tmp_path: Path) -> None:
    data = series(tmp_path, split="", **sizes)
    wanted = windows_by_hand(40, **sizes)
    np.testing.assert_array_equal(data.raw["history"][:, :, 0], [inputs for inputs, _ in wanted])
    np.testing.assert_array_equal(data.raw["future"][:, :, 0], [targets for _, targets in wanted])
    np.testing.assert_array_equal(data.splits["train"], np.arange(len(wanted)))


@pytest.mark.parametrize("sizes", SIZES[:4], ids=str)
def test_a_sample_belongs_where_all_its_targets_lie(sizes: dict[str, int], tmp_path: Path) -> None:
    """Inputs may reach back over a cut; a sample whose targets lie on both sides of one belongs nowhere."""
    data = series(tmp_path, **sizes)
    bounds = {"train": (0, 20), "validation": (20, 30), "test": (30, 40)}
    for split, (low, high) in bounds.items():
        wanted = [i for i, (_, targets) in enumerate(windows_by_hand(40, **sizes)) if low <= min(targets) and max(targets) < high]
        assert data.splits[split].tolist() == wanted, split
    assert data.rows("train") == len(data.splits["train"])


def test_steps_learn_from_the_rows_before_the_cut(tmp_path: Path) -> None:
    data = series(tmp_path, **SIZES[0])
    learned = {name.rpartition("/")[2]: float(array.reshape(-1)[0]) for name, array in data.learned.arrays.items()}
    assert learned == {"min": 0, "range": 19}
    np.testing.assert_allclose(data.arrays["history"][:, :, 0], data.raw["history"][:, :, 0] / 19, rtol=1e-6)
    assert data.arrays["future"].max() > 2, "later rows lie outside of what was seen"


@pytest.mark.parametrize("stride", [4, 6])
def test_a_text_is_cut_into_symbols(stride: int, tmp_path: Path) -> None:
    written = "the quick brown fox jumps over the lazy dog" * 2
    (tmp_path / "t.txt").write_text(written)
    spec: Any = f"""
network(text: int64[4]) {{ return next = text -> embedding(30, 2) -> flatten -> dense(4) -> reshape([4, 1]) -> dense(30) -> softmax }}
data {{
  source = text("t.txt")
  chars  = characters()
  text   = chars -> window(length=4, stride={stride})
  target = chars -> window(length=4, stride={stride}, offset=1)
}}
train {{ loss = cross_entropy(next, target)  optimizer = sgd(lr=0.01)  batch = 4  epochs = 1 }}
"""
    data = read(tmp_path, spec)
    symbols = sorted(set(written))
    starts = range(0, len(written) - 4, stride)
    for name, offset in (("text", 0), ("target", 1)):
        wanted = [[symbols.index(c) for c in written[i + offset : i + offset + 4]] for i in starts]
        assert data.arrays[name].tolist() == wanted, name
