"""The training step as one ONNX graph: every primitive, every optimiser, random networks, and what onnxruntime makes of it step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest
from drawing import network
from networks import spec
from test_primitives import CASES, Case

import nnc
from nnc.compiler.diagnostics import SpecError
from nnc.compiler.ir import PRIMITIVES, Batch, Graph, TensorType, apply
from nnc.compiler.onnx_export import serialised
from nnc.compiler.onnx_step import step_to_onnx
from nnc.compiler.onnx_training import NEW, STEP, TRAINING, drawn
from nnc.compiler.operation import Kind, find, names
from nnc.runtime.device import session
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.kernels import Randomness
from nnc.runtime.onnx_steps import OnnxSteps, states

Array = np.ndarray[Any, Any]
EPSILON = np.finfo(np.float32).eps

# Primitives


def test_every_primitive_has_a_lowering_for_training() -> None:
    assert set(TRAINING) == {name for name, p in PRIMITIVES.items() if not p.leaf} - {"bernoulli", "normal"}


def single(array: Any) -> Array:
    given = np.asarray(array)
    return given.astype(np.float32) if given.dtype == np.float64 else given


def both(graph: Graph, arrays: Mapping[str, Array], threads: int = 1) -> tuple[dict[str, Array], dict[str, Array]]:
    """What NumPy and what onnxruntime make of a graph's outputs; its variables are states."""
    inputs = {name: arrays[name] for name in graph.leaves("input")}
    variables = {name: arrays[name] for name in graph.leaves("variable")}
    wanted = {name: array.copy() for name, array in Executor(graph, variables, Randomness(0), Arena()).run(inputs).items()}
    kinds = {name: TensorType(str(array.dtype), array.shape) for name, array in variables.items()}
    found = {}
    for optimise in (False, True):
        made = session(serialised(step_to_onnx(graph, kinds, {}, name="t", metadata={})), optimise=optimise, threads=threads)
        given = {i.name: arrays[i.name] for i in made.get_inputs()}
        found = dict(zip(graph.outputs, made.run([STEP + name for name in graph.outputs], given), strict=True))
    return wanted, found


MORE = {"axis_size": [Case([np.ones((3, 2))], attributes={"axis": 0, "dtype": "float32"}, batched=(0,))]}
EACH = [pytest.param(name, case, id=f"{name}{i or ''}") for name in TRAINING for i, case in enumerate((CASES | MORE)[name])]


def of_case(name: str, case: Case) -> tuple[Graph, dict[str, Array]]:
    arrays = {f"x{i}": single(a) for i, a in enumerate(case.operands)}
    operands = []
    for i, (key, array) in enumerate(arrays.items()):
        shape = (Batch(), *array.shape[1:]) if i in case.batched else array.shape
        operands.append(apply("input" if i in case.batched else "variable", name=key, type=TensorType(str(array.dtype), shape)))
    attributes = {k: "float32" if v == "float64" else v for k, v in case.attributes.items()}
    return Graph({"y": apply(name, *operands, **attributes)}), arrays


OWN = ("recurrence", "recurrence_gradient")  # what is kept for the gradient is each engine's own matter: test_recurrences compares both together


@pytest.mark.parametrize(("name", "case"), [p for p in EACH if p.values[0] not in ("lookup", *OWN)])
def test_a_primitive_in_training_is_numpys(name: str, case: Case) -> None:
    wanted, found = both(*of_case(name, case))
    assert found["y"].shape == wanted["y"].shape
    assert found["y"].dtype == wanted["y"].dtype
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-5, atol=2e-6 if wanted["y"].dtype.kind == "f" else 0)


# Operators of opset 18 with a kernel on CUDA for what a step gives them: docs/OperatorKernels.md of onnxruntime
CUDA = set(
    "Abs Add And ArgMax AveragePool Cast Concat Conv ConvTranspose Div Equal Erf Exp Expand Floor Gather GatherElements Gemm Greater GreaterOrEqual "
    "Identity IsNaN Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Min Mul Neg Not Pad Pow Range ReduceMax ReduceSum Relu Reshape Scan "
    "ScatterElements ScatterND Shape Sigmoid Sign Slice Softmax Softplus Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze Where".split()
)


def operators(graph: Any) -> set[str]:
    return {node.op_type for node in graph.node} | {op for node in graph.node for a in node.attribute for op in operators(a.g)}


def test_no_operator_of_a_step_would_stay_on_the_cpu() -> None:
    used = set()
    for name, case in (p.values for p in EACH if p.values[0] not in ("lookup", "recurrent", "quantize", "dequantize")):  # of other graphs
        graph, arrays = of_case(name, case)
        kinds = {key: TensorType(str(arrays[key].dtype), arrays[key].shape) for key in graph.leaves("variable")}
        used |= operators(step_to_onnx(graph, kinds, {}, name="t", metadata={}).graph)
    assert used - CUDA == set()
    assert {"Scan", "ScatterElements", "ConvTranspose"} <= used


N = Batch()
IMAGES = [
    {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1},
    {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 2},
    {"stride": (2, 3), "padding": ((0, 2), (1, 0)), "dilation": (2, 1), "groups": 4},
    {"stride": (3, 2), "padding": ((2, 2), (2, 2)), "dilation": (2, 2), "groups": 1},
]  # fmt: skip


@pytest.mark.parametrize("settings", IMAGES, ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 2)])
def test_gradients_of_convolutions(settings: dict[str, Any], kernel: tuple[int, int]) -> None:
    """Strides that leave rows over, dilation, groups; one graph for every batch size."""
    random = np.random.default_rng(0)
    x = apply("input", name="x", type=TensorType("float32", (N, 4, 9, 10)))
    w = apply("variable", name="w", type=TensorType("float32", (8, 4 // settings["groups"], *kernel)))
    y = apply("conv2d", x, w, **settings)
    g = apply("input", name="g", type=y.type)
    graph = Graph({
        "x": apply("conv2d_input_gradient", g, w, size=(9, 10), **settings),
        "w": apply("conv2d_weight_gradient", x, g, window=kernel, **settings),
    })  # fmt: skip
    for n in (1, 5):
        arrays = {"x": random.normal(size=(n, 4, 9, 10)), "w": random.normal(size=w.shape), "g": random.normal(size=(n, *y.shape[1:]))}
        wanted, found = both(graph, {k: single(v) for k, v in arrays.items()})
        for name, reference in wanted.items():
            np.testing.assert_allclose(found[name], reference, rtol=1e-5, atol=1e-5 * np.abs(reference).max())


@pytest.mark.parametrize("window", [(2, 2), (3, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 0), (0, 1))])
def test_gradients_of_pools(window: tuple[int, int], stride: tuple[int, int], padding: Any) -> None:
    """Windows that touch, overlap, leave gaps and leave rows over, also at ties."""
    random = np.random.default_rng(0)
    settings = {"window": window, "stride": stride, "padding": padding}
    x = apply("input", name="x", type=TensorType("float32", (N, 3, 6, 8)))
    top = apply("max_pool", x, **settings)
    g = apply("input", name="g", type=top.type)
    graph = Graph({
        "top": top,
        "max": apply("max_pool_gradient", x, top, g, **settings),
        "avg": apply("avg_pool_gradient", g, size=(6, 8), **settings),
    })  # fmt: skip
    arrays = {"x": random.integers(0, 3, (4, 3, 6, 8)), "g": random.normal(size=(4, *top.shape[1:]))}
    wanted, found = both(graph, {k: single(v.astype(float)) for k, v in arrays.items()})
    for name, reference in wanted.items():
        np.testing.assert_allclose(found[name], reference, rtol=1e-6, atol=1e-6)


def test_rows_of_one_index_are_not_lost_by_threads() -> None:
    """200,000 rows into 1,000, on all threads: a sum of small integers is exact."""
    random = np.random.default_rng(0)
    g = apply("input", name="g", type=TensorType("float32", (N, 4)))
    index = apply("input", name="i", type=TensorType("int64", (N,)))
    graph = Graph({"table": apply("scatter_add", g, index, rows=1000), "rows": apply("coalesce", g, index, rows=1000)})
    arrays = {"g": random.integers(-4, 5, (200_000, 4)).astype(np.float32), "i": random.integers(0, 1000, 200_000)}
    for _ in range(3):
        wanted, found = both(graph, arrays, threads=0)
        np.testing.assert_array_equal(found["table"], wanted["table"])
        np.testing.assert_array_equal(found["rows"], wanted["rows"])


@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
def test_recurrences(kind: str, reverse: bool, steps: int) -> None:
    """Forward, and back from the states that the forward walk has kept."""
    random = np.random.default_rng(0)
    gates, units = {"lstm": 4, "gru": 3}.get(kind, 1), 3
    z = apply("input", name="z", type=TensorType("float32", (N, steps * gates * units)))
    inner = apply("transpose", apply("reshape", z, shape=(N, steps, gates * units)), order=(1, 0, 2))
    r = apply("variable", name="r", type=TensorType("float32", (gates * units, units)))
    b = [apply("variable", name="b", type=TensorType("float32", (units,)))] if kind == "gru" else []
    cells = apply("recurrence", inner, r, *b, kind=kind, reverse=reverse)
    states_ = apply("reshape", apply("slice", cells, axis=0, start=0, stop=1), shape=cells.shape[1:])
    back = apply("recurrence_gradient", states_ * 0.5, cells, r, kind=kind, reverse=reverse)
    graph = Graph({"states": states_, "back": back, "first": apply("slice", back, axis=0, start=0, stop=1)})
    arrays = {"z": random.normal(size=(5, steps * gates * units)), "r": random.normal(size=r.shape), "b": random.normal(size=units)}
    wanted, found = both(graph, {k: single(v) for k, v in arrays.items()})
    for name, reference in wanted.items():
        np.testing.assert_allclose(found[name], reference, rtol=1e-5, atol=1e-6, err_msg=name)


def test_an_axis_of_the_batch_has_its_size_when_the_graph_runs() -> None:
    x = apply("input", name="x", type=TensorType("float32", (N, 2)))
    tall = apply("broadcast_to", apply("constant", value=2.0, dtype="float32"), shape=(Batch(2), 3))
    graph = Graph({"x": x, "tall": tall, "n": apply("axis_size", x, axis=0, dtype="float32")})
    made = session(serialised(step_to_onnx(graph, {}, {}, name="t", metadata={})))
    for n in (1, 4):
        _, tall_, size = made.run(None, {"x": np.ones((n, 2), np.float32)})
        assert (tall_.shape, size) == ((2 * n, 3), n)


def test_random_values_of_one_stream_and_different_shapes_are_inputs_of_their_own() -> None:
    a, b = (apply("input", name=n, type=TensorType("float32", (N, k))) for n, k in (("a", 2), ("b", 3)))
    graph = Graph({n: apply("bernoulli", v, probability=0.5, stream="s") for n, v in (("a", a), ("b", b))} | {"c": apply("normal", a, stream="s")})
    assert list(drawn(graph)) == ["mask:s", "mask:s:2", "noise:s"]


# Steps of whole networks, each from the same state


class Twins:
    """A model on NumPy and one on onnxruntime, which is put into the first one's state before every step."""

    def __init__(self, text: str, batch: Mapping[str, Array], prepare: Callable[[Any], None] = lambda model: None, device: str = "cpu"):
        self.batch = {name: single(array) for name, array in batch.items()}
        self.plain, self.other = (nnc.compile(text).init(1) for _ in range(2))
        prepare(self.plain)
        self.plain.slots()
        self.other._fresh(self.other._checked(self.batch, targets=True))
        self.steps = OnnxSteps(self.other, device)
        self.filled: Any = self.steps.at(len(next(iter(self.batch.values()))))
        self.feed(self.batch)

    def feed(self, batch: Mapping[str, Array]) -> None:
        self.batch = {name: single(array) for name, array in batch.items()}
        for name, array in self.filled.inputs.items():
            np.copyto(array, self.batch[name], casting="unsafe")

    def step(self, again: bool = True) -> tuple[float, float]:
        """The objectives before the step, by NumPy and by onnxruntime; `again`: from NumPy's state."""
        if again:
            self.other.restore(self.plain.state(), self.plain.step_count)
            self.steps.begun = False
        found = self.filled.advance()
        wanted = self.plain.step(self.batch)
        self.steps.settle()
        return wanted, found

    def gradients(self) -> dict[str, tuple[Array, Array]]:
        """The first step's gradients, where `momentum` has kept them, by both."""
        wanted, found = states(self.plain), states(self.other)
        return {name: (wanted[name], found[name]) for name in wanted if name.endswith("/velocity")}


def largest(gradients: Mapping[str, tuple[Array, Array]]) -> float:
    return max(float(np.abs(wanted).max()) for wanted, _ in gradients.values())


def apart(gradients: Mapping[str, tuple[Array, Array]], least: float = 1e-9) -> dict[str, float]:
    """max |difference| / max |wanted| by parameter; that of the whole network, times `least`, counts where a gradient is zero."""
    floor = least * largest(gradients)
    return {name: float(np.abs(wanted - found).max()) / max(float(np.abs(wanted).max()), floor) for name, (wanted, found) in gradients.items()}


@pytest.mark.parametrize("seed", range(15))
def test_the_step_of_a_random_network(seed: int) -> None:
    """Loss and gradients in float32, as far from those in float64 as NumPy's own, or 1e-5 of them."""
    drawn_, model, batch = network(seed)
    exact = drawn_.text.replace("sgd(lr=0.01)", "momentum(lr=0.01)")
    text = exact.replace("precision = float64", "precision = float32")
    assert text != exact != drawn_.text
    arrays = {name: single(array) for name, array in model.parameters.items()}
    batch = {name: single(array) for name, array in batch.items()}

    def prepare(other: Any) -> None:
        for name, array in arrays.items():
            other.parameters[name] = array

    twins = Twins(text, batch, prepare)
    wanted, found = twins.step()
    assert found == pytest.approx(wanted, rel=1e-5)
    reference = nnc.compile(exact).init(1)
    prepare(reference)
    reference.step(batch)
    gradients = twins.gradients()
    floor = 1e-7 * largest(gradients)
    for name, truth in states(reference).items():
        if name.endswith("/velocity"):
            plain, other = (float(np.abs(array - truth).max()) for array in gradients[name])
            assert other <= 1e-5 * float(np.abs(truth).max()) + 20 * plain + floor, name


def solves(name: str) -> bool:
    operation = find(Kind.OPTIMISER, name)
    return operation is not None and "solver" in operation.facts


OPTIMISERS = {name: f"{name}(lr=0.01)" for name in names(Kind.OPTIMISER) if not solves(name)} | {
    "momentum_ema": "momentum(lr=0.01, form=ema, weight_decay=0.1)",
    "rmsprop_all": "rmsprop(lr=0.01, momentum=0.5, centered=true, eps_in=inside)",
    "adamw_inside": "adamw(lr=0.01, eps_in=inside)",
}  # fmt: skip
SMOOTH = "  return y = x -> dense(6) -> batch_norm -> softplus -> dropout(0.3) -> dense(4, bias_init=normal(0.5)) -> tanh -> dense(2)"


@pytest.mark.parametrize("name", OPTIMISERS)
def test_five_steps_of_every_optimiser(name: str) -> None:
    """Each from the same state: new parameters and new slots, with a clipped gradient, a penalty, and masks of dropout."""
    random = np.random.default_rng(0)
    text = spec(SMOOTH, loss="mse(y, t)", optimizer=OPTIMISERS[name], clip="global_norm(0.5)", penalty="l2(0.01)", precision="float32")
    twins = Twins(text, {"x": random.normal(size=(16, 3)), "t": random.normal(size=(16, 2))})
    for _ in range(5):
        before = {key: array.copy() for key, array in states(twins.plain).items()}
        wanted, found = twins.step()
        assert found == pytest.approx(wanted, rel=1e-5)
        for key, reference in states(twins.plain).items():
            if "dense/bias" in key:
                continue  # before batch norm: its gradient is rounding alone
            moved = float(np.abs(reference - before[key]).max())
            distance = np.abs(states(twins.other)[key] - reference).max()
            assert distance <= 2e-5 * moved + 4 * EPSILON * float(np.abs(reference).max()), key


@pytest.mark.parametrize("name", [name for name in names(Kind.OPTIMISER) if solves(name)])
def test_solvers_are_refused_by_name(name: str) -> None:
    text = "network(x: float32[2]) { return y = x -> dense(1) } train { loss = mse(y, t) optimizer = %s batch = full epochs = 1 }"
    with pytest.raises(SpecError) as caught:
        OnnxSteps(nnc.compile(text % (f"{name}(lr=1)")).init(1), "cpu")
    (found,) = caught.value.diagnostics
    assert (found.code, found.label) == ("E710", f"{name} evaluates the objective as often as a step needs")


def test_a_table_updated_by_rows() -> None:
    """lazy=true: rows that the batch does not name keep their state."""
    random = np.random.default_rng(0)
    text = (
        "network(k: int64[3]) { return y = k -> embedding(50, 4, lazy=true) -> flatten -> dense(2) }\n"
        "train { loss = mse(y, t) optimizer = adam(lr=0.01) batch = 8 epochs = 1 }"
    )
    twins = Twins(text, {"k": random.integers(0, 9, (8, 3)), "t": random.normal(size=(8, 2))})
    assert any(bundle.sparse for bundle in twins.plain.program.bundles)
    for _ in range(3):
        wanted, found = twins.step()
        assert found == pytest.approx(wanted, rel=1e-5)
        for key, reference in states(twins.plain).items():
            np.testing.assert_allclose(states(twins.other)[key], reference, rtol=1e-5, atol=1e-6, err_msg=key)


def test_parts_of_a_network_have_rates_of_their_own_constraints_and_rest() -> None:
    random = np.random.default_rng(0)
    body = "  a = x -> dense(4) -> softplus\n  b = a -> dense(4, constraint=max_norm(0.3)) -> softplus\n  return y = b -> dense(2)"
    text = spec(body, loss="mse(y, t)", optimizer="adam(lr=0.05)", precision="float32", groups='[group("a", rate=0.1), group("y", frozen=true)]')
    twins = Twins(text, {"x": random.normal(size=(8, 3)), "t": random.normal(size=(8, 2))})
    for _ in range(3):
        twins.step()
        for key, reference in states(twins.plain).items():
            np.testing.assert_allclose(states(twins.other)[key], reference, rtol=1e-4, atol=1e-6, err_msg=key)


# What goes wrong in a step is said as NumPy says it


def test_a_value_that_is_not_finite_is_named_with_its_layer() -> None:
    text = spec("  return y = x -> dense(2) -> softplus -> dense(1)", loss="mse(y, t)", precision="float32")
    twins = Twins(text, {"x": np.full((2, 3), 1e38), "t": np.zeros((2, 1))})
    before = {name: array.copy() for name, array in twins.other.state().items()}
    with pytest.raises(SpecError) as caught:
        twins.filled.advance()
    (found,) = caught.value.diagnostics
    assert found.code == "E510"
    assert "`y/" in found.title or "`loss" in found.title
    for name, array in twins.other.state().items():
        np.testing.assert_array_equal(array, before[name])
    assert twins.other.step_count == 0


@pytest.mark.parametrize("index", [9, 5, -1])
def test_an_index_without_a_row_is_named_with_its_layer(index: int) -> None:
    text = (
        "network(k: int64[3]) { return y = k -> embedding(5, 4) -> flatten -> dense(2) }\n"
        "train { loss = mse(y, t) optimizer = sgd(lr=0.01) batch = 8 epochs = 1 }"
    )
    twins = Twins(text, {"k": np.full((2, 3), index), "t": np.zeros((2, 2))})
    with pytest.raises(SpecError) as caught:
        twins.filled.advance()
    assert [d.code for d in caught.value.diagnostics] == ["E515"]


# The file


def test_the_file_names_what_goes_in_and_comes_out() -> None:
    text = spec(SMOOTH, loss="mse(y, t)", optimizer="adam(lr=0.01)", precision="float32")
    model = nnc.compile(text).init(1)
    made = onnxruntime.InferenceSession(OnnxSteps(model, "cpu").file, providers=["CPUExecutionProvider"])
    inputs = {i.name: i.shape for i in made.get_inputs()}
    outputs = {o.name: o.shape for o in made.get_outputs()}
    assert inputs["y/dense/weight"] == outputs[NEW + "y/dense/weight"] == list(model.parameters["y/dense/weight"].shape)
    assert inputs["slot/y/dense/weight/sum"] == outputs[NEW + "slot/y/dense/weight/sum"] == inputs["y/dense/weight"]
    assert inputs["x"] == ["batch", 3]
    assert inputs["step:lr"] == outputs["step:loss"] == []
    (mask,) = [name for name in inputs if name.startswith("mask:")]
    assert inputs[mask] == ["batch", 6]
    assert {"step:first_correction", "t"} < inputs.keys()
    assert {name for name in outputs if not name.startswith(NEW)} == {"step:loss", "step:objective", "step:gradient_square"}
    states_ = {name.removeprefix(NEW) for name in outputs if name.startswith(NEW)}
    assert states_ == states(model).keys() <= inputs.keys()


