"""The reader of delimited files: the same cells, lines and refusals as the csv module gives, and the same bits as float()."""

from __future__ import annotations

import csv
import io
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnc.compiler.diagnostics import Refusal
from nnc.compiler.schema import number
from nnc.runtime.data import delimited
from nnc.runtime.data.decimals import PADDING, parse
from nnc.runtime.data.delimited import Delimited, Lines, NoNumber

Array = np.ndarray[Any, Any]
GONE = {"", "?", "NA"}


def bits(array: Array) -> list[int]:
    """The bits of floats, with one NaN."""
    return np.where(np.isnan(array), np.nan, array).reshape(-1).view(np.int64).tolist()  # type: ignore[no-any-return]


def by_module(content: bytes, separator: str) -> Any:
    """What the csv module reads: names, columns and lines; or the code of the refusal with the line."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "E410"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, lines = [], []
    try:
        names = [cell.strip() for cell in next(reader)]
        for row in reader:
            if row and len(row) != len(names):
                return f"E403 line {reader.line_num}"
            if row:
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except csv.Error:
        return f"E410 line {reader.line_num}"
    except StopIteration:
        return "E410"
    if len(set(names)) < len(names):
        return "E410"
    columns: list[list[Any]] = []
    for place in range(len(names)):
        cells = [row[place] for row in rows]
        values = [float("nan") if cell in GONE else number(cell) for cell in cells]
        columns.append(["" if c in GONE else c for c in cells] if None in values else bits(np.array(values, float)))
    return names, columns, lines


def by_blocks(path: Path, separator: str) -> Any:
    try:
        source = Delimited(path, separator, True, GONE)
        texts: set[str] = set()
        while True:
            where, parts = Lines(path), [[] for _ in source.names]  # type: ignore[var-annotated]
            try:
                for block in source.blocks(set(source.names) - texts, texts):
                    where.add(block.lines)
                    for part, name in zip(parts, source.names, strict=True):
                        part += block.columns[name].tolist() if name in texts else bits(block.columns[name])
            except NoNumber as found:
                texts.add(found.column)
                continue
            rows = len(parts[0]) if parts else 0
            return source.names, parts, [int(where(row).split()[1]) for row in range(rows)]
    except Refusal as refusal:
        return f"{refusal.code} {refusal.label.partition(':')[0].partition(' has ')[0]}" if refusal.label.startswith("line ") else refusal.code


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-1000, 1000).map(lambda x: f"{x:.2f}"),
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(["1.", ".5", "-0", "+3", "1e5", "1e+05", "-2.5E-03", "1e400", "0x1", "1_0", "1.2.3", "--1", "-", ".", "e+05", "inf", "nan", "１"]),
)
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters='"\r\n,;\0'), max_size=12)
CELLS = st.one_of(NUMBERS, PLAIN, st.sampled_from(["", "?", "NA", " ", " 1 ", "\t2", "a" * 70]))
WILD = st.one_of(CELLS, st.text(st.sampled_from('"\r\n,;a1 .é'), max_size=6))


@st.composite
def tables(draw: st.DrawFn) -> tuple[bytes, str]:
    """A file, mostly a table whose columns are of one kind each."""
    separator, end = draw(st.sampled_from(",;\t")), draw(st.sampled_from(["\n", "\r\n", "\n", "\r"]))
    columns = draw(st.lists(st.sampled_from([NUMBERS, PLAIN, CELLS, WILD, st.sampled_from(["a", "b", "cc"])]), min_size=1, max_size=4))
    rows = draw(st.lists(st.tuples(*columns), max_size=30))
    header = separator.join(f"n{i}" for i in range(len(columns)))
    if draw(st.booleans()):
        written = io.StringIO(newline="")
        csv.writer(written, delimiter=separator, lineterminator=end).writerows(rows)
        body = written.getvalue()
    else:
        body = "".join(separator.join(row) + end for row in rows)
    text = header + end + (body if draw(st.booleans()) else body.rstrip("\r\n"))
    return (b"\xef\xbb\xbf" if draw(st.booleans()) else b"") + text.encode(), separator


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(table=tables(), size=st.sampled_from([16, 64, 300, 5000]), parts=st.sampled_from([1, 2, 3]))
def test_the_same_as_the_csv_module(table: tuple[bytes, str], size: int, parts: int, tmp_path: Path) -> None:
    """In blocks of any size, cut for any number of threads."""
    content, separator = table
    path = tmp_path / "f.csv"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCK", size)
        patch.setattr(delimited, "WORTH_A_THREAD", 8)
        patch.setattr(delimited.threads, "workers", lambda: parts)
        assert by_blocks(path, separator) == by_module(content, separator)


@pytest.mark.parametrize("distinct", [3, 150, 5000])
def test_texts_of_all_lengths(distinct: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few that come again and again, and many; alike but for their ends."""
    monkeypatch.setattr(delimited, "BLOCK", 4000)
    drawn = random.Random(0)
    known = ["".join(drawn.choice("ab ") for _ in range(drawn.randint(1, 66))) for _ in range(distinct)]
    cells = [drawn.choice(known[: 1 + i // 20]) for i in range(3000)]
    path = tmp_path / "f.csv"
    path.write_text("a,b\n" + "".join(f"{cell},1\n" for cell in cells), "utf-8")
    found = [cell for block in Delimited(path, ",", True, ()).blocks({"b"}, {"a"}) for cell in block.columns["a"].tolist()]
    assert found == [cell.strip() for cell in cells]
    assert len({id(cell) for cell in found}) == len(set(found)), "equal texts are several objects"


def parsed(cells: list[str]) -> tuple[Array, Array]:
    raw = [cell.encode() for cell in cells]
    text = np.frombuffer(bytes(PADDING) + b"".join(r + b"," for r in raw) + bytes(PADDING), np.uint8)
    lengths = np.array([len(r) for r in raw])
    ends = PADDING + np.cumsum(lengths + 1) - 1
    return parse(text, ends - lengths, ends)


def forms(n: int) -> dict[str, list[str]]:
    """Numbers as programs write them, by what is special about them."""
    drawn = random.Random(0)
    any_bits = [struct.unpack("d", struct.pack("Q", drawn.getrandbits(64)))[0] for _ in range(n)]
    return {
        "repr": [repr(drawn.gauss(0, 1)) for _ in range(n)],
        "magnitudes": [repr(drawn.random() * 10 ** drawn.randint(-30, 30)) for _ in range(n)],
        "savetxt": [f"{drawn.gauss(0, 1):.18e}" for _ in range(n)],
        "prices": [f"{drawn.gauss(0, 100):.2f}" for _ in range(n)],
        "short": [f"{drawn.gauss(0, 10 ** drawn.randint(-2, 4)):.{drawn.randint(0, 4)}f}" for _ in range(n)],
        "six digits": [f"{drawn.gauss(0, 100):.6g}" for _ in range(n)],
        "integers": [str(drawn.randint(-(10**6), 10**6)) for _ in range(n)],
        "long integers": [str(drawn.randint(0, 10**19 - 1)) for _ in range(n)],
        "exponents": [f"{drawn.randint(0, 10 ** drawn.randint(1, 19) - 1)}e{drawn.choice('+-')}{drawn.randint(0, 99):02}" for _ in range(n)],
        "between two floats": [str(((2 * (drawn.getrandbits(53) | 1 << 52) + 1) << drawn.randint(0, 9)) + drawn.choice((-1, 0, 0, 1))) for _ in range(n)],
        "any bits": [f"{x:.17g}" for x in any_bits],
        "hardly digits": ["".join(drawn.choice("0123456789.-+eE x") for _ in range(drawn.randint(0, 12))) for _ in range(n)],
    }


@pytest.mark.parametrize("form", forms(1))
def test_numbers_have_the_bits_of_float(form: str) -> None:
    cells = forms(20_000)[form]
    values, sure = parsed(cells)
    wanted = [number(cell) for cell in cells]
    assert all(w is not None for w, s in zip(wanted, sure.tolist(), strict=True) if s)
    right = np.array([0.0 if w is None else w for w in wanted])
    np.testing.assert_array_equal(values[sure].view(np.int64), right[sure].view(np.int64))
    least = {"any bits": 0.2, "hardly digits": 0.05, "between two floats": 0.4, "magnitudes": 0.9}
    assert sure.mean() > least.get(form, 0.98), "left to float()"


def test_a_long_line_and_a_small_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK", 100)
    path = tmp_path / "f.csv"
    path.write_text("a,b\n1," + "x" * 5000 + "\n2,y\n", "utf-8")
    (block, *more) = Delimited(path, ",", True, ()).blocks({"a"}, {"b"})
    texts = [cell for part in (block, *more) for cell in part.columns["b"].tolist()]
    assert texts == ["x" * 5000, "y"]


def test_a_byte_that_is_not_utf8_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK", 100)
    path = tmp_path / "f.csv"
    content = b"a,b\n" + b"1,x\n" * 200 + b"2,\xff\n"
    path.write_bytes(content)
    with pytest.raises(Refusal) as found:
        list(Delimited(path, ",", True, ()).blocks({"a"}, {"b"}))
    assert found.value.label == f"byte {content.index(0xFF)} is not UTF-8"
