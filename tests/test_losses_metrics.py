"""Losses against torch and differences, metrics against scikit-learn, initial values against their distributions."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from networks import Word, check_gradients, kink_margin, spec, spread, word

import nnc
import nnc.compiler.ops
from nnc.compiler.ir import Batch
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


def counts(random: np.random.Generator, n: int, shape: tuple[int, ...]) -> Array:
    return random.poisson(2.0, (n, *shape)).astype(float)


def chosen(random: np.random.Generator, n: int, shape: tuple[int, ...]) -> Array:
    """Classes as one-hot rows."""
    return np.eye(shape[-1])[classes(random, n, shape)]


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
    (word("rmse"), "linear", (3,), numbers),
    (word("rmse"), "tanh", (2, 2), numbers),
    (word("absolute"), "linear", (3,), numbers),
    (word("absolute"), "tanh", (2, 2), numbers),
    (word("log_cosh"), "linear", (3,), numbers),
    (word("log_cosh"), "linear", (2, 2), numbers),
    (word("quantile"), "linear", (3,), numbers),
    (word("quantile", q=0.9), "linear", (2, 2), numbers),
    (word("poisson"), "softplus", (3,), counts),
    (word("poisson"), "sigmoid", (2, 2), counts),
    (word("cosine"), "linear", (4,), numbers),
    (word("cosine"), "tanh", (2, 3), numbers),
    (word("hinge"), "linear", (1,), bits),
    (word("hinge"), "tanh", (3,), bits),
    (word("kl_divergence"), "softmax", (4,), shares),
    (word("kl_divergence"), "softmax", (2, 3), shares),
    (word("kl_divergence"), "softmax", (4,), classes),
    (word("kl_divergence"), "sigmoid", (3,), shares),
    (word("hellinger"), "softmax", (4,), shares),
    (word("hellinger"), "softmax", (2, 3), classes),
    (word("hellinger"), "sigmoid", (3,), shares),
    (word("focal"), "softmax", (4,), classes),
    (word("focal", gamma=0.0), "softmax", (2, 3), classes),
    (word("focal", gamma=1.5), "softmax", (3,), shares),
    (word("cross_entropy", class_weights=(0.5, 2.0, 0.0, 1.5)), "softmax", (4,), classes),
    (word("cross_entropy", class_weights=(0.5, 2.0, 1.0)), "softmax", (2, 3), classes),
    (word("cross_entropy", class_weights=(0.5, 2.0, 1.5)), "softmax", (3,), chosen),
    (word("binary_cross_entropy", positive_weight=3.0), "sigmoid", (3,), bits),
    (word("binary_cross_entropy", positive_weight=0.2), "sigmoid", (2, 2), parts),
    (word("binary_cross_entropy", class_weights=(0.5, 4.0)), "sigmoid", (1,), bits),
    (word("binary_cross_entropy", class_weights=(0.5, 4.0), positive_weight=2.0), "sigmoid", (3,), bits),
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
    assert {written.partition("(")[0] for written, *_ in METRICS + LIKELIHOODS} == set(names(Kind.METRIC))
    assert INITIALISERS.keys() | {"auto", "from"} == set(names(Kind.INITIALISER))


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
        if target is not classes:
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


@pytest.mark.parametrize("loss", ["mae", "huber(output, y)", "quadratic", "mse", "rmse", "absolute", "log_cosh"])
def test_a_perfect_prediction_has_no_loss_and_no_slope(loss: str) -> None:
    written = loss if "(" in loss else f"{loss}(output, y)"
    model = nnc.compile(spec("  return output = x -> dense(3)", loss=written)).init(0)
    x = np.random.default_rng(0).normal(size=(4, 3))
    batch = {"x": x, "y": model.predict({"x": x})["output"]}
    objective, slopes = model.gradients(batch)
    assert objective == 0
    assert all((g == 0).all() for g in slopes.values())


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("loss", ["hellinger", "kl_divergence", "focal", "poisson", "cosine", "rmse", "log_cosh"])
def test_the_edges_of_a_loss_are_finite(loss: str, precision: str) -> None:
    """A prediction of 0 where the target is 0, and where it is not; equal rows; rows of zeros."""
    a = np.array([[0.0, 1, 0], [0, 0.5, 0.5], [0.2, 0.3, 0.5], [0, 0, 0], [1, 0, 0], [0, 0, 0], [1e-30, 0.5, 0.5]])
    y = np.array([[0.0, 1, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5], [0, 0, 1], [0, 0, 1], [0, 0, 0], [1e-30, 1e-14, 1]])
    text = spec("  return output = x -> dense(3, bias=false)", loss=f"{loss}(output, y)", precision=precision)
    model = nnc.compile(text).init(0)
    model.parameters["output/dense/weight"][...] = np.eye(3)
    for rows in (slice(None), *(slice(i, i + 1) for i in range(len(a)))):
        batch = {"x": a[rows], "y": y[rows]}
        objective, slopes = model.gradients(batch)
        assert np.isfinite(objective)
        assert np.isfinite(model.loss(batch))
        assert all(np.isfinite(g).all() for g in slopes.values())


def test_an_angle_does_not_depend_on_lengths() -> None:
    model = nnc.compile(spec("  return output = x -> dense(3, bias=false)", loss="cosine(output, y)")).init(0)
    model.parameters["output/dense/weight"][...] = np.eye(3)
    a = np.array([[3.0, 4, 0], [0, 1, 1]])
    for size in (1e-5, 1.0, 1e5):
        assert model.loss({"x": a * size, "y": a * [[2.0], [-1]]}) == pytest.approx(1, rel=1e-12), "0 for the first, 2 for the second"


@pytest.mark.parametrize("loss", ["hellinger", "kl_divergence"])
def test_a_distance_of_equal_distributions_is_zero(loss: str) -> None:
    a = np.array([[0.0, 1, 0], [0.2, 0.3, 0.5], [0.5, 0, 0.5]])
    model = nnc.compile(spec("  return output = x -> dense(3, bias=false)", loss=f"{loss}(output, y)")).init(0)
    model.parameters["output/dense/weight"][...] = np.eye(3)
    assert model.loss({"x": a, "y": a}) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("loss", "wanted"), [("kl_divergence", 900.0), ("focal", 900.0), ("hellinger", 1.0)])
def test_confident_and_wrong_is_finite_and_still_has_a_slope(loss: str, wanted: float) -> None:
    """The wrong class is e^900 times as likely as the right one, which float64 has no number for."""
    model = nnc.compile(spec("  return output = x -> dense(3) -> softmax", loss=f"{loss}(output, y)")).init(0)
    model.parameters["output/dense/weight"][...] = np.eye(3)
    batch = {"x": np.array([[900.0, 0, 0]]), "y": np.array([1])}
    objective, slopes = model.gradients(batch)
    assert objective == pytest.approx(wanted)
    assert np.isfinite(slopes["output/dense/weight"]).all()
    if loss != "hellinger":  # the distance has a largest value, where it is flat
        np.testing.assert_allclose(slopes["output/dense/bias"], [1, -1, 0], atol=1e-12)


@pytest.mark.parametrize("loss", ["cross_entropy(output, y, class_weights=[1, 2])", "binary_cross_entropy(output, y, class_weights=[1, 2, 3])",
                                  "cross_entropy(output, y, class_weights=[1, 2, -1])"])  # fmt: skip
def test_class_weights_that_do_not_fit_are_refused(loss: str) -> None:
    head = "dense(3) -> softmax" if loss.startswith("cross") else "dense(1) -> sigmoid"
    with pytest.raises(nnc.SpecError, match="E207"):
        nnc.compile(spec(f"  return output = x -> {head}", loss=loss))


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
            whole = any(isinstance(d, Batch) for d in evaluation.graph.outputs[name].shape)  # of every sample, or their sum
            known = totals.get(name)
            totals[name] = value.copy() if known is None else np.concatenate([known, value]) if whole else known + value
    (only,) = evaluation.metrics
    return only.sums.finish({term: totals[f"{only.key}/{term}"] for term in only.sums.terms})


def _accuracy(s: ModuleType, a: Array, y: Array) -> float:
    return s.accuracy_score(y.ravel(), a.argmax(-1).ravel())


def decided(a: Array, y: Array) -> tuple[Array, Array]:
    """Targets and decisions as classes."""
    if a.shape[-1] == 1:
        return y.ravel(), a.ravel() > 0.5
    return (y if y.ndim < a.ndim else y.argmax(-1)).ravel(), a.argmax(-1).ravel()


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
    *[
        (f"{name}{arguments}", loss, shape, target, lambda s, a, y, name=name, more=more: getattr(s, f"{name}_score")(*decided(a, y), zero_division=0, **more))
        for name in ("precision", "recall", "f1")
        for arguments, loss, shape, target, more in [
            ("", "binary_cross_entropy", (1,), bits, {}),
            ("(average=macro)", "binary_cross_entropy", (1,), bits, {"average": "macro"}),
            ("", "cross_entropy", (2,), classes, {}),
            ("", "cross_entropy", (4,), classes, {"average": "macro"}),
            ("(average=micro)", "cross_entropy", (4,), classes, {"average": "micro"}),
            ("(average=none)", "cross_entropy", (4,), classes, {"average": None}),
            ("", "cross_entropy", (3, 4), classes, {"average": "macro"}),
            ("", "kl_divergence", (3,), chosen, {"average": "macro"}),
            ("", "cross_entropy", (30,), classes, {"average": "macro", "labels": range(30)}),  # most never occur
        ]
    ],
    ("precision(threshold=1)", "mse", (1,), bits, lambda s, a, y: s.precision_score(y, a > 1)),
    ("confusion_matrix", "binary_cross_entropy", (1,), bits, lambda s, a, y: s.confusion_matrix(*decided(a, y)).tolist()),
    ("confusion_matrix", "cross_entropy", (4,), classes, lambda s, a, y: s.confusion_matrix(*decided(a, y), labels=range(4)).tolist()),
    ("confusion_matrix(threshold=0.9)", "mse", (1,), bits, lambda s, a, y: s.confusion_matrix(y, a > 0.9).tolist()),
    ("auc", "binary_cross_entropy", (1,), bits, lambda s, a, y: s.roc_auc_score(y, a)),
    ("auc", "cross_entropy", (2,), classes, lambda s, a, y: s.roc_auc_score(y, a[:, 1])),
    ("auc", "cross_entropy", (4,), classes, lambda s, a, y: s.roc_auc_score(np.eye(4)[y], a, average="macro")),
    ("auc", "cross_entropy", (4,), chosen, lambda s, a, y: s.roc_auc_score(y, a, average="macro")),
]

# The same of predictions that are probabilities
LIKELIHOODS: list[tuple[str, str, tuple[int, ...], Callable[..., Array], Callable[[ModuleType, Array, Array], float]]] = [
    ("log_loss", "cross_entropy", (4,), classes, lambda s, a, y: s.log_loss(y, a, labels=range(4))),
    ("log_loss", "cross_entropy", (3, 4), classes, lambda s, a, y: s.log_loss(y.ravel(), a.reshape(-1, 4), labels=range(4))),
    ("log_loss", "cross_entropy", (4,), chosen, lambda s, a, y: s.log_loss(y, a)),
    ("log_loss", "binary_cross_entropy", (1,), bits, lambda s, a, y: s.log_loss(y, a)),
    ("perplexity", "cross_entropy", (4,), classes, lambda s, a, y: np.exp(s.log_loss(y, a, labels=range(4)))),
    ("perplexity", "cross_entropy", (3, 4), classes, lambda s, a, y: np.exp(s.log_loss(y.ravel(), a.reshape(-1, 4), labels=range(4)))),
]


@pytest.mark.parametrize(
    ("written", "loss", "shape", "target", "oracle"), METRICS, ids=[f"{m[0]}-{m[2]}" for m in METRICS]
)
def test_a_metric_is_scikit_learns(written: str, loss: str, shape: tuple[int, ...], target: Any, oracle: Any) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the outside reference of this test")
    random = np.random.default_rng(3)
    a, y = random.normal(0.3, 1, size=(22, *shape)), target(random, 22, shape)
    np.testing.assert_allclose(figure(written, loss, a, y), oracle(sklearn, a, y), rtol=1e-12)


@pytest.mark.parametrize(("written", "loss", "shape", "target", "oracle"), LIKELIHOODS, ids=[f"{m[0]}-{m[2]}" for m in LIKELIHOODS])
def test_a_likelihood_is_scikit_learns(written: str, loss: str, shape: tuple[int, ...], target: Any, oracle: Any) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the outside reference of this test")
    random = np.random.default_rng(3)
    a = random.uniform(0.05, 0.95, size=(22, *shape))
    a = a / a.sum(-1, keepdims=True) if shape[-1] > 1 else a
    y = target(random, 22, shape)
    assert figure(written, loss, a, y) == pytest.approx(oracle(sklearn, a, y), rel=1e-12)


def test_a_likelihood_of_zero_is_a_large_finite_loss() -> None:
    a, y = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1])
    assert 20 < figure("log_loss", "cross_entropy", a, y) < 1e4


def test_an_auc_counts_ties_half_and_needs_both_classes() -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the outside reference of this test")
    random = np.random.default_rng(0)
    a, y = random.integers(0, 4, (50, 1)).astype(float), random.integers(0, 2, (50, 1))
    assert figure("auc", "mse", a, y) == pytest.approx(sklearn.roc_auc_score(y, a), rel=1e-14)
    assert np.isnan(figure("auc", "mse", a, np.ones((50, 1), int)))


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
    a = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    y = np.array([0, 1, 1])
    assert figure("top_k(1)", "cross_entropy", a, y) == 1.0
    assert figure("accuracy", "cross_entropy", a, y) == pytest.approx(2 / 3)


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


def truncated(mean: float, std: float) -> Callable[[float], float]:
    whole = NormalDist()
    return lambda v: min(1.0, max(0.0, (whole.cdf((v - mean) / std) - whole.cdf(-2)) / (whole.cdf(2) - whole.cdf(-2))))


# For a layer of 300 inputs and 50 units
INITIALISERS: dict[str, list[tuple[str, Callable[[float], float]]]] = {
    "zeros": [("zeros", lambda v: float(v >= 0))],
    "ones": [("ones", lambda v: float(v >= 1))],
    "constant": [("constant(-0.7)", lambda v: float(v >= -0.7000001))],
    "normal": [("normal", NormalDist(0, 0.01).cdf), ("normal(0.2, mean=1.5)", NormalDist(1.5, 0.2).cdf)],
    "uniform": [("uniform", uniform(-0.05, 0.05)), ("uniform(1, 1.5)", uniform(1, 1.5))],
    "xavier_normal": [("xavier_normal", NormalDist(0, sqrt(2 / 350)).cdf)],
    "xavier_uniform": [("xavier_uniform", uniform(-sqrt(6 / 350), sqrt(6 / 350)))],
    "he_normal": [("he_normal", NormalDist(0, sqrt(2 / 300)).cdf)],
    "he_uniform": [("he_uniform", uniform(-sqrt(6 / 300), sqrt(6 / 300)))],
    "truncated_normal": [("truncated_normal", truncated(0, 0.01)), ("truncated_normal(0.3, mean=-2)", truncated(-2, 0.3))],
    "lecun_normal": [("lecun_normal", NormalDist(0, sqrt(1 / 300)).cdf)],
    "lecun_uniform": [("lecun_uniform", uniform(-0.1, 0.1))],
    "scaled": [
        ("scaled(logistic)", NormalDist(0, sqrt(2 / 350)).cdf),
        ("scaled(tanh)", NormalDist(0, 4 * sqrt(2 / 350)).cdf),
        ("scaled(relu)", NormalDist(0, sqrt(2) * sqrt(2 / 350)).cdf),
        ("scaled(logistic, distribution=uniform)", uniform(-sqrt(6 / 350), sqrt(6 / 350))),
        ("scaled(tanh, uniform)", uniform(-4 * sqrt(6 / 350), 4 * sqrt(6 / 350))),
        ("scaled(relu, uniform)", uniform(-sqrt(12 / 350), sqrt(12 / 350))),
    ],
    "orthogonal": [("orthogonal", NormalDist(0, sqrt(1 / 300)).cdf), ("orthogonal(2)", NormalDist(0, 2 * sqrt(1 / 300)).cdf)],
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
        ("conv1d(40, kernel=5)", "x: float32[9, 60]", (300, 200)),
        ("conv1d(40, kernel=5, groups=2)", "x: float32[9, 60]", (150, 100)),
        ("conv2d_transpose(40, kernel=[3, 5])", "x: float32[20, 4, 4]", (300, 600)),
        ("depthwise_conv2d(kernel=9, multiplier=2)", "x: float32[20, 9, 9]", (81, 162)),
        ("maxout(50, pieces=3)", "x: float32[80]", (80, 50)),
        ("sparse_dense(100, density=0.25)", "x: float32[120]", (30, 25)),
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
        ("dense(50) -> selu", "lecun_normal"),
        ("dense(50) -> layer_norm -> gelu", "he_normal"),
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


@pytest.mark.parametrize(
    ("layer", "inputs", "gain"),
    [
        ("dense(50, init=orthogonal)", "x: float32[300]", 1.0),
        ("dense(300, init=orthogonal(1.5))", "x: float32[40]", 1.5),
        ("dense(8, init=orthogonal)", "x: float32[8]", 1.0),
        ("conv2d(6, kernel=3, init=orthogonal(0.5))", "x: float32[4, 5, 5]", 0.5),
        ("conv2d(60, kernel=2, init=orthogonal)", "x: float32[3, 5, 5]", 1.0),
    ],
)
def test_orthogonal_rows_or_columns_are_orthonormal(layer: str, inputs: str, gain: float) -> None:
    weight = drawn(layer, inputs=inputs)["weight"]
    matrix = weight.reshape(len(weight), -1) / gain
    product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-6)


def test_orthogonal_matrices_are_drawn_evenly() -> None:
    """Of one element there are two, 1 and -1."""
    found = [float(drawn("dense(1, init=orthogonal)", seed, "x: float32[1]")["weight"].item()) for seed in range(20)]
    assert set(found) == {1.0, -1.0}


def test_masks_are_fixed_by_seed_and_name() -> None:
    text = "network(x: float32[40]) {{ return a = x -> sparse_dense(30, density=0.5, seed={}), b = x -> sparse_dense(30, density=0.5) }}"

    def masks(seed: int, of_model: int) -> list[Array]:
        parameters = nnc.compile(text.format(seed)).init(of_model).parameters
        return [parameters[f"{name}/sparse_dense/mask"] for name in "ab"]

    (first, second), (again, _), (other, _) = masks(0, 0), masks(0, 1), masks(1, 0)
    assert (first == again).all(), "another seed of the parameters leaves the connections"
    for different in (second, other):
        assert 0.4 < (first != different).mean() < 0.6


def test_an_array_of_a_file_is_a_start(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors writes the file of this test")
    random = np.random.default_rng(0)
    given = {"w": random.normal(size=(3, 4)).astype(np.float32), "b": random.normal(size=4), "broken": np.full(4, np.nan), "ints": np.arange(4)}
    safetensors.save_file(given, tmp_path / "given.safetensors")

    def model(name: str, bias: str, file: str = "given.safetensors") -> Any:
        text = f'network(x: float32[3]) {{ return y = x -> dense(4, init=from("{file}", "{name}"), bias_init=from("{file}", "{bias}")) }}'
        return nnc.compile(text, data_root=tmp_path).init(0)

    found = model("w", "b")
    np.testing.assert_array_equal(found.parameters["y/dense/weight"], given["w"])
    np.testing.assert_array_equal(found.parameters["y/dense/bias"], given["b"].astype(np.float32))
    found.parameters["y/dense/bias"] = np.ones(4)
    found.save(tmp_path / "model.safetensors")
    (tmp_path / "given.safetensors").unlink()
    again = nnc.load(tmp_path / "model.safetensors")  # what training made of it, without the file
    np.testing.assert_array_equal(again.parameters["y/dense/bias"], 1)
    np.testing.assert_array_equal(model("y/dense/weight", "y/dense/bias", "model.safetensors").parameters["y/dense/weight"], given["w"])
    safetensors.save_file(given, tmp_path / "given.safetensors")
    for weight, bias, said in [("w", "w", "here"), ("w", "c", "it has no `c`"), ("w", "broken", "finite"), ("w", "ints", "finite"), ("b", "b", "here")]:
        with pytest.raises(nnc.SpecError, match=f"(?s)E512.*{said}"):
            model(weight, bias)
    with pytest.raises(nnc.SpecError, match="E401"):
        model("w", "b", "absent.safetensors")


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
