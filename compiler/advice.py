"""What a good teacher would say about a spec that is correct. Advice never changes an exit status."""

from __future__ import annotations

from .diagnostics import Findings
from .experiment import Application, Network, Ref
from .program import Program


def advise(program: Program, findings: Findings) -> None:
    network = program.experiment.network
    _norms(network, findings)
    _dropout(network, findings)
    _training(program, findings)


def _before(network: Network, application: Application) -> Application | None:
    """The application whose result this one takes."""
    first = application.operands[0]
    return network.applications[first.application] if isinstance(first, Ref) and first.application >= 0 else None


def _producer(network: Network, ref: Ref) -> Application | None:
    return network.applications[ref.application] if ref.application >= 0 else None


def _norms(network: Network, findings: Findings) -> None:
    for application in network.applications:
        if "norm" in application.bound.operation.facts:
            before = _before(network, application)
            if before is not None and "linear_step" in before.bound.operation.facts and before.bound.params.bias:
                findings.add("W301", before.span, "its bias is subtracted again by the norm", help="write bias=false: one parameter a channel less")


def _dropout(network: Network, findings: Findings) -> None:
    outputs = {o.ref.application for o in network.outputs}
    for index, application in enumerate(network.applications):
        if "dropout" not in application.bound.operation.facts:
            continue
        p = application.bound.params
        keep = p.keep if p.keep is not None else 1 - p.rate
        if keep < 0.5:
            findings.add("W302", application.span, f"keeps {keep:.0%}", help="keep at least half: dropout(0.5) or less")
        if index in outputs:
            findings.add("W303", application.span, "an output of the network", help="put dropout before the last linear step")


def _training(program: Program, findings: Findings) -> None:
    train, network = program.train, program.experiment.network
    if train is None:
        return
    section = program.experiment.train
    assert section is not None
    for weighted in train.loss:
        loss = weighted.term
        output = network.output(loss.operands[0].name)
        last = _producer(network, output.ref) if output else None
        if last is None:
            continue
        facts, name = last.bound.operation.facts, last.bound.operation.name
        if "distribution" in facts and "numeric" in loss.operation.facts:
            findings.add("W501", loss.span, f"{loss.name} after softmax", help="cross_entropy has the larger gradients where the prediction is wrong")
        if name == "relu" and "numeric" in loss.operation.facts:
            findings.add("W502", last.span, "negative targets cannot be reached, and a dead unit stays dead", help="end a regression with the linear step")
    if train.penalty and "adaptive" in train.optimizer.operation.facts and any(t.term.name == "l2" for t in train.penalty):
        findings.add("W503", section.at("penalty"), f"l2 under {train.optimizer.name}", help="write adamw(weight_decay=...): the decay is then not divided by the gradient's size")
    if train.batch == 1:
        for application in network.applications:
            if "norm" in application.bound.operation.facts:
                findings.add("W504", application.span, "the variance of one sample is 0", help="use a batch of 16 or more, or leave the norm out")
