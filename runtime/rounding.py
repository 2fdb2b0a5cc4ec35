"""How far a float32 result can be trusted: what rounding alone moves it by, and where rounding decides.

The graph is computed in float64, exactly and three times with every result off by 2^-24 of itself, up or down at random, as float32 rounds it (the
idea of stochastic arithmetic, Vignes 1993). What the reference, or one of the three, is away from the exact one is the error of a row; the
largest counts.

A GPU that multiplies in TF32 rounds the factors of products and convolutions to 11 bits before. For it they are off by 2^-11 as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnc.compiler.ir import Graph, TensorType, Value, apply, topological

from .edge_rows import Rows
from .executor import Arena, Executor
from .kernels import Array, Randomness

ABSOLUTE, RELATIVE = 1e-5, 1e-4
ROUNDING = 8.0
SAMPLES = 3
UNIT, TF32_UNIT = 2.0**-24, 2.0**-11
MOST, TF32_MOST = 1e-2, 1e-1  # of the value: what differs by more is no rounding error
PRODUCTS = frozenset(("matmul", "conv2d", "conv2d_input_gradient", "recurrent"))
COMPARISONS = frozenset(("greater", "greater_equal", "less", "less_equal"))


@dataclass(frozen=True)
class Trust:
    """By row: whether the output is decided, and the rounding error to allow for."""

    decided: Array
    rounding: Array

    @property
    def largest(self) -> float:
        """The most that is allowed for rounding in a decided row."""
        return float(self.rounding[self.decided].max(initial=0.0))


def jumps(graph: Graph) -> dict[Value, Value]:
    """The values that jump where something passes a threshold, and what to watch: the difference of what is compared, or the operand.

    `where(z > 0, z, slope z)` does not jump, so a comparison counts unless it does nothing but choose. Data steps compare raw values,
    which are the same bits in both engines.
    """
    users: dict[Value, set[str]] = {}
    for value in graph.order():
        for operand in value.operands:
            users.setdefault(operand, set()).add(value.op)
    found = {}
    for value in graph.order():
        if value.origin.startswith("data/") or not value.operands or not value.operands[0].type.is_float:
            continue
        if value.op == "equal" or (value.op in COMPARISONS and users.get(value) != {"where"}):
            found[value] = value.operands[0] - value.operands[1]
        elif value.op in ("argmax", "sign") or (value.op == "cast" and value.dtype == "int64"):
            found[value] = value.operands[0]
    return found


def widened(graph: Graph, *, noise: bool = False, tf32: bool = False) -> Graph:
    """The same graph in float64; with noise, every float of the network, weights included, up or down by float32's rounding unit.

    With `tf32` the factors of products and convolutions are up or down by TF32's.
    """
    new: dict[Value, Value] = {}

    def disturbed(value: Value, unit: float, stream: str) -> Value:
        up = apply("bernoulli", value, probability=0.5, stream=stream)
        return value * (up * (2 * unit) + (1 - unit))

    for index, value in enumerate(graph.order()):
        attributes = {key: _wide(attribute) for key, attribute in value.attributes.items()}
        if value.op == "lookup" and value.operands[0].dtype == "float32":
            attributes["keys"] = tuple(np.asarray(attributes["keys"], np.float32).tolist())
        operands = [new[o] for o in value.operands]
        if tf32 and value.op in PRODUCTS:
            operands = [disturbed(o, TF32_UNIT, f"{index}.{place}") for place, o in enumerate(operands)]
        wide = new[value] = apply(value.op, *operands, **attributes)
        exact = value.op in ("input", "constant", "lookup") or value.origin.startswith("data/")
        if noise and wide.type.is_float and not exact:
            new[value] = disturbed(wide, UNIT, str(index))
    return Graph({name: new[value] for name, value in graph.outputs.items()})


def _wide(attribute: Any) -> Any:
    if isinstance(attribute, TensorType):
        return attribute.with_dtype(_wide(attribute.dtype))
    return "float64" if attribute == "float32" else attribute


def by_row(array: Array) -> Array:
    return array.reshape(len(array), -1)


def distance_of(a: Array, b: Array) -> Array:
    """|a - b| by element; 0 where both are the same or both NaN, infinite where only one is finite."""
    with np.errstate(all="ignore"):
        found = np.abs(a.astype(np.float64) - b)
    found[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    found[np.isnan(found)] = np.inf
    return found


def trust(graph: Graph, arrays: Mapping[str, Array], rows: Rows, size: int, *, tf32: bool = False) -> dict[str, Trust]:
    """For every output, what the reference's own rounding errors leave undecided, or those of an engine that multiplies in TF32."""
    watched = {f"jump/{i}": (jump, at) for i, (jump, at) in enumerate(jumps(graph).items())}
    floats = {f"output/{name}": v for name, v in graph.outputs.items() if v.type.is_float}
    traced = Graph({**floats, **{key: at for key, (_, at) in watched.items()}})
    near = _run(traced, arrays, rows, size)
    wide = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in arrays.items()}
    exact = _run(widened(traced), wide, rows, size)
    noisy = widened(traced, noise=True, tf32=tf32)
    others = [near, *(_run(noisy, wide, rows, size, sample) for sample in range(SAMPLES))]
    rounding = {key: np.max([by_row(distance_of(other[key], exact[key])).max(1, initial=0.0) for other in others], axis=0) for key in near}
    allowed = {key: ROUNDING * (error + np.median(error)) for key, error in rounding.items()}
    close = {jump: _close(jump, near[key], allowed[key]) for key, (jump, _) in watched.items()}
    found = {}
    for name, value in graph.outputs.items():
        undecided = np.zeros(rows.total, bool)
        for passed in close.keys() & set(topological([value])):
            undecided |= close[passed]
        key, limit = f"output/{name}", np.zeros(rows.total)
        if key in near:
            with np.errstate(all="ignore"):
                largest = np.abs(by_row(near[key])).max(1, initial=0.0)
            largest = np.where(np.isfinite(largest), largest, 0.0)
            most = 1e-3 + (TF32_MOST if tf32 else MOST) * np.maximum(largest, np.median(largest))
            nowhere = np.isnan(by_row(near[key])).any(1)  # such as ln(1 + x) below -1: an edge row that the spec has no answer for
            undecided[rows.real :] |= ((rounding[key] > most) | nowhere)[rows.real :]
            limit = np.minimum(allowed[key], most)
        found[name] = Trust(~undecided, limit)
    return found


def _close(jump: Value, watched: Array, rounding: Array) -> Array:
    """The rows in which what a jump watches lies within the bound of its threshold."""
    with np.errstate(all="ignore"):
        match jump.op:
            case "argmax":
                ordered = np.sort(watched.astype(np.float64), axis=jump.attributes["axis"])
                last = ordered.take([-1, -2] if ordered.shape[jump.attributes["axis"]] > 1 else [-1], axis=jump.attributes["axis"])
                margin = np.diff(-last, axis=jump.attributes["axis"]) / 2  # both may move
            case "cast":
                margin = np.abs(watched - np.round(watched))
            case _:
                margin = np.abs(watched)
        bound = ABSOLUTE + RELATIVE * np.abs(by_row(watched)).max(1, initial=0.0) + rounding
        return np.asarray(~(by_row(margin).min(1, initial=np.inf) > bound))


def _run(graph: Graph, arrays: Mapping[str, Array], rows: Rows, size: int, sample: int = 0) -> dict[str, Array]:
    executor = Executor(graph, arrays, Randomness(0, sample), Arena())
    parts: dict[str, list[Array]] = {name: [] for name in graph.outputs}
    for chosen in batches(rows, size):
        for name, array in executor.run({name: array[chosen] for name, array in rows.arrays.items()}).items():
            parts[name].append(array.copy())
    return {name: np.concatenate(found) for name, found in parts.items()}


def batches(rows: Rows, size: int) -> Iterator[list[int]]:
    for start in range(0, rows.total, size):
        yield list(range(start, min(start + size, rows.total)))
