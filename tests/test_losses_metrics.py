"""Losses against torch and differences, metrics against scikit-learn, initial values against their distributions."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from statistics import NormalDist
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from networks import Word, check_gradients, kink_margin, spec, spread, word

import nnc
import nnc.compiler.ops
from nnc.compiler.operation import Kind, names
from nnc.runtime.executor import Arena, Executor

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The oracle; torch is a dependency of these tests alone."""
    pytest.importorskip("torch", reason="torch is the outside reference of these tests and is not installed")
    from oracles import torch_reference

    return torch_reference


def numbers(random: np.random.Generator, n: int, shape: tuple[int, ...]) -> Array:
    return random.normal(size=(n, *shape))


def shares(random: np.random.Generator, n: int, shape: tuple[int, ...]) -> Array:
    """Distributions on the last axis, some with zeros."""
    drawn = random.uniform(size=(n, *shape))
    drawn[0, ..., 0] = 0.0
    return drawn / drawn.sum(-1, keepdims=True)


def classes(random: np.random.Generator, n: int, shape: tuple[int, ...]) -> Array:
    return random.integers(0, shape[-1], (n, *shape[:-1]))


def bits(random: np.random.Generator, n: int, shape: tuple[int, ...]) -> Array:
    return random.integers(0, 2, (n, *shape))


def parts(random: np.random.Generator, n: int, shape: tuple[int, ...]) -> Array:
    return random.uniform(size=(n, *shape))


# A loss, the layers before it, the shape of a prediction, the target
LOSSES: list[tuple[Word, str, tuple[int, ...], Callable[..., Array]]] = [
    (word("quadratic"), "linear", (3,), numbers),
    (word("quadratic"), "tanh", (2, 3), numbers),
    (word("mse"), "linear", (3,), numbers),
    (word("mse"), "sigmoid", (2, 2, 2), numbers),
    (word("mse"), "softmax", (3,), shares),
    (word("mse"), "linear", (1,), bits),
    (word("mae"), "linear", (4,), numbers),
    (word("mae"), "tanh", (2, 2), numbers),
    (word("huber"), "linear", (4,), numbers),
    (word("huber", delta=0.3), "linear", (2, 2), numbers),
    (word("cross_entropy"), "softmax", (4,), classes),
    (word("cross_entropy"), "softmax(temperature=2)", (4,), classes),
    (word("cross_entropy"), "softmax", (2, 3), classes),
    (word("cross_entropy", smoothing=0.2), "softmax", (4,), classes),
    (word("cross_entropy", smoothing=0.2), "softmax", (2, 3), classes),
    (word("cross_entropy"), "softmax", (4,), shares),
    (word("cross_entropy"), "softmax", (2, 3), shares),
    (word("cross_entropy", smoothing=0.1), "softmax", (4,), shares),
    (word("cross_entropy"), "softmax -> linear -> reshape([4])", (4,), classes),
    (word("binary_cross_entropy"), "sigmoid", (1,), bits),
    (word("binary_cross_entropy"), "sigmoid", (3,), bits),
    (word("binary_cross_entropy"), "sigmoid", (3,), parts),
    (word("binary_cross_entropy"), "sigmoid", (2, 2), parts),
    (word("binary_cross_entropy"), "sigmoid -> reshape([4])", (4,), bits),
]


def made(loss: str, head: str, shape: tuple[int, ...], target: Callable[..., Array]) -> tuple[Any, dict[str, Any]]:
    dims = ", ".join(map(str, shape))
    body = f"  h = x -> dense({np.prod(shape)}) -> reshape([{dims}])\n  return output = h -> {head}"
    program = nnc.compile(spec(body, loss=loss))
    for seed in range(50):
        random = np.random.default_rng(seed)
        model = program.init(seed)
        spread(model, seed)
        batch = {"x": random.normal(size=(5, 3)), "y": target(random, 5, shape)}
        if kink_margin(model, batch) > 1e-3:
            return model, batch
    raise AssertionError("every batch lies at a kink")


def case(values: tuple[Word, str, tuple[int, ...], Callable[..., Array]]) -> str:
    loss, head, shape, target = values
    return f"{loss}-{head}-{shape}-{target.__name__}".replace(" ", "")


def test_every_word_has_a_case() -> None:
    assert {loss.word for loss, *_ in LOSSES} == set(names(Kind.LOSS))
    assert {written.partition("(")[0] for written, *_ in METRICS} == set(names(Kind.METRIC))
    assert INITIALISERS.keys() | {"auto"} == set(names(Kind.INITIALISER))


@pytest.mark.parametrize("values", LOSSES, ids=case)
def test_a_losss_gradient_is_that_of_finite_differences(values: Any) -> None:
    loss, head, shape, target = values
    check_gradients(*made(loss.call("output", "y"), head, shape, target))


@pytest.mark.parametrize("values", LOSSES, ids=case)
def test_a_loss_and_its_gradient_are_torchs(values: Any, reference: ModuleType) -> None:
    loss, head, shape, target = values
    model, batch = made(loss.call("output", "y"), head, shape, target)
    for _ in range(3):
        p = reference.tensors(model.parameters)
        z = reference.dense(reference.under("h/dense", p), reference.tensor(batch["x"]), 0).reshape(-1, *shape)
        name, _, arguments = head.partition(" ")[0].partition("(")
        a = reference.LAYERS[name](p, z, **({"temperature": 2.0} if arguments else {}))
        y = reference.tensor(batch["y"])
        if loss.word != "cross_entropy":
            y = y.double()
        wanted = reference.LOSSES[loss.word](a, y, **loss.arguments)
        wanted.backward()
        objective, slopes = model.gradients(batch)
        assert objective == pytest.approx(wanted.item(), rel=1e-10)
        assert model.loss(batch) == pytest.approx(wanted.item(), rel=1e-10)
        for role, tensor in p.items():
            largest = float(tensor.grad.abs().max())
            np.testing.assert_allclose(slopes[role], tensor.grad.numpy(), rtol=1e-9, atol=1e-10 * largest, err_msg=role)
        model.step(batch)


def test_terms_are_weighted_and_added() -> None:
    body = "  h = x -> dense(4) -> tanh\n  return a = h -> dense(2), b = h -> dense(3) -> softmax"
    random = np.random.default_rng(1)
    batch = {"x": random.normal(size=(5, 3)), "u": random.normal(size=(5, 2)), "v": random.integers(0, 3, 5)}
    singly = ["mse(a, u)", "mae(a, u)", "cross_entropy(b, v)"]
    together = "0.3 * mse(a, u) + mae(a, u) + 2 * cross_entropy(b, v)"
    losses = []
    for loss in [*singly, together]:
        model = nnc.compile(spec(body, loss=loss)).init(4)
        losses.append(model.loss(batch))
    assert losses[3] == pytest.approx(0.3 * losses[0] + losses[1] + 2 * losses[2], rel=1e-13)
    check_gradients(model, batch)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_confident_predictions_keep_a_finite_loss(scale: float, reference: ModuleType) -> None:
    """With logits far apart; torch's forms on logits say what comes out."""
    import torch
    import torch.nn.functional as F

    x = np.random.default_rng(0).normal(size=(6, 3)) * scale
    y = np.arange(6) % 3
    logits = torch.tensor(x, requires_grad=True)
    for loss, head, target, wanted in [
        ("cross_entropy(output, y)", "softmax", y, F.cross_entropy(logits, torch.tensor(y))),
        ("binary_cross_entropy(output, y)", "sigmoid", np.eye(3)[y],
         F.binary_cross_entropy_with_logits(logits, torch.tensor(np.eye(3)[y]), reduction="sum") / 6),
    ]:  # fmt: skip
        model = nnc.compile(spec(f"  return output = x -> dense(3) -> {head}", loss=loss)).init(0)
        model.parameters["output/dense/weight"][...] = np.eye(3)
        batch = {"x": x, "y": target}
        objective, slopes = model.gradients(batch)
        assert objective == pytest.approx(wanted.item(), rel=1e-12)
        (slope,) = torch.autograd.grad(wanted, logits)
        np.testing.assert_allclose(slopes["output/dense/weight"], x.T @ slope.numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("loss", ["mae", "huber(output, y)", "quadratic"])
def test_a_perfect_prediction_has_no_loss_and_no_slope(loss: str) -> None:
    written = loss if "(" in loss else f"{loss}(output, y)"
    model = nnc.compile(spec("  return output = x -> dense(3)", loss=written)).init(0)
    x = np.random.default_rng(0).normal(size=(4, 3))
    batch = {"x": x, "y": model.predict({"x": x})["output"]}
    objective, slopes = model.gradients(batch)
    assert objective == 0
    assert all((g == 0).all() for g in slopes.values())


@pytest.mark.parametrize("wrong", [-1, 3])
@pytest.mark.parametrize(
    ("inputs", "shape"), [("x: float32[2]", (4,)), ("x: float32[2]", (4, 1)), ("x: float32[5, 2]", (4, 5))]
)
def test_a_class_that_is_no_output_is_refused(inputs: str, shape: tuple[int, ...], wrong: int) -> None:
    model = nnc.compile(
        spec("  return output = x -> dense(3) -> softmax", inputs=inputs, loss="cross_entropy(output, y)")
    ).init(0)
    x, y = np.zeros((4, 5, 2) if "5" in inputs else (4, 2)), np.zeros(shape, int)
    assert model.loss({"x": x, "y": y}) == pytest.approx(np.log(3))
    y[-1] = wrong
    for use in (model.loss, model.gradients, model.step):
        with pytest.raises(nnc.SpecError, match="E513"):
            use({"x": x, "y": y})


def test_single_precision_is_close_to_double() -> None:
    text = spec("  return output = x -> dense(4) -> swish -> dense(3) -> softmax", loss="cross_entropy(output, y)")
    double, single = (nnc.compile(t).init(1) for t in (text, text.replace("float64", "float32")))
    assert {array.dtype for array in single.parameters.values()} == {np.dtype(np.float32)}
    random = np.random.default_rng(0)
    batch = {"x": random.normal(size=(5, 3)), "y": random.integers(0, 3, 5)}
    for name, slope in double.gradients(batch)[1].items():
        np.testing.assert_allclose(single.gradients(batch)[1][name], slope, rtol=1e-4, atol=1e-6)


# Metrics, of given predictions: the network is a dense layer with the identity as its weight


def figure(metric: str, loss: str, prediction: Array, target: Array, cut: int = 4) -> float:
    """A metric over batches of 4, 4, ... and what remains."""
    shape = prediction.shape[1:]
    inputs = f"x: float32[{', '.join(map(str, shape))}]"
    body = f"  return output = x -> dense({shape[-1]}, bias=false)"
    model = nnc.compile(spec(body, inputs=inputs, loss=f"{loss}(output, y)", metrics=f"[{metric}]")).init(0)
    model.parameters["output/dense/weight"][...] = np.eye(shape[-1])
    model.loss({"x": prediction, "y": target})
    evaluation = model.program.evaluation(model._targets)
    executor = Executor(evaluation.graph, model.variables, model.randomness, Arena())
    totals: dict[str, Any] = {}
    for i in range(0, len(prediction), cut):
        for name, value in executor.run({"x": prediction[i : i + cut], "y": target[i : i + cut]}).items():
            totals[name] = totals.get(name, 0.0) + value
    (only,) = evaluation.metrics
    return only.sums.finish({term: totals[f"{only.key}/{term}"] for term in only.sums.terms})


def _accuracy(s: ModuleType, a: Array, y: Array) -> float:
    return s.accuracy_score(y.ravel(), a.argmax(-1).ravel())


# As written, the loss that makes the pair, shape of a prediction, target, what scikit-learn makes of both
METRICS: list[tuple[str, str, tuple[int, ...], Callable[..., Array], Callable[[ModuleType, Array, Array], float]]] = [
    ("accuracy", "cross_entropy", (4,), classes, _accuracy),
    ("accuracy", "cross_entropy", (3, 4), classes, _accuracy),
    ("accuracy", "cross_entropy", (4,), shares, lambda s, a, y: s.accuracy_score(y.argmax(1), a.argmax(1))),
    ("accuracy", "binary_cross_entropy", (1,), bits, lambda s, a, y: s.accuracy_score(y, a > 0.5)),
    ("accuracy(threshold=0.2)", "binary_cross_entropy", (1,), bits, lambda s, a, y: s.accuracy_score(y, a > 0.2)),
    ("accuracy", "binary_cross_entropy", (3,), bits, lambda s, a, y: s.accuracy_score(y.ravel(), a.ravel() > 0.5)),
    ("top_k(1)", "cross_entropy", (4,), classes, _accuracy),
    ("top_k(2)", "cross_entropy", (5,), classes, lambda s, a, y: s.top_k_accuracy_score(y, a, k=2, labels=range(5))),
    ("top_k(k=5)", "cross_entropy", (5,), classes, lambda s, a, y: 1.0),
    ("mae", "mse", (3,), numbers, lambda s, a, y: s.mean_absolute_error(y, a)),
    ("mae", "mse", (2, 3), numbers, lambda s, a, y: s.mean_absolute_error(y.ravel(), a.ravel())),
    ("mse", "mae", (3,), numbers, lambda s, a, y: s.mean_squared_error(y, a)),
    ("rmse", "mse", (3,), numbers, lambda s, a, y: s.root_mean_squared_error(y.ravel(), a.ravel())),
    ("rmse", "mse", (1,), bits, lambda s, a, y: s.root_mean_squared_error(y, a)),
    ("r2", "mse", (1,), numbers, lambda s, a, y: s.r2_score(y, a)),
    ("r2", "mse", (3,), numbers, lambda s, a, y: s.r2_score(y, a)),
]


@pytest.mark.parametrize(
    ("written", "loss", "shape", "target", "oracle"), METRICS, ids=[f"{m[0]}-{m[2]}" for m in METRICS]
)
def test_a_metric_is_scikit_learns(written: str, loss: str, shape: tuple[int, ...], target: Any, oracle: Any) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the outside reference of this test")
    random = np.random.default_rng(3)
    a, y = random.normal(0.3, 1, size=(22, *shape)), target(random, 22, shape)
    assert figure(written, loss, a, y) == pytest.approx(oracle(sklearn, a, y), rel=1e-12)


def test_r2_of_targets_far_from_zero_keeps_its_digits() -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the outside reference of this test")
    random = np.random.default_rng(3)
    y = 2000 + random.normal(size=(50, 1))
    a = y + random.normal(0, 0.3, size=(50, 1))
    assert figure("r2", "mse", a, y) == pytest.approx(sklearn.r2_score(y, a), rel=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.1, 7.3, -1234.56])
def test_r2_of_a_constant_target_is_none_of_it_or_all(value: float) -> None:
    """Sums of squares leave a rest of rounding that is no spread."""
    y = np.full((23, 1), value)
    assert figure("r2", "mse", y, y) == 1.0
    assert figure("r2", "mse", y + 0.5, y) == 0.0


def test_ties_count_as_found_in_top_k_and_go_to_the_first_in_accuracy() -> None:
    a = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    y = np.array([0, 1])
    assert figure("top_k(1)", "cross_entropy", a, y) == 1.0
    assert figure("accuracy", "cross_entropy", a, y) == 0.5


# Initial values


def drawn(layer: str, seed: int = 0, inputs: str = "x: float32[300]") -> dict[str, Array]:
    model = nnc.compile(f"network({inputs}) {{ return y = x -> {layer} }}").init(seed)
    return {name.rpartition("/")[2]: array.astype(float) for name, array in model.parameters.items()}


def distance(sample: Array, cdf: Callable[[float], float]) -> float:
    """Kolmogorov and Smirnov's statistic times the root of the size: above 1.9 in one of a thousand samples."""
    found = np.sort(sample.ravel())
    wanted = np.array([cdf(v) for v in found])
    steps = np.arange(len(found) + 1) / len(found)
    return float(max((steps[1:] - wanted).max(), (wanted - steps[:-1]).max()) * np.sqrt(len(found)))


def uniform(low: float, high: float) -> Callable[[float], float]:
    return lambda v: min(1.0, max(0.0, (v - low) / (high - low)))


# For a layer of 300 inputs and 50 units
INITIALISERS: dict[str, list[tuple[str, Callable[[float], float]]]] = {
    "zeros": [("zeros", lambda v: float(v >= 0))],
    "constant": [("constant(-0.7)", lambda v: float(v >= -0.7000001))],
    "normal": [("normal", NormalDist(0, 0.01).cdf), ("normal(0.2, mean=1.5)", NormalDist(1.5, 0.2).cdf)],
    "uniform": [("uniform", uniform(-0.05, 0.05)), ("uniform(1, 1.5)", uniform(1, 1.5))],
    "xavier_normal": [("xavier_normal", NormalDist(0, sqrt(2 / 350)).cdf)],
    "xavier_uniform": [("xavier_uniform", uniform(-sqrt(6 / 350), sqrt(6 / 350)))],
    "he_normal": [("he_normal", NormalDist(0, sqrt(2 / 300)).cdf)],
    "he_uniform": [("he_uniform", uniform(-sqrt(6 / 300), sqrt(6 / 300)))],
}


@pytest.mark.parametrize(
    ("written", "cdf"), [pytest.param(*c, id=c[0]) for cases in INITIALISERS.values() for c in cases]
)
def test_initial_weights_have_their_distribution(written: str, cdf: Callable[[float], float]) -> None:
    weight = drawn(f"dense(50, init={written})")["weight"]
    if len(np.unique(weight)) == 1:
        assert (cdf(weight[0, 0]), cdf(weight[0, 0] - 1e-3)) == (1.0, 0.0)
    else:
        assert distance(weight, cdf) < 1.9


@pytest.mark.parametrize(
    ("layer", "inputs", "fans"),
    [
        ("conv2d(40, kernel=[3, 5])", "x: float32[20, 9, 9]", (300, 600)),
        ("conv2d(40, kernel=3, groups=2)", "x: float32[20, 9, 9]", (90, 180)),
        ("dense(50)", "x: float32[4, 80]", (80, 50)),
    ],
)
def test_fans_count_the_connections_of_a_unit(layer: str, inputs: str, fans: tuple[int, int]) -> None:
    into, out = fans
    he, xavier = (drawn(layer[:-1] + f", init={i})", inputs=inputs)["weight"] for i in ("he_normal", "xavier_normal"))
    assert he.std() == pytest.approx(sqrt(2 / into), rel=0.05)
    assert xavier.std() == pytest.approx(sqrt(2 / (into + out)), rel=0.05)


@pytest.mark.parametrize(
    ("chain", "wanted"),
    [
        ("dense(50) -> relu", "he_normal"),
        ("dense(50) -> batch_norm -> dropout(0.1) -> leaky_relu", "he_normal"),
        ("dense(50) -> elu", "he_normal"),
        ("dense(50) -> swish", "he_normal"),
        ("dense(50) -> tanh", "xavier_uniform"),
        ("dense(50) -> softmax", "xavier_uniform"),
        ("dense(50)", "xavier_uniform"),
        ("dense(50, init=auto) -> relu", "he_normal"),
        ("dense(50, init=he_uniform) -> tanh", "he_uniform"),
    ],
)
def test_without_a_word_the_activation_that_follows_decides(chain: str, wanted: str) -> None:
    weight = drawn(chain)["weight"]
    assert distance(weight, INITIALISERS[wanted][0][1]) < 1.9


def test_biases_start_at_zero_or_as_told() -> None:
    assert (drawn("dense(50)")["bias"] == 0).all()
    assert distance(drawn("dense(4000, bias_init=normal(0.3))")["bias"], NormalDist(0, 0.3).cdf) < 1.9
    assert "bias" not in drawn("dense(50, bias=false)")


def test_initial_values_depend_on_seed_and_name_alone() -> None:
    first = drawn("dense(50)")["weight"]
    np.testing.assert_array_equal(drawn("dense(50)")["weight"], first)
    assert (drawn("dense(50)", seed=1)["weight"] != first).all()
    both = nnc.compile("network(x: float32[300]) { h = x -> dense(300) return y = h -> dense(50) }").init(0)
    np.testing.assert_array_equal(both.parameters["y/dense/weight"], first.astype(np.float32))
    assert abs(np.corrcoef(both.parameters["h/dense/weight"][:, :50].ravel(), first.ravel())[0, 1]) < 0.05
