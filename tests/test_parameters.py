"""Parameter models take and refuse what pydantic's strict mode takes and refuses, for the same reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, get_args

import pydantic
import pytest

from nnc.compiler import ops
from nnc.compiler.experiment import ExportParams, TrainParams
from nnc.compiler.operation import TABLE, Bound, Kind, Reference, Weighted
from nnc.compiler.parameters import Argument, Field, Misfit, Misfits, NoParams, Params, arguments_of
from nnc.compiler.source import Span

assert ops.__all__  # importing the families fills the table

MODELS = sorted({operation.params for operation in TABLE.values()} | {TrainParams, ExportParams}, key=lambda model: model.__name__)
LIMITS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le", "too_short": "min_length",
          "string_too_short": "min_length", "too_long": "max_length", "string_too_long": "max_length", "finite_number": "finite"}  # fmt: skip


def samples() -> list[Any]:
    adam = TABLE[Kind.OPTIMISER, "adam"]
    bound = Bound(adam, adam.params())
    numbers = [True, False, 0, 1, -1, 2, 3, 12, 13, 27, 2**63, 0.0, -0.0, 0.5, 1.0, 1.5, -1e-9, 1e300, float("inf"), float("nan")]
    items = [1, 0, 2.5, float("nan"), True, "a", None, Reference("a", Span(0, 1)), bound, Weighted(1.0, bound)]
    words = sorted({word for model in MODELS for field in arguments_of(model).values() for word in _words(field.annotation)})
    tuples = [(), *((a,) for a in items), *((a, b) for a in items for b in items), (1, 2, 3), (1, 2, float("inf")), (1, "a", 0.5), ((1, 2),)]
    return [*numbers, None, "", "a", "ab", "1", *words, *tuples, [1, 2], {1: 2}, b"a", *items[-3:], 1j]


def _words(annotation: Any) -> set[str]:
    return {annotation} if isinstance(annotation, str) else {word for part in get_args(annotation) for word in _words(part)}


SAMPLES = samples()


def translated(annotation: Any) -> Any:
    """The annotation with pydantic's fields in place of ours."""
    if getattr(annotation, "__metadata__", None):
        marks = [pydantic.Field(**dict(mark.limits)) if isinstance(mark, Argument) else mark for mark in annotation.__metadata__]
        return Annotated[(translated(annotation.__origin__), *marks)]
    inside = get_args(annotation)
    if not inside or all(isinstance(part, str) for part in inside):
        return annotation
    if getattr(annotation, "__origin__", None) is tuple:
        return tuple[tuple(part if part is Ellipsis else translated(part) for part in inside)]  # type: ignore[misc]
    whole = translated(inside[0])
    for part in inside[1:]:
        whole = whole | translated(part)
    return whole


def theirs(field: Argument) -> Callable[[Any], Any]:
    """What pydantic makes of a value: the value, or why it is refused."""
    config = pydantic.ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    limits: dict[str, Any] = dict(field.limits)
    model: Any = pydantic.create_model("Model", __config__=config, value=(translated(field.annotation), pydantic.Field(**limits)))

    def made(value: Any) -> Any:
        try:
            return model(value=value).value
        except pydantic.ValidationError as error:
            kinds = [LIMITS.get(item["type"], "type") for item in error.errors()]
            kinds = [kind for kind in kinds if kind != "min_length"] or kinds  # it counts the items that fit
            return Misfit(next((kind for kind in kinds if kind != "type"), "type"))

    return made


def ours(field: Argument) -> Callable[[Any], Any]:
    space = {"__annotations__": {"value": field.annotation}, "value": Field(**dict(field.limits))}
    model: Any = type("Model", (Params,), space)

    def made(value: Any) -> Any:
        try:
            return model(value=value).value
        except Misfits as misfits:
            return misfits.found["value"]

    return made


@pytest.mark.parametrize("model", [model for model in MODELS if arguments_of(model)], ids=lambda model: model.__name__)
def test_what_a_field_takes_is_what_pydantic_takes(model: type[Params]) -> None:
    for name, field in arguments_of(model).items():
        mine, other = ours(field), theirs(field)
        for value in SAMPLES:
            found, expected = mine(value), other(value)
            said = f"{name}={value!r}: {found!r}, pydantic {expected!r}"
            assert type(found) is type(expected), said
            assert (found.what == expected.what) if isinstance(expected, Misfit) else (found == expected), said


def test_a_whole_number_that_no_float_holds_is_not_finite() -> None:
    with pytest.raises(Misfits, match="value: finite"):
        Single(value=10**400)


class Single(Params):
    value: float = Field(description="a number")
    other_: int = Field(3, alias="other", lt=5, description="a whole number")


def test_a_model_is_equal_by_its_values_and_changed_into_another() -> None:
    assert Single(value=1) == Single(value=1.0, other=3)
    assert hash(Single(value=1)) == hash(Single(value=1.0))
    assert Single(value=1) != Single(value=2)
    assert Single(value=1).changed(value=2.0) == Single(value=2)
    assert Single(value=1) != NoParams()
    assert repr(Single(value=1)) == "Single(value=1.0, other_=3)"
    assert Single.unchecked({"other": "refused"}).other_ == "refused"  # type: ignore[comparison-overlap]


def test_everything_that_is_wrong_with_a_model_is_found_at_once() -> None:
    with pytest.raises(Misfits) as caught:
        Single(other=7)
    assert {name: misfit.what for name, misfit in caught.value.found.items()} == {"value": "missing", "other": "lt"}
    assert caught.value.found["other"].limit == 5


def test_names_that_no_field_has_are_mistakes_of_ours() -> None:
    with pytest.raises(AssertionError, match="lrr"):
        Single(value=1, lrr=2)  # type: ignore[call-arg]
    with pytest.raises(AssertionError, match="gte"):
        Field(gte=2)
