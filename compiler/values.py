"""What expressions evaluate to, and the names in force while they do.

An expression is a number, a boolean, a quoted string, a tuple, a tensor, or stays deferred: a word or a call whose meaning
depends on the place where it stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import syntax
from .experiment import Ref
from .operation import Bound
from .record import record
from .source import Span


class Quoted(str):
    """A string that stood in quotes."""


@record
class Deferred:
    """A word, a call or a sum of calls, to be read by the kind that its place wants."""

    expression: syntax.Expression
    scope: Scope


@record
class Tensors:
    """One tensor, or the several results of one call."""

    refs: tuple[Ref, ...]


class Unknown:
    """The value of something already reported: everything that uses it stays silent."""


UNKNOWN = Unknown()


class Incomplete(tuple[Any, ...]):
    """The sound items of a list or a sum; the others were reported."""


@dataclass(eq=False, repr=False)
class Scope:
    """Names in force: `let` constants outside, block parameters and statements inside."""

    bindings: dict[str, Any] = field(default_factory=dict)
    parent: Scope | None = None
    used: set[str] = field(default_factory=set)
    places: dict[str, Span] = field(default_factory=dict)  # where the names were given

    def find(self, name: str) -> Any:
        """The value, marking the name as used; None where there is none."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.bindings:
                scope.used.add(name)
                return scope.bindings[name]
            scope = scope.parent
        return None

    def visible(self) -> list[str]:
        """Every name that could be meant here."""
        found = list(self.bindings)
        return found + self.parent.visible() if self.parent is not None else found


@record
class Given:
    """An argument with its evaluated value and its place."""

    name: syntax.Identifier | None
    value: Any
    span: Span
    node: syntax.Expression | None = None


def a(noun: str) -> str:
    """The noun with its article."""
    return f"an {noun}" if noun[:1] in "aeiou" else f"a {noun}"


def shown(value: Any) -> str:
    """A value as messages name it: `this is ...`."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'the string "{value}"' if len(value) < 30 else "a string"
        case int() | float():
            text = f"{value:g}" if isinstance(value, float) else str(value)
            return text if len(text) < 30 else f"{value:.3g}"
        case tuple():
            return "a list"
        case Tensors():
            return "a tensor"
        case Deferred(expression=syntax.Name(text=text)):
            return f"the word `{text}`"
        case Deferred(expression=syntax.Call(name=name)):
            return f"a call of `{name.text}`"
        case Deferred(expression=syntax.Pipe()):
            return "a pipe"
        case Bound():
            return f"the {value.operation.kind.value} `{value.name}`"
    return "an expression"
