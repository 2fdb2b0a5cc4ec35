"""What a good teacher would say about a spec that is correct. Advice never changes an exit status.

It reads the facts that operations declare, the graph for shapes, and the data section for what a target is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .diagnostics import Findings, Note
from .experiment import Application, Network, Ref
from .operation import Bound, Clock
from .program import Program

DEEP = 2  # sigmoids one behind another from which on gradients vanish noticeably


def advise(program: Program, findings: Findings) -> None:
    network = program.experiment.network
    _linear_steps(program, findings)
    _sigmoids(network, findings)
    _dropout(network, findings)
    if program.train is not None:
        for term in program.train.loss:
            _loss(program, term.term, findings)
        _penalties(program, findings)
        _batch(program, findings)
        _schedule(program, findings)


def _producer(network: Network, ref: Ref | float) -> Application | None:
    """The application whose result this is."""
    return network.applications[ref.application] if isinstance(ref, Ref) and ref.application >= 0 else None


def _users(network: Network) -> list[list[int]]:
    """For each application, those that take its result."""
    users: list[list[int]] = [[] for _ in network.applications]
    for index, application in enumerate(network.applications):
        for operand in application.operands:
            if isinstance(operand, Ref) and operand.application >= 0:
                users[operand.application].append(index)
    return users


def _facts(application: Application) -> frozenset[str]:
    return application.bound.operation.facts


def _linear_steps(program: Program, findings: Findings) -> None:
    """Layers with weights and what follows them: norms, rectifiers, symmetric starts; dense layers on images."""
    network = program.experiment.network
    users = _users(network)
    for index, application in enumerate(network.applications):
        if "linear_step" not in _facts(application):
            continue
        following = [network.applications[user] for user in users[index]]
        p, name = application.bound.params, application.bound.name
        norm = next((f for f in following if "norm" in _facts(f)), None)
        if norm is not None and p.bias:
            findings.add("W301", application.span, "the norm subtracts the mean, and with it this bias", notes=(Note(norm.span, "the norm"),),
                         help=f"write {name}(..., bias=false): one parameter a channel less")  # fmt: skip
        init: Bound | None = p.init
        rectifier = next((f for f in following if "rectifier" in _facts(f)), None)
        if rectifier is not None and init is not None and init.name.startswith("xavier"):
            better = init.name.replace("xavier", "he")
            halved = (Note(rectifier.span, "half of its inputs become 0"),)
            findings.add("W305", application.bound.spans["init"], f"{rectifier.bound.name} follows", init=init.name, notes=halved,
                         help=f"write init={better}, or leave init out: the default knows what follows")  # fmt: skip
        if following and init is not None and init.name in ("zeros", "ones", "constant") and _width(p) > 1 and _reaches_weights(network, users, index):
            findings.add("W304", application.bound.spans["init"], f"all {_width(p)} units compute the same", help="leave init out, or write init=he_normal")
        value = program.inference.results.get(application.operands[0]) if isinstance(application.operands[0], Ref) else None
        if name == "dense" and value is not None and value.type.rank == 4:
            findings.add("W306", application.span, f"an image here is {list(value.shape[1:])}: dense mixes the {value.shape[-1]} elements of each row",
                         help="put `-> flatten` or a pooling layer before it")  # fmt: skip


def _width(p: Any) -> int:
    return int(getattr(p, "units", getattr(p, "channels", 1)))


def _reaches_weights(network: Network, users: list[list[int]], start: int) -> bool:
    """Whether further weights follow, which is what makes a layer hidden."""
    stack, seen = list(users[start]), set[int]()
    while stack:
        index = stack.pop()
        if index in seen:
            continue
        seen.add(index)
        if "linear_step" in _facts(network.applications[index]):
            return True
        stack += users[index]
    return False


def _sigmoids(network: Network, findings: Findings) -> None:
    """sigma' is at most 1/4: behind n sigmoids a gradient is at most 4^-n of what it was."""
    users, outputs = _users(network), {o.ref.application for o in network.outputs}
    depth = [0] * len(network.applications)
    for index, application in enumerate(network.applications):
        before = max((depth[o.application] for o in application.operands if isinstance(o, Ref) and o.application >= 0), default=0)
        gate = any(network.applications[user].bound.name == "multiply" for user in users[index])
        hidden = application.bound.name == "sigmoid" and index not in outputs and not gate
        depth[index] = before + hidden
        if hidden and depth[index] == DEEP:
            findings.add("W307", application.span, f"the {DEEP}nd of them, one behind another: gradients shrink at least {4**DEEP}-fold",
                         help="use relu in hidden layers, and keep sigmoid for outputs")  # fmt: skip


def _dropout(network: Network, findings: Findings) -> None:
    outputs = {o.ref.application for o in network.outputs}
    for index, application in enumerate(network.applications):
        if "dropout" not in _facts(application):
            continue
        p = application.bound.params
        kept = getattr(p, "keep", None)
        keep = kept if kept is not None else 1 - p.rate
        if keep < 0.5:
            findings.add("W302", application.span, f"keeps {keep:.0%}", help="keep at least half: dropout(0.5) or less")
        if index in outputs:
            findings.add("W303", application.span, "an output of the network", help="put dropout before the last layer with weights")


def _loss(program: Program, loss: Bound, findings: Findings) -> None:
    """Whether the output layer, the loss and the kind of target fit each other."""
    network = program.experiment.network
    output = network.output(loss.operands[0].name)
    last = _producer(network, output.ref) if output is not None else None
    if last is None or output is None:
        return
    facts, name, kinds = _facts(last), last.bound.name, loss.operation.facts
    prepared = program.prepared.get(loss.operands[1].name)
    classes = prepared.column.classes if prepared is not None else None
    value = program.inference.outputs[output.name]
    width = value.shape[-1] if value.type.rank > 1 else 1
    at_output = (Note(last.span, "the output layer"),)
    if "distribution" in facts and width == 1:
        findings.add("W508", last.span, "one output: e^z / e^z", help="write dense(1) -> sigmoid with binary_cross_entropy, or one output a class")
    elif "distribution" in facts and "numeric" in kinds:
        findings.add("W501", loss.span, f"{loss.name} after softmax", notes=at_output, help=f"write cross_entropy({output.name}, {loss.operands[1].name})")
    elif "numeric" in kinds and classes is not None:
        one = len(classes) == 2 and width == 1
        layers = "dense(1) -> sigmoid" if one else f"dense({len(classes)}) -> softmax"
        findings.add("W506", loss.span, f"`{loss.operands[1].name}` has {len(classes)} classes", notes=at_output,
                     help=f"write {layers} with {'binary_' if one else ''}cross_entropy", loss=loss.name)  # fmt: skip
    elif "numeric" in kinds and (low_high := _range(name)) is not None and not _within(program, loss.operands[1].name, *low_high):
        low, high = low_high
        bounds = f"from {low:g} to {high:g}" if high != float("inf") else f"from {low:g} on"
        findings.add("W502", last.span, f"its outputs go {bounds}, and a target need not", activation=name,
                     help="end with the linear layer itself, or bring the target into that range with min_max")  # fmt: skip
    elif ("classes" in kinds and "distribution" not in facts) or ("binary" in kinds and (name != "sigmoid")):
        wanted = "softmax" if "classes" in kinds else "sigmoid"
        findings.add("W505", loss.span, f"the logarithm of what need not lie between 0 and 1: the output layer is {name}", notes=at_output, loss=loss.name,
                     wanted=wanted, help=f"end the network with `-> {wanted}`")  # fmt: skip
    elif "binary" in kinds and classes is not None and len(classes) > 2:
        findings.add("W507", loss.span, f"`{loss.operands[1].name}` is one of {len(classes)} classes", notes=at_output,
                     help="write softmax with cross_entropy; sigmoids are for several labels at once")  # fmt: skip


def _range(activation: str) -> tuple[float, float] | None:
    """What an activation can give, where it cannot give everything."""
    return {"relu": (0.0, float("inf")), "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "softmax": (0.0, 1.0)}.get(activation)


def _within(program: Program, target: str, low: float, high: float) -> bool:
    """Whether a target is known to lie in a range, or nothing is known about it at all."""
    data = program.experiment.data
    if data is None or target not in data.names:
        return high != float("inf")
    entry = data.names[target]
    for step in reversed(entry.steps):
        if step.bound.name == "min_max":
            return bool(low <= step.bound.params.low and step.bound.params.high <= high)
        if step.bound.name == "one_hot":
            return low <= 0 and high >= 1
        if step.bound.name == "standardize":
            return False
    values = data.schema.values.get(entry.columns[0]) if entry.single else None
    factor = 1.0
    for step in entry.steps:
        factor *= step.bound.params.factor if step.bound.name == "scale" else 1.0
    return values is None or all(isinstance(v, int | float) and low <= v * factor <= high for v in values)


def _penalties(program: Program, findings: Findings) -> None:
    """Adam divides every gradient by its running size, that of a penalty included."""
    train, section = program.train, program.experiment.train
    assert train is not None
    assert section is not None
    if "adaptive" not in train.optimizer.operation.facts:
        return
    for bound in _l2(program):
        findings.add("W503", bound.span or section.at("penalty"), f"under {train.optimizer.name} large gradients shrink it",
                     help=f"write adamw(weight_decay={bound.params.strength:g}) in its place", optimizer=train.optimizer.name)  # fmt: skip


def _l2(program: Program) -> Iterator[Bound]:
    assert program.train is not None
    yield from (term.term for term in program.train.penalty if term.term.name == "l2")
    for application in program.experiment.network.applications:
        for term in getattr(application.bound.params, "penalty", None) or ():
            if term.term.name == "l2":
                yield term.term


def _batch(program: Program, findings: Findings) -> None:
    section = program.experiment.train
    assert section is not None
    if section.params.batch != 1:
        return
    for application in program.experiment.network.applications:
        if "norm" in _facts(application):
            findings.add("W504", application.span, "the variance of one sample is 0", notes=(Note(section.at("batch"), "one sample a step"),),
                         help="use a batch of 16 or more, or leave the norm out")  # fmt: skip


def _schedule(program: Program, findings: Findings) -> None:
    """Stages that training is over before."""
    train = program.train
    assert train is not None
    covered = 0
    for bound in train.schedule:
        if covered >= train.epochs:
            findings.add("W509", bound.span, f"the stages before it cover {covered} epochs, and there are {train.epochs}", name=bound.name,
                         help="shorten the stages before it, or train for more epochs")  # fmt: skip
            return
        if getattr(bound.params, "steps", None) is None:
            covered += bound.operation.function(bound.params, 1.0, Clock(1, 1)).steps or 0
