"""Rewrites of the graph keep types and meaning, and do what they are for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from drawing import network
from networks import spec

import nnc
from nnc.compiler.autodiff import gradients
from nnc.compiler.ir import Graph, N, TensorType, Value, apply, constant
from nnc.compiler.passes import optimised
from nnc.compiler.passes.common import eliminate_common
from nnc.compiler.passes.products import join_products
from nnc.compiler.passes.simplify import simplify
from nnc.compiler.passes.stable import stabilise
from nnc.compiler.passes.sums import share_sums
from nnc.compiler.passes.unroll import unroll
from nnc.compiler.primitives import RECURRENCES, states, total
from nnc.compiler.training import step_graph
from nnc.compiler.verify import verify
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.kernels import Randomness

PASSES: dict[str, Callable[[list[Value]], list[Value]]] = {
    "stabilise": stabilise,
    "simplify": simplify,
    "simplify for inference": lambda roots: simplify(roots, inference=True),
    "eliminate_common": eliminate_common,
    "join_products": join_products,
    "share_sums": share_sums,
    "unroll": unroll,
}

X = apply("variable", name="x", type=TensorType("float64", (3,)))
Y = apply("variable", name="y", type=TensorType("float64", (3,)))
S = apply("variable", name="s", type=TensorType("float64", ()))


def evaluate(value: Value, **arrays: Any) -> Any:
    made = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    return Executor(Graph({"v": value}), made, Randomness(0), Arena()).run({})["v"].copy()


def unoptimised(model: Any, batch: dict[str, Any]) -> Graph:
    """Objective and gradients as autodiff leaves them, without any rewrite."""
    model.gradients(batch)
    program = model.program
    objective = program.objective(program.training_forward, model._targets, model.samples)
    goal = objective.objective(objective.loss())
    variables = program.training_forward.variables
    found = {n: g for n, g in zip(variables, gradients(goal, list(variables.values())), strict=True) if g is not None}
    return Graph({"objective": goal} | found)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("seed", range(200, 220))
def test_a_pass_keeps_types_and_values(name: str, seed: int) -> None:
    _, model, batch = network(seed)
    before = unoptimised(model, batch)
    verify(before)
    after = before.map(PASSES[name])
    verify(after)
    assert [v.type for v in after.roots] == [v.type for v in before.roots]
    plain, rewritten = (Executor(g, model.variables, model.randomness, Arena()).run(batch) for g in (before, after))
    tolerance = 1e-7 if name == "stabilise" else 1e-12  # it is there because the plain form loses digits
    for key, array in plain.items():
        scale = max(1.0, np.abs(array).max())
        np.testing.assert_allclose(rewritten[key], array, rtol=tolerance, atol=tolerance * scale, err_msg=key)


@pytest.mark.parametrize("seed", range(220, 230))
def test_the_graphs_of_a_model_are_sound_and_nothing_is_left_to_do(seed: int) -> None:
    _, model, batch = network(seed)
    model.step(batch)
    program = model.program
    objective = program.objective(program.training_forward, model._targets)
    graphs = [program.gradients(model._targets), step_graph(objective, program.bundles).graph, program.inference_graph]
    for graph in graphs:
        verify(graph)
        again = optimised(graph)
        verify(again)
        keys = [(v.op, v.operands, repr(sorted(v.attributes.items(), key=str)), v.type) for v in graph.order()]
        assert len(set(keys)) == len(keys)
        assert len(again.order()) <= len(graph.order())


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (X + 0.0, "variable"),
        (0.0 + X, "variable"),
        (X - 0.0, "variable"),
        (X * 1.0, "variable"),
        (1.0 * X, "variable"),
        (X / 1.0, "variable"),
        (-apply("negative", X), "variable"),
        (X * -1.0, "negative"),
        (X + (-Y), "subtract"),
        (X - (-Y), "add"),
        (-(X - Y), "subtract"),
        (apply("reshape", apply("reshape", X, shape=(3, 1)), shape=(3,)), "variable"),
        (apply("cast", X, dtype="float64"), "variable"),
        (apply("exp", constant(0.5, "float64")), "constant"),
        (
            apply("transpose", apply("transpose", apply("reshape", X, shape=(1, 3)), order=(1, 0)), order=(1, 0)),
            "reshape",
        ),
    ],
    ids=str,
)
def test_an_identity_goes(written: Value, wanted: str) -> None:
    (found,) = simplify([written])
    assert found.op == wanted
    assert found.type == written.type
    arrays = {"x": [1.5, -2.0, 0.0], "y": [4.0, 0.5, -1.0]}
    np.testing.assert_array_equal(evaluate(found, **arrays), evaluate(written, **arrays))


@pytest.mark.parametrize(
    "written", [S + X * 0.0, S * apply("broadcast_to", constant(1.0, "float64"), shape=(3,))], ids=str
)
def test_an_operand_that_gives_the_shape_stays(written: Value) -> None:
    (found,) = simplify([written])
    assert found.type == written.type
    np.testing.assert_array_equal(evaluate(found, s=2.5, x=[1.0, 2.0, 3.0]), [2.5, 2.5, 2.5])


@pytest.mark.parametrize("shape", [(2, 3), (3,), (3, 3)], ids=str)
def test_a_spread_operand_is_spread_by_its_user(shape: tuple[int, ...]) -> None:
    wide = apply("broadcast_to", X, shape=shape)
    z = apply("variable", name="z", type=TensorType("float64", shape))
    (found,) = simplify([wide * z])
    assert "broadcast_to" not in {v.op for v in Graph({"f": found}).order()}
    arrays = {"x": [1.0, 2.0, 3.0], "z": np.arange(float(np.prod(shape))).reshape(shape)}
    np.testing.assert_array_equal(evaluate(found, **arrays), evaluate(wide * z, **arrays))


def test_factors_are_multiplied_in_advance() -> None:
    (found,) = simplify([2.0 * (X * 3.0)])
    assert [v.attributes.get("value") for v in Graph({"f": found}).order() if v.op == "constant"] == [6.0]


def test_folding_leaves_what_is_not_finite() -> None:
    for op, number in (("log", 0.0), ("sqrt", -1.0), ("exp", 1e4)):
        (found,) = simplify([apply(op, constant(number, "float64"))])
        assert found.op == op


def test_equal_terms_are_computed_once_and_unequal_ones_apart() -> None:
    one, other = eliminate_common([apply("exp", X + 1.0), apply("exp", X + 1.0)])
    assert one is other
    draws = eliminate_common([apply("bernoulli", X, probability=0.5, stream=s) for s in ("a", "b", "a")])
    assert draws[0] is draws[2]
    assert draws[0] is not draws[1]
    zero, minus = eliminate_common([X / constant(0.0, "float64"), X / constant(-0.0, "float64")])
    assert zero is not minus


# Stable forms


def losses(z: float, y: float, loss: str) -> tuple[Any, Any]:
    """A loss as a spec gives it, made stable, and its slope."""
    arrays = {"x": np.full(3, z), "y": np.full(3, y)}
    a = apply("sigmoid", X)
    if loss == "binary":
        value = -(Y * apply("log", a) + (1.0 - Y) * apply("log", 1.0 - a))
    elif loss == "log":
        value = apply("log", a)
    else:
        value = apply("log", 1.0 - a)
    (stable,) = stabilise([total(value)])
    (slope,) = gradients(stable, [X])
    assert slope is not None
    return evaluate(stable, **arrays) / 3, evaluate(slope, **arrays)[0]


@pytest.mark.parametrize(
    ("loss", "z", "y", "value", "slope"),
    [
        ("binary", 800.0, 1.0, 0.0, 0.0),
        ("binary", 800.0, 0.0, 800.0, 1.0),
        ("binary", -800.0, 1.0, 800.0, -1.0),
        ("binary", 0.0, 0.25, np.log(2), 0.25),
        ("binary", 3.0, 1.0, 0.04858735157374206, -0.04742587317756678),
        ("log", -900.0, 0.0, -900.0, 1.0),
        ("log", 40.0, 0.0, -4.248354255291589e-18, 4.248354255291589e-18),
        ("log of complement", 900.0, 0.0, -900.0, -1.0),
        ("log of complement", -40.0, 0.0, -4.248354255291589e-18, -4.248354255291589e-18),
    ],
)
def test_losses_after_sigmoid_stay_exact(loss: str, z: float, y: float, value: float, slope: float) -> None:
    found = losses(z, y, loss)
    np.testing.assert_allclose(found, (value, slope), rtol=1e-12, atol=1e-300)


def test_cross_entropy_after_softmax_stays_exact() -> None:
    a = apply("softmax", apply("reshape", X, shape=(1, 3)), axis=1)
    (stable,) = stabilise([total(apply("log", a))])
    assert {"softmax", "log"}.isdisjoint(v.op for v in Graph({"f": stable}).order())
    np.testing.assert_allclose(evaluate(stable, x=[0.0, 1000.0, -1000.0]), -3000.0)


# Products of many steps


@pytest.mark.parametrize("layer", ["rnn(4)", "lstm(4, bidirectional=true)", "gru(4, return_sequences=true)"])
def test_the_gradient_of_a_recurrent_weight_is_one_product_over_all_steps(layer: str) -> None:
    """Where the layer is a primitive, and where it is written out for second derivatives."""

    def products(steps: int, written_out: bool) -> int:
        text = spec(f"  return output = x -> {layer} -> flatten -> dense(1)", inputs=f"x: float32[{steps}, 2]")
        objective = nnc.compile(text).init(0).program
        made = objective.objective(objective.training_forward)
        roots = [made.objective(made.loss())]
        variables = list(made.forward.variables.values())
        found = gradients(unroll(roots)[0] if written_out else roots[0], variables)
        graph = optimised(Graph({str(i): g for i, g in enumerate(found) if g is not None}))
        return sum(v.op == "matmul" and v.attributes["transpose_a"] for v in graph.order())

    for written_out in (False, True):
        assert products(5, written_out) == products(12, written_out)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("kind", RECURRENCES)
def test_a_recurrence_is_what_is_written_out(kind: str, steps: int, reverse: bool) -> None:
    random, units, n = np.random.default_rng(3), 3, 4
    width = RECURRENCES[kind][0] * units
    arrays = {"r": random.normal(size=(width, units))} | ({"b": random.normal(size=units)} if kind == "gru" else {})
    operands = [apply("variable", name=name, type=TensorType("float64", array.shape)) for name, array in arrays.items()]
    z = apply("input", name="z", type=TensorType("float64", (N, steps, width)))
    cells = apply("recurrence", apply("transpose", z, order=(1, 0, 2)), *operands, kind=kind, reverse=reverse)
    given = random.normal(size=(n, steps, width))
    weights = apply("input", name="w", type=TensorType("float64", (N, steps, units)))
    goal = total(states(cells) * apply("transpose", weights, order=(1, 0, 2)))

    def found(goal: Value) -> dict[str, Any]:
        slopes = gradients(goal, [*operands, z])
        graph = optimised(Graph({"goal": goal} | {str(i): g for i, g in enumerate(slopes) if g is not None}))
        batch = {"z": given, "w": np.random.default_rng(5).normal(size=(n, steps, units))}
        return {k: v.copy() for k, v in Executor(graph, arrays, Randomness(0), Arena()).run(batch).items()}

    direct, written = found(goal), found(unroll([goal])[0])
    for name, array in direct.items():
        np.testing.assert_allclose(array, written[name], rtol=1e-11, atol=1e-13)
    assert direct.keys() == written.keys() or steps == 1


def test_products_are_joined_from_three_on_and_only_where_nothing_else_reads_them() -> None:
    def weight(name: str) -> Value:
        return apply("variable", name=name, type=TensorType("float64", (2, 3)))

    def product(i: int) -> Value:
        return apply("matmul", weight(f"a{i}"), weight(f"b{i}"), transpose_a=True, transpose_b=False)

    terms = [product(i) for i in range(4)]
    arrays = {name: np.random.default_rng(i).normal(size=(2, 3)) for i, name in enumerate(f"{side}{k}" for side in "ab" for k in range(4))}
    whole = terms[0] + terms[1] + terms[2] + terms[3]
    (joined,) = join_products([whole])
    assert sum(v.op == "matmul" for v in Graph({"v": joined}).order()) == 1
    np.testing.assert_allclose(evaluate(joined, **arrays), evaluate(whole, **arrays), rtol=1e-13)
    assert join_products([terms[0] + terms[1]])[0].op == "add"
    both = join_products([whole, terms[2] * 2.0])
    assert sum(v.op == "matmul" for v in Graph({"a": both[0], "b": both[1]}).order()) == 2
    np.testing.assert_allclose(evaluate(both[0], **arrays), evaluate(whole, **arrays), rtol=1e-13)


def test_the_gradient_of_a_batch_normalisation_adds_up_its_image_twice() -> None:
    """The sums that the gradients of scale and bias are, and no third one of the whole cotangent."""
    text = (
        "network(x: float32[4, 6, 6]) { return y = x -> conv2d(8, kernel=3, bias=false) -> batch_norm -> conv2d(2, kernel=3) -> flatten }\n"
        "train { loss = mse(y, t)  optimizer = sgd(lr=0.1)  batch = 4  epochs = 1 }"
    )
    model = nnc.compile(text).init(0)
    model.gradients({"x": np.zeros((3, 4, 6, 6)), "t": np.zeros((3, 8))})
    graph = model._executors["gradients"].graph
    sums = [v for v in graph.order() if v.op == "reduce_sum" and v.operands[0].shape[1:] == (8, 4, 4)]
    assert len(sums) == 4  # mean, variance; bias, scale


@pytest.mark.parametrize("count", ["axis_size(x) * 6", "axis_size(x) * 5"])
def test_a_sum_of_what_had_its_mean_subtracted_is_zero_only_with_the_right_count(count: str) -> None:
    x = apply("input", name="x", type=TensorType("float64", (N, 2, 6)))
    size = apply("axis_size", x, axis=0, dtype="float64") * float(count[-1])
    mean = apply("reshape", total(x, 0, 2) / size, shape=(2, 1))
    value = total(-(x - mean), 0, 2)
    array = np.random.default_rng(0).normal(size=(3, 2, 6))
    (rewritten,) = share_sums([value])
    assert (rewritten.op == "broadcast_to") == ("6" in count)
    plain, found = (Executor(Graph({"v": v}), {}, Randomness(0), Arena()).run({"x": array})["v"].copy() for v in (value, rewritten))
    np.testing.assert_allclose(found, plain, atol=1e-12)
