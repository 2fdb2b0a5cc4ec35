"""The example programs do what they say: each is trained, and its figures are what the literature promises."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from runs import nnc, write

import nnc as api
from nnc.runtime.train import Result

ROOT = Path(__file__).parent.parent
SPECS = ROOT / "specs"
DATA = ROOT.parent / "shared" / "data"


def data(*names: str) -> Path:
    """The folder of the larger data sets, which the package does not bring."""
    missing = [name for name in names if not (DATA / name).is_file()]
    if missing:
        pytest.skip(f"{', '.join(missing)} not in {DATA.relative_to(ROOT.parent)}: no part of the package")
    return DATA


def seeded(name: str, seed: int, folder: Path) -> Path:
    """The spec with another seed in its train section."""
    text = (SPECS / name).read_text("utf-8")
    head, train = text.split("train {", 1)
    train = train.replace("seed      = 1\n", "")
    return write(folder / f"{seed}_{name}", f"{head}train {{\n  seed = {seed}\n{train}")


def trained(name: str, seed: int, folder: Path, root: Path | None = None) -> Result:
    return api.train(seeded(name, seed, folder), out=folder / f"run_{seed}", data_root=root)


def test_digits(tmp_path: Path) -> None:
    """A mean of at least 96.5% over five seeds, in less than 20 s each."""
    accuracies = []
    for seed in range(1, 6):
        begun = time.monotonic()
        accuracies.append(trained("digits.nn", seed, tmp_path).figures["test"]["accuracy"])
        assert time.monotonic() - begun < 20
    assert np.mean(accuracies) >= 0.965, accuracies
    assert len(set(accuracies)) > 1, "seeds make a difference"


@pytest.mark.parametrize("seed", range(1, 6))
def test_and_gate(seed: int, tmp_path: Path) -> None:
    """Whatever the order of the samples it ends at weights 0.4 and 0.4, the bias held, and AND is learned."""
    model = trained("and_gate.nn", seed, tmp_path).model
    np.testing.assert_allclose(model.parameters["y/dense/weight"].reshape(-1), [0.4, 0.4], rtol=1e-6)
    assert model.parameters["y/dense/bias"].tolist() == [-0.5]
    x1, x2 = np.array([[0], [0], [1], [1]]), np.array([[0], [1], [0], [1]])
    assert model.predict({"x1": x1, "x2": x2})["y"].reshape(-1).tolist() == [0, 0, 0, 1]


def test_wine_regression(tmp_path: Path) -> None:
    """Clearly better than the mean of the training column, in the column's units: a mean absolute error below 0.57 over three seeds."""
    results = [trained("wine_regression.nn", seed, tmp_path, data("wine_quality_white.csv")) for seed in range(3)]
    quality = results[0].data.raw["target"].reshape(-1)
    train, test = (quality[results[0].data.splits[s]] for s in ("train", "test"))
    assert np.mean([result.figures["test"]["mae"] for result in results]) < 0.57
    for figures in (result.figures["test"] for result in results):
        assert figures["mae"] < 0.85 * np.abs(test - train.mean()).mean()
        assert figures["rmse"] < 0.9 * np.sqrt(np.mean((test - train.mean()) ** 2))
        assert figures["r2"] > 0.25


@pytest.mark.slow
def test_sunspots(tmp_path: Path) -> None:
    """The next month is foreseen better than by saying that it is like this one, in sunspots."""
    result = api.train(SPECS / "sunspots_lstm.nn", out=tmp_path / "sunspots", data_root=data("sunspots.csv"))
    rows = result.data.splits["test"]
    last, wanted = result.data.raw["history"][rows, -1].reshape(-1), result.data.raw["future"][rows].reshape(-1)
    persistence = float(np.sqrt(np.mean((last - wanted) ** 2)))
    assert 10 < persistence < 60, "in sunspots, not in shares of the range"
    assert result.figures["test"]["rmse"] < persistence


@pytest.mark.slow
def test_shakespeare(tmp_path: Path) -> None:
    """A validation perplexity below 7.5 in five epochs."""
    result = api.train(SPECS / "shakespeare.nn", out=tmp_path / "shakespeare", data_root=data("shakespeare.txt"))
    assert len(result.history) == 5
    assert result.figures["validation"]["perplexity"] < 7.5


def test_mnist_mlp(tmp_path: Path) -> None:
    """A mean of at least 92.5% over five seeds."""
    root = data("mnist/t10k-images-idx3-ubyte.gz", "mnist/t10k-labels-idx1-ubyte.gz")
    assert np.mean([trained("mnist_mlp.nn", seed, tmp_path, root).figures["test"]["accuracy"] for seed in range(1, 6)]) >= 0.925


@pytest.mark.slow
def test_mnist_cnn(tmp_path: Path) -> None:
    """An accuracy of at least 98% on the test rows in its eight epochs."""
    root = data("mnist/t10k-images-idx3-ubyte.gz", "mnist/t10k-labels-idx1-ubyte.gz")
    result = api.train(SPECS / "mnist_cnn.nn", out=tmp_path / "mnist", data_root=root)
    assert len(result.history) == 8
    assert result.figures["test"]["accuracy"] >= 0.98


def test_adult(tmp_path: Path) -> None:
    """Embeddings, missing categories, a plateau's rate: an AUC of at least 0.90 on the test rows."""
    result = api.train(SPECS / "adult.nn", out=tmp_path / "adult", data_root=data("adult.csv"))
    assert result.figures["test"]["auc"] >= 0.90
    assert result.model.export_onnx(tmp_path / "adult.onnx", {n: raw[:64] for n, raw in result.data.raw.items()})["passed"]


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.nn")), ids=lambda p: p.stem)
def test_every_spec_can_be_checked(path: Path) -> None:
    said = nnc("check", path, "--no-data")
    assert said.status == 0, said.err


@pytest.mark.parametrize("name", ["digits", "and_gate"])
def test_templates_run_the_whole_way(name: str, tmp_path: Path) -> None:
    assert nnc("new", tmp_path / "mine", "--template", name).status == 0
    said = nnc("run", tmp_path / "mine.nn", "-o", tmp_path / "run")
    assert said.status == 0, said.err
    assert list((tmp_path / "run" / "export").glob("*.onnx"))
