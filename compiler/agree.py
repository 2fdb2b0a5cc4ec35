"""Whether the parts of a checked model fit each other: data and inputs, loss and outputs, what training watches, export.

Runs after the network has its shapes. Whatever was refused before takes no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .diagnostics import Note, Refusal, did_you_mean
from .experiment import Section, TrainParams
from .ir import dims, topological
from .objective import SPLITS, Objective
from .operation import Bound, Kind, Reference, Weighted, find
from .ops.solvers import MOST_NEWTON
from .prepare import NotKnownYet, check_feeds, prepare
from .program import Program
from .sparse import penalised


def check_agreement(program: Program, learned: Mapping[str, tuple[Any, ...]] | None) -> None:
    """Everything that two sections can disagree about, into the program's findings; fills `program.prepared`."""
    _data(program, learned)
    if program.experiment.train is not None:
        _training(program, program.experiment.train)
    _export(program)


def _data(program: Program, learned: Mapping[str, tuple[Any, ...]] | None) -> None:
    data, findings = program.experiment.data, program.findings
    if data is None:
        return
    for name, entry in data.names.items():
        try:
            program.prepared[name] = prepare(data, entry, program.dtype, learned)
        except NotKnownYet:
            continue
        except Refusal as refusal:
            findings.add_refusal(refusal, entry.span)
    check_feeds(program.experiment.network, program.prepared, data, findings, program.dtype)
    _tables(program)
    _augmentations(program)
    _mixtures(program)
    stratify: Reference | None = getattr(data.split.params, "stratify", None) if data.split is not None else None
    if stratify is not None and stratify.name in program.prepared and program.prepared[stratify.name].column.classes is None:
        findings.add("E412", stratify.span, "it holds numbers", name=f"`{stratify.name}`",
                     help="stratify by a data name with classes, such as column(c) -> category")  # fmt: skip


def _augmentations(program: Program) -> None:
    """What is augmented feeds an input, and as an image where the augmentation wants one."""
    data, findings = program.experiment.data, program.findings
    assert data is not None
    inputs = {i.name: i for i in program.experiment.network.inputs}
    for item in data.augment:
        if item.name not in inputs:
            findings.add("E201", item.span, "no input of the network", name=item.name, help=did_you_mean(item.name, inputs))
            continue
        for bound in item.steps:
            declared = inputs[item.name]
            if declared.dtype != "float32" or ("image" in bound.operation.facts and len(declared.shape) != 3):
                wanted = "images, float32[channels, height, width]" if "image" in bound.operation.facts else "inputs of float32"
                findings.add("E303", bound.span, f"`{item.name}` is {declared.dtype}{dims(declared.shape)}", operation=bound.name,
                             notes=[Note(declared.span, "declared here")], help=f"augment {wanted}")  # fmt: skip


def _mixtures(program: Program) -> None:
    """A mixture is one of whole samples: every input takes part once, all with one share, and indices have no mean."""
    data, findings = program.experiment.data, program.findings
    assert data is not None
    mixing = [(item.name, bound) for item in data.augment for bound in item.steps if "mixing" in bound.operation.facts]
    if not mixing:
        return
    name, first = mixing[0]
    for i, (other, bound) in enumerate(mixing):
        if other in (n for n, _ in mixing[:i]):
            findings.add("E523", bound.span, f"`{other}` is mixed before", problem="comes once", help="keep one of them")
        elif bound.params != first.params:
            notes = [Note(first.span, f"of `{name}`")] if first.span is not None else []
            findings.add("E523", bound.span, f"alpha={bound.params.alpha:g} here", problem="has one alpha", notes=notes,
                         help=f"write mixup({first.params.alpha:g}) for every input")  # fmt: skip
    inputs = program.experiment.network.inputs
    if any(other not in (i.name for i in inputs) for other, _ in mixing):
        return  # reported, and perhaps one of those that seem to be left out
    for declared in inputs:
        if declared.name not in (other for other, _ in mixing):
            numbers = declared.dtype == "float32"
            help = f"add `{declared.name} -> mixup({first.params.alpha:g})` to augment" if numbers else "leave mixup out: classes have no value in between"
            findings.add("E523", first.span, f"`{declared.name}` is {'not mixed' if numbers else declared.dtype}", problem="mixes whole samples", help=help,
                         notes=[Note(declared.span, "the other input")])  # fmt: skip


def _tables(program: Program) -> None:
    """An embedding has a row for every class of the column that feeds it."""
    data, findings = program.experiment.data, program.findings
    assert data is not None
    for value in topological(program.inference.outputs.values()):
        if value.op != "gather":
            continue
        table, index = value.operands
        while index.op == "reshape":
            index = index.operands[0]
        entry = program.prepared.get(index.name) if index.op == "input" else None
        rows = table.shape[0]
        assert isinstance(rows, int)
        if entry is not None and entry.column.classes is not None and len(entry.column.classes) > rows:
            count = len(entry.column.classes)
            place = next(a for a in program.experiment.network.applications if a.path == value.origin)
            feeds = Note(data.names[index.name].span, f"{count} classes")
            findings.add("E311", place.span, f"{rows} rows for {count} classes", name=value.origin, notes=[feeds],
                         help=f"write embedding({count + 1}, ...): a row more is for values that training has not seen")  # fmt: skip


def _training(program: Program, section: Section) -> None:
    train: TrainParams = section.params
    _monitors(program, section, _objective(program, section))
    _ensemble(program, section)
    _parts(program, train)
    _solver(program, train, section)
    _lazy(program, train)
    if not program.findings.errors and not program.bundles:
        program.findings.add("E509", section.at("groups"), help="leave something to train, or leave out the train section",
                             problem="every parameter is frozen" if train.groups else "the network has no parameters")  # fmt: skip


def _objective(program: Program, section: Section) -> list[str] | None:
    """Check loss and metrics as far as their parts are known; the names of all figures, or None where some are not known."""
    experiment, findings, train = program.experiment, program.findings, section.params
    known = program.targets() if experiment.data is not None or experiment.outline is None or experiment.outline.sound else {}

    def ready(bound: Bound) -> bool:
        weights = getattr(bound.params, "weights", None)
        named = all(r.name in names for r, names in zip(bound.operands, (set(program.inference.outputs), set(known)), strict=False))
        return named and (weights is None or weights.name in known)

    terms = tuple(term for term in train.loss if ready(term.term))
    complete = "loss" not in section.failed and len(terms) == len(train.loss)
    metrics = tuple(bound for bound in train.metrics if ready(bound) and (complete or bound.operands))
    complete = complete and "metrics" not in section.failed and len(metrics) == len(train.metrics)
    params = train.model_copy(update={"loss": terms, "metrics": metrics})
    before = len(findings.errors)
    objective = Objective(experiment.network, replace(section, params=params), program.inference, known, findings, samples=1)
    _place_pairs(program, terms, before)
    if len(findings.errors) > before:
        return None
    keys = [metric.key for metric in objective.metrics()]
    if objective.needs_samples() and experiment.outline is None:
        findings.add("E506", section.at("penalty"), "how many training samples are there?", help="add a data section, or give the number as lambda itself")
    for term in terms:
        if getattr(term.term.params, "class_weights", None) == "balanced" and experiment.outline is None:
            findings.add("E519", term.term.spans["class_weights"], "which rows train?", help="add a data section, or give a list: class_weights=[1, 5]")
    return keys if complete and len(findings.errors) == before else None


def _place_pairs(program: Program, terms: tuple[Weighted, ...], start: int) -> None:
    """Say where prediction and target of a loss that was refused come from."""
    experiment, found = program.experiment, program.findings.found
    for term in (t.term for t in terms):
        output = experiment.network.output(term.operands[0].name)
        target = experiment.data.names.get(term.operands[1].name) if experiment.data is not None else None
        notes = [Note(output.span, "the prediction")] if output is not None else []
        notes += [Note(target.span, "the target")] if target is not None else []
        for index in range(start, len(found)):
            if found[index].span == term.span and not found[index].notes:
                found[index] = replace(found[index], notes=tuple(notes))


def _monitors(program: Program, section: Section, metrics: list[str] | None) -> None:
    """What stop, goal and the stages of a schedule watch is a figure of a split that there is. `metrics` is None where not all figures are known."""
    train: TrainParams = section.params
    words = {"loss", *(bound.name for bound in train.metrics)}
    outline, findings = program.experiment.outline, program.findings
    split = outline.split if outline is not None else None
    for bound in (train.stop, train.goal, *train.schedule):
        monitor: Reference | None = getattr(bound.params, "monitor", None) if bound is not None else None
        if monitor is None:
            continue
        part, _, figure = monitor.name.partition(".")
        word = figure.rpartition(".")[2].partition("(")[0]
        known = figure in ("loss", *metrics) if metrics is not None else "metrics" in section.failed or word in words
        if part not in SPLITS or not known:
            choice = [f"{p}.{m}" for p in ("val", "train") for m in (("loss", *metrics) if metrics is not None else sorted(words))]
            unused = part in SPLITS and find(Kind.METRIC, figure) is not None
            help = f"add `{figure}` to the metrics of the train section" if unused else did_you_mean(monitor.name, choice)
            findings.add("E501", monitor.span, "no figure of this training", what="figure", name=monitor.name, help=help)
        elif outline is not None and split is None and not outline.sound:
            continue
        elif part != "train" and not (split is not None and SPLITS[part] in split.params.parts):
            notes = [Note(split.span, "the split")] if split is not None and split.span is not None else []
            findings.add("E507", monitor.span, f"there is no {SPLITS[part]} split", name=monitor.name, notes=notes, split=SPLITS[part],
                         help="write split = random(train=80%, validation=10%, test=10%) in the data section")  # fmt: skip


def _ensemble(program: Program, section: Section) -> None:
    """An ensemble has rows to draw from, one rule for them, and outputs that can be averaged."""
    experiment, findings, bagging = program.experiment, program.findings, section.params.ensemble
    folds = experiment.folds
    if bagging is not None and experiment.outline is None:
        findings.add("E520", bagging.span, "there is no data section", ensemble=bagging.name, problem="has no rows to draw",
                     help="add a data section, or leave the ensemble out")  # fmt: skip
    if folds is None:
        return
    if bagging is not None:
        notes = [Note(folds.span, "an ensemble already")] if folds.span is not None else []
        findings.add("E520", bagging.span, f"{folds.params.folds} folds, and {bagging.params.members} samples of each?", ensemble=bagging.name,
                     problem="and a k_fold are two ensembles", notes=notes, help="keep one of them")  # fmt: skip
    data = experiment.data
    p, rows = folds.params, data.schema.rows if data is not None and all(name.window is None for name in data.names.values()) else None
    if rows is not None and p.stratify is None and round(rows * (1 - p.test)) < p.folds:  # the rest is found when the data is read
        pool = round(rows * (1 - p.test))
        findings.add("E411", folds.span, f"{p.folds} folds of {pool} rows", split="validation", help=f"use at most {pool} folds, or more rows")
    targets = {term.term.operands[1].name for term in section.params.loss}
    for name in sorted(targets & program.prepared.keys()) if data is not None else ():
        prepared, entry = program.prepared[name], data.names[name]  # type: ignore[union-attr]
        learns = [s.bound for s in entry.steps if s.bound.operation.extra.get("learns") and not s.bound.operation.extra.get("classes")]
        new_units = [bound for bound in learns if "keeps_units" not in bound.operation.facts]
        if new_units and prepared.inverse is None:
            findings.add("E520", new_units[0].span, f"`{name}` cannot be brought back to the column's units", ensemble=folds.name,
                         problem=f"learns `{new_units[0].name}` anew in every fold",
                         help="give a target steps with a way back, such as standardize alone")  # fmt: skip


def _parts(program: Program, train: TrainParams) -> None:
    """Groups, and the parts that a start takes, name parameters."""
    if program.experiment.network.failed != frozenset() or None in program.inference.results.values():
        return  # what was refused has its parameters missing
    paths = program.inference.parameters
    prefixes = {name[:i] for name in paths for i, c in enumerate(name) if c == "/"}
    parts = [bound.params.part for bound in train.groups]
    parts += train.start.params.only if train.start is not None else ()
    for part in parts:
        if part.name not in paths and part.name not in prefixes:
            program.findings.add("E508", part.span, "no parameter, statement or block", name=part.name, help=did_you_mean(part.name, [*prefixes, *paths]))


def _solver(program: Program, train: TrainParams, section: Section) -> None:
    """A solver takes all parameters alike and all rows at once, and newton writes the Hessian down."""
    optimiser, findings = train.optimizer, program.findings
    if findings.errors or "solver" not in optimiser.operation.facts:
        return
    if len(program.bundles) > 1:
        findings.add("E516", section.at("groups"), "groups have rates of their own", optimizer=optimiser.name, problem="takes all parameters alike",
                     help="leave out the rates; frozen parts are fine")  # fmt: skip
    if train.batch != "full":
        findings.add("E516", section.at("batch"), f"a batch of {train.batch}", optimizer=optimiser.name, problem="compares values of one objective",
                     help="write batch = full")  # fmt: skip
    balanced = program.experiment.data.balanced if program.experiment.data is not None else None
    if balanced is not None:
        findings.add("E516", optimiser.span, f"the rows of `{balanced.name}` are drawn anew in every epoch", optimizer=optimiser.name,
                     problem="compares values of one objective", help="leave out class_balance, or use adam")  # fmt: skip
    size = sum(bundle.size for bundle in program.bundles)
    if optimiser.name == "newton" and size > MOST_NEWTON:
        findings.add("E516", optimiser.span, f"{size:,} parameters: a Hessian of {size * size:,} numbers", optimizer="newton",
                     problem=f"takes at most {MOST_NEWTON:,} parameters", help="use lbfgs or hessian_free")  # fmt: skip


def _lazy(program: Program, train: TrainParams) -> None:
    """Where every element has a gradient, or all are moved together, no row can be left alone."""
    optimiser: Bound | None = train.optimizer
    if optimiser is None:
        return  # refused, or not given
    for p in program.inference.trainable:
        if not p.lazy or program.frozen(p.name):
            continue
        if "solver" in optimiser.operation.facts:
            problem, label = f"is no word for {optimiser.name}", "it moves all parameters together"
        elif penalised(p, train):
            problem, label = "does not go with a penalty", "the penalty of the train section gives every row a gradient in every step"
        else:
            continue
        program.findings.add("E522", p.span, label, name=p.name, problem=problem, help="leave out lazy, or use weight_decay, which spares rows that rest")


def _export(program: Program) -> None:
    experiment, findings, train = program.experiment, program.findings, program.train
    outputs = {o.name for o in experiment.network.outputs} | (experiment.network.failed or set())
    predictions: dict[str, set[str]] = {}
    for term in train.loss if train is not None else ():
        prediction, target = term.term.operands
        predictions.setdefault(target.name, set()).add(prediction.name)
    certain = experiment.network.failed is not None and (experiment.train is None or "loss" not in experiment.train.failed)
    seen: set[str] = set()
    for reference in experiment.export.params.outputs:
        name = reference.name
        if name in seen:
            findings.add("E209", reference.span, "given before", name=name, help="name every output once")
        elif name not in outputs and name not in predictions and certain:
            findings.add("E602", reference.span, "neither an output nor a target of the loss", name=name, help=did_you_mean(name, [*outputs, *predictions]))
        elif name not in outputs and len(predictions.get(name, ())) > 1:
            found = sorted(predictions[name])
            findings.add("E606", reference.span, f"the loss pairs it with {' and '.join(found)}", name=name, help=f"export an output, such as {found[0]}")
        seen.add(name)
    if experiment.export.params.quantize is not None:
        sections = {"data": experiment.outline, "train": experiment.train}
        for missing in (name for name, section in sections.items() if section is None):
            findings.add("E622", experiment.export.at("quantize"), f"there is no {missing} section", help=f"add a {missing} section, or leave `quantize` out")
    file = experiment.export.params.file
    if Path(file).name != file or not file.endswith(".onnx") or "\0" in file or "\\" in file or file == ".onnx":
        findings.add("E603", experiment.export.at("file"), "written below the output directory", name=file, help='write a plain name such as "model.onnx"')
