"""Every primitive on the executor: its value by NumPy, its gradient and the gradient of that by differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from networks import differences

from nnc.compiler.autodiff import gradients
from nnc.compiler.ir import PRIMITIVES, Batch, Graph, TensorType, Value, apply
from nnc.compiler.primitives import total
from nnc.compiler.verify import verify
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.kernels import KERNELS, Randomness

Array = np.ndarray[Any, Any]
random = np.random.default_rng(7)


def normal(*shape: int) -> Array:
    return random.normal(size=shape)


def positive(*shape: int) -> Array:
    return random.uniform(0.5, 2, shape)


@dataclass
class Case:
    """A primitive on operands. `slopes`: those with a gradient. `batched`: those whose first axis is the batch."""

    operands: Sequence[Array]
    value: Callable[..., Any] | None = None  # what NumPy says; None where torch judges, in test_operations.py
    attributes: Mapping[str, Any] = field(default_factory=dict)
    slopes: Sequence[int] = (0,)
    batched: Sequence[int] = ()


CONVOLUTION = {"stride": (2, 1), "padding": ((1, 0), (1, 2)), "dilation": (1, 2), "groups": 2}
POOL = {"window": (2, 3), "stride": (2, 1), "padding": ((0, 1), (1, 1))}
IMAGE, KERNEL = normal(2, 4, 4, 5), normal(2, 2, 2, 3)
CONVOLVED, POOLED = (2, 2, 2, 4), (2, 4, 2, 5)


def pooled() -> Array:
    """The maxima of IMAGE's windows, which max_pool's gradient takes as they are."""
    padded = np.pad(IMAGE, ((0, 0), (0, 0), *POOL["padding"]), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, POOL["window"], (2, 3))[:, :, ::2, ::1]
    return windows.max((-1, -2))


CASES: dict[str, list[Case]] = {
    "negative": [Case([normal(3, 2)], np.negative)],
    "exp": [Case([normal(3, 2)], np.exp)],
    "log": [Case([positive(3, 2)], np.log)],
    "log1p": [Case([positive(3, 2)], np.log1p)],
    "expm1": [Case([normal(3, 2)], np.expm1)],
    "sqrt": [Case([positive(3, 2)], np.sqrt)],
    "tanh": [Case([normal(3, 2)], np.tanh)],
    "sigmoid": [Case([normal(3, 2)], lambda x: 0.5 + 0.5 * np.tanh(x / 2))],
    "softplus": [Case([normal(3, 2)], lambda x: np.log(1 + np.exp(x)))],
    "erf": [Case([normal(3, 2)], np.vectorize(math.erf))],
    "absolute": [Case([normal(3, 2)], np.abs)],
    "sign": [Case([np.array([-2.0, 0.0, 3.0])], np.sign, slopes=())],
    "floor": [Case([np.array([-1.5, -0.0, 2.0, 2.9])], np.floor, slopes=())],
    "add": [
        Case([normal(3, 2), normal(2)], np.add, slopes=(0, 1)),
        Case([normal(1, 2), normal(3, 1)], np.add, slopes=(0, 1)),
    ],
    "subtract": [Case([normal(3, 1), normal(4, 1, 2)], np.subtract, slopes=(0, 1))],
    "multiply": [
        Case([normal(3, 2), normal(2)], np.multiply, slopes=(0, 1)),
        Case([normal(), normal(2, 2)], np.multiply, slopes=(0, 1)),
    ],
    "divide": [
        Case([normal(3, 2), positive(3, 1)], np.divide, slopes=(0, 1)),
        Case([normal(3), positive(2, 3)], np.divide, slopes=(0, 1)),
    ],
    "power": [
        Case([positive(3, 2), normal(2)], np.power, slopes=(0, 1)),
        Case([normal(3), np.array(3.0)], np.power, slopes=(0,)),  # a negative base has no logarithm
    ],
    "maximum": [Case([normal(3, 2), normal(2)], np.maximum, slopes=(0, 1))],
    "minimum": [Case([normal(3, 2), normal(3, 1)], np.minimum, slopes=(0, 1))],
    "greater": [Case([np.arange(3.0), np.full(3, 1.0)], np.greater, slopes=())],
    "greater_equal": [Case([np.arange(3.0), np.full(3, 1.0)], np.greater_equal, slopes=())],
    "less": [Case([np.arange(3.0), np.full(3, 1.0)], np.less, slopes=())],
    "less_equal": [Case([np.arange(3.0), np.full(3, 1.0)], np.less_equal, slopes=())],
    "equal": [Case([np.arange(3), np.full(3, 1)], np.equal, slopes=())],
    "is_nan": [Case([np.array([1.0, np.nan, np.inf])], np.isnan, slopes=())],
    "where": [
        Case([normal(3, 2) > 0, normal(3, 2), normal(2)], np.where, slopes=(1, 2)),
        Case([np.array([True, False]), normal(3, 1), normal()], np.where, slopes=(1, 2)),
    ],
    "cast": [
        Case([normal(3)], lambda x: x, {"dtype": "float64"}),
        Case([np.array([True, False])], lambda x: x.astype(float), {"dtype": "float64"}, slopes=()),
        Case([np.array([2.9, -1.0])], lambda x: x.astype(int), {"dtype": "int64"}, slopes=()),
    ],
    "surrogate": [Case([normal(3), normal(3)], lambda a, b: a, slopes=())],  # its gradient is not its value's: below
    "reduce_sum": [
        Case([normal(3, 2, 2)], lambda x: x.sum((0, 2)), {"axes": (0, 2), "keepdims": False}),
        Case([normal(3, 2, 2)], lambda x: x.sum(1, keepdims=True), {"axes": (1,), "keepdims": True}),
        Case([normal(3, 2)], np.sum, {"axes": (0, 1), "keepdims": False}),
    ],
    "reduce_max": [
        Case([normal(3, 4)], lambda x: x.max(1), {"axes": (1,), "keepdims": False}),
        Case([normal(3, 4, 2)], lambda x: x.max((0, 1), keepdims=True), {"axes": (0, 1), "keepdims": True}),
    ],
    "dot": [Case([normal(3, 2), normal(3, 2)], lambda a, b: (a * b).sum(), slopes=(0, 1))],
    "argmax": [Case([normal(3, 4)], lambda x: x.argmax(1), {"axis": 1}, slopes=())],
    "matmul": [
        Case(
            [normal(*((3, 2) if ta else (2, 3))), normal(*((4, 3) if tb else (3, 4)))],
            lambda a, b, ta=ta, tb=tb: (a.T if ta else a) @ (b.T if tb else b),
            {"transpose_a": ta, "transpose_b": tb},
            slopes=(0, 1),
        )
        for ta in (False, True)
        for tb in (False, True)
    ]
    + [
        Case([normal(2, 3, 4), normal(2, 4, 2)], np.matmul, {"transpose_a": False, "transpose_b": False}, slopes=(0, 1))
    ],
    "softmax": [
        Case([normal(3, 4)], lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True), {"axis": 1}),
        Case([normal(3, 4, 2)], None, {"axis": 1}),
    ],
    "log_softmax": [Case([normal(3, 4)], lambda x: x - np.log(np.exp(x).sum(0)), {"axis": 0})],
    "conv2d": [Case([IMAGE, KERNEL], None, CONVOLUTION, slopes=(0, 1), batched=(0,))],
    "conv2d_input_gradient": [Case([normal(*CONVOLVED), KERNEL], None, CONVOLUTION | {"size": (4, 5)}, (0, 1), (0,))],
    "conv2d_weight_gradient": [
        Case([IMAGE, normal(*CONVOLVED)], None, CONVOLUTION | {"window": (2, 3)}, (0, 1), (0, 1))
    ],
    "max_pool": [Case([IMAGE], lambda x: pooled(), POOL, batched=(0,))],
    "max_pool_gradient": [Case([IMAGE, pooled(), normal(*POOLED)], None, POOL, slopes=(2,), batched=(0, 1, 2))],
    "max_pool_gather": [Case([IMAGE, pooled(), normal(2, 4, 4, 5)], None, POOL, slopes=(2,), batched=(0, 1, 2))],
    "avg_pool": [Case([IMAGE], None, POOL, batched=(0,))],
    "avg_pool_gradient": [Case([normal(*POOLED)], None, POOL | {"size": (4, 5)}, batched=(0,))],
    "reshape": [Case([normal(3, 2)], lambda x: x.reshape(2, 3), {"shape": (2, 3)})],
    "transpose": [Case([normal(3, 2, 4)], lambda x: x.transpose(2, 0, 1), {"order": (2, 0, 1)})],
    "broadcast_to": [Case([normal(3, 1)], lambda x: np.broadcast_to(x, (2, 3, 4)), {"shape": (2, 3, 4)})],
    "slice": [Case([normal(3, 5)], lambda x: x[:, 1:4], {"axis": 1, "start": 1, "stop": 4})],
    "pad": [Case([normal(3, 2)], lambda x: np.pad(x, ((0, 0), (1, 2))), {"axis": 1, "before": 1, "after": 2})],
    "concat": [
        Case(
            [normal(2, 3), normal(2, 1), normal(2, 2)], lambda *xs: np.concatenate(xs, 1), {"axis": 1}, slopes=(0, 1, 2)
        )
    ],
    "pack": [Case([normal(2, 3), normal(), normal(4)], lambda *xs: np.concatenate([x.ravel() for x in xs]), slopes=())],
    "part": [Case([normal(9)], lambda x: x[2:8].reshape(2, 3), {"start": 2, "shape": (2, 3)}, slopes=())],
    "one_hot": [Case([np.array([2, 0, 3])], lambda i: np.eye(4)[i], {"depth": 4, "dtype": "float64"}, slopes=())],
    "pick": [
        Case([normal(3, 4), np.array([3, 0, 3])], lambda x, i: x[[0, 1, 2], i]),
        Case([normal(2, 2, 3), np.array([[0, 2], [1, 1]])]),
    ],
    "lookup": [
        Case(
            [np.array([5, 7, 6])],
            lambda x: [0, 9, 1],
            {"keys": (5, 6), "values": (0, 1), "default": 9, "dtype": "int64"},
            slopes=(),
        ),
    ],
    "gather": [
        Case([normal(4, 3), np.array([3, 0, 3, 1])], lambda t, i: t[i]),
        Case([normal(3, 2, 2), np.array([[2, 2, 0], [1, 2, 2]])], lambda t, i: t[i]),
        Case([normal(5), np.array([4, 0])], lambda t, i: t[i]),
    ],
    "scatter_add": [
        Case([normal(4, 3), np.array([3, 0, 3, 1])], lambda g, i: np.eye(5)[:, i] @ g, {"rows": 5}),
        Case([normal(2, 3, 2), np.array([[2, 2, 0], [1, 2, 2]])], lambda g, i: np.eye(4)[:, i.ravel()] @ g.reshape(6, 2), {"rows": 4}),
        Case([normal(3), np.array([0, 0, 0])], lambda g, i: [g.sum(), 0], {"rows": 2}),
        Case([normal(3), np.array([2, 0, 2])], lambda g, i: [g[1], 0, g[0] + g[2], 0], {"rows": 4}),
        Case([normal(2, 65), np.array([1, 1])], lambda g, i: np.stack([0 * g[0], g.sum(0), 0 * g[0]]), {"rows": 3}),
    ],
    "coalesce": [
        Case([normal(4, 3), np.array([3, 0, 3, 1])], lambda g, i: (i[:, None] == i) @ g, {"rows": 5}),
        Case([normal(3, 2), np.array([4, 0, 2])], lambda g, i: g, {"rows": 5}),
        Case([normal(5, 2), np.array([7, 7, 1, 7, 1])], lambda g, i: (i[:, None] == i) @ g, {"rows": 8}),
    ],
    "scatter_update": [
        Case([normal(4, 2), np.array([3, 0]), np.ones((2, 2))], lambda t, i, r: np.stack([r[1], t[1], t[2], r[0]]), slopes=()),
        Case([normal(3, 2), np.array([1, 1]), np.ones((2, 2))], lambda t, i, r: np.stack([t[0], r[0], t[2]]), slopes=()),
    ],
    # test_operations.py compares these with torch and with differences, test_passes.py with the same written out.
    "recurrence": [
        Case([normal(3, 5, 8), normal(8, 2)], None, {"kind": "lstm", "reverse": False}, slopes=()),
        Case([normal(3, 5, 6), normal(6, 2), normal(2)], None, {"kind": "gru", "reverse": True}, slopes=()),
    ],
    "recurrence_gradient": [
        Case([normal(3, 5, 2), normal(7, 3, 5, 2), normal(8, 2)], None, {"kind": "lstm", "reverse": True}, slopes=()),
        Case([normal(3, 5, 2), normal(5, 3, 5, 2), normal(6, 2)], None, {"kind": "gru", "reverse": False}, slopes=()),
    ],
    "recurrent": [
        Case([normal(2, 3, 2), normal(1, 8, 2), normal(1, 8, 2), normal(1, 16)], None, {"kind": "lstm", "sequences": True}, slopes=(), batched=(0,)),
    ],
    "quantize": [
        Case([np.array([-9.0, -0.25, 0.75, 9.0]), np.array(0.5), np.array(-3, np.int8)], lambda x, s, z: [-21, -3, -1, 15], slopes=()),  # halves to even
        Case([np.array([-1e9, 1e9]), np.array(0.1), np.array(0, np.int8)], lambda x, s, z: [-128, 127], slopes=()),
        Case([np.array([-1e9, 1e9]), np.array(0.1), np.array(9, np.uint8)], lambda x, s, z: [0, 255], slopes=()),
    ],
    "dequantize": [
        Case([np.array([-128, 127], np.int8), np.array(0.5), np.array(127, np.int8)], lambda q, s, z: [-127.5, 0], {"axis": None}, slopes=()),
        Case([np.array([[1, -2], [3, 4]], np.int8), np.array([0.5, 2.0])], lambda q, s: q * s, {"axis": 1}, slopes=()),
    ],
    "normal": [Case([normal(500, 4)], None, {"stream": "a"}, slopes=())],
    "bernoulli": [Case([normal(500, 4)], None, {"probability": 0.25, "stream": "a"}, slopes=())],
}

LEAVES = {"input", "variable", "scalar", "constant"}
OF_THE_BATCH_ALONE = {"axis_size"}


def test_every_primitive_has_a_case_and_a_kernel() -> None:
    assert CASES.keys() | LEAVES | OF_THE_BATCH_ALONE == PRIMITIVES.keys()
    views = {name for name, primitive in PRIMITIVES.items() if primitive.view}
    assert KERNELS.keys() >= PRIMITIVES.keys() - views - LEAVES - OF_THE_BATCH_ALONE
    assert {name for name, primitive in PRIMITIVES.items() if primitive.leaf} == LEAVES


class Built:
    """A case as a graph: operands are variables, or inputs where their first axis is the batch's."""

    def __init__(self, name: str, case: Case):
        self.arrays = {f"x{i}": np.array(array) for i, array in enumerate(case.operands)}
        self.batched = {f"x{i}" for i in case.batched}
        self.values = [self.leaf(leaf, array) for leaf, array in self.arrays.items()]
        self.result = apply(name, *self.values, **case.attributes)

    def leaf(self, name: str, array: Array) -> Value:
        if name in self.batched:
            kind = TensorType(str(array.dtype), (Batch(), *array.shape[1:]))
            return apply("input", name=name, type=kind)
        return apply("variable", name=name, type=TensorType(str(array.dtype), array.shape))

    def weighted(self, value: Value) -> Value:
        """The sum of a value's elements, each with a weight of its own: no two errors cancel."""
        name, shape = f"w{len(self.arrays)}", tuple(2 * d.factor if isinstance(d, Batch) else d for d in value.shape)
        if value.shape and isinstance(value.shape[0], Batch):
            self.batched.add(name)
        self.arrays[name] = random.normal(size=shape)
        return total(value * self.leaf(name, self.arrays[name]))

    def run(self, *values: Value) -> list[Array]:
        graph = Graph({str(i): v for i, v in enumerate(values)})
        verify(graph)
        inputs = {name: array for name, array in self.arrays.items() if name in self.batched}
        found = Executor(graph, self.arrays, Randomness(3), Arena()).run(inputs)
        return [array.copy() for array in found.values()]

    def check(self, objective: Value, slopes: Sequence[int]) -> Value | None:
        """The objective's gradients against differences; a weighted sum of them, to be differentiated again."""
        wanted = [self.values[i] for i in slopes]
        found = gradients(objective, wanted)
        executor = Executor(Graph({"f": objective}), self.arrays, Randomness(3), Arena())

        def at_present() -> float:
            return float(executor.run({name: self.arrays[name] for name in self.batched})["f"])

        known = [(v, g) for v, g in zip(wanted, found, strict=True) if g is not None]
        arrays = dict(zip((v.name for v, _ in known), self.run(*(g for _, g in known)), strict=True)) if known else {}
        for value in wanted:
            numeric = differences(at_present, self.arrays[value.name])
            given = arrays.get(value.name, np.zeros_like(numeric))
            np.testing.assert_allclose(
                given, numeric, rtol=0, atol=1e-7 * max(1.0, np.abs(numeric).max()), err_msg=value.name
            )
        again: Value | None = None
        for _, g in known:
            term = self.weighted(g)
            again = term if again is None else again + term
        return again


EACH = [
    pytest.param(name, case, id=f"{name}{i or ''}") for name, cases in CASES.items() for i, case in enumerate(cases)
]


@pytest.mark.parametrize(("name", "case"), [p for p in EACH if p.values[1].value is not None])
def test_the_value_is_numpys(name: str, case: Case) -> None:
    built = Built(name, case)
    assert case.value is not None
    (found,) = built.run(built.result)
    np.testing.assert_allclose(found, case.value(*case.operands), rtol=1e-13, atol=1e-15)
    assert str(found.dtype) == built.result.dtype


@pytest.mark.parametrize(("name", "case"), [p for p in EACH if p.values[1].slopes])
def test_first_and_second_gradients_are_those_of_differences(name: str, case: Case) -> None:
    built = Built(name, case)
    again = built.check(built.weighted(built.result), case.slopes)
    assert again is not None
    built.check(again, case.slopes)


def test_what_has_no_slope_stops_the_gradient() -> None:
    x = apply("variable", name="x", type=TensorType("float64", (3,)))
    zero = apply("constant", value=0.0, dtype="float64")
    for flat in (
        apply("sign", x),
        apply("cast", apply("greater", x, zero), dtype="float64"),
        apply("floor", x),
        apply("bernoulli", x, probability=0.5, stream="s"),
        apply("normal", x, stream="s"),
    ):
        assert gradients(total(flat), [x]) == [None]


def test_a_surrogate_has_the_value_of_one_and_the_gradient_of_the_other() -> None:
    built = Built("surrogate", CASES["surrogate"][0])
    a, b = built.values
    found = gradients(total(apply("surrogate", apply("exp", a), apply("tanh", b))), [a, b])
    assert found[0] is None
    np.testing.assert_allclose(built.run(found[1])[0], 1 - np.tanh(built.arrays["x1"]) ** 2)


def test_ties_of_a_maximum_go_one_way_and_those_of_a_reduction_are_shared() -> None:
    x = apply("variable", name="x", type=TensorType("float64", (4,)))
    arrays = {"x": np.array([1.0, 2.0, 2.0, 0.0])}

    def slope(value: Value) -> Array:
        (g,) = gradients(total(value), [x])
        return Executor(Graph({"g": g}), arrays, Randomness(0), Arena()).run({})["g"].copy()

    two = apply("constant", value=2.0, dtype="float64")
    np.testing.assert_array_equal(slope(apply("maximum", x, two)), [0, 0, 0, 0])
    np.testing.assert_array_equal(slope(apply("minimum", x, two)), [1, 0, 0, 1])
    np.testing.assert_array_equal(slope(apply("reduce_max", x, axes=(0,), keepdims=False)), [0, 0.5, 0.5, 0])


def test_of_equal_elements_of_a_window_the_first_gets_the_gradient() -> None:
    x = apply("input", name="x", type=TensorType("float64", (Batch(), 1, 3, 4)))
    top = apply("max_pool", x, window=(2, 2), stride=(1, 2), padding=((0, 0), (0, 0)))
    (g,) = gradients(total(top), [x])
    image = np.array([[[[0.0, 5, 5, 5], [5, 1, 5, 5], [5, 5, 0, 0]]]])
    found = Executor(Graph({"g": g}), {}, Randomness(0), Arena()).run({"x": image})["g"]
    np.testing.assert_array_equal(found, [[[[0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]]])


def test_an_axis_has_the_size_of_the_batch() -> None:
    x = apply("input", name="x", type=TensorType("float64", (Batch(), 3)))
    rows = apply("reshape", x, shape=(Batch(3), 1))
    sizes = {
        str(i): apply("axis_size", v, axis=axis, dtype="float64")
        for i, (v, axis) in enumerate([(x, 0), (x, 1), (rows, 0)])
    }
    executor = Executor(Graph(sizes | {"x": x}), {}, Randomness(0), Arena())
    for n in (4, 2):
        found = executor.run({"x": np.ones((n, 3))})
        assert [float(found[str(i)]) for i in range(3)] == [n, 3, 3 * n]


def test_a_gradient_is_the_sum_over_all_uses() -> None:
    built = Built("exp", Case([normal(3)]))
    (x,) = built.values
    y = built.result
    both = y * x + apply("tanh", y) / (x * x + 1.0) - x
    again = built.check(built.weighted(both), (0,))
    assert again is not None
    built.check(again, (0,))


@pytest.mark.parametrize("probability", [0.001, 0.25, 0.5, 0.999])
def test_bernoulli_meets_its_probability(probability: float) -> None:
    x = apply("input", name="x", type=TensorType("float64", (Batch(), 7)))
    drawn = apply("bernoulli", x, probability=probability, stream="s")
    executor = Executor(Graph({"d": drawn}), {}, Randomness(1), Arena())
    found = executor.run({"x": np.zeros((30_001, 7))})["d"]
    assert set(np.unique(found)) <= {0.0, 1.0}
    assert abs(found.mean() - probability) < 4 * np.sqrt(probability * (1 - probability) / found.size) + 2**-16


def drawn(stream: str, *, seed: int = 1, step: int = 0, dtype: str = "float64") -> Array:
    x = apply("input", name="x", type=TensorType(dtype, (Batch(), 7)))
    executor = Executor(Graph({"d": apply("normal", x, stream=stream)}), {}, Randomness(seed, step), Arena())
    return executor.run({"x": np.zeros((20_001, 7), dtype)})["d"].copy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_numbers_have_their_distribution(dtype: str) -> None:
    found = np.sort(drawn("s", dtype=dtype).ravel())
    places = (np.arange(len(found)) + 0.5) / len(found)
    distance = np.abs([math.erf(v / math.sqrt(2)) / 2 + 0.5 for v in found] - places).max()
    assert distance * math.sqrt(len(found)) < 1.9


def test_normal_numbers_depend_on_seed_stream_and_step_alone() -> None:
    first = drawn("s")
    np.testing.assert_array_equal(drawn("s"), first)
    for other in (drawn("t"), drawn("s", seed=2), drawn("s", step=1)):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.02


# erf, which NumPy lacks


def error_function(x: Array) -> Array:
    v = apply("variable", name="x", type=TensorType(str(x.dtype), x.shape))
    return Executor(Graph({"y": apply("erf", v)}), {"x": x}, Randomness(0), Arena()).run({})["y"].copy()


@pytest.mark.parametrize(("dtype", "unit"), [("float64", 6.7e-16), ("float32", 3.6e-7)])
def test_erf_is_that_of_the_standard_library(dtype: str, unit: float) -> None:
    sizes = np.concatenate([np.linspace(0, 12, 20_001), np.geomspace(1e-300 if dtype == "float64" else 1e-37, 30, 2_001)])
    x = np.concatenate([sizes, -sizes]).astype(dtype)
    np.testing.assert_allclose(error_function(x), [math.erf(v) for v in x.tolist()], rtol=0, atol=unit)


def test_erf_at_the_ends() -> None:
    found = error_function(np.array([np.inf, -np.inf, 1e308, -1e308, np.nan]))
    np.testing.assert_array_equal(found, [1, -1, 1, -1, np.nan])


@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
def test_large_pre_activations_of_a_recurrent_layer_stay_finite(kind: str) -> None:
    gates = {"lstm": 4, "gru": 3}.get(kind, 1)
    arrays = {"w": np.full((1, gates, 1), 1e4), "r": np.zeros((1, gates, 1)), "b": np.zeros((1, 2 * gates))}
    operands = [apply("variable", name=n, type=TensorType("float64", a.shape)) for n, a in arrays.items()]
    x = apply("input", name="x", type=TensorType("float64", (Batch(), 2, 1)))
    y = apply("recurrent", x, *operands, kind=kind, sequences=True)
    found = Executor(Graph({"y": y}), arrays, Randomness(0), Arena()).run({"x": np.array([[[1.0], [-1.0]]])})["y"]
    assert np.isfinite(found).all()
