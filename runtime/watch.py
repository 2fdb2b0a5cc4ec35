"""Watching a training: once an epoch, on a few training rows, what a loss curve does not show.

    gradient     norm of the objective's gradient by the parameters of a layer: where it vanishes, where it explodes
    update       norm of the epoch's last update of a layer over the norm of its parameters; 1e-3 is usual
    dead         share of a layer's units whose slope is 0 for every row looked at
    saturated    share of a layer's activations in their flat ends

The rows are the same in every epoch, so figures of two epochs compare; nothing that training depends on is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from math import isfinite, prod, sqrt
from typing import Any

import numpy as np

from nnc.compiler.watching import Watching

from .data.dataset import Dataset
from .executor import Executor, Program
from .kernels import Array, generator
from .model import Model

FEWEST, MOST = 32, 256  # rows that are looked at, of as many
SHARE = 64  # one of so many rows: about that part of an epoch's time
MOST_ELEMENTS = 16_000_000  # keeps the memory of wide networks small
LASTING = 3  # epochs that a concern must have held for

RATIO = 1e4  # between the gradients of two layers
MOST_DEAD, MOST_SATURATED = 0.5, 0.8
LARGEST_UPDATE, SMALLEST_UPDATE = 0.1, 1e-7


class Watch:
    def __init__(self, model: Model, data: Dataset):
        self.model, self.data = model, data
        self.before: dict[str, Array] = {}  # the parameters before the epoch's last update
        self.said: set[str] = set()
        self.solves = model.program.train is not None and "solver" in model.program.train.optimizer.operation.facts

    @cached_property
    def watching(self) -> Watching:
        return self.model.program.watching(samples=self.model.samples)

    @cached_property
    def program(self) -> Program:
        """The graph bound to its rows: made when the first epoch ends, in the memory that steps have by then."""
        graph, train = self.watching.graph, self.data.splits["train"]
        width = sum(v.type.size(1) for v in graph.order() if not v.primitive.leaf)
        count = min(len(train), max(FEWEST, min(MOST, len(train) // SHARE)), max(1, MOST_ELEMENTS // max(1, width)))
        chosen = generator(self.model.seed, "watch").choice(train, count, replace=False)
        program = Executor(graph, self.model.known, self.model.randomness, self.model.arena).at(count)
        for name, array in program.inputs.items():
            np.copyto(array, self.data.arrays[name][chosen], casting="unsafe")
        return program

    def remember(self) -> None:
        """Keep the parameters: the epoch's last update is about to change them."""
        for bundle in self.model.program.bundles:
            self.before[bundle.name] = self.model.variables[bundle.name].copy()

    def look(self) -> dict[str, Any]:
        """What is recorded of an epoch: the number of rows, and by layer gradient, update, dead and saturated."""
        program, watching = self.program, self.watching
        self.model.randomness.step = self.model.step_count  # the masks of the step that comes next, drawn again by it
        found = program.run()
        record: dict[str, Any] = {"rows": program.plan.n}
        record["gradient"] = {layer: _figure(sqrt(found[f"gradient/{layer}"])) for layer in watching.layers}
        if self.before:
            record["update"] = self._updates()
        living = {name.partition("/")[2]: units for name, units in found.items() if name.startswith("living/")}
        if living:
            record["dead"] = {name: _figure(float(np.mean(units <= 0))) for name, units in living.items()}
        if watching.flat:
            record["saturated"] = {name: _figure(float(found[f"flat/{name}"]) / (count * program.plan.n)) for name, count in watching.flat.items()}
        return record

    def _updates(self) -> dict[str, float | None]:
        """By layer, the norm of the last update over that of the parameters; None where those are all 0."""
        change: dict[str, float] = {}
        size: dict[str, float] = {}
        layer_of = {p.name: layer for layer, parameters in self.watching.layers.items() for p in parameters}
        with np.errstate(all="ignore"):
            for bundle in self.model.program.bundles:
                before = self.before[bundle.name]
                after = self.model.variables[bundle.name]
                step = after - before
                for p, start in zip(bundle.parameters, bundle.starts(), strict=True):
                    layer, part = layer_of[p.name], slice(start, start + prod(p.shape))
                    change[layer] = change.get(layer, 0.0) + float(np.dot(step[part], step[part]))
                    size[layer] = size.get(layer, 0.0) + float(np.dot(before[part], before[part]))
        self.before = {}
        return {layer: _figure(sqrt(change[layer] / size[layer])) if size[layer] else None for layer in self.watching.layers}

    # What is said

    def concerns(self, history: Sequence[dict[str, Any]]) -> Iterator[str]:
        """What is plainly wrong, each thing once, with what to try; nothing where nothing is."""
        for kind, text in self._found([record["watch"] for record in history[-LASTING:] if "watch" in record], len(history) <= LASTING):
            if kind not in self.said:
                self.said.add(kind)
                yield f"watch: {text}"

    def _found(self, records: Sequence[dict[str, Any]], early: bool) -> Iterator[tuple[str, str]]:
        if len(records) < LASTING:
            return
        last = records[-1]
        weighted = [layer for layer, parameters in self.watching.layers.items() if any(p.decays for p in parameters)]
        ends = {_ends(record, weighted) for record in records}
        if len(ends) == 1 and (end := ends.pop()) is not None:
            small, large = end
            ratio = f"the gradient of `{small}` is {_ratio(last, small, large):.0e} of `{large}`'s"
            if weighted.index(small) < weighted.index(large):
                yield "vanishing", f"{ratio}: it vanishes on the way back. Try relu in hidden layers, batch_norm before it, or skip connections x + r"
            else:
                yield "exploding", f"{ratio}: it explodes on the way back. Try clip = global_norm(1.0), batch_norm, or smaller initial weights"
        for layer, share in last.get("dead", {}).items():
            if all(_above(record["dead"][layer], MOST_DEAD) for record in records):
                yield "dead", f"{share:.0%} of the units of `{layer}` give 0 for every row. Try a lower learning rate, leaky_relu, or init=he_normal"
        for layer, share in last.get("saturated", {}).items():
            if all(_above(record["saturated"][layer], MOST_SATURATED) for record in records):
                yield "saturated", f"{share:.0%} of the activations of `{layer}` are in their flat ends. Try smaller initial weights, batch_norm, or relu"
        if self.solves or not all("update" in record for record in records):
            return
        updates = {layer: [record["update"][layer] for record in records] for layer in weighted}
        for layer, ratios in updates.items():
            if all(_above(ratio, LARGEST_UPDATE) for ratio in ratios):
                yield "large updates", f"a step changes `{layer}` by {ratios[-1]:.0%}, where 0.1% is usual. Try a learning rate of a tenth"
        learning = early and any(last["gradient"][layer] for layer in weighted)  # later on small steps mean that there is little left to learn
        if learning and all(ratio is not None and ratio < SMALLEST_UPDATE for ratios in updates.values() for ratio in ratios):
            largest = max(ratios[-1] for ratios in updates.values() if ratios[-1] is not None)
            yield "small updates", f"a step changes no layer by more than {largest:.0e} of it, where 1e-3 is usual. Try a learning rate ten times higher"


def _figure(value: float) -> float | None:
    """Four digits, which is more than a few rows can tell; None for what no number of JSON is."""
    return float(f"{value:.4g}") if isfinite(value) else None


def _above(value: float | None, limit: float) -> bool:
    return value is not None and value > limit


def _ends(record: dict[str, Any], layers: Sequence[str]) -> tuple[str, str] | None:
    """The layers with the smallest and with the largest gradient, where they are further apart than RATIO."""
    known = [layer for layer in layers if record["gradient"][layer] is not None]
    if not known:
        return None
    small, large = (choose(known, key=lambda layer: record["gradient"][layer]) for choose in (min, max))
    return (small, large) if record["gradient"][small] * RATIO < record["gradient"][large] else None


def _ratio(record: dict[str, Any], small: str, large: str) -> float:
    return float(record["gradient"][small] / record["gradient"][large])
