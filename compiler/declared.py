"""Models that pydantic makes of a class when they are first asked for.

The operation table declares more than a hundred, and a spec names some twenty. Making all of them took 15 ms of every start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import get_annotations
from types import new_class
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

# Annotations lie in one of three, by the version of Python.
_ABOUT = ("__module__", "__qualname__", "__doc__", "__annotations__", "__annotate__", "__annotate_func__")


class _Later(type):
    """A class statement, kept as it was written. What is asked of the class, its model answers; instances of the model count as its own."""

    written: Mapping[str, Any]
    made: type[BaseModel] | None

    def __new__(cls, name: str, bases: tuple[type, ...], written: dict[str, Any]) -> _Later:
        new = super().__new__(cls, name, bases, {key: value for key, value in written.items() if key in _ABOUT})
        new.written, new.made = written, None
        return new

    @property
    def model(cls) -> type[BaseModel]:
        if cls.made is None:
            bases = tuple(base.model for base in cls.__bases__ if isinstance(base, _Later) and base is not Declared)
            cls.made = new_class(cls.__name__, bases or (BaseModel,), exec_body=lambda namespace: namespace.update(cls.written))
        return cls.made

    def annotations(cls) -> Iterator[tuple[str, Any]]:
        """The fields by the names that the language gives them, and their annotations; no model is made for that."""
        for base in cls.__mro__[:-1]:
            assert isinstance(base, _Later)
            for name, annotation in get_annotations(base).items():
                assert not isinstance(annotation, str), f"{base.__module__} leaves its annotations unevaluated"
                field = base.written.get(name)
                yield (field.alias if isinstance(field, FieldInfo) and field.alias else name), annotation

    def __call__(cls, **values: Any) -> Any:
        return cls.model(**values)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.model, name)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.model)


if TYPE_CHECKING:

    class Declared(BaseModel):
        """To a type checker, the model that it becomes."""

        @classmethod
        def annotations(cls) -> Iterator[tuple[str, Any]]: ...

else:

    class Declared(metaclass=_Later):
        """The base of classes that become models; their modules evaluate annotations as they are imported."""
