"""Whether onnxruntime and the NumPy runtime agree on a file, on real rows and on edge rows.

Both run at batch 1 and N, onnxruntime with its graph optimisations off and on. An element agrees if it lies within
1e-5 + 1e-4 |reference|, plus eight times the rounding error of its row and of the median row. That error is measured: the graph is
computed in float64, exactly and three times with every result off by 2^-24 of itself, up or down at random, as float32 rounds it (the
idea of stochastic arithmetic, Vignes 1993). What the reference, or one of the three, is away from the exact one is the error; the
largest counts. Other elements, such as decisions, must be equal.

Two correct engines may still part where a rounding error decides. So a row counts as undecided for an output, and may differ there, if
- a comparison, an argmax or another jump on the way to the output is closer to its threshold than the bound, or
- it is an edge row in which float32 has no answer: the reference is off by more than 1% of itself, or of the median row.
In real rows the allowance for rounding ends at that 1%. A wrong lowering shows in the other rows; should there be none, no more than
half of all rows may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnc.compiler.ir import Graph, TensorType, Value, apply, concrete, topological
from nnc.compiler.plan import plan

from .device import EngineRefusal, errors, first_line, session
from .executor import Arena, Executor
from .kernels import Array, Randomness

ABSOLUTE, RELATIVE = 1e-5, 1e-4
ROUNDING = 8.0
SAMPLES = 3
UNIT = 2.0**-24
EDGE_ROWS = 8
SINGLE_ROWS = 16  # rows that are also run one by one
ARENA_BYTES = 2**30
COMPARISONS = frozenset(("greater", "greater_equal", "less", "less_equal"))


# Rows


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


# The reference, and how far it can be trusted


@dataclass(frozen=True)
class Trust:
    """By row: whether the output is decided, and the rounding error to allow for."""

    decided: Array
    rounding: Array


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


def widened(graph: Graph, *, noise: bool = False) -> Graph:
    """The same graph in float64; with noise, every float of the network, weights included, up or down by float32's rounding unit."""
    new: dict[Value, Value] = {}
    for index, value in enumerate(graph.order()):
        attributes = {key: _wide(attribute) for key, attribute in value.attributes.items()}
        if value.op == "lookup" and value.operands[0].dtype == "float32":
            attributes["keys"] = tuple(np.asarray(attributes["keys"], np.float32).tolist())
        wide = new[value] = apply(value.op, *(new[o] for o in value.operands), **attributes)
        exact = value.op in ("input", "constant", "lookup") or value.origin.startswith("data/")
        if noise and wide.type.is_float and not exact:
            up = apply("bernoulli", wide, probability=0.5, stream=str(index))
            new[value] = wide * (up * (2 * UNIT) + (1 - UNIT))
    return Graph({name: new[value] for name, value in graph.outputs.items()})


def _wide(attribute: Any) -> Any:
    if isinstance(attribute, TensorType):
        return attribute.with_dtype(_wide(attribute.dtype))
    return "float64" if attribute == "float32" else attribute


def _by_row(array: Array) -> Array:
    return array.reshape(len(array), -1)


def _distance(a: Array, b: Array) -> Array:
    """|a - b| by element; 0 where both are the same or both NaN, infinite where only one is finite."""
    with np.errstate(all="ignore"):
        found = np.abs(a.astype(np.float64) - b)
    found[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    found[np.isnan(found)] = np.inf
    return found


def trust(graph: Graph, arrays: Mapping[str, Array], rows: Rows, size: int) -> dict[str, Trust]:
    """For every output, what the reference's own rounding errors leave undecided."""
    watched = {f"jump/{i}": (jump, at) for i, (jump, at) in enumerate(jumps(graph).items())}
    floats = {f"output/{name}": v for name, v in graph.outputs.items() if v.type.is_float}
    traced = Graph({**floats, **{key: at for key, (_, at) in watched.items()}})
    near = _run(traced, arrays, rows, size)
    wide = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in arrays.items()}
    exact = _run(widened(traced), wide, rows, size)
    noisy = widened(traced, noise=True)
    others = [near, *(_run(noisy, wide, rows, size, sample) for sample in range(SAMPLES))]
    rounding = {key: np.max([_by_row(_distance(other[key], exact[key])).max(1, initial=0.0) for other in others], axis=0) for key in near}
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
                largest = np.abs(_by_row(near[key])).max(1, initial=0.0)
            largest = np.where(np.isfinite(largest), largest, 0.0)
            most = 1e-3 + 1e-2 * np.maximum(largest, np.median(largest))
            nowhere = np.isnan(_by_row(near[key])).any(1)  # such as ln(1 + x) below -1: an edge row that the spec has no answer for
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
        bound = ABSOLUTE + RELATIVE * np.abs(_by_row(watched)).max(1, initial=0.0) + rounding
        return np.asarray(~(_by_row(margin).min(1, initial=np.inf) > bound))


def _run(graph: Graph, arrays: Mapping[str, Array], rows: Rows, size: int, sample: int = 0) -> dict[str, Array]:
    executor = Executor(graph, arrays, Randomness(0, sample), Arena())
    parts: dict[str, list[Array]] = {name: [] for name in graph.outputs}
    for chosen in _batches(rows, size):
        for name, array in executor.run({name: array[chosen] for name, array in rows.arrays.items()}).items():
            parts[name].append(array.copy())
    return {name: np.concatenate(found) for name, found in parts.items()}


def _batches(rows: Rows, size: int) -> Iterator[list[int]]:
    for start in range(0, rows.total, size):
        yield list(range(start, min(start + size, rows.total)))


def batch_size(graph: Graph, total: int) -> int:
    """All rows at once, or as many as fit into a fixed amount of memory."""
    size = total
    while size > 2 and plan(graph, size).arena_bytes > ARENA_BYTES:
        size = -(-size // 2)
    return size


# Comparison


class Comparison:
    """What one output's reference and result have shown so far."""

    def __init__(self, output: Value, trust: Trust):
        self.trust = trust
        self.exact = not output.type.is_float or output.op == "lookup"
        self.absolute = self.relative = 0.0
        self.compared = self.differing = self.strayed = self.rows = self.agreeing = self.choices = 0

    def add(self, chosen: list[int], wanted: Array, got: Array) -> None:
        decided, rounding = self.trust.decided[chosen], self.trust.rounding[chosen]
        self.rows += len(chosen)
        self.compared += int(decided.sum())
        if wanted.shape != got.shape or (wanted.dtype != got.dtype and wanted.dtype != object):
            self.differing += len(chosen)
            return
        if self.exact:
            outside = _by_row(wanted != got).any(1)
            self._choose(wanted, got)
        else:
            distance = _by_row(_distance(wanted, got))
            reference = np.where(np.isfinite(wanted), np.abs(wanted), 0.0).astype(np.float64)
            reference = _by_row(reference)
            outside = (distance > ABSOLUTE + RELATIVE * reference + rounding[:, None]).any(1)
            self.absolute = max(self.absolute, float(distance[decided].max(initial=0.0)))
            sizeable = (reference > ABSOLUTE) & decided[:, None]
            self.relative = max(self.relative, float((distance[sizeable] / reference[sizeable]).max(initial=0.0)))
            if wanted.ndim > 1 and wanted.shape[-1] > 1:
                self._choose(wanted.argmax(-1), got.argmax(-1))
        self.differing += int((outside & decided).sum())
        self.strayed += int((outside & ~decided).sum())

    def _choose(self, wanted: Array, got: Array) -> None:
        self.agreeing += int((wanted == got).sum())
        self.choices += wanted.size

    def report(self) -> dict[str, Any]:
        """`absolute` and `relative` are the largest differences over decided rows, None where one is infinite."""
        return {
            "passed": self.differing == 0 and 2 * self.strayed <= self.rows,
            "absolute": self.absolute if np.isfinite(self.absolute) else None,
            "relative": self.relative if np.isfinite(self.relative) else None,
            "compared": self.compared,
            "differing": self.differing,
            "undecided": self.rows - self.compared,
            "argmax_agreement": self.agreeing / self.choices if self.choices else None,
        }


def verify(data: bytes, graph: Graph, arrays: Mapping[str, Array], rows: Rows) -> dict[str, Any]:
    """Run the file and the graph on the rows: by output the largest differences and the agreement, and whether all is within the bound.

    Raises EngineRefusal where onnxruntime does not load or run the file.
    """
    import onnxruntime as ort

    size = batch_size(graph, rows.total)
    known = trust(graph, arrays, rows, size)
    comparisons = {name: Comparison(value, known[name]) for name, value in graph.outputs.items()}
    executor = Executor(graph, arrays, Randomness(0), Arena())
    sessions = {label: session(data, optimise=label == "on") for label in ("off", "on")}
    settings = []
    for batch in dict.fromkeys((1, size)):
        for chosen in _batches(rows, size) if batch > 1 else ([row] for row in rows.singles()):
            inputs = {name: array[chosen] for name, array in rows.arrays.items()}
            wanted = {name: array.copy() for name, array in executor.run(inputs).items()}
            for made in sessions.values():
                try:
                    got = made.run(list(wanted), inputs)
                except errors() as error:
                    raise EngineRefusal(f"onnxruntime does not run the file: {first_line(error)}") from error
                for name, result in zip(wanted, got, strict=True):
                    comparisons[name].add(chosen, wanted[name], np.asarray(result))
        settings += [{"batch": batch, "optimisations": label} for label in sessions]
    outputs = {name: comparison.report() for name, comparison in comparisons.items()}
    return {
        "passed": all(found["passed"] for found in outputs.values()),
        "rows": rows.total,
        "real_rows": rows.real,
        "edge_rows": EDGE_ROWS,
        "bound": {"absolute": ABSOLUTE, "relative": RELATIVE, "rounding": ROUNDING},
        "settings": settings,
        "provider": sessions["on"].get_providers()[0],
        "onnxruntime": ort.__version__,
        "outputs": outputs,
    }
