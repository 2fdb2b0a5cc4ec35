"""Arguments: from expressions to the validated parameters of an operation.

The field of a parameter model says how an argument is read: as a number, a word, a name, or as operations of a kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from . import syntax
from .constants import Constants
from .diagnostics import Note, did_you_mean, suggestion
from .fields import Reading, argument_fields, reading_of
from .operation import Bound, Kind, Of, Operation, Reference, Refers, Weighted, find, names
from .source import Span
from .values import UNKNOWN, Deferred, Given, Incomplete, Quoted, Scope, Tensors, a, shown

_SECTIONS = frozenset(("train", "export"))


class Resolver(Constants):
    """Binds arguments, collecting what is wrong."""

    # Operations

    def given(self, call: syntax.Name | syntax.Call, scope: Scope) -> list[Given]:
        """The arguments of a call, evaluated."""
        if isinstance(call, syntax.Name):
            return []
        return [Given(x.name, self.evaluate(x.value, scope), x.value.span, x.value) for x in call.arguments]

    def operation(self, kind: Kind, name: syntax.Name, also: Iterable[str] = ()) -> Operation | None:
        """The operation of that name, or a report of why there is none; `also` are further names that could be meant."""
        found = find(kind, name.text)
        if found is not None:
            return found
        known = [*names(kind), *also]
        others = [k for k in Kind if k is not kind and find(k, name.text)]
        if others:
            label = f"this is {' and '.join(a(k.value) for k in others)}"
            close = suggestion(name.text, known)
            help = f"did you mean `{close}`?" if close else f"write {a(kind.value)} there, such as {', '.join(names(kind)[:4])}"
        else:
            label, help = f"no {kind.value} has this name", did_you_mean(name.text, known)
        self.findings.add("E202", name.span, label, help=help, name=name.text, kind=kind.value)
        return None

    def call(self, kind: Kind, node: syntax.Expression, scope: Scope) -> Bound | None:
        """A word or call as an operation of a kind, with validated arguments."""
        if isinstance(node, syntax.Broken):
            return None
        if isinstance(node, syntax.Name):
            value = scope.find(node.text)
            if isinstance(value, Deferred):
                return self.call(kind, value.expression, value.scope)
            if value is UNKNOWN:
                return None
            if value is not None:
                self._wants_operation(node.span, kind, f"`{node.text}` is {shown(value)} here")
                return None
        if not isinstance(node, syntax.Name | syntax.Call):
            value = self.evaluate(node, scope)
            if value is not UNKNOWN:
                self._wants_operation(node.span, kind, f"this is {shown(value)}")
            return None
        name = node if isinstance(node, syntax.Name) else node.name
        operation = self.operation(kind, name)
        if operation is None:
            self.given(node, scope)
            return None
        # Inside column(s) names are the source's columns, whatever else they are called like.
        given = self.given(node, Scope() if kind is Kind.COLUMN else scope)
        operands, given = self._references(operation, given, node.span)
        if operands is None:
            return None
        bound = self.bind(operation, node.span, given)
        return None if bound is None else Bound(operation, bound.params, node.span, bound.spans, operands)

    def _wants_operation(self, span: Span, kind: Kind, label: str) -> None:
        known = names(kind)
        example = f", such as {', '.join(known[:4])}" if known else ""
        self.findings.add("E206", span, label, argument="this", expected=a(kind.value), help=f"write {a(kind.value)}{example}")

    def _references(self, operation: Operation, given: list[Given], span: Span) -> tuple[tuple[Reference, ...] | None, list[Given]]:
        """The leading names of a loss, a metric or a column selection."""
        if operation.kind not in (Kind.LOSS, Kind.METRIC, Kind.COLUMN):
            return (), given
        leading: list[Reference] = []
        while len(leading) < len(given) and (operation.operands is None or len(leading) < operation.operands):
            first = given[len(leading)]
            reference = self._reference(first)
            if first.value is UNKNOWN:
                return None, given
            if reference is None or first.name is not None:
                break
            leading.append(reference)
        wanted = operation.operands
        if operation.kind is Kind.METRIC and not leading:
            return (), given
        if (wanted is not None and len(leading) < wanted) or not leading:
            rest = given[len(leading) :]
            wrong = rest[0] if rest and rest[0].name is None else None
            example = "(name)" if operation.kind is Kind.COLUMN else "(prediction, target)"
            what = "a column" if operation.kind is Kind.COLUMN else "a prediction and a target"
            if wrong is not None:
                self.findings.add("E206", wrong.span, f"this is {shown(wrong.value)}", argument="this", expected="a name",
                                  help=f"write {operation.name}{example}")  # fmt: skip
            else:
                self.findings.add("E204", span, "", operation=operation.name, argument=what, help=f"write {operation.name}{example}")
            return None, rest
        return tuple(leading), given[len(leading) :]

    @staticmethod
    def _reference(given: Given) -> Reference | None:
        value = given.value
        if isinstance(value, Quoted):
            return Reference(str(value), given.span)
        if isinstance(value, Deferred) and isinstance(value.expression, syntax.Name):
            return Reference(value.expression.text, given.span)
        return None

    # Arguments

    def bind(self, operation: Operation, span: Span, given: list[Given]) -> Bound | None:
        """Check names, types and ranges of arguments against the parameter model; None where something is wrong."""
        values, spans, sound = self.arguments(operation, span, given)
        kept = {name: value for name, value in values.items() if value is not UNKNOWN}
        try:
            params = operation.params(**kept)
        except ValidationError as error:
            self._report(operation, error, kept, spans, span)
            return None
        if not sound:
            return None
        for name, idle, why in _IDLE:
            if name in values and idle(operation, params):
                self.findings.add("E228", spans[name], why, argument=f"`{name}`", help=f"leave {name} out")
                return None
        return Bound(operation, params, span, spans)

    def bind_section(self, operation: Operation, span: Span, given: list[Given]) -> tuple[dict[str, Any], dict[str, Span], frozenset[str]]:
        """The sound keys of a section with their places, and the names of the others, which were reported."""
        values, spans, _ = self.arguments(operation, span, given)
        failed = {name for name, value in values.items() if value is UNKNOWN or isinstance(value, Incomplete)}
        kept = {name: tuple(value) if isinstance(value, Incomplete) else value for name, value in values.items() if value is not UNKNOWN}
        try:
            operation.params(**kept)
        except ValidationError as error:
            wrong = self._report(operation, error, kept, spans, span)
            failed |= wrong | {name for name, f in argument_fields(operation.params).items() if f.is_required() and name not in kept}
            kept = {name: value for name, value in kept.items() if name not in wrong}
        return kept, spans, frozenset(failed)

    def arguments(self, operation: Operation, span: Span, given: list[Given]) -> tuple[dict[str, Any], dict[str, Span], bool]:
        """Values and places by name. A wrong value is UNKNOWN; the last result says whether all is right."""
        fields = argument_fields(operation.params)
        open_ended = operation.params.model_config.get("extra") == "allow"
        positional = [name for name, f in fields.items() if not f.kw_only]
        values: dict[str, Any] = {}
        spans: dict[str, Span] = {}
        unknown: list[str] = []
        sound = True
        for place, argument in enumerate(given):
            if argument.name is None:
                if place >= len(positional):
                    self._too_many(operation, argument, len(positional), fields)
                    sound = False
                    continue
                name, at = positional[place], argument.span
            else:
                name, at = argument.name.text, argument.name.span.to(argument.span)
                if name not in fields and not open_ended:
                    self._unknown_argument(operation, argument, argument.name, fields)
                    unknown.append(name)
                    sound = False
                    continue
            if name in values:
                self.findings.add("E221", at, "given before", notes=(Note(spans[name], "given here"),), help="keep one of them", argument=name)
                sound = False
                continue
            value = self._coerce(argument, name, reading_of(operation.params, name)) if name in fields else _plain(argument.value)
            sound = sound and value is not UNKNOWN and not isinstance(value, Incomplete)
            values[name], spans[name] = value, at
        meant = {suggestion(name, fields) for name in unknown}
        for name, f in fields.items():
            if f.is_required() and name not in values and name not in meant:
                example = f"{name} = ..." if operation.name in _SECTIONS else f"{operation.name}({name}=...)"
                self.findings.add("E204", span, f"give {name}: {f.description}", operation=operation.name, argument=f"`{name}`",
                                  help=f"write {example}")  # fmt: skip
                sound = False
        return values, spans, sound

    def _too_many(self, operation: Operation, argument: Given, takes: int, fields: dict[str, FieldInfo]) -> None:
        named = [name for name, f in fields.items() if f.kw_only]
        label = f"it takes {takes or 'none'} without a name"
        help = f"name it: one of {', '.join(named)}" if named else "leave it out"
        if operation.kind is Kind.LAYER and operation.name == "linear":  # the activation, which elsewhere is a layer with weights
            help = f"write dense({self._text(argument.span)}) for a layer with weights"
        self.findings.add("E205", argument.span, label, operation=operation.name, help=help)

    def _unknown_argument(self, operation: Operation, argument: Given, name: syntax.Identifier, fields: dict[str, FieldInfo]) -> None:
        thing = "key" if operation.name in _SECTIONS else "argument"
        known = list(fields)
        help = did_you_mean(name.text, known) if known else f"`{operation.name}` takes no arguments: leave it out"
        word = argument.value.expression if isinstance(argument.value, Deferred) else None
        if operation.kind is Kind.LAYER and isinstance(word, syntax.Name) and find(Kind.LAYER, word.text) and not suggestion(name.text, known):
            help = f"an activation follows its layer: {operation.name}(...) -> {word.text}"
        self.findings.add("E203", name.span, "", help=help, name=name.text, operation=operation.name, thing=thing)

    # One field

    def _coerce(self, given: Given, name: str, reading: Reading) -> Any:
        value, marker = given.value, reading.marker
        if value is UNKNOWN:
            return UNKNOWN
        if isinstance(marker, Of):
            return self._each(given, name, lambda g: self._bounds(g, name, marker)) if reading.each else self._bounds(given, name, marker)
        if isinstance(marker, Refers):
            return self._each(given, name, lambda g: self._referred(g, name)) if reading.each else self._referred(given, name)
        if isinstance(given.node, syntax.Name) and given.node.text in reading.words:
            return given.node.text
        return self._word(value, given.span, name, reading)

    def _each(self, given: Given, name: str, read: Callable[[Given], Any]) -> Any:
        """A list written as a list of names or calls."""
        if not isinstance(given.value, tuple):
            text = self._text(given.span)
            example = f"[{text}]" if len(text) < 40 else "[a, b]"
            self.findings.add("E206", given.span, f"this is {shown(given.value)}", argument=name, expected="a list", help=f"write it in brackets: {example}")
            return UNKNOWN
        found = [read(Given(None, v, v.expression.span if isinstance(v, Deferred) else given.span)) for v in given.value]
        return Incomplete(f for f in found if f is not UNKNOWN) if any(f is UNKNOWN for f in found) else tuple(found)

    def _referred(self, given: Given, name: str) -> Any:
        reference = self._reference(given)
        if reference is None:
            self.findings.add("E206", given.span, f"this is {shown(given.value)}", argument=name, expected="a name", help=f"write {name}=name, or a string")
            return UNKNOWN
        return reference

    def _bounds(self, given: Given, name: str, marker: Of) -> Any:
        value = given.value
        if not isinstance(value, Deferred):
            known = names(marker.kind)
            example = f", such as {', '.join(known[:4])}" if known else ""
            help = f"write {a(marker.kind.value)}{example}"
            if isinstance(value, tuple):
                help = "write their sum: a + b" if marker.many else "chain them: a -> b" if marker.chain else f"write one {marker.kind.value}, without brackets"
            self.findings.add("E206", given.span, f"this is {shown(value)}", argument=f"`{name}`", expected=a(marker.kind.value), help=help)
            return UNKNOWN
        if marker.many:
            return self._terms(value.expression, value.scope, marker.kind, 1.0)
        if marker.chain:
            node = value.expression
            if isinstance(node, syntax.Chain):
                self.findings.add("E206", node.span, "this is a sum", argument=f"`{name}`", expected=a(marker.kind.value), help="chain them: a -> b")
                return UNKNOWN
            parts = (node.first, *node.stages) if isinstance(node, syntax.Pipe) else (node,)
            bounds = [self.call(marker.kind, part, value.scope) for part in parts]
            return UNKNOWN if None in bounds else tuple(bounds)
        bound = self.call(marker.kind, value.expression, value.scope)
        return UNKNOWN if bound is None else bound

    def _terms(self, node: syntax.Expression, scope: Scope, kind: Kind, weight: float) -> tuple[Weighted, ...]:
        """A sum of operations with constant weights: `0.5 * f(a) + g(b)`."""
        if isinstance(node, syntax.Negative):
            return self._terms(node.operand, scope, kind, -weight)
        if isinstance(node, syntax.Chain) and node.rest[0][0] in "+-":
            parts = [self._terms(part, scope, kind, weight if op == "+" else -weight) for op, part in (("+", node.first), *node.rest)]
            found = [term for terms in parts for term in terms]
            return Incomplete(found) if any(isinstance(terms, Incomplete) for terms in parts) else tuple(found)
        if isinstance(node, syntax.Chain):
            term: syntax.Expression | None = None
            for op, part in (("*", node.first), *node.rest):
                value = self.evaluate(part, scope)
                if value is UNKNOWN:
                    return Incomplete()
                if isinstance(value, int | float) and not isinstance(value, bool) and (op == "*" or (op == "/" and value)):
                    weight = weight * value if op == "*" else weight / value
                elif isinstance(value, Deferred) and op == "*" and term is None:
                    term = part
                else:
                    self.findings.add("E206", part.span, f"this is {shown(value)}", argument="a term", expected=f"a number times {a(kind.value)}",
                                      help=f"write 0.5 * {names(kind)[0]}(...)")  # fmt: skip
                    return Incomplete()
            if term is not None:
                return self._terms(term, scope, kind, weight)
        if isinstance(node, syntax.Name):
            value = scope.find(node.text)
            if isinstance(value, Deferred) and not isinstance(value.expression, syntax.Name):
                return self._terms(value.expression, value.scope, kind, weight)
        bound = self.call(kind, node, scope)
        return Incomplete() if bound is None else (Weighted(weight, bound),)

    def _word(self, value: Any, span: Span, name: str, reading: Reading) -> Any:
        """A constant for a field that holds numbers, booleans, words, strings or lists of these."""
        words, quoted, expected = reading.words, reading.quoted, reading.expected
        if isinstance(value, tuple):
            items = tuple(self._word(v, span, name, reading) for v in value)
            return UNKNOWN if any(i is UNKNOWN for i in items) else items
        if isinstance(value, Deferred):
            node, text = value.expression, _word_text(value.expression)
            if text in words:
                return text
            if not text:
                self.findings.add("E206", node.span, f"this is {shown(value)}", argument=name, expected=expected, help=f"give {expected}")
            elif quoted:
                self.findings.add("E208", node.span, help=f'write it in quotes: "{text}"', argument=name, word=text)
            elif words:
                close = suggestion(text, [*words, *value.scope.visible()])
                self.findings.add("E208", node.span, help=f"did you mean `{close}`?" if close else f"give {expected}", argument=name, word=text)
            else:
                known = value.scope.visible()
                close = suggestion(text, known)
                help = f"did you mean `{close}`?" if close else f"{name} is {expected}: write one, or a `let` of that name"
                self.findings.add("E201", node.span, help=help, name=text)
            return UNKNOWN
        if isinstance(value, Quoted):
            if quoted:
                return str(value)
            help = f"write it without quotes: {value}" if value in words else f"give {expected}"
            self.findings.add("E206", span, "this is a string", argument=name, expected=expected, help=help)
            return UNKNOWN
        if isinstance(value, Tensors):
            self.findings.add("E206", span, "this is a tensor", argument=name, expected=expected, help=f"give {expected}: arguments are constants")
            return UNKNOWN
        return value

    def _report(
        self, operation: Operation, error: ValidationError, values: dict[str, Any], spans: dict[str, Span], span: Span
    ) -> set[str]:
        """Pydantic's findings in the language's words, one for each argument; the names of the arguments. What is missing has been
        reported before.
        """
        fields = argument_fields(operation.params)
        reported: set[str] = set()
        for item in sorted(error.errors(), key=lambda e: e["type"] in _TYPE_ERRORS):
            name = str(item["loc"][0])
            if name in reported or item["type"] == "missing":
                continue
            reported.add(name)
            at, value, context = spans.get(name, span), values.get(name), item.get("ctx") or {}
            bound = _BOUNDS.get(item["type"])
            if bound is not None:
                limit = bound.format(**{k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()})
                least = context.get("ge", context.get("le"))
                help = f"use {name}={least:g}, or {'more' if 'ge' in context else 'less'}" if least is not None else f"give a number {limit}"
                most = context.get("lt", context.get("le"))
                if most == 1 and isinstance(value, int | float) and 1 < value <= 100:
                    help = f"did you mean {value:g}%?"
                elif not isinstance(value, int | float):
                    help = f"give {name}: {fields[name].description}"
                self.findings.add("E207", at, f"{name}: {fields[name].description}", argument=name, value=shown(value), bound=limit, help=help)
                continue
            assert item["type"] in _TYPE_ERRORS, f"pydantic's {item['type']} has no words of ours"
            expected = reading_of(operation.params, name).expected
            help = f"give {expected}"
            if isinstance(value, float) and "whole number" in expected and "number or" not in expected:
                whole = self._text(at)
                if "/" in whole and "//" not in whole:
                    help = "divide with `//` where a whole number is wanted"
                elif value.is_integer() and abs(value) < 1e15:
                    help = f"write {name}={int(value)}"
            self.findings.add("E206", at, f"this is {shown(value)}", argument=name, expected=expected, help=help)
        return reported

    def _text(self, span: Span) -> str:
        return self.findings.source.text[span.start : span.end]


# Arguments that another one makes idle: what has no effect is an error, like everything that would be ignored.
_IDLE: tuple[tuple[str, Callable[[Operation, Any], bool], str], ...] = (
    ("bias_init", lambda operation, p: operation.kind is Kind.LAYER and not p.bias, "bias=false leaves no bias to start"),
    ("rate", lambda operation, p: operation.kind is Kind.GROUP and p.frozen, "what is frozen has no learning rate"),
    ("value", lambda operation, p: operation.name == "impute" and p.strategy != "constant", "only impute(constant) takes it"),
)
_BOUNDS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} long",
    "too_long": "at most {max_length} long",
    "string_too_short": "at least {min_length} characters long",
    "string_too_long": "at most {max_length} characters long",
    "finite_number": "finite",
}
_TYPE_ERRORS = frozenset(
    ("int_type", "float_type", "bool_type", "string_type", "literal_error", "tuple_type", "none_required", "is_instance_of",
     "int_from_float", "dataclass_type", "dataclass_exact_type")
)  # fmt: skip


def _word_text(node: syntax.Expression) -> str:
    """A word, or the one arithmetic word there is, 1/samples."""
    if isinstance(node, syntax.Name):
        return node.text
    if isinstance(node, syntax.Chain) and isinstance(node.first, syntax.Number) and len(node.rest) == 1:
        op, right = node.rest[0]
        if isinstance(right, syntax.Name) and right.text == "samples":
            return f"{node.first.value}{op}{right.text}"
    return ""


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return str(value) if isinstance(value, Quoted) else value
