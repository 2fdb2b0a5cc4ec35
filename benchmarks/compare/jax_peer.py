"""JAX, written by hand: a compiled step whose buffers are donated, called once a batch or, as `epoch`, inside one compiled loop.

Calls of the first kind are not waited for within an epoch; the sum of the losses stays on the device until its end.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from workloads import Convolutional, Data, Dense, Recurrent, Tabular, Workload

Tree = Any
Statistics = list[tuple[Any, Any]]
Forward = Callable[[Tree, Any, list[Any]], tuple[Any, Statistics]]
EPSILON, KEPT = 1e-5, 0.9  # of batch norm


class State(NamedTuple):
    """Everything that a step changes."""

    parameters: Tree
    first: Tree  # moments of the gradient, as far as the optimiser keeps them
    second: Tree
    running: Statistics
    step: Any
    total: Any  # of the epoch's losses


class Drawn:
    """Initial parameters, He-normal by the fan-in."""

    def __init__(self, seed: int = 1):
        self.draw = np.random.default_rng(seed)

    def weight(self, *shape: int) -> Any:
        deviation = np.float32((2 / prod(shape[:-1])) ** 0.5)
        return jnp.asarray(self.draw.standard_normal(shape, np.float32) * deviation)

    def dense(self, fan_in: int, fan_out: int) -> dict[str, Any]:
        return {"weight": self.weight(fan_in, fan_out), "bias": jnp.zeros(fan_out)}

    def norm(self, channels: int) -> dict[str, Any]:
        return {"scale": jnp.ones(channels), "shift": jnp.zeros(channels)}


def affine(x: Any, p: Tree) -> Any:
    return x @ p["weight"] + p["bias"]


def normalised(x: Any, p: Tree, statistics: Statistics) -> Any:
    """Batch norm over all axes but the last; the batch's mean and unbiased variance are noted for the running ones."""
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes)
    count = prod(x.shape[:-1])
    statistics.append((mean, variance * (count / (count - 1))))
    return (x - mean) * (lax.rsqrt(variance + EPSILON) * p["scale"]) + p["shift"]


def stack(sizes: tuple[int, ...], drawn: Drawn) -> list[Tree]:
    return [drawn.dense(a, b) for a, b in pairwise(sizes)]


def through(x: Any, ps: list[Tree]) -> Any:
    """Dense layers with relu between them."""
    for p in ps[:-1]:
        x = jax.nn.relu(affine(x, p))
    return affine(x, ps[-1])


def dense_network(workload: Dense, drawn: Drawn) -> tuple[Tree, Forward]:
    ps = stack(workload.sizes, drawn)
    if workload.norm:
        ps = [p | drawn.norm(len(p["bias"])) for p in ps[:-1]] + ps[-1:]
    activation = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}[workload.activation]
    kept = 1 - workload.dropout

    def forward(ps: Tree, key: Any, inputs: list[Any]) -> tuple[Any, Statistics]:
        (x,) = inputs
        statistics: Statistics = []
        for i, p in enumerate(ps[:-1]):
            x = affine(x, p)
            x = activation(normalised(x, p, statistics) if workload.norm else x)
            if workload.dropout:
                x = jnp.where(jax.random.bernoulli(jax.random.fold_in(key, i), kept, x.shape), x / kept, 0)
        return affine(x, ps[-1]), statistics

    return ps, forward


def convolutional_network(workload: Convolutional, drawn: Drawn) -> tuple[Tree, Forward]:
    channels = (workload.shape[0], *workload.channels)
    convolutions = []
    for a, b in pairwise(channels):
        convolutions.append({"weight": drawn.weight(3, 3, a, b)} | (drawn.norm(b) if workload.norm else {"bias": jnp.zeros(b)}))
    padding = "SAME" if workload.padded else "VALID"

    def forward(ps: Tree, key: Any, inputs: list[Any]) -> tuple[Any, Statistics]:
        (x,) = inputs
        statistics: Statistics = []
        for i, p in enumerate(ps["convolutions"]):
            x = lax.conv_general_dilated(x, p["weight"], (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = jax.nn.relu(normalised(x, p, statistics) if workload.norm else x + p["bias"])
            if (i + 1) % workload.pool_every == 0:
                x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = x.mean((1, 2)) if workload.averaged else x.reshape(len(x), -1)
        return through(x, ps["dense"]), statistics

    return {"convolutions": convolutions, "dense": stack((workload.features, *workload.dense), drawn)}, forward


def tabular_network(workload: Tabular, drawn: Drawn) -> tuple[Tree, Forward]:
    tables = drawn.weight(workload.categories, workload.vocabulary, workload.size)
    joined = workload.categories * workload.size + workload.numbers
    which = jnp.arange(workload.categories)

    def forward(ps: Tree, key: Any, inputs: list[Any]) -> tuple[Any, Statistics]:
        x, codes = inputs
        rows = ps["tables"][which, codes].reshape(len(x), -1)
        return through(jnp.concatenate([rows, x], 1), ps["dense"])[:, 0], []

    return {"tables": tables, "dense": stack((joined, *workload.sizes), drawn)}, forward


def recurrent_network(workload: Recurrent, drawn: Drawn) -> tuple[Tree, Forward]:
    h = workload.units
    ps = {"input": drawn.dense(workload.features, 4 * h), "state": drawn.weight(h, 4 * h), "head": drawn.dense(h, 1)}

    def forward(ps: Tree, key: Any, inputs: list[Any]) -> tuple[Any, Statistics]:
        (x,) = inputs
        projected = affine(x, ps["input"]).transpose(1, 0, 2)  # of all steps at once

        def cell(carried: tuple[Any, Any], z: Any) -> tuple[tuple[Any, Any], None]:
            state, memory = carried
            i, f, g, o = jnp.split(z + state @ ps["state"], 4, 1)
            memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(memory), memory), None

        zeros = jnp.zeros((len(x), h))
        (state, _), _ = lax.scan(cell, (zeros, zeros), projected)
        return affine(state, ps["head"])[:, 0], []

    return ps, forward


def network(workload: Workload, drawn: Drawn) -> tuple[Tree, Forward]:
    match workload:
        case Dense():
            return dense_network(workload, drawn)
        case Convolutional():
            return convolutional_network(workload, drawn)
        case Tabular():
            return tabular_network(workload, drawn)
        case Recurrent():
            return recurrent_network(workload, drawn)
    raise AssertionError(workload)


def loss_of(workload: Workload, output: Any, label: Any) -> Any:
    match workload:
        case Tabular():
            return jnp.mean(jax.nn.softplus(output) - output * label)
        case Recurrent():
            return jnp.mean((output - label) ** 2)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(output), label[:, None], 1))


def updated(workload: Workload, state: State, gradient: Tree, step: Any) -> tuple[Tree, Tree, Tree]:
    """New parameters and moments."""
    ps, first, second, rate = state.parameters, state.first, state.second, workload.rate
    match workload.optimizer:
        case "sgd":
            ps = jax.tree.map(lambda p, g: p - rate * g, ps, gradient)
        case "momentum":
            first = jax.tree.map(lambda v, g: 0.9 * v + g, first, gradient)
            ps = jax.tree.map(lambda p, v: p - rate * v, ps, first)
        case "adam":
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
            second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
            scale, whole = rate / (1 - 0.9**step), 1 / (1 - 0.999**step)
            ps = jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v * whole) + 1e-8), ps, first, second)
    return ps, first, second


class JaxTraining:
    def __init__(self, workload: Workload, inputs: list[Any], label: Any, *, whole_epochs: bool):
        self.samples, self.batch = len(label), workload.batch
        self.held = [*inputs, label]
        self.order = np.random.default_rng(2)
        parameters, forward = network(workload, Drawn())
        key = jax.random.key(0)

        def objective(ps: Tree, key: Any, batch: list[Any]) -> tuple[Any, Statistics]:
            output, statistics = forward(ps, key, batch[:-1])
            return loss_of(workload, output, batch[-1]), statistics

        def step(state: State, chosen: Any, held: list[Any]) -> State:
            differentiated = jax.value_and_grad(objective, has_aux=True)
            own_key = jax.random.fold_in(key, state.step)
            (loss, found), gradient = differentiated(state.parameters, own_key, [array[chosen] for array in held])
            count = state.step + 1
            running = jax.tree.map(lambda old, new: KEPT * old + (1 - KEPT) * new, state.running, found)
            parameters, first, second = updated(workload, state, gradient, count.astype(jnp.float32))
            return State(parameters, first, second, running, count, state.total + loss)

        self.one = jax.jit(step, donate_argnums=0)
        self.whole = jax.jit(lambda state, order, held: lax.scan(lambda s, chosen: (step(s, chosen, held), None), state, order)[0], donate_argnums=0)
        self.whole_epochs = whole_epochs
        shapes = jax.eval_shape(objective, parameters, key, [array[: workload.batch] for array in self.held])[1]
        first, second, running = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (parameters, parameters, shapes))
        self.state = State(parameters, first, second, running, jnp.int32(0), jnp.float32(0))

    def epoch(self) -> float:
        order = self.order.permutation(self.samples).reshape(-1, self.batch)
        state = self.state._replace(total=jnp.float32(0))
        if self.whole_epochs:
            state = self.whole(state, jnp.asarray(order), self.held)
        else:
            for chosen in order:
                state = self.one(state, chosen, self.held)
        self.state = state
        return float(state.total) / len(order)  # waits for the last step

    def steps(self) -> int:
        return int(self.state.step)


Held = tuple[list[Any], Any]


def place(workload: Workload, data: Data, options: frozenset[str], folder: Path) -> Held:
    x = data.x.transpose(0, 2, 3, 1) if isinstance(workload, Convolutional) else data.x
    return [jnp.asarray(array) for array in (x, data.codes) if array is not None], jnp.asarray(data.label)


def prepare(workload: Workload, held: Held, options: frozenset[str]) -> JaxTraining:
    return JaxTraining(workload, *held, whole_epochs="epoch" in options)
