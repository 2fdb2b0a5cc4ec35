"""The rows that an exported file is tried on: real ones, and rows that data seldom holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnc.compiler.ir import Graph, TensorType, concrete, topological

from .kernels import Array

EDGE_ROWS = 8
SINGLE_ROWS = 16  # rows that are also run one by one, and by sevens


@dataclass(frozen=True)
class Rows:
    """Raw inputs by name: real rows first, then edge rows."""

    arrays: dict[str, Array]
    real: int

    @property
    def total(self) -> int:
        return self.real + EDGE_ROWS

    def singles(self) -> list[int]:
        """Rows that are run alone: every edge row, and real ones evenly spaced."""
        few = min(self.real, SINGLE_ROWS - EDGE_ROWS)
        return [*np.linspace(0, self.real - 1, few).astype(int).tolist(), *range(self.real, self.total)]


def verification_rows(graph: Graph, given: Mapping[str, Array] | None) -> Rows:
    """The given rows, and rows that data seldom holds: zeros, extremes, values far out, missing ones, unknown categories."""
    inputs = {name: value.type for name, value in graph.leaves("input").items()}
    incomplete = _inputs_of(graph, "is_nan", "lookup")
    indexed = _inputs_of(graph, "lookup", "one_hot")
    known_only = _refusing(graph)
    arrays, real = {}, 0
    for name, kind in inputs.items():
        known = None
        if given is not None:
            known = np.asarray(given[name], object if kind.dtype == "string" else kind.dtype)
            known, real = known.reshape(concrete(kind.shape, len(known))), len(known)
        edges = _edges(kind, known, name in incomplete, name in indexed)
        if name in known_only:
            edges = _among(known_only[name], edges)
        arrays[name] = edges if known is None else np.concatenate([known, edges])
    return Rows(arrays, real)


def _refusing(graph: Graph) -> dict[str, tuple[Any, ...]]:
    """The inputs whose every value must be among some, because an embedding has rows for no others."""
    found: dict[str, tuple[Any, ...]] = {}
    for gather in (v for v in graph.order() if v.op == "gather"):
        table, index = gather.operands
        rows = table.shape[0]
        assert isinstance(rows, int)
        while index.op == "reshape":
            index = index.operands[0]
        if index.op == "input":
            found[index.name] = tuple(range(min(rows, len(found.get(index.name, range(rows))))))
        elif index.op == "lookup" and index.attributes["default"] >= rows:
            for source in topological([index]):
                if source.op == "input":
                    found[source.name] = index.attributes["keys"]
    return found


def _among(allowed: tuple[Any, ...], edges: Array) -> Array:
    """Edge rows drawn from the allowed values alone."""
    chosen = np.arange(edges.size) % len(allowed)
    values = np.array(allowed, edges.dtype)
    return values[chosen].reshape(edges.shape)


def _inputs_of(graph: Graph, *primitives: str) -> set[str]:
    """The inputs that reach such a primitive of a data step."""
    users = [v for v in graph.order() if v.op in primitives and v.origin.startswith("data/")]
    return {v.name for v in topological(o for user in users for o in user.operands) if v.op == "input"}


def _edges(kind: TensorType, known: Array | None, missing: bool, indexed: bool) -> Array:
    shape = concrete(kind.shape, EDGE_ROWS)
    random = np.random.default_rng(0)
    along = (EDGE_ROWS, *([1] * (len(shape) - 1)))
    if kind.dtype == "string":
        words = ["", "?", "never seen", " ", "0", "\u00e9", "a" * 100, "None"]
        return np.broadcast_to(np.array(words, object).reshape(along), shape).copy()
    if kind.dtype == "bool":
        return random.integers(0, 2, shape).astype(bool)
    if kind.dtype == "uint8":
        edges = random.integers(0, 256, shape)
        edges[0], edges[1] = 0, 255
        return edges.astype(np.uint8)
    if kind.dtype == "int64":
        low, high = (int(known.min()), int(known.max())) if known is not None and known.size else (0, EDGE_ROWS - 1)
        edges = random.integers(low, high + 1, shape)
        edges[0], edges[1] = low, high
        if indexed:  # indices and categories that nothing knows
            edges[2], edges[3], edges[4] = -1, high + 1, 2**40
        return edges
    return _float_edges(shape, kind.dtype, known, missing, random)


def _float_edges(shape: tuple[int, ...], dtype: str, known: Array | None, missing: bool, random: np.random.Generator) -> Array:
    """Zeros, the extremes of the data, draws around its mean, ten and a hundred deviations away, and NaN where it has a meaning."""
    data = np.array([-np.ones(shape[1:]), np.ones(shape[1:])]) if known is None or not len(known) else known.astype(np.float64)
    data = np.where(np.isfinite(data), data, 0.0)
    low, high, mean, std = data.min(0), data.max(0), data.mean(0), data.std(0)
    edges = mean + std * random.standard_normal(shape)
    edges[0], edges[1], edges[2] = 0.0, low, high
    edges[3] = mean + 10 * (edges[3] - mean)
    edges[4] = mean + 100 * (edges[4] - mean)
    if missing:
        edges[5] = np.nan
        edges[6] = np.where(random.random(shape[1:]) < 0.5, np.nan, edges[6])
    limit = np.finfo(dtype).max
    return np.asarray(edges.clip(-limit, limit), dtype)
