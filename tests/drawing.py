"""Draws valid networks over the whole layer table, and chooses those at which a comparison means something.

What is drawn: one to three inputs (vectors, sequences, images, indices), pipes of every layer and activation, merges with earlier tensors,
arithmetic, blocks with parameters, shared blocks, repeat, one to three outputs, a weighted sum of losses, penalties of the whole and of layers.
Every tensor is used, as the language demands. A noisy network has dropout and noise that act, which only finite differences can judge; a
network with `step` has slopes that are not its value's, which only torch can judge; no network has both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from drawn import ARITHMETIC, PENALTIES, Block, Drawn, Input, Penalty, Stage, Statement, Term, Use
from networks import Array, Shape, Word, kink_margin, spread, word

import nnc

CHANCE_OF_NOISE = 0.15
MOST_ELEMENTS = 64  # of a sample: finite differences visit every weight
KINK = 1e-3
LARGE = 1e3
ROWS = 5
STRIDE = 1_000_000  # between the attempts of one seed


# Layers that a shape allows, with the shapes that come out

Choice = tuple[Word, Shape]


def _images(random: np.random.Generator, shape: Shape) -> Iterator[Choice]:
    channels, height, width = shape
    window = tuple(int(random.integers(1, min(3, size) + 1)) for size in (height, width))
    stride = tuple(int(s) for s in random.integers(1, 3, 2))
    dilation = tuple(int(random.integers(1, 3)) if (k - 1) * 2 < s else 1 for k, s in zip(window, (height, width), strict=True))
    groups = int(random.choice([g for g in (1, 2, 3) if channels % g == 0]))
    out = groups * int(random.integers(1, 3))

    def size(padding: Any, reach: tuple[int, ...]) -> Shape:
        if padding == "same":
            return tuple(-(-s // t) for s, t in zip((height, width), stride, strict=True))
        edges = (0, 0) if padding == "valid" else padding if isinstance(padding, tuple) else (padding, padding)
        return tuple((s + 2 * e - r) // t + 1 for s, e, r, t in zip((height, width), edges, reach, stride, strict=True))

    padding: Any = ("valid", "same", 1, (0, 1))[int(random.integers(4))]
    reach = tuple((k - 1) * d + 1 for k, d in zip(window, dilation, strict=True))
    more = _weights(random)
    yield word("conv2d", channels=out, kernel=window, stride=stride, padding=padding, dilation=dilation, groups=groups, **more), (out, *size(padding, reach))
    yield word("depthwise_conv2d", kernel=window, multiplier=2, stride=stride, padding=padding, **more), (2 * channels, *size(padding, window))
    if not isinstance(padding, str) and min(window) == 1:
        padding = "valid"  # a window may not lie in the padding alone
    for pool in ("max_pool", "avg_pool"):
        yield word(pool, window=window, stride=stride, padding=padding), (channels, *size(padding, window))
    cut, extra = min(int(random.integers(2)), min(window) - 1), int(random.integers(min(stride)))
    grown = tuple((s - 1) * t - 2 * cut + k + extra for s, t, k in zip((height, width), stride, window, strict=True))
    if min(grown) >= 1:
        transposed = word("conv2d_transpose", channels=out, kernel=window, stride=stride, padding=cut, output_padding=extra, groups=groups, **more)
        yield transposed, (out, *grown)
    yield word("global_avg_pool"), (channels,)
    yield word("global_max_pool"), (channels,)


def _sequences(random: np.random.Generator, shape: Shape) -> Iterator[Choice]:
    steps, features = shape
    units, both, every = int(random.integers(1, 4)), bool(random.integers(2)), bool(random.integers(2))
    width = 2 * units if both else units
    for cell in ("rnn", "lstm", "gru"):
        more = {"activation": "relu"} if cell == "rnn" and random.integers(2) else {}
        yield word(cell, units=units, bidirectional=both, return_sequences=every, **more), (steps, width) if every else (width,)
    heads = int(random.choice([h for h in (1, 2, 3) if features % h == 0]))
    yield word("attention", heads=heads, causal=bool(random.integers(2))), shape
    kernel, stride, dilation = int(random.integers(1, min(3, steps) + 1)), int(random.integers(1, 3)), int(random.integers(1, 3))
    padding: Any = ("valid", "same", 1)[int(random.integers(3))]
    reach = (kernel - 1) * dilation + 1
    if padding == "same" or reach <= steps + 2 * (padding == 1):
        length = -(-steps // stride) if padding == "same" else (steps + 2 * (padding == 1) - reach) // stride + 1
        convolution = word("conv1d", channels=units, kernel=kernel, stride=stride, padding=padding, dilation=dilation, **_weights(random))
        yield convolution, (length, units)


def _weights(random: np.random.Generator) -> dict[str, Any]:
    """What layers with weights take beside their sizes."""
    more: dict[str, Any] = {}
    if random.random() < 0.2:
        more["bias"] = False
    if random.random() < 0.1:
        more["penalty"] = penalty(random)
    return more


def penalty(random: np.random.Generator) -> Word:
    strength = float(random.uniform(0.01, 0.1))
    more = {"scale": 0.5} if random.integers(2) else {}
    name = str(random.choice(PENALTIES))
    return word(name, strength=strength, **({"m": float(random.uniform(1.5, 3))} if name == "lm" else {}), **more)


def activations(random: np.random.Generator, rank: int, *, jumps: bool) -> list[Word]:
    slope, alpha, beta, temperature = (float(v) for v in random.uniform(0.2, 2, 4))
    axis = int(random.integers(-rank, rank))
    found = [
        word("sigmoid"), word("tanh"), word("relu"), word("linear"), word("softplus"), word("softsign"), word("mish"), word("gaussian"),
        word("relu6"), word("selu"), word("hard_sigmoid"), word("hard_swish"),
        word("leaky_relu", slope=slope / 4), word("elu", alpha=alpha), word("celu", alpha=alpha), word("swish", beta=beta),
        word("saturated_linear", low=-slope, high=alpha),
        word("prelu", form=str(random.choice(["piecewise", "max"]))),
        word("gelu", approximate=str(random.choice(["none", "tanh"]))),
        word("softmax", axis=axis, temperature=temperature),
        word("log_softmax", axis=axis, temperature=temperature),
    ]  # fmt: skip
    return [*found, *3 * [word("step", surrogate=str(random.choice(["identity", "sigmoid"])))]] if jumps else found


def _keeping(random: np.random.Generator, shape: Shape, *, noisy: bool) -> Iterator[Choice]:
    """Layers that keep any shape and are no activations."""
    rate = float(random.uniform(0.1, 0.5)) if noisy else 0.0
    channels = shape[0 if len(shape) == 3 else -1]
    yield word("batch_norm", momentum=0.8, epsilon=1e-2), shape
    yield word("dropout", rate=rate, **({"scaling": "inference"} if noisy and random.integers(2) else {})), shape
    yield word("spatial_dropout", rate=rate), shape
    yield word("gaussian_noise", std=rate), shape
    yield word("layer_norm", epsilon=1e-2), shape
    yield word("group_norm", groups=int(random.choice([g for g in (1, 2, 3) if channels % g == 0])), epsilon=1e-2), shape
    if len(shape) > 1:
        order = tuple(int(axis) for axis in random.permutation(len(shape)))
        yield word("flatten"), (prod(shape),)
        yield word("reshape", shape=(shape[-1], -1)), (shape[-1], prod(shape[:-1]))
        yield word("reshape", shape=tuple(reversed(shape))), tuple(reversed(shape))
        yield word("transpose", order=order), tuple(shape[axis] for axis in order)


def _linear(random: np.random.Generator, shape: Shape) -> Iterator[Choice]:
    """Layers with weights on the last axis."""
    units = int(random.integers(1, 5))
    yield word("dense", units=units, **_weights(random)), (*shape[:-1], units)
    yield word("maxout", units=units, pieces=int(random.integers(1, 4)), **_weights(random)), (*shape[:-1], units)
    yield word("radial", units=units, beta=float(random.uniform(0.2, 1))), (*shape[:-1], units)
    yield word("sparse_dense", units=units, density=0.6, seed=int(random.integers(100)), **_weights(random)), (*shape[:-1], units)


def layer(random: np.random.Generator, shape: Shape, *, noisy: bool, jumps: bool) -> Choice:
    """A layer of one tensor: families first, so that the many activations do not crowd out the others."""
    families: list[list[Choice]] = [
        [(a, shape) for a in activations(random, len(shape), jumps=jumps)],
        list(_keeping(random, shape, noisy=noisy)),
        list(_linear(random, shape)),
    ]
    if len(shape) == 3:
        families += 4 * [list(_images(random, shape))]
    if len(shape) == 2:
        families += 3 * [list(_sequences(random, shape))]
    while True:
        family = families[int(random.integers(len(families)))]
        chosen, after = family[int(random.integers(len(family)))]
        if prod(after) <= MOST_ELEMENTS:
            return chosen, after


# Whole networks


@dataclass
class Draw:
    """A network while it grows."""

    random: np.random.Generator
    noisy: bool
    jumps: bool
    shapes: dict[str, Shape] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)
    positive: set[str] = field(default_factory=set)  # may divide; not a sigmoid, which onnxruntime ends at 1.5e-8 and edge rows reach
    blocks: list[Block] = field(default_factory=list)
    body: list[Statement] = field(default_factory=list)

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def one_of(self, values: Any) -> Any:
        return values[int(self.random.integers(len(values)))]

    def layer(self, shape: Shape) -> Choice:
        return layer(self.random, shape, noisy=self.noisy, jumps=self.jumps)

    def put(self, statement: Statement, *shapes: Shape) -> None:
        used = {*statement.operands, *(other for stage in statement.stages for other in stage.others)}
        self.body.append(statement)
        self.unused -= used
        for name, shape in zip(statement.names, shapes, strict=True):
            self.shapes[name] = shape
            self.unused.add(name)

    def fresh(self) -> str:
        return f"t{len(self.body) + 1}"

    def inputs(self) -> tuple[Input, ...]:
        found = []
        for index in range(self.one_of((1, 1, 1, 2, 2, 3))):
            small = int(self.random.integers(2, 5))
            shape: Shape = self.one_of(((small,), (3, small), (2, 5, 6), (3, 4, 4), (4, 3, 3), (2, 3), (), (4,)))
            indices = len(shape) < 2 and self.chance(0.4)
            if not shape and not indices:
                shape = (small,)
            given = Input(f"x{index}", shape, 5 if indices else 0)
            found.append(given)
            if indices:
                size = int(self.random.integers(2, 4))
                self.put(Statement((f"e{index}",), (given.name,), (Stage(word("embedding", vocabulary=5, size=size)),)), (*shape, size))
            else:
                self.shapes[given.name] = shape
                self.unused.add(given.name)
        return tuple(found)

    def pipe(self, source: str, shape: Shape, length: int) -> tuple[tuple[Stage, ...], Shape]:
        stages = []
        for _ in range(length):
            chosen, after = self.layer(shape)
            stages.append(Stage(chosen, times=2 if after == shape and self.chance(0.1) else 0))
            shape = after
        return tuple(stages), shape

    def source(self) -> str:
        """A tensor to go on from: mostly one that nothing has used."""
        names = [name for name in self.shapes if name in self.unused] or list(self.shapes)
        return str(self.one_of(names if self.chance(0.8) else list(self.shapes)))

    def grow(self) -> None:
        move = self.random.random()
        source = self.source()
        if move < 0.2 and self.merge(source):
            return
        if move < 0.27:
            self.arithmetic(source)
        elif move < 0.45:
            self.use_block(source)
        elif move < 0.5 and self.split(source):
            return
        else:
            stages, shape = self.pipe(source, self.shapes[source], int(self.random.integers(1, 4)))
            self.put(Statement((self.fresh(),), (source,), stages), shape)

    def merge(self, source: str) -> bool:
        """With one or two tensors of the same shape: a skip connection where one was used before."""
        shape = self.shapes[source]
        others = [name for name, found in self.shapes.items() if found == shape]
        if len(others) < 2:
            return False
        other = str(self.one_of(others))
        kind = self.one_of(("add", "subtract", "multiply", "concat", "divide", "infix"))
        if kind == "infix":
            self.put(Statement((self.fresh(),), (source, other), pattern=self.one_of(("{0} + {1}", "{0} - {1}", "{0} * {1}"))), shape)
            return True
        rest, after, arguments = (other,), shape, {}
        if kind == "divide":
            if not self.positive & set(others):
                self.put(Statement((self.fresh(),), (other,), pattern="{0} * {0} + 1"), shape)
                self.positive.add(self.body[-1].names[0])
                others.append(self.body[-1].names[0])
            rest = (str(self.one_of(sorted(self.positive & set(others)))),)
        elif kind in ("add", "multiply", "concat") and self.chance(0.3):
            rest = (other, str(self.one_of(others)))
        if kind == "concat":
            axis = int(self.random.integers(len(shape)))
            axis = axis if self.chance(0.5) else axis - len(shape)
            arguments = {"axis": axis}
            if self.chance(0.3):
                axis, arguments = (0 if len(shape) == 3 else -1), {}
            after = tuple(d * (1 + len(rest)) if i == axis % len(shape) else d for i, d in enumerate(shape))
        if prod(after) > MOST_ELEMENTS:
            return False
        self.put(Statement((self.fresh(),), (source,), (Stage(word(kind, **arguments), rest),)), after)
        return True

    def arithmetic(self, source: str) -> None:
        pattern = self.one_of([p for p in ARITHMETIC if "{1}" not in p])
        self.put(Statement((self.fresh(),), (source,), pattern=pattern), self.shapes[source])

    def split(self, source: str) -> bool:
        shape = self.shapes[source]
        axes = [axis for axis, length in enumerate(shape) if length > 1]
        if not axes:
            return False
        axis = int(self.one_of(axes))
        length = shape[axis]
        first = int(self.random.integers(1, length))
        equal = length % 2 == 0 and self.chance(0.5)
        sizes = (length // 2, length // 2) if equal else (first, length - first)
        name = self.fresh()
        chosen = word("split", parts=2 if equal else sizes, axis=axis)
        shapes = [tuple(size if i == axis else d for i, d in enumerate(shape)) for size in sizes]
        self.put(Statement((f"{name}_a", f"{name}_b"), (source,), (Stage(chosen),)), *shapes)
        return True

    def use_block(self, source: str) -> None:
        shape = self.shapes[source]
        known = [block for block in self.blocks if block.takes == shape]
        block = self.one_of(known) if known and self.chance(0.7) else self.new_block(shape)
        if prod(block.gives) > MOST_ELEMENTS:
            return
        given = {}
        if "act" in block.parameters and self.chance(0.4):
            given["act"] = self.one_of(activations(self.random, len(block.gives), jumps=self.jumps))
        times = int(self.random.integers(1, 4)) if block.gives == block.takes and self.chance(0.4) else 0
        self.put(Statement((self.fresh(),), (source,), (Stage(word(block.name, **given), times=times),)), block.gives)

    def new_block(self, shape: Shape) -> Block:
        """Layers, an activation that is a parameter, perhaps a way around; or nothing but layers."""
        name = f"b{len(self.blocks) + 1}"
        stages, after = self.pipe("v", shape, int(self.random.integers(1, 3)))
        parameters: dict[str, Any] = {}
        if self.chance(0.4):
            parameters["act"] = self.one_of(activations(self.random, len(after), jumps=self.jumps))
            stages = (*stages, Stage(Use("act")))
        if self.chance(0.6):
            units = parameters["units"] = shape[-1]
            stages = (*stages, Stage(word("dense", units=Use("units"))))
            after = (*after[:-1], units)
        body = [Statement(("r",), ("v",), stages)]
        if after == shape:
            body.append(Statement(("output",), ("v", "r"), pattern=self.one_of(("{0} + {1}", "{0} - {1}", "{0} * {1}"))))
        else:
            body.append(Statement(("output",), ("r",), (Stage(word("tanh")),)))
        block = Block(name, self.chance(0.4), parameters, tuple(body), shape, after)
        self.blocks.append(block)
        return block

    def ends(self, inputs: tuple[Input, ...]) -> list[tuple[str, Shape]]:
        """The tensors that outputs start from; together they use everything."""
        loose = [name for name in self.shapes if name in self.unused]
        keep = loose[-int(self.random.integers(1, 4)) :]
        rest = [name for name in loose if name not in keep]
        for name in rest:  # flat, beside the first of those that are kept
            first = keep[0]
            flat = []
            for part in (first, name):
                if len(self.shapes[part]) > 1:
                    self.put(Statement((self.fresh(),), (part,), (Stage(word("flatten")),)), (prod(self.shapes[part]),))
                    part = self.body[-1].names[0]
                flat.append(part)
            joined = self.fresh()
            self.put(Statement((joined,), (flat[0],), (Stage(word("concat"), (flat[1],)),)), (sum(self.shapes[f][0] for f in flat),))
            keep[0] = joined
        return [(name, self.shapes[name]) for name in keep]

    def result(self, index: int, source: str, shape: Shape) -> tuple[Statement, list[Term]]:
        """An output: a head that fits a loss, and one or two losses."""
        stages: list[Stage] = []
        if len(shape) > 2 or (len(shape) == 2 and self.chance(0.5)):
            stages.append(Stage(word("flatten")))
            shape = (prod(shape),)
        units = int(self.random.integers(1, 4))
        family = self.one_of(("numeric", "numeric", "numeric", "numeric", "classes", "classes", "classes", "binary", "binary", "positive"))
        units = max(2, units) if family == "classes" else units
        stages.append(Stage(word("dense", units=units)))
        shape = (*shape[:-1], units)
        head = {"classes": "softmax", "binary": "sigmoid", "positive": "softplus"}.get(family)
        name = f"y{index}"
        if family == "binary" and self.chance(0.3):
            head, choices = None, [(word("hinge"), "bits")]
        else:
            choices = self.losses(family)
        if head is not None:
            stages.append(Stage(word(head)))
        loss, target = self.one_of(choices)
        statement = Statement((name,), (source,), tuple(stages))
        weight = float(self.random.choice([1.0, 0.5, 2.0]))
        return statement, [Term(weight, loss, name, target, shape)]

    def losses(self, family: str) -> list[tuple[Word, str]]:
        delta, gamma, q = (float(v) for v in self.random.uniform(0.3, 0.9, 3))
        kind = self.one_of(("classes", "shares"))
        match family:
            case "numeric":
                plain = ("mse", "quadratic", "mae", "rmse", "absolute", "log_cosh", "cosine")
                return [*((word(name), "numbers") for name in plain), (word("huber", delta=delta), "numbers"), (word("quantile", q=q), "numbers")]
            case "classes":
                return [
                    (word("cross_entropy", smoothing=0.1), kind), (word("cross_entropy"), kind), (word("kl_divergence"), kind),
                    (word("hellinger"), "shares"), (word("focal", gamma=2 * gamma), kind),
                ]  # fmt: skip
            case "binary":
                return [(word("binary_cross_entropy"), "bits"), (word("binary_cross_entropy", positive_weight=2.0), "parts")]
        return [(word("poisson"), "counts")]


def draw(seed: int) -> Drawn:
    """A random valid network."""
    random = np.random.default_rng(seed)
    noisy = bool(random.random() < CHANCE_OF_NOISE)
    found = Draw(random, noisy, jumps=not noisy and bool(random.random() < 0.25))
    inputs = found.inputs()
    for _ in range(int(random.integers(2, 7))):
        found.grow()
    results, loss = [], []
    for index, (source, shape) in enumerate(found.ends(inputs)):
        statement, terms = found.result(index, source, shape)
        results.append(statement)
        loss += terms
    used = {stage.layer.word for s in found.body for stage in s.stages if isinstance(stage.layer, Word)}
    blocks = tuple(block for block in found.blocks if block.name in used)
    penalties = tuple(Penalty(float(random.choice([1.0, 0.5])), penalty(random)) for _ in range(int(random.integers(0, 3))))
    return Drawn(inputs, blocks, tuple(found.body), tuple(results), tuple(loss), penalties, noisy, int(random.integers(13, 27)))


# Networks that can be compared


def fits(drawn: Drawn, model: Any, batch: Mapping[str, Array]) -> bool:
    """Whether a comparison at this batch means something."""
    if kink_margin(model, batch) <= KINK:
        return False
    objective, gradients = model.gradients(batch)
    found = model.predict(batch)
    sizes = [abs(objective), *(float(np.abs(a).max(initial=0.0)) for a in (*gradients.values(), *found.values()))]
    if not np.isfinite(sizes).all() or max(sizes) > LARGE or max(sizes[1 : 1 + len(gradients)]) < 1e-6:
        return False
    heads = {result.names[0]: str(result.stages[-1]) for result in drawn.results}
    return all(_inside(found[name], head) for name, head in heads.items())


def _inside(a: Array, head: str) -> bool:
    """Whether probabilities and rates keep away from where their logarithms end."""
    if head.startswith(("softmax", "softplus")):
        return bool((a > 1e-5).all())
    return not head.startswith("sigmoid") or bool(((a > 1e-5) & (a < 1 - 1e-5)).all())


def network(seed: int) -> tuple[Drawn, Any, dict[str, Array]]:
    """A random network, initialised, with a batch at which it can be compared."""
    for attempt in range(60):
        drawn = draw(seed + STRIDE * attempt)
        model = nnc.compile(drawn.text).init(seed)
        batch = drawn.batch(ROWS, seed)
        spread(model, seed)
        if fits(drawn, model, batch):
            return drawn, model, batch
    raise AssertionError(f"no network to compare from seed {seed}")
