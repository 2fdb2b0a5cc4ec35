"""What sources and steps promise to the compiler is what the runtime delivers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnc.compiler import ops
from nnc.compiler.operation import TABLE, Kind, find, names
from nnc.compiler.pipeline import analyse
from nnc.compiler.schema import Files, Schema, csv_schema, number
from nnc.compiler.source import Source
from nnc.runtime.data.fit import FITS
from nnc.runtime.data.sources import SOURCES

assert ops.__all__  # importing the families fills the table


def test_every_source_is_read() -> None:
    assert set(names(Kind.SOURCE)) == SOURCES.keys()


def test_every_step_that_learns_is_fitted() -> None:
    assert {op.name for (kind, _), op in TABLE.items() if kind is Kind.STEP and op.extra.get("learns")} == FITS.keys()


def promised(source: str, root: Path) -> Schema:
    operation = find(Kind.SOURCE, source.partition("(")[0])
    assert operation is not None
    params = operation.params(**({"path": source.partition('"')[2].partition('"')[0]} if '"' in source else {}))
    schema: Schema = operation.function(params, Files(root))
    return schema


def delivered(source: str, root: Path) -> dict[str, np.ndarray]:
    operation = find(Kind.SOURCE, source.partition("(")[0])
    assert operation is not None
    params = operation.params(**({"path": source.partition('"')[2].partition('"')[0]} if '"' in source else {}))
    return dict(SOURCES[operation.name](params, Files(root), promised(source, root).columns).columns)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a.csv").write_text("n,t,both\n1,x,1\n2.5,y,z\n,,\n-3e2,x,4\n")
    np.savez(tmp_path / "b.npz", image=np.zeros((5, 1, 2, 3), np.uint8), f=np.ones((5, 2), np.float32), i=np.arange(5), half=np.ones(5, np.float16))
    np.save(tmp_path / "c.npy", np.zeros((4, 3), np.float64))
    return tmp_path


@pytest.mark.parametrize("source", ['csv("a.csv")', 'npz("b.npz")', 'npy("c.npy")', "digits()"])
def test_promises_are_kept(source: str, root: Path) -> None:
    schema, columns = promised(source, root), delivered(source, root)
    assert schema.columns.keys() == columns.keys()
    for name, column in schema.columns.items():
        array = columns[name]
        assert array.shape[1:] == column.shape
        kind = {"float": "f", "float32": "f", "float64": "f", "int64": "i", "uint8": "u", "bool": "b", "string": "O"}[column.dtype]
        assert array.dtype.kind == kind
        assert schema.rows == len(array)
        if column.classes is not None and array.dtype.kind == "i":
            assert set(array.tolist()) <= set(column.classes)


@pytest.mark.parametrize("cell", ["1", "-2.5", "1e3", " 4 ", "1_000", "nan", "inf", "abc", "", "0x10", "١٢"])
def test_a_cell_is_a_number_here_and_there(cell: str, tmp_path: Path) -> None:
    """The promise, made from the distinct cells, is that of the reader, made from all."""
    path = tmp_path / "a.csv"
    path.write_text(f"x,y\n1,1\n{cell},1\n", "utf-8")
    promise = csv_schema(path, ",", True, ()).columns["x"].dtype
    array = delivered('csv("a.csv")', tmp_path)["x"]
    assert (promise == "string") == (array.dtype == object)
    assert number("1_000") is None


def test_what_a_file_holds_decides_about_the_network(root: Path) -> None:
    text = 'network(x: float32[1]) { return y = x -> dense(1) } data { source = csv("a.csv")  x = column(n) -> impute }'
    assert analyse(Source("", text), root=root).prepared["x"].column.value.shape[1:] == (1,)


def test_links_do_not_lead_out_of_the_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from nnc.compiler.diagnostics import Refusal

    outside = tmp_path_factory.mktemp("outside") / "secret.csv"
    outside.write_text("a\n1\n")
    (root / "link.csv").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    for name in ("link.csv", "folder/secret.csv", "../" + outside.parent.name + "/secret.csv", str(outside)):
        with pytest.raises(Refusal) as refused:
            Files(root).path(name)
        assert refused.value.code == "E409"
