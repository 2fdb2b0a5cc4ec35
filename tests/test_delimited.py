"""The reader of delimited files: the same cells, lines and refusals as the csv module gives, and the same bits as float(), by NumPy and compiled."""

from __future__ import annotations

import csv
import io
import random
import struct
from collections.abc import Iterator
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nnc
from nnc.compiler import schema
from nnc.compiler.diagnostics import Refusal
from nnc.compiler.schema import number
from nnc.runtime.data import cells, decimals, delimited
from nnc.runtime.data.cells import ByNumPy, Cells, Way, compiled
from nnc.runtime.data.decimals import PADDING
from nnc.runtime.data.delimited import Delimited, Lines, NoNumber
from nnc.runtime.engine import Engine, using

Array = np.ndarray[Any, Any]
GONE = {"", "?", "NA", "-1", "0.50"}


@pytest.fixture(scope="module", params=["numpy", "numpy without x87", "compiled"])
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    if request.param != "compiled":
        with pytest.MonkeyPatch.context() as patch:
            if request.param != "numpy":
                patch.setattr(decimals, "_wide", lambda: False)
            yield ByNumPy()
        return
    if find_spec("numba") is None:
        pytest.skip("the fast engine's numba is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNC_CACHE", str(tmp_path_factory.mktemp("code")))
        yield compiled()


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
    st.sampled_from(["-1", "-1.0", "0.50", ".5"]),
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
def test_the_same_as_the_csv_module(table: tuple[bytes, str], size: int, parts: int, tmp_path: Path, way: Way) -> None:
    """In blocks of any size, cut for any number of threads."""
    content, separator = table
    path = tmp_path / "f.csv"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "way", lambda size: way)
        patch.setattr(delimited, "BLOCK", size)
        patch.setattr(delimited, "WORTH_A_THREAD", 8)
        patch.setattr(delimited.threads, "workers", lambda: parts)
        assert by_blocks(path, separator) == by_module(content, separator)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(table=tables(), size=st.sampled_from([16, 100, 1 << 16]))
def test_looked_through_at_once_or_line_by_line(table: tuple[bytes, str], size: int, tmp_path: Path) -> None:
    """`nnc check` promises the same, or refuses the same, whichever way it cuts the file."""
    require_one_promise(*table, size, tmp_path)


ODD = ["1,2,3\n4", "1\n2\n3\n4", "1\n2,3,4", "1,2\n3", "1,2\n\n3,4", "\n1,2", " -1,1\n-1,-1.0", "1_0,1", "1\r2,3", "1,2\r\n3,4\r", '"1",2', '1,"2\n"\n3,4']


@pytest.mark.parametrize("rows", ODD)
def test_lines_that_are_not_alike_are_not_cut_at_once(rows: str, tmp_path: Path) -> None:
    require_one_promise(f"a,b\n{rows}\n".encode(), ",", 100, tmp_path)
    require_one_promise(f"a\n{rows}\n".encode(), ";", 100, tmp_path)


def require_one_promise(content: bytes, separator: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(content)

    def promised() -> Any:
        try:
            found = schema.csv_schema(path, separator, True, GONE)
        except Refusal as refusal:
            return refusal.code, refusal.label
        return found.columns, found.rows, {name: [str(value) for value in values] for name, values in found.values.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "_PIECE", size)
        at_once = promised()
        patch.setattr(schema, "_pieces", lambda *given: None)
        assert at_once == promised()
    if isinstance(wanted := by_module(content, separator), tuple):
        names, columns, lines = wanted
        texts = {name for name, cells in zip(names, columns, strict=True) if any(isinstance(cell, str) for cell in cells)}
        assert ({name for name, column in at_once[0].items() if column.dtype == "string"}, at_once[1]) == (texts, len(lines))
        for name, cells in zip(names, columns, strict=True):
            known = set(cells) - {""} if name in texts else {str(x) for x in np.array(cells, np.int64).view(np.float64).tolist()}
            free = {"nan", "-0.0", "0.0"}  # missing or a value; one of two that are equal
            assert set(at_once[2][name]) | free == known | free


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


def parsed(cells: list[str], way: Way) -> tuple[Array, Array]:
    raw = [cell.encode() for cell in cells]
    text = np.frombuffer(bytes(PADDING) + b"".join(r + b"," for r in raw) + bytes(PADDING), np.uint8)
    lengths = np.array([len(r) for r in raw])
    ends = PADDING + np.cumsum(lengths + 1) - 1
    values = np.empty(len(ends))
    (sure,) = way.numbers(Cells(text, PADDING, ends.reshape(1, -1), None, 0, True), [0], [values])
    return values, sure


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
        "fifteen digits": [f"{drawn.uniform(1, 10):.14f}" for _ in range(n)],
        "integers": [str(drawn.randint(-(10**6), 10**6)) for _ in range(n)],
        "long integers": [str(drawn.randint(0, 10**19 - 1)) for _ in range(n)],
        "exponents": [f"{drawn.randint(0, 10 ** drawn.randint(1, 19) - 1)}e{drawn.choice('+-')}{drawn.randint(0, 99):02}" for _ in range(n)],
        "between two floats": [str(((2 * (drawn.getrandbits(53) | 1 << 52) + 1) << drawn.randint(0, 9)) + drawn.choice((-1, 0, 0, 1))) for _ in range(n)],
        "any bits": [f"{x:.17g}" for x in any_bits],
        "hardly digits": ["".join(drawn.choice("0123456789.-+eE x") for _ in range(drawn.randint(0, 12))) for _ in range(n)],
    }


def between(bits: int) -> str:
    """The decimal exactly between two floats."""
    low, high = (Decimal(struct.unpack("d", struct.pack("Q", b))[0]) for b in (bits, bits + 1))
    return str((low + high) / 2)


def require_the_bits_of_float(cells: list[str], way: Way) -> tuple[int, int]:
    """How many are numbers, and how many of these the way is certain of."""
    values, sure = parsed(cells, way)
    wanted = [number(cell) for cell in cells]
    assert all(w is not None for w, s in zip(wanted, sure.tolist(), strict=True) if s)
    right = np.array([0.0 if w is None else w for w in wanted])
    np.testing.assert_array_equal(values[sure].view(np.int64), right[sure].view(np.int64))
    return len(cells) - wanted.count(None), int(sure.sum())


@pytest.mark.parametrize("form", forms(1))
def test_numbers_have_the_bits_of_float(form: str, way: Way) -> None:
    numbers, sure = require_the_bits_of_float(forms(20_000)[form], way)
    least = {"any bits": 0.2, "hardly digits": 0.3, "between two floats": 0.4, "magnitudes": 0.9} if isinstance(way, ByNumPy) else {}
    assert sure >= least.get(form, 0.98) * numbers, "left to float()"


DIGITS = st.text("0123456789", max_size=40)
WRITTEN = st.one_of(
    st.builds("".join, st.tuples(st.sampled_from(["", "-", "+"]), DIGITS, st.sampled_from(["", "."]), DIGITS,
                                 st.one_of(st.just(""), st.integers(-400, 400).map(lambda e: f"e{e}"), st.integers(-30, 30).map(lambda e: f"E{e:+03}")))),
    st.integers(0, (0x7FE << 52)).map(between),  # of up to a thousand digits
    st.integers(1, 1 << 53).map(lambda bits: f"{between(bits):.30}e-{300 + bits % 25}"),
    st.floats(allow_nan=False).map(repr),
    st.sampled_from("""inf -Infinity nan NaN . -. e5 .e5 1e 1e+ 1.e5 0e999999999999 1e-99999999 1e99999999 0x10 1_0 1e5. 00000000000000000000001
        0.0000000000000000000000000000001 2.2250738585072011e-308 4.9406564584124654e-324 2.4703282292062327e-324 2.4703282292062328e-324
        1.7976931348623158e308 1.7976931348623159e308 9007199254740993 9007199254740992.9999999999999999 -0.0 -0e5 123456789: 1/2
        12345678901234567890""".split()),
    st.sampled_from(["", " ", " 1", "1.5 ", "\t2 ", "\v3", "1 2", "- 1", " 12345.678901 "]),
)  # fmt: skip


@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(cells=st.lists(WRITTEN, min_size=1, max_size=30))
def test_whatever_is_written_has_the_bits_of_float(cells: list[str], way: Way) -> None:
    require_the_bits_of_float(cells, way)


def test_compiled_code_is_for_large_files_and_not_for_numpys_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is compiled for a file that is read in less time."""
    pytest.importorskip("numba", reason="the fast engine's numba is not installed")
    monkeypatch.setattr(cells, "compiled", lambda: "compiled")

    def chosen(size: int) -> str:
        found = cells.way(size)
        return found if isinstance(found, str) else type(found).__name__

    sizes = (1_000_000, 50_000_000, 1_000_000_000)
    assert [chosen(size) for size in sizes] == ["ByNumPy"] * 3, "the suite runs on NumPy's engine"
    monkeypatch.setenv("NNC_ENGINE", "fast")
    monkeypatch.setenv("NNC_CACHE", str(tmp_path))
    assert [chosen(size) for size in sizes] == ["ByNumPy", "ByNumPy", "compiled"]
    monkeypatch.setattr(type(cells.codes.ends), "kept", True)
    assert [chosen(size) for size in sizes] == ["ByNumPy", "compiled", "compiled"]
    with using(Engine("numpy")):
        assert [chosen(size) for size in sizes] == ["ByNumPy"] * 3


@pytest.mark.parametrize("engine", ["numpy", "fast"])
def test_the_engine_of_a_training_reads_its_file(engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="the fast engine's numba is not installed")
    monkeypatch.setattr(cells, "WORTH_LOADING", 1)
    monkeypatch.setattr(cells, "WORTH_COMPILING", 1)
    by: list[Way] = []
    monkeypatch.setattr(delimited, "way", lambda size: by.append(cells.way(size)) or by[-1])  # type: ignore[func-returns-value]
    monkeypatch.setenv("NNC_CACHE", str(tmp_path))
    (tmp_path / "f.csv").write_text("a,b\n" + "1.25,2\n" * 20)
    spec = """network(a: float32[1]) { return y = a -> dense(1) }
        data { source = csv("f.csv")  a = column(a)  t = column(b)  split = random(train=0.5, validation=0.5) }
        train { loss = mse(y, t)  optimizer = sgd(lr=0.1)  batch = 5  epochs = 1 }"""
    (tmp_path / "s.nn").write_text(spec)
    nnc.train(tmp_path / "s.nn", out=tmp_path / "run", engine=engine)
    assert by
    assert all(isinstance(found, ByNumPy) == (engine == "numpy") for found in by)


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
    path.write_bytes(long := content[:4] + content[4:-4] * 20 + content[-4:])
    with pytest.raises(Refusal) as found:
        schema.csv_schema(path, ",", True, ())
    assert found.value.label == f"byte {long.index(0xFF)} is not UTF-8"
    for bad in (b"3,\xff\n", b"3,\xc3"):  # a byte that is none, and half a character at the end
        path.write_bytes(odd := b"a,b\n" + "3,\u00e9\n".encode() * 300_000 + bad)
        with pytest.raises(Refusal) as found:
            schema.csv_schema(path, ",", True, ())
        assert found.value.label == f"byte {len(odd) - len(bad) + 2} is not UTF-8"
