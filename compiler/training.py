"""Clipping and optimiser: from a loss over a forward graph to the graphs that training runs.

evaluation: losses and metrics as sums over a batch, in inference mode. gradients: the objective and its derivative by each
parameter. step: one update of everything. In the step parameters of equal treatment lie in one flat array (bundles.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from .autodiff import gradients
from .bundles import Bundle, flat_parts, flat_variable, held
from .experiment import Experiment, TrainParams
from .ir import Graph, TensorType, Value, apply, constant, origin, substitute
from .lower import Parameter
from .objective import MetricTerm, Objective
from .operation import Clock
from .passes import optimised, stabilised
from .passes.stable import stabilise
from .primitives import dot, total


@dataclass
class Evaluation:
    """`graph` gives the sum over samples of each loss term as `loss/<i>`, the number of samples as `count`, and the sums of metrics."""

    graph: Graph
    metrics: tuple[MetricTerm, ...]
    terms: tuple[tuple[float, bool], ...]  # weight, and whether the root of the mean is taken

    def loss(self, totals: Mapping[str, Any]) -> float:
        """The loss of all samples whose outputs were added up."""
        means = [float(totals[f"loss/{i}"]) / float(totals["count"]) for i in range(len(self.terms))]
        return sum(weight * (sqrt(mean) if root else mean) for (weight, root), mean in zip(self.terms, means, strict=True))


@dataclass
class Step:
    """One update. `scalars` are the numbers that the host computes for each step, from its count; `lr` comes from the schedule."""

    graph: Graph
    bundles: tuple[Bundle, ...]
    slots: dict[str, TensorType]
    scalars: dict[str, Callable[[int], float]]


def evaluation(objective: Objective, transform: Callable[[list[Value]], list[Value]] = lambda roots: roots) -> Evaluation:
    """Sums over a batch in inference mode; losses exclude penalties. `transform` sees the graph before anything is rewritten."""
    metrics = objective.metrics()
    outputs = {f"loss/{i}": total(apply("cast", each, dtype="float64")) for i, (_, each, _) in enumerate(objective.per_sample)}
    outputs["count"] = apply("axis_size", objective.per_sample[0][1], axis=0, dtype="float64")
    for metric in metrics:
        for term, value in metric.sums.terms.items():
            outputs[f"{metric.key}/{term}"] = value
    terms = tuple((weight, root) for weight, _, root in objective.per_sample)
    return Evaluation(optimised(stabilised(Graph(outputs).map(transform)), inference=True), tuple(metrics), terms)


def differentiated(objective: Objective, parameters: Sequence[Parameter]) -> tuple[Value, Value, list[Value]]:
    """Loss, objective, and the objective's gradient by each parameter, zero where it does not depend on one."""
    loss = objective.loss()
    loss, goal = stabilise([loss, objective.objective(loss)])
    variables = [objective.forward.variables[p.name] for p in parameters]
    found = gradients(goal, variables)
    return loss, goal, [g if g is not None else _zeros(v) for g, v in zip(found, variables, strict=True)]


def _zeros(like: Value) -> Value:
    return apply("broadcast_to", constant(0.0, like.dtype), shape=like.shape)


def gradient_graph(objective: Objective) -> Graph:
    """Outputs `objective`, and `gradient/<name>` for every parameter, running statistics included (theirs are zero in training)."""
    parameters = list(objective.forward.parameters.values())
    _, goal, found = differentiated(objective, parameters)
    outputs = {"objective": goal} | {f"gradient/{p.name}": g for p, g in zip(parameters, found, strict=True)}
    return optimised(Graph(outputs))


@dataclass
class UpdateRule:
    """What an optimiser asks for (operation.Rule), for one bundle."""

    lr: Value
    bundle: Bundle
    dtype: str
    slots: dict[str, TensorType]
    updates: dict[str, Value]
    scalars: dict[str, Callable[[int], float]]

    def slot(self, name: str) -> Value:
        full, kind = f"slot/{self.bundle.name}/{name}", TensorType(self.dtype, (self.bundle.size,))
        self.slots[full] = kind
        return apply("variable", name=full, type=kind)

    def update(self, slot: Value, new: Value) -> None:
        self.updates[slot.name] = new

    def scalar(self, name: str, of_step: Callable[[int], float]) -> Value:
        self.scalars[name] = of_step
        return apply("scalar", name=name, dtype=self.dtype)


def step_graph(objective: Objective, groups: Sequence[Bundle]) -> Step:
    """Forward, backward, clipping, update. Outputs `loss`, `objective` and `gradient_square`, the sum of all squares of gradients."""
    train, forward = objective.params, objective.forward
    optimiser = train.optimizer
    trained = [p for bundle in groups for p in bundle.parameters]
    loss, goal, found = differentiated(objective, trained)
    gradient = dict(zip((p.name for p in trained), found, strict=True))
    clip = train.clip
    if clip is not None and "flat" not in clip.operation.facts:
        gradient = dict(zip(gradient, clip.operation.function(list(gradient.values()), clip.params), strict=True))
    with origin("gradients"):
        flat = [apply("pack", *(gradient[p.name] for p in bundle.parameters)) for bundle in groups]
        square = constant(0.0, forward.dtype)
        for g in flat:
            square = square + dot(g, g)
    if clip is not None and "flat" in clip.operation.facts:
        with origin("clip"):
            flat = clip.operation.function(flat, clip.params)
    slots: dict[str, TensorType] = {}
    updates: dict[str, Value] = dict(forward.updates)
    scalars: dict[str, Callable[[int], float]] = {}
    outputs = {"loss": loss, "objective": goal, "gradient_square": square}
    lr = apply("scalar", name="lr", dtype=forward.dtype)
    solver = "solver" in optimiser.operation.facts
    parts = flat_parts(forward, groups)
    for bundle, g in zip(groups, flat, strict=True):
        theta = flat_variable(bundle, forward.dtype)
        if solver:
            outputs["gradient"] = g
            for name, shape in optimiser.operation.extra["slots"](bundle.size, optimiser.params).items():
                slots[f"slot/{bundle.name}/{name}"] = TensorType(forward.dtype, shape)
            continue
        with origin("update"):
            rule = UpdateRule(lr * bundle.rate, bundle, forward.dtype, slots, updates, scalars)
            down = optimiser.operation.function(rule, theta, g, optimiser.params)
            kept = theta
            if bundle.decays:
                amount = constant(optimiser.params.weight_decay, forward.dtype)
                kept = theta * (1.0 - (rule.lr * amount if optimiser.params.decay_form == "scaled" else amount))
            updates[bundle.name] = kept - down
    for bundle in groups:
        if bundle.constrained:
            with origin("constraint"):
                updates[bundle.name] = held(updates.get(bundle.name, flat_variable(bundle, forward.dtype)), bundle)
    graph = Graph(outputs, updates).map(stabilise).map(lambda roots: substitute(roots, parts))
    return Step(optimised(graph), tuple(groups), slots, scalars)


def product_graph(objective: Objective, bundle: Bundle) -> Graph:
    """Output `product`: the Hessian of the objective times the variable `direction`, by differentiating gradient . direction."""
    forward = objective.forward
    _, _, found = differentiated(objective, bundle.parameters)
    direction = apply("variable", name="direction", type=TensorType(forward.dtype, (bundle.size,)))
    along = constant(0.0, forward.dtype)
    for g, p, start in zip(found, bundle.parameters, bundle.starts(), strict=True):
        along = along + dot(g, apply("part", direction, start=start, shape=p.shape))
    variables = [forward.variables[p.name] for p in bundle.parameters]
    second = [h if h is not None else _zeros(v) for h, v in zip(gradients(along, variables), variables, strict=True)]
    graph = Graph({"product": apply("pack", *second)})
    return optimised(graph.map(lambda roots: substitute(roots, flat_parts(forward, [bundle]))))


def rates(train: TrainParams, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate at each step of the whole training, counted from 0: the schedule's stages one after another."""
    lr: float = train.optimizer.params.lr
    everything = train.epochs * steps_per_epoch
    stages: list[tuple[int, Callable[[int], float]]] = []
    start = 0
    for bound in train.schedule:
        stage = bound.operation.function(bound.params, lr, Clock(steps_per_epoch, max(1, everything - start), start % steps_per_epoch))
        stages.append((start, stage.rate))
        start += stage.steps if stage.steps is not None else everything - start

    def rate(step: int) -> float:
        chosen: tuple[int, Callable[[int], float]] = (0, lambda i: lr)
        for candidate in stages:
            if candidate[0] <= step:
                chosen = candidate
        begin, of_stage = chosen
        return of_stage(step - begin)

    return rate


def group_of(experiment: Experiment, path: str) -> Any | None:
    """The parameters of the last group whose part the path lies in; None where no group names it."""
    if experiment.train is None:
        return None
    found = None
    for bound in experiment.train.params.groups:
        part = bound.params.part.name
        if path == part or path.startswith(part + "/"):
            found = bound.params
    return found
