"""Small networks as specs: one layer between two others, and random ones. Tests of several modules share them.

A layer is a word of the operation table with arguments, written into the spec by `str` and interpreted by the oracles
under the same names, so that no network is described twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import nnc
from nnc.compiler.ir import Graph, Value
from nnc.runtime.executor import Arena, Executor

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Word:
    """A word of the language with its arguments."""

    word: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        return self.call()

    def call(self, *leading: str) -> str:
        given = [*leading, *(f"{name}={_written(value)}" for name, value in self.arguments.items())]
        return f"{self.word}({', '.join(given)})"


def word(name: str, /, **arguments: Any) -> Word:
    return Word(name, arguments)


def _written(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case tuple():
            return "[" + ", ".join(map(_written, value)) + "]"
        case float():
            return f"{value:.17g}"
    return str(value)


def spec(
    body: str,
    *,
    inputs: str = "x: float32[3]",
    loss: str = "mse(output, y)",
    optimizer: str = "sgd(lr=0.01)",
    **train: Any,
) -> str:
    """A spec in float64 with the given statements."""
    keys = {"loss": loss, "optimizer": optimizer, "batch": 4, "epochs": 1, "precision": "float64"} | train
    section = "\n".join(f"  {key} = {value}" for key, value in keys.items())
    return f"network({inputs}) {{\n{body}\n}}\ntrain {{\n{section}\n}}\n"


def around(layer: Word | str, shape: Shape, *, tail: str = "") -> str:
    """Statements that lead x: float32[3] through `a`, of the given shape, to the layer: its gradient reaches `a`."""
    reshape = f" -> reshape([{', '.join(map(str, shape))}])" if len(shape) > 1 else ""
    return f"  a = x -> dense({prod(shape)}, bias_init=normal(0.5)){reshape}\n  return output = a -> {layer}{tail}"


# Random networks


@dataclass(frozen=True)
class Node:
    """A statement of a random network: the layer on earlier tensors, counted from the input, 0."""

    layer: Word
    operands: tuple[int, ...]
    shape: Shape

    def statement(self, index: int) -> str:
        given = [tensor(i) for i in self.operands]
        if self.layer.word == "split":  # one tensor shall come out
            first, second = (f"{tensor(index)}_{half}" for half in ("first", "second"))
            return f"{first}, {second} = {self.layer.call(*given)}\n  {tensor(index)} = subtract({second}, {first})"
        return f"{tensor(index)} = {self.layer.call(*given)}"

    def path(self, index: int) -> str:
        """Where the parameters of the statement of that index stand."""
        return f"{tensor(index)}/{self.layer.word}"


def tensor(index: int) -> str:
    return "x" if index == 0 else f"t{index}"


@dataclass(frozen=True)
class Drawn:
    """A random network; the last node is the output."""

    shape: Shape
    nodes: tuple[Node, ...]
    loss: Word
    index_target: bool
    vocabulary: int = 0  # above 0 the input is indices below it

    @property
    def text(self) -> str:
        body = "\n".join(f"  {node.statement(i)}" for i, node in enumerate(self.nodes[:-1], 1))
        last = len(self.nodes)
        result = self.nodes[-1].statement(last).partition(" = ")[2]
        inputs = f"x: {'int64' if self.vocabulary else 'float32'}[{', '.join(map(str, self.shape))}]"
        return spec(f"{body}\n  return {tensor(last)} = {result}", inputs=inputs, loss=self.loss.call(tensor(last), "y"))

    def rows(self, n: int, seed: int) -> Array:
        random = np.random.default_rng(seed)
        return random.integers(0, self.vocabulary, (n, *self.shape)) if self.vocabulary else random.normal(size=(n, *self.shape))

    def batch(self, n: int, seed: int) -> dict[str, Array]:
        random = np.random.default_rng(seed + 1)
        last = self.nodes[-1].shape
        y = random.integers(0, last[-1], n) if self.index_target else random.normal(size=(n, *last))
        if self.loss.word == "binary_cross_entropy":
            y = random.uniform(0, 1, (n, *last))
        return {"x": self.rows(n, seed), "y": y}


def _images(random: np.random.Generator, shape: Shape) -> Iterator[tuple[Word, Shape]]:
    """Layers for images, with the shapes that come out."""
    channels, height, width = shape
    window = tuple(int(random.integers(1, min(3, size) + 1)) for size in (height, width))
    stride = tuple(int(s) for s in random.integers(1, 3, 2))

    def size(padding: Any, reach: tuple[int, ...]) -> Shape:
        if padding == "same":
            return tuple(-(-s // t) for s, t in zip((height, width), stride, strict=True))
        edge = 0 if padding == "valid" else padding
        return tuple((s + 2 * edge - r) // t + 1 for s, r, t in zip((height, width), reach, stride, strict=True))

    groups = int(random.choice([g for g in (1, 2, 3) if channels % g == 0]))
    out = groups * int(random.integers(1, 3))
    dilation = tuple(
        int(random.integers(1, 3)) if (k - 1) * 2 < s else 1 for k, s in zip(window, (height, width), strict=True)
    )
    padding = random.choice(["valid", "same", "1"])
    padding = 1 if padding == "1" else str(padding)
    reach = tuple((k - 1) * d + 1 for k, d in zip(window, dilation, strict=True))
    convolution = word(
        "conv2d", channels=out, kernel=window, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    yield convolution, (out, *size(padding, reach))
    if padding == 1 and min(window) == 1:
        padding = "valid"
    for pool in ("max_pool", "avg_pool"):
        yield word(pool, window=window, stride=stride, padding=padding), (channels, *size(padding, window))
    yield word("depthwise_conv2d", kernel=window, multiplier=2, stride=stride, padding=padding), (2 * channels, *size(padding, window))
    grown = tuple((s - 1) * t + k for s, t, k in zip((height, width), stride, window, strict=True))
    if max(grown) <= 8:
        yield word("conv2d_transpose", channels=out, kernel=window, stride=stride, groups=groups), (out, *grown)
    yield word("global_avg_pool"), (channels,)
    yield word("global_max_pool"), (channels,)


def _sequences(random: np.random.Generator, shape: Shape) -> Iterator[tuple[Word, Shape]]:
    """Layers for sequences."""
    steps, features = shape
    units, both, every = int(random.integers(1, 4)), bool(random.integers(2)), bool(random.integers(2))
    width = 2 * units if both else units
    for cell in ("rnn", "lstm", "gru"):
        yield word(cell, units=units, bidirectional=both, return_sequences=every), (steps, width) if every else (width,)
    heads = int(random.choice([h for h in (1, 2, 3) if features % h == 0]))
    yield word("attention", heads=heads, causal=bool(random.integers(2))), shape
    kernel, stride = int(random.integers(1, min(3, steps) + 1)), int(random.integers(1, 3))
    yield word("conv1d", channels=units, kernel=kernel, stride=stride), ((steps - kernel) // stride + 1, units)


def _anything(random: np.random.Generator, shape: Shape) -> Iterator[tuple[Word, Shape]]:
    """Layers for tensors of any rank."""
    slope, alpha, beta, temperature = (float(v) for v in random.uniform(0.2, 2, 4))
    for layer in (
        word("sigmoid"),
        word("tanh"),
        word("relu"),
        word("linear"),
        word("leaky_relu", slope=slope / 4),
        word("elu", alpha=alpha),
        word("swish", beta=beta),
        word("softmax", axis=int(random.integers(-len(shape), len(shape))), temperature=temperature),
        word("batch_norm", momentum=0.8, epsilon=1e-3),
        word("dropout", rate=0.0),
        word("spatial_dropout", rate=0.0),
        word("gaussian_noise", std=0.0),
        word("saturated_linear", low=-slope, high=alpha),
        word("gaussian"),
        word("prelu", form=str(random.choice(["piecewise", "max"]))),
        word("relu6"),
        word("selu"),
        word("celu", alpha=alpha),
        word("softplus"),
        word("softsign"),
        word("mish"),
        word("gelu", approximate=str(random.choice(["none", "tanh"]))),
        word("hard_sigmoid"),
        word("hard_swish"),
        word("log_softmax", axis=int(random.integers(-len(shape), len(shape))), temperature=temperature),
        word("layer_norm", epsilon=1e-2),
        word("group_norm", groups=int(random.choice([g for g in (1, 2, 3) if shape[0 if len(shape) == 3 else -1] % g == 0])), epsilon=1e-2),
    ):
        yield layer, shape
    units = int(random.integers(1, 5))
    yield word("maxout", units=units, pieces=int(random.integers(1, 4))), (*shape[:-1], units)
    yield word("radial", units=units, beta=slope), (*shape[:-1], units)
    yield word("sparse_dense", units=units, density=0.6, seed=int(random.integers(100))), (*shape[:-1], units)
    even = [axis for axis, length in enumerate(shape) if length % 2 == 0]
    if even:
        axis = int(random.choice(even))
        yield word("split", parts=2, axis=axis), tuple(d // 2 if i == axis else d for i, d in enumerate(shape))
    yield word("dense", units=units, bias=bool(random.integers(2))), (*shape[:-1], units)
    if len(shape) > 1:
        yield word("flatten"), (prod(shape),)
        yield word("reshape", shape=tuple(reversed(shape))), tuple(reversed(shape))
        order = tuple(int(axis) for axis in random.permutation(len(shape)))
        yield word("transpose", order=order), tuple(shape[axis] for axis in order)


POSITIVE_OUTPUT = ("sigmoid", "softmax")


def _merges(random: np.random.Generator, shapes: list[Shape], nodes: list[Node]) -> Iterator[tuple[Word, tuple[int, ...], Shape]]:
    """Layers of the newest tensor with an earlier one of the same shape."""
    last = len(shapes) - 1
    first = 1 if nodes[0].layer.word == "embedding" else 0  # indices are no numbers
    others = [i for i, shape in enumerate(shapes) if shape == shapes[last] and i >= first]
    other = int(random.choice(others))
    for merge in ("add", "subtract", "multiply"):
        yield word(merge), (last, other), shapes[last]
    if nodes[other - 1].layer.word in POSITIVE_OUTPUT and other:
        yield word("divide"), (last, other), shapes[last]
    axis = int(random.integers(len(shapes[last])))
    joined = tuple(2 * d if i == axis else d for i, d in enumerate(shapes[last]))
    if joined[axis] <= 8:
        yield word("concat", axis=axis), (last, other), joined


def draw(seed: int) -> Drawn:
    """A random valid network of some three to eight layers on images, sequences, indices or plain vectors."""
    random = np.random.default_rng(seed)
    starts: list[Shape] = [(int(random.integers(2, 5)),), (3, int(random.integers(2, 4))), (2, 5, 6), (3, 4, 4), (4,)]
    chosen = int(random.integers(len(starts)))
    start, vocabulary = starts[chosen], 5 if chosen == 4 else 0
    shapes, nodes = [start], []

    def put(layer: Word, operands: tuple[int, ...], shape: Shape) -> None:
        nodes.append(Node(layer, operands, shape))
        shapes.append(shape)

    if vocabulary:
        put(word("embedding", vocabulary=vocabulary, size=3), (0,), (*start, 3))
    for _ in range(int(random.integers(2, 7))):
        last = len(shapes) - 1
        choices = [(layer, (last,), shape) for layer, shape in _anything(random, shapes[last])]
        if len(shapes[last]) == 3:
            images = [(layer, (last,), shape) for layer, shape in _images(random, shapes[last])]
            choices += 6 * images[:3] + 3 * images[3:]
        if len(shapes[last]) == 2:
            choices += 4 * [(layer, (last,), shape) for layer, shape in _sequences(random, shapes[last])]
        merges = list(_merges(random, shapes, nodes)) if last else []
        pool = merges if merges and random.random() < 0.25 else choices
        put(*pool[int(random.integers(len(pool)))])
    if len(shapes[-1]) > 1:
        put(word("flatten"), (len(shapes) - 1,), (prod(shapes[-1]),))
    put(word("dense", units=3), (len(shapes) - 1,), (3,))
    kind = int(random.integers(5))
    if kind == 0:
        put(word("softmax"), (len(shapes) - 1,), (3,))
        return Drawn(start, tuple(nodes), word("cross_entropy", smoothing=0.1), True, vocabulary)
    if kind == 1:
        put(word("sigmoid"), (len(shapes) - 1,), (3,))
        return Drawn(start, tuple(nodes), word("binary_cross_entropy"), False, vocabulary)
    loss = [word("mse"), word("quadratic"), word("huber", delta=0.7)][kind - 2]
    return Drawn(start, tuple(nodes), loss, False, vocabulary)


# Finite differences


def differences(function: Callable[[], float], array: Array, step: float = 1e-5) -> Array:
    """Central differences of a function of the array's present content."""
    slope = np.empty_like(array)
    for place in np.ndindex(array.shape):
        kept = array[place]
        array[place] = kept + step
        above = function()
        array[place] = kept - step
        below = function()
        array[place] = kept
        slope[place] = (above - below) / (2 * step)
    return slope


def check_gradients(model: Any, batch: Mapping[str, Array], tolerance: float = 1e-6) -> None:
    """Every gradient against central differences of the objective, relative to the largest element."""
    _, found = model.gradients(batch)
    wanted = {name: differences(lambda: model.gradients(batch)[0], model.parameters[name]) for name in found if not is_fixed(name)}
    largest = max(float(np.abs(w).max()) for w in wanted.values())
    assert largest > 1e-8, "nothing depends on the parameters: the comparison would be empty"
    for name, slope in wanted.items():
        np.testing.assert_allclose(found[name], slope, rtol=0, atol=tolerance * largest, err_msg=name)


def kink_margin(model: Any, batch: Mapping[str, Array]) -> float:
    """How far the objective is from where a slope jumps: at comparisons, absolute values and maxima of windows."""
    model.gradients(batch)
    program = model.program
    objective = program.objective(program.training_forward, model._targets, model.samples)
    moving: set[Value] = set()
    watched: dict[str, Value] = {}
    windows: dict[str, tuple[Value, Mapping[str, Any]]] = {}
    reduced: dict[str, tuple[Value, tuple[int, ...]]] = {}
    for value in Graph({"loss": objective.loss()}).order():
        key = str(value.serial)
        if value.op != "variable" and moving.isdisjoint(value.operands):
            continue  # comparisons of what is given are no kinks
        moving.add(value)
        if value.op in ("maximum", "minimum", "greater", "greater_equal", "less", "less_equal"):
            watched[key] = value.operands[0] - value.operands[1]
        elif value.op in ("absolute", "sign"):
            watched[key] = value.operands[0]
        elif value.op == "max_pool":
            windows[key] = value.operands[0], value.attributes
        elif value.op == "reduce_max":
            reduced[key] = value.operands[0], value.attributes["axes"]
    outputs = watched | {key: x for key, (x, _) in (windows | reduced).items()}
    if not outputs:
        return np.inf
    found = Executor(Graph(outputs), model.variables, model.randomness, Arena()).run(batch)
    margins = [float(np.abs(found[key]).min()) for key in watched]
    margins += [_gap(found[key], attributes) for key, (_, attributes) in windows.items()]
    margins += [_lead(found[key], axes) for key, (_, axes) in reduced.items()]
    return min(margins)


def _lead(x: Array, axes: tuple[int, ...]) -> float:
    """The least difference between the two largest elements that a reduction sees."""
    ordered = np.sort(np.moveaxis(x, axes, range(-len(axes), 0)).reshape(*(d for i, d in enumerate(x.shape) if i not in axes), -1), -1)
    return float((ordered[..., -1] - ordered[..., -2]).min()) if ordered.shape[-1] > 1 else np.inf


def _gap(x: Array, attributes: Mapping[str, Any]) -> float:
    """The least difference between the two largest elements of a window."""
    padded = np.pad(x, ((0, 0), (0, 0), *attributes["padding"]), constant_values=-np.inf)
    (high, wide), (down, right) = attributes["window"], attributes["stride"]
    if high * wide == 1:
        return np.inf
    views = sliding_window_view(padded, (high, wide), (2, 3))[:, :, ::down, ::right].reshape(-1, high * wide)
    ordered = np.sort(views, -1)
    return float((ordered[:, -1] - ordered[:, -2]).min())


def random_model(seed: int, n: int = 4, margin: float = 1e-3) -> tuple[Drawn, Any, dict[str, Array]]:
    """A random network, initialised, with a batch at which no slope jumps within the margin."""
    for attempt in range(50):
        drawn = draw(seed + 10_000 * attempt)
        model = nnc.compile(drawn.text).init(seed)
        batch = drawn.batch(n, seed)
        spread(model, seed)
        if kink_margin(model, batch) > margin:
            return drawn, model, batch
    raise AssertionError(f"no smooth network from seed {seed}")


POSITIVE = ("scale", "running_var", "beta")
DRAWN_ONCE = ("mask", "ahead")


def is_fixed(name: str) -> bool:
    """Whether no gradient reaches a parameter: running statistics, masks."""
    return name.endswith(("running_mean", "running_var", *DRAWN_ONCE))


def spread(model: Any, seed: int) -> None:
    """Parameters away from zeros and ones, so that a wrong bias or scale shows."""
    random = np.random.default_rng(seed)
    for name, array in model.parameters.items():
        if not name.endswith(DRAWN_ONCE):
            array[...] = random.uniform(0.5, 1.5, array.shape) if name.endswith(POSITIVE) else random.normal(0, 0.6, array.shape)
