"""A diagnostic is data: a code, a place, the facts at odds and one way out. Renderings are at the end.

The title of a code is written once, in codes.py; whoever finds a mistake adds the values of the title, the
label under the caret, the other places that matter, and the help.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from .codes import CODES
from .record import record
from .shown import plain
from .source import Source, Span


@record
class Note:
    """A second place that a diagnostic speaks of."""

    span: Span
    text: str


@record
class Diagnostic:
    code: str
    title: str
    span: Span | None = None
    label: str = ""
    notes: tuple[Note, ...] = ()
    help: str = ""
    source: Source | None = None

    @property
    def severity(self) -> str:
        return "advice" if self.code.startswith("W") else "error"


class SpecError(Exception):
    """The spec, its data or this machine were refused; `diagnostics` says why, each with its place and a way out."""

    def __init__(self, diagnostics: Iterable[Diagnostic]):
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n" + "\n".join(render_text(d) for d in self.diagnostics))


MAX_FOUND = 100  # what nobody reads is not worth finding: a file that is no spec at all


class Refusal(Exception):
    """One mistake, raised where it is noticed and placed by whoever knows the place.

    `at` is a span, or the name of the argument at fault, which the caller turns into the argument's span;
    `operand` is what to say where the first operand comes from.
    """

    def __init__(
        self,
        code: str,
        *,
        label: str = "",
        help: str = "",
        at: Span | str | None = None,
        notes: Iterable[Note] = (),
        operand: str = "",
        **values: object,
    ):
        self.code, self.label, self.help, self.at, self.values = code, label, help, at, values
        self.operand = operand
        self.notes = tuple(notes)
        super().__init__(CODES[code].title.format(**values))


def _short(text: str) -> str:
    """The text without the middle of what nobody reads to its end, such as a list of a thousand numbers."""
    return text if len(text) <= 200 else f"{text[:120]} ... {text[-20:]}"


class Findings:
    """Collects the diagnostics of one source, so that all independent mistakes are reported in one go."""

    def __init__(self, source: Source):
        self.source = source
        self.found: list[Diagnostic] = []
        self._seen: set[tuple[str, str, Span | None, str]] = set()

    def add(
        self,
        code: str,
        span: Span | None,
        label: str = "",
        *,
        help: str = "",
        notes: Iterable[Note] = (),
        **values: object,
    ) -> None:
        title, label = _short(CODES[code].title.format(**values)), _short(label)
        key = code, title, span, label
        if key in self._seen:  # a block that is used several times is wrong once
            return
        self._seen.add(key)
        self.found.append(Diagnostic(code, title, span, label, tuple(notes), help, self.source))
        if len(self._seen) >= MAX_FOUND:
            self.stop_on_errors()

    def note_since(self, start: int, note: Note) -> None:
        """Add a place to what was found after the first `start` findings."""
        for index in range(start, len(self.found)):
            found = self.found[index]
            if not found.notes:
                self.found[index] = replace(found, notes=(note,))

    def certainly_unused(self, name: str, mentions: Mapping[str, int]) -> bool:
        """Whether what found no use of a name can be trusted. Beside an error that is so only where nothing else mentions the
        name, nor an error takes it for what was meant.
        """
        return not self.errors or (mentions.get(name, 0) <= 1 and not any(f"`{name}`" in found.help for found in self.errors))

    def unreadable_in(self, span: Span) -> bool:
        """Whether something in the span could not be read, so that what is missing there may have been meant."""
        return any(found.code.startswith("E1") and found.span is not None and span.start <= found.span.start < span.end for found in self.found)

    def add_refusal(self, refusal: Refusal, span: Span | None, notes: Iterable[Note] = ()) -> None:
        """Record a refusal at its own span if it has one, else at the given one."""
        at = refusal.at if isinstance(refusal.at, Span) else span
        self.add(
            refusal.code, at, refusal.label, help=refusal.help, notes=(*refusal.notes, *notes), **refusal.values
        )

    @property
    def errors(self) -> list[Diagnostic]:
        return [d for d in self.found if d.severity == "error"]

    @property
    def advice(self) -> list[Diagnostic]:
        return [d for d in self.found if d.severity == "advice"]

    def stop_on_errors(self) -> None:
        if self.errors:
            raise SpecError(sorted(self.errors, key=lambda d: (d.span or Span(0, 0)).start))


# What other libraries call it.
_ELSEWHERE = {
    "learning_rate": "lr", "filters": "channels", "out_channels": "channels", "kernel_size": "kernel", "pool_size": "window", "out_features": "units",
    "batch_size": "batch", "num_epochs": "epochs", "max_epochs": "epochs", "p": "rate", "acc": "accuracy", "wd": "weight_decay", "bce": "binary_cross_entropy",
    "binary_crossentropy": "binary_cross_entropy", "categorical_crossentropy": "cross_entropy", "sparse_categorical_crossentropy": "cross_entropy",
    "nll": "cross_entropy", "fc": "dense", "linear": "dense", "conv": "conv2d", "normalize": "standardize", "use_bias": "bias", "momentum": "beta",
    "sgdm": "momentum", "kernel_initializer": "init", "bias_initializer": "bias_init", "kernel_regularizer": "penalty", "callbacks": "stop",
}  # fmt: skip


def suggestion(name: str, known: Iterable[str]) -> str:
    """The closest known word to a misspelt one, or to what another library calls it, or the empty string."""
    from difflib import get_close_matches

    known = list(known)
    meant = _ELSEWHERE.get(name.lower(), "")
    if meant in known:
        return meant
    matches = get_close_matches(name, known, n=1, cutoff=0.65)
    return matches[0] if matches else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A help line: the close name if there is one, else the whole choice when it is short."""
    known = sorted(set(known))
    close = suggestion(name, known)
    if close:
        return f"did you mean `{close}`?"
    if not known:
        return "there is nothing to choose from here"
    if len(known) == 1:
        return f"there is only `{known[0]}`"
    shown = known if len(known) <= 12 else [*known[:12], "..."]
    return "choose one of " + ", ".join(shown)


# Renderings


def _blank(text: str) -> str:
    """White space as wide as the text stands on a terminal."""
    from unicodedata import combining, east_asian_width

    return "".join(c if c == "\t" else "" if combining(c) else "  " if east_asian_width(c) in "WF" else " " for c in text)


def render_text(diagnostic: Diagnostic) -> str:
    """The layout for a terminal: title, place, line with carets, other places, help."""
    lines = [f"{diagnostic.severity}[{diagnostic.code}]: {plain(diagnostic.title)}"]
    source = diagnostic.source
    if source is not None and diagnostic.span is not None:
        places = [(diagnostic.span, diagnostic.label, "^")]
        places += [(note.span, note.text, "-") for note in diagnostic.notes]
        width = max(2, *(len(str(source.location(span.start)[0])) for span, _, _ in places))
        bar = " " * (width + 1) + "|"
        for index, (span, label, mark) in enumerate(places):
            line, column = source.location(span.start)
            text = source.line(line)
            arrow = "-->" if index == 0 else ":::"
            length = max(1, min(span.end - span.start, len(text) - column + 1))
            prefix, marked = _blank(text[: column - 1]), len(_blank(text[column - 1 : column - 1 + length]))
            if index:
                lines.append(bar)
            lines.append(f"{' ' * width}{arrow} {source.name}:{line}:{column}")
            lines.append(bar)
            lines.append(f"{line:>{width}} | {plain(text)}".rstrip())
            lines.append(f"{bar} {prefix}{mark * max(1, marked)} {plain(label)}".rstrip())
        indent = " " * (width + 1)
    else:
        if diagnostic.label:
            lines.append(f"  {plain(diagnostic.label)}")
        indent = "  "
    if diagnostic.help:
        lines.append(f"{indent}= help: {plain(diagnostic.help)}")
    return "\n".join(lines)


def as_dict(diagnostic: Diagnostic) -> dict[str, Any]:
    """The diagnostic for `--format json`; lines and columns count from 1, an end column is exclusive."""

    def place(span: Span) -> dict[str, Any]:
        assert diagnostic.source is not None
        line, column = diagnostic.source.location(span.start)
        end_line, end_column = diagnostic.source.location(span.end)
        return {
            "file": diagnostic.source.name,
            "line": line,
            "column": column,
            "end_line": end_line,
            "end_column": end_column,
        }

    located = diagnostic.span is not None and diagnostic.source is not None
    return {
        "severity": diagnostic.severity,
        "code": diagnostic.code,
        "title": diagnostic.title,
        "place": place(diagnostic.span) if located and diagnostic.span else None,
        "label": diagnostic.label,
        "notes": [{"place": place(n.span), "text": n.text} for n in diagnostic.notes] if located else [],
        "help": diagnostic.help,
    }


def render_json(diagnostics: Iterable[Diagnostic]) -> str:
    return json.dumps([as_dict(d) for d in diagnostics], indent=2)


def render_github(diagnostic: Diagnostic) -> str:
    """One workflow command per diagnostic, which GitHub shows beside the line."""

    def escape(text: str, *more: str) -> str:
        for character in ("%", "\r", "\n", *more):
            text = text.replace(character, f"%{ord(character):02X}")
        return text

    level = "error" if diagnostic.severity == "error" else "notice"
    where = ""
    if diagnostic.source is not None and diagnostic.span is not None:
        line, column = diagnostic.source.location(diagnostic.span.start)
        where = f"file={escape(diagnostic.source.name, ':', ',')},line={line},col={column},"
    message = ". ".join(part for part in (diagnostic.title, diagnostic.label, diagnostic.help) if part)
    return f"::{level} {where}title={diagnostic.code}::{escape(message)}"
