"""Clipping and optimiser: from a loss over a forward graph to the graphs that training runs.

evaluation: losses and metrics as sums over a batch, in inference mode. gradients: the objective and its derivative by each
parameter. step: one update of everything. In the step parameters of equal treatment lie in one flat array (bundles.py), and large tables are
updated by rows (sparse.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from .autodiff import gradients
from .bundles import Bundle, flat_parts, flat_variable, held
from .experiment import Experiment, TrainParams
from .ir import Batch, Graph, TensorType, Value, apply, constant, origin, substitute
from .lower import Parameter
from .objective import MetricTerm, Objective
from .operation import Bound, Clock
from .passes import optimised, stabilised
from .passes.stable import stabilise
from .passes.unroll import unroll
from .primitives import dot, total
from .record import record
from .sparse import RowGradient, lookups, row_gradient


@dataclass(eq=False, repr=False)
class Evaluation:
    """`graph` gives the sum over samples of each loss term as `loss/<i>`, the number of samples as `count`, and the sums of metrics."""

    graph: Graph
    metrics: tuple[MetricTerm, ...]
    terms: tuple[tuple[float, bool], ...]  # weight, and whether the root of the mean is taken

    def loss(self, totals: Mapping[str, Any]) -> float:
        """The loss of all samples whose outputs were added up."""
        means = [float(totals[f"loss/{i}"]) / float(totals["count"]) for i in range(len(self.terms))]
        return sum(weight * (sqrt(mean) if root else mean) for (weight, root), mean in zip(self.terms, means, strict=True))


@dataclass(eq=False, repr=False)
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


def _goal(objective: Objective, *, again: bool = False) -> tuple[Value, Value]:
    """Loss and objective, in the forms that are differentiated; `again`: the gradients are to be differentiated themselves."""
    loss = objective.loss()
    loss, goal = stabilise([loss, objective.objective(loss)])
    if again:
        loss, goal = unroll([loss, goal])
    return loss, goal


def _differentiated(objective: Objective, parameters: Sequence[Parameter], *, again: bool = False) -> tuple[Value, Value, list[Value]]:
    """Loss, objective, and the objective's gradient by each parameter, zero where it does not depend on one."""
    loss, goal = _goal(objective, again=again)
    variables = [objective.forward.variables[p.name] for p in parameters]
    found = gradients(goal, variables)
    return loss, goal, [g if g is not None else _zeros(v) for g, v in zip(found, variables, strict=True)]


def _zeros(like: Value) -> Value:
    return apply("broadcast_to", constant(0.0, like.dtype), shape=like.shape)


def gradient_graph(objective: Objective) -> Graph:
    """Outputs `objective`, and `gradient/<name>` for every parameter, running statistics included (theirs are zero in training)."""
    parameters = list(objective.forward.parameters.values())
    _, goal, found = _differentiated(objective, parameters)
    outputs = {"objective": goal} | {f"gradient/{p.name}": g for p, g in zip(parameters, found, strict=True)}
    return optimised(Graph(outputs))


@dataclass(eq=False, repr=False)
class UpdateRule:
    """What an optimiser asks for (operation.Rule), for one bundle; for the rows of the index where it is a table updated by rows."""

    lr: Value
    bundle: Bundle
    dtype: str
    slots: dict[str, TensorType]
    updates: dict[str, Value]
    scalars: dict[str, Callable[[int], float]]
    index: Value | None = None

    def theta(self) -> Value:
        return self._current(self.bundle.name if self.index is None else self.bundle.parameters[0].name)

    def _current(self, name: str) -> Value:
        """The bundle's parameters, or a slot of them."""
        shape = (self.bundle.size,) if self.index is None else self.bundle.parameters[0].shape
        whole = apply("variable", name=name, type=TensorType(self.dtype, shape))
        return whole if self.index is None else apply("gather", whole, self.index)

    def update(self, slot: Value, new: Value) -> None:
        if self.index is None:
            self.updates[slot.name] = new
        else:
            (whole, index) = slot.operands
            self.updates[whole.name] = apply("scatter_update", whole, index, new)

    def slot(self, name: str) -> Value:
        full = f"slot/{self.bundle.name}/{name}"
        found = self._current(full)
        self.slots[full] = found.type if self.index is None else found.operands[0].type
        return found

    def scalar(self, name: str, of_step: Callable[[int], float]) -> Value:
        self.scalars[name] = of_step
        return apply("scalar", name=name, dtype=self.dtype)


@record
class _Gradient:
    """The gradient of a bundle, flat or of the rows of an index, and the sum of its squares."""

    bundle: Bundle
    value: Value
    square: Value
    index: Value | None = None


def _by_parameter(objective: Objective, groups: Sequence[Bundle], goal: Value) -> tuple[dict[str, Value], dict[str, RowGradient | None]]:
    """The gradient by each parameter of a flat bundle, zero where the objective does not depend on it, and by each table that is updated by rows."""
    forward = objective.forward
    dense = [p for bundle in groups if not bundle.sparse for p in bundle.parameters]
    variables = [forward.variables[p.name] for p in dense]
    tables = {p.name: forward.variables[p.name] for bundle in groups if bundle.sparse for p in bundle.parameters}
    places = lookups(goal, [*tables.values()])
    wanted = [*variables, *(place for found in places.values() for place in found)]
    known = {v: g for v, g in zip(wanted, gradients(goal, wanted), strict=True) if g is not None}
    with origin("gradients"):
        each = {p.name: known[v] if v in known else _zeros(v) for p, v in zip(dense, variables, strict=True)}
        return each, {name: row_gradient(places[table], known) for name, table in tables.items()}


def gradient_squares(objective: Objective, groups: Sequence[Bundle]) -> dict[str, Value]:
    """The sum of the squares of the objective's gradient by each parameter that is trained."""
    _, goal = _goal(objective)
    each, rows = _by_parameter(objective, groups, goal)
    by_rows = {name: constant(0.0, goal.dtype) if row is None else row.square for name, row in rows.items()}
    return {name: dot(g, g) for name, g in each.items()} | by_rows


def _bundled(objective: Objective, groups: Sequence[Bundle], goal: Value) -> list[_Gradient]:
    """The clipped gradient of each bundle that the objective depends on; `square` is of the gradient before it was clipped."""
    clip = objective.params.clip
    each, rows = _by_parameter(objective, groups, goal)
    squares: dict[str, Value] = {}
    if clip is not None and "flat" not in clip.operation.facts:
        squares = {name: dot(g, g) for name, g in each.items()}
        each = dict(zip(each, clip.operation.function(list(each.values()), list(squares.values()), clip.params), strict=True))
    gradient: list[_Gradient] = []
    for bundle in groups:
        with origin("gradients"):
            row = rows.get(bundle.parameters[0].name)
            if not bundle.sparse:
                flat = apply("pack", *(each[p.name] for p in bundle.parameters))
                gradient.append(_Gradient(bundle, flat, _sum([squares[p.name] for p in bundle.parameters]) if squares else dot(flat, flat)))
            elif row is not None:
                gradient.append(_Gradient(bundle, row.rows, row.square, row.index))
    if clip is None:
        return gradient
    chosen = gradient if "flat" in clip.operation.facts else [g for g in gradient if g.bundle.sparse]
    with origin("clip"):
        clipped = clip.operation.function([g.value for g in chosen], [g.square for g in chosen], clip.params) if chosen else []
    values = {g.bundle.name: value for g, value in zip(chosen, clipped, strict=True)}
    return [replace(g, value=values.get(g.bundle.name, g.value)) for g in gradient]


def _sum(values: Sequence[Value]) -> Value:
    whole = values[0]
    for value in values[1:]:
        whole = whole + value
    return whole


def step_graph(objective: Objective, groups: Sequence[Bundle], *, metrics: bool = False) -> Step:
    """Forward, backward, clipping, update. Outputs `loss`, `objective` and `gradient_square`, the sum of all squares of gradients before they are clipped.

    `metrics`: also the sums over the batch that the metrics are made of, as `<metric>/<term>`, where they are no array of all samples.
    """
    train, forward = objective.params, objective.forward
    optimiser = train.optimizer
    loss, goal = _goal(objective)
    gradient = _bundled(objective, groups, goal)
    with origin("gradients"):
        square = _sum([g.square for g in gradient] or [constant(0.0, forward.dtype)])
    slots: dict[str, TensorType] = {}
    updates: dict[str, Value] = dict(forward.updates)
    scalars: dict[str, Callable[[int], float]] = {}
    outputs = {"loss": loss, "objective": goal, "gradient_square": square}
    for metric in objective.metrics() if metrics else ():
        sums = {f"{metric.key}/{term}": value for term, value in metric.sums.terms.items()}
        outputs |= {name: value for name, value in sums.items() if not any(isinstance(d, Batch) for d in value.shape)}
    lr = apply("scalar", name="lr", dtype=forward.dtype)
    solver = "solver" in optimiser.operation.facts
    for g in gradient:
        bundle = g.bundle
        if solver:
            outputs["gradient"] = g.value
            for name, shape in optimiser.operation.extra["slots"](bundle.size, optimiser.params).items():
                slots[f"slot/{bundle.name}/{name}"] = TensorType(forward.dtype, shape)
            continue
        with origin("update"):
            rule = UpdateRule(lr * bundle.rate, bundle, forward.dtype, slots, updates, scalars, g.index)
            theta = rule.theta()
            new = _updated(rule, theta, g.value, optimiser)
            rule.update(theta, _held_rows(new, bundle) if bundle.sparse else new)
    dense = [bundle for bundle in groups if not bundle.sparse]
    for bundle in dense:
        if bundle.constrained:
            with origin("constraint"):
                updates[bundle.name] = held(updates.get(bundle.name, flat_variable(bundle, forward.dtype)), bundle)
    parts = flat_parts(forward, dense)
    graph = Graph(outputs, updates).map(stabilise).map(lambda roots: substitute(roots, parts))
    return Step(optimised(graph), tuple(groups), slots, scalars)


def _updated(rule: UpdateRule, theta: Value, g: Value, optimiser: Bound) -> Value:
    """theta after decoupled decay and the optimiser's step."""
    down: Value = optimiser.operation.function(rule, theta, g, optimiser.params)
    if rule.bundle.decays:
        amount = constant(optimiser.params.weight_decay, theta.dtype)
        theta = theta * (1.0 - (rule.lr * amount if optimiser.params.decay_form == "scaled" else amount))
    return theta - down


def _held_rows(rows: Value, bundle: Bundle) -> Value:
    """Rows of a table with its constraint, which speaks of each row."""
    (p,) = bundle.parameters
    if p.constraint is None:
        return rows
    bound, incoming = p.constraint
    with origin("constraint"):
        held_rows: Value = bound.operation.function(rows, incoming, bound.params)
    return held_rows


def product_graph(objective: Objective, bundle: Bundle) -> Graph:
    """Output `product`: the Hessian of the objective times the variable `direction`, by differentiating gradient . direction."""
    forward = objective.forward
    _, _, found = _differentiated(objective, bundle.parameters, again=True)
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
