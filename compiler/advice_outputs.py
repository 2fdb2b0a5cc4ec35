"""Advice on what a network ends with: output layer, loss and kind of target must fit each other."""

from __future__ import annotations

from math import inf
from typing import Any

from .diagnostics import Findings, Note
from .experiment import Application
from .links import Links
from .operation import Bound

Range = tuple[float, float]
FEW = 8  # samples whose mean square has a root that says little


def advise_outputs(links: Links, findings: Findings) -> None:
    train, section = links.program.train, links.program.experiment.train
    assert train is not None
    assert section is not None
    for term in train.loss:
        bound = term.term
        _pair(links, bound, findings)
        if bound.operation.extra.get("batch") == "root" and train.batch != "full" and train.batch < FEW:
            said = "one sample: |a - y|" if train.batch == 1 else f"the mean of {train.batch} roots is not the root of a mean"
            findings.add("W523", bound.span, said, notes=(Note(section.at("batch"), "samples in a step"),), loss=bound.name,
                         help="use mse as the loss, and rmse among the metrics")  # fmt: skip


def _pair(links: Links, loss: Bound, findings: Findings) -> None:
    """Whether the output layer, the loss and the kind of target fit each other."""
    program = links.program
    prediction, target = loss.operands[0].name, loss.operands[1].name
    output = program.experiment.network.output(prediction)
    if output is None or output.ref.application < 0:
        return
    last = links.applications[output.ref.application]
    facts, kinds = last.bound.operation.facts, loss.operation.facts
    prepared = program.prepared.get(target)
    classes = prepared.column.classes if prepared is not None else None
    value = program.inference.outputs[output.name]
    width = value.shape[-1] if value.type.rank > 1 else 1
    at_output = (Note(last.span, "the output layer"),)
    reach = output_range(last)
    if "distribution" in facts and width == 1:
        findings.add("W508", last.span, "one output: e^z / e^z", help="write dense(1) -> sigmoid with binary_cross_entropy, or one output a class")
    elif "distribution" in facts and "numeric" in kinds:
        findings.add("W501", loss.span, f"{loss.name} after {last.bound.name}", notes=at_output, help=f"write cross_entropy({prediction}, {target})")
    elif "numeric" in kinds and classes is not None:
        one = len(classes) == 2 and width == 1
        layers = "dense(1) -> sigmoid" if one else f"dense({len(classes)}) -> softmax"
        findings.add("W506", loss.span, f"`{target}` has {len(classes)} classes", notes=at_output,
                     help=f"write {layers} with {'binary_' if one else ''}cross_entropy", loss=loss.name)  # fmt: skip
    elif (reason := _unfit(loss, last, reach)) is not None:
        wanted = loss.operation.extra["after"]
        help = f"write `-> {wanted}` in place of {last.bound.name}" if "activation" in facts and reach is not None else f"end the network with `-> {wanted}`"
        findings.add("W505", loss.span, f"{reason}: the output layer is {last.bound.name}", notes=at_output, loss=loss.name, wanted=wanted, help=help)
    elif "score" in kinds and "bounded" in facts:
        label = f"{last.bound.name} gives no more than {reach[1]:g}" if reach else f"{last.bound.name} is bounded"
        findings.add("W521", loss.span, label, notes=at_output, loss=loss.name,
                     help=f"leave {last.bound.name} out: the score is the linear layer itself")  # fmt: skip
    elif "numeric" in kinds and "after" not in loss.operation.extra and reach is not None and not _within(links, target, reach):
        low, high = reach
        bounds = f"from {low:g} to {high:g}" if inf not in (-low, high) else f"from {low:g} on" if high == inf else f"up to {high:g}"
        findings.add("W502", last.span, f"its outputs go {bounds}, and a target need not", activation=last.bound.name,
                     help="end with the linear layer itself, or bring the target into that range with min_max")  # fmt: skip
    elif "binary" in kinds and classes is not None and len(classes) > 2:
        findings.add("W507", loss.span, f"`{target}` is one of {len(classes)} classes", notes=at_output,
                     help="write softmax with cross_entropy; sigmoids are for several labels at once")  # fmt: skip
    elif "binary" in kinds and classes is None and not _within(links, target, (0.0, 1.0)):
        findings.add("W522", loss.span, f"`{target}` has others", loss=loss.name, help="write `-> category`, or `-> min_max` where it is a share")


def output_range(last: Application) -> Range | None:
    """What an activation can give, where it cannot give everything."""
    reach = last.bound.operation.extra.get("range")
    return reach(last.bound.params) if reach is not None else None


def _unfit(loss: Bound, last: Application, reach: Range | None) -> str | None:
    """Why a loss that is made for an output layer does not stand behind it, None where all is well."""
    facts, wanted = last.bound.operation.facts, loss.operation.extra.get("after")
    if wanted is None or last.bound.name == wanted or "distribution" in facts:
        return None
    if "classes" in loss.operation.facts:
        if reach is None or reach[0] < 0 or reach[1] > 1:
            return "a prediction that need not lie between 0 and 1"
        return None if "every_class" in loss.operation.facts else "nothing holds the outputs of other classes down"
    if "binary" in loss.operation.facts:
        return "the logarithm of what need not lie between 0 and 1"
    return None if reach is not None and reach[0] >= 0 else "the logarithm of what may be below 0"


def _within(links: Links, target: str, reach: Range) -> bool:
    """Whether a target is known to lie in a range, or nothing is known about it at all; then none is expected to end at one side only."""
    low, high = reach
    data = links.program.experiment.data
    if data is None or target not in data.names:
        return high != inf
    entry = data.names[target]
    scale = 1.0
    for step in reversed(entry.steps):
        given: Any = step.bound.operation.extra.get("gives")
        if given is not None:
            found = given(step.bound.params)
            return found is not None and bool(low <= found[0] * scale and found[1] * scale <= high)
        if not hasattr(step.bound.params, "factor") and "keeps_units" not in step.bound.operation.facts:
            return True
        scale *= getattr(step.bound.params, "factor", 1.0)
    values = data.schema.at_hand(entry.columns[0]) if entry.single else None
    return values is None or all(isinstance(v, int | float) and low <= v * scale <= high for v in values)
