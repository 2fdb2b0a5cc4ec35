"""mixup: inputs, targets and sample weights are mixed alike in training batches, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from networks import differences, spread
from runs import at_step, raising, write

import nnc
from nnc.compiler.objective import PARTNER, SHARE
from nnc.compiler.training import gradient_graph
from nnc.runtime.data.augment import AUGMENTATIONS, augment
from nnc.runtime.executor import Executor
from nnc.runtime.train import train

Array = np.ndarray[Any, Any]
ROWS = 40
SPEC = """
network(x: float32[3], z: float32) {
  h = concat(x, z -> reshape([1])) -> dense(5) -> tanh
  return p = h -> dense(3) -> softmax, v = h -> dense(2)
}
data {
  source  = npz("rows.npz")
  x       = column(x)
  z       = column(z)
  k       = column(k)
  t       = column(t)
  w       = column(w)
  split   = ordered(train=80%, validation=20%)
  augment = [x -> noise(0.1) -> mixup(0.7), z -> mixup(0.7)]
}
train {
  loss      = cross_entropy(p, k, weights=w) + 0.5 * mse(v, t, weights=w) + huber(v, t)
  optimizer = adam(lr=0.01)
  batch     = 5
  epochs    = 4
  metrics   = [accuracy(p, k)]
  precision = float64
}
"""


def rows(folder: Path) -> dict[str, Array]:
    random = np.random.default_rng(0)
    found = {"x": random.normal(size=(ROWS, 3)), "z": random.normal(size=ROWS), "k": random.integers(0, 3, ROWS), "t": random.normal(size=(ROWS, 2)),
             "w": random.uniform(0, 2, ROWS)}  # fmt: skip
    np.savez(folder / "rows.npz", **found)
    return found


@pytest.fixture
def model(tmp_path: Path) -> Any:
    rows(tmp_path)
    made = nnc.compile(write(tmp_path / "a.nn", SPEC)).init(1)
    spread(made, 1)
    return made


def mixed(given: dict[str, Array], share: float, partners: Array) -> dict[str, Array]:
    """A batch as the step takes it."""
    batch = dict(given)
    for name in ("x", "z"):
        batch[name] = share * given[name] + (1 - share) * given[name][partners]
    return batch | {SHARE: np.full(len(partners), share)} | {PARTNER + name: given[name][partners] for name in ("k", "t", "w")}


def objective(model: Any) -> Executor:
    program = model.program
    return Executor(gradient_graph(program.objective(program.training_forward, None, None, mixed=True)), model.known, model.randomness, model.arena)


def test_the_loss_of_a_mixture_and_its_gradient_are_torchs(model: Any, tmp_path: Path) -> None:
    torch: ModuleType = pytest.importorskip("torch", reason="torch is the outside reference of these tests and is not installed")
    F = torch.nn.functional
    given = {name: array[:6] for name, array in rows(tmp_path).items()}
    share, partners = 0.3, np.array([2, 0, 1, 5, 4, 3])
    found = {name: array.copy() for name, array in objective(model).run(mixed(given, share, partners)).items()}
    p = {name: torch.tensor(array, requires_grad=True) for name, array in model.parameters.items()}
    x = torch.tensor(np.concatenate([given["x"], given["z"][:, None]], axis=1))
    own, other = ({name: torch.tensor(given[name][order]) for name in "ktw"} for order in (np.arange(6), partners))
    h = torch.tanh((share * x + (1 - share) * x[partners]) @ p["h/dense/weight"] + p["h/dense/bias"])
    logits, v = h @ p["p/dense/weight"] + p["p/dense/bias"], h @ p["v/dense/weight"] + p["v/dense/bias"]
    t, w = (share * own[name] + (1 - share) * other[name] for name in "tw")
    crossed = [part["w"] * F.cross_entropy(logits, part["k"], reduction="none") for part in (own, other)]
    wanted = (share * crossed[0] + (1 - share) * crossed[1]).mean() + 0.5 * (w * ((v - t) ** 2).mean(1)).mean()
    wanted = wanted + F.huber_loss(v, t, reduction="sum") / 6
    wanted.backward()
    assert float(found["objective"]) == pytest.approx(wanted.item(), rel=1e-12)
    for name, tensor in p.items():
        np.testing.assert_allclose(found[f"gradient/{name}"], tensor.grad.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_gradient_of_a_mixture_is_that_of_finite_differences(model: Any, tmp_path: Path) -> None:
    batch = mixed({name: array[:5] for name, array in rows(tmp_path).items()}, 0.6, np.array([4, 3, 1, 0, 2]))
    executor = objective(model)
    found = {name: array.copy() for name, array in executor.run(batch).items()}
    for name, array in model.parameters.items():
        numeric = differences(lambda: float(executor.run(batch)["objective"]), array)
        np.testing.assert_allclose(found[f"gradient/{name}"], numeric, rtol=0, atol=1e-7 * max(1.0, np.abs(numeric).max()), err_msg=name)


@pytest.mark.parametrize("loss", ["cross_entropy(p, k, class_weights=[1, 2, 3])", "cross_entropy(p, k, class_weights=balanced)", "hellinger(p, k)"])
def test_classes_by_index_and_one_hot_give_one_loss(loss: str, tmp_path: Path) -> None:
    found = rows(tmp_path)
    text = SPEC.replace("cross_entropy(p, k, weights=w)", loss)
    given = {name: array[:6] for name, array in found.items()}
    losses = []
    for form in (text, text.replace("column(k)", "column(k) -> one_hot(3)")):
        model = nnc.compile(write(tmp_path / "a.nn", form)).init(1)
        batch = mixed(given, 0.25, np.array([1, 2, 3, 4, 5, 0]))
        if "one_hot" in form:
            batch |= {name: np.eye(3)[batch[name]] for name in ("k", PARTNER + "k")}
        losses.append(float(objective(model).run(batch)["objective"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_a_cross_entropy_of_a_mixture_is_that_of_the_mixed_distributions(tmp_path: Path) -> None:
    given = {name: array[:6] for name, array in rows(tmp_path).items()}
    share, partners = 0.25, np.array([1, 2, 3, 4, 5, 0])
    text = SPEC.replace("cross_entropy(p, k, weights=w) + 0.5 * mse(v, t, weights=w) + huber(v, t)", "cross_entropy(p, k)")
    for name in "tw":
        text = text.replace(f"  {name}       = column({name})\n", "")
    model = nnc.compile(write(tmp_path / "a.nn", text)).init(1)
    batch = mixed(given, share, partners)
    p = model.predict(batch)["p"]
    hot = np.eye(3)[given["k"]]
    wanted = -((share * hot + (1 - share) * hot[partners]) * np.log(p)).sum(1).mean()
    assert float(objective(model).run(batch)["objective"]) == pytest.approx(float(wanted), rel=1e-12)


def test_a_step_from_python_mixes_nothing(model: Any, tmp_path: Path) -> None:
    batch = {name: array[:7] for name, array in rows(tmp_path).items()}
    expected, _ = model.gradients(batch)
    before = {name: array.copy() for name, array in model.parameters.items()}
    plain = nnc.compile(write(tmp_path / "plain.nn", SPEC.replace("augment = [x -> noise(0.1) -> mixup(0.7), z -> mixup(0.7)]", ""))).init(1)
    for name, array in before.items():
        plain.parameters[name] = array
    assert model.step(batch) == pytest.approx(expected, rel=1e-12)
    assert plain.step(batch) == pytest.approx(expected, rel=1e-12)
    for name, array in plain.parameters.items():
        np.testing.assert_allclose(model.parameters[name], array, rtol=1e-9, atol=1e-12)


# What is drawn


def items(model: Any) -> Any:
    return model.program.experiment.data.augment


def test_inputs_and_partners_of_a_batch_share_what_is_drawn(model: Any, tmp_path: Path) -> None:
    given = {name: array[:8] for name, array in rows(tmp_path).items()}
    only = [SimpleNamespace(name=item.name, steps=item.steps[-1:]) for item in items(model)]  # without the noise
    shares = []
    for step in range(60):
        batch = {name: array.copy() for name, array in given.items()} | {SHARE: np.zeros(8)} | {PARTNER + name: given[name].copy() for name in "ktw"}
        augment(batch, only, 3, step)
        share = float(batch[SHARE][0])
        partners = np.array([int(np.flatnonzero((given["t"] == row).all(axis=1))[0]) for row in batch[PARTNER + "t"]])
        assert sorted(partners) == list(range(8))
        for name, array in mixed(given, share, partners).items():
            np.testing.assert_allclose(batch[name], array, rtol=1e-12, err_msg=name)
        shares.append(share)
        again = {name: array.copy() for name, array in given.items()}
        augment(again, only, 3, step)
        np.testing.assert_array_equal(again["x"], batch["x"])
    assert len(set(shares)) == 60


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_share_has_the_distribution_it_says(alpha: float) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is an outside reference of these tests and is not installed")
    values = np.array([[1.0], [0.0]])
    random = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        high = AUGMENTATIONS["mixup"](values, random, SimpleNamespace(alpha=alpha)).max()
        if high < 1:  # the two have been mixed, not left with themselves
            found.append(high)
    folded = np.array(found)  # the larger of s and 1 - s
    assert 1500 < len(folded) < 2500
    assert stats.kstest(folded, lambda s: stats.beta.cdf(s, alpha, alpha) - stats.beta.cdf(1 - s, alpha, alpha)).pvalue > 1e-3


# Trained


def test_training_mixes_and_figures_do_not_and_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    found = rows(tmp_path)
    spec_path = write(tmp_path / "a.nn", SPEC)
    whole = nnc.train(spec_path, out=tmp_path / "whole")
    part = slice(32, 40)
    batch = {name: array[part] for name, array in found.items()}
    assert whole.figures["validation"]["loss"] == pytest.approx(whole.model.loss(batch), rel=1e-9)
    assert whole.history[-1]["train"]["loss"] != pytest.approx(whole.figures["train"]["loss"], rel=1e-3)
    with pytest.raises(KeyboardInterrupt):
        train(nnc.compiler.pipeline.read(spec_path), tmp_path, tmp_path / "run", progress=at_step(18, raising(KeyboardInterrupt)))
    resumed = nnc.train(spec_path, out=tmp_path / "run", resume=True)
    for name, array in whole.model.state().items():
        np.testing.assert_array_equal(resumed.model.state()[name], array, err_msg=name)
    assert [r["train"] for r in resumed.history] == [r["train"] for r in whole.history]
    assert whole.model.export_onnx(tmp_path / "m.onnx")["passed"]


def test_a_target_that_is_an_input_is_mixed_once(tmp_path: Path) -> None:
    """An autoencoder compares with the mixture that it was given."""
    rows(tmp_path)
    text = """
network(x: float32[3]) { return y = x -> dense(3) }
data { source = npz("rows.npz")  x = column(x)  augment = [x -> mixup(1)] }
train { loss = mse(y, x)  optimizer = sgd(lr=0.01)  batch = 8  epochs = 2  precision = float64 }
"""
    result = nnc.train(write(tmp_path / "a.nn", text), out=tmp_path / "run")
    assert set(result.model.stepper().graph.leaves("input")) == {"x"}
    assert np.isfinite(result.figures["train"]["loss"])
