"""Parameter models: the arguments of a word of the language are the fields of a class, which checks what it is made of.

Nothing is converted but a whole number where a number is wanted, and nothing is let through: `true` is no number, 1.0 no whole number, infinity
no value. Pydantic's strict mode says the same of the same fields, as a test shows; but importing it, and letting it look through 128 models, was two
fifths of the time that a cold `nnc check` took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from inspect import get_annotations
from itertools import repeat
from math import inf, isfinite
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin

from .record import record

P = TypeVar("P", bound="Params")

REQUIRED = object()  # in place of a default
_ARGUMENTS: dict[type[Params], dict[str, Argument]] = {}  # what arguments_of has looked up: annotations are read where they are needed

# What a field may ask of its value, beside a type
LIMITS: dict[str, Callable[[Any, float], bool]] = {
    "ge": lambda value, limit: value >= limit,
    "gt": lambda value, limit: value > limit,
    "le": lambda value, limit: value <= limit,
    "lt": lambda value, limit: value < limit,
    "min_length": lambda value, limit: len(value) >= limit,
    "max_length": lambda value, limit: len(value) <= limit,
}


@record
class Argument:
    """A field of a parameter model. `name` is what the language calls it; `marks` are what else its annotation says."""

    default: Any
    description: str
    name: str
    kw_only: bool
    limits: tuple[tuple[str, float], ...]
    attribute: str = ""
    annotation: Any = None
    marks: tuple[Any, ...] = ()

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


def Field(default: Any = REQUIRED, *, description: str = "", alias: str = "", kw_only: bool = False, **limits: float) -> Any:
    """A field, called `alias` in the language if that cannot be its name in Python; given by name alone if `kw_only`. LIMITS lists the limits."""
    assert limits.keys() <= LIMITS.keys(), limits
    return Argument(default, description, alias, kw_only, tuple(limits.items()))


class Misfit(ValueError):
    """What is wrong with a value: the limit that it breaks, `finite` among them, or `type`, or that it is `missing`."""

    def __init__(self, what: str, limit: float = 0.0):
        super().__init__(what, limit)
        self.what, self.limit = what, limit


class Misfits(ValueError):
    """What is wrong with the arguments of a model, by their names."""

    def __init__(self, found: dict[str, Misfit]):
        super().__init__(", ".join(f"{name}: {misfit.what}" for name, misfit in found.items()))
        self.found = found


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class Params:
    """The arguments of an operation. A field's description is its documentation; an `open` model takes any further names."""

    open: ClassVar[bool] = False
    declared: ClassVar[dict[str, Argument]] = {}  # by the class itself

    def __init_subclass__(cls) -> None:
        cls.declared = {name: field for name, field in vars(cls).items() if isinstance(field, Argument)}
        for name in cls.declared:
            delattr(cls, name)

    def __init__(self, /, **given: Any):
        """Raises Misfits."""
        found: dict[str, Misfit] = {}
        fields = arguments_of(type(self))
        values = given if self.open else {}
        assert self.open or given.keys() <= fields.keys(), given.keys() - fields.keys()
        for name, field in fields.items():
            try:
                values[field.attribute] = _checked(field, given[name]) if name in given else _default(field)
            except Misfit as misfit:
                found[name] = misfit
        if found:
            raise Misfits(found)
        vars(self).update(values)

    @classmethod
    def unchecked(cls: type[P], given: dict[str, Any]) -> P:
        """A model of values of which some are missing or placeholders, because they were refused."""
        made = object.__new__(cls)
        fields = arguments_of(cls)
        vars(made).update({field.attribute: field.default for field in fields.values() if not field.required})
        vars(made).update({fields[name].attribute: value for name, value in given.items()})
        return made

    def changed(self: P, /, **values: Any) -> P:
        """The same but for these values, which are right."""
        made = object.__new__(type(self))
        vars(made).update(vars(self) | values)
        return made

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class NoParams(Params):
    """An operation without arguments."""


def arguments_of(params: type[Params]) -> dict[str, Argument]:
    """The fields by the name that the language gives them, those of base classes first."""
    if params not in _ARGUMENTS:
        found: dict[str, Argument] = {}
        for base in reversed(params.__bases__):
            found |= arguments_of(base) if issubclass(base, Params) else {}
        annotations = get_annotations(params, eval_str=True)
        own = (_completed(name, field, annotations[name]) for name, field in params.declared.items())
        _ARGUMENTS[params] = found | {field.name: field for field in own}
    return _ARGUMENTS[params]


def _completed(attribute: str, field: Argument, hint: Any) -> Argument:
    annotation, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    return replace(field, name=field.name or attribute, attribute=attribute, annotation=annotation, marks=tuple(marks))


def _default(field: Argument) -> Any:
    if field.required:
        raise Misfit("missing")
    return field.default


def _checked(field: Argument, value: Any) -> Any:
    return _within(field.limits, _fitting(field.annotation, value))


def _within(limits: tuple[tuple[str, float], ...], value: Any) -> Any:
    for what, limit in limits:
        if value is not None and not LIMITS[what](value, limit):
            raise Misfit(what, limit)
    return value


def _fitting(annotation: Any, value: Any) -> Any:
    """The value as the annotation has it; raises Misfit."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        kept = _fitting(inside[0], value)
        for mark in inside[1:]:
            kept = _within(mark.limits, kept) if isinstance(mark, Argument) else kept
        return kept
    if origin in (Union, UnionType):
        return _one_of(inside, value)
    if origin is tuple and isinstance(value, tuple):
        return _items(inside, value)
    if origin is Literal and isinstance(value, str) and value in inside:
        return value
    if annotation is float and type(value) in (int, float):
        return _finite(value)
    if origin is None and isinstance(value, annotation) and not (annotation is int and isinstance(value, bool)):
        return value
    raise Misfit("type")


def _one_of(alternatives: Iterable[Any], value: Any) -> Any:
    """The value as the first alternative that it fits has it."""
    found = []
    for annotation in alternatives:
        try:
            return _fitting(annotation, value)
        except Misfit as misfit:
            found.append(misfit)
    raise _telling(found)


def _items(inside: tuple[Any, ...], value: tuple[Any, ...]) -> tuple[Any, ...]:
    annotations = repeat(inside[0], len(value)) if inside[-1] is Ellipsis else inside
    kept, found = [], []
    for annotation, item in zip(annotations, value, strict=False):
        try:
            kept.append(_fitting(annotation, item))
        except Misfit as misfit:
            found.append(misfit)
    if inside[-1] is not Ellipsis and len(value) != len(inside):
        found.append(Misfit("max_length", len(inside)) if len(value) > len(inside) else Misfit("type"))
    if found:
        raise _telling(found)
    return tuple(kept)


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = inf
    if not isfinite(number):
        raise Misfit("finite")
    return number


def _telling(found: list[Misfit]) -> Misfit:
    """The one to report: a broken limit says more than that the type is another."""
    return next((misfit for misfit in found if misfit.what != "type"), found[0])
