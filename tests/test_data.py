"""Reading data: what files give, what is refused and where, how rows are split, and what steps learn from which rows."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import nnc, refused, write
from sklearn import impute as sklearn_impute
from sklearn import metrics as sklearn_metrics
from sklearn import preprocessing

import nnc as api
from nnc.compiler import schema as schemas
from nnc.compiler.diagnostics import Diagnostic, SpecError
from nnc.compiler.pipeline import analyse
from nnc.compiler.source import Source
from nnc.runtime.data.dataset import Dataset, load

Array = np.ndarray[Any, Any]


def spec(data: str, inputs: str = "a: float32[1]", body: str = "return y = a -> dense(1)", loss: str = "mse(y, t)", train: str = "") -> str:
    return f"""
network({inputs}) {{ {body} }}
data {{
{data}
}}
train {{ loss = {loss}  optimizer = sgd(lr=0.01)  batch = 4  epochs = 2  {train} }}
"""


def read(folder: Path, text: str) -> Dataset:
    """The data of a spec, read whole."""
    _, data = load(analyse(Source("s.nn", text), root=folder), folder)
    return data


def refusal(folder: Path, text: str) -> Diagnostic:
    """The one diagnostic of a spec whose data is refused."""
    with pytest.raises(SpecError) as found:
        read(folder, text)
    (only,) = found.value.diagnostics
    assert only.help
    return only


def said(diagnostic: Diagnostic) -> str:
    return f"{diagnostic.title} {diagnostic.label}"


# csv


@pytest.mark.parametrize(
    ("content", "source", "wanted"),
    [
        ("a;t\n1;2\n", 'csv("f.csv")', 'csv(path, separator=";")'),
        ('"a";"t"\n1;2\n', 'csv("f.csv")', 'csv(path, separator=";")'),
        ('a;t\n"1";2\n', 'csv("f.csv")', 'csv(path, separator=";")'),
        ("a\tt\n1\t2\n", 'csv("f.csv")', "tsv(path)"),
        ("a,t\n1,2\n", 'tsv("f.csv")', "csv(path)"),
    ],
)
def test_other_separators_are_named(content: str, source: str, wanted: str, tmp_path: Path) -> None:
    """A table that is cut at the wrong character has one column, or odd quotes."""
    (tmp_path / "f.csv").write_text(content)
    with pytest.raises(SpecError) as found:
        read(tmp_path, spec(TWO.replace('csv("f.csv")', source)))
    assert {d.code for d in found.value.diagnostics} <= {"E402", "E410"}
    assert all(d.help.endswith(f"write source = {wanted}") for d in found.value.diagnostics), found.value


TWO = 'source = csv("f.csv")\n a = column(a)\n t = column(t)'


@pytest.mark.parametrize(
    ("content", "source"),
    [
        (b"a,t\n1,2\n3,4\n", ""),
        (b"\xef\xbb\xbfa,t\n1,2\n3,4\n", ""),  # a byte order mark
        (b"a,t\r\n1,2\r\n3,4\r\n", ""),
        (b"a,t\r1,2\r3,4\r", ""),
        (b"a,t\n1,2\n3,4", ""),  # no end of the last line
        (b"a,t\n1,2\n\n3,4\n\n", ""),  # empty lines are no rows
        (b'"a","t"\n"1","2"\n"3","4"\n', ""),
        (b" a , t \n 1 , 2 \n3,4\n", ""),
        (b"a;t\n1;2\n3;4\n", ', separator=";"'),
        (b"a\tt\n1\t2\n3\t4\n", ', separator="\t"'),
        (b"x,t,a\nu,2,1\nv,4,3\n", ""),  # in another order, with a column more
        (b"a,t\n1e0,2.\n+3,0.4e1\n", ""),
    ],
)
def test_csv_forms(content: bytes, source: str, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(content)
    data = read(tmp_path, spec(TWO.replace('"f.csv"', f'"f.csv"{source}')))
    assert data.arrays["a"].tolist() == [[1], [3]]
    assert data.arrays["t"].tolist() == [[2], [4]]


def test_csv_packed(tmp_path: Path) -> None:
    (tmp_path / "f.csv.gz").write_bytes(gzip.compress(b"a,t\n1,2\n3,4\n"))
    assert read(tmp_path, spec(TWO.replace("f.csv", "f.csv.gz"))).arrays["a"].tolist() == [[1], [3]]
    (tmp_path / "f.csv.gz").write_bytes(gzip.compress(b"a,t\n1,2\n3,4\n" * 1000)[:-20])
    assert refusal(tmp_path, spec(TWO.replace("f.csv", "f.csv.gz"))).code == "E410"
    (tmp_path / "f.csv.gz").write_bytes(b"a,t\n1,2\n")
    assert refusal(tmp_path, spec(TWO.replace("f.csv", "f.csv.gz"))).code == "E410"


def test_csv_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("1,2\n3,4\n", "utf-8")
    data = read(tmp_path, spec('source = csv("f.csv", header=false)\n a = column(c1)\n t = column(c2)'))
    assert data.arrays["a"].tolist() == [[1], [3]]


def test_csv_quotes(tmp_path: Path) -> None:
    """Separators, quotes and ends of lines inside quotes are text; a later line is counted as it stands in the file."""
    (tmp_path / "f.csv").write_text('a,w,t\n1,"x,y",5\n2,"say ""no""",6\n3,"two\nlines",7\n4,z,\n', "utf-8")
    data = spec('source = csv("f.csv")\n a = column(a)\n w = column(w) -> one_hot\n t = column(t)', "a: float32[1], w: float32[4]",
                "return y = concat(a, w) -> dense(1)")  # fmt: skip
    found = refusal(tmp_path, data)
    assert found.code == "E405"
    assert "line 6 of f.csv" in found.label
    (tmp_path / "f.csv").write_text((tmp_path / "f.csv").read_text("utf-8").replace("4,z,", "4,z,8"), "utf-8")
    assert read(tmp_path, data).raw["w"].tolist() == ["x,y", 'say "no"', "two\nlines", "z"]


def test_csv_missing(tmp_path: Path) -> None:
    """Words of the list, and empty cells, are missing: NaN in number columns, no category in text."""
    (tmp_path / "f.csv").write_text("a,w,t\n1,x,1\n?,NA,2\nNA,?,3\n,,4\n5,y,5\n", "utf-8")
    source = 'source = csv("f.csv", missing=["?", "NA"])\n a = column(a) -> impute(constant, -1)\n w = column(w) -> one_hot\n t = column(t)'
    data = read(tmp_path, spec(source, "a: float32[1], w: float32[2]", "return y = concat(a, w) -> dense(1)"))
    assert data.arrays["a"].reshape(-1).tolist() == [1, -1, -1, -1, 5]
    assert data.arrays["w"].tolist() == [[1, 0], [0, 0], [0, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"a,t\n1,2\n3\n", "E403", "line 3"),
        (b"a,t\n1,2\n3,4,5\n", "E403", "line 3 has 3 cells"),
        (b"a,t\n1,2\n\n\n3,4,5\n", "E403", "line 5"),
        (b"", "E410", "empty"),
        (b"a,t\n", "E410", "no rows"),
        (b"a,t", "E410", "no rows"),
        (b"a,a,t\n1,2,3\n", "E410", "`a` twice"),
        (b"b,t\n1,2\n", "E402", "`a`"),
        (b"a,t\n1,2\n,4\n", "E405", "column `a`, line 3 of f.csv"),
        (b"a,t\n1,2\nnan,4\n5,nan\n", "E405", "column `a`, line 3"),
        (b"a,t\n1,2\ninf,4\n", "E405", "infinite"),
        (b"a,t\n1,2\n1e999,4\n", "E405", "infinite"),
        (b'a,t\n1,2\n"3,4\n', "E410", ""),
        (b'a,t\n1,2\n"3"x,4\n', "E410", "line 3"),
        (b"a,t\n1,\xff\n", "E410", "UTF-8"),
        (b"\xff\xfea\x00,\x00t\x00\n\x00", "E410", "UTF-8"),
        (b"a,t\n1,2\n\x00,4\n", "E4", ""),
    ],
)
def test_csv_refused(content: bytes, code: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(SpecError) as found:
        read(tmp_path, spec(TWO))
    first = found.value.diagnostics[0]
    assert first.code.startswith(code)
    assert words in said(first)


@pytest.mark.parametrize("path", ["none.csv", "folder", "../f.csv", "/etc/passwd", "folder/../../f.csv", "link.csv", "\0.csv"])
def test_paths_refused(path: str, tmp_path: Path) -> None:
    """What is not there, no file, or outside the data root."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "f.csv").write_text("a,t\n1,2\n", "utf-8")
    (root / "link.csv").symlink_to(tmp_path / "f.csv")
    with pytest.raises(SpecError) as found:
        read(root, spec(TWO.replace("f.csv", path)))
    assert found.value.diagnostics[0].code in ("E401", "E409", "E410", "E101")


def test_text_where_numbers_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("a,t\n1,2\n3,4\nabc,5\n", "utf-8")
    assert refusal(tmp_path, spec(TWO.replace("column(a)", "column(a) -> standardize"))).code == "E404"


def test_text_far_down_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large file `check` sees the first rows only: what comes later is found when it is read, with its line."""
    monkeypatch.setattr(schemas, "WHOLE_BYTES", 100)
    rows = [f"{i},{i}" for i in range(3000)]
    (tmp_path / "f.csv").write_text("\n".join(["a,t", *rows, "7,abc", "8,9"]), "utf-8")
    found = refusal(tmp_path, spec(TWO))
    assert found.code == "E404"
    assert "column `t` holds `abc` in line 3002 of f.csv" in found.label


def test_a_class_found_only_in_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "WHOLE_BYTES", 100)
    (tmp_path / "f.csv").write_text("\n".join(["a,w,t", *(f"{i},{'yz'[i % 2]},{i}" for i in range(2000)), "1,x,2", "1,x,2"]), "utf-8")
    text = 'source = csv("f.csv")\n a = column(a)\n w = column(w) -> one_hot\n t = column(t)'
    data = read(tmp_path, spec(text, "a: float32[1], w: float32[3]", "return y = concat(a, w) -> dense(1)"))
    assert data.learned.classes["w/one_hot"] == ("x", "y", "z")
    assert refusal(tmp_path, spec(text, "a: float32[1], w: float32[2]", "return y = concat(a, w) -> dense(1)")).code == "E407"


# Classes

CLASSES = """source = csv("f.csv")
  a = column(a)
  t = column(t) -> category
  split = ordered(train=50%, validation=25%, test=25%)"""


def test_an_unseen_class_in_a_target(tmp_path: Path) -> None:
    """It names the row, whichever split it is in."""
    (tmp_path / "f.csv").write_text("a,t\n1,x\n2,y\n3,x\n4,y\n5,x\n6,y\n7,z\n8,x\n", "utf-8")
    for step in ("category", 'category(["x", "y"])', "one_hot", 'one_hot(["x", "y"])'):
        width = 2 if "[" in step else 3
        body = f"return y = a -> dense({width}) -> softmax"
        found = refusal(tmp_path, spec(CLASSES.replace("category", step), body=body, loss="cross_entropy(y, t)"))
        assert found.code == "E406"
        assert "`z` in line 8 of f.csv" in found.label
    named = spec(CLASSES.replace("category", 'category(["x", "y", "z"])'), body="return y = a -> dense(3) -> softmax", loss="cross_entropy(y, t)")
    assert read(tmp_path, named).arrays["t"].tolist() == [0, 1, 0, 1, 0, 1, 2, 0]


def test_a_missing_class_in_a_target(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("a,t\n1,x\n2,y\n3,\n4,y\n5,x\n6,y\n7,y\n8,x\n", "utf-8")
    found = refusal(tmp_path, spec(CLASSES, body="return y = a -> dense(2) -> softmax", loss="cross_entropy(y, t)"))
    assert found.code == "E406"
    assert "a missing value in line 4" in found.label


def test_a_number_outside_a_targets_classes(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("a,t\n1,0\n2,1\n3,0\n4,2.5\n", "utf-8")
    text = 'source = csv("f.csv")\n a = column(a)\n t = column(t) -> category([0, 1])'
    found = refusal(tmp_path, spec(text, body="return y = a -> dense(2) -> softmax", loss="cross_entropy(y, t)"))
    assert "2.5 in line 5" in found.label


# Arrays


def npy(array: Array, **given: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **given)
    return file.getvalue()


def header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def packed(folder: Path, members: dict[str, bytes], name: str = "f.npz") -> None:
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)


ARRAYS = 'source = npz("f.npz")\n a = column(a)\n t = column(t)'


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "?"])
def test_npz_types(dtype: str, tmp_path: Path) -> None:
    numbers = np.array([0, 1, 1, 0])
    np.savez(tmp_path / "f.npz", a=numbers.reshape(4, 1).astype(dtype), t=numbers.reshape(4, 1).astype("f8"))
    scaled = ARRAYS.replace("column(a)", "column(a) -> scale(2)")
    assert read(tmp_path, spec(scaled)).arrays["a"].reshape(-1).tolist() == [0, 2, 2, 0]


def test_npz_keeps_shapes(tmp_path: Path) -> None:
    image, order = np.random.default_rng(0).random((5, 2, 4, 3)), np.asfortranarray(np.arange(10.0).reshape(5, 2))
    np.savez(tmp_path / "f.npz", a=image, t=order)
    data = read(tmp_path, spec(ARRAYS, "a: float32[2, 4, 3]", "return y = a -> flatten -> dense(2)"))
    np.testing.assert_array_equal(data.arrays["a"], image.astype("f4"))
    np.testing.assert_array_equal(data.arrays["t"], order)


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.arange(8.0).reshape(4, 2))
    text = 'source = npy("f.npy")\n a = column(array)\n t = column(array)'
    assert read(tmp_path, spec(text, "a: float32[2]", "return y = a -> dense(2)")).arrays["a"].shape == (4, 2)


class Mark:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (self.path.__class__.touch, (self.path,))


FOUR = np.zeros((4, 1), "f4")


def arrays_refused() -> dict[str, dict[str, bytes]]:
    """Archives that are refused, by what is wrong with them."""
    return {
        "declares": {"a.npy": header("(1000000000000, 1)"), "t.npy": header("(1000000000000, 1)")},
        "few bytes": {"a.npy": header("(4, 1)") + b"\0" * 9, "t.npy": npy(FOUR)},
        "no bytes": {"a.npy": header("(4, 1)"), "t.npy": npy(FOUR)},
        "unequal": {"a.npy": npy(FOUR), "t.npy": npy(FOUR[:3])},
        "scalar": {"a.npy": npy(np.array(3.0)), "t.npy": npy(FOUR)},
        "object": {"a.npy": npy(np.array([1, "x"], object), allow_pickle=True), "t.npy": npy(FOUR)},
        "record": {"a.npy": npy(np.zeros(4, [("x", "f4")])), "t.npy": npy(FOUR)},
        "text": {"a.npy": npy(np.array(["x"] * 4)), "t.npy": npy(FOUR)},
        "complex": {"a.npy": npy(FOUR.astype("c8")), "t.npy": npy(FOUR)},
        "no array": {"a.npy": b"hello", "t.npy": npy(FOUR)},
        "nothing": {"a.npy": b"", "t.npy": npy(FOUR)},
        "pickle": {"a.npy": pickle.dumps([1]), "t.npy": npy(FOUR)},
        "negative": {"a.npy": header("(-4, 1)"), "t.npy": npy(FOUR)},
        "expression": {"a.npy": header("(2**40, 1)"), "t.npy": npy(FOUR)},
        "no rows": {"a.npy": npy(FOUR[:0]), "t.npy": npy(FOUR[:0])},
        "empty": {},
    }


@pytest.mark.parametrize("name", arrays_refused())
def test_npz_refused(name: str, tmp_path: Path) -> None:
    packed(tmp_path, arrays_refused()[name])
    with pytest.raises(SpecError) as found:
        read(tmp_path, spec(ARRAYS))
    assert {d.code for d in found.value.diagnostics} == {"E402" if name == "empty" else "E410"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_npz_members_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        for name in ("a.npy", "a.npy", "t.npy"):
            archive.writestr(name, npy(FOUR))
    assert "`a` twice" in said(refusal(tmp_path, spec(ARRAYS)))


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    content = npy(np.array([Mark(tmp_path / "executed")], object), allow_pickle=True)
    packed(tmp_path, {"a.npy": content, "t.npy": npy(FOUR)})
    assert refusal(tmp_path, spec(ARRAYS)).code == "E410"
    (tmp_path / "f.npy").write_bytes(content)
    assert refusal(tmp_path, spec('source = npy("f.npy")\n a = column(array)\n t = column(array)')).code == "E410"
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("cut", [0, 3, 20, 100, -1, -30])
def test_a_truncated_archive(cut: int, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "f.npz", a=np.random.default_rng(0).random((40, 1)), t=np.ones((40, 1)))
    (tmp_path / "f.npz").write_bytes((tmp_path / "f.npz").read_bytes()[:cut])
    assert refusal(tmp_path, spec(ARRAYS)).code == "E410"


def test_flipped_bytes_of_an_archive(tmp_path: Path) -> None:
    """Each gives a diagnostic or the same numbers: an archive's CRC covers its members."""
    np.savez_compressed(tmp_path / "f.npz", a=np.random.default_rng(0).random((6, 1)), t=np.ones((6, 1)))
    good, wanted = (tmp_path / "f.npz").read_bytes(), read(tmp_path, spec(ARRAYS)).arrays["a"]
    chosen, codes = np.random.default_rng(1), set()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= int(chosen.integers(1, 256))
        (tmp_path / "f.npz").write_bytes(bad)
        try:
            np.testing.assert_array_equal(read(tmp_path, spec(ARRAYS)).arrays["a"], wanted)
        except SpecError as error:
            codes |= {d.code for d in error.diagnostics}
    assert codes <= {"E402", "E404", "E405", "E407", "E410"}
    assert "E410" in codes


def test_npy_that_claims_too_much(tmp_path: Path) -> None:
    (tmp_path / "f.npy").write_bytes(header("(1000000000000, 1)") + b"\0" * 64)
    assert refusal(tmp_path, spec('source = npy("f.npy")\n a = column(array)\n t = column(array)')).code == "E410"


# idx

IDX = 'source = idx(images="i", labels="l")\n a = column(image) -> scale(1/255) -> flatten\n t = column(label)'
DIGIT = {"inputs": "a: float32[6]", "body": "return y = a -> dense(3) -> softmax", "loss": "cross_entropy(y, t)"}


def idx(folder: Path, images: bytes | None = None, labels: bytes | None = None, suffix: str = "") -> None:
    pack: Callable[[bytes], bytes] = gzip.compress if suffix else bytes
    content = struct.pack(">IIII", 0x803, 5, 2, 3) + bytes(range(30)) if images is None else images
    (folder / f"i{suffix}").write_bytes(pack(content))
    (folder / f"l{suffix}").write_bytes(pack(struct.pack(">II", 0x801, 5) + bytes([0, 1, 2, 1, 0]) if labels is None else labels))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(suffix: str, tmp_path: Path) -> None:
    idx(tmp_path, suffix=suffix)
    data = read(tmp_path, spec(IDX.replace('"i"', f'"i{suffix}"').replace('"l"', f'"l{suffix}"'), **DIGIT))
    assert data.raw["a"].shape == (5, 1, 2, 3)
    np.testing.assert_allclose(data.arrays["a"], np.arange(30, dtype="f4").reshape(5, 6) / 255, rtol=1e-6)
    assert data.arrays["t"].tolist() == [0, 1, 2, 1, 0]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (b"", None),
        (b"\0\0\x08", None),
        (struct.pack(">IIII", 0x803, 5, 2, 3) + bytes(29), None),
        (struct.pack(">II", 0x803, 5), None),
        (struct.pack(">IIII", 0x12345678, 5, 2, 3) + bytes(30), None),
        (struct.pack(">IIII", 0xD03, 5, 2, 3) + bytes(120), None),  # floats
        (struct.pack(">II", 0x801, 30) + bytes(30), None),  # labels for images
        (struct.pack(">IIII", 0x803, 4, 2, 3) + bytes(24), None),  # fewer images than labels
        (struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1), None),
        (struct.pack(">IIII", 0x803, 0, 2, 3), struct.pack(">II", 0x801, 0)),
        (None, struct.pack(">II", 0x801, 5) + bytes(4)),
        (None, b"hello"),
    ],
)
def test_idx_refused(images: bytes | None, labels: bytes | None, suffix: str, tmp_path: Path) -> None:
    idx(tmp_path, images, labels, suffix)
    with pytest.raises(SpecError) as found:
        read(tmp_path, spec(IDX.replace('"i"', f'"i{suffix}"').replace('"l"', f'"l{suffix}"'), **DIGIT))
    assert found.value.diagnostics[0].code in ("E410", "E407", "E503")


def test_idx_torn_gzip(tmp_path: Path) -> None:
    idx(tmp_path, suffix=".gz")
    path = tmp_path / "i.gz"
    path.write_bytes(path.read_bytes()[:-4])
    found = refusal(tmp_path, spec(IDX.replace('"i"', '"i.gz"').replace('"l"', '"l.gz"'), **DIGIT))
    assert found.code == "E410"


# Splits


def rows_of(folder: Path, split: str, rows: int = 100, label: Callable[[int], int] = lambda i: i % 3) -> dict[str, Array]:
    (folder / "f.csv").write_text("a,t\n" + "".join(f"{i},k{label(i)}\n" for i in range(rows)), "utf-8")
    text = f'source = csv("f.csv")\n a = column(a)\n t = column(t) -> category(["k0", "k1", "k2"])\n split = {split}'
    return read(folder, spec(text, body="return y = a -> dense(3) -> softmax", loss="cross_entropy(y, t)")).splits


@pytest.mark.parametrize("split", ["random(train=70%, validation=20%, test=10%)", "ordered(train=70%, validation=20%, test=10%)",
                                   "random(train=70%, validation=20%, test=10%, stratify=t, seed=4)"])  # fmt: skip
@pytest.mark.parametrize("rows", [30, 97, 1000])
def test_splits_cover_all_rows_once(split: str, rows: int, tmp_path: Path) -> None:
    found = rows_of(tmp_path, split, rows)
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(rows))
    for name, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        assert abs(len(found[name]) - share * rows) <= 2, name
        assert (np.diff(found[name]) > 0).all()


def test_ordered_keeps_the_order(tmp_path: Path) -> None:
    found = rows_of(tmp_path, "ordered(train=50%, validation=30%, test=20%)")
    assert [found[s].tolist() for s in ("train", "validation", "test")] == [list(range(50)), list(range(50, 80)), list(range(80, 100))]


def test_random_is_fixed_by_its_seed(tmp_path: Path) -> None:
    for more in ("", ", stratify=t"):
        first, again, other = (rows_of(tmp_path, f"random(train=60%, test=40%, seed={s}{more})")["test"].tolist() for s in (1, 1, 2))
        assert first == again != other
        assert 30 < np.mean(first) < 70, "rows from everywhere"


def test_stratified_shares(tmp_path: Path) -> None:
    """Each class keeps its share in every split, also a rare one."""
    label = lambda i: 0 if i % 10 else 1 if i % 20 else 2  # noqa: E731
    found = rows_of(tmp_path, "random(train=60%, validation=20%, test=20%, stratify=t)", 400, label)
    for k in range(3):
        total = sum(label(i) == k for i in range(400))
        for name, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
            assert abs(sum(label(i) == k for i in found[name].tolist()) - share * total) <= 1


def test_an_empty_split(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="E411"):
        rows_of(tmp_path, "random(train=98%, validation=1%, test=1%)", 10)


def test_without_a_split_all_rows_train(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("a,t\n1,2\n3,4\n", "utf-8")
    assert {k: v.tolist() for k, v in read(tmp_path, spec(TWO)).splits.items()} == {"train": [0, 1]}


# What steps learn

NUMBERS = np.random.default_rng(3).normal(5, 3, (40, 1))


def column_through(folder: Path, steps: str, values: Array, width: int = 1, split: str = "ordered(train=75%, test=25%)") -> Dataset:
    cells = [f"{v:.17g}" if v == v else "" for v in values.reshape(-1).tolist()]
    (folder / "f.csv").write_text("a,t\n" + "".join(f"{c},1\n" for c in cells), "utf-8")
    text = f'source = csv("f.csv")\n a = column(a) -> {steps}\n t = column(t)\n split = {split}'
    return read(folder, spec(text, f"a: float32[{width}]", train="precision = float64"))


@pytest.mark.parametrize(
    ("steps", "scaler"),
    [
        ("standardize", preprocessing.StandardScaler()),
        ("min_max", preprocessing.MinMaxScaler()),
        ("min_max(-1, 1)", preprocessing.MinMaxScaler((-1, 1))),
    ],
)
def test_scalers_agree_with_scikit_learn(steps: str, scaler: Any, tmp_path: Path) -> None:
    data = column_through(tmp_path, steps, NUMBERS)
    np.testing.assert_allclose(data.arrays["a"], scaler.fit(NUMBERS[:30]).transform(NUMBERS), rtol=1e-12)


@pytest.mark.parametrize("strategy", ["median", "mean"])
def test_impute_agrees_with_scikit_learn(strategy: str, tmp_path: Path) -> None:
    values = NUMBERS.copy()
    values[[2, 7, 11, 35]] = np.nan
    data = column_through(tmp_path, f"impute({strategy})", values)
    wanted = sklearn_impute.SimpleImputer(strategy=strategy).fit(values[:30]).transform(values)
    np.testing.assert_allclose(data.arrays["a"], wanted, rtol=1e-12)


def test_steps_learn_one_after_another(tmp_path: Path) -> None:
    values = NUMBERS.copy()
    values[[2, 7]] = np.nan
    data = column_through(tmp_path, "impute(median) -> standardize", values)
    filled = np.where(np.isnan(values), np.nanmedian(values[:30]), values)
    np.testing.assert_allclose(data.arrays["a"], (filled - filled[:30].mean()) / filled[:30].std(), rtol=1e-12)


@pytest.mark.parametrize("steps", ["standardize", "min_max", "impute(mean) -> standardize", "impute(median)"])
def test_test_rows_teach_nothing(steps: str, tmp_path: Path) -> None:
    """Other test rows leave what was learned, and the training rows, as they were; other training rows do not."""
    values = NUMBERS.copy()
    values[3] = np.nan if "impute" in steps else values[3]
    other, wild = values.copy(), values.copy()
    other[30:] = 1e6
    wild[4] = 1e6
    first, second, third = (column_through(tmp_path, steps, v) for v in (values, other, wild))
    assert {k: v.tolist() for k, v in first.learned.arrays.items()} == {k: v.tolist() for k, v in second.learned.arrays.items()}
    np.testing.assert_array_equal(first.arrays["a"][:30], second.arrays["a"][:30])
    if steps != "impute(median)":
        assert {k: v.tolist() for k, v in first.learned.arrays.items()} != {k: v.tolist() for k, v in third.learned.arrays.items()}


def test_categories_come_from_training_rows(tmp_path: Path) -> None:
    words = ["b", "a", "c", "a", "b", "c", "z", "a"]
    (tmp_path / "f.csv").write_text("a,t\n" + "".join(f"{w},1\n" for w in words), "utf-8")
    text = 'source = csv("f.csv")\n a = column(a) -> one_hot\n t = column(t)\n split = ordered(train=75%, test=25%)'
    data = read(tmp_path, spec(text, "a: float32[3]"))
    encoder = preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(np.array(words[:6]).reshape(-1, 1))
    np.testing.assert_array_equal(data.arrays["a"], encoder.transform(np.array(words).reshape(-1, 1)))


def test_categories_of_a_given_order(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("a,t\n1,low\n2,high\n3,middle\n4,low\n", "utf-8")
    text = 'source = csv("f.csv")\n a = column(a)\n t = column(t) -> category(["low", "middle", "high"])'
    data = read(tmp_path, spec(text, body="return y = a -> dense(3) -> softmax", loss="cross_entropy(y, t)"))
    assert data.arrays["t"].tolist() == [0, 2, 1, 0]


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_categories_of_numbers(precision: str, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("a,t\n1,0.1\n2,0.7\n3,-2\n4,0.1\n", "utf-8")
    for step in ("category", "category([-2, 0.1, 0.7])"):
        text = f'source = csv("f.csv")\n a = column(a)\n t = column(t) -> {step}'
        made = spec(text, body="return y = a -> dense(3) -> softmax", loss="cross_entropy(y, t)", train=f"precision = {precision}")
        assert read(tmp_path, made).arrays["t"].tolist() == [1, 2, 0, 1]


def test_categories_that_float32_cannot_tell_apart(tmp_path: Path) -> None:
    """Identifiers of nine digits are never merged."""
    (tmp_path / "f.csv").write_text("a,t\n1,123456788\n2,123456789\n3,123456790\n4,123456788\n", "utf-8")
    text = 'source = csv("f.csv")\n a = column(a)\n t = column(t) -> category'
    made = spec(text, body="return y = a -> dense(3) -> softmax", loss="cross_entropy(y, t)", train="precision = {}")
    found = refusal(tmp_path, made.replace("{}", "float32"))
    assert (found.code, "3 different numbers are" in found.label) == ("E404", True)
    assert read(tmp_path, made.replace("{}", "float64")).arrays["t"].tolist() == [0, 1, 2, 0]


def test_a_constant_column(tmp_path: Path) -> None:
    for step, wanted in (("standardize", 0.0), ("min_max", 0.0)):
        assert set(column_through(tmp_path, step, np.full((8, 1), 7.0)).arrays["a"].reshape(-1).tolist()) == {wanted}


def test_a_column_without_a_value(tmp_path: Path) -> None:
    data = column_through(tmp_path, "impute(median) -> standardize", np.full((8, 1), np.nan))
    assert set(data.arrays["a"].reshape(-1).tolist()) == {0.0}


def test_all_columns_but_some(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("id,a,w,b,t\n9,1,x,2,3\n9,4,y,5,6\n", "utf-8")
    text = 'source = csv("f.csv")\n a = columns(all, except=[id, t])\n t = column(t)'
    assert read(tmp_path, spec(text, "a: float32[2]")).arrays["a"].tolist() == [[1, 2], [4, 5]]


def test_classes_are_no_numbers_among_all(tmp_path: Path) -> None:
    """Else the inputs would hold what is to be predicted."""
    for source, target, width in (("wine()", "cultivar", 13), ("iris()", "species", 4)):
        text = f"source = {source}\n a = columns(all)\n t = column({target})"
        body, loss = "return y = a -> dense(3) -> softmax", "cross_entropy(y, t)"
        found = read(tmp_path, spec(text, f"a: float32[{width}]", body, loss))
        assert found.arrays["a"].shape[1] == width
        named = read(tmp_path, spec(text.replace("all)", f"all, except=[{target}])"), f"a: float32[{width}]", body, loss))
        np.testing.assert_array_equal(found.arrays["a"], named.arrays["a"])


def test_images_are_standardised_by_channel(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(2, 3, (6, 2, 4, 4))
    np.savez(tmp_path / "f.npz", a=images, t=np.ones((6, 1)))
    text = ARRAYS.replace("column(a)", "column(a) -> standardize")
    made = spec(text, "a: float32[2, 4, 4]", "return y = a -> flatten -> dense(1)", train="precision = float64")
    wanted = (images - images.mean((0, 2, 3), keepdims=True)) / images.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(read(tmp_path, made).arrays["a"], wanted, rtol=1e-12)


# Units


def regression(folder: Path, steps: str, precision: str = "float64") -> tuple[Path, Array, Array]:
    """A spec that predicts 1000 + 50 a from a, with noise; the table's inputs and targets."""
    drawn = np.random.default_rng(5)
    a, t = drawn.normal(0, 1, 60), np.empty(60)
    t[:] = 1000 + 50 * a + drawn.normal(0, 5, 60)
    (folder / "f.csv").write_text("a,t\n" + "".join(f"{x!r},{y!r}\n" for x, y in zip(a.tolist(), t.tolist(), strict=True)), "utf-8")
    text = f'source = csv("f.csv")\n a = column(a)\n t = column(t){steps}\n split = ordered(train=50%, validation=25%, test=25%)'
    more = f"metrics = [mae, rmse, r2]  precision = {precision}"
    return write(folder / "s.nn", spec(text, train=more).replace("lr=0.01", "lr=0.05").replace("epochs = 2", "epochs = 30")), a, t


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("steps", ["", " -> standardize", " -> min_max", " -> min_max(-1, 1)", " -> scale(1/1000)", " -> scale(0.01) -> standardize"])
def test_metrics_and_predictions_are_in_the_columns_units(steps: str, precision: str, tmp_path: Path) -> None:
    """By hand: the network's output on the way back through the steps, compared with the file's own column by scikit-learn."""
    path, a, t = regression(tmp_path, steps, precision)
    if not steps:
        path.write_text(path.read_text("utf-8").replace("lr=0.05", "lr=1e-2"), "utf-8")
    result = api.train(path, out=tmp_path / "run")
    rough = 1e-9 if precision == "float64" else 1e-3
    own = result.model.predict({"a": a.reshape(-1, 1)})["y"].reshape(-1).astype(float)
    train = t[:30]
    if steps.endswith("standardize"):
        predicted = own * train.std() + train.mean()
    elif "min_max" in steps:
        low, high = (-1, 1) if "-1" in steps else (0, 1)
        predicted = (own - low) / (high - low) * (train.max() - train.min()) + train.min()
    else:
        predicted = own * 1000 if steps else own
    for split, rows in (("train", slice(0, 30)), ("validation", slice(30, 45)), ("test", slice(45, 60))):
        figures = result.figures[split]
        assert figures["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(t[rows], predicted[rows]), rel=rough)
        assert figures["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(t[rows], predicted[rows]), rel=rough)
        assert figures["r2"] == pytest.approx(sklearn_metrics.r2_score(t[rows], predicted[rows]), rel=rough, abs=rough)
    loss = np.mean((own - (result.data.arrays["t"].reshape(-1)))[45:] ** 2)
    assert result.figures["test"]["loss"] == pytest.approx(loss, rel=max(rough, 1e-9))
    write(tmp_path / "rows.csv", "a\n" + "".join(f"{x!r}\n" for x in a.tolist()))
    assert nnc("predict", tmp_path / "run", tmp_path / "rows.csv", "-o", tmp_path / "out.csv").status == 0
    lines = (tmp_path / "out.csv").read_text("utf-8").splitlines()
    assert lines[0] == "y"
    np.testing.assert_allclose([float(x) for x in lines[1:]], predicted, rtol=1e-12 if precision == "float64" else 1e-5)


def test_labelled_rows_give_the_same_figures(tmp_path: Path) -> None:
    """`eval --data` on the file that trained: the mean over its splits, in the column's units."""
    path, _, _ = regression(tmp_path, " -> standardize")
    result = api.train(path, out=tmp_path / "run")
    found = nnc("eval", tmp_path / "run", "--data", tmp_path / "f.csv", "--format", "json")
    shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
    wanted = sum(result.figures[s]["mae"] * share for s, share in shares.items())
    assert json.loads(found.out)["data"]["mae"] == pytest.approx(wanted, rel=1e-12)


def test_float64_all_the_way(tmp_path: Path) -> None:
    """Numbers that float32 cannot tell apart reach the network, and gradients, as they are."""
    (tmp_path / "f.csv").write_text("a,t\n" + "".join(f"{1 + i * 1e-12!r},{1 + i * 1e-12!r}\n" for i in range(8)), "utf-8")
    path = write(tmp_path / "s.nn", spec(TWO.replace("column(a)", "column(a) -> min_max"), train="precision = float64"))
    result = api.train(path, out=tmp_path / "run")
    np.testing.assert_allclose(result.data.arrays["a"].reshape(-1), np.arange(8) / 7, rtol=1e-3)
    assert all(result.model.parameters[name].dtype == np.float64 for name in result.model.parameters)
    assert refused(nnc("train", tmp_path / "none.nn", "-o", tmp_path / "r"), "E401")
