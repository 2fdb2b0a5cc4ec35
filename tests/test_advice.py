"""Advice: what operations declare for it is true of what they compute, and no good spec is bothered. Each advice has a case in tests/cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnc as api
from nnc.compiler.operation import TABLE, Kind, Operation
from nnc.compiler.pipeline import analyse, read
from nnc.compiler.source import Source

SPECS = Path(__file__).parent.parent / "specs"
SAMPLES = np.linspace(-30, 30, 6001)


def declaring(kind: Kind, what: str) -> list[Operation]:
    found = [o for (k, _), o in TABLE.items() if k is kind and what in o.extra]
    assert found
    return found


def outputs(name: str) -> Any:
    """What an activation gives for numbers from -30 to 30; softmax beside a 0."""
    pair = "distribution" in TABLE[Kind.LAYER, name].facts or name == "log_softmax"
    z = np.stack([SAMPLES, 0 * SAMPLES], axis=1) if pair else SAMPLES[:, None]
    program = api.compile(f"network(x: float32[{2 if pair else 1}]) {{ return y = x -> {name} }}")
    return program.init(0).predict({"x": z})["y"][:, 0].astype(np.float64)


@pytest.mark.parametrize("operation", declaring(Kind.LAYER, "range"), ids=lambda o: o.name)
def test_ranges_are_what_activations_give(operation: Operation) -> None:
    """Nothing lies outside, and the ends are come near to."""
    low, high = operation.extra["range"](operation.params())
    found = outputs(operation.name)
    assert low - 1e-6 <= found.min() <= (low + 1e-5 if operation.name != "softsign" else -0.95) or low == -np.inf
    assert high + 1e-6 >= found.max() >= (high - 1e-5 if operation.name != "softsign" else 0.95) or high == np.inf


def test_activations_without_a_range_have_none() -> None:
    """Whatever gives nothing below some value, or above it, says so; the dips of swish and its kin are no ends."""
    dips = {"gelu", "mish", "swish", "hard_swish"}
    for (kind, name), operation in TABLE.items():
        if kind is Kind.LAYER and "activation" in operation.facts and "range" not in operation.extra:
            if name in dips or any(f.is_required() for f in operation.params.model_fields.values()) or name in ("maxout", "radial"):
                continue
            found = outputs(name)
            assert found.min() < -0.29, name
            assert found.max() > 20, name


@pytest.mark.parametrize("operation", declaring(Kind.LAYER, "steepest"), ids=lambda o: o.name)
def test_no_slope_is_steeper_than_declared(operation: Operation) -> None:
    slopes = np.abs(np.diff(outputs(operation.name)) / np.diff(SAMPLES))
    assert slopes.max() == pytest.approx(operation.extra["steepest"], rel=1e-3)


@pytest.mark.parametrize("operation", declaring(Kind.OPTIMISER, "usual"), ids=lambda o: o.name)
def test_usual_rates_hold_the_default(operation: Operation) -> None:
    low, high = operation.extra["usual"]
    default = operation.params.model_fields["lr"].default
    assert 10 * low < operation.extra["start"] < high / 5
    if isinstance(default, float):
        assert default == operation.extra["start"]


def test_every_optimizer_with_a_rate_of_its_own_says_what_is_usual() -> None:
    rated = [o.name for (k, _), o in TABLE.items() if k is Kind.OPTIMISER and "solver" not in o.facts]
    assert rated == [o.name for o in declaring(Kind.OPTIMISER, "usual")]


def test_words_that_declarations_name_are_words() -> None:
    for operation in declaring(Kind.INITIALISER, "twin"):
        assert TABLE[Kind.INITIALISER, operation.extra["twin"]].extra["twin"] == operation.name
    for operation in declaring(Kind.LOSS, "after"):
        assert "activation" in TABLE[Kind.LAYER, operation.extra["after"]].facts


# No silly advice

MEANT = {"adult": ["W301"], "digits": ["W301"], "mnist_mlp": ["W507"]}  # and each of them right


@pytest.mark.parametrize("spec", sorted(SPECS.glob("*.nn")), ids=lambda p: p.stem)
def test_good_specs_are_left_alone(spec: Path) -> None:
    data = SPECS.parent.parent / "shared" / "data"
    root = data if data.is_dir() else None  # without the larger data sets as far as goes without them
    found = [d.code for d in analyse(read(spec), root=root).findings.advice]
    assert found == [code for code in MEANT.get(spec.stem, []) if root is not None or code != "W507"]


@pytest.mark.parametrize(
    "body",
    [
        "h = x -> dense(2) -> dense(8) -> relu  return y = h -> dense(1)",  # a bottleneck
        "h = x -> dense(8) -> relu -> dropout(0.5) -> dense(8) -> tanh  return y = h -> dense(1)",
        "h = x -> dense(8, bias=false) -> batch_norm -> relu -> dropout(0.5)  return y = h -> dense(3) -> softmax",
        "h = x -> dense(8, init=he_normal) -> relu  k = x -> dense(8, init=xavier_uniform) -> tanh  return y = h * k -> dense(1)",
        "h = x -> dense(8, init=lecun_normal) -> selu  return y = h -> dense(1)",
        "h = x + (x -> dense(8) -> sigmoid)  k = h + (h -> dense(8) -> sigmoid)  return y = k -> dense(1)",
        "h = x -> dense(8) -> layer_norm -> relu  return y = h -> dense(1)",
        "h = x -> radial(6)  return y = h -> dense(1)",
        "h = x -> maxout(4) -> dropout(0.2)  return y = h -> radial(2)",
        "h = x -> reshape([4, 2]) -> lstm(8)  return y = h -> dense(1)",
        "h = x -> dense(8) -> relu  return y = h -> dropout(0.3) -> dense(1), code = h",
    ],
)
def test_good_networks_are_left_alone(body: str) -> None:
    program = analyse(Source("s.nn", f"network(x: float32[8]) {{ {body} }}"), root=None)
    assert [d.code for d in program.findings.advice] == []


@pytest.mark.parametrize(
    "keys",
    [
        "optimizer = sgd(lr=0.5)  batch = 10  epochs = 30  penalty = l2(1e-4)",
        "optimizer = adam(lr=0.05)  batch = 1  epochs = 3",
        "optimizer = sgd(lr=0.1)  schedule = warmup(epochs=2) -> cosine  batch = 32  epochs = 20",
        "optimizer = adamw  schedule = one_cycle(peak=0.01)  batch = 32  epochs = 20",
        "optimizer = momentum(lr=0.01)  schedule = triangular(low=0.001, high=0.01, period=4)  batch = 32  epochs = 20",
        "optimizer = sgd(lr=0.01)  schedule = step(every=1000, unit=steps)  batch = 32  epochs = 20",
        "optimizer = sgd(lr=0.01)  schedule = reduce_on_plateau(patience=2)  batch = 32  epochs = 20",
        "optimizer = nesterov(lr=0.01, weight_decay=1e-4)  schedule = constant  batch = 32  epochs = 20",
        "optimizer = lbfgs  batch = full  epochs = 20  penalty = l2(0.01)",
        "optimizer = sgd(lr=0.01)  batch = 32  epochs = 20  metrics = [mae, r2]  goal = at_least(train.r2, 90%)",
    ],
)
def test_good_training_is_left_alone(keys: str) -> None:
    text = f"network(x: float32[4]) {{ h = x -> dense(8) -> relu  return y = h -> dense(1) }} train {{ loss = mse(y, t)  {keys} }}"
    program = analyse(Source("s.nn", text), root=None)
    assert [d.code for d in program.findings.advice] == []


@pytest.mark.parametrize(
    ("end", "loss"),
    [
        ("dense(3) -> softmax", "cross_entropy"), ("dense(3) -> softmax", "kl_divergence"), ("dense(3) -> softmax", "focal"),
        ("dense(3) -> sigmoid", "hellinger"), ("dense(3) -> sigmoid", "binary_cross_entropy"), ("dense(1) -> sigmoid", "binary_cross_entropy"),
        ("dense(1)", "hinge"), ("dense(1)", "mse"), ("dense(1)", "rmse"), ("dense(1) -> softplus", "poisson"), ("dense(1) -> relu", "poisson"),
        ("dense(3)", "cosine"), ("dense(1) -> tanh", "mse"), ("dense(1) -> sigmoid", "mae"),
    ],
)  # fmt: skip
def test_good_ends_are_left_alone(end: str, loss: str) -> None:
    text = f"network(x: float32[4]) {{ return y = x -> {end} }} train {{ loss = {loss}(y, t)  optimizer = sgd(0.1)  batch = 16  epochs = 3 }}"
    assert [d.code for d in analyse(Source("s.nn", text), root=None).findings.advice] == []
