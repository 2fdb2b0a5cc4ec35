"""Files of results: every number comes back from its text, every text as it was, and files larger than memory are no obstacle."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from runs import TINY, leftovers, nnc, refused, write

from nnc.compiler.diagnostics import SpecError
from nnc.runtime import result_files
from nnc.runtime.data.shortest import FILLER, WIDTH, shortest
from nnc.runtime.result_files import Kind, write_results

Array = np.ndarray[Any, Any]
FLOAT, TEXT = np.dtype(np.float32), np.dtype(object)


def texts(values: Array) -> list[str]:
    cells = shortest(values)
    assert cells.shape == (len(values), WIDTH)
    return [bytes(cell).translate(None, bytes([FILLER])).decode() for cell in cells]


def printed(values: Array) -> list[str]:
    """NumPy's shortest digits as Python lays them out."""
    return [repr(float(str(v))) for v in values]


@given(st.lists(st.floats(width=32), max_size=40))
def test_numbers_are_printed_as_numpy_prints_them(values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert texts(array) == printed(array)


def test_numbers_of_every_kind() -> None:
    drawn = np.random.default_rng(0)
    kinds = [
        drawn.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32),  # any bits at all
        drawn.random(20_000, dtype=np.float32),
        (drawn.standard_normal(10_000) * 1000).astype(np.float32),
        np.exp(-40 * drawn.random(10_000)).astype(np.float32),
        np.round(drawn.random(5_000) * 100, 2).astype(np.float32),
        drawn.integers(0, 100_000_000, 5_000).astype(np.float32),
        np.float32(2.0) ** np.arange(-149, 128, dtype=np.float32),
        np.array([float(f"{d}e{k}") for k in range(-45, 38) for d in (1, 9, 9.999999, 9.9999995, 1.0000001)], np.float32),
    ]
    values = np.concatenate(kinds)
    edges = np.concatenate([values, np.nextafter(kinds[6], np.float32(0)), np.nextafter(kinds[7], np.float32(np.inf)), -kinds[7]])
    with np.errstate(all="raise"):
        assert texts(edges) == printed(edges)


def one(**columns: Array) -> tuple[Iterator[dict[str, Array]], dict[str, Kind]]:
    return iter([columns]), {name: Kind(array.dtype, array.shape[1:]) for name, array in columns.items()}


def objects(cells: list[str]) -> Array:
    found = np.empty(len(cells), object)
    found[:] = cells
    return found


def test_a_csv_is_read_back_as_it_was(tmp_path: Path) -> None:
    """Quotes, separators, line ends, nothing at all, and texts of any length beside each other."""
    words = ["plain", "a,b", 'say "x"', "two\nlines", "\r", "", "é \u4e2d", "x" * 300_000, "\0", " "] * 3
    numbers = np.arange(len(words), dtype=np.int64)
    wide = np.linspace(-1, 1, 2 * len(words)).reshape(-1, 2)
    columns = {"i": numbers, "text, here": objects(words), "y": wide, "h": wide.astype(np.float16)[:, 0], "b": numbers % 2 == 0}
    assert write_results(*one(**columns), tmp_path / "out.csv") == len(words)
    csv.field_size_limit(1 << 20)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["i", "text, here", "y_0", "y_1", "h", "b"]
    assert [row[1] for row in rows] == words
    assert [int(row[0]) for row in rows] == numbers.tolist()
    np.testing.assert_array_equal([[float(row[2]), float(row[3])] for row in rows], wide)
    np.testing.assert_array_equal(np.array([row[4] for row in rows], np.float16), columns["h"])
    assert [row[5] for row in rows] == [str(bool(b)) for b in columns["b"]]


def test_an_empty_text_alone_in_its_row_is_no_blank_line(tmp_path: Path) -> None:
    write_results(*one(t=objects(["", "a"])), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [*csv.reader(file)] == [["t"], [""], ["a"]]


def test_parquet_is_written_as_rows_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a group is held: the rest is in the file before the last rows come."""
    monkeypatch.setattr(result_files, "GROUP", 1000)
    seen = []

    def batches() -> Iterator[dict[str, Array]]:
        for start in range(0, 10_000, 400):
            seen.append(sum(path.stat().st_size for path in leftovers(tmp_path)))
            yield {"y": np.arange(start, start + 400, dtype=np.float32).reshape(400, 1), "t": objects([f"word {start}"] * 400)}

    kinds = {"y": Kind(FLOAT, (1,)), "t": Kind(TEXT, ())}
    assert write_results(batches(), kinds, tmp_path / "out.parquet") == 10_000
    assert seen[-1] > seen[12] > seen[6] > 0
    file = parquet.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [1200] * 8 + [400]
    table = file.read()
    assert [str(kind) for kind in table.schema.types] == ["float", "string"]
    assert table.column("y").to_pylist() == list(range(10_000))


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
def test_no_rows_still_have_columns(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{kind}"
    assert write_results(iter([]), {"y": Kind(FLOAT, (2,)), "t": Kind(TEXT, ())}, path) == 0
    if kind == "csv":
        assert path.read_bytes() == b"y_0,y_1,t\r\n"
    elif kind == "npz":
        with np.load(path) as arrays:
            assert (arrays["y"].shape, arrays["t"].dtype.kind) == ((0, 2), "U")
    else:
        table = parquet.read_table(path)
        assert (table.num_rows, [str(t) for t in table.schema.types]) == (0, ["float", "float", "string"])


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
def test_rows_that_fail_leave_no_file(kind: str, tmp_path: Path) -> None:
    assert nnc("train", write(tmp_path / "tiny.nn", TINY), "-o", tmp_path / "run").status == 0
    lines = ["x", *map(str, range(200_000)), "no number"]
    refused(nnc("predict", tmp_path / "run", write(tmp_path / "rows.csv", "\n".join(lines)), "-o", tmp_path / f"out.{kind}"), "E404", "line 200002")
    assert not (tmp_path / f"out.{kind}").exists()
    assert leftovers(tmp_path) == []


def test_a_full_disk_in_the_middle_of_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_files, "GROUP", 10)

    def batches() -> Iterator[dict[str, Array]]:
        for place in range(20):
            if place == 10:
                monkeypatch.setattr("os.write", full)
            yield {"y": np.zeros((10, 1), np.float32)}

    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(SpecError) as refusal:
        write_results(batches(), {"y": Kind(FLOAT, (1,))}, tmp_path / "out.parquet")
    monkeypatch.undo()
    assert [d.code for d in refusal.value.diagnostics] == ["E701"]
    assert [*tmp_path.iterdir()] == []
