"""Losses and metrics of a split, from sums over its batches."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from nnc.compiler.ir import Batch
from nnc.compiler.training import Evaluation

from .executor import Executor
from .kernels import Array
from .model import Model

EVALUATION_BATCH = 1024


class Evaluator:
    """Evaluates a model on splits; its graph is compiled once."""

    def __init__(self, model: Model, evaluation: Evaluation | None = None, constants: Mapping[str, Array] | None = None):
        """The model's own evaluation, or another of the same targets with variables of its own."""
        self.evaluation = model.program.evaluation() if evaluation is None else evaluation
        known = model.known if constants is None else ChainMap(dict(constants), dict(model.known))
        self.executor = Executor(self.evaluation.graph, known, model.randomness, model.arena)
        outputs = self.evaluation.graph.outputs
        self.collected = [name for name, value in outputs.items() if any(isinstance(d, Batch) for d in value.shape)]
        width = sum(v.type.size(1) for v in self.evaluation.graph.order() if not v.primitive.leaf)
        self.batch = max(1, min(EVALUATION_BATCH, 16_000_000 // max(1, width)))  # keeps the arena small for wide networks

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

    def cut(self, arrays: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """Rows in batches of the size that this evaluates at a time."""
        rows = len(next(iter(arrays.values())))
        for start in range(0, rows, self.batch):
            yield {name: array[start : start + self.batch] for name, array in arrays.items()}

    def better(self, figure: str) -> str:
        """Whether `higher` or `lower` values of a figure are better."""
        return next((m.better for m in self.evaluation.metrics if m.key == figure), "lower")
