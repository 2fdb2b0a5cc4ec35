"""Losses and metrics of a split, from sums over its batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from nnc.compiler.ir import Batch
from nnc.compiler.training import Evaluation

from .data.stored import Column
from .ensemble import Ensemble
from .executor import Arena, Executor
from .kernels import Array, Randomness
from .model import Model

EVALUATION_BATCH = 1024


class Evaluator:
    """Adds up an evaluation graph over batches; it is compiled once."""

    def __init__(self, evaluation: Evaluation, variables: Mapping[str, Array], arena: Arena):
        self.evaluation = evaluation
        self.executor = Executor(evaluation.graph, variables, Randomness(0), arena)
        outputs = self.evaluation.graph.outputs
        self.collected = [name for name, value in outputs.items() if any(isinstance(d, Batch) for d in value.shape)]
        width = sum(v.type.size(1) for v in self.evaluation.graph.order() if not v.primitive.leaf)
        self.batch = max(1, min(EVALUATION_BATCH, 16_000_000 // max(1, width)))  # keeps the arena small for wide networks

    @classmethod
    def of(cls, model: Model | Ensemble) -> Evaluator:
        """For batches of data names: prepared ones, of an ensemble raw ones."""
        return cls(model.evaluation(), model.known, model.arena)

    def figures(self, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """`loss` (without penalties) and every metric, over all samples."""
        totals: dict[str, Any] = {}
        for batch in batches:
            for name, value in self.executor.run(batch).items():
                if name in self.collected:
                    totals.setdefault(name, []).append(value.copy())
                else:
                    known = totals.get(name)
                    totals[name] = np.array(value, np.float64) if known is None else known + value
        for name in self.collected:
            totals[name] = np.concatenate(totals[name])
        found = {"loss": self.evaluation.loss(totals)}
        for metric in self.evaluation.metrics:
            found[metric.key] = metric.sums.finish({term: totals[f"{metric.key}/{term}"] for term in metric.sums.terms})
        return found

    def cut(self, arrays: Mapping[str, Column], chosen: Array | None = None) -> Iterator[dict[str, Array]]:
        """All rows or those chosen, in batches of the size that this evaluates at a time."""
        rows = len(next(iter(arrays.values()))) if chosen is None else len(chosen)
        for start in range(0, rows, self.batch):
            part: Any = slice(start, start + self.batch)
            yield {name: array[part if chosen is None else chosen[part]] for name, array in arrays.items()}

    def better(self, figure: str) -> str:
        """Whether `higher` or `lower` values of a figure are better."""
        return next((m.better for m in self.evaluation.metrics if m.key == figure), "lower")
