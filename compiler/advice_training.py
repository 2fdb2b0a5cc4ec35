"""Advice on a train section: rates and schedules, penalties, batches, what is watched; and on the scale of what comes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isclose, prod

from .cost import training_samples
from .diagnostics import Findings, Note
from .experiment import Section, TrainParams
from .ir import topological
from .links import Links
from .operation import Bound, Clock, Kind, find
from .passes.tolerant import tolerant
from .training import rates
from .workspace import LARGE_PIECE, image, piece_side

LARGE = 100.0  # inputs beyond this are not scaled
MANY = 50  # parameters for each sample that need something against overfitting
SHRINKS = 0.1  # share of the weights that a decay may take in a step
POINTS = 200  # of a schedule that are looked at


def advise_training(links: Links, findings: Findings) -> None:
    train, section = links.program.train, links.program.experiment.train
    assert train is not None
    assert section is not None
    samples = training_samples(links.program)
    _rate(links, train, section, samples, findings)
    _schedule(train, findings)
    _penalties(links, train, section, findings)
    _batch(links, train, section, samples, findings)
    _size(links, train, samples, findings)
    _precision(links, train, section, findings)
    _watched(train, findings)
    _inputs(links, findings)


# The rate

def _rate(links: Links, train: TrainParams, section: Section, samples: int | None, findings: Findings) -> None:
    optimizer = train.optimizer
    at = optimizer.spans.get("lr") or optimizer.span or section.at("optimizer")
    per_epoch = -(-samples // train.batch) if samples and isinstance(train.batch, int) else 1 if train.batch == "full" else None
    sure = per_epoch is not None or not any(getattr(b.params, "unit", "") == "steps" or getattr(b.params, "steps", None) for b in train.schedule)
    found = _sampled(train, per_epoch or 10)
    usual = optimizer.operation.extra.get("usual")
    if usual is not None and not usual[0] <= max(found) <= usual[1]:
        way = "above" if max(found) > usual[1] else "below"
        findings.add("W510", at, f"{way} what is usual, {usual[0]:g} to {usual[1]:g}", optimizer=optimizer.name, lr=f"{max(found):g}",
                     help=f"start from {optimizer.name}(lr={optimizer.operation.extra['start']:g})")  # fmt: skip
    if not train.schedule or not sure:
        return
    double = optimizer.params.model_copy(update={"lr": 2 * optimizer.params.lr})
    other = _sampled(train.model_copy(update={"optimizer": Bound(optimizer.operation, double)}), per_epoch or 10)
    first = train.schedule[0]
    if "lr" in optimizer.spans and other == found and not any(isclose(optimizer.params.lr, end) for end in (min(found), max(found))):
        findings.add("W518", optimizer.spans["lr"], f"{first.name} goes from {min(found):g} to {max(found):g} whatever this is", name=first.name,
                     notes=(Note(first.span, "the schedule"),) if first.span else (), help=f"write lr={max(found):g}, the rate that is reached")  # fmt: skip
    last = train.schedule[-1]
    idle = "plateau" in last.operation.facts and last.params.patience >= train.epochs
    if "constant" not in last.operation.facts and (idle or (max(found) == min(found) and "plateau" not in last.operation.facts)):
        findings.add("W516", last.span, f"within {train.epochs} epochs nothing changes", name=last.name, help="change sooner, or leave the schedule out")
    length = last.operation.function(last.params, 1.0, Clock(per_epoch or 10, 1)).steps
    covered = _covered(train, per_epoch or 10)
    if length is not None and covered >= train.epochs * (per_epoch or 10) and found[-1] == max(found) > min(found):
        findings.add("W517", last.span, f"it takes {covered / (per_epoch or 10):.3g} epochs, and there are {train.epochs}", name=last.name,
                     help="use a twentieth to a tenth of the epochs")  # fmt: skip


def _sampled(train: TrainParams, per_epoch: int) -> list[float]:
    """The rate at some steps of the whole training, the first and the last among them."""
    rate: Callable[[int], float] = rates(train, per_epoch)
    steps = train.epochs * per_epoch
    count = min(steps, POINTS)
    return [rate(i * (steps - 1) // max(1, count - 1)) for i in range(count)]


def _covered(train: TrainParams, per_epoch: int) -> int:
    """The steps that stages with an end cover."""
    return sum(bound.operation.function(bound.params, 1.0, Clock(per_epoch, 1)).steps or 0 for bound in train.schedule)


def _schedule(train: TrainParams, findings: Findings) -> None:
    """Stages that training is over before."""
    covered = 0
    for bound in train.schedule:
        if covered >= train.epochs:
            findings.add("W509", bound.span, f"the stages before it cover {covered} epochs, and there are {train.epochs}", name=bound.name,
                         help="shorten the stages before it, or train for more epochs")  # fmt: skip
            return
        if getattr(bound.params, "steps", None) is None:
            covered += bound.operation.function(bound.params, 1.0, Clock(1, 1)).steps or 0


# Penalties

def _penalties(links: Links, train: TrainParams, section: Section, findings: Findings) -> None:
    """Adam divides every gradient by its running size, that of a penalty included; and no step may take away much of a weight."""
    optimizer = train.optimizer
    adaptive = "adaptive" in optimizer.operation.facts
    for bound in _squares(links, train):
        if adaptive:
            findings.add("W503", bound.span or section.at("penalty"), f"under {optimizer.name} large gradients shrink it",
                         help=f"write adamw(weight_decay={bound.params.strength:g}) in its place", optimizer=optimizer.name)  # fmt: skip
        elif bound.params.scale != "1/samples" and "solver" not in optimizer.operation.facts:
            _shrinking(optimizer.params.lr * bound.params.strength * bound.params.scale, bound, findings)
    decay = optimizer.params.weight_decay
    if decay:
        _shrinking(decay * (optimizer.params.lr if optimizer.params.decay_form == "scaled" else 1.0), optimizer, findings)


def _shrinking(share: float, bound: Bound, findings: Findings) -> None:
    if share >= SHRINKS:
        at = bound.spans.get("weight_decay") or bound.spans.get("strength") or bound.span
        findings.add("W526", at, f"a step takes {share:.0%} of every weight", help="use a lambda of 1e-4 to 1e-2")


def _squares(links: Links, train: TrainParams) -> Iterator[Bound]:
    """The penalties on squares of weights, global and of layers."""
    given = [*train.penalty, *(term for a in links.applications for term in getattr(a.bound.params, "penalty", None) or ())]
    yield from (term.term for term in given if "decay" in term.term.operation.facts)


# Batches and rows

def _batch(links: Links, train: TrainParams, section: Section, samples: int | None, findings: Findings) -> None:
    if train.batch == 1:
        for _, application in links.having("batch_statistics"):
            findings.add("W504", application.span, "statistics of one sample", notes=(Note(section.at("batch"), "one sample a step"),),
                         help="use a batch of 16 or more, or layer_norm, which needs no other samples")  # fmt: skip
    if isinstance(train.batch, int) and samples is not None and train.batch > samples:
        findings.add("W519", section.at("batch"), f"about {samples:,} rows train", help="write batch = full if that is meant, or use a smaller one")
    data = links.program.experiment.data
    if train.shuffle or train.batch == "full" or data is None or any(name.window for name in data.names.values()):
        return
    targets = {term.term.operands[1].name for term in train.loss}
    classes = [name for name in sorted(targets) if name in links.program.prepared and links.program.prepared[name].column.classes]
    if classes and (samples is None or train.batch < samples):
        findings.add("W520", section.at("shuffle"), f"where rows lie by `{classes[0]}`, a batch holds one class", help="leave shuffle out")


def _size(links: Links, train: TrainParams, samples: int | None, findings: Findings) -> None:
    """Far more parameters than samples, and nothing that regularises."""
    program = links.program
    data = program.experiment.data
    count = sum(prod(p.shape) for p in program.inference.trainable if not program.frozen(p.name))
    facts = {fact for index in range(len(links.applications)) for fact in links.facts(index)}
    tamed = train.penalty or train.optimizer.params.weight_decay or train.stop or train.start or facts & {"dropout", "norm", "noise"}
    tamed = tamed or any(p.penalty or p.constraint for p in program.inference.trainable) or (data is not None and data.augment)
    if samples and count > MANY * samples and not tamed:
        findings.add("W512", program.experiment.network.outputs[0].span, f"{count:,} parameters, about {samples:,} training samples",
                     help="use fewer units, dropout, adamw with weight_decay, or stop = early_stopping(monitor=val.loss)")  # fmt: skip


def _inputs(links: Links, findings: Findings) -> None:
    """Numbers that come in as they are, large ones among them, into a layer with weights."""
    data = links.program.experiment.data
    if data is None:
        return
    normed = {o.output for _, a in links.having("norm") for o in a.operands if not isinstance(o, float) and o.application < 0}
    for index, declared in enumerate(links.program.experiment.network.inputs):
        entry = data.names.get(declared.name)
        if entry is None or declared.dtype != "float32" or index in normed or any("scales" in step.bound.operation.facts for step in entry.steps):
            continue
        largest = {c: max((abs(v) for v in data.schema.at_hand(c) or () if isinstance(v, int | float)), default=0.0) for c in entry.columns}
        worst = max(largest, key=lambda c: largest[c])
        if largest[worst] > LARGE:
            findings.add("W511", entry.span, f"`{worst}` goes up to {largest[worst]:,.6g}", name=declared.name, help="add `-> standardize`, or `-> min_max`")


# The error that is allowed

def _precision(links: Links, train: TrainParams, section: Section, findings: Findings) -> None:
    """A larger error that no convolution can make use of."""
    if not train.error:
        return
    n = links.program.batch
    allowed = topological(tolerant(list(links.program.inference.outputs.values()), train.error))
    if not any(piece_side(value, image(value, n)[0]) == LARGE_PIECE for value in allowed if value.op == "conv2d"):
        findings.add("W527", section.at("precision"), f"no convolution of 3x3 here is large enough in batches of {n:,}", help="leave precision out")


# What is watched

def _watched(train: TrainParams, findings: Findings) -> None:
    """What stop watches tells something new, and a goal can be reached."""
    for bound in (train.stop, *(b for b in train.schedule if getattr(b.params, "monitor", None) is not None)):
        if bound is None:
            continue
        monitor = bound.params.monitor
        split, _, figure = monitor.name.partition(".")
        help = f"give the split a validation part, and watch val.{figure}"
        if split == "test":
            findings.add("W514", monitor.span, "chosen by it, the test figure is too good", help=help)
        elif split == "train" and bound is train.stop:
            findings.add("W513", monitor.span, "it improves while new rows get worse", help=help)
    if train.goal is None:
        return
    monitor, wanted = train.goal.params.monitor, train.goal.params.value
    word = monitor.name.rpartition(".")[2].partition("(")[0]
    metric = find(Kind.METRIC, word)
    better = metric.extra["better"] if metric is not None else "lower"
    if better not in train.goal.operation.facts:
        other = "at_most" if better == "lower" else "at_least"
        findings.add("W524", train.goal.span, f"of {word} {better} is better", goal=train.goal.name, help=f"write {other}({monitor.name}, {wanted:g})")
    elif metric is not None and wanted > metric.extra.get("most", wanted):
        most = metric.extra["most"]
        help = f"write {wanted:g}%" if wanted <= 100 * most else f"give a value below {most:g}"
        findings.add("W525", train.goal.spans.get("value") or train.goal.span, f"{word} is at most {most:g}", goal=train.goal.name, help=help)
