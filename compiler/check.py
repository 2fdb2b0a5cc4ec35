"""AST -> checked model: names, arguments and the rule that nothing is ignored. Shapes come in lower.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import ops, syntax
from .diagnostics import Findings, Refusal, did_you_mean
from .experiment import Data, DataName, DataStep, Experiment, ExportParams, Network, Section, TrainParams
from .network import NetworkChecker
from .operation import Bound, Kind, Operation, Reference, find
from .ops.planned import PLANNED, PLANNED_KEYS
from .parse import parse_expression
from .resolve import UNKNOWN, Deferred, Given, Resolver, Scope
from .schema import Files, Schema
from .source import Source, Span

assert ops.__all__  # the table is filled by importing the families

_TRAIN = Operation("train", Kind.GOAL, TrainParams, lambda: None)
_EXPORT = Operation("export", Kind.GOAL, ExportParams, lambda: None)
_WORD_VALUES = ("same", "valid", "mean", "median", "all", "full", "none")


class Checker:
    """Checks one file. Its columns come from `schema` if that is known, else from the source under `files`; with neither, the
    data section is checked as far as names and arguments go (`--no-data`).
    """

    def __init__(
        self, source: Source, file: syntax.File, findings: Findings, files: Files | None, schema: Schema | None, overrides: Mapping[str, Any]
    ):
        self.source, self.file, self.findings, self.files, self.schema = source, file, findings, files, schema
        self.resolver = Resolver(findings)
        self.lets = Scope()
        self.bases: set[str] = set()  # data names that other data names start from
        self.failed: set[str] = set()  # data names that were reported: what starts from them stays silent
        self.overrides = dict(overrides)
        self._lets(overrides)

    def check(self) -> Experiment | None:
        """The checked model; None where what was found leaves none."""
        checker = NetworkChecker(self.file.blocks, self.lets, self.findings)
        network = None
        if not self.file.networks and not self.findings.errors:
            self.findings.add("E110", Span(0, 1), "a file describes one network", what="no network", help="write network(x: float32[4]) { ... }")
        for index, section in enumerate(self.file.networks):
            if index:
                self.findings.add("E110", section.span, "the second one", what="two networks", help="keep one; use blocks for parts")
                break
            network = checker.check(section)
        sections: dict[str, syntax.Section] = {}
        for part in self.file.sections:
            keyword = part.keyword.text
            if keyword in sections:
                self.findings.add("E110", part.keyword.span, "the second one", what=f"two `{keyword}` sections", help="join them")
            sections.setdefault(keyword, part)
        data = self._data(sections["data"], network) if "data" in sections else None
        train = self._section(sections.get("train"), _TRAIN)
        export = self._section(sections.get("export"), _EXPORT)
        if "tune" in sections:
            self._tune(sections["tune"])
        if network is not None and not self.findings.errors:
            checker.report_unused_blocks()
            for let in self.file.lets:
                if let.name.text not in self.lets.used:
                    self.findings.add("E212", let.name.span, name=let.name.text, help="use it, or remove it")
        if network is None or self.findings.errors:
            return None
        assert export is not None
        if data is not None:
            self._names_agree(network, data, train)
        return Experiment(self.source, network, data, train, export, self.overrides)

    # let

    def _lets(self, overrides: Mapping[str, Any]) -> None:
        values: dict[str, Any] = {}
        for let in self.file.lets:
            name = let.name.text
            if name in values:
                self.findings.add("E209", let.name.span, "given before", name=name, help="choose another name")
            if name in _WORD_VALUES:
                self.findings.add("E210", let.name.span, "a `let` may not be called like a word that is a value", name=name,
                                  what="a word that is a value", help="choose another name")  # fmt: skip
            if isinstance(let.value, syntax.Pipe):
                self.findings.add("E227", let.value.span, "a `let` is a constant", found="a tensor", help="write the statement in the network")
                values[name] = UNKNOWN
            else:
                values[name] = self.resolver.evaluate(let.value, self.lets)
            if name in overrides:
                values[name] = self._override(name, overrides[name], let)
            self.lets.bindings[name] = values[name]
        for name in overrides:
            if name not in values:
                self.findings.add("E220", None, name=name, help=did_you_mean(name, values))

    def _override(self, name: str, given: Any, let: syntax.Let) -> Any:
        """The value of --set, written in the language, or given from Python."""
        if isinstance(given, str):
            text = Source(f"--set {name}", given)
            findings = Findings(text)
            node = parse_expression(text, findings)
            value = UNKNOWN if node is None else Resolver(findings).evaluate(node, Scope())
            self.findings.found += findings.found
            return value
        if isinstance(given, bool | int | float):
            return given
        if isinstance(given, list | tuple) and all(isinstance(v, bool | int | float) for v in given):
            return tuple(given)
        self.findings.add("E206", let.name.span, argument=name, expected="a number, a word, a string or a list of numbers",
                          help=f"this is {type(given).__name__}")  # fmt: skip
        return UNKNOWN

    # Sections that are parameter models

    def _section(self, section: syntax.Section | None, operation: Operation) -> Section | None:
        if section is None:
            return Section(operation.params(), {}, Span(0, 1)) if operation is _EXPORT else None
        given = []
        for entry in section.entries:
            if not isinstance(entry, syntax.Entry):
                self.findings.add("E102", entry.span, "a key has a value", what="`in`", help=f"write {entry.name.text} = ...")
                continue
            if entry.name.text in PLANNED_KEYS.get(operation.name, ()):
                self.findings.add("E217", entry.name.span, help="leave it out", what=f"the key `{entry.name.text}` of {operation.name}")
                continue
            given.append(Given(entry.name, self.resolver.evaluate(entry.value, self.lets), entry.value.span))
        bound = self.resolver.bind(operation, section.keyword.span, given)
        if bound is None:
            return None
        if operation is _TRAIN and bound.params.batch != "full" and bound.params.batch < 1:
            self.findings.add("E207", bound.spans["batch"], argument="batch", value=str(bound.params.batch), bound="at least 1", help="use `full` for all rows")
        return Section(bound.params, bound.spans, section.keyword.span)

    def _tune(self, section: syntax.Section) -> None:
        """Check the names that are searched; the search itself comes in a later version, and only `nnc tune` needs it."""
        for entry in section.entries:
            if isinstance(entry, syntax.Choice):
                if entry.name.text not in self.lets.bindings:
                    self.findings.add("E201", entry.name.span, "`tune` searches over `let`s", name=entry.name.text,
                                      help=did_you_mean(entry.name.text, self.lets.bindings))  # fmt: skip
            elif entry.name.text not in ("objective", "search"):
                self.findings.add("E203", entry.name.span, "no key of tune", name=entry.name.text, operation="tune",
                                  help=did_you_mean(entry.name.text, ("objective", "search")))  # fmt: skip
        self.findings.add("E217", section.keyword.span, "this section", what="`tune`", help="leave the section out and set the constants yourself")

    # data

    def _data(self, section: syntax.Section, network: Network | None) -> Data | None:
        source: Bound | None = None
        split: Bound | None = None
        entries: dict[str, syntax.Entry] = {}
        named = {entry.name.text for entry in section.entries}
        for entry in section.entries:
            name = entry.name
            if not isinstance(entry, syntax.Entry):
                self.findings.add("E102", entry.span, "a key has a value", what="`in`", help=f"write {name.text} = ...")
            elif name.text in entries:
                self.findings.add("E209", name.span, "given before", name=name.text, help="choose another name")
            elif name.text in PLANNED_KEYS["data"]:
                self.findings.add("E217", name.span, help="leave it out", what=f"the key `{name.text}` of data")
            else:
                entries[name.text] = entry
        if "source" not in named:
            self.findings.add("E204", section.keyword.span, "give source: where rows come from", operation="data", argument="source",
                              help='write source = csv("file.csv")')  # fmt: skip
        elif "source" in entries:
            source = self.resolver.call(Kind.SOURCE, entries.pop("source").value, self.lets)
        if "split" in entries:
            split = self.resolver.call(Kind.SPLIT, entries.pop("split").value, self.lets)
            if split is not None:
                self._guard(lambda: split.operation.function(split.params), split)
        found: dict[str, DataName] = {}
        for name, entry in entries.items():
            made = self._data_name(name, entry, found)
            if made is not None:
                found[name] = made
            else:
                self.failed.add(name)
        if source is None or len(found) < len(entries):
            return None
        schema = self.schema or self._schema(source)
        if schema is None:
            return None
        if split is not None and getattr(split.params, "stratify", None) is not None:
            stratify = split.params.stratify
            if stratify.name not in found:
                self.findings.add("E201", stratify.span, "no data name", name=stratify.name, help=did_you_mean(stratify.name, found))
        resolved = {n: d for n, d in ((n, self._columns(d, schema)) for n, d in found.items()) if d is not None}
        if len(resolved) < len(found):
            return None
        return Data(source, resolved, split, schema)

    def _guard(self, call: Any, bound: Bound) -> Any:
        """Run a function of an operation; a refusal is placed at the argument that it names."""
        try:
            return call()
        except Refusal as refusal:
            at = bound.spans.get(refusal.at, bound.span) if isinstance(refusal.at, str) else bound.span
            self.findings.add_refusal(refusal, at)
            return None

    def _schema(self, source: Bound) -> Schema | None:
        if self.files is None:
            return None
        path = "path" if "path" in source.spans else next(iter(source.spans), "")
        schema: Schema | None = None
        try:
            schema = source.operation.function(source.params, self.files)
        except Refusal as refusal:
            at = source.spans.get(refusal.at if isinstance(refusal.at, str) else path, source.span)
            self.findings.add_refusal(refusal, at)
        except OSError as error:
            self.findings.add("E410", source.spans.get(path, source.span), str(error.strerror), path=str(error.filename), help="check the file")
        return schema

    def _data_name(self, name: str, entry: syntax.Entry, known: dict[str, DataName]) -> DataName | None:
        """`column(...)` or an earlier data name, through steps."""
        span = entry.name.span
        if find(Kind.STEP, name) or name in PLANNED[Kind.STEP] or find(Kind.COLUMN, name):
            self.findings.add("E210", span, "a data name may not be called like a data step", name=name, what="a data step", help="choose another name")
            return None
        value = entry.value
        first, stages = (value.first, value.stages) if isinstance(value, syntax.Pipe) else (value, ())
        columns: tuple[str, ...] = ()
        single, steps = True, []
        column_span = first.span
        if isinstance(first, syntax.Name):
            if first.text in self.failed:
                return None
            if first.text not in known:
                planned = first.text in PLANNED[Kind.STEP]
                help = did_you_mean(first.text, known) if known else "start with column(name)"
                if planned:
                    self.findings.add("E217", first.span, help="leave it out", what=f"the data step `{first.text}`")
                else:
                    self.findings.add("E201", first.span, "no data name above", name=first.text, help=help)
                return None
            base = known[first.text]
            self.bases.add(first.text)
            columns, single, column_span = base.columns, base.single, base.column_span
            steps += base.steps
        elif isinstance(first, syntax.Call) and first.name.text in PLANNED[Kind.STEP]:
            self.findings.add("E217", first.name.span, help="leave it out", what=f"the data step `{first.name.text}`")
            return None
        else:
            bound = self.resolver.call(Kind.COLUMN, first, self.lets)
            if bound is None:
                return None
            columns, single = tuple(r.name for r in bound.operands), bound.name == "column"
            if not single:
                columns = self._selection(bound)
        counts: dict[str, int] = {}
        for stage in stages:
            step = self.resolver.call(Kind.STEP, stage, self.lets)
            if step is None:
                return None
            count = counts[step.name] = counts.get(step.name, 0) + 1
            steps.append(DataStep(step, f"{name}/{step.name}" + (f"_{count}" if count > 1 else "")))
        return DataName(name, columns, single, tuple(steps), span, column_span)

    @staticmethod
    def _selection(bound: Bound) -> tuple[str, ...]:
        """`columns(a, b)` as it stands; `columns(all, except=[c])` marked with a leading `*`."""
        left_out: tuple[Reference, ...] = bound.params.except_
        if [r.name for r in bound.operands] == ["all"]:
            return ("*", *(r.name for r in left_out))
        return tuple(r.name for r in bound.operands)

    def _columns(self, data: DataName, schema: Schema) -> DataName | None:
        """The data name with `all` replaced by the source's columns; unknown columns are refused."""
        chosen = data.columns
        if chosen[:1] == ("*",):
            wanted = chosen[1:]
            chosen = tuple(n for n, c in schema.columns.items() if c.dtype != "string" and c.shape in ((), (1,)) and n not in wanted)
        else:
            wanted = chosen
        sound = True
        for name in wanted:
            if name not in schema.columns:
                self.findings.add("E402", data.column_span, f"no column `{name}`", column=name, help=did_you_mean(name, schema.columns))
                sound = False
            elif not data.single and schema.columns[name].dtype == "string" and name in chosen:
                self.findings.add("E404", data.column_span, f"`{name}` holds text", step="columns", help=f"give it a data name of its own: column({name}) -> category")
                sound = False
        if sound and not chosen:
            self.findings.add("E402", data.column_span, "no number column is left", column="all", help="name the columns")
            sound = False
        return DataName(data.name, chosen, data.single, data.steps, data.span, data.column_span) if sound else None

    def _names_agree(self, network: Network, data: Data, train: Section | None) -> None:
        """Every data name is used; every input is fed; an output and a data name differ."""
        used = {i.name for i in network.inputs}
        for term in train.params.loss if train else ():
            used.add(term.term.operands[1].name)
        for bound in train.params.metrics if train else ():
            used |= {r.name for r in bound.operands[1:]}
        if data.split is not None and getattr(data.split.params, "stratify", None) is not None:
            used.add(data.split.params.stratify.name)
        for name, entry in data.names.items():
            if name not in used and name not in self.bases:
                wanted = [i.name for i in network.inputs if i.name not in data.names]
                help = did_you_mean(name, wanted) if wanted else "use it in the network or the loss, or remove it"
                self.findings.add("E214", entry.span, "feeds no input and no loss", name=name, help=help)
            output = network.output(name)
            if output is not None:
                self.findings.add("E209", entry.span, "an output of the network has this name", name=name, help="choose another name")
        for given in network.inputs:
            if given.name not in data.names:
                self.findings.add("E215", given.span, name=f"`{given.name}`", problem="is fed by no data name",
                                  help=f"write {given.name} = column(...) in the data section")  # fmt: skip


def check(
    source: Source,
    file: syntax.File,
    findings: Findings,
    root: Path | None,
    overrides: Mapping[str, Any] | None = None,
    schema: Schema | None = None,
) -> Experiment | None:
    """The checked model of a parsed file, or None with the reasons in the findings."""
    files = Files(root) if root is not None else None
    return Checker(source, file, findings, files, schema, overrides or {}).check()
