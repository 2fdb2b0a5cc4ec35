"""Layers, activations and penalties in float64: values, gradients and five steps, by differences and by torch."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from networks import Word, around, check_gradients, kink_margin, spec, spread, word

import nnc
import nnc.compiler.ops
from nnc.compiler.operation import Kind, names
from nnc.runtime.executor import Arena, Executor


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The oracle; torch is a dependency of these tests alone."""
    pytest.importorskip("torch", reason="torch is the outside reference of these tests and is not installed")
    from oracles import torch_reference

    return torch_reference


RECURRENT: list[tuple[Word, tuple[int, ...]]] = [
    (word("rnn", units=3), (4, 2)),
    (word("rnn", units=2, activation="relu", return_sequences=True), (3, 3)),
    (word("rnn", units=2, bidirectional=True), (3, 2)),
    (word("rnn", units=2, return_sequences=True), (1, 3)),
    (word("lstm", units=3), (4, 2)),
    (word("lstm", units=2, return_sequences=True), (3, 3)),
    (word("lstm", units=2, bidirectional=True), (3, 2)),
    (word("lstm", units=2, bidirectional=True, return_sequences=True), (3, 2)),
    (word("gru", units=3), (4, 2)),
    (word("gru", units=2, return_sequences=True), (3, 3)),
    (word("gru", units=2, bidirectional=True), (1, 2)),
    (word("gru", units=2, bidirectional=True, return_sequences=True), (3, 2)),
]

# A layer and the shape of the sample it works on
LAYERS: list[tuple[Word, tuple[int, ...]]] = [
    (word("dense", units=4), (3,)),
    (word("dense", units=1, bias=False), (5,)),
    (word("dense", units=2), (3, 4)),
    (word("dense", units=3), (2, 2, 3)),
    (word("conv2d", channels=3, kernel=2), (2, 4, 3)),
    (word("conv2d", channels=2, kernel=(3, 1), stride=(2, 1), bias=False), (2, 6, 3)),
    (word("conv2d", channels=2, kernel=3, padding="same"), (1, 4, 5)),
    (word("conv2d", channels=2, kernel=(2, 4), padding="same", stride=2), (1, 5, 6)),
    (word("conv2d", channels=1, kernel=3, padding=2), (2, 3, 3)),
    (word("conv2d", channels=2, kernel=2, padding=(0, 1), stride=3), (2, 5, 5)),
    (word("conv2d", channels=2, kernel=(2, 3), dilation=(2, 1)), (1, 5, 4)),
    (word("conv2d", channels=2, kernel=2, dilation=2, stride=2, padding=1), (2, 5, 4)),
    (word("conv2d", channels=4, kernel=2, groups=2), (2, 3, 3)),
    (word("conv2d", channels=3, kernel=2, groups=3, stride=2, padding="same"), (3, 5, 4)),
    (word("conv2d", channels=4, kernel=2, groups=2, dilation=2), (4, 4, 3)),
    (word("max_pool", window=2), (2, 4, 4)),
    (word("max_pool", window=2), (1, 5, 7)),  # rows and columns that no window covers
    (word("max_pool", window=3, stride=2), (2, 5, 6)),
    (word("max_pool", window=(3, 2), stride=1, padding=1), (1, 4, 3)),
    (word("max_pool", window=3, stride=2, padding="same"), (2, 4, 5)),
    (word("avg_pool", window=2), (2, 4, 4)),
    (word("avg_pool", window=(2, 3)), (1, 5, 7)),
    (word("avg_pool", window=3, stride=2, padding=1), (2, 5, 4)),
    (word("avg_pool", window=3, stride=2, padding="same"), (1, 4, 5)),
    (word("avg_pool", window=2, stride=3), (1, 5, 5)),
    (word("global_max_pool"), (3, 2, 3)),
    (word("global_avg_pool"), (3, 2, 3)),
    (word("flatten"), (2, 3, 2)),
    (word("reshape", shape=(3, 4)), (2, 3, 2)),
    (word("batch_norm"), (3,)),
    (word("batch_norm", momentum=0.5, epsilon=0.1), (4,)),
    (word("batch_norm"), (2, 3, 3)),
    (word("batch_norm", momentum=0.0), (3, 2)),
    (word("linear"), (4,)),
    (word("sigmoid"), (4,)),
    (word("tanh"), (4,)),
    (word("relu"), (5,)),
    (word("leaky_relu"), (5,)),
    (word("leaky_relu", slope=0.3), (2, 3)),
    (word("elu"), (5,)),
    (word("elu", alpha=0.4), (5,)),
    (word("swish"), (4,)),
    (word("swish", beta=2.5), (4,)),
    (word("softmax"), (5,)),
    (word("softmax", temperature=3.0), (2, 3)),
    (word("softmax", axis=0), (3, 2)),
    (word("softmax", axis=1, temperature=0.5), (2, 2, 2)),
    (word("log_softmax"), (4,)),
    (word("log_softmax", axis=0, temperature=2.0), (3, 2)),
    (word("saturated_linear"), (6,)),
    (word("saturated_linear", low=-0.2, high=1.5), (2, 3)),
    (word("gaussian"), (4,)),
    (word("prelu"), (5,)),
    (word("prelu", init=0.4, form="max"), (5,)),
    (word("prelu"), (3, 2, 2)),
    (word("prelu", form="max"), (2, 2, 3)),
    (word("prelu"), (4, 3)),
    (word("relu6"), (5,)),
    (word("selu"), (5,)),
    (word("celu"), (5,)),
    (word("celu", alpha=0.3), (2, 3)),
    (word("softplus"), (4,)),
    (word("softsign"), (4,)),
    (word("mish"), (4,)),
    (word("gelu"), (4,)),
    (word("gelu", approximate="tanh"), (4,)),
    (word("hard_sigmoid"), (5,)),
    (word("hard_swish"), (5,)),
    (word("maxout", units=3), (4,)),
    (word("maxout", units=2, pieces=4, bias=False), (3,)),
    (word("maxout", units=2, pieces=3), (3, 4)),
    (word("maxout", units=2, pieces=1), (2, 2, 3)),
    (word("radial", units=4), (3,)),
    (word("radial", units=3, beta=0.4), (2, 2)),
    (word("sparse_dense", units=5, density=0.4), (4,)),
    (word("sparse_dense", units=3, density=0.7, seed=4, bias=False), (2, 5)),
    (word("layer_norm"), (4,)),
    (word("layer_norm", epsilon=0.1), (3, 4)),
    (word("layer_norm"), (2, 3, 2)),
    (word("group_norm", groups=2), (6,)),
    (word("group_norm", groups=2), (4, 2, 3)),
    (word("group_norm", groups=3, epsilon=0.1), (2, 6)),
    (word("group_norm", groups=1), (3, 2, 2)),
    (word("attention"), (3, 4)),
    (word("attention", heads=2), (3, 4)),
    (word("attention", heads=3, causal=True), (4, 3)),
    (word("attention"), (1, 2)),
    (word("conv1d", channels=3, kernel=2), (4, 3)),
    (word("conv1d", channels=2, kernel=3, padding="same", stride=2), (6, 2)),
    (word("conv1d", channels=2, kernel=2, padding=1, dilation=2, bias=False), (4, 2)),
    (word("conv1d", channels=4, kernel=2, groups=2), (3, 4)),
    (word("conv2d_transpose", channels=2, kernel=2), (3, 2, 3)),
    (word("conv2d_transpose", channels=2, kernel=3, stride=2, padding=1, output_padding=1), (2, 3, 2)),
    (word("conv2d_transpose", channels=4, kernel=(2, 3), stride=(2, 1), groups=2, bias=False), (2, 2, 3)),
    (word("conv2d_transpose", channels=1, kernel=2, stride=3, dilation=2, output_padding=(1, 0)), (2, 2, 2)),
    (word("depthwise_conv2d", kernel=2), (3, 3, 3)),
    (word("depthwise_conv2d", kernel=(3, 2), multiplier=2, stride=2, padding="same"), (2, 4, 3)),
    (word("depthwise_conv2d", kernel=2, dilation=2, padding=1, bias=False), (2, 3, 4)),
    (word("transpose", order=(1, 0)), (3, 2)),
    (word("transpose", order=(2, 0, 1)), (2, 3, 4)),
    *RECURRENT,
]

# Ways to join two or more tensors, and how the oracle joins them
MERGES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("add", "add(a, b)", "ab", {}),
    ("add", "a + b", "ab", {}),
    ("add", "add(a, b, a)", "aba", {}),
    ("subtract", "a - b", "ab", {}),
    ("subtract", "subtract(b, a)", "ba", {}),
    ("multiply", "multiply(a, b, b)", "abb", {}),
    ("divide", "a / b", "ab", {}),
    ("concat", "concat(a, b)", "ab", {}),
    ("concat", "concat(b, a, b, axis=0)", "bab", {"axis": 0}),
    ("concat", "concat(a, b, axis=-1)", "ab", {"axis": -1}),
]

# Layers whose reference is not torch's: tests of their own below
ELSEWHERE = {"step", "dropout", "spatial_dropout", "gaussian_noise", "embedding", "split"}


def test_every_layer_has_a_case() -> None:
    assert {layer.word for layer, _ in LAYERS} | {merge[0] for merge in MERGES} | ELSEWHERE == set(names(Kind.LAYER))


def test_every_penalty_has_a_case() -> None:
    assert {penalty.word for penalty in PENALTIES} == set(names(Kind.PENALTY))


def made(body: str, *, n: int = 4, seed: int = 3, **keys: Any) -> tuple[Any, dict[str, Any]]:
    """A model of the statements and a batch, away from the places where a slope jumps."""
    program = nnc.compile(spec(body, **keys))
    for attempt in range(50):
        random = np.random.default_rng(seed + 1000 * attempt)
        model = program.init(seed)
        spread(model, seed + attempt)
        batch = {"x": random.normal(size=(n, 3))}
        batch["y"] = random.normal(size=model.predict(batch)["output"].shape)
        if kink_margin(model, batch) > 1e-3:
            return model, batch
    raise AssertionError("every batch lies at a kink")


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: str(v).replace(" ", ""))
def test_the_gradient_is_that_of_finite_differences(layer: Word, shape: tuple[int, ...]) -> None:
    check_gradients(*made(around(layer, shape)))


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: str(v).replace(" ", ""))
def test_values_gradients_and_steps_are_torchs(layer: Word, shape: tuple[int, ...], reference: ModuleType) -> None:
    model, batch = made(around(layer, shape))

    def forward(p: dict[str, Any], x: Any, training: bool) -> Any:
        a = reference.dense(reference.under("a/dense", p), x, 0).reshape(-1, *shape)
        more = {"training": training} if layer.word == "batch_norm" else {}
        return reference.LAYERS[layer.word](reference.under(f"output/{layer.word}", p), a, **layer.arguments, **more)

    check_against_torch(reference, model, batch, forward)


@pytest.mark.parametrize("merge", MERGES, ids=lambda m: m[1])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 2)], ids=str)
def test_merges_are_torchs(
    merge: tuple[str, str, str, dict[str, Any]], shape: tuple[int, ...], reference: ModuleType
) -> None:
    name, written, order, arguments = merge
    units = int(np.prod(shape))
    body = "\n".join(f"  {t} = x -> dense({units}) -> reshape([{', '.join(map(str, shape))}])" for t in "ab")
    model, batch = made(f"{body}\n  return output = {written}")
    model.parameters["b/dense/weight"][...] *= 0.1
    model.parameters["b/dense/bias"][...] = 2.0  # a divisor far from zero
    check_gradients(model, batch)

    def forward(p: dict[str, Any], x: Any, training: bool) -> Any:
        found = {t: reference.dense(reference.under(f"{t}/dense", p), x, 0).reshape(-1, *shape) for t in "ab"}
        return reference.LAYERS[name](p, *(found[t] for t in order), **arguments)

    check_against_torch(reference, model, batch, forward, steps=2)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("a + 2", lambda a: a + 2),
        ("2 - a", lambda a: 2 - a),
        ("a * 3 - 1", lambda a: a * 3 - 1),
        ("a / 4", lambda a: a / 4),
        ("1 / a", lambda a: 1 / a),
        ("-a", lambda a: -a),
        ("a - 2 * a", lambda a: -a),
    ],
)
def test_arithmetic_with_constants(written: str, value: Any, reference: ModuleType) -> None:
    model, batch = made(f"  a = x -> dense(4)\n  return output = {written}")
    model.parameters["a/dense/bias"][...] = 5.0
    check_against_torch(
        reference, model, batch, lambda p, x, training: value(reference.dense(reference.under("a/dense", p), x, 4))
    )


def check_against_torch(
    reference: ModuleType, model: Any, batch: dict[str, Any], forward: Any, loss: Any = None, steps: int = 5
) -> None:
    """Outputs, loss, gradients, and parameters and running statistics after each of five steps of gradient descent."""
    x, y = reference.tensor(batch["x"]), reference.tensor(batch["y"])
    loss = loss or reference.LOSSES["mse"]
    p = reference.tensors(model.parameters)

    def compare(found: Any, wanted: Any, what: str, tolerance: float = 1e-9) -> None:
        wanted = wanted.detach().numpy()
        np.testing.assert_allclose(
            found, wanted, rtol=tolerance, atol=tolerance * max(1e-3, np.abs(wanted).max()), err_msg=what
        )

    compare(next(iter(model.predict(batch).values())), forward(p, x, False), "output")
    compare(model.loss(batch), loss(forward(p, x, False), y), "loss")
    for step in range(steps):
        wanted = loss(forward(p, x, True), y)
        wanted.backward()
        objective, gradients = model.gradients(batch)
        compare(objective, wanted, "objective")
        largest = max(float(t.grad.abs().max()) for t in p.values() if t.grad is not None)
        for name, tensor in p.items():
            if tensor.requires_grad:
                np.testing.assert_allclose(
                    gradients[name], tensor.grad.numpy(), rtol=1e-9, atol=1e-10 * largest, err_msg=f"gradient {name}"
                )
        assert model.step(batch) == objective
        for name, tensor in p.items():
            if tensor.requires_grad:
                tensor.data -= 0.01 * tensor.grad
                tensor.grad = None
            compare(model.parameters[name], tensor, f"{name} after step {step + 1}", 1e-8)


# Second derivatives: what newton and hessian_free multiply with


def product(model: Any, batch: dict[str, Any], direction: Any) -> Any:
    """The Hessian of the objective times a direction in the flat array of all parameters."""
    graph = model.program.product(model._targets, model.samples)
    return Executor(graph, dict(model.variables) | {"direction": direction}, model.randomness, Arena()).run(batch)["product"].copy()


def check_product(model: Any, batch: dict[str, Any], tolerance: float = 1e-6) -> None:
    """Against central differences of gradients along random directions, which the tests above hold to torch's."""
    random = np.random.default_rng(0)
    (bundle,) = model.program.bundles
    flat = model.variables[bundle.name]

    def gradient() -> Any:
        slopes = model.gradients(batch)[1]
        return np.concatenate([slopes[p.name].ravel() for p in bundle.parameters])

    for _ in range(2):
        direction, kept = random.normal(size=bundle.size), flat.copy()
        sides = []
        for step in (1e-5, -1e-5):
            flat[...] = kept + step * direction
            sides.append(gradient())
        flat[...] = kept
        slope = (sides[0] - sides[1]) / 2e-5
        found = product(model, batch, direction)
        assert np.abs(slope).max() > 1e-6
        np.testing.assert_allclose(found, slope, rtol=0, atol=tolerance * np.abs(slope).max())


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: str(v).replace(" ", ""))
def test_the_second_derivative_is_that_of_differences_of_gradients(layer: Word, shape: tuple[int, ...]) -> None:
    check_product(*made(around(layer, shape)))


@pytest.mark.parametrize(
    ("body", "loss"),
    [
        ("x -> dense(18) -> reshape([2, 3, 3]) -> conv2d(3, kernel=2) -> tanh -> max_pool(2) -> flatten -> dense(2) -> softmax", "cross_entropy"),
        ("x -> dense(12) -> reshape([3, 2, 2]) -> batch_norm -> mish -> conv2d_transpose(2, kernel=2) -> global_avg_pool", "mse"),
        ("x -> dense(6) -> reshape([3, 2]) -> lstm(3, bidirectional=true) -> dense(2)", "log_cosh"),
        ("x -> dense(6) -> reshape([3, 2]) -> gru(2, return_sequences=true) -> attention(heads=2) -> flatten -> dense(1) -> sigmoid", "binary_cross_entropy"),
        ("x -> dense(6) -> dropout(0.3) -> gaussian_noise -> maxout(3) -> layer_norm -> gelu -> dense(2) -> softmax", "kl_divergence"),
    ],
)
def test_networks_have_second_derivatives(body: str, loss: str) -> None:
    program = nnc.compile(spec(f"  return output = {body}", loss=f"{loss}(output, y)"))
    random = np.random.default_rng(0)
    for seed in range(20):
        model = program.init(seed)
        spread(model, seed)
        x = random.normal(size=(5, 3))
        y = model.predict({"x": random.normal(size=(5, 3))})["output"]
        batch = {"x": x, "y": y.argmax(1) if loss == "cross_entropy" else y}
        if kink_margin(model, batch) > 1e-3:
            return check_product(model, batch)
    raise AssertionError("every batch lies at a kink")


@pytest.mark.parametrize(("layer", "shape"), RECURRENT, ids=lambda v: str(v).replace(" ", ""))
def test_the_primitive_of_inference_is_what_training_computes(layer: Word, shape: tuple[int, ...]) -> None:
    model, batch = made(around(layer, shape), n=9)
    operators = {v.op for v in model.program.inference_graph.order()}, {v.op for v in model.program.gradients(model._targets).order()}
    assert ["recurrent" in found for found in operators] == [True, False]
    assert model.loss(batch) == pytest.approx(model.gradients(batch)[0], rel=1e-14)


# Step: the slope is not the value's, so differences cannot judge it


@pytest.mark.parametrize("surrogate", ["identity", "sigmoid"])
def test_step_trains_through_its_surrogate(surrogate: str, reference: ModuleType) -> None:
    model, batch = made(f"  a = x -> dense(4)\n  return output = a -> step(surrogate={surrogate}) -> dense(2)")

    def forward(p: dict[str, Any], x: Any, training: bool) -> Any:
        a = reference.LAYERS["step"](p, reference.dense(reference.under("a/dense", p), x, 4), surrogate)
        return reference.dense(reference.under("output/dense", p), a, 2)

    check_against_torch(reference, model, batch, forward)


def test_step_takes_the_given_value_at_zero() -> None:
    steps = "a = x -> step, b = x -> step(at_zero=0.5), c = x -> step(surrogate=sigmoid, at_zero=1)"
    text = f"network(x: float32[4]) {{ return {steps} }}"
    found = nnc.compile(text).init(0).predict({"x": np.array([[-2.0, -0.0, 0.0, 1e-30]])})
    np.testing.assert_array_equal(found["a"], [[0, 0, 0, 1]])
    np.testing.assert_array_equal(found["b"], [[0, 0.5, 0.5, 1]])
    np.testing.assert_array_equal(found["c"], [[0, 1, 1, 1]])


def test_training_through_a_bare_step_is_refused() -> None:
    with pytest.raises(nnc.SpecError, match="E505"):
        nnc.compile(spec("  return output = x -> dense(2) -> step -> dense(1)"))


# Dropout. With the identity matrix as the batch, row i of the weight's gradient belongs to sample i: it shows the mask.


def masked_model(call: str, units: int = 300, rows: int = 40, seed: int = 5) -> tuple[Any, dict[str, Any]]:
    body = f"  return output = x -> dense({units}, bias=false, init=constant(1.0)) -> {call}"
    model = nnc.compile(spec(body, inputs=f"x: float32[{rows}]", loss="quadratic(output, y)")).init(seed)
    return model, {"x": np.eye(rows), "y": np.full((rows, units), -1.0)}


def mask_of(model: Any, batch: dict[str, Any]) -> Any:
    _, gradients = model.gradients(batch)
    return gradients["output/dense/weight"] != 0


@pytest.mark.parametrize(
    ("call", "keep"), [("dropout(0.3)", 0.7), ("dropout(keep=0.9)", 0.9), ("dropout(0.5, scaling=inference)", 0.5)]
)
def test_dropout_keeps_its_share(call: str, keep: float) -> None:
    mask = mask_of(*masked_model(call))
    spread = np.sqrt(keep * (1 - keep) / mask.size)
    assert abs(mask.mean() - keep) < 4 * spread
    by_row = mask.mean(1)  # as independent as a binomial's
    assert 0.7 < by_row.std() / np.sqrt(keep * (1 - keep) / mask.shape[1]) < 1.3


@pytest.mark.parametrize(("scaling", "trained", "inferred"), [("inverted", 1 / 0.6, 1.0), ("inference", 1.0, 0.6)])
def test_dropout_scales_what_it_keeps(scaling: str, trained: float, inferred: float) -> None:
    model, batch = masked_model(f"dropout(0.4, scaling={scaling})")
    rows = len(batch["x"])
    mask = mask_of(model, batch)
    objective, gradients = model.gradients(batch)
    kept = mask * trained
    # quadratic: 1/2 sum (a + 1)^2 over outputs, mean over rows; a = 1 kept and scaled, else 0
    assert objective == pytest.approx(0.5 * ((kept + 1) ** 2).sum() / rows)
    np.testing.assert_allclose(gradients["output/dense/weight"], (kept + 1) * kept / rows)
    np.testing.assert_allclose(model.predict(batch)["output"], inferred)
    assert model.loss(batch) == pytest.approx(0.5 * (inferred + 1) ** 2 * mask.shape[1])


def test_a_mask_repeats_for_the_same_seed_layer_and_step_and_else_differs() -> None:
    model, batch = masked_model("dropout(0.5)")
    first = mask_of(model, batch)
    np.testing.assert_array_equal(mask_of(model, batch), first)
    np.testing.assert_array_equal(mask_of(*masked_model("dropout(0.5)")), first)
    assert (mask_of(*masked_model("dropout(0.5)", seed=6)) != first).mean() > 0.4
    model.step(batch)
    assert (mask_of(model, batch) != first).mean() > 0.4


def test_two_dropouts_draw_apart() -> None:
    body = "  a = x -> dense(300, bias=false, init=constant(1.0))\n"
    body += "  return output = concat(a -> dropout(0.5), a -> dropout(0.5))"
    model = nnc.compile(spec(body, inputs="x: float32[4]", loss="quadratic(output, y)")).init(1)
    y = np.concatenate([np.full((4, 300), -1.0), np.full((4, 300), -9.0)], 1)  # both, one or the other, neither
    _, gradients = model.gradients({"x": np.eye(4), "y": y})
    values, counts = np.unique(gradients["a/dense/weight"].round(9), return_counts=True)
    assert len(values) == 4
    assert (counts > 200).all()


def test_dropout_by_finite_differences() -> None:
    check_gradients(*made("  return output = x -> dense(6) -> tanh -> dropout(0.4) -> dense(2)"))


def test_dropout_of_nothing_is_nothing() -> None:
    model, batch = made("  return output = x -> dense(6) -> dropout(0.0)")
    assert model.gradients(batch)[0] == pytest.approx(model.loss(batch), rel=1e-14)


# Noise


def test_spatial_dropout_drops_whole_channels() -> None:
    """Under `quadratic` with the target -1, an element's bias has the gradient 0 where the channel is dropped."""
    body = "  return output = x -> dense(1200, bias=false, init=constant(1.0)) -> reshape([30, 5, 8]) -> spatial_dropout(0.4)"
    model = nnc.compile(spec(body, inputs="x: float32[20]", loss="quadratic(output, y)")).init(5)
    batch = {"x": np.eye(20), "y": np.full((20, 30, 5, 8), -1.0)}
    slopes = model.gradients(batch)[1]["output/dense/weight"].reshape(20, 30, 40) * 20
    assert ((slopes == slopes[..., :1]).all(-1)).all()
    kept = slopes[..., 0] != 0
    np.testing.assert_allclose(slopes[..., 0][kept], (1 / 0.6 + 1) / 0.6)
    assert abs(kept.mean() - 0.6) < 4 * np.sqrt(0.6 * 0.4 / kept.size)
    np.testing.assert_array_equal(model.predict(batch)["output"], 1)


def test_spatial_dropout_of_sequences_drops_features() -> None:
    body = "  return output = x -> dense(60, bias=false, init=constant(1.0)) -> reshape([3, 20]) -> spatial_dropout"
    model = nnc.compile(spec(body, inputs="x: float32[20]", loss="quadratic(output, y)")).init(5)
    slopes = model.gradients({"x": np.eye(20), "y": np.full((20, 3, 20), -1.0)})[1]["output/dense/weight"].reshape(20, 3, 20)
    assert (slopes == slopes[:, :1]).all()
    assert 0.4 < (slopes != 0).mean() < 0.6


def noise_of(std: float, seed: int = 0, steps: int = 0) -> Any:
    """The noise: under `quadratic` it is what the weight's gradient exceeds the weight by, for the identity as the batch."""
    text = spec(f"  return output = x -> dense(400, bias=false) -> gaussian_noise({std})", inputs="x: float32[25]", loss="quadratic(output, y)")
    model = nnc.compile(text).init(seed)
    batch = {"x": np.eye(25), "y": np.zeros((25, 400))}
    for _ in range(steps):
        model.step(batch)
    weight = model.parameters["output/dense/weight"].copy()
    np.testing.assert_allclose(model.predict(batch)["output"], weight)
    return model.gradients(batch)[1]["output/dense/weight"] * 25 - weight


def test_gaussian_noise_is_normal_and_absent_from_inference() -> None:
    noise = noise_of(0.3)
    assert abs(noise.mean()) < 4 * 0.3 / 100
    assert noise.std() == pytest.approx(0.3, rel=0.03)
    assert (np.abs(noise) > 0.6).mean() == pytest.approx(0.0455, rel=0.2)
    np.testing.assert_array_equal(noise_of(0.3), noise)
    for other in (noise_of(0.3, seed=1), noise_of(0.3, steps=1)):
        assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.05


def test_networks_with_noise_by_finite_differences() -> None:
    check_gradients(*made("  return output = x -> dense(6) -> tanh -> gaussian_noise(0.4) -> dense(2)"))
    check_gradients(*made("  return output = x -> dense(8) -> reshape([2, 2, 2]) -> spatial_dropout(0.4) -> flatten -> dense(2)"))


# Embedding and split


@pytest.mark.parametrize(("shape", "after"), [((), "dense(2)"), ((4,), "flatten -> dense(2)"), ((4,), "lstm(3)"), ((2, 3), "flatten -> dense(2)")])
def test_an_embedding_is_torchs(shape: tuple[int, ...], after: str, reference: ModuleType) -> None:
    """Rows that occur several times, and rows that do not occur."""
    import torch

    declared = f"x: int64[{', '.join(map(str, shape))}]" if shape else "x: int64"
    model = nnc.compile(spec(f"  return output = x -> embedding(7, 3) -> {after}", inputs=declared)).init(0)
    spread(model, 0)
    random = np.random.default_rng(1)
    x = random.integers(0, 6, (5, *shape))
    batch = {"x": x, "y": random.normal(size=model.predict({"x": x})["output"].shape)}
    check_gradients(model, batch)

    def forward(p: dict[str, Any], x: Any, training: bool) -> Any:
        rows = torch.nn.functional.embedding(x, p["output/embedding/weight"])
        if after == "lstm(3)":
            return reference.LAYERS["lstm"](reference.under("output/lstm", p), rows, units=3)
        return reference.dense(reference.under("output/dense", p), rows.flatten(1), 2)

    check_against_torch(reference, model, batch, forward)
    assert not model.gradients(batch)[1]["output/embedding/weight"][6].any()


@pytest.mark.parametrize("wrong", [-1, 7, 2**40])
def test_an_index_without_a_row_is_refused(wrong: int) -> None:
    model = nnc.compile(spec("  return output = x -> embedding(7, 3) -> flatten -> dense(1)", inputs="x: int64[2]")).init(0)
    batch = {"x": np.array([[0, 6], [1, wrong]]), "y": np.zeros((2, 1))}
    for use in (model.predict, model.loss, model.gradients, model.step):
        with pytest.raises(nnc.SpecError, match="E515"):
            use(batch)


@pytest.mark.parametrize(
    ("shape", "written", "axis", "sizes"),
    [
        ((6,), "split(2)", 1, [3, 3]),
        ((5,), "split([1, 3, 1])", 1, [1, 3, 1]),
        ((2, 4), "split(2)", 2, [2, 2]),
        ((4, 3), "split([1, 3], axis=0)", 1, [1, 3]),
        ((2, 3, 4), "split(3, axis=-2)", 2, [1, 1, 1]),
    ],
)
def test_a_split_is_torchs(shape: tuple[int, ...], written: str, axis: int, sizes: list[int], reference: ModuleType) -> None:
    """Each part enters the output another number of times, and the first one twice."""
    parts = [f"p{i}" for i in range(len(sizes))]
    body = f"  a = x -> dense({np.prod(shape)}) -> reshape([{', '.join(map(str, shape))}])\n  {', '.join(parts)} = a -> {written}\n"
    flat = ", ".join(f"{p} -> flatten" for p in [*parts, parts[0]])
    model, batch = made(f"{body}  return output = concat({flat}) -> tanh")
    check_gradients(model, batch)

    def forward(p: dict[str, Any], x: Any, training: bool) -> Any:
        a = reference.dense(reference.under("a/dense", p), x, 0).reshape(-1, *shape)
        found = a.split(sizes, axis)
        import torch

        return torch.cat([part.flatten(1) for part in (*found, found[0])], 1).tanh()

    check_against_torch(reference, model, batch, forward, steps=2)


# Batch normalisation: its state


def test_running_statistics_follow_the_biased_variance() -> None:
    body = "  return output = x -> batch_norm(momentum=0.75)"
    model = nnc.compile(spec(body)).init(0)
    random = np.random.default_rng(0)
    mean, var = np.zeros(3), np.ones(3)
    for n in (5, 3, 8):
        x = random.normal(2, 3, (n, 3))
        model.step({"x": x, "y": x})
        mean, var = 0.75 * mean + 0.25 * x.mean(0), 0.75 * var + 0.25 * x.var(0)
        np.testing.assert_allclose(model.parameters["output/batch_norm/running_mean"], mean, rtol=1e-12)
        np.testing.assert_allclose(model.parameters["output/batch_norm/running_var"], var, rtol=1e-12)


def test_gradients_change_no_state() -> None:
    model, batch = made("  return output = x -> dense(4) -> batch_norm -> dropout(0.5)", optimizer="adam")
    before = {name: array.copy() for name, array in model.state().items()}
    for _ in range(3):
        model.gradients(batch)
        model.loss(batch)
        model.predict(batch)
    assert all((before[name] == array).all() for name, array in model.state().items())
    assert model.step_count == 0


def test_a_frozen_norm_uses_and_keeps_its_running_statistics() -> None:
    body = "  stem = x -> dense(4) -> batch_norm\n  return output = stem -> dense(2)"
    model, batch = made(body, groups="[group(stem, frozen=true)]")
    assert model.gradients(batch)[0] == pytest.approx(model.loss(batch), rel=1e-13)
    before = {name: array.copy() for name, array in model.parameters.items()}
    for _ in range(3):
        model.step(batch)
    changed = {name for name, array in model.parameters.items() if (array != before[name]).any()}
    assert changed == {"output/dense/weight", "output/dense/bias"}


def test_a_groups_rate_multiplies_the_learning_rate() -> None:
    body = "  stem = x -> dense(4) -> tanh\n  return output = stem -> dense(2)"
    model, batch = made(body, groups="[group(stem, rate=0.25)]")
    before = {name: array.copy() for name, array in model.parameters.items()}
    _, gradients = model.gradients(batch)
    model.step(batch)
    for name, array in model.parameters.items():
        rate = 0.0025 if name.startswith("stem") else 0.01
        np.testing.assert_allclose(before[name] - array, rate * gradients[name], rtol=1e-9, atol=1e-15)


# Shared weights


def test_a_shared_block_sums_the_gradients_of_its_uses(reference: ModuleType) -> None:
    block = "shared block twin(v) { return v -> dense(3) -> tanh }\n"
    body = "  a = x -> twin\n  return output = a -> twin -> dense(2)"
    model = nnc.compile(block + spec(body)).init(2)
    spread(model, 2)
    random = np.random.default_rng(2)
    batch = {"x": random.normal(size=(4, 3)), "y": random.normal(size=(4, 2))}
    assert [name for name in model.parameters if "twin" in name] == [
        "twin/output/dense/weight",
        "twin/output/dense/bias",
    ]
    check_gradients(model, batch)

    def forward(p: dict[str, Any], x: Any, training: bool) -> Any:
        for _ in range(2):
            x = reference.dense(reference.under("twin/output/dense", p), x, 3).tanh()
        return reference.dense(reference.under("output/dense", p), x, 2)

    check_against_torch(reference, model, batch, forward)


def test_a_shared_norm_moves_its_running_statistics_at_every_use() -> None:
    block = "shared block norm(v) { return v -> batch_norm(momentum=0.5) }\n"
    model = nnc.compile(block + spec("  a = x * 3 + 1 -> norm\n  return output = a + (x -> norm)")).init(0)
    x = np.random.default_rng(0).normal(size=(6, 3))
    model.step({"x": x, "y": x})
    wanted = 0.5 * (0.5 * 1 + 0.5 * (3 * x + 1).var(0)) + 0.5 * x.var(0)
    np.testing.assert_allclose(model.parameters["norm/output/batch_norm/running_var"], wanted, rtol=1e-12)


def test_copies_of_a_block_have_weights_of_their_own() -> None:
    block = "block layer(v) { return v -> dense(3) -> tanh }\n"
    model = nnc.compile(block + spec("  return output = x -> repeat(3, layer)")).init(0)
    assert [n for n in model.parameters if n.endswith("weight")] == [
        f"output/{layer}/output/dense/weight" for layer in ("layer", "layer_2", "layer_3")
    ]
    weights = [model.parameters[n] for n in model.parameters if n.endswith("weight")]
    assert not np.allclose(weights[0], weights[1])


# Penalties


PENALTIES = [
    word("l1", strength=0.03),
    word("l1", strength=0.03, scale=0.5),
    word("l2", strength=0.2),
    word("l2", strength=0.2, scale=0.25),
    word("lm", strength=0.1, m=3.0),
    word("lm", strength=0.1, m=1.5, scale=0.5),
    word("lm", strength=0.1, m=1.0),
]


def norms(penalty: Word, weight: Any, samples: float = 1) -> Any:
    """lambda sum |w| and lambda/2 sum w^2, and their slopes."""
    factor = penalty.arguments["strength"] * penalty.arguments.get("scale", 1.0) / samples
    if penalty.word == "lm":
        m = penalty.arguments["m"]
        return factor / m * np.linalg.norm(weight.ravel(), m) ** m, factor * np.sign(weight) * np.abs(weight) ** (m - 1)
    if penalty.word == "l1":
        return factor * np.abs(weight).sum(), factor * np.sign(weight)
    return factor / 2 * np.linalg.norm(weight) ** 2, factor * weight


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_a_penalty_is_added_to_the_objective_and_to_weights_alone(penalty: Word) -> None:
    body = "  return output = x -> dense(4) -> batch_norm -> tanh -> dense(2)"
    plain, batch = made(body)
    model = nnc.compile(spec(body, penalty=str(penalty))).init(0)
    model.parameters.update(plain.parameters)
    (without, plain_slopes), (objective, slopes) = plain.gradients(batch), model.gradients(batch)
    weights = [name for name in model.parameters if name.endswith("weight")]
    assert objective - without == pytest.approx(sum(norms(penalty, model.parameters[name])[0] for name in weights))
    for name in model.parameters:
        more = norms(penalty, model.parameters[name])[1] if name in weights else 0
        np.testing.assert_allclose(slopes[name], plain_slopes[name] + more, rtol=1e-12, atol=1e-15, err_msg=name)
    assert model.loss(batch) == pytest.approx(plain.loss(batch), rel=1e-15)
    check_gradients(model, batch)


def test_penalties_add_up_and_a_layers_own_replaces_them() -> None:
    body = "  a = x -> dense(4, penalty=l1(0.3))\n  b = a -> dense(4, penalty=0.5 * l2(1) + l1(0.1))\n"
    body += "  return output = b -> dense(2)"
    model, batch = made(body, penalty="l2(0.2) + 2 * l1(0.01)")
    plain = nnc.compile(spec("  a = x -> dense(4)\n  b = a -> dense(4)\n  return output = b -> dense(2)")).init(0)
    plain.parameters.update(model.parameters)
    a, b, c = (np.abs(model.parameters[f"{n}/dense/weight"]) for n in ("a", "b", "output"))
    wanted = 0.3 * a.sum() + 0.25 * (b**2).sum() + 0.1 * b.sum() + 0.1 * (c**2).sum() + 0.02 * c.sum()
    assert model.gradients(batch)[0] - plain.gradients(batch)[0] == pytest.approx(wanted)


def test_embeddings_and_attention_have_penalties_of_their_own() -> None:
    body = "  e = x -> embedding(7, 4OWN)\n  a = e -> attention(2OWN)\n  return output = a -> lstm(2OWN) -> dense(2OWN)"

    def model(own: str, **keys: str) -> Any:
        return nnc.compile(spec(body.replace("OWN", own), inputs="x: int64[3]", **keys)).init(0)

    held, free, plain = model("", penalty="l2(0.3)"), model(", penalty=l2(0)", penalty="l2(0.3)"), model("")
    batch = {"x": np.array([[0, 6, 2]]), "y": np.zeros((1, 2))}
    of_all, of_none, without = (m.gradients(batch)[0] for m in (held, free, plain))
    weights = [array for name, array in held.parameters.items() if name.endswith(("weight", "/W", "/R"))]
    assert len(weights) == 1 + 4 + 2 + 1
    assert of_all - without == pytest.approx(0.15 * sum(np.sum(w**2) for w in weights))
    assert of_none == pytest.approx(without)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_a_penalty_may_be_divided_by_the_number_of_samples(name: str) -> None:
    data = "data {\n  source = table(u=[1, 2, 3, 4, 5], v=[2, 1, 4, 3, 9])\n  x = column(u)\n  y = column(v)\n}\n"
    body = "  return output = x -> dense(1)"
    texts = [
        data + spec(body, inputs="x: float32[1]", penalty=p) for p in (f"{name}(0.6, scale=1/samples)", f"{name}(0.12)")
    ]
    models = [nnc.compile(text).init(1) for text in texts]
    models[0].samples = 5
    batch = {"x": np.ones((2, 1)), "y": np.zeros((2, 1))}
    assert models[0].gradients(batch)[0] == pytest.approx(models[1].gradients(batch)[0], rel=1e-14)
    assert models[0].gradients(batch)[0] > models[0].loss(batch)


# A step does what its parts say, again and again


@pytest.mark.parametrize("optimizer", ["momentum(lr=0.1)", "adam(lr=0.01)"])
def test_runs_repeat_bit_for_bit(optimizer: str) -> None:
    body = "  h = x -> dense(12) -> reshape([3, 2, 2]) -> conv2d(4, kernel=2, padding=same) -> batch_norm\n"
    body += "  return output = h -> relu -> dropout(0.3) -> flatten -> dense(2)"
    text = spec(body, optimizer=optimizer, clip="global_norm(1.0)")
    random = np.random.default_rng(4)
    batches = [{"x": random.normal(size=(n, 3)), "y": random.normal(size=(n, 2))} for n in (6, 6, 2, 6)]

    def trained() -> dict[str, Any]:
        model = nnc.compile(text).init(9)
        losses = [model.step(batch) for batch in batches]
        return dict(model.state()) | {"losses": np.array(losses)}

    first, second = trained(), trained()
    assert all((first[name] == second[name]).all() for name in first)
    other = nnc.compile(text).init(10)
    assert any((other.parameters[name] != first[name]).any() for name in other.parameters)


def test_large_pre_activations_stay_finite() -> None:
    z = np.array([[-1e4, -745.0, -30.0, 0.0, 30.0, 710.0, 1e4]])
    words = ["sigmoid", "tanh", "relu", "elu", "swish", "softmax"]
    text = f"network(z: float32[7]) {{ return {', '.join(f'{w}_ = z -> {w}' for w in words)} }}"
    found = nnc.compile(text).init(0).predict({"z": z})
    assert all(np.isfinite(array).all() for array in found.values())
    np.testing.assert_allclose(found["sigmoid_"][0, [0, 3, 6]], [0, 0.5, 1])
    np.testing.assert_allclose(found["softmax_"].sum(), 1)
