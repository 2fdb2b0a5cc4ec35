"""Frozen data, made fast.

`dataclass(frozen=True)` writes six methods of a class as text and compiles each. A start of `nnc` makes a hundred such classes, and took 20 ms longer with
it. Here `__init__` alone is compiled, and the rest is said once for all classes. That nothing assigns to a field is for mypy to see, so that
making a value costs no more than its assignments: a graph of a thousand layers has hundreds of thousands. What phases work on and change is a
`dataclass(eq=False, repr=False)`, which saves each class two of three methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform, overload

C = TypeVar("C", bound=type)


@overload
def record(made: C) -> C: ...
@overload
def record(*, eq: bool) -> Callable[[C], C]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(made: Any = None, *, eq: bool = True) -> Any:
    """What `dataclass(frozen=True, slots=True)` makes of a class: equal where class and fields are, unless `eq` is off and each is only itself."""
    if made is None:
        return lambda made: _record(made, eq)
    return _record(made, eq)


def _record(plain: Any, eq: bool) -> Any:
    if plain.__doc__ is None:
        plain.__doc__ = plain.__name__  # or dataclass writes the signature, which takes longer than all else
    made: Any = dataclass(slots=True, eq=False, repr=False)(plain)
    if "__repr__" not in vars(made):
        made.__repr__ = _shown
    if eq:
        _compare(made, [f.name for f in fields(made) if f.compare])
    return made


def _shown(self: Any) -> str:
    return f"{type(self).__qualname__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in fields(self))})"


def _compare(made: Any, names: list[str]) -> None:
    """Let values be equal, and hashed, by the fields of these names."""
    content: Callable[[Any], Any] = attrgetter(*names) if names else lambda value: ()

    def equal(self: Any, other: object) -> Any:
        return content(self) == content(other) if other.__class__ is made else NotImplemented

    made.__eq__ = equal
    made.__hash__ = lambda self: hash(content(self))
