"""Loss, penalties, clipping and optimiser: from a forward graph to the graphs that training runs.

evaluation: losses and metrics as sums over a batch, in inference mode. gradients: the objective and its derivative by each
parameter. step: one update of everything. In the step parameters of equal treatment lie in one flat array (bundles.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from .autodiff import gradients
from .bundles import Bundle, flat_parts, flat_variable, held
from .diagnostics import Findings, Refusal, did_you_mean
from .experiment import Experiment, Network, Section, TrainParams
from .ir import Graph, N, TensorType, Value, apply, constant, dims, origin, substitute
from .lower import Forward, Parameter
from .operation import Bound, Clock, Column, Reference, Sums
from .passes import optimised, stabilised
from .passes.stable import stabilise
from .primitives import dot, root, total


@dataclass(frozen=True)
class Target:
    """What the loss compares with: the type of a sample, classes where known, and the way back to the column's units."""

    dtype: str
    shape: tuple[int, ...]
    classes: tuple[Any, ...] | None = None
    inverse: Callable[[Value], Value] | None = field(default=None, compare=False)

    def column(self, name: str) -> Column:
        return Column(apply("input", name=name, type=TensorType(self.dtype, (N, *self.shape))), self.classes)


@dataclass(frozen=True)
class MetricTerm:
    """A metric on one pair; its sums are outputs `<key>/<term>` of the evaluation graph."""

    key: str
    sums: Sums
    better: str


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


def pairs(train: TrainParams) -> list[tuple[str, str]]:
    """The (prediction, target) pairs that the loss terms make, each once."""
    found: dict[tuple[str, str], None] = {}
    for term in train.loss:
        prediction, target = term.term.operands
        found[prediction.name, target.name] = None
    return list(found)


def free_targets(train: TrainParams, forward: Forward) -> dict[str, Target]:
    """Types for targets that nothing defines: a class index for a loss on classes, else the prediction's own."""
    targets: dict[str, Target] = {}
    for term in train.loss:
        prediction, target = term.term.operands
        output = forward.outputs.get(prediction.name)
        if output is None:
            continue
        shape = tuple(d for d in output.shape[1:] if isinstance(d, int))
        if "classes" in term.term.operation.facts and output.type.rank > 1:
            targets.setdefault(target.name, Target("int64", shape[:-1]))
        else:
            targets.setdefault(target.name, Target(forward.dtype, shape))
    return targets | {weights.name: Target(forward.dtype, ()) for weights in train.sample_weights()}


class Objective:
    """The loss of a forward graph against targets, with everything found wrong in the findings."""

    def __init__(
        self,
        network: Network,
        train: Section,
        forward: Forward,
        targets: Mapping[str, Target],
        findings: Findings,
        samples: int | None = None,
    ):
        self.network, self.train, self.forward, self.findings, self.samples = network, train, forward, findings, samples
        self.params: TrainParams = train.params
        self.targets = targets
        self.columns = {name: target.column(name) for name, target in targets.items()}
        self.per_sample = self._losses()

    def _losses(self) -> list[tuple[float, Value, bool]]:
        """Each term's weight, its loss per sample, and whether the root of the mean is taken; what does not fit is reported and left out."""
        found = []
        for term in self.params.loss:
            bound = term.term
            prediction, target = bound.operands
            weights: Reference | None = bound.params.weights
            output = self.forward.outputs.get(prediction.name)
            if self.network.output(prediction.name) is None:
                names = [o.name for o in self.network.outputs]
                self.findings.add("E501", prediction.span, "no output", what="output", name=prediction.name, help=did_you_mean(prediction.name, names))
            elif target.name not in self.columns:
                self.findings.add("E501", target.span, "no data name", what="data name", name=target.name,
                                  help=did_you_mean(target.name, self.columns))  # fmt: skip
            elif weights is not None and weights.name not in self.columns:
                self.findings.add("E501", weights.span, "no data name", what="data name", name=weights.name, help=did_you_mean(weights.name, self.columns))
            elif output is not None:
                try:
                    with origin(f"loss/{bound.name}"):
                        each = bound.operation.function(self, output, self.columns[target.name], bound.params)
                        each = each if weights is None else each * self._weights(weights)
                        found.append((term.weight, each, bound.operation.extra.get("batch") == "root"))
                except Refusal as refusal:
                    at = bound.spans.get(refusal.at) if isinstance(refusal.at, str) else None
                    self.findings.add_refusal(refusal, at or bound.span)
        return found

    def _weights(self, name: Reference) -> Value:
        """One number a sample, in the dtype of the losses."""
        column = self.columns[name.name]
        kind = column.value.type
        if kind.dtype == "string" or column.classes is not None or kind.size(1) != 1:
            held = "classes" if column.classes is not None else f"{kind.dtype}{dims(kind.shape[1:])}"
            raise Refusal("E518", at="weights", label=f"it holds {held}", name=name.name, help="give one number column, such as column(w)")
        value = column.value if kind.dtype == self.dtype else apply("cast", column.value, dtype=self.dtype)
        return value if value.shape == (N,) else apply("reshape", value, shape=(N,))

    @property
    def complete(self) -> bool:
        return len(self.per_sample) == len(self.params.loss)

    def loss(self) -> Value:
        """The weighted sum of the terms, each the mean over the batch, or the root of the mean."""
        result: Value | None = None
        for weight, each, rooted in self.per_sample:
            with origin("loss"):
                mean = total(each) / apply("axis_size", each, axis=0, dtype=each.dtype)
                term = (root(mean) if rooted else mean) * weight
                result = term if result is None else result + term
        assert result is not None
        return result

    def penalties(self) -> Value | None:
        """The sum of all penalties; a layer's own replaces the train section's."""
        result: Value | None = None
        for p in self.forward.trainable:
            terms = p.penalty if p.penalty is not None else self.params.penalty
            if not p.decays:
                continue
            for term in terms:
                with origin(f"penalty/{p.name}"):
                    value = term.term.operation.function(self.forward.variables[p.name], term.term.params, self.samples) * term.weight
                    result = value if result is None else result + value
        return result

    def objective(self, loss: Value) -> Value:
        penalties = self.penalties()
        return loss if penalties is None else loss + penalties

    def needs_samples(self) -> bool:
        """Whether a penalty divides by the number of training samples."""
        given = [*self.params.penalty, *(t for p in self.forward.trainable for t in p.penalty or ())]
        return any(t.term.params.scale == "1/samples" for t in given)

    # Metrics

    def metrics(self) -> list[MetricTerm]:
        """Each metric on the pair that it fits, or on the pair that it names."""
        found: list[MetricTerm] = []
        several = [b.name for b in self.params.metrics]
        for bound in self.params.metrics:
            chosen = self._pair(bound)
            if chosen is None:
                continue
            prediction, target = chosen
            output, column = self.forward.outputs[prediction], self.columns[target]
            inverse = self.targets[target].inverse
            if inverse is not None and "units" in bound.operation.facts:
                output, column = inverse(output), Column(inverse(_shaped(column.value, output)))
            try:
                with origin(f"metric/{bound.name}"):
                    sums = bound.operation.function(output, column, bound.params)
            except Refusal as refusal:
                self.findings.add_refusal(refusal, bound.spans.get(refusal.at) if isinstance(refusal.at, str) else bound.span)
                continue
            key = f"{prediction}.{bound.name}" if bound.operands else bound.name
            if several.count(bound.name) > 1 and not bound.operands:
                key = f"{bound.name}({', '.join(f'{v}' for v in bound.params.model_dump().values())})"
            found.append(MetricTerm(key, sums, bound.operation.extra["better"]))
        return found

    def _pair(self, bound: Bound) -> tuple[str, str] | None:
        def known(pair: tuple[str, str]) -> bool:
            return pair[0] in self.forward.outputs and pair[1] in self.columns

        fits = bound.operation.extra["fits"]
        if bound.operands:
            prediction, target = (r.name for r in bound.operands)
            if self.network.output(prediction) is None:
                self.findings.add("E501", bound.operands[0].span, "no output", what="output", name=prediction,
                                  help=did_you_mean(prediction, [o.name for o in self.network.outputs]))  # fmt: skip
                return None
            if target not in self.columns:
                self.findings.add("E501", bound.operands[1].span, "no target", what="target", name=target, help=did_you_mean(target, self.columns))
                return None
            candidates = [(prediction, target)]
        else:
            candidates = pairs(self.params)
        if not all(known(c) for c in candidates):
            return None
        fitting = [c for c in candidates if fits(self.forward.outputs[c[0]], self.columns[c[1]])]
        if len(fitting) == 1:
            return fitting[0]
        shown = ", ".join(f"({a}, {b})" for a, b in (fitting or candidates))
        if fitting:
            self.findings.add("E504", bound.span, f"it fits {shown}", metric=bound.name, problem="fits several pairs",
                              help=f"write {bound.name}({fitting[0][0]}, {fitting[0][1]})")  # fmt: skip
        else:
            self.findings.add("E504", bound.span, f"the pair is {shown}", metric=bound.name, problem="fits no pair of the loss",
                              help="classes want accuracy or top_k, numbers want mae, rmse or r2")  # fmt: skip
        return None

    # operation.Build, as far as a loss needs it

    @property
    def dtype(self) -> str:
        return self.forward.dtype


def _shaped(target: Value, output: Value) -> Value:
    value = target if target.dtype == output.dtype else apply("cast", target, dtype=output.dtype)
    return value if value.shape == output.shape else apply("reshape", value, shape=output.shape)


def evaluation(objective: Objective) -> Evaluation:
    """Sums over a batch in inference mode; losses exclude penalties."""
    metrics = objective.metrics()
    outputs = {f"loss/{i}": total(apply("cast", each, dtype="float64")) for i, (_, each, _) in enumerate(objective.per_sample)}
    outputs["count"] = apply("axis_size", objective.per_sample[0][1], axis=0, dtype="float64")
    for metric in metrics:
        for term, value in metric.sums.terms.items():
            outputs[f"{metric.key}/{term}"] = value
    terms = tuple((weight, root) for weight, _, root in objective.per_sample)
    return Evaluation(optimised(stabilised(Graph(outputs)), inference=True), tuple(metrics), terms)


def _differentiated(objective: Objective, parameters: Sequence[Parameter]) -> tuple[Value, Value, list[Value]]:
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
    _, goal, found = _differentiated(objective, parameters)
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
    loss, goal, found = _differentiated(objective, trained)
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
    _, _, found = _differentiated(objective, bundle.parameters)
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
