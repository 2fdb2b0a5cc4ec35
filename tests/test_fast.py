"""The fast engine computes what NumPy's does: loops made of steps of real plans, and their functions at the edges."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="the fast engine's numba is not installed")

from drawing import network
from networks import spec, spread
from runs import TINY

import nnc
import nnc.compiler.pipeline  # fills the table of primitives
from nnc.compiler.ir import Batch, Graph, TensorType, Value, apply
from nnc.compiler.plan import plan
from nnc.runtime import loops, machine_code
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.kernels import Randomness
from nnc.runtime.team import Team

IMAGES = """
  h = x -> dense(48) -> reshape([3, 4, 4]) -> conv2d(4, kernel=3, padding=same, bias=false) -> batch_norm -> relu -> max_pool(2)
  g = h -> conv2d(4, kernel=2, padding=same) -> swish -> dropout(0.2) -> avg_pool(2, padding=1)
  return output = concat(h -> flatten, g -> flatten) -> dense(3) -> softmax
"""
BODIES = {
    "images": (IMAGES, "cross_entropy(output, y, smoothing=0.1)"),
    "dense": (
        "  return output = x -> dense(64, bias=false) -> batch_norm -> tanh -> dense(32) -> elu -> layer_norm -> dense(3) -> softmax",
        "cross_entropy(output, y)",
    ),
    "recurrent": ("  return output = x -> dense(12) -> reshape([4, 3]) -> gru(5) -> dense(3) -> softmax", "cross_entropy(output, y)"),
}
OPTIMISERS = ("adam(weight_decay=0.1)", "rmsprop(lr=0.01, centered=true, momentum=0.5)", "nesterov(lr=0.01)", "sgd(lr=0.1)")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNC_CACHE", str(tmp_path_factory.mktemp("loops")))
        yield


def trained(text: str, batch: dict[str, Any], engine: str, monkeypatch: pytest.MonkeyPatch, steps: int = 4) -> tuple[list[float], dict[str, Any], int]:
    monkeypatch.setenv("NNC_ENGINE", engine)
    model = nnc.compile(text).init(1)
    spread(model, 1)
    losses = [model.step(batch) for _ in range(steps)]
    program = model._executors["step"].at(len(batch["x"]))
    return losses, {k: v.copy() for k, v in model.state().items()}, len(program.forward_steps) + len(program.update_steps)


@pytest.mark.parametrize("n", [5, 300])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 3e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("name", BODIES)
def test_a_training_is_the_same_on_both_engines(name: str, precision: str, tolerance: float, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    body, loss = BODIES[name]
    optimizer = OPTIMISERS[(list(BODIES).index(name) + (precision == "float64")) % len(OPTIMISERS)]
    text = spec(body, loss=loss, optimizer=optimizer, precision=precision, clip="global_norm(0.5)", penalty="l2(0.01)")
    random = np.random.default_rng(0)
    batch = {"x": random.normal(size=(n, 3)), "y": random.integers(0, 3, n)}
    plain, state, calls = trained(text, batch, "numpy", monkeypatch)
    found, reached, fewer = trained(text, batch, "fast", monkeypatch)
    np.testing.assert_allclose(found, plain, rtol=tolerance)
    for key, array in state.items():
        np.testing.assert_allclose(reached[key], array, rtol=30 * tolerance, atol=30 * tolerance, err_msg=key)
    assert fewer < calls


@pytest.mark.parametrize("tail", ["max_pool(2) -> flatten -> dense(3)", "flatten -> dense(3)", "global_avg_pool -> dense(3)"])
def test_a_gradient_that_lies_otherwise_than_its_image_does_not_part_the_program(tail: str, three: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes back through a flatten has its channels first, and what comes back from a mean is the same for all places."""
    text = spec(f"  return output = x -> dense(96) -> reshape([3, 4, 8]) -> conv2d(5, kernel=3, padding=same) -> relu -> {tail} -> softmax",
                loss="cross_entropy(output, y)", optimizer="sgd(lr=0.1)", precision="float32")  # fmt: skip
    random = np.random.default_rng(0)
    batch = {"x": random.normal(size=(9, 3)), "y": random.integers(0, 3, 9)}
    plain, state, _ = trained(text, batch, "numpy", monkeypatch)
    found, reached, calls = trained(text, batch, "fast", monkeypatch)
    assert calls == 2
    np.testing.assert_allclose(found, plain, rtol=1e-6)
    for key, array in state.items():
        np.testing.assert_allclose(reached[key], array, rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("seed", range(400, 406))
def test_gradients_of_random_networks_are_the_same(seed: int) -> None:
    """Every elementwise primitive that a network has, in whatever order, over memory that the plan reuses."""
    _, model, batch = network(seed)
    spread(model, seed)
    model.gradients(batch)
    graph = model._executors["gradients"].graph
    plain = {k: v.copy() for k, v in Executor(graph, model.known, Randomness(3), Arena()).run(batch).items()}
    found = Executor(graph, model.known, Randomness(3), Arena(), fast=True).run(batch)
    for key, array in plain.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-9, atol=1e-12, err_msg=key)


def gradients(text: str, shape: tuple[int, ...], precision: str, *, fast: bool) -> dict[str, Any]:
    """Value and gradients of a network with an input x, an output y and a target t, at 27 samples."""
    model = nnc.compile(text.replace("PRECISION", precision)).init(0)
    spread(model, 0)
    for array in model.parameters.values():
        array[...] = array.astype(np.float32)
    x = np.random.default_rng(1).normal(size=(27, *shape)).astype(np.float32)
    batch = {"x": x, "t": np.zeros((27, *model.program.inference.outputs["y"].shape[1:]))}
    model.gradients(batch)
    executor = Executor(model._executors["gradients"].graph, model.known, Randomness(0), Arena(), fast=fast)
    found = {k: v.copy() for k, v in executor.run(batch).items()}
    if fast and precision == "float32":
        left = {kernel.__module__ for kernel, _ in executor.at(27).forward_steps if hasattr(kernel, "__module__")}
        assert not left & {"nnc.runtime.convolution", "nnc.runtime.pooling"}, "a step that is not compiled"
    return found


def is_numpys(layers: str, shape: tuple[int, ...], precision: str = "float32", bound: float = 2e-6) -> None:
    """Against the same network in float64 on NumPy's engine. The gradient of a bias adds up what cancels: NumPy's own float32 leaves 1e-6 there."""
    text = (
        f"network(x: float32[{', '.join(map(str, shape))}]) {{ return y = x -> {layers} }}\n"
        "train { loss = quadratic(y, t)  optimizer = sgd(lr=0.1)  batch = 4  epochs = 1  precision = PRECISION }"
    )
    found = gradients(text, shape, precision, fast=True)
    for key, exact in gradients(text, shape, "float64", fast=False).items():
        np.testing.assert_allclose(found[key], exact, rtol=0, atol=bound * np.abs(exact).max(), err_msg=key)


@pytest.mark.parametrize("padding", ["valid", "same", "2", "[0, 1]"])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (3, 40), (150, 4)])
@pytest.mark.parametrize("channels", [(8, 8), (16, 24), (8, 64)])
def test_winograds_convolution_is_the_convolution(channels: tuple[int, int], size: tuple[int, int], padding: str) -> None:
    """Several tiles and lanes, the last ones not full."""
    is_numpys(f"conv2d({channels[1]}, kernel=3, padding={padding}) -> conv2d(8, kernel=[1, 1])", (channels[0], *size))


@pytest.mark.parametrize(
    "window",
    ["3", "5, padding=same", "[1, 3], padding=1", "2, stride=2", "3, stride=[2, 1], padding=2", "[4, 3], stride=3", "3, dilation=2, padding=same",
     "[2, 3], dilation=[1, 3], stride=2, padding=[2, 1]", "3, groups=2", "2, groups=2, stride=2, padding=1", "5, padding=4", "9, padding=4"],
)  # fmt: skip
@pytest.mark.parametrize("channels", [(4, 6), (6, 34)])
def test_convolutions_of_any_window_are_numpys(window: str, channels: tuple[int, int], three: Team) -> None:
    first, second = channels
    is_numpys(f"conv2d({first}, kernel=1) -> conv2d({second}, kernel={window})", (1, 9, 11))


@pytest.mark.parametrize(
    "window",
    ["3, padding=same", "[1, 3]", "5, padding=4", "3, stride=2, padding=1", "2, stride=[3, 2]", "3, dilation=2, padding=same", "1, stride=2", "3, padding=5",
     "[2, 3], dilation=[1, 3], stride=2, padding=[2, 1]", "3, dilation=2, stride=2, padding=2", "[3, 4], dilation=[2, 3], stride=[4, 2], padding=3",
     "7, dilation=2, padding=6"],
)  # fmt: skip
@pytest.mark.parametrize(("channels", "out"), [(2, 2), (16, 16), (37, 37), (5, 10), (18, 54)])
def test_depthwise_convolutions_are_numpys(window: str, channels: int, out: int, three: Team) -> None:
    """Of channels that fill no vector, one, and several and a part; of several windows a channel."""
    is_numpys(f"conv2d({channels}, kernel=1) -> conv2d({out}, kernel={window}, groups={channels})", (2, 9, 13))


@pytest.mark.parametrize("size", [(1, 1), (40, 3), (3, 700)])
def test_depthwise_convolutions_of_narrow_and_wide_images_are_numpys(size: tuple[int, int], three: Team) -> None:
    is_numpys("conv2d(17, kernel=3, padding=same, groups=17) -> conv2d(17, kernel=3, stride=2, padding=1, groups=17, bias=false)", (17, *size))


@pytest.mark.parametrize("n", [1, 8])
def test_a_depthwise_convolution_of_given_images_repeats_bit_for_bit(n: int, three: Team) -> None:
    """Of images that lie with their channels first; float64 has the same numbers."""
    found = {}
    for precision in ("float32", "float64"):
        model = nnc.compile(
            "network(x: float32[20, 10, 9]) { return y = x -> conv2d(40, kernel=3, groups=20) }\n"
            f"train {{ loss = quadratic(y, t)  optimizer = sgd(lr=0.1)  batch = 4  epochs = 1  precision = {precision} }}"
        ).init(0)
        batch = {"x": np.random.default_rng(n).normal(size=(n, 20, 10, 9)).astype(np.float32), "t": np.zeros((n, 40, 8, 7))}
        model.gradients(batch)
        executor = Executor(model._executors["gradients"].graph, model.known, Randomness(0), Arena(), fast=True)
        first, second = ({k: v.copy() for k, v in executor.run(batch).items()} for _ in range(2))
        for key, array in first.items():
            np.testing.assert_array_equal(second[key], array, err_msg=key)
        found[precision] = first
    for key, exact in found["float64"].items():
        np.testing.assert_allclose(found["float32"][key], exact, rtol=0, atol=2e-6 * np.abs(exact).max(), err_msg=key)


@pytest.mark.parametrize(
    "body", ["conv2d(9, kernel=3)", "relu -> conv2d(9, kernel=3) -> flatten", "max_pool(2) -> flatten", "conv2d(20, kernel=2) -> avg_pool(2) -> flatten"]
)
def test_images_that_lie_with_their_channels_first_are_copied(body: str, three: Team) -> None:
    is_numpys(f"conv2d(9, kernel=1) -> flatten -> dense(90) -> reshape([10, 3, 3]) -> {body} -> dense(4)" if body.endswith("flatten") else body, (9, 7, 6))


@pytest.mark.parametrize(
    ("layers", "shape"),
    [("conv2d(5, kernel=3)", (1, 7, 6)), ("conv2d(5, kernel=3) -> flatten -> dense(3)", (1, 7, 6)), ("conv2d(5, kernel=3) -> global_avg_pool", (1, 7, 6)),
     ("conv2d(8, kernel=2, stride=2, groups=4)", (4, 2, 2)), ("conv2d_transpose(1, kernel=3)", (2, 4, 5)), ("conv1d(7, kernel=3, padding=same)", (5, 1)),
     ("dense(6) -> max_pool(2) -> flatten -> dense(3)", (1, 4, 6)), ("max_pool(1) -> conv2d(9, kernel=1) -> flatten", (1, 1, 1))],
)  # fmt: skip
def test_images_of_which_some_lie_without_gaps_either_way_are_numpys(layers: str, shape: tuple[int, ...], three: Team) -> None:
    """Those of a single channel do: beside them another one is copied, into the space that is its own."""
    is_numpys(layers, shape)


def test_means_over_places_are_numpys(three: Team) -> None:
    is_numpys("conv2d(20, kernel=2) -> global_avg_pool -> dense(3)", (3, 6, 5))


def test_three_threads_share_winograds_tiles(three: Team) -> None:
    for size in ((6, 5), (24, 17)):
        is_numpys("conv2d(17, kernel=3, padding=same) -> conv2d(40, kernel=3) -> max_pool(2)", (9, *size))


def test_where_a_number_stops_being_finite_is_found_among_images(three: Team) -> None:
    text = (
        "network(x: float32[8, 6, 6]) { return y = x -> conv2d(8, kernel=3) -> relu -> max_pool(2) }\n"
        "train { loss = quadratic(y, t)  optimizer = sgd(lr=0.1)  batch = 4  epochs = 1 }"
    )
    model = nnc.compile(text).init(0)
    batch = {"x": np.full((5, 8, 6, 6), 3e38, np.float32), "t": np.zeros((5, 8, 2, 2), np.float32)}
    model.gradients(batch)
    executor = Executor(model._executors["gradients"].graph, model.known, Randomness(0), Arena(), fast=True)
    executor.run(batch)
    assert executor.at(5).find_non_finite().op == "conv2d"


@pytest.mark.parametrize("arguments", ["2", "3, stride=2", "[3, 2], stride=1, padding=1", "3, stride=2, padding=same", "2, stride=3"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("pool", ["max_pool", "avg_pool"])
def test_pools_are_numpys(pool: str, arguments: str, precision: str, three: Team) -> None:
    is_numpys(f"conv2d(19, kernel=2) -> relu -> {pool}({arguments})", (3, 8, 9), precision, 2e-6 if precision == "float32" else 1e-12)


@pytest.mark.parametrize("channels", [1, 16, 19])
@pytest.mark.parametrize("size", [(8, 6), (7, 9), (3, 2)])
@pytest.mark.parametrize("n", [1, 5])
def test_the_gradient_of_a_pool_of_pairs_is_numpys_bit_for_bit(n: int, size: tuple[int, int], channels: int, three: Team) -> None:
    """With ties and NaN, rows and columns that no window covers, over the image itself where there are none."""
    high, wide = (side // 2 for side in size)
    given, pooled = ((Batch(), channels, *sides) for sides in (size, (high, wide)))
    x, g = (apply("input", name=name, type=TensorType("float32", shape)) for name, shape in (("x", given), ("g", pooled)))
    image = apply("max_pool", x, window=(1, 1), stride=(1, 1), padding=((0, 0), (0, 0)))  # in memory of the plan, channels last
    pool: dict[str, Any] = {"window": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))}
    gradient = apply("max_pool_gradient", image, apply("max_pool", image, **pool), g, **pool)
    random = np.random.default_rng(n)
    arrays = {"x": random.integers(-1, 2, (n, channels, *size)).astype(np.float32), "g": random.normal(size=(n, channels, high, wide)).astype(np.float32)}
    arrays["x"][random.random(arrays["x"].shape) < 0.1] = np.nan
    plain, found = (run(gradient, arrays, fast=fast) for fast in (False, True))
    np.testing.assert_array_equal(found, plain)
    windows = arrays["x"][..., : 2 * high, : 2 * wide].reshape(n, channels, high, 2, wide, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, channels, high, wide, 4)
    first = np.where(np.isnan(windows).any(-1), 4, windows.argmax(-1))  # where a window has NaN, its cotangent goes nowhere
    sent = ((np.arange(4) == first[..., None]) * arrays["g"][..., None]).reshape(n, channels, high, wide, 2, 2).transpose(0, 1, 2, 4, 3, 5)
    exact = np.zeros_like(arrays["x"])
    exact[..., : 2 * high, : 2 * wide] = sent.reshape(n, channels, 2 * high, 2 * wide)
    np.testing.assert_array_equal(plain, exact)
    divided = size == (2 * high, 2 * wide)
    for fast in (False, True):
        assert plan(Graph({"v": gradient}), n, fast).in_place == ({gradient: image} if divided else {})


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("layer", ["lstm(24)", "gru(24, return_sequences=true)", "lstm(5, bidirectional=true)", "gru(7, bidirectional=true)",
                                   "rnn(24)", "rnn(7, bidirectional=true)", "rnn(24, activation=relu, return_sequences=true)",
                                   "rnn(5, activation=relu, bidirectional=true)",
                                   "lstm(24, return_sequences=true) -> transpose([1, 0])", "gru(7, return_sequences=true) -> transpose([1, 0])",
                                   "rnn(7, return_sequences=true) -> transpose([1, 0])"])  # fmt: skip
def test_recurrences_are_numpys(layer: str, steps: int, three: Team) -> None:
    text = (
        f"network(x: float32[{steps}, 3]) {{ return y = x -> {layer} -> flatten -> dense(2) }}\n"
        "train { loss = mse(y, t)  optimizer = sgd(lr=0.1)  batch = 4  epochs = 1 }"
    )
    model = nnc.compile(text).init(0)
    spread(model, 0)
    random = np.random.default_rng(0)
    batch = {"x": random.normal(size=(37, steps, 3)).astype(np.float32), "t": random.normal(size=(37, 2)).astype(np.float32)}
    model.gradients(batch)
    graph = model._executors["gradients"].graph
    numpys, fast = (Executor(graph, model.known, Randomness(0), Arena(), fast=fast) for fast in (False, True))
    plain, found, again = ({k: v.copy() for k, v in executor.run(batch).items()} for executor in (numpys, fast, fast))
    assert not [kernel for kernel, _ in fast.at(37).forward_steps if getattr(kernel, "__module__", "") == "nnc.runtime.recurrence"]
    bound = 6e-6 if layer.startswith("rnn") else 2e-6  # either engine's rnn errs by 2e-6 against float64: no gate forgets the errors of early steps
    for key, array in plain.items():
        np.testing.assert_allclose(found[key], array, rtol=0, atol=bound * max(np.abs(array).max(), 1e-3), err_msg=key)
        np.testing.assert_array_equal(again[key], found[key], err_msg=key)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_losses_on_classes_and_embeddings_are_numpys(precision: str) -> None:
    text = (
        "network(a: int64[4], x: float32[3]) {\n"
        "  e = a -> embedding(50, 6) -> flatten\n"
        "  return y = concat(e, x) -> dense(9) -> softmax(temperature=2) -> dense(300) -> softmax }\n"
        f"train {{ loss = cross_entropy(y, t, smoothing=0.1)  optimizer = sgd(lr=0.1)  batch = 4  epochs = 1  precision = {precision} }}"
    )
    model = nnc.compile(text).init(0)
    spread(model, 0)
    random = np.random.default_rng(0)
    batch = {"a": random.integers(0, 50, (70, 4)), "x": random.normal(size=(70, 3)), "t": random.integers(0, 300, 70)}
    model.gradients(batch)
    graph = model._executors["gradients"].graph
    plain, found = ({k: v.copy() for k, v in Executor(graph, model.known, Randomness(0), Arena(), fast=fast).run(batch).items()} for fast in (False, True))
    for key, array in plain.items():
        np.testing.assert_allclose(found[key], array, rtol=0, atol=(2e-6 if precision == "float32" else 1e-12) * max(np.abs(array).max(), 1e-3), err_msg=key)


def test_a_large_logit_costs_log_softmax_nothing() -> None:
    logits = np.array([[1000.0, 999.0, -1000.0], [0.0, 0.0, 0.0], [-1e30, 3e38, 0.0]], np.float32)
    x = apply("input", name="x", type=TensorType("float32", (Batch(), 3)))
    plain, found = (run(apply("log_softmax", x, axis=1), {"x": logits}, fast=fast) for fast in (False, True))
    np.testing.assert_allclose(found, plain, rtol=1e-6)


def run(value: Value, arrays: dict[str, Any], *, fast: bool) -> Any:
    with np.errstate(all="ignore"):
        return Executor(Graph({"v": value}), {}, Randomness(0), Arena(), fast=fast).run(arrays)["v"].copy()


def vector(name: str, dtype: str = "float32") -> Value:
    return apply("input", name=name, type=TensorType(dtype, (Batch(),)))


def in_a_loop(op: str, *names: str) -> Value:
    """A primitive with a step before it and one after it, so that it runs in a compiled loop."""
    inputs = [vector(name) for name in names]
    return apply(op, inputs[0] + 0.0, *inputs[1:]) * 1.0


@pytest.mark.parametrize(("op", "low", "high"), [("exp", -87.0, 88.7), ("tanh", -12.0, 12.0), ("sigmoid", -80.0, 40.0)])
def test_functions_are_accurate_to_a_few_units_in_the_last_place(op: str, low: float, high: float) -> None:
    x = np.concatenate([np.linspace(low, high, 200_001), np.linspace(-1, 1, 50_001)]).astype(np.float32)
    wide = x.astype(np.float64)
    exact = {"exp": np.exp, "tanh": np.tanh, "sigmoid": lambda z: 1 / (1 + np.exp(-z))}[op](wide)
    found = run(in_a_loop(op, "x"), {"x": x}, fast=True)
    normal = np.abs(exact) > np.finfo(np.float32).tiny
    units = np.abs(found - exact)[normal] / np.spacing(np.abs(exact[normal]).astype(np.float32))
    assert units.max() < 4


@pytest.mark.parametrize(
    "op", ["exp", "tanh", "sigmoid", "sqrt", "absolute", "negative", "softplus", "log", "log1p", "expm1", "floor", "sign", "is_nan"]
)
def test_the_edges_of_functions_are_numpys(op: str) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, 3e38, -3e38, 200, -200, 88.8, -104.5] * 50, np.float32)
    plain, found = (run(in_a_loop(op, "x"), {"x": x}, fast=fast) for fast in (False, True))
    np.testing.assert_allclose(found, plain, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("op", [op for op, text in loops.TERMS.items() if "{2}" not in text and op != "cast"])
@pytest.mark.parametrize("then", ["exp", "tanh", "sigmoid", "softplus"])
def test_what_a_function_leaves_in_a_loop_the_next_one_takes(op: str, then: str) -> None:
    """A term that gave float64 would lead a function of float32 astray."""
    x, y = vector("x") + 0.0, vector("y") * 1.0
    pair = apply(op, x, y) if "{1}" in loops.TERMS[op] else apply(op, x)
    value = apply(then, apply("where", pair, x, y) if pair.dtype == "bool" else pair)
    given = {"x": np.linspace(0.1, 4, 50, dtype=np.float32), "y": np.linspace(3, 0.2, 50, dtype=np.float32)}
    plain, found = (run(value, given, fast=fast) for fast in (False, True))
    np.testing.assert_allclose(found, plain, rtol=1e-5)


@pytest.mark.parametrize("op", ["maximum", "minimum", "greater", "less_equal", "equal", "divide"])
def test_the_edges_of_pairs_are_numpys(op: str) -> None:
    values = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -2.5], np.float32)
    a, b = (grid.reshape(-1).repeat(20) for grid in np.meshgrid(values, values))
    x, y = vector("a") + 0.0, vector("b") * 1.0
    pair = apply(op, x, y)
    value = apply("where", pair, x, y) if pair.dtype == "bool" else pair
    plain, found = (run(value, {"a": a, "b": b}, fast=fast) for fast in (False, True))
    np.testing.assert_array_equal(found, plain)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Team:
    """A team of three, and steps so cheap to share that all of them are shared."""
    members = Team(3)
    monkeypatch.setattr("nnc.runtime.team._teams", {3: members})
    monkeypatch.setattr("nnc.runtime.team.workers", lambda: 3)
    monkeypatch.setattr("nnc.runtime.team.WORTH_SHARING", 0.0)
    for module in ("native", "images", "fusion"):
        monkeypatch.setattr(f"nnc.runtime.{module}.workers", lambda: 3)
    return members


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("n", [1, 2, 37])
def test_a_step_that_three_threads_share_is_the_same_step(name: str, n: int, three: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    body, loss = BODIES[name]
    text = spec(body, loss=loss, optimizer="adam", penalty="l2(0.01)")
    random = np.random.default_rng(0)
    batch = {"x": random.normal(size=(n, 3)), "y": random.integers(0, 3, n)}
    plain, state, _ = trained(text, batch, "numpy", monkeypatch, steps=1)
    found, reached, _ = trained(text, batch, "fast", monkeypatch, steps=1)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
    again, reached_again, _ = trained(text, batch, "fast", monkeypatch, steps=1)
    assert again == found
    for key, array in state.items():
        np.testing.assert_array_equal(reached[key], reached_again[key])
        if "bias" not in key or n > 2:  # what Adam makes of a gradient of about zero is its sign
            np.testing.assert_allclose(reached[key], array, rtol=1e-3, atol=3e-3, err_msg=key)


@pytest.mark.parametrize("n", [2, 3, 5, 2050])
def test_sums_of_what_a_loop_computes_are_numpys(n: int, three: Team) -> None:
    x = apply("input", name="x", type=TensorType("float32", (Batch(), 19)))
    value = apply("reduce_sum", x * 0.5 + 1.0, axes=(0,), keepdims=False)
    given = np.random.default_rng(n).normal(size=(n, 19)).astype(np.float32)
    executor = Executor(Graph({"v": value}), {}, Randomness(0), Arena(), fast=True)
    np.testing.assert_allclose(executor.run({"x": given})["v"], (given.astype(np.float64) * 0.5 + 1).sum(axis=0), rtol=1e-5, atol=1e-5)
    (steps, _), = executor.at(n).forward_steps
    assert [name.split()[0] for name, _ in steps.apart()] == ["loop", "add_sums"]


def test_threads_that_went_to_sleep_wake_for_the_next_program(three: Team) -> None:
    x = np.random.default_rng(0).normal(size=1001).astype(np.float32)
    executor = Executor(Graph({"v": apply("tanh", vector("x") * 2.0) + 1.0}), {}, Randomness(0), Arena(), fast=True)
    for pause in [0.0, 0.02] * 20 + [0.0002] * 200:  # awake, asleep, and about to sleep
        time.sleep(pause)
        np.testing.assert_allclose(executor.run({"x": x})["v"], np.tanh(2 * x) + 1, rtol=1e-5, atol=1e-6)
        executor.at(1001).outputs["v"].fill(0)


def test_two_callers_take_turns_with_the_team(three: Team) -> None:
    def work(seed: int) -> bool:
        x = np.random.default_rng(seed).normal(size=5000).astype(np.float32)
        executor = Executor(Graph({"v": apply("tanh", vector("x") * 2.0) + 1.0}), {}, Randomness(0), Arena(), fast=True)
        return all(np.allclose(executor.run({"x": x})["v"], np.tanh(2 * x) + 1, rtol=1e-5, atol=1e-6) for _ in range(200))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(4)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_child_has_a_team_of_its_own(three: Team) -> None:
    executor = Executor(Graph({"v": vector("x") * 2.0 + 1.0}), {}, Randomness(0), Arena(), fast=True)
    x = np.ones(4000, np.float32)
    executor.run({"x": x})
    child = os.fork()
    if child == 0:
        other = Executor(Graph({"v": vector("x") * 2.0 + 1.0}), {}, Randomness(0), Arena(), fast=True)
        os._exit(0 if (other.run({"x": x})["v"] == 3).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("size", [1, 16, 17, 1000])
@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
def test_masks_are_numpys_bit_for_bit(size: int, probability: float, three: Team) -> None:
    mask = apply("bernoulli", vector("x"), probability=probability, stream="layer/dropout")
    x = np.zeros(size, np.float32)
    for seed, step in ((0, 0), (2**63 + 5, 3), (7, 2**40)):
        plain, found = (Executor(Graph({"v": mask}), {}, Randomness(seed, step), Arena(), fast=fast).run({"x": x})["v"].copy() for fast in (False, True))
        np.testing.assert_array_equal(found, plain)


def test_a_step_that_gathers_its_batches_trains_as_one_that_is_given_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs with a smaller last batch; a batch that a user gives afterwards is taken as it is."""
    monkeypatch.setenv("NNC_ENGINE", "fast")
    random = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=random.normal(size=(70, 6)).astype(np.float32), y=random.integers(0, 3, 70))
    (tmp_path / "d.nn").write_text(
        'data { source = npz("d.npz")  x = column(x)  y = column(y) -> category  split = random(train=90%, validation=10%) }\n'
        "network(x: float32[6]) { return p = x -> dense(5) -> tanh -> dense(3) -> softmax }\n"
        "train { loss = cross_entropy(p, y)  optimizer = adam  batch = 16  epochs = 2 }"
    )
    found = [nnc.train(tmp_path / "d.nn", out=tmp_path / "gathered")]
    asked: list[bool] = []
    monkeypatch.setattr("nnc.runtime.steps.HostStep.reads", lambda self, columns: asked.append(True))
    found.append(nnc.train(tmp_path / "d.nn", out=tmp_path / "given"))
    assert asked
    for name, array in found[0].model.parameters.items():
        np.testing.assert_array_equal(found[1].model.parameters[name], array)
    batch = {"x": random.normal(size=(16, 6)).astype(np.float32), "y": random.integers(0, 3, 16)}
    assert found[0].model.step(batch) == found[1].model.step(batch)


@pytest.mark.parametrize("n", [1, 2, 3, 1500, 4001])
def test_a_loop_adds_up_what_it_computes(n: int, three: Team) -> None:
    """Two sums of one loop, one of a term that is stored, then a step that reads a sum."""
    x = apply("input", name="x", type=TensorType("float32", (Batch(), 5)))
    square = x * x
    sums = [apply("reduce_sum", term, axes=(0,), keepdims=False) for term in (square, square - x)]
    array = np.random.default_rng(0).normal(size=(n, 5)).astype(np.float32)
    executor = Executor(Graph({"a": square / sums[0], "b": sums[1]}), {}, Randomness(0), Arena(), fast=True)
    found = executor.run({"x": array})
    wide = array.astype(float)
    np.testing.assert_allclose(found["a"], wide**2 / (wide**2).sum(0), rtol=1e-5)
    np.testing.assert_allclose(found["b"], (wide**2 - wide).sum(0), rtol=1e-4, atol=1e-5)
    steps: Any = executor.at(n).forward_steps[0][0]
    assert [name.split()[0] for name, _ in steps.apart()].count("sum_rows") == (0 if n > 1 else 2)


@pytest.mark.parametrize("index", [7, -1])
def test_a_row_that_a_table_lacks_is_refused_by_either_engine(index: int) -> None:
    table = apply("input", name="t", type=TensorType("float32", (7, 3)))
    value = apply("gather", table, vector("i", "int64"))
    executor = Executor(Graph({"v": value}), {}, Randomness(0), Arena(), fast=True)
    rows = np.arange(21, dtype=np.float32).reshape(7, 3)
    executor.run({"i": np.array([3, 6]), "t": rows})
    with pytest.raises(nnc.SpecError, match="E515"):
        executor.run({"i": np.array([3, index]), "t": rows})


LOOKS: dict[str, tuple[tuple[int, int], Callable[[Value], Value], Callable[[Any], Any]]] = {
    "whole": ((8, 5), lambda g: g, lambda a: a),
    "columns of wider rows": ((8, 9), lambda g: apply("slice", g, axis=1, start=3, stop=8), lambda a: a[:, 3:8]),
    "one row for all": ((1, 5), lambda g: apply("broadcast_to", g, shape=(8, 5)), lambda a: np.repeat(a, 8, 0)),
    "turned": ((5, 8), lambda g: apply("transpose", g, order=(1, 0)), np.transpose),
}


@pytest.mark.parametrize("index", [[3, 0, 3, 1, 1, 3, 5, 3], [[6, 6, 6, 6], [6, 6, 6, 6]]], ids=["row", "table"])
@pytest.mark.parametrize("name", LOOKS)
def test_rows_are_added_up_however_they_lie(name: str, index: Any, three: Team) -> None:
    """A view copies nothing: the next step is given rows with gaps between them, or one row again and again."""
    (shape, look, exact), at = LOOKS[name], np.array(index)
    g, i = apply("input", name="g", type=TensorType("float32", shape)), apply("input", name="i", type=TensorType("int64", at.shape))
    rows = look(g) if at.ndim == 1 else apply("reshape", look(g), shape=(2, 4, 5))
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = run(apply("scatter_add", rows, i, rows=7), {"g": array, "i": at}, fast=True)
    np.testing.assert_allclose(found, np.eye(7)[:, at.ravel()] @ exact(array.astype(float)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 3, 70), (64, 33, 2), (2, 130, 40), (131, 90, 140)])
def test_products_in_parts_are_the_product(sizes: tuple[int, int, int], turned: tuple[bool, bool], three: Team) -> None:
    m, k, n = sizes
    shapes = [(k, m) if turned[0] else (m, k), (n, k) if turned[1] else (k, n)]
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in zip("ab", shapes, strict=True)}
    a, b = (apply("input", name=name, type=TensorType("float32", array.shape)) for name, array in arrays.items())
    found = run(apply("matmul", a, b, transpose_a=turned[0], transpose_b=turned[1]), arrays, fast=True)
    exact = (arrays["a"].T if turned[0] else arrays["a"]).astype(float) @ (arrays["b"].T if turned[1] else arrays["b"])
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def test_what_was_compiled_once_is_not_compiled_again(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom nnc.runtime import loops, machine_code\n"
        "machine_code.on_compiling.append(lambda: print('compiling'))\n"
        "f = loops.loop([('full', 'float32'), ('full', 'float32')], ['x0 = a0[AT]', 'v0 = x0 + x0', 'a1[AT] = v0'], two=False)\n"
        "import numpy as np; a, b = np.ones(3, np.float32), np.zeros(3, np.float32)\n"
        "from nnc.runtime.bound import Bound\nfrom nnc.runtime.team import Steps\nSteps([Bound(f, (3, 1, a, b), 0.0)])()\n"
        "print(b.tolist(), 'numba' in sys.modules)\n"
    )
    environment = os.environ | {"NNC_CACHE": str(tmp_path)}

    def said() -> str:
        return subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True).stdout

    assert said() == "compiling\n[2.0, 2.0, 2.0] True\n"
    assert said() == "[2.0, 2.0, 2.0] False\n"
    (kept,) = tmp_path.glob("loop-*.o")
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")  # damaged
    assert said() == "compiling\n[2.0, 2.0, 2.0] True\n"
    assert said() == "[2.0, 2.0, 2.0] False\n"


def test_each_training_that_compiles_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNC_CACHE", str(tmp_path))
    kinds, told = [("full", "float32"), ("full", "float32")], list[str]()

    def compiled(*factors: float) -> None:
        for factor in factors:
            assert loops.loop(kinds, ["x0 = a0[AT]", f"v0 = x0 * np.float32({factor})", "a1[AT] = v0"], two=False).address

    compiled(2.25)  # nobody watches
    for name, factors in (("first", (3.25, 4.25)), ("second", (5.25, 6.25)), ("third", (6.25,))):
        with machine_code.announcing(lambda name=name: told.append(name)):
            compiled(*factors)
    compiled(7.25)
    assert told == ["first", "second"]


def test_code_that_cannot_be_kept_runs_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNC_CACHE", str(tmp_path))
    code = loops.loop([("full", "float32"), ("full", "float32")], ["x0 = a0[AT]", "v0 = x0 - x0", "a1[AT] = v0"], two=False)
    assert code.address
    (kept,) = tmp_path.glob("loop-*.o")
    kept.unlink()
    kept.mkdir()
    told = list[str]()
    with machine_code.announcing(lambda: told.append("compiling")):
        assert machine_code.Code(code.text, code.name, code.define).address
    assert told == ["compiling"]
    assert not any(kept.iterdir())


def test_a_warmed_cache_has_all_that_a_training_takes(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS")} | {"NNC_CACHE": str(tmp_path / "code"), "NNC_ENGINE": "fast"}
    (tmp_path / "d.nn").write_text((Path(__file__).parent.parent / "specs" / "digits.nn").read_text("utf-8").replace("epochs    = 60", "epochs    = 1"))

    def said(*arguments: str) -> str:
        done = subprocess.run([sys.executable, "-P", "-m", "nnc", *arguments], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout + done.stderr

    first = said("doctor", "--warm", "d.nn")
    kept = len(list((tmp_path / "code").glob("*.o")))
    assert f"{kept} compiled functions, {kept} of them new" in first
    assert list((tmp_path / "code").glob("numbers-*.o")), "what reads large csv files"
    assert ", 0 of them new" in said("doctor", "--warm", "d.nn")
    assert "compiling" not in said("train", "d.nn", "-o", "run")
    assert len(list((tmp_path / "code").glob("*.o"))) == kept


def test_equal_loops_of_different_layers_are_one() -> None:
    kinds = [("full", "float32"), ("row", "float32"), ("full", "float32")]
    lines = ["x0 = a0[AT]", "x1 = a1[j]", "v0 = x0 + x1", "a2[AT] = v0"]
    assert loops.loop(kinds, lines, two=True) is loops.loop(kinds, list(lines), two=True)


def test_without_a_place_for_loops_numpy_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environment = {k: v for k, v in os.environ.items() if k != "NNC_ENGINE" and not k.startswith("OPENBLAS_")}  # doctor refuses a pinned kernel
    environment["NNC_CACHE"] = str(tmp_path / "file" / "loops")
    said = subprocess.run([sys.executable, "-P", "-m", "nnc", "doctor"], env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0
    assert "numpy (fast: no place to keep what is compiled" in said.stdout


@pytest.mark.parametrize(
    ("broken", "raises", "way_out"),
    [
        ("numba/__init__.py", "ImportError('Numba needs NumPy 2.3 or less')", "pip install --upgrade"),
        ("llvmlite/binding.py", "OSError('Could not find/load shared object file libllvmlite.so')", "pip install --upgrade"),
        ("numba/__init__.py", "SystemError('initialization of _internal failed')", "pip install --upgrade"),
        ("", "cannot be written", "NNC_CACHE"),
    ],
)
def test_where_the_fast_engine_cannot_run_numpy_does_and_says_so(broken: str, raises: str, way_out: str, tmp_path: Path) -> None:
    """Versions that do not fit and libraries that are not there, as numba and llvmlite tell of them."""
    environment = {k: v for k, v in os.environ.items() if k != "NNC_ENGINE"} | {"NNC_CACHE": str(tmp_path / "code")}
    if broken:
        (tmp_path / broken).parent.mkdir()
        (tmp_path / broken).parent.joinpath("__init__.py").write_text("")
        (tmp_path / broken).write_text(f"raise {raises}\n")
        environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    else:
        (tmp_path / "code").write_text(raises)  # a file where the directory would be
    (tmp_path / "tiny.nn").write_text(TINY)

    def said(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        whole = [sys.executable, "-P", "-m", "nnc", command, "tiny.nn", *arguments]
        return subprocess.run(whole, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    trained = said("train", "-o", "run")
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr.count("NumPy runs the steps, for the fast engine cannot") == 1
    assert "fast engine" not in said("train", "-o", "other", "--engine", "numpy").stderr
    assert said("build").stderr.count("nothing is compiled ahead: ") == 1
    refused = said("train", "-o", "none", "--engine", "fast")
    assert refused.returncode == 1
    assert "error[E708]" in refused.stderr
    assert way_out in refused.stderr
    assert not (tmp_path / "none").exists()


def test_an_engine_that_is_not_there_is_refused() -> None:
    spec = Path(__file__).parent.parent / "specs" / "digits.nn"
    command, environment = [sys.executable, "-P", "-m", "nnc", "train", spec], os.environ | {"NNC_ENGINE": "turbo"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert "E708" in said.stderr
    assert "use numpy, fast or onnxruntime" in said.stderr


@pytest.mark.parametrize("optimizer", ["adam", "amsgrad", "nadam", "adamax", "nesterov(lr=0.01)", "rmsprop(lr=0.01, centered=true)"])
def test_an_update_goes_through_memory_once(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers that an update needs are computed before its loop, not between parts of it."""
    monkeypatch.setenv("NNC_ENGINE", "fast")
    body = "  return output = x -> dense(40) -> relu -> dense(3) -> softmax"
    model = nnc.compile(spec(body, loss="cross_entropy(output, y)", optimizer=optimizer)).init(1)
    model.step({"x": np.ones((8, 3)), "y": np.zeros(8, np.int64)})
    ((steps, _),) = model._executors["step"].at(8).update_steps
    assert sum(bound.arguments[0] == 3 * 40 + 40 + 40 * 3 + 3 for bound in steps._kept) == 1
