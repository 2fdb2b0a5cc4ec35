"""A pool of maxima goes before biases and rectifiers, to the same bits, and the gradient to the same places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nnc
from nnc.compiler.ir import Graph, N, TensorType, Value, apply, constant
from nnc.compiler.passes.pools import pool_first
from nnc.compiler.primitives import total
from nnc.compiler.verify import verify
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.kernels import Randomness

X = apply("input", name="x", type=TensorType("float32", (N, 3, 7, 6)))
BIAS = apply("variable", name="bias", type=TensorType("float32", (3, 1, 1)))
PLACES = apply("variable", name="places", type=TensorType("float32", (3, 7, 6)))
ZERO = constant(0.0, "float32")
WINDOWS: list[dict[str, Any]] = [
    {"window": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))},
    {"window": (3, 2), "stride": (1, 2), "padding": ((1, 1), (0, 1))},
]


def ops(root: Value) -> list[str]:
    """From the root to x, along the images."""
    found = []
    while root is not X:
        found.append(root.op)
        root = next(o for o in root.operands if o.type.rank == 4)
    return found


def run(root: Value) -> Any:
    rng = np.random.default_rng(5)
    arrays = {"bias": rng.normal(size=(3, 1, 1)).astype(np.float32) * 1000, "places": rng.normal(size=(3, 7, 6)).astype(np.float32)}
    x = rng.integers(-3, 4, (5, 3, 7, 6)).astype(np.float32) / 7  # with ties, and biases that round
    return Executor(Graph({"y": root}), arrays, Randomness(0), Arena()).run({"x": x})["y"].copy()


@pytest.mark.parametrize("attributes", WINDOWS, ids=["2x2", "padded"])
def test_a_bias_and_a_rectifier_go_behind_the_pool(attributes: dict[str, Any]) -> None:
    biased = apply("add", BIAS, X)
    written = apply("max_pool", apply("minimum", apply("maximum", biased, ZERO), constant(500.0, "float32")), **attributes)
    (found,) = pool_first([written])
    verify(Graph({"y": found}))
    assert found.type == written.type
    assert ops(written) == ["max_pool", "minimum", "maximum", "add"]
    assert ops(found) == ["minimum", "maximum", "add", "max_pool"]
    np.testing.assert_array_equal(run(found), run(written))


def test_two_pools_with_steps_between_go_first_both() -> None:
    pool = WINDOWS[0]
    written = apply("max_pool", apply("maximum", apply("max_pool", X + BIAS, **pool), ZERO), **pool)
    (found,) = pool_first([written])
    assert ops(found) == ["maximum", "max_pool", "add", "max_pool"]
    np.testing.assert_array_equal(run(found), run(written))


@pytest.mark.parametrize(
    "image",
    [X + PLACES, X * BIAS, apply("negative", X), BIAS - X],
    ids=["a bias for each place", "a factor that may be negative", "a sign", "a difference"],
)
def test_what_may_not_move_stays(image: Value) -> None:
    written = apply("max_pool", image, **WINDOWS[0])
    assert pool_first([written]) == [written]
    inside = apply("max_pool", apply("maximum", image, ZERO), **WINDOWS[0])
    (found,) = pool_first([inside])
    assert [step for step in ops(found) if step in ("maximum", "max_pool")] == ["maximum", "max_pool"]
    np.testing.assert_array_equal(run(found), run(inside))


def test_a_step_that_others_read_stays_where_it_is() -> None:
    """Moved, it would be made twice."""
    rectified = apply("maximum", X, ZERO)
    pooled = apply("max_pool", rectified, **WINDOWS[0])
    assert pool_first([pooled, rectified]) == [pooled, rectified]
    assert pool_first([pooled, total(rectified)])[0] is pooled


def test_a_step_trains_by_the_gradient_of_the_network_as_written() -> None:
    """With ties in every window, where the first maximum takes it all."""
    program = nnc.compile(
        "network(x: float32[1, 8, 8]) {\n"
        "  h = x -> conv2d(3, kernel=3) -> relu -> max_pool(2) -> batch_norm -> conv2d(4, kernel=2) -> batch_norm -> relu -> max_pool(2)\n"
        "  return y = h -> flatten -> dense(2)\n}\n"
        "train { loss = mse(y, t)  optimizer = sgd(lr=1.0)  batch = 6  epochs = 1  precision = float64 }"
    )
    model = program.init(seed=3)
    rng = np.random.default_rng(0)
    batch = {"x": rng.integers(0, 2, (6, 1, 8, 8)).astype(np.float32), "t": rng.normal(size=(6, 2))}
    order = [v.op for v in model.step_program(6).plan.steps]
    assert order.index("max_pool") < order.index("maximum")
    _, gradients = model.gradients(batch)
    before = {name: array.copy() for name, array in model.parameters.items()}
    model.step(batch)
    moved = [name for name in gradients if np.any(before[name] != model.parameters[name]) and "running" not in name]
    assert len(moved) > 6
    for name in moved:
        np.testing.assert_allclose(before[name] - model.parameters[name], gradients[name], rtol=1e-9, atol=1e-12, err_msg=name)
