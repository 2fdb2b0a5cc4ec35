"""What a training does: it stops on NaN, keeps the best weights, starts from given ones, treats groups apart, and records it all."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from runs import DIGITS, TINY, digest, history, leftovers, nnc, outcome, refused, write

import nnc as api
from nnc.compiler.pipeline import read
from nnc.runtime import train as training
from nnc.runtime.executor import Program
from nnc.runtime.files import read_arrays
from nnc.runtime.metrics import Evaluator
from nnc.runtime.model import TrainingFailure
from nnc.runtime.train import Progress, train

# NaN and infinity


def wild(rate: float, **replaced: str) -> str:
    text = DIGITS.replace("adam(lr=0.003)", f"sgd(lr={rate:g})").replace("  schedule  = warmup(epochs=1) -> cosine(to=1e-5)\n", "")
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("rate", [1e12, 1e30, 1e38])
def test_a_training_that_diverges(rate: float, tmp_path: Path) -> None:
    """It names what became infinite and the step, and every file is as it was before."""
    said = nnc("train", write(tmp_path / "s.nn", wild(rate)), "-o", tmp_path / "run")
    text = refused(said, "E510", "lower the learning rate", status=3)
    assert re.search(r"`[a-z_/]+` became NaN or infinite at step \d+", text)
    assert leftovers(tmp_path) == []
    arrays, _ = read_arrays(tmp_path / "run" / "last.safetensors")
    assert all(np.isfinite(array).all() for array in arrays.values())
    refused(nnc("train", tmp_path / "s.nn", "-o", tmp_path / "run", "--resume"), "E510", status=3)
    assert nnc("eval", tmp_path / "run").status == 0


def test_the_layer_and_the_step_of_a_nan(tmp_path: Path) -> None:
    """After one step at a rate of 1e30 the second of two layers multiplies 1e30 by 1e30."""
    text = TINY.replace("dense(2) -> tanh -> dense(1)", "dense(2) -> dense(1)").replace("adam(lr=0.05)", "sgd(lr=1e30)")
    said = nnc("train", write(tmp_path / "s.nn", text), "-o", tmp_path / "run")
    refused(said, "E510", "`y/dense_2` became NaN or infinite at step 2", status=3)
    said = nnc("train", write(tmp_path / "s.nn", text.replace("1e30", "1e15")), "-o", tmp_path / "run")
    refused(said, "E510", "`loss/mse` became NaN or infinite at step 2", status=3)


def test_infinite_parameters_are_never_saved(tmp_path: Path) -> None:
    """Also where the last step of an epoch makes them, which no later step of it would notice."""
    text = TINY.replace("adam(lr=0.05)", "sgd(lr=1e38)").replace("batch = 2", "batch = full").replace("epochs = 2", "epochs = 1")
    text = text.replace("t=[1, 3, 5, 7, 9, 11, 13, 15]", "t=[1, 300, 5, 7, 9, 1100, 13, 15]").replace("t = column(t) -> standardize", "t = column(t)")
    refused(nnc("train", write(tmp_path / "s.nn", text), "-o", tmp_path / "run"), "E510", "y/dense", "at step 1", status=3)
    arrays, about = read_arrays(tmp_path / "run" / "last.safetensors")
    assert about["step"] == 0
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert not (tmp_path / "run" / "best.safetensors").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_infinite_parameters_are_not_saved_in_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    text = TINY.replace("adam(lr=0.05)", "sgd(lr=1e38)").replace("t=[1, 3, 5, 7, 9, 11, 13, 15]", "t=[100, 300, 500, 700, 900, 1100, 1300, 1500]")
    text = text.replace("t = column(t) -> standardize", "t = column(t)")
    refused(nnc("train", write(tmp_path / "s.nn", text), "-o", tmp_path / "run"), "E510", "at step 1", status=3)
    assert read_arrays(tmp_path / "run" / "last.safetensors")[1]["step"] == 0


def test_a_step_that_fails_changes_nothing() -> None:
    model = api.compile(TINY).init(seed=1)
    batch = {"x": np.zeros((2, 1)), "t": np.array([[1.0], [np.inf]])}
    model.step({"x": np.zeros((2, 1)), "t": np.zeros((2, 1))})
    before = digest(model.state())
    with pytest.raises(TrainingFailure, match="E510"):
        model.step(batch)
    assert digest(model.state()) == before
    assert model.step_count == 1


# What is kept


def test_early_stopping_keeps_the_best_weights(tmp_path: Path) -> None:
    text = TINY.replace("epochs = 2", "epochs = 200").replace("patience=5", "patience=3").replace("adam(lr=0.05)", "adam(lr=0.3)")
    result = api.train(write(tmp_path / "s.nn", text), out=tmp_path / "run")
    losses = [record["val"]["loss"] for record in result.history]
    assert result.stopped_early
    assert len(losses) < 200
    assert result.best_epoch == int(np.argmin(losses)) + 1 == len(losses) - 3
    assert result.figures["validation"]["loss"] == min(losses)
    evaluated = json.loads(nnc("eval", tmp_path / "run", "--format", "json").out)
    assert evaluated == result.figures
    assert digest(read_arrays(tmp_path / "run" / "best.safetensors")[0]) != digest(read_arrays(tmp_path / "run" / "last.safetensors")[0])


def test_without_stop_the_last_weights_are_kept(tmp_path: Path) -> None:
    text = re.sub(r"  stop = .*\n", "", TINY).replace("adam(lr=0.05)", "adam(lr=0.5)").replace("epochs = 2", "epochs = 20")
    result = api.train(write(tmp_path / "s.nn", text), out=tmp_path / "run")
    assert result.figures["validation"]["loss"] == result.history[-1]["val"]["loss"]
    assert result.figures["validation"]["loss"] > min(r["val"]["loss"] for r in result.history)
    assert json.loads(nnc("eval", tmp_path / "run", "--format", "json").out) == result.figures


@pytest.mark.parametrize(("monitor", "best"), [("val.mae", min), ("train.loss", min), ("val.r2", max), ("test.mae", min)])
def test_any_figure_can_be_watched(monitor: str, best: Any, tmp_path: Path) -> None:
    text = TINY.replace("val.loss", monitor).replace("[mae]", "[mae, r2]").replace("epochs = 2", "epochs = 60").replace("adam(lr=0.05)", "adam(lr=0.3)")
    text = text.replace("train=75%, validation=25%", "train=50%, validation=25%, test=25%")
    result = api.train(write(tmp_path / "s.nn", text), out=tmp_path / "run")
    split, _, figure = monitor.partition(".")
    values = [record[split][figure] for record in result.history]
    assert result.best_epoch == values.index(best(values)) + 1


def test_min_delta(tmp_path: Path) -> None:
    """An improvement smaller than min_delta is none."""
    text = TINY.replace("patience=5", "patience=2, min_delta=1000").replace("epochs = 2", "epochs = 9")
    result = api.train(write(tmp_path / "s.nn", text), out=tmp_path / "run")
    assert (len(result.history), result.best_epoch) == (3, 1)


# What is recorded


def test_the_run_directory(tmp_path: Path) -> None:
    spec = write(tmp_path / "tiny.nn", TINY)
    result = api.train(spec, out=tmp_path / "run")
    run = tmp_path / "run"
    names = ["best.safetensors", "figures.json", "last.safetensors", "manifest.json", "metrics.jsonl", "plan.txt", "rows.json", "spec.nn", "verdict.json"]
    assert sorted(p.name for p in run.iterdir()) == names
    assert (run / "spec.nn").read_text("utf-8") == TINY
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    assert manifest["spec"]["sha256"] == hashlib.sha256(TINY.encode()).hexdigest()
    assert manifest["data"]["rows"] == {"train": 6, "validation": 2}
    assert manifest["parameters"] == {"y/dense": 4, "y/dense_2": 3}
    assert manifest["environment"]["versions"]["numpy"] == np.__version__
    assert [(r["epoch"], r["step"], sorted(r["val"])) for r in history(run)] == [(1, 3, ["loss", "mae"]), (2, 6, ["loss", "mae"])]
    assert result.run == run


def test_the_training_loss_of_an_epoch_counts_samples(tmp_path: Path) -> None:
    """The smaller last batch counts by its samples. At a rate of 0 every step sees the same network."""
    text = TINY.replace("adam(lr=0.05)", "sgd(lr=1e-30)").replace("batch = 2", "batch = 4").replace("epochs = 2", "epochs = 1")
    result = api.train(write(tmp_path / "s.nn", text), out=tmp_path / "run")
    assert result.history[0]["train"]["loss"] == pytest.approx(result.figures["train"]["loss"], rel=1e-6)


def test_figures_do_not_depend_on_how_many_rows_are_evaluated_at_a_time(tmp_path: Path) -> None:
    text = DIGITS.replace("epochs = 6", "epochs = 1").replace("metrics   = [accuracy]", "metrics = [accuracy, top_k(2), f1, auc, perplexity, confusion_matrix]")
    result = api.train(write(tmp_path / "s.nn", text), out=tmp_path / "run")
    evaluator = Evaluator.of(result.model)
    found = [evaluator.figures(result.data.batches("train", size)) for size in (2000, 100, 7)]
    assert np.sum(found[0].pop("confusion_matrix")) == len(result.data.splits["train"])
    for other in found[1:]:
        other.pop("confusion_matrix")
        assert other == pytest.approx(found[0], rel=1e-5)


def test_the_rate_follows_the_schedule(tmp_path: Path) -> None:
    text = TINY.replace("epochs = 2", "epochs = 4\n  schedule = warmup(epochs=2) -> cosine(to=0.01)")
    records = api.train(write(tmp_path / "s.nn", text), out=tmp_path / "run").history
    rates = [record["lr"] for record in records]
    assert rates[1] == pytest.approx(0.05)
    assert rates[0] < rates[1] > rates[2] > rates[3] >= 0.01


@pytest.mark.parametrize("shuffle", ["true", "false"])
def test_each_epoch_sees_every_row_once(shuffle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another order each time, unless shuffle is off."""
    seen: list[float] = []
    real = Program.forward

    def forward(self: Program, steps: Any = None) -> None:
        if "t" in self.inputs and "x" in self.inputs and "gradient_square" in self.outputs:
            seen.extend(self.inputs["x"].reshape(-1).tolist())
        real(self, steps)

    monkeypatch.setattr(Program, "forward", forward)
    text = TINY.replace("epochs = 2", f"epochs = 4  shuffle = {shuffle}").replace("x = column(x) -> standardize", "x = column(x)")
    api.train(write(tmp_path / "s.nn", text), out=tmp_path / "run")
    epochs = [seen[i : i + 6] for i in range(0, 24, 6)]
    assert len(seen) == 24
    assert all(sorted(epoch) == [0, 1, 2, 3, 4, 5] for epoch in epochs)
    assert (len({tuple(epoch) for epoch in epochs}) == 1) == (shuffle == "false")


@pytest.mark.parametrize(("batch", "steps"), [("full", 1), ("1", 6), ("4", 2), ("6", 1), ("1000", 1)])
def test_batches(batch: str, steps: int, tmp_path: Path) -> None:
    result = api.train(write(tmp_path / "s.nn", TINY.replace("batch = 2", f"batch = {batch}").replace("epochs = 2", "epochs = 1")), out=tmp_path / "run")
    assert result.model.step_count == steps


def test_a_goal_is_accepted(tmp_path: Path) -> None:
    text = TINY.replace("epochs = 2", "epochs = 2\n  goal = at_most(val.mae, 0.5)")
    assert nnc("train", write(tmp_path / "s.nn", text), "-o", tmp_path / "run").status == 0
    refused(nnc("check", write(tmp_path / "s.nn", text.replace("val.mae", "val.accuracy"))), "E501")


def test_the_observer_hears_of_every_step(tmp_path: Path) -> None:
    heard: list[tuple[int, int, int]] = []
    observer = Progress(on_step=lambda epoch, done, rows, loss, speed: heard.append((epoch, done, rows)))
    train(read(write(tmp_path / "s.nn", TINY)), tmp_path, tmp_path / "run", progress=observer)
    assert heard == [(e, d, 6) for e in (0, 1) for d in (2, 4, 6)]


def test_metrics_of_one_name_are_told_apart(tmp_path: Path) -> None:
    text = DIGITS.replace("epochs = 6", "epochs = 1")
    given = "[accuracy, f1, f1(average=micro), f1(average=macro), top_k(2), top_k(3)]"
    figures = api.train(write(tmp_path / "s.nn", text.replace("[accuracy]", given)), out=tmp_path / "run").figures["validation"]
    assert list(figures) == ["loss", "accuracy", "f1", "f1(average=micro)", "f1(average=macro)", "top_k(k=2)", "top_k(k=3)"]
    assert figures["f1"] == figures["f1(average=macro)"]  # what is meant where nothing is said of several classes
    assert figures["f1(average=micro)"] == pytest.approx(figures["accuracy"])


# Given weights, parts with rates of their own

PARTS = TINY.replace("return y = x -> dense(2) -> tanh -> dense(1)", "stem = x -> dense(2) -> tanh\n  return y = stem -> dense(1)")
PARTS = PARTS.replace("epochs = 2", "epochs = 1  seed = 7 {more}")


def parts(folder: Path, more: str = "", name: str = "parts.nn") -> Path:
    return write(folder / name, PARTS.replace("{more}", more))


def initial(spec: Path, seed: int = 7) -> dict[str, Any]:
    return {k: v.copy() for k, v in api.compile(spec).init(seed).parameters.items()}


def trained(folder: Path, more: str) -> dict[str, Any]:
    return dict(api.train(parts(folder, more), out=folder / "run").model.parameters.items())


def test_start_from_weights(tmp_path: Path) -> None:
    """All that fit, or the parts named; the rest is drawn from the seed as ever."""
    base = initial(parts(tmp_path), seed=99)
    api.compile(parts(tmp_path)).init(99).save(tmp_path / "base.safetensors")
    safetensors.numpy.save_file({"stem/dense/weight": base["stem/dense/weight"], "other": np.zeros(3)}, tmp_path / "foreign.safetensors")
    own = initial(parts(tmp_path))
    slow = 'start = weights("base.safetensors")  groups = [group(stem, rate=0), group(y, rate=0)]'
    for more, taken in (
        (slow, set(base)),
        (slow.replace('")', '", only=[stem])'), {"stem/dense/weight", "stem/dense/bias"}),
        (slow.replace("base", "foreign"), {"stem/dense/weight"}),
        (slow.replace('")', '", only=["y/dense/bias"])'), {"y/dense/bias"}),
    ):
        from_python = api.compile(parts(tmp_path, more)).init().parameters
        for found in (trained(tmp_path, more), from_python):
            for name, array in found.items():
                np.testing.assert_array_equal(array, base[name] if name in taken else own[name], err_msg=name)


@pytest.mark.parametrize(
    ("file", "more", "code", "words"),
    [
        ("none", "", "E401", "none"),
        ("../base", "", "E409", "root"),
        ("text", "", "E512", "no safetensors file"),
        ("shape", "", "E512", "`stem/dense/weight` is [1, 3] there, [1, 2] here"),
        ("empty", "", "E512", "no parameter"),
        ("half", ", only=[stem]", "E512", "it has no `stem/dense/bias`"),
        ("nan", "", "E512", "NaN"),
        ("words", "", "E512", "no safetensors file"),
        ("damaged", "", "E702", "checksum"),
    ],
)
def test_weights_that_do_not_fit(file: str, more: str, code: str, words: str, tmp_path: Path) -> None:
    weight, bias = np.zeros((1, 2), "f4"), np.zeros(2, "f4")
    for name, arrays in (
        ("shape", {"stem/dense/weight": np.zeros((1, 3), "f4")}),
        ("empty", {"other": bias}),
        ("half", {"stem/dense/weight": weight}),
        ("nan", {"stem/dense/weight": weight * np.nan}),
    ):
        safetensors.numpy.save_file(arrays, tmp_path / f"{name}.safetensors")
    (tmp_path / "text.safetensors").write_text("hello", "utf-8")
    (tmp_path / "words.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0[]")
    api.compile(parts(tmp_path)).init(1).save(tmp_path / "damaged.safetensors")
    data = bytearray((tmp_path / "damaged.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(data)
    spec = parts(tmp_path, f'start = weights("{file}.safetensors"{more})')
    refused(nnc("train", spec, "-o", tmp_path / "run"), code, words)
    assert not (tmp_path / "run").exists() or list((tmp_path / "run").iterdir()) == []
    refused(nnc("build", spec, "-o", tmp_path / "build"), code, words)


def test_groups(tmp_path: Path) -> None:
    """A frozen part stays, a part at a tenth of the rate moves a tenth as far in one sgd step."""
    (tmp_path / "s").mkdir()
    before = initial(parts(tmp_path))

    def moved(more: str) -> dict[str, Any]:
        spec = write(tmp_path / "s" / "s.nn", PARTS.replace("{more}", more).replace("adam(lr=0.05)", "sgd(lr=0.01)").replace("batch = 2", "batch = full"))
        after = api.train(spec, out=tmp_path / "run").model.parameters
        return {name: after[name] - before[name] for name in before}

    plain, frozen, tenth = moved(""), moved("groups = [group(stem, frozen=true)]"), moved("groups = [group(y, rate=0.1)]")
    for name, step in plain.items():
        assert np.abs(step).max() > 0
        np.testing.assert_array_equal(frozen[name], 0 if name.startswith("stem") else step)
        np.testing.assert_allclose(tenth[name], step * (0.1 if name.startswith("y") else 1), rtol=1e-4, atol=1e-7)


def test_a_frozen_norm_keeps_its_statistics(tmp_path: Path) -> None:
    text = DIGITS.replace("seed      = 5", "seed      = 5\n  groups = [group(hidden, frozen=true)]").replace("let epochs = 6", "let epochs = 1")
    model = api.train(write(tmp_path / "s.nn", text), out=tmp_path / "run").model
    fresh = api.compile(text).init(5)
    for name in ("running_mean", "running_var", "scale", "bias"):
        np.testing.assert_array_equal(model.parameters[f"hidden/batch_norm/{name}"], fresh.parameters[f"hidden/batch_norm/{name}"])
    assert digest(dict(model.parameters.items())) != digest(dict(fresh.parameters.items()))


def test_resume_with_groups_and_given_weights(tmp_path: Path) -> None:
    """A run that started from a file goes on from its checkpoint, not from the file."""
    api.compile(parts(tmp_path)).init(99).save(tmp_path / "base.safetensors")
    spec = parts(tmp_path, 'start = weights("base.safetensors")  groups = [group(stem, rate=0.1)]')
    api.train(spec, out=tmp_path / "run")
    expected = outcome(tmp_path / "run")
    (tmp_path / "base.safetensors").unlink()
    api.train(spec, out=tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == expected
