"""Plans lose no value before its last reader; results depend on inputs alone; a step allocates nothing."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from drawing import network
from networks import spec, spread

import nnc
from nnc.compiler.ir import Graph, TensorType, Value, apply, concrete
from nnc.compiler.layout import memory_orders
from nnc.compiler.pipeline import analyse
from nnc.compiler.plan import Plan, Planner, plan, show
from nnc.compiler.source import Source
from nnc.compiler.workspace import workspace
from nnc.runtime.executor import Arena, Executor, Program
from nnc.runtime.kernels import Randomness

IMAGES = """
  h = x -> dense(48) -> reshape([3, 4, 4]) -> conv2d(4, kernel=3, padding=same) -> batch_norm -> relu -> max_pool(2)
  g = h -> conv2d(4, kernel=2, padding=same, groups=2) -> elu -> avg_pool(2, padding=1)
  return output = concat(h -> flatten, g -> flatten) -> dropout(0.3) -> dense(3) -> softmax
"""


def images(optimizer: str, **keys: Any) -> Any:
    loss = "cross_entropy(output, y, smoothing=0.1)"
    return nnc.compile(spec(IMAGES, loss=loss, optimizer=optimizer, **keys)).init(1)


def rows(n: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {"x": random.normal(size=(n, 3)), "y": random.integers(0, 3, n)}


GROUPS = "[group(g, rate=0.5), group(output, frozen=true)]"
MODELS = {
    "momentum": lambda: (images("momentum(lr=0.01)"), rows(5)),
    "adam": lambda: (images("adam(weight_decay=0.1)", clip="global_norm(0.5)", penalty="l1(0.01)"), rows(4)),
    "nesterov": lambda: (images("nesterov(lr=0.01)", clip="norm(0.5)"), rows(3)),
    "rmsprop": lambda: (images("rmsprop(lr=0.01, centered=true, momentum=0.5)", groups=GROUPS), rows(2)),
}
CONSTRAINED = "  h = x -> dense(12, constraint=max_norm(0.5)) -> reshape([4, 3]) -> lstm(2) -> tanh\n  return output = h -> dense(3, bias=false) -> softmax"
MODELS["max_norm"] = lambda: (nnc.compile(spec(CONSTRAINED, loss="cross_entropy(output, y)", optimizer="adam")).init(1), rows(4))
LOOKUPS = """
  a = x -> embedding(50, 2, lazy=true, constraint=max_norm(0.5)) -> flatten
  return output = concat(a, u -> embedding(40, 3, lazy=true)) -> dense(3) -> softmax"""


def lookups(optimizer: str, **keys: Any) -> tuple[Any, dict[str, Any]]:
    """Tables that are updated by rows; some indices come twice."""
    text = spec(LOOKUPS, inputs="x: int64[2], u: int64", loss="cross_entropy(output, y)", optimizer=optimizer, **keys)
    return nnc.compile(text).init(1), {"x": np.array([[1, 2], [2, 2], [49, 0]]), "u": np.array([3, 3, 39]), "y": np.array([0, 1, 2])}


MODELS["rows by adam"] = lambda: lookups("adam(weight_decay=0.1)", clip="global_norm(0.5)")
MODELS["rows by sgd"] = lambda: lookups("sgd(lr=0.1)", groups="[group(a, rate=0.5)]")
MODELS["rows by rmsprop"] = lambda: lookups("rmsprop(lr=0.01, centered=true, momentum=0.5)", clip="norm(0.5)")
MODELS |= {f"random {seed}": lambda seed=seed: network(seed)[1:] for seed in range(300, 312)}


@pytest.fixture(params=MODELS)
def trained(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    """A model whose graphs all exist, and a batch."""
    model, batch = MODELS[request.param]()
    spread(model, 1)
    model.predict(batch)
    model.loss(batch)
    model.gradients(batch)
    model.step(batch)
    return model, batch


def programs(model: Any) -> Iterator[tuple[str, Graph]]:
    yield from ((key, executor.graph) for key, executor in model._executors.items())


# An independent reader of plans: it plays the steps on memory whose cells hold the name of what was written last


class Shadow:
    """Arena cells and variables, each knowing which value it holds."""

    def __init__(self, made: Plan):
        self.plan, self.n = made, made.n
        self.cells = np.full(made.arena_bytes, -1)
        self.variables: dict[str, Value | None] = {}  # the value written over a variable; None: as it was

    def region(self, value: Value) -> slice | None:
        """Where a computed value lies in the arena."""
        place = self.plan.places[value]
        size = int(np.prod(concrete(value.shape, self.n), dtype=int)) * np.dtype(value.dtype).itemsize
        if place.kind == "inside":
            outer = self.region(place.owner)
            if outer is None:
                return None
            start = outer.start + place.offset * np.dtype(value.dtype).itemsize
            assert start + size <= outer.stop
            return slice(start, start + size)
        return slice(place.offset, place.offset + size) if place.kind == "arena" else None

    def source(self, value: Value) -> Value:
        while value in self.plan.aliases:
            value = value.operands[0]
        return value

    def read(self, value: Value, reader: str) -> slice | None:
        """What is read must still be there."""
        source = self.source(value)
        if source.op == "variable":
            assert self.variables.get(source.name) is None, f"{reader} reads {source.name} after its update"
        if source not in self.plan.places:
            return None
        place = self.plan.places[source]
        if place.kind == "variable":
            assert self.variables.get(place.name) is source, f"{reader} reads {source!r} from {place.name}"
            return None
        region = self.region(source)
        assert region is not None
        assert (self.cells[region] == source.serial).all(), f"{reader} reads {source!r}, which is overwritten"
        return region

    def write(self, value: Value) -> None:
        place = self.plan.places[value]
        if place.kind == "variable":
            self.variables[place.name] = value
        else:
            self.cells[self.region(value)] = value.serial

    def play(self) -> None:
        for at, value in enumerate(self.plan.steps):
            read = [region for o in value.operands if (region := self.read(o, repr(value))) is not None]
            own = self.region(value)
            kinds = workspace(value, self.n)
            offsets = self.plan.scratch.get(value, ())
            assert len(kinds) == len(offsets)
            work = [slice(o, o + k.nbytes(self.n)) for o, k in zip(offsets, kinds, strict=True)]
            kept = read + ([own] if own else [])
            for i, region in enumerate(work):
                assert region.stop <= self.plan.arena_bytes
                assert not any(overlap(region, other) for other in kept + work[:i]), f"the work space of {value!r}"
                self.cells[region] = -2
            places = read[:1] if value.op == "max_pool_gradient" and once(value) else []  # the image, each place of which is read before it is written
            for region in read:
                if own is not None and overlap(own, region) and value.op != "pack":
                    assert value.primitive.elementwise or region in places, f"{value!r} writes over what it reads"
                    assert own == region
            if self.plan.places[value].kind == "variable":
                assert at >= self.plan.forward, f"{value!r} changes a variable before the outputs are there"
            self.write(value)
        for name, value in self.plan.graph.outputs.items():
            if self.source(value).op != "variable":
                self.read(value, f"output {name}")
        for name, value in self.plan.copies:
            self.read(value, f"update of {name}")
        changed = {p.name for p in self.plan.places.values() if p.kind == "variable"} | {
            name for name, _ in self.plan.copies
        }
        assert changed == set(self.plan.graph.updates)


def once(pool: Value) -> bool:
    """Whether every element of a pool's image is in just one of its windows."""
    window, stride, size = pool.attributes["window"], pool.attributes["stride"], pool.shape[2:]
    remain = [side % step for side, step in zip(size, window, strict=True)]  # type: ignore[operator]
    return window == stride and not any(remain) and pool.attributes["padding"] == ((0, 0), (0, 0))


def overlap(a: slice, b: slice) -> bool:
    return a.start < b.stop and b.start < a.stop


@pytest.mark.parametrize("n", [1, 3, 8])
def test_no_value_is_lost_before_its_last_reader(trained: tuple[Any, dict[str, Any]], n: int) -> None:
    model, _ = trained
    for _, graph in programs(model):
        Shadow(plan(graph, n)).play()


def test_the_reader_of_plans_sees_a_lost_value() -> None:
    """Two values that live at the same time, put at one offset."""
    x = apply("variable", name="x", type=TensorType("float64", (4,)))
    a, b = apply("exp", x), apply("tanh", x)
    made = plan(Graph({"sum": a + b}), 1)
    Shadow(made).play()
    made.places[b] = made.places[a]
    with pytest.raises(AssertionError, match="overwritten"):
        Shadow(made).play()


# Results depend on the inputs alone


def outcome(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    found = dict(model.predict(batch)) | {"loss": model.loss(batch)}
    objective, gradients = model.gradients(batch)
    found |= {"objective": objective} | {f"gradient {name}": g for name, g in gradients.items()}
    found["step"] = model.step(batch)
    return found | {f"after {name}": array.copy() for name, array in model.state().items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_what_memory_held_before_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = outcome(*MODELS[name]())

    forward = Program.forward

    def poisoned(self: Program, *given: Any) -> None:
        for value, (_, arrays) in zip(self.plan.steps, self.steps, strict=True):
            if self.plan.places[value].kind != "variable":
                for array in arrays[len(value.operands) :]:
                    array.reshape(-1).view(np.uint8)[:] = 0xFF  # NaN, where it is a float
        forward(self, *given)

    monkeypatch.setattr(Program, "forward", poisoned)
    same(outcome(*MODELS[name]()), plain)


@pytest.mark.parametrize("name", MODELS)
def test_writing_in_place_changes_no_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = outcome(*MODELS[name]())
    monkeypatch.setattr(Planner, "_donor", lambda self, value, at, held: None)
    monkeypatch.setattr(Planner, "_pack_in_place", lambda self: None)
    monkeypatch.setattr(Planner, "_update_in_variables", lambda self: list(self.graph.updates.items()))
    same(outcome(*MODELS[name]()), plain)


def test_the_order_of_batch_sizes_does_not_matter() -> None:
    """More sizes than programs are kept, the smallest first, so that the arena has to grow."""
    model = images("adam")
    sizes = [1, 4, 2, 7, 3, 7, 5, 6, 1, 4]
    found = [(model.predict(rows(n, n))["output"], *model.gradients(rows(n, n))) for n in sizes]
    for n, (output, objective, gradients) in zip(sizes, found, strict=True):
        fresh = images("adam")
        np.testing.assert_array_equal(fresh.predict(rows(n, n))["output"], output)
        alone = fresh.gradients(rows(n, n))
        assert alone[0] == objective
        same(alone[1], gradients)


def test_a_smaller_last_batch_counts_its_own_samples() -> None:
    """Sums over batches of 5, 5 and 2 make the loss over all 12."""
    model = nnc.compile(spec("  return output = x -> dense(3) -> softmax", loss="cross_entropy(output, y)")).init(1)
    everything = rows(12)
    parts = [{k: v[i : i + 5] for k, v in everything.items()} for i in (0, 5, 10)]
    mean = sum(model.loss(part) * len(part["x"]) for part in parts) / 12
    assert mean == pytest.approx(model.loss(everything), rel=1e-13)
    whole = model.gradients(everything)[1]
    slopes = [(len(part["x"]), model.gradients(part)[1]) for part in parts]
    for name, array in whole.items():
        np.testing.assert_allclose(sum(n * g[name] for n, g in slopes) / 12, array, rtol=1e-10, atol=1e-14)


def test_samples_do_not_see_each_other_in_inference() -> None:
    model, batch = images("adam"), rows(6)
    together = model.predict(batch)["output"]
    for i in range(6):
        np.testing.assert_allclose(
            model.predict({"x": batch["x"][i : i + 1]})["output"], together[i : i + 1], rtol=1e-12
        )


# Memory


# Networks for kernels of every kind, and the loss of each; a class for a target where the loss has one
BODIES = {
    "dense": ("dense(8) -> batch_norm -> tanh -> dense(4) -> swish -> dense(3) -> softmax", "cross_entropy"),
    "elu": ("dense(8) -> elu -> dense(3) -> softmax(temperature=2)", "cross_entropy"),
    "convolution": ("dense(18) -> reshape([2, 3, 3]) -> conv2d(4, kernel=2, groups=2, padding=same) -> flatten", "mse"),
    "max_pool": ("dense(9) -> reshape([1, 3, 3]) -> relu -> max_pool(2, padding=1) -> flatten", "mse"),
    "avg_pool": ("dense(9) -> reshape([1, 3, 3]) -> leaky_relu -> avg_pool(2, padding=1) -> global_max_pool", "mse"),
    "sigmoid": ("dense(4) -> sigmoid -> dense(3)", "huber"),
    "binary": ("dense(4) -> softmax -> dense(3) -> sigmoid", "binary_cross_entropy"),
    "dropout": ("dense(4) -> dropout(0.5) -> dense(3)", "mae"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_steady_step_allocates_no_array_of_the_batch(name: str) -> None:
    body, loss = BODIES[name]
    text = spec(f"  return output = x -> {body}", loss=f"{loss}(output, y)", optimizer="adam", clip="global_norm(1.0)")
    model = nnc.compile(text).init(0)
    n = 100_000
    random = np.random.default_rng(0)
    batch = {"x": random.normal(size=(n, 3))}
    outputs = model.predict(batch)["output"].shape
    batch["y"] = random.integers(0, 3, n) if loss == "cross_entropy" else random.uniform(size=outputs)
    model.step(batch)
    program = model._executors["step"].at(n)
    tracemalloc.start()
    try:
        model.advance(program)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    allowed = n * 4 * 2 if name == "dropout" else 0  # its random words, two bytes an element
    assert peak < allowed + n * 8 / 2, f"{peak:,} bytes, a column of the batch has {8 * n:,}"


def test_memory_is_used_again() -> None:
    """A long chain lives in the space of a few of its values."""
    chain = " -> ".join(["dense(32)", "tanh"] * 12)
    model = nnc.compile(f"network(x: float32[32]) {{ return y = x -> {chain} }}").init(0)
    model.predict({"x": np.zeros((100, 32), np.float32)})
    (program,) = model._executors["predict"].programs.values()
    assert program.plan.arena_bytes <= 3 * 100 * 32 * 4


def test_a_deep_network_takes_its_activations_and_one_gradient() -> None:
    """What an update makes of the packed gradient lies over it, although the gradient's norm is computed between."""
    spec = """
        block layer(x) { return x -> dense(16) -> relu }
        network(x: float32[16]) { return y = x -> repeat(32, layer) }
        train { loss = mse(y, t)  optimizer = sgd(lr=0.1)  batch = 16  epochs = 1 }
    """
    made = plan(analyse(Source("deep", spec), root=None).step(samples=1).graph, 16)
    activations, parameters = 33 * 16 * 16 * 4, 32 * 17 * 16 * 4  # all of them, and the gradient packed
    assert made.arena_bytes < 1.1 * (activations + parameters)


def test_a_plan_can_be_read() -> None:
    model, batch = MODELS["adam"]()
    model.step(batch)
    made = model._executors["step"].at(4).plan
    text = show(made)
    lines = [re.fullmatch(r"(once|view|forward|update) +(%\d+) = (\w+)\((.*?)\).*", line) for line in text.splitlines()]
    shown = [line.groups() for line in lines if line]
    assert [op for kind, _, op, _ in shown if kind in ("forward", "update")] == [v.op for v in made.steps]
    known: set[str] = set()
    for kind, name, _, operands in shown:
        assert kind == "once" or set(re.findall(r"%\d+", operands)) <= known, name
        known.add(name)
    assert "over theta" in text


# Views


def run(graph: Graph, arrays: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    found = Executor(graph, arrays, Randomness(0), Arena()).run(inputs or {})
    return {name: array.copy() for name, array in found.items()}


def test_a_reshape_of_elements_out_of_order_is_a_copy_made_in_the_step() -> None:
    """A square transposition keeps the shape and not the order."""
    x = apply("variable", name="x", type=TensorType("float64", (3, 3)))
    flat = apply("reshape", apply("transpose", apply("exp", x), order=(1, 0)), shape=(9,))
    assert flat not in memory_orders(Graph({"flat": flat}).order())[1]
    arrays = {"x": np.arange(9.0).reshape(3, 3)}
    np.testing.assert_allclose(run(Graph({"flat": flat}), arrays)["flat"], np.exp(arrays["x"]).T.ravel())


def test_updates_happen_together() -> None:
    """Each new value is of the old ones, whatever the order in which they are written down."""
    kind = TensorType("float64", (3,))
    a, b, c = (apply("variable", name=name, type=kind) for name in "abc")
    for updates in ({"a": a + b, "b": a * 2.0, "c": c - a}, {"c": c - a, "b": a * 2.0, "a": a + b}):
        arrays = {"a": np.array([1.0, 2, 3]), "b": np.array([10.0, 20, 30]), "c": np.zeros(3)}
        run(Graph({"old": a + c}, updates), arrays)
        assert arrays["a"].tolist() == [11, 22, 33]
        assert arrays["b"].tolist() == [2, 4, 6]
        assert arrays["c"].tolist() == [-1, -2, -3]


def test_variables_that_change_places_are_refused() -> None:
    """Copied one after the other both would end with one value."""
    a, b = (apply("variable", name=name, type=TensorType("float64", (2,))) for name in "ab")
    with pytest.raises(AssertionError, match="another variable"):
        plan(Graph({}, {"a": b, "b": a}), 1)


def test_the_mask_of_a_rectifier_is_made_where_it_is_read() -> None:
    """It is that of the result, so that what went in need not be kept."""
    text = (
        "network(x: float32[2, 8, 8]) { return y = x -> conv2d(3, kernel=3) -> relu -> conv2d(3, kernel=3) -> relu -> conv2d(3, kernel=3) -> flatten }\n"
        "train { loss = mse(y, t)  optimizer = sgd(lr=0.1)  batch = 4  epochs = 1 }"
    )
    made = nnc.compile(text).init(0).step_program(4).plan
    masks = [i for i, v in enumerate(made.steps) if v.op == "greater"]
    assert len(masks) == 2
    assert all(made.steps[i] in made.steps[i + 1].operands for i in masks)
    assert all(made.steps[i].operands[0].op == "maximum" for i in masks)
