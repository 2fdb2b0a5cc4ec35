"""The page about a run: what it shows, of finished and unfinished runs and of ensembles; nothing in it runs or is fetched."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from runs import TINY, nnc, refused, write

from nnc.cli import main
from nnc.runtime.charts import decades, line_chart, ticks
from nnc.runtime.recorded import recorded
from nnc.runtime.report import page
from nnc.runtime.run import Run

EVIL = "<script>alert(1)</script>"
MATRIX = f"""
# {EVIL} & "quoted"
let width = 8
network(x: float32[2]) {{ return y = x -> dense(width) -> relu -> dense(3) -> softmax }}
data {{
  source = csv("<b>.csv")
  x      = columns(a, "<i>b") -> standardize
  label  = column(kind) -> category
  split  = random(train=60%, validation=20%, test=20%, stratify=label, seed=1)
}}
train {{
  loss      = cross_entropy(y, label)
  optimizer = adam(lr=0.05)
  batch     = 8
  epochs    = 6
  metrics   = [accuracy, f1(average=none), confusion_matrix]
}}
export {{ file = "<img src=x>.onnx" }}
"""


class Reader(HTMLParser):
    """Tags, attributes and texts of a page; every tag is closed in its turn."""

    VOID = ("meta",)

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


HEADINGS = ("Verdict", "Figures", "Learning curves", "What was watched", "Network", "Data", "Export", "Spec", "Environment")


def read(path: Path) -> Reader:
    """A page, with all that must be true of one: it is well formed, runs nothing and fetches nothing."""
    reader = Reader(path.read_text("utf-8"))
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "img", "link", "iframe", "object", "embed", "a", "form", "base", "b", "i"}
    for _, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "href", "srcset", "style", "action")]
    (style,) = re.findall(r"<style>(.*?)</style>", path.read_text("utf-8"), re.DOTALL)
    assert not re.search(r"url\(|@import|expression", style)
    (policy,) = (a["content"] for tag, a in reader.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    for drawing in re.findall(r"<svg.*?</svg>", path.read_text("utf-8"), re.DOTALL):
        ET.fromstring(drawing)
        assert "nan" not in drawing.lower().replace("nance", "")
    return reader


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole way on data whose names and categories are hostile."""
    folder = tmp_path_factory.mktemp("report")
    rows = [f"{i % 7},{i % 5},{(EVIL, '&amp;', 'plain')[i % 3]}" for i in range(90)]
    write(folder / "<b>.csv", "\n".join(["a,<i>b,kind", *rows]) + "\n")
    said = nnc("run", write(folder / "spec.nn", MATRIX), "-o", folder / "run", "--set", "width=4")
    assert said.status == 0, said.err
    assert said.out.endswith(f"report  {folder / 'run' / 'report.html'}\n")
    return folder / "run"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_a_finished_run(run: Path) -> None:
    reader = read(run / "report.html")
    assert [text for text in reader.texts if text in HEADINGS] == [*HEADINGS]
    text = reader.text
    assert EVIL in text, "as text"
    manifest = json.loads((run / "manifest.json").read_text())
    verdict = json.loads((run / "verdict.json").read_text())
    verification = json.loads((run / "export" / "verification.json").read_text())
    for wanted in (manifest["spec"]["sha256"], manifest["data"]["sha256"], verification["sha256"], verdict["name"], verdict["because"], *verdict["next"],
                   "6 of at most 6 epochs", "54 training rows", "--set width", "<i>b", "<img src=x>.onnx", "verified with onnxruntime"):  # fmt: skip
        assert wanted in text, wanted
    assert "Not finished" not in text
    assert "27 parameters" in text
    assert (run / "spec.nn").read_text("utf-8").strip() in "".join(reader.texts)


def test_figures_are_those_of_eval(run: Path) -> None:
    found = json.loads(nnc("eval", run, "--format", "json").out)
    assert json.loads((run / "figures.json").read_text()) == found
    text = read(run / "report.html").text
    for split in ("train", "validation", "test"):
        assert f"{split} {found[split]['loss']:.4f} {found[split]['accuracy']:.4f}" in text
        rows = "".join(f" {name} " + " ".join(map(str, row)) for name, row in zip(("&amp;", EVIL, "plain"), found[split]["confusion_matrix"], strict=True))
        assert f"confusion_matrix on {split} is \\ decided &amp; {EVIL} plain{rows}" in text


def test_curves(run: Path) -> None:
    reader = read(run / "report.html")
    names = [a["aria-label"] for tag, a in reader.tags if tag == "svg" and "aria-label" in a]
    assert names[:3] == ["loss", "accuracy", "learning rate"]
    assert any(name.startswith("norm of the gradient") for name in names)
    assert any(name.startswith("share of dead units") for name in names)


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    said = nnc("report", run, "-o", tmp_path / "deep" / "other.html")
    assert (said.status, said.out) == (0, f"report  {tmp_path / 'deep' / 'other.html'}\n")
    assert (tmp_path / "deep" / "other.html").read_bytes() == (run / "report.html").read_bytes()


def test_an_unfinished_run(copy: Path) -> None:
    for name in ("verdict.json", "figures.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "export")
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    write(copy / "metrics.jsonl", "\n".join(lines[:2]) + "\n")
    assert nnc("report", copy).status == 0
    text = read(copy / "report.html").text
    assert "Not finished: 2 of at most 6 epochs" in text
    assert "Verdict" not in text
    write(copy / "metrics.jsonl", "")
    assert nnc("report", copy).status == 0
    assert "No epoch has ended yet" in read(copy / "report.html").text


def test_a_run_that_was_not_exported(copy: Path) -> None:
    shutil.rmtree(copy / "export")
    assert nnc("report", copy).status == 0
    assert "nnc export does" in read(copy / "report.html").text


def test_what_is_no_number_parts_a_curve(copy: Path) -> None:
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    lines[2]["val"]["accuracy"] = float("nan")
    lines[3]["watch"]["gradient"] = dict.fromkeys(lines[3]["watch"]["gradient"])
    write(copy / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert nnc("report", copy).status == 0
    read(copy / "report.html")


# What is refused


def test_no_run(tmp_path: Path) -> None:
    refused(nnc("report", tmp_path / "absent"), "E401", "absent")
    refused(nnc("report", tmp_path), "E401")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", "{"),
        ("manifest.json", '{"spec": {"sha256": ""}, "data": {"sha256": "", "root": ""}, "rows": ""}'),
        ("metrics.jsonl", '{"epoch": 1'),
        ("metrics.jsonl", '{"epoch": "1"}'),
        ("metrics.jsonl", "\n\n"),
        ("metrics.jsonl", '{"epoch": 1, "step": 1, "lr": 1, "train": {"loss": "<b>"}, "seconds": 1, "samples_per_second": 1}'),
        ("metrics.jsonl", "\x80"),
        ("verdict.json", "[]"),
        ("figures.json", '{"train": 3}'),
        ("export/verification.json", '{"passed": true}'),
        ("last.safetensors", "x"),
    ],
)
def test_damaged_files(copy: Path, name: str, content: str) -> None:
    (copy / "report.html").unlink()
    (copy / name).write_bytes(content.encode("latin-1"))
    refused(nnc("report", copy), "E702", Path(name).name)
    assert not (copy / "report.html").exists()


def test_a_new_training_leaves_no_old_report(tmp_path: Path) -> None:
    spec = write(tmp_path / "tiny.nn", TINY)
    assert nnc("run", spec, "-o", tmp_path / "run").status == 0
    assert nnc("train", spec, "-o", tmp_path / "run").status == 0
    assert not (tmp_path / "run" / "report.html").exists()
    assert not (tmp_path / "run" / "export" / "verification.json").exists()
    assert nnc("report", tmp_path / "run").status == 0
    assert "Nothing was exported yet" in read(tmp_path / "run" / "report.html").text


# Ensembles


def test_an_ensemble(tmp_path: Path) -> None:
    spec = write(tmp_path / "many.nn", TINY.replace("  batch", "  ensemble = bagging(3)\n  batch"))
    assert nnc("run", spec, "-o", tmp_path / "run").status == 0
    reader = read(tmp_path / "run" / "report.html")
    text = reader.text
    assert "3 of 3 members" in text
    assert "Mean and standard deviation over 3 members" in text
    assert text.count("±") >= 4
    assert sum(tag == "details" for tag, _ in reader.tags) == 6
    found = json.loads(nnc("eval", tmp_path / "run", "--format", "json").out)
    assert f"train {found['train']['loss']:.4f}" in text
    assert json.loads((tmp_path / "run" / "figures.json").read_text()) == {k: v for k, v in found.items() if k != "members"}

    shutil.rmtree(tmp_path / "run" / "members" / "3")
    (tmp_path / "run" / "ensemble.safetensors").unlink()
    (tmp_path / "run" / "figures.json").unlink()
    assert "Not finished: 2 of 3 members" in page(recorded(Run(tmp_path / "run")))


# Charts


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.123, 0.124), (-5, 5), (3, 3), (0, 0), (1e-9, 1e9), (-1e-300, 1e-300), (17, 940)])
def test_ticks(low: float, high: float) -> None:
    found = ticks(low, high)
    rounding = 1e-6 * (found[1] - found[0])
    assert found[0] - rounding <= low <= high <= found[-1] + rounding
    assert 2 <= len(found) <= 8
    steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in itertools.pairwise(found)}
    assert steps == {1.0}


@pytest.mark.parametrize(("low", "high"), [(-3.0, -1.0), (-2.5, -2.4), (0.0, 0.0), (-30.0, 12.0)])
def test_decades(low: float, high: float) -> None:
    found = decades(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 8


def test_points_stand_where_they_belong() -> None:
    drawn = line_chart("a & b", {"<x>": [(1, 0.0), (2, 10.0), (3, None), (4, 5.0)]})
    assert "a &amp; b" in drawn
    assert "&lt;x&gt;" in drawn
    path = re.search(r'class="line c0" [^>]*? d="M([\d. L]+)"', drawn).group(1)
    (x1, y1), (x2, y2) = (map(float, place.split()) for place in path.split("L"))
    assert x2 > x1
    assert y2 < y1, "up is smaller"
    circle = re.search(r'<circle class="line c0" [^>]*?cx="([\d.]+)" cy="([\d.]+)"', drawn)
    assert float(circle.group(1)) - x1 == pytest.approx(3 * (x2 - x1), abs=0.2)
    assert float(circle.group(2)) == pytest.approx((y1 + y2) / 2, abs=0.1)


def test_a_logarithmic_axis_has_equal_steps_for_equal_ratios() -> None:
    drawn = line_chart("g", {"a": [(1, 1e-4), (2, 1e-3), (3, 1e-2), (4, 0.0)]}, log=True)
    path = re.search(r'class="line c0" [^>]*? d="M([\d. L]+)"', drawn).group(1)
    heights = [float(place.split()[1]) for place in path.split("L")]
    assert len(heights) == 3
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert all(mark in drawn for mark in ("1e-4<", "1e-3<", "1e-2<"))


def test_no_points_no_chart() -> None:
    assert line_chart("g", {"a": [(1, None)], "b": []}) == ""


def test_the_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert "report" in shown
    assert "fmt" in shown
