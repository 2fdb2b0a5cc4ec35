"""Small networks as specs: one layer between two others; derivatives by differences. Tests of several modules share them.

A layer is a word of the operation table with arguments, written into the spec by `str` and interpreted by the oracles
under the same names, so that no network is described twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nnc import load
from nnc.compiler.ir import Graph, Value
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.model import Model

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


def goes_on_from_a_file(whole: Model, half: Model, batch: Mapping[str, Any], folder: Path) -> None:
    """Six steps of one model are three of its twin and three of what a file kept of that, bit for bit."""
    for _ in range(6):
        whole.step(batch)
    for _ in range(3):
        half.step(batch)
    half.save(folder / "half.safetensors")
    again = load(folder / "half.safetensors")
    for _ in range(3):
        again.step(batch)
    for name, array in whole.state().items():
        np.testing.assert_array_equal(again.state()[name], array, err_msg=name)
