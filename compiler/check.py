"""AST -> checked model: names, arguments and the rule that nothing is ignored. Shapes come in lower.py.

A part that was refused is left out or marked, and nothing that depends on it is reported; everything else goes on, so that
all independent mistakes of a file come out in one go.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from . import ops, syntax
from .constants import LARGEST
from .data_section import DataChecker, guarded
from .declare import constant, introduce_let
from .diagnostics import Findings, did_you_mean, suggestion
from .experiment import Experiment, ExportParams, Network, Outline, Section, TrainParams
from .network import NetworkChecker
from .operation import Clock, Kind, Operation
from .parse import parse_expression
from .resolve import Resolver
from .schema import Files, Schema
from .source import Source, Span
from .values import UNKNOWN, Given, Scope

assert ops.__all__  # the table is filled by importing the families

_TRAIN = Operation("train", Kind.GOAL, TrainParams, lambda: None)
_EXPORT = Operation("export", Kind.GOAL, ExportParams, lambda: None)
_PLACEHOLDERS: dict[str, Any] = {"loss": (), "optimizer": None, "batch": 1, "epochs": 1}  # for keys that were refused
_FIRST = Span(0, 1)


class Checker:
    """Checks one file; data_section.py says where the columns come from."""

    def __init__(
        self, source: Source, file: syntax.File, findings: Findings, files: Files | None, schema: Schema | None, overrides: Mapping[str, Any]
    ):
        self.source, self.file, self.findings = source, file, findings
        self.resolver = Resolver(findings)
        self.lets = Scope(dict.fromkeys(file.broken, UNKNOWN))
        self.data = DataChecker(self.lets, findings, files, schema)
        self.overrides = dict(overrides)
        self._lets(overrides)

    def check(self) -> Experiment | None:
        """What could be understood; None where there is no network to speak of."""
        checker = NetworkChecker(self.file, self.lets, self.findings)
        network = None
        if not self.file.networks and not self.findings.errors:
            self.findings.add("E110", _FIRST, "a file describes one network", what="no network", help="write network(x: float32[4]) { ... }")
        for index, section in enumerate(self.file.networks):
            if index:
                keyword = Span(section.span.start, section.span.start + len("network"))
                self.findings.add("E110", keyword, "the second one", what="two networks", help="keep one; use blocks for parts")
                break
            network = checker.check(section)
        sections = self._sections()
        data, outline = self.data.check(sections["data"]) if "data" in sections else (None, None)
        train = self._section(sections.get("train"), _TRAIN)
        if train is not None:
            self._schedule(train)
        export = self._section(sections.get("export"), _EXPORT)
        assert export is not None
        if "tune" in sections:
            self.train_missing = "train" not in sections
            self._tune(sections["tune"])
        if network is not None or self.file.networks == ():
            checker.report_unused_blocks()
            for let in self.file.lets:
                if let.name.text not in self.lets.used and self._certainly_unused(let.name.text):
                    self.findings.add("E212", let.name.span, name=let.name.text, help="use it, or remove it")
        if network is None:
            return None
        self._loss_names(network, train, outline)
        if outline is not None:
            self._data_names(network, train, outline, {e.name.text: e.name.span for e in sections["data"].entries})
        return Experiment(self.source, network, data, train, export, outline, self.overrides)

    def _sections(self) -> dict[str, syntax.Section]:
        sections: dict[str, syntax.Section] = {}
        for part in self.file.sections:
            keyword = part.keyword.text
            if keyword in sections:
                self.findings.add("E110", part.keyword.span, "the second one", what=f"two `{keyword}` sections", help="join them")
            sections.setdefault(keyword, part)
        return sections

    def _certainly_unused(self, name: str) -> bool:
        return self.findings.certainly_unused(name, self.file.mentions)

    # let

    def _lets(self, overrides: Mapping[str, Any]) -> None:
        known = self.lets.places
        for let in self.file.lets:
            name = let.name.text
            if isinstance(let.value, syntax.Pipe):
                self.findings.add("E227", let.value.span, "a `let` is a constant", found="a pipe", help="write it where it is used")
                value: Any = UNKNOWN
            else:
                value = constant(self.findings, let.value, self.resolver.evaluate(let.value, self.lets), self.lets, (b.name.text for b in self.file.blocks))
            if name in overrides:
                value = self._override(name, overrides[name], let)
            if introduce_let(self.findings, let.name, value, known):
                self.lets.bindings[name] = value
            known.setdefault(name, let.name.span)
        for name in overrides:
            if name not in known and name not in self.file.broken:
                self.findings.add("E220", None, name=name, help=did_you_mean(name, known) if known else "the file has no `let`")

    def _override(self, name: str, given: Any, let: syntax.Let) -> Any:
        """The value of --set, written in the language, or given from Python."""
        if isinstance(given, str):
            text = Source(f"--set {name}", given)
            findings = Findings(text)
            node = parse_expression(text, findings)
            value: Any = UNKNOWN if node is None else Resolver(findings).evaluate(node, Scope())
            if node is not None:
                value = constant(findings, node, value, Scope(), ())
            self.findings.found += findings.found
            return value
        if isinstance(given, bool | int | float) and _is_usable(given):
            return given
        if isinstance(given, list | tuple) and all(isinstance(v, bool | int | float) and _is_usable(v) for v in given):
            return tuple(given)
        self.findings.add("E206", let.name.span, f"this is {type(given).__name__}", argument=f"`{name}`",
                          expected="a finite number, true or false, a list of them, or text in the language",
                          help=f"give {name}=64, or write the value as in the file: {name}=\"64\"")  # fmt: skip
        return UNKNOWN

    # Sections that are parameter models

    def _section(self, section: syntax.Section | None, operation: Operation) -> Section | None:
        """The keys of a section; those that were refused hold placeholders."""
        if section is None:
            return Section(operation.params(), {}, _FIRST) if operation is _EXPORT else None
        given = []
        for entry in section.entries:
            if not isinstance(entry, syntax.Entry):
                self.findings.add("E102", entry.span, "a key has a value", what="`in`", help=f"write {entry.name.text} = ...")
            else:
                given.append(Given(entry.name, self.resolver.evaluate(entry.value, self.lets), entry.value.span, entry.value))
        values, spans, failed = self.resolver.bind_section(operation, section.keyword.span, given)
        batch = values.get("batch", 1)
        if isinstance(batch, int) and batch < 1:
            self.findings.add("E207", spans["batch"], "samples in a step", argument="batch", value=str(batch), bound="at least 1",
                              help="use batch = 32, or `full` for all rows")  # fmt: skip
            values["batch"], failed = 1, failed | {"batch"}
        if not failed and len(values) == len(spans):
            return Section(operation.params(**values), spans, section.keyword.span)
        kept = {name: value for name, value in _PLACEHOLDERS.items() if operation is _TRAIN} | values
        return Section(operation.params.model_construct(**kept), spans, section.keyword.span, failed)

    def _schedule(self, train: Section) -> None:
        """Nothing stands behind a stage that covers all that remains."""
        before = ""
        for bound in train.params.schedule:
            if before:
                self.findings.add("E215", bound.span, f"`{before}` covers all that remains", name=f"`{bound.name}`", problem="is never reached",
                                  help=f"leave it out, or put it before `{before}`")  # fmt: skip
                break
            stage = guarded(self.findings, partial(bound.operation.function, bound.params, 1.0, Clock(1, 1)), bound)
            if stage is None:
                break
            if stage.steps is None:
                before = bound.name

    def _tune(self, section: syntax.Section) -> None:
        """Names that are searched are `let`s, each with a domain; the figure that is compared, and how the search goes."""
        kinds = {"objective": Kind.OBJECTIVE, "search": Kind.SEARCH}
        seen: dict[str, Any] = {}
        for entry in section.entries:
            name = entry.name
            if name.text in seen:
                self.findings.add("E209", name.span, "given before", name=name.text, help="keep one of them")
            seen[name.text] = entry
            if isinstance(entry, syntax.Choice):
                if self.lets.find(name.text) is None:
                    self.findings.add("E201", name.span, "`tune` searches over `let`s", name=name.text, help=did_you_mean(name.text, self.lets.bindings))
                self._domain(entry.domain)
            elif name.text not in kinds:
                self.findings.add("E203", name.span, "", name=name.text, operation="tune", thing="key", help=did_you_mean(name.text, kinds))
            else:
                self.resolver.call(kinds[name.text], entry.value, self.lets)
        if "objective" not in seen:
            self.findings.add("E204", section.keyword.span, "give objective: the figure that trials are compared by", operation="tune", argument="objective",
                              help="write objective = minimize(val.loss)")  # fmt: skip
        if self.train_missing:
            self.findings.add("E514", section.keyword.span, "a search compares trainings", missing="train", help="write train { ... }")

    def _domain(self, node: syntax.Expression) -> None:
        """A list of values, or a range."""
        if isinstance(node, syntax.List):
            self.resolver.evaluate(node, self.lets)
            return
        bound = self.resolver.call(Kind.DOMAIN, node, self.lets)
        if bound is not None:
            guarded(self.findings, partial(bound.operation.function, bound.params), bound)

    # What the sections say about each other

    def _loss_names(self, network: Network, train: Section | None, outline: Outline | None) -> None:
        """Losses and metrics name outputs, and data names where there are any."""
        if train is None:
            return
        outputs = None if network.failed is None else {o.name for o in network.outputs} | network.failed
        statements = {n.text for s in self.file.networks[0].body if isinstance(s, syntax.Assignment) for n in s.names}
        pairs = [t.term for t in train.params.loss] + [bound for bound in train.params.metrics if bound.operands]
        for bound in pairs:
            prediction, target = bound.operands
            swapped = outputs is not None and target.name in outputs and (outline is None or prediction.name in outline.names)
            if outputs is not None and prediction.name not in outputs:
                help = did_you_mean(prediction.name, outputs)
                if swapped:
                    help = f"the prediction comes first: {bound.name}({target.name}, {prediction.name})"
                elif prediction.name in statements:
                    help = f"name it in the return: return {prediction.name} = ..., or did you mean {', '.join(sorted(outputs))}?"
                self.findings.add("E501", prediction.span, "no output of the network", what="output", name=prediction.name, help=help)
                if swapped:
                    continue
            if outline is not None and target.name not in outline.names:
                self.findings.add("E501", target.span, "no name of the data section", what="data name", name=target.name,
                                  help=did_you_mean(target.name, outline.names))  # fmt: skip
        self._weight_names(network, train.params, outputs or set(), outline)

    def _weight_names(self, network: Network, train: TrainParams, outputs: Set[str], outline: Outline | None) -> None:
        """Sample weights are a data name of their own: rows that are predicted have none, and nothing changes them on the way."""
        others = {i.name: "an input of the network" for i in network.inputs}
        others |= dict.fromkeys(outputs, "an output of the network") | {t.term.operands[1].name: "a target of the loss" for t in train.loss}
        for weights in train.sample_weights():
            if weights.name in others:
                self.findings.add("E517", weights.span, name=weights.name, what=others[weights.name],
                                  help="give the weights a data name of their own, such as w = column(...)")  # fmt: skip
            elif outline is not None and weights.name not in outline.names:
                self.findings.add("E501", weights.span, "no name of the data section", what="data name", name=weights.name,
                                  help=did_you_mean(weights.name, outline.names))  # fmt: skip

    def _data_names(self, network: Network, train: Section | None, outline: Outline, places: Mapping[str, Span]) -> None:
        """Every data name is used; every input is fed; an output and a data name differ."""
        used = {i.name.text for i in self.file.networks[0].inputs} | outline.bases
        for term in train.params.loss if train else ():
            used.add(term.term.operands[1].name)
        used |= {weights.name for weights in train.params.sample_weights()} if train else set()
        for bound in train.params.metrics if train else ():
            used |= {r.name for r in bound.operands[1:]}
        if outline.split is not None and getattr(outline.split.params, "stratify", None) is not None:
            used.add(outline.split.params.stratify.name)
        known = (train is None and "train" not in self.file.broken) or (train is not None and "loss" not in train.failed)
        unfed = {i.name: i.span for i in network.inputs if i.name not in outline.names}
        for name in sorted(outline.names - used - outline.failed):
            close = suggestion(name, unfed)
            if close:
                unfed.pop(close)
            if close or (known and self._certainly_unused(name)):
                self.findings.add("E214", places[name], "feeds no input and no loss", name=name,
                                  help=f"did you mean `{close}`?" if close else "use it in the network or the loss, or remove it")  # fmt: skip
        for name in sorted(outline.names):
            if network.output(name) is not None or name in (network.failed or ()):
                self.findings.add("E210", places[name], "an output of the network has this name", name=name, what="an output",
                                  help=f"call one of them `{name}_`")  # fmt: skip
        for name, span in unfed.items():
            self.findings.add("E215", span, name=f"`{name}`", problem="is fed by no data name", help=f"write {name} = column(...) in the data section")


def _is_usable(number: float) -> bool:
    return abs(number) <= LARGEST if isinstance(number, int) else isfinite(number) and abs(number) <= LARGEST


def check(
    source: Source,
    file: syntax.File,
    findings: Findings,
    root: Path | None,
    overrides: Mapping[str, Any] | None = None,
    schema: Schema | None = None,
) -> Experiment | None:
    """What could be understood of a parsed file, with the reasons for the rest in the findings."""
    files = Files(root) if root is not None else None
    return Checker(source, file, findings, files, schema, overrides or {}).check()
