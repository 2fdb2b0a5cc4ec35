"""The verdict on a learning curve: made-up curves of every kind, and small trainings that are of that kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import DIGITS, nnc, write

import nnc as api
from nnc import terminal
from nnc.runtime.baseline import constant_figures
from nnc.runtime.train import Result
from nnc.runtime.verdict import Evidence, Goal, Verdict, judge


def falling(start: float, end: float, epochs: int = 20, rate: float = 3.0) -> list[float]:
    """A curve that levels off; with a small rate it has not by its end."""
    curve = (1 - np.exp(-rate * np.linspace(0, 1, epochs))) / (1 - np.exp(-rate))
    return [float(start + (end - start) * part) for part in curve]


def evidence(train: list[float], held: list[float], **more: Any) -> Evidence:
    """Curves whose last epochs are the weights kept, beside a constant prediction that loses 1."""
    kept = {"train": {"loss": train[-1]}} | ({"validation": {"loss": held[-1]}} if held else {})
    return Evidence(train, held, kept, {split: {"loss": 1.0} for split in kept}, **more)


LEVEL = 8.0  # a rate at which curves have long levelled off

GOOD = evidence(falling(1, 0.1, rate=LEVEL), falling(1, 0.12, rate=LEVEL))
OVER = evidence(falling(1, 0.01, rate=LEVEL), falling(1, 0.3, 8) + falling(0.31, 0.6, 12))
UNDER = evidence(falling(1, 0.9, rate=LEVEL), falling(1, 0.92, rate=LEVEL))
LONGER = evidence(falling(1, 0.3, rate=0.5), falling(1, 0.32, rate=0.5))
APART = evidence([*falling(1, 0.2, 10), *np.geomspace(0.2, 5, 10).tolist()], [])
ALONE = evidence(falling(1, 0.1, rate=LEVEL), [])


@pytest.mark.parametrize(
    ("given", "name", "says", "tries"),
    [
        (GOOD, "good fit", "0.1 on training rows and 0.12 on validation", "goal"),
        (OVER, "overfitting", "0.01 on training rows and 0.6 on validation; validation was best in epoch 8 of 20", "early_stopping"),
        (UNDER, "underfitting", "0.9 on training rows", "more units"),
        (LONGER, "still improving", "still falling", "epochs = 40"),
        (APART, "diverging", "was 0.2 and is 5", "learning rate of a tenth"),
        (ALONE, "fits its rows", "nothing says how it does on new ones", "split = random"),
    ],
)
def test_verdicts(given: Evidence, name: str, says: str, tries: str) -> None:
    found = judge(given)
    assert found.name == name, found
    assert says in found.because
    assert tries in " ".join(found.next)
    assert found.numbers["train.loss"] == given.train[-1]


@pytest.mark.parametrize("factor", [1e-4, 1e4])
@pytest.mark.parametrize("given", [GOOD, OVER, UNDER, LONGER, APART, ALONE], ids=["good", "over", "under", "longer", "apart", "alone"])
def test_units_do_not_matter(given: Evidence, factor: float) -> None:
    """A target in millimetres gets the verdict that it gets in metres."""
    scaled = replace(given, train=[v * factor for v in given.train], held=[v * factor for v in given.held],
                     kept={s: {"loss": f["loss"] * factor} for s, f in given.kept.items()}, constant={s: {"loss": factor} for s in given.kept})  # fmt: skip
    assert judge(scaled).name == judge(given).name


def test_dropout_in_the_training_loss_is_no_underfitting() -> None:
    """The curve lies high because of dropout; the weights that were kept do not."""
    given = replace(GOOD, train=falling(1.2, 0.85, rate=LEVEL))
    assert judge(given).name == "good fit"


def test_weights_of_the_best_epoch_are_judged() -> None:
    """Validation got worse, and early stopping went back to where it was best."""
    kept = {"train": {"loss": 0.25}, "validation": {"loss": 0.3}}
    assert judge(replace(OVER, kept=kept, stopped_early=True)).name == "good fit"


def test_small_losses_may_tremble() -> None:
    """A loss of 0.001 that becomes 0.004 is no divergence where a constant prediction has 1."""
    assert judge(evidence([*falling(1, 0.001, 17, LEVEL), *[0.004] * 3], [*falling(1, 0.002, 17, LEVEL), *[0.005] * 3])).name == "good fit"


def test_noise_takes_its_share_on_both_sides() -> None:
    """New rows lose a little more than training rows everywhere: of much noise a little is more."""
    assert judge(evidence(falling(1, 0.55, rate=LEVEL), falling(1, 0.66, rate=LEVEL))).name == "good fit"
    assert judge(evidence(falling(1, 0.25, rate=LEVEL), falling(1, 0.36, rate=LEVEL))).name == "overfitting"


def test_what_early_stopping_ended_does_not_improve() -> None:
    assert judge(replace(LONGER, stopped_early=True)).name == "good fit"


def test_what_is_there_is_not_advised() -> None:
    everything = frozenset(("stop", "dropout", "penalty", "augment", "clip"))
    for text in ("early_stopping", "dropout(0.2)", "l2(1e-4)", "augment"):
        assert text in " ".join(judge(OVER).next)
        assert text not in " ".join(judge(replace(OVER, has=everything)).next)
    assert "clip" in " ".join(judge(APART).next)
    assert "clip" not in " ".join(judge(replace(APART, has=everything)).next)


def test_stopping_at_the_last_epoch_gains_nothing() -> None:
    still = evidence(OVER.train, falling(1, 0.6, rate=LEVEL))
    assert judge(still).name == "overfitting"
    assert "early_stopping" not in " ".join(judge(still).next)


def test_a_loss_that_stays_too_high_is_no_rise() -> None:
    stuck = judge(evidence(falling(3.1, 3.0), []))
    assert stuck.name == "diverging"
    assert "the training loss is 3 and hardly falls" in stuck.because


@pytest.mark.parametrize("curve", [[2.0, 0.5], [2.0, 1.0, 0.4], [8.0, 4.0, 2.0, 1.0, 0.5], [1.0, 0.4, 0.3, 0.3, 0.8], [1.0, 0.3, 9.0, 9.0, 0.4]])
def test_a_steep_fall_and_a_single_rise_are_no_divergence(curve: list[float]) -> None:
    assert judge(evidence(curve, [])).name != "diverging"


@pytest.mark.parametrize("curve", [[0.5, 2.0], [1.0, 0.4, 3.0, 3.5], [0.4, 0.3, 9.0, 0.5, 9.0]])
def test_a_rise_that_stays_is_divergence(curve: list[float]) -> None:
    assert judge(evidence(curve, [])).name == "diverging"


def aimed(train: float, held: float, goal: float = 0.95, curve: Evidence = GOOD) -> Verdict:
    kept = {"train": {"loss": curve.kept["train"]["loss"], "accuracy": train}, "validation": {"loss": curve.kept["validation"]["loss"], "accuracy": held}}
    return judge(replace(curve, kept=kept, goal=Goal("val.accuracy", "validation", "accuracy", goal, True)))


@pytest.mark.parametrize(
    ("train", "held", "name"),
    [(0.99, 0.96, "good fit"), (0.95, 0.95, "good fit"), (0.999, 0.9, "overfitting"), (0.94, 0.85, "overfitting"), (0.8, 0.78, "underfitting")],
)
def test_the_goal_decides(train: float, held: float, name: str) -> None:
    """Whatever the losses are: what training rows miss is too little learned, what new rows miss beside them too much."""
    for curve in (GOOD, OVER, UNDER):
        found = aimed(train, held, curve=curve)
        assert found.name == name, found
        assert "val.accuracy >= 0.95" in found.because
        assert found.numbers["validation.accuracy"] == held


def test_a_goal_that_is_near_wants_more_epochs() -> None:
    assert aimed(0.9, 0.89, curve=LONGER).name == "still improving"


def test_a_goal_of_less() -> None:
    goal = Goal("val.loss", "validation", "loss", 0.15, False)
    assert judge(replace(GOOD, goal=goal)).name == "good fit"
    assert judge(replace(UNDER, goal=goal)).name == "underfitting"
    assert judge(replace(OVER, goal=goal)).name == "overfitting"


def test_the_most_frequent_class_is_no_achievement() -> None:
    kept = {split: {"loss": 0.2, "accuracy": 0.921} for split in ("train", "validation")}
    constant = {split: {"loss": 0.28, "accuracy": 0.92} for split in kept}
    found = judge(replace(GOOD, kept=kept, constant=constant, majority=["accuracy"]))
    assert found.name == "underfitting"
    assert "always giving the most frequent class has 92.0%" in found.because
    assert "class_weights" in found.next[0]


# What a constant prediction reaches


def test_the_constant_prediction(tmp_path: Path) -> None:
    """The entropy of the classes, the variance of numbers; and what accuracy and r2 make of it."""
    text = """
network(x: float32[1]) { h = x -> dense(2)  return a = h -> dense(3) -> softmax, b = h -> dense(1), c = h -> dense(1) -> sigmoid }
data {
  source = table(x=[0, 1, 2, 3, 4, 5, 6, 7], k=["u", "v", "u", "w", "u", "u", "v", "u"], t=[1, 2, 3, 4, 5, 6, 7, 8], q=[0, 1, 0, 0, 0, 0, 1, 0])
  x = column(x)  k = column(k) -> category  t = column(t) -> standardize  q = column(q)
}
train { loss = cross_entropy(a, k) + mse(b, t) + binary_cross_entropy(c, q)  optimizer = sgd(lr=0.01)  batch = 4  epochs = 1
        metrics = [accuracy(a, k), r2(b, t), mae(b, t)] }
"""
    result = api.train(write(tmp_path / "s.nn", text), out=tmp_path / "run")
    found = constant_figures(result.model, result.data)["train"]
    shares = np.array([5, 2, 1]) / 8
    q = 0.25
    entropy = -(shares * np.log(shares)).sum() - q * np.log(q) - (1 - q) * np.log(1 - q)
    assert found["loss"] == pytest.approx(entropy + 1.0, rel=1e-5)
    assert found["a.accuracy"] == 5 / 8
    assert found["b.r2"] == pytest.approx(0, abs=1e-6)
    assert found["b.mae"] == pytest.approx(2.0, rel=1e-5)


# Real trainings


def trained(folder: Path, text: str) -> Result:
    return api.train(write(folder / "s.nn", text), out=folder / "run")


def points(count: int, wide: int, target: str, classes: bool, **train: str) -> str:
    """Points of the plane whose target is a function of their signs, or nothing but noise."""
    random = np.random.default_rng(3)
    a, b = random.uniform(-1, 1, (2, count))
    t = {"xor": (a * b > 0).astype(int), "noise": random.integers(0, 2, count), "line": 3 * a - b}[target]
    columns = ", ".join(f"{name}=[{', '.join(f'{v:.4g}' for v in values)}]" for name, values in (("a", a), ("b", b), ("t", t)))
    hidden = f" -> dense({wide}) -> relu -> dense({wide}) -> relu" if wide else ""
    keys = {"optimizer": "adam(lr=0.01)", "batch": "16", "epochs": "60"} | train
    loss, end, metrics = ("binary_cross_entropy", " -> sigmoid", "accuracy") if classes else ("mse", "", "mae")
    return f"""
network(x: float32[2]) {{ h = x{hidden or ' -> dense(2)'}  return y = h -> dense(1){end} }}
data {{
  source = table({columns})
  x = columns(a, b)
  t = column(t)
  split = random(train=60%, validation=40%, seed=1)
}}
train {{
  loss = {loss}(y, t)
  metrics = [{metrics}]
  {'  '.join(f"{key} = {value}" for key, value in keys.items())}
}}
"""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (points(200, 0, "xor", True), "underfitting"),
        (points(60, 64, "noise", True), "overfitting"),
        (points(400, 16, "line", False), "good fit"),
        (points(400, 16, "line", False, optimizer="sgd(lr=0.0005)", epochs="10"), "still improving"),
        (points(100, 0, "line", False, optimizer="sgd(lr=1.1)", epochs="4", batch="full"), "diverging"),
        (points(100, 32, "noise", True, goal="at_least(val.accuracy, 90%)"), "overfitting"),
        (points(200, 0, "xor", True, goal="at_least(val.accuracy, 90%)"), "underfitting"),
        (points(400, 16, "line", False, goal="at_most(val.mae, 0.2)"), "good fit"),
    ],
)  # fmt: skip
def test_real_trainings(text: str, name: str, tmp_path: Path) -> None:
    result = trained(tmp_path, text)
    assert result.verdict.name == name, result.verdict
    saved = json.loads((tmp_path / "run" / "verdict.json").read_text("utf-8"))
    assert (saved["name"], saved["because"], tuple(saved["next"])) == (name, result.verdict.because, result.verdict.next)
    assert saved["numbers"] == result.verdict.numbers


def test_a_network_that_gives_the_most_frequent_class(tmp_path: Path) -> None:
    text = points(300, 4, "xor", True, epochs="1", optimizer="sgd(lr=0.001)")
    t = ", ".join("1" if i % 15 == 0 else "0" for i in range(300))
    found = trained(tmp_path, text[: text.index("t=[")] + f"t=[{t}])" + text[text.index("\n  x = ") :]).verdict
    assert found.name == "underfitting"
    assert "always giving the most frequent class" in found.because


def test_the_command_says_it(tmp_path: Path) -> None:
    said = nnc("train", write(tmp_path / "s.nn", DIGITS.replace("metrics ", "goal = at_least(val.accuracy, 20%)\n  metrics ")), "-o", tmp_path / "run")
    assert said.status == 0, said.err
    assert "verdict: good fit\n  val.accuracy >= 0.2 was the goal: 0." in said.out
    assert "\n  try " in said.out


def test_the_command_says_it_of_an_ensemble(tmp_path: Path) -> None:
    text = DIGITS.replace("metrics ", "goal = at_least(val.accuracy, 20%)\n  ensemble = bagging(2)\n  metrics ")
    said = nnc("train", write(tmp_path / "s.nn", text), "-o", tmp_path / "run")
    assert said.status == 0, said.err
    assert "verdict: good fit, 2 of 2 members\n  member 1: val.accuracy >= 0.2 was the goal: 0." in said.out


def test_members_of_one_mind_speak_once() -> None:
    good, over = judge(GOOD), judge(OVER)
    told = terminal.verdicts([good, over, replace(over, because="else")])
    assert [line for line in told.splitlines() if line.startswith("verdict")] == ["verdict: overfitting, 2 of 3 members", "verdict: good fit, 1 of 3 members"]
    assert f"  member 2: {over.because}\n" in told
    assert f"  member 1: {good.because}\n" in told
    assert "else" not in told


def test_a_new_run_forgets_the_old_verdict(tmp_path: Path) -> None:
    """As long as it has none of its own."""
    trained(tmp_path, DIGITS.replace("let epochs = 6", "let epochs = 1"))
    assert (tmp_path / "run" / "verdict.json").is_file()
    text = DIGITS.replace("adam(lr=0.003)", "sgd(lr=1e30)").replace("  schedule  = warmup(epochs=1) -> cosine(to=1e-5)\n", "")
    assert nnc("train", write(tmp_path / "s.nn", text), "-o", tmp_path / "run").status == 3
    assert not (tmp_path / "run" / "verdict.json").exists()
