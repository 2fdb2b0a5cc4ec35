"""What is watched of a training: right figures, said only where something is wrong, and nothing of the training changed by it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import DIGITS, TINY, digest, history, nnc, write

import nnc as api
from nnc.runtime.kernels import generator
from nnc.runtime.train import Result
from nnc.runtime.watch import LASTING, Watch


def trained(folder: Path, text: str) -> Result:
    return api.train(write(folder / "s.nn", text), out=folder / "run")


def looked(result: Result) -> tuple[Watch, dict[str, Any], dict[str, Any]]:
    """A watch on the trained model, what it sees, and the rows that it looks at."""
    watch = Watch(result.model, result.data)
    found = watch.look()
    rows = generator(result.model.seed, "watch").choice(result.data.splits["train"], found["rows"], replace=False)
    return watch, found, {name: array[rows] for name, array in result.data.arrays.items()}


def sharp(layers: str) -> str:
    """A regression on four numbers, with the layers given between input and output."""
    rows = ", ".join(f"{name}=[{', '.join(f'{v:.3f}' for v in np.random.default_rng(i).normal(size=128))}]" for i, name in enumerate("abct"))
    return f"""
network(x: float32[3]) {{ h = x -> {layers}  return y = h -> dense(1) }}
data {{ source = table({rows})  x = columns(a, b, c)  t = column(t) }}
train {{ loss = mse(y, t)  optimizer = sgd(lr=0.01)  batch = 32  epochs = 1 }}
"""


# The figures


def test_gradients_are_those_of_the_model(tmp_path: Path) -> None:
    """The norm over a layer of the whole objective's gradient, dropout and penalty included."""
    result = trained(tmp_path, DIGITS.replace("let epochs = 6", "let epochs = 1"))
    _, found, batch = looked(result)
    _, gradients = result.model.gradients(batch)
    wanted: dict[str, float] = {}
    for name, g in gradients.items():
        layer = name.rpartition("/")[0]
        wanted[layer] = wanted.get(layer, 0.0) + float((g.astype(np.float64) ** 2).sum())
    assert found["gradient"] == {layer: pytest.approx(np.sqrt(square), rel=1e-3) for layer, square in wanted.items()}


@pytest.mark.parametrize("optimizer", ["sgd(lr=0.1)", "adam(lr=0.01, weight_decay=0.1)", "momentum(lr=0.1)"])
def test_updates_are_those_of_the_step(optimizer: str, tmp_path: Path) -> None:
    """The norm of the epoch's last step of a layer over the norm of its parameters before it."""
    text = TINY.replace("adam(lr=0.05)", optimizer).replace("batch = 2", "batch = full").replace("epochs = 2", "epochs = 1")
    before = api.compile(text).init(0).parameters
    result = trained(tmp_path, text)
    for layer in ("y/dense", "y/dense_2"):
        old, new = (np.concatenate([p[f"{layer}/{role}"].ravel() for role in ("weight", "bias")]) for p in (before, result.model.parameters))
        ratio = np.linalg.norm(new - old) / np.linalg.norm(old)
        assert result.history[0]["watch"]["update"][layer] == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize(("layer", "dies"), [("relu", True), ("relu6", True), ("leaky_relu(slope=0)", True), ("hard_swish", True), ("leaky_relu", False),
                                             ("elu", False), ("prelu", False), ("gelu", False), ("softplus", False)])  # fmt: skip
def test_dead_units(layer: str, dies: bool, tmp_path: Path) -> None:
    """Three of eight units whose pre-activation is far below 0 for every row; others that only lean to the left live."""
    result = trained(tmp_path, sharp(f"dense(8) -> {layer}"))
    result.model.parameters["h/dense/bias"] = np.array([-100, -100, 0, 0, -1, -100, 0, 5])
    result.model.parameters["h/dense/weight"] = np.ones((3, 8))
    _, found, _ = looked(result)
    assert found.get("dead") == ({f"h/{layer.partition('(')[0]}": 0.375} if dies else None)


def test_dead_channels_of_images(tmp_path: Path) -> None:
    """A channel is dead where it is at no place of no image alive."""
    text = DIGITS.replace("image -> dense(16, bias=false)", "image -> reshape([1, 8, 8]) -> conv2d(4, kernel=3)")
    text = text.replace("-> dense(10)", "-> flatten -> dense(10)")
    result = trained(tmp_path, text.replace("-> batch_norm ", "").replace("let epochs = 6", "let epochs = 1"))
    result.model.parameters["hidden/conv2d/bias"] = np.array([-0.5, -1000, -0.5, -0.5])
    corner = np.zeros((4, 1, 3, 3))  # each channel is the image itself, whose left edge is blank in every row
    corner[:, 0, 0, 0] = 1
    result.model.parameters["hidden/conv2d/weight"] = corner
    assert looked(result)[1]["dead"] == {"hidden/relu": 0.25}


def slope(layer: str, z: Any) -> Any:
    """The slope of an activation by a difference, over its slope at 0."""
    f = {"sigmoid": lambda z: 1 / (1 + np.exp(-z)), "tanh": np.tanh, "softsign": lambda z: z / (1 + np.abs(z)),
         "hard_sigmoid": lambda z: np.clip(z / 6 + 0.5, 0, 1), "saturated_linear": lambda z: np.clip(z, -1, 1)}[layer]  # fmt: skip
    return (f(z + 1e-4) - f(z - 1e-4)) / (f(1e-4) - f(-1e-4))


@pytest.mark.parametrize("layer", ["sigmoid", "tanh", "softsign", "hard_sigmoid", "saturated_linear"])
def test_saturated_activations(layer: str, tmp_path: Path) -> None:
    """The share of activations whose slope is below a twentieth of the steepest."""
    result = trained(tmp_path, sharp(f"dense(8) -> {layer}"))
    weight = result.model.parameters["h/dense/weight"] = np.random.default_rng(5).normal(0, 1.5, (3, 8)).astype("f4")
    _, found, batch = looked(result)
    z = batch["x"].astype(np.float64) @ weight + result.model.parameters["h/dense/bias"]
    share = (slope(layer, z) < 0.05).mean()
    assert 0.02 < share < 0.9
    assert found["saturated"] == {f"h/{layer}": pytest.approx(share, abs=2 / z.size)}


def test_outputs_and_gates_are_left_alone(tmp_path: Path) -> None:
    """Sure outputs and closed gates are as they should be."""
    text = sharp("dense(3) -> tanh").replace("return y = h -> dense(1)", "g = x -> dense(3) -> sigmoid  k = g * h  return y = k -> dense(1) -> sigmoid")
    assert set(looked(trained(tmp_path, text))[1]["saturated"]) == {"h/tanh"}


def test_uses_of_a_shared_block_are_told_apart(tmp_path: Path) -> None:
    text = "shared block f(x) { return r = x -> dense(3) -> relu }" + sharp("f -> f")
    found = trained(tmp_path, text).history[0]["watch"]
    assert set(found["dead"]) == {"f/r/relu", "f/r/relu#2"}
    assert set(found["gradient"]) == {"f/r/dense", "y/dense"}


def test_parts_that_are_held_are_not_watched(tmp_path: Path) -> None:
    text = sharp("dense(8) -> relu").replace("epochs = 1", "epochs = 1  groups = [group(h, frozen=true)]")
    watch = trained(tmp_path, text).history[0]["watch"]
    assert set(watch["gradient"]) == set(watch["update"]) == {"y/dense"}


@pytest.mark.parametrize("optimizer", ["lbfgs", "newton"])
def test_solvers_are_watched(optimizer: str, tmp_path: Path) -> None:
    text = sharp("dense(2) -> tanh").replace("sgd(lr=0.01)", optimizer).replace("batch = 32", "batch = full")
    assert trained(tmp_path, text).history[0]["watch"]["update"]["y/dense"] > 0


def test_a_layer_at_zero_has_no_ratio(tmp_path: Path) -> None:
    """metrics.jsonl holds no NaN: null where a figure does not exist."""
    text = TINY.replace("dense(1)", "dense(1, init=zeros)").replace("batch = 2", "batch = full").replace("epochs = 2", "epochs = 1")
    trained(tmp_path, text)
    line = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8")
    assert "NaN" not in line
    assert json.loads(line)["watch"]["update"]["y/dense_2"] is None


# Nothing is disturbed


def test_training_is_as_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, with dropout and batch norm."""
    watched = trained(tmp_path, DIGITS)
    monkeypatch.setattr(Watch, "remember", lambda self: None)
    monkeypatch.setattr(Watch, "look", lambda self: {})
    monkeypatch.setattr(Watch, "concerns", lambda self, history: ())
    plain = trained(tmp_path, DIGITS)
    assert digest(watched.model.state()) == digest(plain.model.state())
    assert [r["train"] | r["val"] for r in watched.history] == [r["train"] | r["val"] for r in plain.history]


def test_a_look_changes_nothing(tmp_path: Path) -> None:
    result = trained(tmp_path, DIGITS.replace("let epochs = 6", "let epochs = 1"))
    before = digest(result.model.state())
    watch, first, _ = looked(result)
    assert watch.look() == first
    assert digest(result.model.state()) == before


# What is said


def notes(spec: Path, folder: Path) -> list[str]:
    said = nnc("train", spec, "-o", folder / "run")
    assert said.status == 0, said.err
    return [line for line in said.err.splitlines() if line.startswith("watch: ")]


def test_a_sound_training_is_quiet(tmp_path: Path) -> None:
    assert notes(write(tmp_path / "s.nn", DIGITS), tmp_path) == []


def deep(layer: str, init: str, rate: str = "0.05") -> str:
    text = sharp(" -> ".join([f"dense(16, init={init}) -> {layer}"] * 8))
    return text.replace("epochs = 1", "epochs = 5").replace("lr=0.01", f"lr={rate}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (deep("sigmoid", "xavier_normal"), "`h/dense` is .* of `y/dense`'s: it vanishes"),
        (deep("tanh", "normal(std=3)", "1e-9"), "of the activations of `h/tanh"),
        (sharp("dense(16, bias_init=constant(-50)) -> relu").replace("epochs = 1", "epochs = 5"), "100% of the units of `h/relu` give 0"),
        (sharp("dense(16) -> relu").replace("epochs = 1", "epochs = 5").replace("lr=0.01", "lr=1e-9"), "changes no layer by more than"),
        (sharp("dense(16) -> tanh").replace("epochs = 1", "epochs = 5").replace("sgd(lr=0.01)", "lion(lr=0.3)"), "a step changes `.*` by"),
    ],
)  # fmt: skip
def test_what_is_plainly_wrong(text: str, words: str, tmp_path: Path) -> None:
    """It is said once, with what to try."""
    found = [line for line in notes(write(tmp_path / "s.nn", text), tmp_path) if re.search(words, line)]
    assert len(found) == 1
    assert "Try " in found[0]


def test_concerns_must_last(tmp_path: Path) -> None:
    result = trained(tmp_path, sharp("dense(8) -> relu"))
    watch = Watch(result.model, result.data)
    good, bad = ({"watch": {"rows": 32, "gradient": {"h/dense": 1.0, "y/dense": 1.0}, "dead": {"h/relu": share}}} for share in (0.1, 0.9))
    assert list(watch.concerns([bad] * (LASTING - 1))) == []
    assert list(watch.concerns([bad, good, bad, bad])) == []
    assert len(list(watch.concerns([good] + [bad] * LASTING))) == 1
    assert list(watch.concerns([good] + [bad] * (LASTING + 1))) == []


@pytest.mark.parametrize(("near", "far", "word"), [(1.0, 1e-6, "vanishes"), (1e-6, 1.0, "explodes")])
def test_which_way_gradients_go(near: float, far: float, word: str, tmp_path: Path) -> None:
    """`near` the output, `far` from it."""
    result = trained(tmp_path, sharp("dense(8) -> relu"))
    record = {"watch": {"rows": 32, "gradient": {"h/dense": far, "y/dense": near}}}
    (said,) = Watch(result.model, result.data).concerns([record] * LASTING)
    assert word in said
    assert "1e-06" in said


def test_history_says_it_too(tmp_path: Path) -> None:
    trained(tmp_path, DIGITS)
    for record in history(tmp_path / "run"):
        assert set(record["watch"]) == {"rows", "gradient", "update", "dead"}
        assert record["watch"]["rows"] == 32


def test_parameters_beside_samples(tmp_path: Path) -> None:
    spec = write(tmp_path / "s.nn", DIGITS)
    said = nnc("summary", spec)
    assert re.search(r"^samples +1,078 in training, 1\.17 parameters for each$", said.out, re.M), said.out
    trained(tmp_path, DIGITS.replace("let epochs = 6", "let epochs = 1"))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert manifest["parameters"] == {"hidden/dense": 1024, "hidden/batch_norm": 32, "probabilities/dense": 170}
    assert sum(manifest["parameters"].values()) + 32 == sum(a.size for a in api.compile(DIGITS).init(0).parameters.values())
