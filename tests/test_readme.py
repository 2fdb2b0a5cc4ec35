"""What the README shows works as written."""

import random
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import nnc
from nnc.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_what_it_says_of_dependencies_is_what_is_installed():
    wanted = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[\w-]+", line)[0].removesuffix("-gpu") for line in wanted}
    sentence = re.search(r"no framework underneath: (.*?)\s+are all", README, re.DOTALL)[1]
    assert set(re.split(r",\s+| and ", sentence)) == names


@pytest.fixture
def flowers(tmp_path, monkeypatch):
    """The README's spec and a table like the one that it describes, with a missing value."""
    monkeypatch.chdir(tmp_path)
    spec = next(block for block in re.findall(r"```\n(.*?)```", README, re.DOTALL) if block.startswith("# flowers.nn"))
    Path("flowers.nn").write_text(spec)
    draw = random.Random(0)
    centres = {"daisy": (1.4, 0.2, 5.0), "rose": (4.3, 1.3, 5.9), "lily": (5.6, 2.0, 6.6)}
    lines = ["petal_length,petal_width,sepal_length,species"]
    for i in range(150):
        species, centre = list(centres.items())[i % 3]
        cells = [f"{draw.gauss(c, 0.25):.2f}" for c in centre]
        lines.append(",".join([*cells, species]))
    lines[7] = lines[7].replace(lines[7].split(",")[0], "", 1)
    Path("flowers.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_first_spec_goes_the_whole_way(flowers, capsys):
    assert main(["check", "flowers.nn"]) == 0
    assert main(["summary", "flowers.nn"]) == 0
    assert main(["run", "flowers.nn"]) == 0
    assert main(["train", "flowers.nn", "--set", "width=32", "-o", "wide"]) == 0
    assert main(["predict", "runs/flowers", "flowers.csv", "-o", "predictions.csv"]) == 0
    rows = Path("predictions.csv").read_text().splitlines()
    assert rows[0] == "kind_0,kind_1,kind_2,species"
    given = [line.rsplit(",", 1)[1] for line in Path("flowers.csv").read_text().splitlines()[1:]]
    assert sum(row.rsplit(",", 1)[1] == species for row, species in zip(rows[1:], given, strict=True)) > 140
    assert main(["export", "runs/flowers", "-o", "dist"]) == 0
    listed = re.findall(r"^    ([\w.]+)/? {3,}", README.partition("## Deploying")[2].partition("## ")[0], re.MULTILINE)
    assert {p.name for p in Path("dist").iterdir()} == set(listed)
    assert main(["reproduce", "runs/flowers/manifest.json"]) == 0
    assert main(["inspect", "dist/model.onnx", "-o", "graph.svg"]) == 0


def test_the_deployed_file_takes_raw_rows(flowers):
    ort = pytest.importorskip("onnxruntime")
    main(["run", "flowers.nn"])
    session = ort.InferenceSession("runs/flowers/export/model.onnx", providers=["CPUExecutionProvider"])
    kind, species = session.run(["kind", "species"], {"measures": np.array([[1.4, 0.2, 5.0], [np.nan, 2.0, 6.6]], np.float32)})
    assert kind.shape == (2, 3)
    assert species.tolist()[0] == "daisy"


def test_the_python_lines(flowers):
    model = nnc.compile("flowers.nn", width=32).init(seed=1)
    batch = {"measures": np.random.default_rng(0).normal(size=(8, 3)), "species": np.arange(8) % 3}
    loss, gradients = model.gradients(batch)
    assert gradients.keys() == model.parameters.keys()
    assert model.step(batch) == pytest.approx(loss)
    result = nnc.train("flowers.nn", out="runs/flowers")
    assert result.figures["test"]["accuracy"] > 0.8
    assert result.model.export_onnx("flowers.onnx")["passed"]


def test_the_mistake_looks_as_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.nn").write_text(
        "# one\n# two\n# three\n# four\nnetwork(image: float32[1, 28, 28]) {\n\n"
        "  h = image -> conv2d(16, kernel=40) -> relu\n  return y = h -> flatten -> dense(2)\n}\n"
    )
    assert main(["check", "tiny.nn"]) == 1
    shown = re.search(r"    error\[E301\].*?= help[^\n]*\n", README, re.DOTALL).group()
    wanted = "".join(line[4:] + "\n" if line.strip() else "\n" for line in shown.splitlines())
    assert capsys.readouterr().err == wanted
