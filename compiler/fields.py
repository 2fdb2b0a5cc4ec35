"""What the fields of a parameter model say to the language: names, words, marks, and how messages describe them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from .operation import TABLE, Of, Params, Refers
from .record import record


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
    inside = (m for a in _annotations(info.annotation) if get_origin(a) is Annotated for m in a.__metadata__)
    return next((mark for mark in (*info.metadata, *inside) if isinstance(mark, Of | Refers)), None)


def tuple_of_marked(info: FieldInfo) -> bool:
    """Whether the mark stands on the items of a list rather than on the field."""
    return not any(isinstance(m, Of | Refers) for m in info.metadata)


def words_of(annotation: Any) -> tuple[tuple[str, ...], bool]:
    """The bare words that a field takes, and whether it takes quoted strings."""
    words = tuple(w for a in _annotations(annotation) if get_origin(a) is Literal for w in get_args(a))
    return words, any(a is str for a in _annotations(annotation))


@record
class Reading:
    """How the argument of a field is read."""

    marker: Of | Refers | None
    each: bool  # the mark stands on the items of a list
    words: tuple[str, ...]
    quoted: bool
    expected: str


@cache
def reading_of(params: type[Params], name: str) -> Reading:
    info = argument_fields(params)[name]
    marker = marker_of(info)
    words, quoted = words_of(info.annotation)
    return Reading(marker, marker is not None and tuple_of_marked(info), words, quoted, describe(info.annotation))


@cache
def value_words() -> frozenset[str]:
    """Every word that is a value somewhere: `same`, `median`. A `let` may not be called like one.

    Words that are names of arguments as well, like `epochs`, are free: their place tells which is meant.
    """
    fields = [item for operation in TABLE.values() for item in operation.params.annotations()]
    found = {word for _, annotation in fields if not isinstance(annotation, type) for word in words_of(annotation)[0]}
    return frozenset(found | {"all", "full", "float32", "float64", "fast", "int64"}) - {name for name, _ in fields}


def describe(annotation: Any) -> str:
    """What a field takes, in words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return describe(get_args(annotation)[0])
    if origin in (Union, UnionType):
        parts = [describe(a) for a in get_args(annotation) if a is not NoneType]
        return " or ".join(dict.fromkeys(parts))
    if origin is Literal:
        words = get_args(annotation)
        return "one of " + ", ".join(words) if len(words) > 1 else f"`{words[0]}`"
    if origin is tuple:
        inner = get_args(annotation)
        if len(inner) == 2 and inner[1] is not Ellipsis:
            return "a pair [a, b]"
        return f"a list of {plural(describe(inner[0]))}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a string in quotes"}.get(annotation, "a value")


def plural(described: str) -> str:
    """`a whole number or a number` as `numbers`, `a string in quotes` as `strings in quotes`."""
    if "number" in described:
        return "whole numbers" if described == "a whole number" else "numbers"
    return {"a string in quotes": "strings in quotes"}.get(described, "values")
