"""What the parameter models take and refuse, and that every refusal has words of the language."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

import nnc
from nnc.compiler import ops
from nnc.compiler.experiment import ExportParams, TrainParams
from nnc.compiler.fields import argument_fields, value_words, words_of
from nnc.compiler.operation import TABLE, Bound, Kind, Params, Reference, Weighted
from nnc.compiler.pipeline import analyse
from nnc.compiler.resolve import _BOUNDS, _TYPE_ERRORS
from nnc.compiler.source import Source, Span

assert ops.__all__  # importing the families fills the table

MODELS = sorted({operation.params for operation in TABLE.values()} | {TrainParams, ExportParams}, key=lambda model: (model.__module__, model.__name__))
FIELDS = [(model, name, field) for model in MODELS for name, field in argument_fields(model).items()]
LIMITLESS = float("inf")


def refused(model: type[Params], name: str, value: Any) -> set[str]:
    """What pydantic says against the value of a field."""
    try:
        model(**{name: value})
    except ValidationError as error:
        return {item["type"] for item in error.errors() if item["loc"][0] == name}
    return set()


def taking(kind: type) -> list[Any]:
    """The fields that take values of a type, and of no other but None."""

    def takes(field: FieldInfo) -> bool:
        return field.annotation is kind or set(get_args(field.annotation)) == {kind, type(None)}

    found = [pytest.param(model, name, id=f"{model.__module__.rpartition('.')[2]}.{model.__name__}.{name}") for model, name, field in FIELDS if takes(field)]
    assert len(found) > 5
    return found


@pytest.mark.parametrize(("model", "name"), taking(int))
def test_a_whole_number_is_no_truth_and_no_number_with_a_point(model: type[Params], name: str) -> None:
    assert all(refused(model, name, value) for value in (True, False, 3.0, 2.5, "3", LIMITLESS, (3,)))


@pytest.mark.parametrize(("model", "name"), taking(float))
def test_a_number_is_finite_and_no_truth(model: type[Params], name: str) -> None:
    assert all(refused(model, name, value) for value in (True, False, "0.5", LIMITLESS, -LIMITLESS, float("nan"), 10**400, 1j))


@pytest.mark.parametrize(("model", "name"), taking(bool))
def test_a_truth_is_no_number(model: type[Params], name: str) -> None:
    assert all(refused(model, name, value) for value in (0, 1, 1.0, "true"))


def samples() -> list[Any]:
    adam = TABLE[Kind.OPTIMISER, "adam"]
    bound = Bound(adam, adam.params())
    items = [1, 0, 2.5, float("nan"), True, "a", None, Reference("a", Span(0, 1)), bound, Weighted(1.0, bound)]
    words = sorted({word for _, _, field in FIELDS for word in words_of(field.annotation)[0]})
    numbers = [False, -1, 27, 2**63, 10**400, 0.0, 0.5, 1.5, -1e-9, 1e300, LIMITLESS]
    tuples = [(), *((a,) for a in items), *((a, b) for a in items for b in items), (1, 2, 3), (1, "a", 0.5), ((1, 2),)]
    return [*items, *numbers, "", *words, *tuples]


def test_whatever_pydantic_says_has_words_of_the_language() -> None:
    values = samples()
    seen: set[str] = set()
    for model, name, _ in FIELDS:
        for value in values:
            kinds = refused(model, name, value)
            told = kinds - {"missing"}  # a pair that is too short is no whole number either
            assert bool(told) == bool(kinds), f"{model.__name__}({name}={value!r}): {kinds}"
            assert told <= _BOUNDS.keys() | _TYPE_ERRORS, f"{model.__name__}({name}={value!r}): {kinds}"
            seen |= told
    assert {"int_type", "float_type", "bool_type", "literal_error", "finite_number", "greater_than", "too_short"} <= seen


@pytest.mark.parametrize(
    ("layer", "code", "texts"),
    [
        ("dense(true)", "E206", ("this is true", "units", "give a whole number")),
        ("dense(3.0)", "E206", ("write units=3",)),
        ("dense(7 / 2)", "E206", ("divide with `//`",)),
        ("dense(0)", "E207", ("at least 1", "use units=1, or more")),
        ("dense(3, bias=1)", "E206", ("this is 1", "true or false")),
        ("dense(3) -> dropout(true)", "E206", ("this is true", "a number")),
        ("dense(3) -> dropout(30)", "E207", ("less than 1", "did you mean 30%?")),
        ('dense("3")', "E206", ("this is a string", "a whole number")),
        ("dense(3) -> elu(-1)", "E207", ("greater than 0", "give a number greater than 0")),
    ],
)
def test_what_is_wrong_with_an_argument_is_said_in_words(layer: str, code: str, texts: tuple[str, ...]) -> None:
    with pytest.raises(nnc.SpecError) as caught:
        analyse(Source("", f"network(x: float32[4]) {{ return y = x -> {layer} }}"), root=None)
    (found,) = caught.value.diagnostics
    said = f"{found.title} {found.label} {found.help}"
    assert found.code == code
    assert all(text in said for text in texts), said


def test_everything_that_is_wrong_with_a_call_is_said_at_once() -> None:
    with pytest.raises(nnc.SpecError) as caught:
        analyse(Source("", "network(x: float32[4]) { return y = x -> dense(true, bias=3) -> dropout(-1) }"), root=None)
    assert [found.code for found in caught.value.diagnostics] == ["E206", "E206", "E207"]


def test_what_a_class_says_of_its_fields_is_what_its_model_says() -> None:
    for operation in TABLE.values():
        assert dict(operation.params.annotations()).keys() == argument_fields(operation.params).keys()
    words = {word for operation in TABLE.values() for field in argument_fields(operation.params).values() for word in words_of(field.annotation)[0]}
    assert value_words() >= words - {name for operation in TABLE.values() for name in argument_fields(operation.params)}
    assert {"same", "median"} <= value_words()
    assert not value_words() & {"epochs", "units"}
