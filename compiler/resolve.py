"""Arguments: from expressions to the validated parameters of an operation.

An expression evaluates to a number, a boolean, a quoted string, a tuple, a tensor, or stays deferred: a word or a call
whose meaning depends on the place where it stands. The field of the parameter model says which kind is meant there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from . import syntax
from .diagnostics import Findings, did_you_mean, suggestion
from .experiment import Ref
from .operation import Bound, Kind, Of, Operation, Params, Reference, Refers, Weighted, find, names
from .ops.planned import PLANNED, PLANNED_ARGUMENTS
from .source import Span


class Quoted(str):
    """A string that stood in quotes."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """A word, a call or a sum of calls, to be read by the kind that its place wants."""

    expression: syntax.Expression
    scope: Scope


@dataclass(frozen=True, slots=True)
class Tensors:
    """One tensor, or the several results of one call."""

    refs: tuple[Ref, ...]


class Unknown:
    """The value of something already reported: everything that uses it stays silent."""


UNKNOWN = Unknown()


@dataclass
class Scope:
    """Names in force: `let` constants outside, block parameters and statements inside."""

    bindings: dict[str, Any] = field(default_factory=dict)
    parent: Scope | None = None
    used: set[str] = field(default_factory=set)

    def find(self, name: str) -> Any:
        """The value, marking the name as used; None where there is none."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.bindings:
                scope.used.add(name)
                return scope.bindings[name]
            scope = scope.parent
        return None


@dataclass(frozen=True, slots=True)
class Given:
    """An argument with its evaluated value and its place."""

    name: syntax.Identifier | None
    value: Any
    span: Span


class Resolver:
    """Evaluates constants and binds arguments, collecting what is wrong."""

    def __init__(self, findings: Findings):
        self.findings = findings

    # Constants

    def evaluate(self, expression: syntax.Expression, scope: Scope) -> Any:
        """A constant, a tensor that a name stands for, or a Deferred."""
        match expression:
            case syntax.Broken():
                return UNKNOWN
            case syntax.Number(value=value) | syntax.Boolean(value=value):
                return value
            case syntax.Text(value=value):
                return Quoted(value)
            case syntax.List(items=items):
                values = tuple(self.evaluate(item, scope) for item in items)
                return UNKNOWN if any(v is UNKNOWN for v in values) else values
            case syntax.Name(text=text):
                found = scope.find(text)
                return Deferred(expression, scope) if found is None else found
            case syntax.Negative(operand=operand):
                value = self.evaluate(operand, scope)
                if isinstance(value, bool | str | tuple | Tensors):
                    return self._no_number(operand, value)
                return value if isinstance(value, Unknown) else Deferred(expression, scope) if isinstance(value, Deferred) else -value
            case syntax.Chain():
                return self._arithmetic(expression, scope)
        return Deferred(expression, scope)

    def _arithmetic(self, chain: syntax.Chain, scope: Scope) -> Any:
        total = self.evaluate(chain.first, scope)
        values = [(op, node, self.evaluate(node, scope)) for op, node in chain.rest]
        everything = [(chain.first, total), *((node, value) for _, node, value in values)]
        if any(isinstance(v, Deferred | Tensors) for _, v in everything):
            return Deferred(chain, scope)
        if any(v is UNKNOWN for _, v in everything):
            return UNKNOWN
        for node, value in everything:
            if isinstance(value, bool | str | tuple):
                return self._no_number(node, value)
        for op, node, value in values:
            if op in ("/", "//") and value == 0:
                self.findings.add("E219", node.span, "this is 0", help="divide by another number")
                return UNKNOWN
            try:
                total = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
                         "/": lambda a, b: a / b, "//": lambda a, b: a // b}[op](total, value)  # fmt: skip
            except OverflowError:
                total = float("inf")
            if abs(total) > 1e300:
                self.findings.add("E219", chain.span, "too large for a number", help="use smaller numbers")
                return UNKNOWN
        return total

    def _no_number(self, node: syntax.Expression, value: Any) -> Unknown:
        self.findings.add("E218", node.span, f"this is {_shown(value)}", help="arithmetic is for numbers and for tensors")
        return UNKNOWN

    # Arguments

    def given(self, call: syntax.Name | syntax.Call, scope: Scope) -> list[Given]:
        """The arguments of a call, evaluated."""
        if isinstance(call, syntax.Name):
            return []
        return [Given(a.name, self.evaluate(a.value, scope), a.value.span) for a in call.arguments]

    def operation(self, kind: Kind, name: syntax.Name) -> Operation | None:
        """The operation of that name, or a report of why there is none."""
        found = find(kind, name.text)
        if found is not None:
            return found
        if name.text in PLANNED.get(kind, ()):
            self.findings.add("E217", name.span, help=f"this version has {', '.join(names(kind)[:8])}", what=f"the {kind.value} `{name.text}`")
            return None
        others = [k for k in Kind if k is not kind and (find(k, name.text) or name.text in PLANNED.get(k, ()))]
        if others:
            help = f"`{name.text}` is a word for: {', '.join(k.value for k in others)}; {did_you_mean(name.text, names(kind))}"
        else:
            help = did_you_mean(name.text, [*names(kind), *PLANNED.get(kind, ())])
        self.findings.add("E202", name.span, f"no {kind.value}", help=help, name=name.text, kind=kind.value)
        return None

    def call(self, kind: Kind, node: syntax.Expression, scope: Scope) -> Bound | None:
        """A word or call as an operation of a kind, with validated arguments."""
        if isinstance(node, syntax.Broken):
            return None
        if isinstance(node, syntax.Name):
            value = scope.find(node.text)
            if isinstance(value, Deferred):
                return self.call(kind, value.expression, value.scope)
            if value is not None:
                self.findings.add("E206", node.span, f"this is {_shown(value)}", argument=node.text, expected=f"a {kind.value}",
                                  help=did_you_mean("", names(kind)))  # fmt: skip
                return None
        if not isinstance(node, syntax.Name | syntax.Call):
            self.findings.add("E206", node.span, argument="this", expected=f"a {kind.value}", help=did_you_mean("", names(kind)))
            return None
        name = node if isinstance(node, syntax.Name) else node.name
        operation = self.operation(kind, name)
        if operation is None:
            return None
        given = self.given(node, scope)
        operands, given = self._references(operation, given, node.span)
        bound = self.bind(operation, node.span, given)
        return None if bound is None or operands is None else Bound(operation, bound.params, node.span, bound.spans, operands)

    def _references(self, operation: Operation, given: list[Given], span: Span) -> tuple[tuple[Reference, ...] | None, list[Given]]:
        """The leading names of a loss, a metric or a column selection."""
        if operation.kind not in (Kind.LOSS, Kind.METRIC, Kind.COLUMN):
            return (), given
        leading: list[Reference] = []
        while len(leading) < len(given) and (operation.operands is None or len(leading) < operation.operands):
            reference = self._reference(given[len(leading)])
            if reference is None or given[len(leading)].name is not None:
                break
            leading.append(reference)
        wanted = operation.operands
        if operation.kind is Kind.METRIC and len(leading) < 2:
            return (), given
        if wanted is not None and len(leading) < wanted or not leading:
            what = {Kind.LOSS: "(prediction, target)", Kind.COLUMN: "(name)"}[operation.kind]
            self.findings.add("E204", span, f"write {operation.name}{what}", operation=operation.name,
                              argument={Kind.LOSS: "prediction and target", Kind.COLUMN: "column"}[operation.kind],
                              help="name an output and a data name" if operation.kind is Kind.LOSS else "name columns of the source")  # fmt: skip
            return None, given[len(leading) :]
        return tuple(leading), given[len(leading) :]

    @staticmethod
    def _reference(given: Given) -> Reference | None:
        value = given.value
        if isinstance(value, Quoted):
            return Reference(str(value), given.span)
        if isinstance(value, Deferred) and isinstance(value.expression, syntax.Name):
            return Reference(value.expression.text, given.span)
        return None

    def bind(self, operation: Operation, span: Span, given: list[Given]) -> Bound | None:
        """Check names, types and ranges of arguments against the parameter model; None where something is wrong."""
        fields = argument_fields(operation.params)
        open_ended = operation.params.model_config.get("extra") == "allow"
        positional = [name for name, f in fields.items() if not f.kw_only]
        values: dict[str, Any] = {}
        spans: dict[str, Span] = {}
        sound = True
        for place, argument in enumerate(given):
            if argument.name is None:
                if place >= len(positional):
                    takes = f"takes {len(positional)}" if positional else "takes none"
                    self.findings.add("E205", argument.span, f"`{operation.name}` {takes} without a name", operation=operation.name,
                                      help=f"its arguments are {', '.join(fields)}" if fields else "remove it")  # fmt: skip
                    return None
                name, at = positional[place], argument.span
            else:
                name, at = argument.name.text, argument.name.span.to(argument.span)
                if name not in fields and not open_ended:
                    sound = False
                    if name in PLANNED_ARGUMENTS.get((operation.kind, operation.name), ()):
                        self.findings.add("E217", argument.name.span, help="leave it out", what=f"the argument `{name}` of {operation.name}")
                    else:
                        known = list(fields)
                        help = did_you_mean(name, known) if known else f"`{operation.name}` takes no arguments"
                        self.findings.add("E203", argument.name.span, f"no argument of `{operation.name}`", help=help, name=name,
                                          operation=operation.name)  # fmt: skip
                    continue
            if name in values:
                self.findings.add("E221", at, "given before", help="keep one of them", argument=name)
                sound = False
                continue
            value = argument.value if open_ended and name not in fields else self._coerce(argument, name, fields[name])
            if open_ended and name not in fields:
                value = _plain(value)
            sound = sound and value is not UNKNOWN
            values[name], spans[name] = value, at
        for name, f in fields.items():
            if f.is_required() and name not in values:
                self.findings.add("E204", span, f"give {name}: {f.description}", operation=operation.name, argument=name,
                                  help=f"write {operation.name}({name}=...)")  # fmt: skip
                sound = False
        if not sound:
            return None
        try:
            params = operation.params(**values)
        except ValidationError as error:
            self._report(operation, error, values, spans, span)
            return None
        return Bound(operation, params, span, spans)

    # One field

    def _coerce(self, given: Given, name: str, info: FieldInfo) -> Any:
        marker = marker_of(info)
        value = given.value
        if value is UNKNOWN:
            return UNKNOWN
        if isinstance(marker, Of):
            many = tuple_of_marked(info)
            return self._bounds(given, marker) if not many else self._each(given, lambda g: self._bounds(g, marker))
        if isinstance(marker, Refers):
            if tuple_of_marked(info):
                return self._each(given, self._referred)
            return self._referred(given)
        words, quoted = words_of(info.annotation)
        return self._word(value, given.span, name, words, quoted, info)

    def _each(self, given: Given, read: Any) -> Any:
        """A list written as a list of names or calls."""
        if not isinstance(given.value, tuple):
            self.findings.add("E206", given.span, f"this is {_shown(given.value)}", argument="this", expected="a list", help="write it in brackets: [a, b]")
            return UNKNOWN
        found = [read(Given(None, v, v.expression.span if isinstance(v, Deferred) else given.span)) for v in given.value]
        return UNKNOWN if any(f is UNKNOWN for f in found) else tuple(found)

    def _referred(self, given: Given) -> Any:
        reference = self._reference(given)
        if reference is None:
            self.findings.add("E206", given.span, f"this is {_shown(given.value)}", argument="this", expected="a name", help="write a name, or a string")
            return UNKNOWN
        return reference

    def _bounds(self, given: Given, marker: Of) -> Any:
        value = given.value
        if not isinstance(value, Deferred):
            self.findings.add("E206", given.span, f"this is {_shown(value)}", argument="this", expected=f"a {marker.kind.value}",
                              help=did_you_mean("", names(marker.kind)))  # fmt: skip
            return UNKNOWN
        if marker.many:
            terms = self._terms(value.expression, value.scope, marker.kind, 1.0)
            return UNKNOWN if terms is None else tuple(terms)
        if marker.chain:
            node = value.expression
            parts = (node.first, *node.stages) if isinstance(node, syntax.Pipe) else (node,)
            bounds = [self.call(marker.kind, part, value.scope) for part in parts]
            return UNKNOWN if None in bounds else tuple(bounds)
        bound = self.call(marker.kind, value.expression, value.scope)
        return UNKNOWN if bound is None else bound

    def _terms(self, node: syntax.Expression, scope: Scope, kind: Kind, weight: float) -> list[Weighted] | None:
        """A sum of operations with constant weights: `0.5 * f(a) + g(b)`."""
        if isinstance(node, syntax.Negative):
            return self._terms(node.operand, scope, kind, -weight)
        if isinstance(node, syntax.Chain) and node.rest[0][0] in "+-":
            found: list[Weighted] = []
            sound = True
            for op, part in (("+", node.first), *node.rest):
                terms = self._terms(part, scope, kind, weight if op == "+" else -weight)
                sound = sound and terms is not None
                found += terms or []
            return found if sound else None
        if isinstance(node, syntax.Chain):
            term: syntax.Expression | None = None
            for op, part in (("*", node.first), *node.rest):
                value = self.evaluate(part, scope)
                if value is UNKNOWN:
                    return None
                if isinstance(value, int | float) and not isinstance(value, bool) and (op == "*" or op == "/" and value):
                    weight = weight * value if op == "*" else weight / value
                elif isinstance(value, Deferred) and op == "*" and term is None:
                    term = part
                else:
                    self.findings.add("E206", part.span, argument="this", expected=f"a number times a {kind.value}",
                                      help=f"write 0.5 * {names(kind)[0]}(...)")  # fmt: skip
                    return None
            if term is not None:
                return self._terms(term, scope, kind, weight)
        bound = self.call(kind, node, scope)
        return None if bound is None else [Weighted(weight, bound)]

    def _word(self, value: Any, span: Span, name: str, words: tuple[str, ...], quoted: bool, info: FieldInfo) -> Any:
        """A constant for a field that holds numbers, booleans, words, strings or lists of these."""
        if isinstance(value, tuple):
            items = tuple(self._word(v, span, name, words, quoted, info) for v in value)
            return UNKNOWN if any(i is UNKNOWN for i in items) else items
        if isinstance(value, Deferred):
            text = _word_text(value.expression)
            if text in words:
                return text
            close = suggestion(text, words) if text else ""
            help = f"did you mean `{close}`?" if close else f"give {describe(info.annotation)}"
            if quoted and text:
                help = f'write it in quotes: "{text}"'
            self.findings.add("E208", value.expression.span, help=help, argument=name, word=text or "this")
            return UNKNOWN
        if isinstance(value, Quoted):
            if quoted:
                return str(value)
            help = f"write it without quotes: {value}" if value in words else f"give {describe(info.annotation)}"
            self.findings.add("E206", span, "this is a string", argument=name, expected=describe(info.annotation), help=help)
            return UNKNOWN
        if isinstance(value, Tensors):
            self.findings.add("E206", span, "this is a tensor", argument=name, expected=describe(info.annotation), help="arguments are constants")
            return UNKNOWN
        return value

    def _report(self, operation: Operation, error: ValidationError, values: dict[str, Any], spans: dict[str, Span], span: Span) -> None:
        """Pydantic's findings in the language's words, one for each argument."""
        fields = argument_fields(operation.params)
        reported: set[str] = set()
        for item in sorted(error.errors(), key=lambda e: e["type"] in _TYPE_ERRORS):
            name = str(item["loc"][0])
            if name in reported:
                continue
            reported.add(name)
            at, value, context = spans.get(name, span), values.get(name), item.get("ctx") or {}
            bound = _BOUNDS.get(item["type"])
            if bound is not None:
                limit = bound.format(**{k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()})
                self.findings.add("E207", at, f"{name} must be {limit}", argument=name, value=_shown(value), bound=limit,
                                  help=f"{name}: {fields[name].description}")  # fmt: skip
                continue
            assert item["type"] in _TYPE_ERRORS, f"pydantic's {item['type']} has no words of ours"
            expected = describe(fields[name].annotation)
            help = f"give {expected}"
            if isinstance(value, float) and "whole number" in expected and "/" in self._text(at):
                help = "divide with `//` where a whole number is wanted"
            self.findings.add("E206", at, f"this is {_shown(value)}", argument=name, expected=expected, help=help)

    def _text(self, span: Span) -> str:
        return self.findings.source.text[span.start : span.end]


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
    "int_type float_type bool_type string_type literal_error tuple_type none_required is_instance_of missing int_from_float "
    "dataclass_type dataclass_exact_type".split()
)


@cache
def argument_fields(params: type[Params]) -> dict[str, FieldInfo]:
    """The fields by the name that the language gives them."""
    return {info.alias or name: info for name, info in params.model_fields.items()}


def _annotations(annotation: Any) -> Iterator[Any]:
    """The annotation and everything inside it."""
    yield annotation
    if get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from _annotations(part)


def marker_of(info: FieldInfo) -> Of | Refers | None:
    """The mark on a field, or on the items of a list."""
    for mark in (*info.metadata, *(m for a in _annotations(info.annotation) if get_origin(a) is Annotated for m in a.__metadata__)):
        if isinstance(mark, Of | Refers):
            return mark
    return None


def tuple_of_marked(info: FieldInfo) -> bool:
    """Whether the mark stands on the items of a list rather than on the field."""
    return not any(isinstance(m, Of | Refers) for m in info.metadata)


def words_of(annotation: Any) -> tuple[tuple[str, ...], bool]:
    """The bare words that a field takes, and whether it takes quoted strings."""
    words = tuple(w for a in _annotations(annotation) if get_origin(a) is Literal for w in get_args(a))
    return words, any(a is str for a in _annotations(annotation))


def describe(annotation: Any) -> str:
    """What a field takes, in words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return describe(get_args(annotation)[0])
    if origin in (Union, UnionType):
        parts = [describe(a) for a in get_args(annotation) if a is not NoneType]
        return " or ".join(dict.fromkeys(parts))
    if origin is Literal:
        return "one of " + ", ".join(get_args(annotation)) if len(get_args(annotation)) > 1 else f"`{get_args(annotation)[0]}`"
    if origin is tuple:
        inner = get_args(annotation)
        if len(inner) == 2 and inner[1] is not Ellipsis:
            return "a pair [a, b]"
        return f"a list of {describe(inner[0]).removeprefix('a ')}s"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a string in quotes"}.get(annotation, "a value")


def _word_text(node: syntax.Expression) -> str:
    """A word, or the one arithmetic word there is, 1/samples."""
    if isinstance(node, syntax.Name):
        return node.text
    if isinstance(node, syntax.Chain) and isinstance(node.first, syntax.Number) and len(node.rest) == 1:
        op, right = node.rest[0]
        if isinstance(right, syntax.Name):
            return f"{node.first.value}{op}{right.text}"
    return ""


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    return str(value) if isinstance(value, Quoted) else value


def _shown(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'the string "{value}"' if len(value) < 30 else "a string"
        case int() | float():
            return f"{value:g}" if isinstance(value, float) else str(value)
        case tuple():
            return "a list"
        case Tensors():
            return "a tensor"
        case Deferred(expression=syntax.Name(text=text)):
            return f"the word `{text}`"
        case Deferred():
            return "a call"
        case Bound():
            return f"the {value.operation.kind.value} `{value.name}`"
    return "something else"


