"""The data section: its source, its names through columns and steps, its split. What steps give is found in prepare.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import syntax
from .declare import introduce
from .diagnostics import Findings, Refusal, did_you_mean
from .experiment import Augmentation, Data, DataName, DataStep, Outline
from .operation import Bound, Kind, Reference, find
from .ops.sources import text_params
from .resolve import Resolver
from .schema import ColumnSchema, Files, Schema, cut_at, separator_of
from .source import Span
from .values import Scope

_ALL = "*"  # stands for `columns(all, ...)` until the source's columns are known


class DataChecker:
    """Checks one data section. Its columns come from `schema` if that is known, else from the source under `files`; with
    neither, the section is checked as far as names and arguments go.
    """

    def __init__(self, lets: Scope, findings: Findings, files: Files | None, schema: Schema | None):
        self.lets, self.findings, self.files, self.schema = lets, findings, files, schema
        self.resolver = Resolver(findings)
        self.bases: set[str] = set()  # data names that other data names start from
        self.failed: set[str] = set()  # data names that were reported: what starts from them stays silent
        self.places: dict[str, dict[str, Span]] = {}  # of each column that a data name mentions

    def check(self, section: syntax.Section) -> tuple[Data | None, Outline]:
        before = len(self.findings.errors)
        entries = self._entries(section)
        source = self.resolver.call(Kind.SOURCE, entries.pop("source").value, self.lets) if "source" in entries else None
        split = self._split(entries.pop("split")) if "split" in entries else None
        augment = self._augment(entries.pop("augment")) if "augment" in entries else ()
        found: dict[str, DataName] = {}
        for name, entry in entries.items():
            feed = self._data_name(name, entry, found, [*entries])
            if feed is not None:
                found[name] = feed
            else:
                self.failed.add(name)
        stratify: Reference | None = getattr(split.params, "stratify", None) if split is not None else None
        if stratify is not None and stratify.name not in entries:
            self.findings.add("E201", stratify.span, "no data name", name=stratify.name, help=did_you_mean(stratify.name, entries))
        schema = self.schema or (self._schema(source) if source is not None else None)
        data = None
        if source is not None and schema is not None:
            resolved = {}
            for name, made in found.items():
                columns = self._columns(made, schema)
                if columns is not None:
                    resolved[name] = columns
                else:
                    self.failed.add(name)
            data = Data(source, resolved, split, schema, augment, self._further(split, resolved, schema, source))
            self._windows(data)
            self._balance(data)
            self._split_column(data)
        sound = len(self.findings.errors) == before
        return data, Outline(frozenset(entries), frozenset(self.failed), frozenset(self.bases), split, sound)

    def _further(self, split: Bound | None, names: dict[str, DataName], schema: Schema, source: Bound) -> dict[str, Schema]:
        """The schemas of the sources that a split names; E417 where they lack a column, or hold something else in it."""
        found: dict[str, Schema] = {}
        used = {column for name in names.values() for column in name.columns}
        for part, bound in (split.params.sources if split is not None and split.name == "files" else {}).items():
            other = self._schema(bound)
            if other is None:
                continue
            found[part] = other
            where = str(getattr(bound.params, "path", bound.name))
            for column in sorted(used):
                mine, its = schema.columns[column], other.columns.get(column)
                if its is None:
                    self.findings.add("E417", bound.span, f"it has no column `{column}`", path=where, help=did_you_mean(column, other.columns))
                    continue
                # A text file whose cells happen to be numbers holds text where the source does.
                as_text = mine.dtype == "string" and its.dtype == "float" and text_params(bound) is not None
                if not as_text and (mine.dtype, mine.shape) != (its.dtype, its.shape):
                    self.findings.add("E417", bound.span, f"`{column}` is {_spoken(its)}, in {source.name} it is {_spoken(mine)}", path=where,
                                      help="give a file like the one that trains")  # fmt: skip
        return found

    def _split_column(self, data: Data) -> None:
        """The column that decides about a row holds one number or text a row."""
        reference: Reference | None = data.split.params.column if data.split is not None else None
        if reference is None:
            return
        column = data.schema.columns.get(reference.name)
        if column is None:
            self.findings.add("E402", reference.span, "", column=reference.name, help=_way_out(reference.name, data.schema))
        elif column.shape not in ((), (1,)):
            self.findings.add("E416", reference.span, f"it holds {list(column.shape)} a row", column=reference.name, help="name a column with one value a row")

    def _balance(self, data: Data) -> None:
        """Rows are drawn by the classes of one data name."""
        paths = {s.path: d for d in data.names.values() for s in d.steps if "balance" in s.bound.operation.facts}
        for entry in [*paths.values()][1:]:
            self.findings.add("E413", entry.span, "the second one", step="class_balance", help="balance the classes of one data name")

    def _windows(self, data: Data) -> None:
        """Samples are windows everywhere or nowhere, they advance alike, and a random split does not share rows between parts."""
        used = {name: d for name, d in data.names.items() if name not in self.bases}
        windows = {name: d.window for name, d in used.items() if d.window is not None}
        if not windows:
            return
        first, window = next(iter(windows.items()))
        for name, other in used.items():
            if name not in windows or windows[name].stride != window.stride:
                label = f"it advances by {windows[name].stride}, `{first}` by {window.stride}" if name in windows else "rows, not windows"
                self.findings.add("E413", other.span, label, step="window", help=f"give it a window with stride={window.stride} as well")
        longest = max(w.length for w in windows.values())
        if data.split is not None and "drawn" in data.split.operation.facts and window.stride < longest:
            self.findings.add("E414", data.split.span, f"windows of {longest} rows advance by {window.stride}",
                              help="use ordered(...), or a stride as long as the windows")  # fmt: skip

    def _entries(self, section: syntax.Section) -> dict[str, syntax.Entry]:
        """The keys of the section, each once."""
        entries: dict[str, syntax.Entry] = {}
        for entry in section.entries:
            name = entry.name
            if not isinstance(entry, syntax.Entry):
                self.findings.add("E102", entry.span, "a key has a value", what="`in`", help=f"write {name.text} = ...")
            elif (name.text in ("source", "split", "augment") and name.text not in entries) or introduce(
                self.findings, name, "data name", {n: e.name.span for n, e in entries.items()}, self.lets
            ):
                entries[name.text] = entry
        if "source" not in {entry.name.text for entry in section.entries}:
            self.findings.add("E204", section.keyword.span, "give source: where rows come from", operation="data", argument="`source`",
                              help='write source = csv("file.csv")')  # fmt: skip
        return entries

    def _split(self, entry: syntax.Entry) -> Bound | None:
        split = self.resolver.call(Kind.SPLIT, entry.value, self.lets)
        if split is not None:
            guarded(self.findings, lambda: split.operation.function(split.params), split)
        return split

    def _augment(self, entry: syntax.Entry) -> tuple[Augmentation, ...]:
        """`[image -> shift(2) -> rotate(10), ...]`: pipes from a data name."""
        nodes = entry.value.items if isinstance(entry.value, syntax.List) else (entry.value,)
        found = []
        for node in nodes:
            if not isinstance(node, syntax.Pipe) or not isinstance(node.first, syntax.Name):
                word = node.name if isinstance(node, syntax.Call) else node
                known = isinstance(word, syntax.Name) and find(Kind.AUGMENTATION, word.text) is not None
                help = "put the input that it changes before it: [image -> ...]" if known else "write [image -> shift(2) -> rotate(10)]"
                self.findings.add("E206", node.span, argument="augment", expected="a list of pipes from data names", help=help)
                continue
            steps = [self.resolver.call(Kind.AUGMENTATION, stage, self.lets) for stage in node.stages]
            if None not in steps:
                found.append(Augmentation(node.first.text, tuple(s for s in steps if s is not None), node.first.span))
        return tuple(found)

    def _schema(self, source: Bound) -> Schema | None:
        files = self.files
        if files is None:
            return None
        path = "path" if "path" in source.spans else next(iter(source.spans), "")
        try:
            schema: Schema | None = guarded(self.findings, lambda: source.operation.function(source.params, files), source, path)
            return schema
        except OSError as error:
            self.findings.add("E410", source.spans.get(path, source.span), str(error.strerror), path=str(error.filename), help="check the file")
            return None

    # Data names

    def _data_name(self, name: str, entry: syntax.Entry, known: dict[str, DataName], everything: list[str]) -> DataName | None:
        """`column(...)` or an earlier data name, through steps."""
        value = entry.value
        first, stages = (value.first, value.stages) if isinstance(value, syntax.Pipe) else (value, ())
        start = self._start(name, first, known, everything)
        steps: list[DataStep] = list(start.steps) if start is not None else []
        counts: dict[str, int] = {}
        sound = start is not None
        for stage in stages:
            step = self.resolver.call(Kind.STEP, stage, self.lets)
            if step is None:
                sound = False
                continue
            count = counts[step.name] = counts.get(step.name, 0) + 1
            sound = self._in_order(step, steps) and sound
            steps.append(DataStep(step, f"{name}/{step.name}" + (f"_{count}" if count > 1 else "")))
        if start is None or not sound:
            return None
        return DataName(name, start.columns, start.single, tuple(steps), entry.name.span, start.column_span)

    def _in_order(self, step: Bound, before: list[DataStep]) -> bool:
        """One window at most, and whatever learns stands before it; what opens a data name stands nowhere else."""
        windowed = any("window" in s.bound.operation.facts for s in before)
        if any("balance" in s.bound.operation.facts for s in before):
            self.findings.add("E413", step.span, "class_balance stands before it", step=step.name, help="put class_balance last")
            return False
        if "starts_from" in step.operation.extra:
            self.findings.add("E413", step.span, "it stands first", step=step.name, help=f"write {step.name}() -> ...")
            return False
        if windowed and ("window" in step.operation.facts or step.operation.extra.get("learns")):
            what = "the second window" if "window" in step.operation.facts else "it learns from rows, and these are windows"
            help = "keep one" if "window" in step.operation.facts else f"put {step.name} before the window"
            self.findings.add("E413", step.span, what, step=step.name, help=help)
            return False
        return True

    def _start(self, name: str, first: syntax.Expression, known: dict[str, DataName], everything: list[str]) -> DataName | None:
        """What a data name starts from: columns, or a data name above."""
        if isinstance(first, syntax.Broken):
            return None
        word = first.name if isinstance(first, syntax.Call) else first
        if isinstance(first, syntax.Name) and find(Kind.COLUMN, first.text) is None:
            if first.text in self.failed:
                return None
            if first.text in known:
                self.bases.add(first.text)
                self.places[name] = self.places[first.text]
                return known[first.text]
            if first.text in everything:
                label, help = "it is not defined yet", f"put `{first.text}` above, or start with column(...)"
            else:
                label, help = "no data name", f"did you mean column({first.text})?"
            self.findings.add("E201", first.span, label, name=first.text, help=help)
            return None
        opening = find(Kind.STEP, word.text) if isinstance(word, syntax.Name) else None
        if opening is not None and "starts_from" in opening.extra:
            step = self.resolver.call(Kind.STEP, first, self.lets)
            if step is None:
                return None
            column = opening.extra["starts_from"]
            self.places[name] = {column: first.span}
            return DataName(name, (column,), True, (DataStep(step, f"{name}/{step.name}"),), first.span, first.span)
        bound = self.resolver.call(Kind.COLUMN, first, self.lets)
        if bound is None:
            return None
        columns = tuple(r.name for r in bound.operands)
        self.places[name] = {r.name: r.span for r in bound.operands}
        if bound.name == "column":
            return DataName(name, columns, True, (), first.span, first.span)
        left_out: tuple[Reference, ...] = bound.params.except_
        self.places[name] |= {r.name: r.span for r in left_out}
        everything_but = columns == ("all",)
        if left_out and not everything_but:
            self.findings.add("E204", bound.spans["except"], "it leaves columns out of `all`", operation="columns", argument="`all`",
                              help="write columns(all, except=[...]), or leave out the except")  # fmt: skip
            return None
        for index, reference in enumerate(bound.operands):
            if reference.name in columns[:index]:
                self.findings.add("E209", reference.span, "given before", name=reference.name, help="name every column once")
                return None
        return DataName(name, (_ALL, *(r.name for r in left_out)) if everything_but else columns, False, (), first.span, first.span)

    def _columns(self, data: DataName, schema: Schema) -> DataName | None:
        """The data name with `all` replaced by the source's columns; columns that do not fit are refused."""
        mentioned = chosen = data.columns
        if chosen[:1] == (_ALL,):
            mentioned = chosen[1:]
            fitting = (n for n, c in schema.columns.items() if c.dtype != "string" and c.shape in ((), (1,)) and c.classes is None)
            chosen = tuple(n for n in fitting if n not in mentioned)
        sound = True
        for name in mentioned:
            span = self.places[data.name].get(name, data.column_span)
            column = schema.columns.get(name)
            if column is None and name in schema.other:
                self.findings.add("E404", span, f"`{name}` holds {schema.other[name]}", step="column" if data.single else "columns",
                                  help="write it as columns of numbers or text")  # fmt: skip
                sound = False
            elif column is None:
                self.findings.add("E402", span, "", column=name, help=_way_out(name, schema))
                sound = False
            elif not data.single and name in chosen and column.dtype == "string":
                self.findings.add("E404", span, f"`{name}` holds text", step="columns", help=f"give it a data name of its own: column({name}) -> category")
                sound = False
            elif not data.single and name in chosen and column.shape not in ((), (1,)):
                self.findings.add("E404", span, f"`{name}` holds {list(column.shape)} a sample", step="columns",
                                  help=f"give it a data name of its own: column({name})")  # fmt: skip
                sound = False
        if sound and not chosen:
            self.findings.add("E402", data.column_span, "no number column is left", column="all", help="leave out fewer columns, or name them")
            sound = False
        return DataName(data.name, chosen, data.single, data.steps, data.span, data.column_span) if sound else None


def _way_out(column: str, schema: Schema) -> str:
    """What to write where the source has no such column."""
    separator = separator_of(column, schema.columns)
    return cut_at(separator) if separator is not None else did_you_mean(column, schema.columns)


def _spoken(column: ColumnSchema) -> str:
    return "text" if column.dtype == "string" else f"{column.dtype}{list(column.shape) if column.shape else ''}"


def guarded(findings: Findings, call: Callable[[], Any], bound: Bound, default: str = "") -> Any:
    """Run a function of an operation; a refusal is placed at the argument that it names."""
    try:
        return call()
    except Refusal as refusal:
        at = refusal.at if isinstance(refusal.at, str) else default
        findings.add_refusal(refusal, bound.spans.get(at, bound.span))
        return None
