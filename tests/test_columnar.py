"""Parquet files and folders of images: what is read, what is refused, and the commands on them."""

from __future__ import annotations

import builtins
import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import nnc, refused, write
from test_data import read, refusal, spec

from nnc.compiler.diagnostics import Refusal
from nnc.compiler.images import image_schema
from nnc.compiler.parquet import parquet_schema

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")


def table(path: Path, **columns: Any) -> Path:
    parquet.write_table(pa.table(columns), path, row_group_size=3)
    return path


FILE = 'source = parquet("f.parquet")\n a = column(a)\n t = column(t)'


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2, 3, 4, 5], pa.int8()),
        pa.array([1, 2, 3, 4, 5], pa.uint64()),
        pa.array([1.0, 2, 3, 4, 5], pa.float32()),
        pa.array([decimal.Decimal(i) for i in range(1, 6)], pa.decimal128(5, 2)),
        pa.array([1, 2, 3, 4, 5]).dictionary_encode(),
    ],
)
def test_numbers(column: Any, tmp_path: Path) -> None:
    table(tmp_path / "f.parquet", a=column, t=[0.5] * 5)
    assert read(tmp_path, spec(FILE)).arrays["a"].tolist() == [[1], [2], [3], [4], [5]]


def test_missing_values_booleans_and_text(tmp_path: Path) -> None:
    table(tmp_path / "f.parquet", a=[1, None, 3, 4], t=[True, False, None, True], w=["x", None, "", "y"], c=pa.array(["u", "v", "u", "v"]).dictionary_encode())
    text = FILE.replace("column(a)", "column(a) -> impute(constant, -1)").replace("column(t)", "column(t) -> impute(constant, 7)")
    text += "\n w = column(w) -> one_hot\n c = column(c) -> one_hot"
    data = read(tmp_path, spec(text, "a: float32[1], w: float32[2], c: float32[2]", "return y = concat(a, w, c) -> dense(1)"))
    assert data.arrays["a"].reshape(-1).tolist() == [1, -1, 3, 4]
    assert data.arrays["t"].reshape(-1).tolist() == [1, 0, 7, 1]
    assert data.arrays["w"].tolist() == [[1, 0], [0, 0], [0, 0], [0, 1]]
    assert data.arrays["c"].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]


def test_the_footer_says_what_there_is(tmp_path: Path) -> None:
    """Types come without values; distinct values of a column only when they are asked for."""
    schema = parquet_schema(table(tmp_path / "f.parquet", a=[2, 1, 2], w=["y", None, "x"], tags=[[1], [2], [3]], day=[datetime.date(2020, 1, 1)] * 3))
    assert {name: (c.dtype, c.shape) for name, c in schema.columns.items()} == {"a": ("float", (1,)), "w": ("string", ())}
    assert schema.rows == 3
    assert (schema.values["w"], schema.values["a"]) == (("x", "y"), (1.0, 2.0))
    assert schema.other.keys() == {"tags", "day"}


def test_parquet_refused(tmp_path: Path) -> None:
    table(tmp_path / "f.parquet", a=[[1], [2]], t=[1, 2])
    found = refusal(tmp_path, spec(FILE))
    assert (found.code, "`a` holds list<" in found.label) == ("E404", True)
    table(tmp_path / "f.parquet", a=[1, 2**53 + 1], t=[1, 2])
    assert "9007199254740993" in refusal(tmp_path, spec(FILE)).label
    table(tmp_path / "f.parquet", a=[1, None], t=[1, 2])
    assert "column `a`, row 2 of f.parquet" in refusal(tmp_path, spec(FILE)).label
    table(tmp_path / "f.parquet", a=["x", "y"], t=[1, 2])
    assert refusal(tmp_path, spec(FILE)).code == "E407"
    table(tmp_path / "f.parquet", t=[1, 2])
    assert refusal(tmp_path, spec(FILE)).code == "E402"
    (tmp_path / "f.parquet").write_bytes(b"a,t\n1,2\n")
    assert refusal(tmp_path, spec(FILE)).code == "E410"
    table(tmp_path / "f.parquet", a=[1.0] * 1000, t=[1.0] * 1000)
    whole = (tmp_path / "f.parquet").read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 5):
        (tmp_path / "f.parquet").write_bytes(whole[:cut])
        assert refusal(tmp_path, spec(FILE)).code == "E410"


@pytest.mark.parametrize(("package", "extra", "source"), [("pyarrow", "parquet", 'parquet("f.parquet")'), ("PIL", "images", 'image_folder(".")')])
def test_without_the_package(package: str, extra: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The diagnostic names what to install."""
    table(tmp_path / "f.parquet", a=[1], t=[1])
    (tmp_path / "f.parquet").rename(tmp_path / "kept")
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "a.png").write_bytes(b"")
    (tmp_path / "kept").rename(tmp_path / "f.parquet") if package == "pyarrow" else (tmp_path / "kept").unlink()
    real = builtins.__import__

    def missing(name: str, *given: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *given)

    monkeypatch.setattr(builtins, "__import__", missing)
    found = refusal(tmp_path, spec(FILE.replace('parquet("f.parquet")', source)))
    assert (found.code, found.help) == ("E707", f"pip install 'nnc-lang[{extra}]'")


def test_commands_on_parquet(tmp_path: Path) -> None:
    """Predictions for a parquet file are those for the same rows as csv, whichever file they go to."""
    drawn = np.random.default_rng(0)
    a, w = drawn.normal(size=50), drawn.choice(["u", "v"], 50)
    table(tmp_path / "f.parquet", a=a, w=w.tolist(), t=np.where(a > 0, "up", "down").tolist())
    write(tmp_path / "f.csv", "w,a\n" + "".join(f"{k},{x!r}\n" for k, x in zip(w.tolist(), a.tolist(), strict=True)))
    text = FILE.replace("column(t)", "column(t) -> category\n w = column(w) -> one_hot\n split = random(train=80%, test=20%)")
    made = spec(text, "a: float32[1], w: float32[2]", "return y = concat(a, w) -> dense(2) -> softmax", "cross_entropy(y, t)", "metrics = [accuracy]")
    assert nnc("run", write(tmp_path / "s.nn", made), "-o", tmp_path / "run").status == 0
    for source in ("f.parquet", "f.csv"):
        for target in ("csv", "npz", "parquet"):
            assert nnc("predict", tmp_path / "run", tmp_path / source, "-o", tmp_path / f"{source}.{target}").status == 0
    assert (tmp_path / "f.parquet.csv").read_bytes() == (tmp_path / "f.csv.csv").read_bytes()
    found = parquet.read_table(tmp_path / "f.csv.parquet").to_pydict()
    with np.load(tmp_path / "f.csv.npz") as arrays:
        np.testing.assert_array_equal(np.stack([found["y_0"], found["y_1"]], axis=1), arrays["y"])
        assert found["t"] == arrays["t"].tolist()
    assert 0 <= json.loads(nnc("eval", tmp_path / "run", "--data", tmp_path / "f.parquet", "--format", "json").out)["data"]["accuracy"] <= 1
    refused(nnc("predict", tmp_path / "run", table(tmp_path / "g.parquet", a=["x"], w=["u"]), "-o", tmp_path / "o.csv"), "E404")


# Images


def folder(root: Path, mode: str = "L", size: tuple[int, int] = (6, 5), each: int = 8) -> Path:
    """Images of two classes: dark cats, bright dogs."""
    drawn = np.random.default_rng(1)
    for name, low in (("dog", 150), ("cat", 0)):
        (root / name).mkdir(parents=True)
        for i in range(each):
            shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
            Image.fromarray(drawn.integers(low, low + 100, shape).astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def images(channels: int = 1, path: str = "pets", more: str = "split = random(train=75%, test=25%, stratify=label)") -> str:
    data = f'source = image_folder("{path}")\n image = column(image) -> scale(1/255)\n label = column(label)\n {more}'
    return spec(data, f"image: float32[{channels}, 5, 6]", "return y = image -> flatten -> dense(2) -> softmax", "cross_entropy(y, label)",
                "metrics = [accuracy]").replace("sgd(lr=0.01)", "adam(lr=0.1)").replace("epochs = 2", "epochs = 20")  # fmt: skip


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_images(mode: str, channels: int, tmp_path: Path) -> None:
    folder(tmp_path / "pets", mode)
    data = read(tmp_path, images(channels))
    wanted = np.asarray(Image.open(tmp_path / "pets" / "dog" / "3.png")).reshape(5, 6, channels).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.raw["image"][8 + 3], wanted)
    assert data.arrays["label"].tolist() == [0] * 8 + [1] * 8
    schema = image_schema(tmp_path / "pets", tmp_path)
    assert schema.columns["label"].classes == ("cat", "dog")
    assert schema.columns["image"].shape == (channels, 5, 6)


def test_images_refused(tmp_path: Path) -> None:
    pets = folder(tmp_path / "pets")

    def said(name: str) -> str:
        found = refusal(tmp_path, images())
        assert found.code == "E410"
        (pets / name).unlink()
        return f"{found.title} {found.label}"

    Image.new("L", (7, 5)).save(pets / "dog" / "wide.png")
    assert "dog/wide.png` cannot be read it is 7x5 greyscale, the first image is 6x5 greyscale" in said("dog/wide.png")
    Image.new("RGB", (6, 5)).save(pets / "dog" / "red.png")
    assert "dog/red.png` cannot be read it is 6x5 RGB" in said("dog/red.png")
    Image.new("P", (6, 5)).save(pets / "dog" / "p.png")
    assert "p.png` cannot be read its mode is P" in said("dog/p.png")
    write(pets / "dog" / "notes.txt", "x")
    assert "`dog/notes.txt` is no image" in said("dog/notes.txt")
    write(pets / "dog" / "text.png", "x")
    assert "text.png" in said("dog/text.png")
    Image.new("L", (6, 5)).save(pets / "loose.png")
    assert "`loose.png` stands in no folder" in said("loose.png")
    (pets / "dog" / "cut.png").write_bytes((pets / "dog" / "1.png").read_bytes()[:60])
    assert "cut.png" in said("dog/cut.png")
    (pets / ".hidden").write_text("x", "utf-8")
    assert len(read(tmp_path, images()).arrays["label"]) == 16


def test_an_image_outside_the_root(tmp_path: Path) -> None:
    folder(tmp_path / "root" / "pets")
    Image.new("L", (6, 5)).save(tmp_path / "secret.png")
    (tmp_path / "root" / "pets" / "dog" / "link.png").symlink_to(tmp_path / "secret.png")
    assert refusal(tmp_path / "root", images()).code == "E409"
    with pytest.raises(Refusal, match="lies outside"):
        image_schema(tmp_path / "root" / "pets", tmp_path / "root")
    assert refusal(tmp_path / "root", images(path="..")).code == "E409"
    assert refusal(tmp_path / "root", images(path="none")).code == "E401"


def test_commands_on_images(tmp_path: Path) -> None:
    """Predictions name the file and the class; labels of other folders are found by name."""
    folder(tmp_path / "pets")
    assert nnc("run", write(tmp_path / "s.nn", images()), "-o", tmp_path / "run").status == 0
    folder(tmp_path / "new", each=3)
    assert nnc("predict", tmp_path / "run", tmp_path / "new", "-o", tmp_path / "out.csv").status == 0
    header, *rows = [line.split(",") for line in (tmp_path / "out.csv").read_text("utf-8").splitlines()]
    assert header == ["file", "y_0", "y_1", "label"]
    assert [(row[0], row[-1]) for row in rows] == [(f"{name}/{i}.png", name) for name in ("cat", "dog") for i in range(3)]
    for path in (tmp_path / "new" / "cat").iterdir():
        path.unlink()
    (tmp_path / "new" / "cat").rmdir()
    found = nnc("eval", tmp_path / "run", "--data", tmp_path / "new", "--format", "json")
    assert json.loads(found.out)["data"]["accuracy"] == 1
    (tmp_path / "new" / "dog").rename(tmp_path / "new" / "cow")
    refused(nnc("eval", tmp_path / "run", "--data", tmp_path / "new"), "E406", "`cow`")


def test_images_in_files_of_a_split(tmp_path: Path) -> None:
    """Classes are those of the folder that trains, whatever index they have elsewhere."""
    folder(tmp_path / "pets")
    folder(tmp_path / "more", each=2)
    for path in (tmp_path / "more" / "cat").iterdir():
        path.unlink()
    (tmp_path / "more" / "cat").rmdir()
    data = read(tmp_path, images(more='split = files(test=image_folder("more"))'))
    assert data.arrays["label"][data.splits["test"]].tolist() == [1, 1]
    (tmp_path / "more" / "dog").rename(tmp_path / "more" / "ant")
    assert refusal(tmp_path, images(more='split = files(test=image_folder("more"))')).code == "E406"


def test_a_build_notices_another_image(tmp_path: Path) -> None:
    folder(tmp_path / "pets")
    path = write(tmp_path / "s.nn", images())
    assert nnc("build", path, "-o", tmp_path / "b").status == 0
    assert "nothing to build" in nnc("build", path, "-o", tmp_path / "b").out
    Image.new("L", (6, 5)).save(tmp_path / "pets" / "dog" / "1.png")
    assert "nothing to build" not in nnc("build", path, "-o", tmp_path / "b").out
