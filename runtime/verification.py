"""Whether onnxruntime and the NumPy runtime agree on a file, on real rows and on edge rows.

Both run at batch 1, 7 and N, onnxruntime with its graph optimisations off and on, on the CPU and on CUDA where that is really there, there with
TF32 off and on. An element agrees if it lies within 1e-5 + 1e-4 |reference|, plus eight times the rounding error of its row and of the median
row (rounding.py). Other elements, such as decisions, must be equal.

Two correct engines may still part where a rounding error decides. So a row counts as undecided for an output, and may differ there, if
- a comparison, an argmax or another jump on the way to the output is closer to its threshold than the bound, or
- it is an edge row in which float32 has no answer: the reference is off by more than 1% of itself, or of the median row.
In real rows the allowance for rounding ends at that 1%. A wrong lowering shows in the other rows; should there be none, no more than
half of all rows may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnc.compiler.ir import Graph, Value
from nnc.compiler.plan import plan

from . import device
from .device import PROVIDERS, EngineRefusal, errors, first_line, session
from .edge_rows import EDGE_ROWS, Rows
from .executor import Arena, Executor
from .kernels import Array, Randomness
from .rounding import ABSOLUTE, RELATIVE, ROUNDING, UNIT, Trust, batches, by_row, distance_of, trust

ARENA_BYTES = 2**30
FORMULA = (
    "|result - reference| <= absolute + relative |reference| + rounding (e(row) + e(median row)); e is the error that rounding leaves, measured in "
    "float64 with every result off by one unit, up or down"
)
SEVEN = 7  # a batch that is no power of two, and that no number of rows is a multiple of by habit


def batch_size(graph: Graph, total: int) -> int:
    """All rows at once, or as many as fit into a fixed amount of memory."""
    size = total
    while size > 2 and plan(graph, size).arena_bytes > ARENA_BYTES:
        size = -(-size // 2)
    return size


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
            outside = by_row(wanted != got).any(1)
            self._choose(wanted, got)
        else:
            distance = by_row(distance_of(wanted, got))
            reference = np.where(np.isfinite(wanted), np.abs(wanted), 0.0).astype(np.float64)
            reference = by_row(reference)
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
            "rounding": self.trust.largest,
            "compared": self.compared,
            "differing": self.differing,
            "undecided": self.rows - self.compared,
            "argmax_agreement": self.agreeing / self.choices if self.choices else None,
        }


@dataclass
class Engine:
    """A session of the file on one provider, and how it computes."""

    session: Any
    optimisations: str
    tf32: bool = False

    @property
    def provider(self) -> str:
        """The provider that onnxruntime really took; the list of those that it has says nothing about that."""
        return str(self.session.get_providers()[0])

    def setting(self, batch: int) -> dict[str, Any]:
        told = {"provider": self.provider, "batch": batch, "optimisations": self.optimisations}
        return told if self.provider == PROVIDERS["cpu"] else told | {"tf32": "on" if self.tf32 else "off"}


@dataclass
class Engines:
    """The file on every provider that is really there, and why others are not."""

    there: list[Engine] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def providers(self) -> list[str]:
        return list(dict.fromkeys(engine.provider for engine in self.there))


def engines_of(data: bytes) -> Engines:
    """Sessions of a file. Raises EngineRefusal where the CPU does not load it."""
    found = Engines([Engine(session(data, optimise=label == "on"), label) for label in ("off", "on")])
    obstacle = device.obstacle()
    if obstacle is not None:
        found.absent[PROVIDERS["cuda"]] = obstacle.cause
        return found
    kinds = [(tf32, label) for tf32 in (False, True) for label in ("off", "on")]
    try:
        found.there += [Engine(session(data, "cuda", optimise=label == "on", tf32=tf32, whole=False), label, tf32) for tf32, label in kinds]
    except EngineRefusal as error:  # the CPU has loaded it: no memory on the GPU, say
        found.absent[PROVIDERS["cuda"]] = str(error)
    return found


def verify(data: bytes, graph: Graph, arrays: Mapping[str, Array], rows: Rows) -> dict[str, Any]:
    """Run the file and the graph on the rows: by output the largest differences and the agreement, and whether all is within the bound.

    Raises EngineRefusal where onnxruntime does not load or run the file.
    """
    import onnxruntime as ort

    size, engines = batch_size(graph, rows.total), engines_of(data)
    kinds = sorted({engine.tf32 for engine in engines.there})
    known = {tf32: trust(graph, arrays, rows, size, tf32=tf32) for tf32 in kinds}
    comparisons = {tf32: {name: Comparison(value, known[tf32][name]) for name, value in graph.outputs.items()} for tf32 in kinds}
    executor = Executor(graph, arrays, Randomness(0), Arena())
    settings = []
    for batch in dict.fromkeys((1, min(SEVEN, size), size)):
        for chosen in _chosen(rows, batch, size):
            inputs = {name: array[chosen] for name, array in rows.arrays.items()}
            wanted = {name: array.copy() for name, array in executor.run(inputs).items()}
            for engine in engines.there:
                try:
                    got = engine.session.run(list(wanted), inputs)
                except errors() as error:
                    raise EngineRefusal(f"onnxruntime does not run the file: {first_line(error)}") from error
                for name, result in zip(wanted, got, strict=True):
                    comparisons[engine.tf32][name].add(chosen, wanted[name], np.asarray(result))
        settings += [engine.setting(batch) for engine in engines.there]
    outputs = {tf32: {name: comparison.report() for name, comparison in found.items()} for tf32, found in comparisons.items()}
    return {
        "passed": all(found["passed"] for of_all in outputs.values() for found in of_all.values()),
        "rows": rows.total,
        "real_rows": rows.real,
        "edge_rows": EDGE_ROWS,
        "bound": {"absolute": ABSOLUTE, "relative": RELATIVE, "rounding": ROUNDING, "unit": UNIT, "formula": FORMULA},
        "settings": settings,
        "providers": engines.providers,
        "absent": engines.absent,
        "onnxruntime": ort.__version__,
        "outputs": outputs[False],
    } | ({"tf32": outputs[True]} if True in outputs else {})


def _chosen(rows: Rows, batch: int, size: int) -> Iterator[list[int]]:
    """All rows in batches of `size`; some of them in smaller ones."""
    if batch == size:
        yield from batches(rows, size)
        return
    some = rows.singles()
    for start in range(0, len(some), batch):
        yield some[start : start + batch]
