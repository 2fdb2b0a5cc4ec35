"""The loss of a forward graph against targets: types of targets, losses per sample, penalties, metrics on their pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from .diagnostics import Findings, Refusal, did_you_mean
from .experiment import Network, Section, TrainParams
from .fields import argument_fields
from .ir import N, Shape, TensorType, Value, apply, dims, origin
from .lower import Forward
from .operation import Bound, Column, Params, Reference, Sums
from .primitives import root, total
from .record import record

SPLITS = {"train": "train", "val": "validation", "test": "test"}  # as figures call them, and as a split does


@record
class Target:
    """What the loss compares with: the type of a sample, classes where known, and the way back to the column's units."""

    dtype: str
    shape: tuple[int, ...]
    classes: tuple[Any, ...] | None = None
    inverse: Callable[[Value], Value] | None = field(default=None, compare=False)

    def column(self, name: str) -> Column:
        return Column(apply("input", name=name, type=TensorType(self.dtype, (N, *self.shape))), self.classes)


@record
class MetricTerm:
    """A metric on one pair; its sums are outputs `<key>/<term>` of the evaluation graph. `facts` are the operation's."""

    key: str
    sums: Sums
    better: str
    facts: frozenset[str] = frozenset()


# Inputs of a step that mixes samples: how much of each sample is its own, and the target, or the weight, of its partner
SHARE, PARTNER = "mixup/share", "mixup/partner/"


@record
class TermBuild:
    """What a loss asks for (operation.LossBuild), for the term of that index. What it learns is kept with the figures of the data steps."""

    dtype: str
    target: str
    index: int

    def learned(self, role: str, shape: Shape) -> Value:
        return apply("variable", name=f"data/{self.target}/loss_{self.index}/{role}", type=TensorType(self.dtype, shape))


@record
class Balance:
    """Class weights that the training rows decide: where they are kept, the target that is counted, and how many classes it has."""

    name: str
    target: str
    classes: int
    binary: bool  # each element is one of two classes


def balances(train: TrainParams, forward: Forward) -> list[Balance]:
    """What `class_weights=balanced` asks for."""
    found = []
    for index, bound in enumerate(t.term for t in train.loss):
        prediction, target = bound.operands
        if getattr(bound.params, "class_weights", None) == "balanced" and prediction.name in forward.outputs:
            binary = "binary" in bound.operation.facts
            classes = 2 if binary else forward.outputs[prediction.name].shape[-1]
            assert isinstance(classes, int)
            variable = TermBuild(forward.dtype, target.name, index).learned("class_weights", (classes,))
            found.append(Balance(variable.name, target.name, classes, binary))
    return found


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
        mixed: bool = False,
    ):
        """`mixed`: the inputs are mixtures of two samples, and so is what they are compared with."""
        self.network, self.train, self.forward, self.findings, self.samples = network, train, forward, findings, samples
        self.params: TrainParams = train.params
        self.targets, self.mixed = targets, mixed
        self.columns = {name: target.column(name) for name, target in targets.items()}
        self.per_sample = self._losses()

    def _losses(self) -> list[tuple[float, Value, bool]]:
        """Each term's weight, its loss per sample, and whether the root of the mean is taken; what does not fit is reported and left out."""
        found = []
        for index, term in enumerate(self.params.loss):
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
                        found.append((term.weight, self._each(bound, index, output), bound.operation.extra.get("batch") == "root"))
                except Refusal as refusal:
                    at = bound.spans.get(refusal.at) if isinstance(refusal.at, str) else None
                    self.findings.add_refusal(refusal, at or bound.span)
        return found

    def _each(self, bound: Bound, index: int, output: Value) -> Value:
        """The loss of each sample in one term, times its weight; of a mixture by its two parts (ops/augmentations.py)."""
        name, weights = bound.operands[1].name, bound.params.weights
        build, y = TermBuild(self.dtype, name, index), self.columns[name]

        def loss(y: Column, weight: Value | None) -> Value:
            each: Value = bound.operation.function(build, output, y, bound.params)
            return each if weight is None else each * weight

        own = None if weights is None else self._weights(weights, self.columns[weights.name], output.dtype)
        if not self.mixed:
            return loss(y, own)
        share = apply("input", name=SHARE, type=TensorType(self.dtype, (N,)))
        other = None if weights is None else self._weights(weights, self._partner(weights.name), output.dtype)
        if name not in self.forward.inputs:  # an input has been mixed already
            if "numeric" not in bound.operation.facts:
                return loss(y, own) * share + loss(self._partner(name), other) * (1.0 - share)
            wide = apply("reshape", share, shape=(N, *(1 for _ in y.dims)))
            mine, partners = (apply("cast", column.value, dtype=self.dtype) for column in (y, self._partner(name)))
            y = Column(mine * wide + partners * (1.0 - wide))
        return loss(y, None if own is None or other is None else own * share + other * (1.0 - share))

    def _partner(self, name: str) -> Column:
        """What a sample's partner has in this column."""
        return self.targets[name].column(PARTNER + name)

    def _weights(self, name: Reference, column: Column, dtype: str) -> Value:
        """One number a sample, in the dtype of the losses."""
        kind = column.value.type
        if kind.dtype == "string" or column.classes is not None or kind.size(1) != 1:
            held = "classes" if column.classes is not None else f"{kind.dtype}{dims(kind.shape[1:])}"
            raise Refusal("E518", at="weights", label=f"it holds {held}", name=name.name, help="give one number column, such as column(w)")
        value = column.value if kind.dtype == dtype else apply("cast", column.value, dtype=dtype)
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
        several = [(b.name, *(r.name for r in b.operands)) for b in self.params.metrics]
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
            if several.count((bound.name, *(r.name for r in bound.operands))) > 1:
                key += _said(bound.params)
            if key in (term.key for term in found):
                self.findings.add("E209", bound.span, "given before", name=key, help="name every metric once")
                continue
            found.append(MetricTerm(key, sums, bound.operation.extra["better"], bound.operation.facts))
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

    @property
    def dtype(self) -> str:
        return self.forward.dtype


def _said(params: Params) -> str:
    """The arguments that are not the defaults, as a spec has them: `(average=macro)`."""
    fields = argument_fields(type(params)).items()
    values = ((name, info, getattr(params, name)) for name, info in fields)
    given = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, info, value in values if value != info.default]
    return f"({', '.join(given)})" if given else ""


def _shaped(target: Value, output: Value) -> Value:
    value = target if target.dtype == output.dtype else apply("cast", target, dtype=output.dtype)
    return value if value.shape == output.shape else apply("reshape", value, shape=output.shape)


