"""Advice on layers and their neighbours: initial weights, activations, norms, dropout, sequences."""

from __future__ import annotations

from .diagnostics import Findings, Note
from .experiment import Application, Ref
from .links import Links, feeds
from .operation import Bound

SHRINKING = 16  # how much activations in a row may shrink a gradient
LONG = 100  # steps that a plain recurrence hardly sees across
HALF = 0.5


def advise_layers(links: Links, findings: Findings) -> None:
    for index, application in links.having("linear_step"):
        _initial_weights(links, index, application, findings)
        _before_a_norm(links, index, application, findings)
        _on_the_last_axis(links, index, application, findings)
    _activations(links, findings)
    _flat_chains(links, findings)
    _dropout(links, findings)
    for index, application in links.having("recurrent"):
        _sequence(links, index, application, findings)
    for _, application in links.having("embedding"):
        p = application.bound.params
        if p.size > p.vocabulary:
            findings.add("W316", application.span, f"{p.size} numbers for each of {p.vocabulary} rows",
                         help="make size smaller: half of the vocabulary at most")  # fmt: skip


def _initial_weights(links: Links, index: int, application: Application, findings: Findings) -> None:
    """A start that suits what follows, and that is not the same for every unit."""
    init: Bound | None = application.bound.params.init
    following = [links.applications[user] for user in links.users[index]]
    if init is None or not following:
        return
    at = application.bound.spans["init"]
    if init.name in ("zeros", "ones", "constant") and _width(application) > 1 and links.reaches_weights(index):
        findings.add("W304", at, f"all {_width(application)} units compute the same", help="leave init out, or write init=he_normal")
    suits, twin = init.operation.extra.get("suits"), init.operation.extra.get("twin")
    rectifier = next((f for f in following if "rectifier" in f.bound.operation.facts and "self_normalizing" not in f.bound.operation.facts), None)
    curved = next((f for f in following if "saturating" in f.bound.operation.facts), None)
    unstable = next((f for f in following if "self_normalizing" in f.bound.operation.facts), None)
    leave = "or leave init out: the default knows what follows"
    if suits == "saturating" and rectifier is not None:
        findings.add("W305", at, f"{rectifier.bound.name} follows", init=init.name, notes=(Note(rectifier.span, "half of its inputs become 0"),),
                     help=f"write init={twin}, {leave}")  # fmt: skip
    elif suits == "rectifier" and curved is not None and rectifier is None:
        findings.add("W308", at, f"{curved.bound.name} follows", init=init.name, notes=(Note(curved.span, "nearly linear around 0"),),
                     help=f"write init={twin}, {leave}", activation=curved.bound.name)  # fmt: skip
    elif suits in ("saturating", "rectifier") and unstable is not None:
        findings.add("W309", at, f"{unstable.bound.name} follows", problem=f"{init.name} before", help=f"write init={unstable.bound.operation.init}, {leave}",
                     activation=unstable.bound.name)  # fmt: skip


def _before_a_norm(links: Links, index: int, application: Application, findings: Findings) -> None:
    """What a norm over the batch undoes: a bias, and the size of the weights."""
    users = links.users[index]
    norm = next((links.applications[user] for user in users if "batch_statistics" in links.facts(user)), None)
    if norm is None or not all("batch_statistics" in links.facts(user) for user in users) or index in links.outputs:
        return
    p, name = application.bound.params, application.bound.name
    note = (Note(norm.span, "the norm"),)
    if p.bias:
        findings.add("W301", application.span, "the norm subtracts the mean, and with it this bias", notes=note,
                     help=f"write {name}(..., bias=false): one parameter a channel less")  # fmt: skip
    for argument in ("penalty", "constraint"):
        if getattr(p, argument, None):
            findings.add("W311", application.bound.spans[argument], "the norm divides by the size of these weights", notes=note, argument=argument,
                         help=f"leave {argument} out here: it holds for layers without a norm behind them")  # fmt: skip


def _on_the_last_axis(links: Links, index: int, application: Application, findings: Findings) -> None:
    """Layers that mix the last axis: on images, and one behind another."""
    if "last_axis" not in application.bound.operation.facts:
        return
    value = links.given(index)
    if value is not None and value.type.rank == 4:
        label = f"an image here is {list(value.shape[1:])}: {application.bound.name} mixes the {value.shape[-1]} elements of each row"
        findings.add("W306", application.span, label, help="put `-> flatten` or a pooling layer before it")
    first = links.before(index, frozenset(("dropout", "shape")))
    if first is None or "last_axis" not in links.facts(first) or "activation" in links.facts(first) or first in links.outputs:
        return
    source = links.given(first)
    inside, middle, outside = (source.shape[-1] if source is not None else None), _width(links.applications[first]), _width(application)
    narrow = isinstance(inside, int) and middle < min(inside, outside)  # a bottleneck saves parameters
    if len(links.users[first]) == 1 and not narrow:
        findings.add("W315", application.span, "together they are one linear layer", notes=(Note(links.applications[first].span, "no activation behind it"),),
                     help="put an activation between them, such as relu, or leave one of them out")  # fmt: skip


def _width(application: Application) -> int:
    p = application.bound.params
    return int(getattr(p, "units", getattr(p, "channels", 1)))


def _activations(links: Links, findings: Findings) -> None:
    """An activation takes what a layer with weights gives, and passes gradients on."""
    for index, application in links.having("activation"):
        facts = links.facts(index)
        if "discontinuous" in facts and links.reaches_weights(index):
            findings.add("W313", application.span, "its slope is made up", help="use sigmoid or relu in hidden layers, and step for the output",
                         activation=application.bound.name)  # fmt: skip
        before = links.before(index, frozenset(("dropout",)))
        if before is None or len(feeds(application)) != 1:
            continue
        first = links.applications[before]
        bare = not any(hasattr(a.bound.params, "units") for a in (first, application))  # maxout and radial have weights of their own
        if bare and "activation" in links.facts(before) and "unbounded" not in links.facts(before) | facts:
            findings.add("W314", application.span, f"it takes what {first.bound.name} gives", notes=(Note(first.span, "an activation already"),),
                         first=first.bound.name, second=application.bound.name,
                         help="leave one of them out, or put a layer with weights between them")  # fmt: skip


def _flat_chains(links: Links, findings: Findings) -> None:
    """A gradient behind activations is at most the product of their steepest slopes of what it was, on the best way back.

    A gate is none of them.
    """
    shrunk = [1.0] * len(links.applications)
    for index, application in enumerate(links.applications):
        before = max((shrunk[o.application] if o.application >= 0 else 1.0 for o in application.operands if isinstance(o, Ref)), default=1.0)
        gate = any("product" in links.facts(user) for user in links.users[index])
        slope = 1.0 if gate or index in links.outputs else application.bound.operation.extra.get("steepest", 1.0)
        shrunk[index] = before * slope
        if shrunk[index] <= 1 / SHRINKING < before:
            findings.add("W307", application.span, f"gradients shrink at least {1 / shrunk[index]:.0f}-fold up to here",
                         help="use relu in hidden layers, and keep sigmoid for outputs", activation=application.bound.name)  # fmt: skip


def _dropout(links: Links, findings: Findings) -> None:
    for index, application in links.having("dropout"):
        p = application.bound.params
        kept = getattr(p, "keep", None)
        keep = kept if kept is not None else 1 - p.rate
        if keep < HALF:
            findings.add("W302", application.span, f"keeps {keep:.0%}", help="keep at least half: dropout(0.5) or less")
        if keep < 1 and links.weighted and not links.reaches_weights(index):
            findings.add("W303", application.span, "no layer with weights comes after it", help="put dropout before the last layer with weights")
        norm = next((links.applications[user] for user in links.users[index] if "batch_statistics" in links.facts(user)), None)
        if keep < 1 and norm is not None:
            findings.add("W310", application.span, "the norm learns its variance", notes=(Note(norm.span, "learned under dropout, used without"),),
                         help="put dropout behind the norm and its activation")  # fmt: skip
        before = links.before(index)
        if keep < 1 and before is not None and "self_normalizing" in links.facts(before):
            name = links.applications[before].bound.name
            findings.add("W309", application.span, "zeros move the mean and the variance", problem="dropout behind", activation=name,
                         help=f"leave dropout out, or use relu in place of {name}")  # fmt: skip


def _sequence(links: Links, index: int, application: Application, findings: Findings) -> None:
    """What a recurrence without gates cannot do."""
    if "gated" in links.facts(index):
        return
    value, train, name = links.given(index), links.program.train, application.bound.name
    steps = value.shape[1] if value is not None and value.type.rank == 3 else None
    if isinstance(steps, int) and steps >= LONG:
        findings.add("W312", application.span, f"{steps} steps", help=f"use lstm or gru with {_width(application)} units", layer=name)
    if application.bound.params.activation == "relu" and train is not None and train.clip is None:
        findings.add("W317", application.span, "nothing bounds its state", help="add clip = global_norm(1.0), or use activation=tanh", layer=name)


