"""What the phases make of a file: a checked experiment, and its graphs, each made when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

from . import bundles, objective, sparse, training
from .bundles import Bundle
from .diagnostics import Findings
from .experiment import Experiment, TrainParams
from .ir import ITEM_BYTES, Graph, TensorType, apply, topological
from .lower import Forward, lower
from .objective import Balance, Objective, Target
from .passes import optimised
from .passes.pools import pool_first
from .passes.tolerant import tolerant
from .plan import plan
from .prepare import Prepared
from .training import Evaluation, Step
from .watching import Watching, watching_graph

# A step keeps its forward pass, cotangents, parameters with their gradients and states, and tiles of fixed size: up to 11 times the forward pass, where one
# has parameters and little else, and mostly less than it. tests/test_budget.py measures it.
_TIMES_FORWARD, _TILES = 50, 1 << 28


@dataclass(eq=False, repr=False)
class Program:
    """A checked experiment with its graphs."""

    experiment: Experiment
    findings: Findings
    inference: Forward
    prepared: dict[str, Prepared] = field(default_factory=dict)  # by data name; empty without a data section
    learned: Mapping[str, tuple[Any, ...]] | None = None

    @property
    def train(self) -> TrainParams | None:
        return self.experiment.train.params if self.experiment.train else None

    @property
    def dtype(self) -> str:
        return self.inference.dtype

    def frozen(self, path: str) -> bool:
        group = training.group_of(self.experiment, path)
        return group is not None and group.frozen

    def rate(self, path: str) -> float:
        group = training.group_of(self.experiment, path)
        return 1.0 if group is None else group.rate

    @cached_property
    def training_forward(self) -> Forward:
        return lower(self.experiment.network, self.findings, training=True, dtype=self.dtype, frozen=self.frozen)

    @cached_property
    def step_forward(self) -> Forward:
        """The training's forward graph as a step goes through it; `results`, which is by layer, stays the graph's as it was written."""
        written = self.training_forward
        first = Graph(written.outputs, written.updates).map(pool_first)
        return replace(written, outputs=dict(first.outputs), updates=dict(first.updates))

    @cached_property
    def inference_graph(self) -> Graph:
        return optimised(Graph(dict(self.inference.outputs)), inference=True)

    @cached_property
    def bundles(self) -> tuple[Bundle, ...]:
        optimiser = self.train.optimizer if self.train is not None else None
        decay = optimiser is not None and optimiser.params.weight_decay > 0 and "solver" not in optimiser.operation.facts  # which takes all as one
        by_rows = sparse.tables(self.inference, self.train) if self.train is not None else frozenset()
        return bundles.bundles(list(self.inference.parameters.values()), self.rate, self.frozen, decay, by_rows)

    def targets(self) -> dict[str, Target]:
        """The types of the loss's targets: the data section's, or a default for free ones."""
        assert self.train is not None
        found = {}
        for name, entry in self.prepared.items():
            value = entry.column.value
            found[name] = Target(value.dtype, tuple(d for d in value.shape[1:] if isinstance(d, int)), entry.column.classes, entry.inverse)
        if self.experiment.data is None:
            found |= objective.free_targets(self.train, self.inference)
        return found

    def objective(self, forward: Forward, targets: Mapping[str, Target] | None = None, samples: int | None = None, mixed: bool = False) -> Objective:
        """The loss over a forward graph; raises SpecError where prediction and target do not fit."""
        assert self.experiment.train is not None
        chosen = self.targets() if targets is None else targets
        findings = Findings(self.experiment.source)  # its own: a batch that does not fit says nothing about the next one
        made = Objective(self.experiment.network, self.experiment.train, forward, chosen, findings, samples, mixed)
        findings.stop_on_errors()
        if samples is None and made.needs_samples():
            findings.add("E506", self.experiment.train.at("penalty"), "how many training samples are there?",
                         help="add a data section, or give the number as lambda itself")  # fmt: skip
            findings.stop_on_errors()
        return made

    def evaluation(self, targets: Mapping[str, Target] | None = None) -> Evaluation:
        return training.evaluation(self.objective(self.inference, targets, samples=1))

    def constant_evaluation(self) -> Evaluation:
        """The evaluation of predictions that ignore the inputs: each output is a variable `constant/<output>`, the same for every sample."""
        forward = Forward(self.dtype)
        for name, output in self.inference.outputs.items():
            held = TensorType(output.dtype, output.shape[1:])
            forward.outputs[name] = apply("broadcast_to", apply("variable", name=f"constant/{name}", type=held), shape=output.shape)
        return training.evaluation(self.objective(forward, samples=1))

    def gradients(self, targets: Mapping[str, Target] | None = None, samples: int | None = None) -> Graph:
        return training.gradient_graph(self.objective(self.training_forward, targets, samples))

    def step(self, targets: Mapping[str, Target] | None = None, samples: int | None = None) -> Step:
        """The step that the engines on the host run; convolutions in it may err as far as the train section lets them."""
        assert self.train is not None
        step = training.step_graph(self.objective(self.step_forward, targets, samples, self.mixes), self.bundles)
        error = self.train.error
        return replace(step, graph=step.graph.map(lambda roots: tolerant(roots, error))) if error else step

    def step_apart(self, targets: Mapping[str, Target] | None = None, samples: int | None = None, *, metrics: bool = False) -> Step:
        """The step with every parameter and its slots under their own names, as training.onnx has it, with the sums of metrics or without."""
        objective = self.objective(self.step_forward, targets, samples, self.mixes)
        return training.step_graph(objective, bundles.apart(self.bundles), metrics=metrics)

    def watching(self, targets: Mapping[str, Target] | None = None, samples: int | None = None) -> Watching:
        """What training watches, for everything that is trained."""
        return watching_graph(self.objective(self.training_forward, targets, samples), self.bundles)

    def product(self, targets: Mapping[str, Target] | None = None, samples: int | None = None) -> Graph:
        """The Hessian-vector product of the objective, for solvers."""
        return training.product_graph(self.objective(self.training_forward, targets, samples, self.mixes), self.bundles[0])

    @property
    def mixes(self) -> bool:
        """Whether training mixes the samples of a batch."""
        data = self.experiment.data
        return data is not None and any("mixing" in bound.operation.facts for item in data.augment for bound in item.steps)

    def needs_data(self) -> bool:
        """Whether a model of this program depends on rows: on what a data step or a loss learns, or on how many rows train."""
        data = self.experiment.data
        if data is None:
            return False
        learns = any(step.bound.operation.extra.get("learns") for name in data.names.values() for step in name.steps)
        return learns or bool(self.balances) or (self.train is not None and self.objective(self.inference, samples=1).needs_samples())

    @property
    def balances(self) -> list[Balance]:
        return [] if self.train is None else objective.balances(self.train, self.inference)

    @property
    def parameter_bytes(self) -> int:
        return sum(prod(p.shape) for p in self.inference.parameters.values()) * ITEM_BYTES[self.dtype]

    def training_bytes(self, n: int, fast: bool = False) -> int:
        """Bytes of all arrays that a step on n samples keeps at once, on NumPy's engine or the fast one: parameters, state, batch and arena."""
        step = self.step(samples=1)
        slots = sum(kind.nbytes(1) for kind in step.slots.values())
        return plan(step.graph, n, fast).arena_bytes + slots + self._solver_bytes + self._input_bytes(step.graph, n) + self.parameter_bytes

    def surely_trains_in(self, most: int, n: int) -> bool:
        """Whether a step on n samples keeps fewer than so many bytes, as far as its forward pass alone can tell, which takes a thirtieth of making the step."""
        assert self.train is not None
        if "solver" in self.train.optimizer.operation.facts:
            return False  # it may keep many gradients, or a matrix of them
        objective = self.objective(self.step_forward, samples=1, mixed=self.mixes)
        loss = objective.loss()
        forward = sum(value.type.nbytes(n) for value in topological((loss, objective.objective(loss), *self.step_forward.updates.values())))
        return _TIMES_FORWARD * forward + _TILES < most

    def inference_bytes(self, n: int) -> int:
        """Bytes of all arrays that a prediction for n samples keeps at once."""
        graph = self.inference_graph
        return plan(graph, n).arena_bytes + self._input_bytes(graph, n) + self.parameter_bytes

    @property
    def _solver_bytes(self) -> int:
        """What a solver writes down in a step beside its graphs."""
        assert self.train is not None
        work = self.train.optimizer.operation.extra.get("work")
        return int(work(sum(bundle.size for bundle in self.bundles))) if work else 0

    @staticmethod
    def _input_bytes(graph: Graph, n: int) -> int:
        return sum(value.type.nbytes(n) for value in graph.leaves("input").values())

    @property
    def batch(self) -> int:
        """Samples in a step, as far as the source's rows are known; 1 without a train section or where only the whole source tells."""
        if self.train is None:
            return 1
        data = self.experiment.data
        return self.train.step_size(data.schema.rows if data is not None else None)
