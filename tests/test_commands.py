"""The command line: what each command prints and leaves, its exit status, and no traceback for what a user can cause."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
from runs import DIGITS, TINY, Said, command, leftovers, nnc, process, refused, write

from nnc import commands, terminal
from nnc.cli import parser
from nnc.compiler import pipeline
from nnc.compiler.shown import bytes_of
from nnc.runtime.device import DEVICES
from nnc.runtime.engine import ENGINES

ROOT = Path(__file__).parent.parent

# Every kind of raw column: numbers with missing values, text categories, a category to decide on, a number to predict.
PEOPLE = """
network(numbers: float32[2], job: float32[3]) {
  h = concat(numbers, job) -> dense(4) -> tanh
  return rich = h -> dense(2) -> softmax, age = h -> dense(1)
}
data {
  source  = csv("people.csv", missing=["?"])
  numbers = columns(hours, gain) -> impute(median) -> standardize
  job     = column(job) -> one_hot
  income  = column(income) -> category(["low", "high"])
  years   = column(years) -> standardize
  split   = random(train=60%, validation=20%, test=20%, stratify=income, seed=1)
}
train {
  loss = cross_entropy(rich, income) + 0.5 * mse(age, years)
  optimizer = adam(lr=0.01)
  batch = 16
  epochs = 3
  metrics = [accuracy(rich, income), mae(age, years)]
}
export { file = "people.onnx"  outputs = [rich, income, age] }
"""


def people(rows: int = 120, seed: int = 0) -> str:
    drawn = np.random.default_rng(seed)
    lines = ["job,hours,gain,years,income"]
    for _ in range(rows):
        job, hours = drawn.choice(["clerk", "nurse", "smith"]), drawn.integers(10, 60)
        gain = "?" if drawn.random() < 0.1 else f"{drawn.normal(0, 100):.3f}"
        lines.append(f"{job},{hours},{gain},{20 + hours},{'high' if hours > 35 else 'low'}")
    return "\n".join(lines) + "\n"


def run_of_people(word: str, folder: Path) -> Path:
    """PEOPLE, trained in a folder by `nnc train` or the whole `nnc run`."""
    write(folder / "people.csv", people())
    said = nnc(word, write(folder / "people.nn", PEOPLE), "-o", folder / "run")
    assert said.status == 0, said.err
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run of PEOPLE; nothing changes it."""
    return run_of_people("train", tmp_path_factory.mktemp("people"))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny.nn", TINY)


# check, summary, explain


def test_check(tiny: Path, tmp_path: Path) -> None:
    good = nnc("check", tiny)
    assert (good.status, good.err) == (0, "")
    assert re.fullmatch(r".*tiny\.nn: ok, 3 layers, 7 parameters\n", good.out)
    bad = write(tmp_path / "bad.nn", TINY.replace("tanh", "tnah"))
    both = nnc("check", tiny, bad)
    assert both.status == 1
    assert "tiny.nn: ok" in both.out
    assert both.errors() == ["E202"]
    assert "did you mean `tanh`?" in both.err


def test_check_formats(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.nn", TINY.replace("tanh", "tnah").replace("epochs = 2", "epochs = 0"))
    found = json.loads(nnc("check", bad, "--format", "json").out)
    assert {d["code"] for d in found} == {"E202", "E207"}
    first = next(d for d in found if d["code"] == "E202")
    assert first["place"] == {"file": str(bad), "line": 3, "column": 31, "end_line": 3, "end_column": 35}
    github = nnc("check", bad, "--format", "github").out.splitlines()
    assert len(github) == 2
    assert any(line.startswith(f"::error file={bad},line=3,col=31,title=E202::") for line in github)
    assert json.loads(nnc("check", write(tmp_path / "good.nn", TINY), "--format", "json").out) == []


def test_advice_never_changes_the_status(tmp_path: Path) -> None:
    said = nnc("check", write(tmp_path / "digits.nn", DIGITS.replace("bias=false", "bias=true")))
    assert said.status == 0
    assert "advice[W301]" in said.err
    assert json.loads(nnc("check", tmp_path / "digits.nn", "--format", "json").out)[0]["severity"] == "advice"


def test_check_without_data(tmp_path: Path) -> None:
    spec = write(tmp_path / "people.nn", PEOPLE)
    refused(nnc("check", spec), "E401", "people.csv")
    assert nnc("check", spec, "--no-data").status == 0


def test_data_root(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "people.csv", people())
    spec = write(tmp_path / "people.nn", PEOPLE)
    assert nnc("check", spec, "--data-root", tmp_path / "elsewhere").status == 0


def test_summary(tiny: Path) -> None:
    out = nnc("summary", tiny).out
    assert re.search(r"y/dense +dense +\[2\] +4 ", out)
    assert "parameters  7 (28 B)" in out
    for word in ("flops", "training", "inference"):
        assert re.search(rf"^{word} ", out, re.MULTILINE)


def test_the_memory_of_a_summary_is_the_engines(tmp_path: Path) -> None:
    """The work space of their convolutions differs."""
    pytest.importorskip("numba")
    spec = write(tmp_path / "images.nn", "network(x: float32[3, 16, 16]) { return y = x -> conv2d(8, kernel=3) -> flatten -> dense(1) }\n"
                 "train { loss = mse(y, t)  optimizer = sgd(lr=0.1)  batch = 64  epochs = 1 }")  # fmt: skip
    program = pipeline.analyse(pipeline.read(spec), root=None)
    numpy, fast = (bytes_of(program.training_bytes(64, engine == "fast")) for engine in ("numpy", "fast"))
    assert numpy != fast
    assert f"training    {numpy} at batch 64, on NumPy" in nnc("summary", spec, "--engine", "numpy").out
    assert f"training    {fast} at batch 64, on the fast engine" in nnc("summary", spec, "--engine", "fast").out


def test_set(tmp_path: Path) -> None:
    spec = write(tmp_path / "digits.nn", DIGITS)
    assert "trained 1 epochs" in nnc("train", spec, "-o", tmp_path / "run", "--set", "epochs=1").out
    refused(nnc("check", spec, "--set", "epochz=1"), "E220")
    refused(nnc("check", spec, "--set", "epochs=many"), "E201")
    refused(nnc("check", spec, "--set", "epochs=1.5"), "E206")
    assert nnc("check", spec, "--set", "epochs").status == 2
    assert nnc("check", spec, "--set", "=3").status == 2


def test_explain() -> None:
    said = nnc("explain", "e510")
    assert said.status == 0
    assert said.out.startswith("E510: ")
    unknown = nnc("explain", "E999")
    assert unknown.status == 2
    assert "no diagnostic E999" in unknown.err


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["train"], ["check"], ["predict", "run", "in.csv"], ["check", "x", "--format", "xml"],
                                       ["tune", "x.nn"], ["check", "x.nn", "--max-bytes", "many"]])  # fmt: skip
def test_wrong_usage(arguments: list[str]) -> None:
    said = nnc(*arguments)
    assert said.status == 2
    assert "Traceback" not in said.err
    assert said.err


def test_every_command_has_a_function() -> None:
    names = next(a.choices for a in parser()._actions if a.choices)  # argparse keeps them here
    assert names
    assert [n for n in names if not callable(getattr(commands, n, None))] == []


def test_engines_and_devices_are_the_runtimes() -> None:
    """The command line writes their names again, for it starts without the runtime."""
    (words,) = (dict(action.choices) for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    planned = words.pop("summary")  # tells the memory of engines that go by a plan
    assert [tuple(action.choices) for action in planned._actions if action.dest == "engine"] == [ENGINES[:2]]
    offered = [(action.dest, action.choices) for word in words.values() for action in word._actions if action.dest in ("engine", "device")]
    assert {name for name, _ in offered} == {"engine", "device"}
    assert all(choices == {"engine": ENGINES, "device": DEVICES}[name] for name, choices in offered)


def test_the_budget(tiny: Path) -> None:
    refused(nnc("check", tiny, "--max-bytes", "10"), "E307")
    refused(nnc("check", tiny, "--max-bytes", "0.01KiB"), "E307")
    assert nnc("check", tiny, "--max-bytes", "1.5 MiB").status == 0
    assert nnc("check", tiny, "--max-bytes", "9" * 400).status == 0
    for text in ("0", "-5", "0.2", "1e6", "5 giga", "16 GiB or so", "9" * 5000):
        said = nnc("check", tiny, f"--max-bytes={text}")
        assert (said.status, "write 500000000, 500MiB or 2GiB" in said.err) == (2, True)


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1,000 B"), (1023, "1,023 B"), (1024, "1 KiB"), (1535, "1.5 KiB"),
                                              (1023 * 2**20, "1,023 MiB"), (5 * 2**40, "5 TiB"), (10**18, "909,494 TiB")])  # fmt: skip
def test_sizes_as_people_read_them(number: int, text: str) -> None:
    assert bytes_of(number) == text


def test_a_limit_that_was_raised_holds_for_all_that_is_done_with_the_run(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    looked = pipeline._check_budget
    monkeypatch.setattr(pipeline, "_check_budget", lambda program, most: (limits.append(most), looked(program, most)))
    assert nnc("train", tiny, "-o", tmp_path / "run", "--max-bytes", str(10**15)).status == 0
    for more in (("eval",), ("export", "-o", tmp_path / "dist"), ("report",)):
        assert nnc(more[0], tmp_path / "run", *more[1:]).status == 0
    assert nnc("reproduce", tmp_path / "run", "-o", tmp_path / "again").status == 0
    assert len(limits) > 5
    assert min(limits) == 10**15


def test_a_batch_has_no_more_rows_than_the_source(tmp_path: Path) -> None:
    large = write(tmp_path / "large.nn", TINY.replace("batch = 2", "batch = 2000000000"))
    assert nnc("check", large).status == 0
    assert "at batch 8," in nnc("summary", large).out
    assert nnc("build", large, "-o", tmp_path / "build").status == 0
    assert (tmp_path / "build" / "large" / "plan.txt").read_text().startswith("# batch 6,")  # those that train


def test_the_memory_of_newton_is_that_of_its_hessian(tmp_path: Path) -> None:
    dense = TINY.replace("dense(2)", "dense(1000)").replace("batch = 2", "batch = full")
    spec = write(tmp_path / "newton.nn", dense.replace("adam(lr=0.05)", "newton(damping=0.1)"))
    other = write(tmp_path / "lbfgs.nn", dense.replace("adam(lr=0.05)", "lbfgs(lr=1)"))
    for limit, status in ((200_000_000, 1), (250_000_000, 0)):  # 3,001 parameters
        assert nnc("check", spec, "--max-bytes", limit).status == status
    assert nnc("check", other, "--max-bytes", 10_000_000).status == 0


# build


def test_build(tmp_path: Path) -> None:
    """Unchanged inputs are not built again; a change of the spec, a constant or the data is, and so is a tampered file."""
    write(tmp_path / "people.csv", people())
    spec, out = write(tmp_path / "people.nn", PEOPLE), tmp_path / "build"
    target = out / "people"

    def built(*more: str) -> bool:
        said = nnc("build", spec, "-o", out, *more)
        assert said.status == 0, said.err
        assert ("unchanged, nothing to build" in said.out) != (str(target / "people.onnx") in said.out)
        return "unchanged" not in said.out

    assert built()
    assert sorted(p.name for p in target.iterdir()) >= ["manifest.json", "people.onnx", "plan.txt", "training.onnx"]
    assert onnxruntime.InferenceSession(str(target / "people.onnx"), providers=["CPUExecutionProvider"]).get_inputs()
    first = (target / "people.onnx").read_bytes()
    assert not built()
    spec.write_text(PEOPLE.replace("dense(4)", "dense(5)"), "utf-8")
    assert built()
    assert (target / "people.onnx").read_bytes() != first
    assert not built()
    write(tmp_path / "people.csv", people(seed=1))
    assert built()
    for name in ("people.onnx", "plan.txt", "training.onnx"):
        good = (target / name).read_bytes()
        (target / name).write_bytes(good + b" ")
        assert built()
        assert (target / name).read_bytes() == good
        (target / name).unlink()
        assert built()
    for damage in (b"", b"{}", b"[1", b"\xff"):
        (target / "manifest.json").write_bytes(damage)
        if damage == b"{}":
            continue
        assert built()
    spec.write_text("let width = 4\n" + PEOPLE.replace("dense(4)", "dense(width)"), "utf-8")
    assert built()
    assert built("--set", "width=3")
    assert not built("--set", "width=3")


def test_a_network_alone_can_be_built(tmp_path: Path) -> None:
    spec = write(tmp_path / "n.nn", "network(x: float32[3]) { return y = x -> dense(2) }")
    assert nnc("build", spec, "-o", tmp_path / "out").status == 0
    assert (tmp_path / "out" / "n" / "model.onnx").is_file()


def test_a_training_that_is_no_single_step_is_built_without_training_onnx(tmp_path: Path, tiny: Path) -> None:
    text = tiny.read_text("utf-8").replace("adam(lr=0.05)", "lbfgs(lr=1)").replace("batch = 2", "batch = full")
    said = nnc("build", write(tmp_path / "solved.nn", text), "-o", tmp_path / "out")
    assert (said.status, said.err) == (0, "note: no training.onnx: lbfgs evaluates the objective as often as a step needs\n")
    assert sorted(p.name for p in (tmp_path / "out" / "solved").iterdir()) == ["manifest.json", "model.onnx", "plan.txt"]


def test_a_model_called_training_is_not_written_over(tmp_path: Path, tiny: Path) -> None:
    text = tiny.read_text("utf-8") + 'export { file = "training.onnx" }\n'
    said = nnc("build", write(tmp_path / "named.nn", text), "-o", tmp_path / "out")
    assert said.err == "note: no training.onnx: the model has that name\n"
    made = onnxruntime.InferenceSession(str(tmp_path / "out" / "named" / "training.onnx"), providers=["CPUExecutionProvider"])
    assert [i.name for i in made.get_inputs()] == ["x"]


def test_build_writes_over_nothing_else(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "out" / "tiny").mkdir(parents=True)
    (tmp_path / "out" / "tiny" / "manifest.json").write_text('{"name": "a web page"}', "utf-8")
    (tmp_path / "out" / "tiny" / "index.html").write_text("", "utf-8")
    refused(nnc("build", tiny, "-o", tmp_path / "out"), "E704")
    assert nnc("train", tiny, "-o", tmp_path / "runs" / "tiny").status == 0
    refused(nnc("build", tiny, "-o", tmp_path / "runs"), "E704")


# train


def test_progress_elsewhere_is_plain_lines(tiny: Path, tmp_path: Path) -> None:
    said = process("train", tiny, "-o", tmp_path / "run")
    lines = said.err.splitlines()
    assert lines[0] == "training 7 parameters on train 6, validation 2 rows"
    assert [line.split("  ")[0] for line in lines[1:]] == ["epoch 1/2", "epoch 2/2"]
    assert all(re.search(r"train\.loss \S+  val\.loss \S+  val\.mae \S+  [\d,]+ samples/s$", line) for line in lines[1:])
    assert "\r" not in said.err
    assert "\x1b" not in said.err


def on_a_terminal(arguments: list[str], columns: int = 120) -> tuple[int, str]:
    """The exit status and what a terminal received."""
    leader, follower = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns)}
    started = subprocess.Popen(arguments, stdin=follower, stdout=follower, stderr=follower, close_fds=True, env=environment)
    os.close(follower)
    received = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # Linux says EIO when the other side has closed
            break
        if not part:
            break
        received += part
    os.close(leader)
    return started.wait(timeout=60), received.decode()


def test_progress_on_a_terminal_is_one_line(tmp_path: Path) -> None:
    spec = write(tmp_path / "digits.nn", DIGITS)
    status, text = on_a_terminal(command("train", spec, "-o", tmp_path / "run", "--set", "epochs=40"))
    assert status == 0, text
    before, drawn, after = re.split(r"(?<=\d rows)\r\n|\r\n(?=split)", text)
    assert re.search(r"training [\d,]+ parameters on", before)
    assert "\r" not in after.replace("\r\n", "")
    assert "\n" not in drawn
    states = [state for state in drawn.split("\r") if state.strip()]
    assert len(states) > 3
    assert re.match(r"epoch \d+/40 +\d+%  loss \S+  val\.loss \S+  val\.accuracy \S+  [\d,]+ samples/s  \d+:\d\d left *$", states[-1])
    widths = [len(state) for state in states]
    assert all(b >= len(a.rstrip()) for a, b in zip(states, widths[1:], strict=False)), "a shorter line covers the one before"


def test_progress_fits_a_narrow_terminal(tmp_path: Path) -> None:
    spec = write(tmp_path / "digits.nn", DIGITS)
    _, text = on_a_terminal(command("train", spec, "-o", tmp_path / "run", "--set", "epochs=20"), columns=40)
    assert all(len(state) < 40 for state in re.split(r"[\r\n]+", text) if state.startswith("epoch"))


def test_training_outlives_the_reader_of_its_progress(tmp_path: Path) -> None:
    spec = write(tmp_path / "digits.nn", DIGITS)
    started = subprocess.Popen(command("train", spec, "-o", tmp_path / "run"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stderr is not None
    started.stderr.readline()
    started.stderr.close()
    assert started.stdout is not None
    with started.stdout:
        assert "trained 6 epochs" in started.stdout.read()
    assert started.wait(timeout=60) == 0


def test_what_is_not_complete_for_training(tmp_path: Path) -> None:
    free = "network(x: float32[3]) { return y = x -> dense(2) }\ntrain { loss = mse(y, t) optimizer = sgd(lr=1) batch = 2 epochs = 1 }"
    refused(nnc("train", write(tmp_path / "n.nn", "network(x: float32[3]) { return y = x -> dense(2) }")), "E514", "train")
    refused(nnc("train", write(tmp_path / "f.nn", free)), "E514", "data")


# eval


def test_eval_json(run: Path) -> None:
    """Exactly the splits, and exactly the loss and the metrics of each."""
    said = nnc("eval", run, "--format", "json")
    found = json.loads(said.out)
    assert said.err == ""
    assert list(found) == ["train", "validation", "test"]
    assert all(list(split) == ["loss", "rich.accuracy", "age.mae"] for split in found.values())
    assert all(isinstance(v, float) for split in found.values() for v in split.values())


def test_eval_text_and_train_agree(tmp_path: Path) -> None:
    spec = write(tmp_path / "digits.nn", DIGITS)
    trained = nnc("train", spec, "-o", tmp_path / "run").out.partition("\n\n")[0]
    assert nnc("eval", tmp_path / "run").out.strip() == trained


def test_a_matrix_stands_below_the_table() -> None:
    """Ten classes make a row of a hundred numbers: no line of an epoch and no cell holds it."""
    matrix = [[12, 3], [0, 100]]
    told = terminal.figures({"train": {"loss": 0.5, "confusion_matrix": matrix}, "test": {"loss": 0.25}})
    above, below = told.split("\n\n")
    assert above.splitlines()[2].split() == ["train", "0.5000"]
    assert below.splitlines() == ["confusion_matrix on train: a row is a class, a column a decision", "    0    1", "-  --  ---", "0  12    3", "1   0  100"]
    written = StringIO()
    terminal.Lines(written).epoch({"epoch": 1, "train": {"loss": 0.5}, "val": {"loss": 0.25, "confusion_matrix": matrix}, "samples_per_second": 9.0})
    assert "val.loss 0.2500" in written.getvalue()
    assert "confusion_matrix" not in written.getvalue()


def test_eval_on_labelled_rows(run: Path, tmp_path: Path) -> None:
    """New rows are prepared with what training learned, and every mistake in them names its line."""
    said = nnc("eval", run, "--data", write(tmp_path / "new.csv", people(30, seed=9)), "--format", "json")
    assert list(json.loads(said.out)) == ["data"]
    good = people(5).splitlines()
    for bad, code, words in (
        ("clerk,30,1,50,medium", "E406", "`medium` in line 7"),
        ("clerk,abc,1,50,low", "E404", "line 7 of new.csv holds `abc`"),
        ("clerk,30,1,,low", "E405", "column `years`, line 7"),
        ("clerk,30,1,50,", "E406", "a missing value in line 7"),
        ("clerk,30,1,50", "E403", "line 7"),
    ):
        said = refused(nnc("eval", run, "--data", write(tmp_path / "new.csv", "\n".join([*good, bad]))), code, words)
        assert "``" not in said
        assert "-->" not in said  # no line of the spec is at fault
    semicolons = "\n".join(good).replace(",", ";")
    refused(nnc("eval", run, "--data", write(tmp_path / "new.csv", semicolons)), "E402", "stand between semicolons", "write them with commas between")
    several = [*good, '"a\njob of\nthree lines",30,1,50,low', "clerk,30,1,,low"]
    refused(nnc("eval", run, "--data", write(tmp_path / "new.csv", "\n".join(several))), "E405", "line 10")
    refused(nnc("eval", run, "--data", write(tmp_path / "new.csv", good[0])), "E410", "no rows")
    refused(nnc("eval", run, "--data", write(tmp_path / "new.csv", "job,hours\nclerk,3\n")), "E402", "gain")
    refused(nnc("eval", run, "--data", tmp_path / "none.csv"), "E401")


def test_eval_of_changed_data(tmp_path: Path) -> None:
    write(tmp_path / "people.csv", people())
    assert nnc("train", write(tmp_path / "people.nn", PEOPLE), "-o", tmp_path / "run").status == 0
    write(tmp_path / "people.csv", people(seed=1))
    refused(nnc("eval", tmp_path / "run"), "E511", "the data has changed")
    (tmp_path / "people.csv").unlink()
    refused(nnc("eval", tmp_path / "run"), "E401")
    (tmp_path / "moved").mkdir()
    write(tmp_path / "moved" / "people.csv", people())
    assert nnc("eval", tmp_path / "run", "--data-root", tmp_path / "moved").status == 0


def test_a_run_works_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "people.csv", people())
    write(tmp_path / "people.nn", PEOPLE)
    monkeypatch.chdir(tmp_path)
    assert nnc("train", "people.nn").status == 0
    assert (tmp_path / "runs" / "people" / "manifest.json").is_file()
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert nnc("eval", "../runs/people").status == 0


# predict


def columns_of(path: Path) -> dict[str, list[str]]:
    header, *rows = [line.split(",") for line in path.read_text("utf-8").splitlines()]
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def test_predict_csv(run: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.csv", people(20, seed=4))
    said = nnc("predict", run, rows, "-o", tmp_path / "out.csv")
    assert said.status == 0, said.err
    found = columns_of(tmp_path / "out.csv")
    assert list(found) == ["rich_0", "rich_1", "income", "age"]
    assert len(found["age"]) == 20
    assert found["income"] == ["high" if float(h) > float(low) else "low" for low, h in zip(found["rich_0"], found["rich_1"], strict=True)]
    assert nnc("predict", run, rows, "-o", tmp_path / "out.npz").status == 0
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["rich"].shape == (20, 2)
        assert arrays["income"].tolist() == found["income"]
        assert [repr(float(str(v))) for v in arrays["age"].reshape(-1)] == found["age"]


def test_predictions_are_those_of_the_exported_file(run: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.csv", people(20, seed=4))
    assert nnc("predict", run, rows, "-o", tmp_path / "out.csv").status == 0
    assert nnc("export", run, "-o", tmp_path / "export").status == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "export" / "people.onnx"), providers=["CPUExecutionProvider"])
    given = columns_of(rows)
    gain = [float("nan") if g == "?" else float(g) for g in given["gain"]]
    feeds = {"numbers": np.array([[float(h) for h in given["hours"]], gain], "f4").T, "job": np.array(given["job"], object)}
    rich, income, age = session.run(["rich", "income", "age"], feeds)
    found = columns_of(tmp_path / "out.csv")
    assert income.reshape(-1).tolist() == found["income"]
    np.testing.assert_allclose(age.reshape(-1), [float(v) for v in found["age"]], rtol=1e-4)
    np.testing.assert_allclose(rich[:, 1], [float(v) for v in found["rich_1"]], rtol=1e-4)


def test_predict_from_arrays(tmp_path: Path) -> None:
    spec = write(tmp_path / "digits.nn", DIGITS)
    assert nnc("train", spec, "-o", tmp_path / "run", "--set", "epochs=1").status == 0
    pixels = np.random.default_rng(0).integers(0, 17, (10, 64))
    for name in ("image", "pixels"):  # by data name, or by the source's
        np.savez(tmp_path / f"{name}.npz", **{name: pixels})
        assert nnc("predict", tmp_path / "run", tmp_path / f"{name}.npz", "-o", tmp_path / f"{name}.csv").status == 0
    assert (tmp_path / "image.csv").read_bytes() == (tmp_path / "pixels.csv").read_bytes()
    lines = [",".join(f"pixels_{i}" for i in range(64)), *(",".join(map(str, row)) for row in pixels.tolist())]
    assert nnc("predict", tmp_path / "run", write(tmp_path / "cells.csv", "\n".join(lines)), "-o", tmp_path / "out.csv").status == 0
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "image.csv").read_bytes()
    np.savez(tmp_path / "bad.npz", image=pixels[:, :63])
    refused(nnc("predict", tmp_path / "run", tmp_path / "bad.npz", "-o", tmp_path / "o.csv"), "E407", "[63]")
    np.savez(tmp_path / "bad.npz", images=pixels)
    refused(nnc("predict", tmp_path / "run", tmp_path / "bad.npz", "-o", tmp_path / "o.csv"), "E402", "did you mean `")
    np.savez(tmp_path / "bad.npz", image=np.where(pixels == pixels[3, 3], np.nan, pixels))
    refused(nnc("predict", tmp_path / "run", tmp_path / "bad.npz", "-o", tmp_path / "o.csv"), "E405", "row ")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nothing")
    refused(nnc("predict", tmp_path / "run", tmp_path / "bad.npz", "-o", tmp_path / "o.csv"), "E410")
    assert not (tmp_path / "o.csv").exists()


def test_predict_unseen_and_missing(run: Path, tmp_path: Path) -> None:
    """Unseen and missing categories and imputed numbers have a meaning; a missing number without one is refused with its line."""
    rows = write(tmp_path / "rows.csv", "hours,job,gain\n30,pilot,?\n30,,\n30,?,\n30,clerk,5\n")
    assert nnc("predict", run, rows, "-o", tmp_path / "out.csv").status == 0
    found = columns_of(tmp_path / "out.csv")["age"]
    assert found[0] == found[1] == found[2] != found[3]
    folder = tmp_path / "plain"
    folder.mkdir()
    assert nnc("train", write(folder / "tiny.nn", TINY), "-o", folder / "run").status == 0
    for cell, words in (("", "a missing value"), ("nan", "a missing value"), ("-inf", "an infinite value")):
        rows = write(folder / "rows.csv", f"w,x\n1,1\n2,{cell}\n")
        refused(nnc("predict", folder / "run", rows, "-o", folder / "out.csv"), "E405", words, "column `x`, line 3 of rows.csv")
    assert not (folder / "out.csv").exists()


def test_predict_refuses(run: Path, tmp_path: Path) -> None:
    for text, code, words in (
        ("job,hours\nclerk,3\n", "E402", "`gain`"),
        ("job,hours,gain\nclerk,x,1\n", "E404", "line 2 of rows.csv holds `x`"),
        ("job,hours,gain\nclerk,1\n", "E403", "line 2"),
        ("", "E410", "empty"),
    ):
        refused(nnc("predict", run, write(tmp_path / "rows.csv", text), "-o", tmp_path / "out.csv"), code, words)
    refused(nnc("predict", run, tmp_path / "none.csv", "-o", tmp_path / "out.csv"), "E401")
    refused(nnc("predict", run, tmp_path, "-o", tmp_path / "out.csv"), "E410", "directory")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    refused(nnc("predict", run, tmp_path / "binary.csv", "-o", tmp_path / "out.csv"), "E410")
    assert not (tmp_path / "out.csv").exists()
    assert leftovers(tmp_path) == []


def test_no_rows_give_a_header(run: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.csv", "job,hours,gain\n")
    assert nnc("predict", run, rows, "-o", tmp_path / "out.csv").status == 0
    assert (tmp_path / "out.csv").read_bytes() == b"rich_0,rich_1,income,age\r\n"
    assert nnc("predict", run, rows, "-o", tmp_path / "out.npz").status == 0
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["rich"].shape == (0, 2)


def test_chunks_change_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several chunks, of which the last is smaller, come out in their order."""
    from nnc.runtime.data import rows as reading

    rows = write(tmp_path / "rows.csv", people(50, seed=4))
    assert nnc("predict", run, rows, "-o", tmp_path / "whole.csv").status == 0
    monkeypatch.setattr(reading, "CHUNK", 7)
    assert nnc("predict", run, rows, "-o", tmp_path / "parts.csv").status == 0
    whole, parts = columns_of(tmp_path / "whole.csv"), columns_of(tmp_path / "parts.csv")
    assert whole["income"] == parts["income"]
    np.testing.assert_allclose([float(v) for v in whole["age"]], [float(v) for v in parts["age"]], rtol=1e-4)


MEMORY = """
import resource, sys
from nnc.cli import main
assert main(["predict", sys.argv[1], sys.argv[2], "-o", sys.argv[3]]) == 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert main(["predict", sys.argv[1], sys.argv[4], "-o", sys.argv[3]]) == 0
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_large_file_is_predicted_in_bounded_memory(tmp_path: Path) -> None:
    """200,000 rows take hardly more memory than 10,000; held whole they would take over 100 MiB."""
    assert nnc("train", write(tmp_path / "tiny.nn", TINY), "-o", tmp_path / "run").status == 0
    lines = [f"{i % 8},some text that nobody asks for,{i}" for i in range(200_000)]
    small = write(tmp_path / "small.csv", "\n".join(["x,w,i", *lines[:10_000]]))
    large = write(tmp_path / "large.csv", "\n".join(["x,w,i", *lines]))
    given = [sys.executable, "-c", MEMORY, str(tmp_path / "run"), str(small), str(tmp_path / "out.csv"), str(large)]
    done = subprocess.run(given, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 24
    with (tmp_path / "out.csv").open("rb") as file:
        assert sum(1 for _ in file) == 200_001


# export, run, new, doctor


def test_the_whole_way(tmp_path: Path) -> None:
    said = nnc("run", write(tmp_path / "digits.nn", DIGITS), "-o", tmp_path / "run", "--set", "epochs=2")
    assert said.status == 0, said.err
    assert (tmp_path / "run" / "export" / "model.onnx").is_file()
    assert "verified with onnxruntime" in said.out
    assert re.search(r"^test +\S+ +\S+$", said.out, re.MULTILINE)


def test_new(tmp_path: Path) -> None:
    said = nnc("new", tmp_path / "mine")
    assert said.status == 0
    assert nnc("check", tmp_path / "mine.nn").status == 0
    refused(nnc("new", tmp_path / "mine.nn"), "E704")
    unknown = nnc("new", tmp_path / "other", "--template", "digit")
    assert unknown.status == 2
    assert "did you mean `digits`?" in unknown.err
    assert not (tmp_path / "other.nn").exists()
    (tmp_path / "file").write_text("", "utf-8")
    refused(nnc("new", tmp_path / "file" / "x"), "E701", status=3)


@pytest.fixture(scope="module")
def doctor() -> Said:
    return process("doctor")


def test_doctor_makes_no_noise(doctor: Said) -> None:
    assert doctor.status in (0, 1)
    assert doctor.err == ""
    assert not re.search(r"onnxruntime:|\[[EW]:|\x1b", doctor.out)
    assert all(line.startswith(("  ", "! ")) for line in doctor.out.splitlines())


def test_doctor_tells_the_truth_about_providers(doctor: Said) -> None:
    """A provider is called usable exactly if a session runs on it."""
    usable = [line.split()[-1] for line in doctor.out.splitlines() if line.strip().startswith("provider") and ":" not in line]
    assert "CPUExecutionProvider" in usable
    if "CUDAExecutionProvider" in usable:
        assert Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists()
    elif "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        assert "CUDAExecutionProvider: listed by onnxruntime, not usable" in doctor.out


def test_doctor_reports_a_pinned_kernel() -> None:
    said = process("doctor", env=os.environ | {"OPENBLAS_CORETYPE": "Prescott"})
    assert said.status == 1
    assert re.search(r"^! BLAS", said.out, re.MULTILINE)
    assert "OPENBLAS_CORETYPE=Prescott" in said.out


def test_doctor_reports_an_engine_that_is_not_there() -> None:
    said = process("doctor", env=os.environ | {"NNC_ENGINE": "turbo"})
    assert said.status == 1
    assert re.search(r"^! engine +none: NNC_ENGINE=turbo", said.out, re.MULTILINE)
    assert "numpy" in said.out.split("engine", 1)[1]


# What a user can get wrong with paths


def test_specs_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "folder.nn").mkdir()
    (tmp_path / "binary.nn").write_bytes(bytes(range(256)))
    (tmp_path / "empty.nn").write_bytes(b"")
    for name in ("check", "summary", "build", "train", "run"):
        refused(nnc(name, tmp_path / "none.nn"), "E401")
        refused(nnc(name, tmp_path / "folder.nn"), "E401", "directory")
        refused(nnc(name, tmp_path / "binary.nn"), "E111")
        assert nnc(name, tmp_path / "empty.nn").status == 1


def test_runs_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    rows = write(tmp_path / "rows.csv", "x\n1\n")
    for run in (tmp_path / "none", tmp_path / "folder", rows):
        refused(nnc("eval", run), "E401")
        refused(nnc("predict", run, rows, "-o", tmp_path / "out.csv"), "E401")
        refused(nnc("export", run), "E401")


@pytest.mark.parametrize("name", ["manifest.json", "notes.txt"])
def test_a_foreign_directory_is_left_alone(name: str, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('{"name": "mine"}', "utf-8")
    refused(nnc("train", tiny, "-o", tmp_path / "out"), "E704", "no run")
    refused(nnc("train", tiny, "-o", tmp_path / "out" / name), "E704", "a file")
    refused(nnc("train", tiny, "-o", tmp_path), "E704", "no run")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [name]


def test_an_earlier_run_is_replaced_and_nothing_else(tiny: Path, tmp_path: Path) -> None:
    assert nnc("train", tiny, "-o", tmp_path / "run").status == 0
    (tmp_path / "run" / "notes.txt").write_text("mine", "utf-8")
    assert nnc("train", tiny, "-o", tmp_path / "run").status == 0
    assert (tmp_path / "run" / "notes.txt").read_text("utf-8") == "mine"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a place where nobody can write: Linux's /proc")
def test_places_that_cannot_be_written(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    assert nnc("train", tiny, "-o", tmp_path / "run").status == 0
    rows = write(tmp_path / "rows.csv", "x\n1\n")
    for place in ("/proc/nnc", tmp_path / "file" / "below", "/dev/null/x"):
        refused(nnc("train", tiny, "-o", place), "E701", status=3)
        refused(nnc("build", tiny, "-o", place), "E701", status=3)
        refused(nnc("export", tmp_path / "run", "-o", place), "E701", status=3)
        refused(nnc("predict", tmp_path / "run", rows, "-o", f"{place}/out.csv"), "E701", status=3)
    refused(nnc("predict", tmp_path / "run", rows, "-o", tmp_path), "E701", "directory", status=3)


def test_without_permission(tmp_path: Path) -> None:
    """Root has to give up its right to everything first."""
    powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if powerless and shutil.which("setpriv") is None:
        pytest.skip("runs as root, and setpriv is not there")
    spec, closed = write(tmp_path / "tiny.nn", TINY), write(tmp_path / "closed.nn", TINY)
    closed.chmod(0)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o555)

    def said(*arguments: str | Path) -> Said:
        done = subprocess.run([*powerless, *command(*arguments)], capture_output=True, text=True, check=False, timeout=60)
        return Said(done.returncode, done.stdout, done.stderr)

    refused(said("check", closed), "E401", "Permission denied")
    refused(said("train", spec, "-o", tmp_path / "open" / "run"), "E701", "Permission denied", status=3)
    refused(said("new", tmp_path / "open" / "mine"), "E701", "Permission denied", status=3)
    assert nnc("train", spec, "-o", tmp_path / "run").status == 0
    for path in (tmp_path / "run" / "last.safetensors", tmp_path / "run" / "manifest.json"):
        path.chmod(0)
        found = said("train", spec, "-o", tmp_path / "run", "--resume")
        assert found.status in (1, 3)
        assert found.errors()
        path.chmod(0o644)
    (tmp_path / "run").chmod(0)
    found = said("eval", tmp_path / "run")
    (tmp_path / "run").chmod(0o755)
    refused(found, "E706", "Permission denied", status=3)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    spec = write(folder / "t\udcff.nn", TINY)
    for arguments in (["check", spec], ["train", spec, "-o", folder / "run"], ["eval", folder / "run"], ["export", folder / "run"]):
        said = process(*arguments, errors="surrogateescape")
        assert said.status == 0, said.err
        assert "Traceback" not in said.err
    assert process("check", folder / "none\udcff.nn", errors="surrogateescape").errors() == ["E401"]


def test_another_locale(tmp_path: Path) -> None:
    spec = write(tmp_path / "é.nn", TINY.replace("dense(2)", "dnse(2)") + "# é\n")
    said = process("check", spec, env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"})
    assert said.errors() == ["E202"]


# What a system can do


def test_a_closed_pipe(tmp_path: Path) -> None:
    """`nnc summary x | head -1` ends quietly."""
    body = "\n".join(f"  h{i} = {'x' if i == 0 else f'h{i - 1}'} -> dense(3)" for i in range(2000))
    spec = write(tmp_path / "long.nn", f"network(x: float32[3]) {{\n{body}\n  return y = h1999 }}")
    started = subprocess.Popen(command("summary", spec), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout is not None
    started.stdout.readline()
    started.stdout.close()
    assert started.stderr is not None
    with started.stderr:
        assert started.stderr.read() == ""
    assert started.wait(timeout=60) == 0


def test_output_that_nobody_takes(tiny: Path) -> None:
    done = subprocess.run(f"{' '.join(command('summary', tiny))} >&-", shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_output(tiny: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(command("summary", tiny), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert refused(Said(done.returncode, "", done.stderr), "E706", "No space left", status=3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("name", "layer", "status"), [("check", "dense", 3), ("check", "dnse", 3), ("summary", "dnse", 1)])
def test_a_full_disk_behind_what_is_said(name: str, layer: str, status: int, tmp_path: Path) -> None:
    """Nobody can be told; the exit status tells."""
    spec = write(tmp_path / "spec.nn", TINY.replace("dense(2) -> tanh", f"{layer}(2) -> batch_norm"))
    with open("/dev/full", "w") as full:
        done = subprocess.run(command(name, spec), stdout=subprocess.PIPE, stderr=full, text=True, check=False)
    assert done.returncode == status


def test_a_spec_from_the_input_for_an_output_that_is_closed() -> None:
    done = subprocess.run(f"{' '.join(command('fmt', '-'))} >&-", shell=True, input=TINY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interruption_while_a_class_is_made(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a command imports what it needs; Python 3.11 wraps what comes from there in a RuntimeError."""

    class Interrupts:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(commands, "check", lambda options: type("Made", (), {"field": Interrupts()}))
    said = nnc("check", tiny)
    assert (said.status, said.err) == (130, "nnc: interrupted\n")


def test_predictions_to_the_standard_output(run: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.csv", people(5))
    said = process("predict", run, rows, "-o", "/dev/stdout")
    assert said.status == 0, said.err
    assert said.out.startswith("rich_0,rich_1,income,age\r\n") or said.out.startswith("rich_0,rich_1,income,age\n")


def test_memory_that_runs_out(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(options: object) -> int:
        return len(np.empty(1 << 60, np.uint8))

    monkeypatch.setattr(commands, "summary", without)
    refused(nnc("summary", tiny), "E705", status=3)


def test_a_build_depends_on_the_files_that_weights_come_from(tmp_path: Path) -> None:
    spec = 'network(x: float32[2]) { return y = x -> dense(1, bias=false, init=from("w.safetensors", "w")) }'
    (tmp_path / "given.nn").write_text(spec)
    models = []
    for value in (1.0, 2.0):
        safetensors.numpy.save_file({"w": np.full((2, 1), value, np.float32)}, tmp_path / "w.safetensors")
        assert nnc("build", tmp_path / "given.nn", "-o", tmp_path / "out").status == 0
        models.append((tmp_path / "out" / "given" / "model.onnx").read_bytes())
    assert models[0] != models[1]
