"""Several networks as one graph: inputs shared, the variables of each under its member's name, outputs averaged.

The members are programs of one spec that may differ in what their data steps learned. Outputs are averaged in the units in which they are
served, probabilities or values of the target's column, and a decision is made on the average. Variables that hold the same for all
members, such as a preprocessing that was learned once, stand in the graph once; `shared` names them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from .diagnostics import Findings
from .ir import Graph, N, TensorType, Value, apply, constant, origin, rebuild, rewrite, substitute, topological
from .lower import Forward
from .objective import Objective
from .passes import optimised
from .prepare import Prepared, prepare
from .program import Program
from .serve import Answer, answers, decided, predictions, target_of
from .training import Evaluation, evaluation

TINY = {"float32": 1.2e-38, "float64": 2.3e-308}


def member_name(index: int, name: str) -> str:
    """What a variable of a member, counted from 1, is called."""
    return f"member_{index}/{name}"


class Union:
    """Graphs of members side by side."""

    def __init__(self, shared: Collection[str]):
        self.shared = shared
        self.inputs: dict[str, Value] = {}
        self.joined: set[Value] = set()

    def join(self, index: int, roots: list[Value]) -> list[Value]:
        """The roots with the inputs of all and the variables of one member; what has been joined before stays."""
        new: dict[Value, Value] = {}
        own: set[Value] = set()  # what depends on the member's variables
        for value in topological(roots):
            operands = tuple(new[o] for o in value.operands)
            if value in self.joined:
                new[value] = value
            elif value.op == "input":
                new[value] = self.inputs.setdefault(value.name, value)
            elif value.op == "variable" and value.name not in self.shared:
                new[value] = apply("variable", name=member_name(index, value.name), type=value.type)
                own.add(new[value])
            elif own.isdisjoint(operands):
                new[value] = value if operands == value.operands else rebuild(value, operands)
            else:
                place = value.origin if value.origin.startswith("data/") else member_name(index, value.origin)
                with origin(place):
                    new[value] = apply(value.op, *operands, **value.attributes)
                own.add(new[value])
        self.joined |= set(new.values())
        return [new[root] for root in roots]


def average(values: Sequence[Value], weights: Sequence[Value] = ()) -> Value:
    """The mean of one output over the members; with weights [N] the weighted mean of each sample.

    Whole numbers depend on no parameter: they are the same in all members.
    """
    if not values[0].type.is_float:
        return values[0]
    terms, count = list(values), constant(len(values), values[0].dtype)
    with origin("average"):
        if weights:
            shape = (values[0].shape[0], *(1 for _ in values[0].shape[1:]))
            factors = [apply("reshape", apply("cast", w, dtype=values[0].dtype), shape=shape) for w in weights]
            terms, count = [value * factor for value, factor in zip(values, factors, strict=True)], _sum(factors)
        return _sum(terms) / count


def _sum(values: Sequence[Value]) -> Value:
    result = values[0]
    for value in values[1:]:
        result = result + value
    return result


def averaged_graph(
    members: Sequence[Program], shared: Collection[str], outputs: Sequence[str] = (), *, decisions: bool = False, dtype: str = "float32"
) -> Graph:
    """What serve.serving_graph gives of one network, of the average."""
    union = Union(shared)
    parts = [answers(program, outputs, decisions=decisions, dtype=dtype) for program in members]
    joined = [union.join(i, [answer.value for answer in part.values()]) for i, part in enumerate(parts, 1)]
    means = {name: average(values) for name, values in zip(parts[0], zip(*joined, strict=True), strict=True)}
    return optimised(Graph({name: decided(Answer(value, parts[0][name].decides), name) for name, value in means.items()}), inference=True)


def weight_input(index: int) -> str:
    """The input of `averaged_evaluation` that says how much a member counts for each sample."""
    return member_name(index, "weight")


def averaged_evaluation(members: Sequence[Program], shared: Collection[str], *, weighted: bool = False) -> Evaluation:
    """Losses and metrics of the averaged outputs, from raw columns; with `weighted` each member counts by the input `weight_input`.

    The average of an output whose target's units the members have learned for themselves is taken in the column's units; the loss sees it
    in the units of the first member.
    """
    dtype, union = members[0].dtype, Union(shared)
    weights = [apply("input", name=weight_input(i), type=TensorType(dtype, (N,))) for i in range(1, len(members) + 1)] if weighted else []
    return _judged(members[0], _averaged(members, union, dtype, weights), union)


def prediction_input(output: str) -> str:
    """The input of `judging` that holds what was predicted for an output."""
    return f"prediction/{output}"


def judging(members: Sequence[Program], shared: Collection[str], dtype: str) -> tuple[dict[str, Value], Evaluation]:
    """The averaged outputs from raw columns as the loss takes them, by `prediction_input`; and losses and metrics of such outputs, given beside raw targets."""
    union = Union(shared)
    means = _averaged(members, union, dtype)
    given = {name: apply("input", name=prediction_input(name), type=value.type) for name, value in means.items()}
    return {prediction_input(name): value for name, value in means.items()}, _judged(members[0], given, union)


def _averaged(members: Sequence[Program], union: Union, dtype: str, weights: Sequence[Value] = ()) -> dict[str, Value]:
    """The mean of each output of the network, in the units that the loss of the first member takes."""
    parts = [predictions(program, dtype) for program in members]
    means = {}
    for name in parts[0][0]:
        targets = [target_of(name, program, prepared) for program, (_, prepared) in zip(members, parts, strict=True)]
        back = targets[0] is not None and targets[0].onward is not None and not _learned(targets[0]) <= set(union.shared)
        values = []
        for index, ((outputs, _), target) in enumerate(zip(parts, targets, strict=True), 1):
            value = outputs[name]
            if back:
                assert target is not None
                assert target.inverse is not None
                value = target.inverse(value)
            values += union.join(index, [_wide(value)])
        mean = average(values, weights)
        if back:
            assert targets[0] is not None
            assert targets[0].onward is not None
            mean = targets[0].onward(mean)
        means[name] = mean
    return means


def _judged(first: Program, outputs: Mapping[str, Value], union: Union) -> Evaluation:
    """Losses and metrics of outputs against raw targets."""
    data = first.experiment.data
    assert data is not None
    assert first.experiment.train is not None
    forward = Forward(first.dtype, outputs=dict(outputs))
    known = first.targets()
    objective = Objective(first.experiment.network, first.experiment.train, forward, known, Findings(first.experiment.source), samples=1)
    given = {c.value: prepare(data, data.names[name], first.dtype, first.learned).column.value for name, c in objective.columns.items()}

    def from_raw(roots: list[Value]) -> list[Value]:
        return union.join(1, substitute(rewrite(roots, _floored), given))

    return evaluation(objective, from_raw)


def _learned(target: Prepared) -> set[str]:
    """The names of what the steps of a data name have learned."""
    return set(Graph({"column": target.column.value}).leaves("variable"))


def _wide(value: Value) -> Value:
    """Probabilities in float64: the difference of an average to 0 and to 1 keeps its digits, and so does the logarithm."""
    if value.op not in ("softmax", "sigmoid") or value.dtype == "float64":
        return value
    with origin(value.origin):
        return apply(value.op, apply("cast", value.operands[0], dtype="float64"), **value.attributes)


def _floored(value: Value) -> Value:
    """The logarithm of an average of probabilities, which has no stable form of its own, is finite."""
    if value.op != "log" or not value.origin.startswith(("loss/", "metric/")):
        return value
    (x,) = value.operands
    return apply("log", apply("maximum", x, constant(TINY[x.dtype], x.dtype)))
