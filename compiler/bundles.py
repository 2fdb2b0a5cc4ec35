"""Parameters of equal treatment in one flat array, so that an update is a few long elementwise operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from math import prod

from .ir import TensorType, Value, apply
from .lower import Forward, Parameter
from .record import record


@record
class Bundle:
    """Parameters that are updated alike, in one flat array: learning rate times `rate`, decayed or not.

    A table that is updated by rows (sparse.py) is a bundle of its own, and the step sees it in its own shape.
    """

    name: str
    parameters: tuple[Parameter, ...]
    rate: float
    decays: bool
    sparse: bool = False

    @property
    def size(self) -> int:
        return sum(prod(p.shape) for p in self.parameters)

    @property
    def constrained(self) -> bool:
        return any(p.constraint is not None for p in self.parameters)

    def starts(self) -> list[int]:
        """Where each parameter begins."""
        starts, at = [], 0
        for p in self.parameters:
            starts.append(at)
            at += prod(p.shape)
        return starts


def bundles(
    parameters: Sequence[Parameter], rate: Callable[[str], float], frozen: Callable[[str], bool], decay: bool, sparse: Set[str] = frozenset()
) -> tuple[Bundle, ...]:
    """Trainable parameters that are not frozen, by rate and, under weight decay, by whether they decay; `sparse` tables after them."""
    grouped: dict[tuple[float, bool], list[Parameter]] = {}
    tables: list[Parameter] = []
    for p in parameters:
        if not p.trainable or frozen(p.name):
            continue
        if p.name in sparse:
            tables.append(p)
        else:
            grouped.setdefault((rate(p.name), decay and p.decays), []).append(p)
    flat = [Bundle(f"theta{i}", tuple(found), key[0], key[1]) for i, (key, found) in enumerate(grouped.items())]
    by_rows = [Bundle(f"theta{i}", (p,), rate(p.name), decay and p.decays, sparse=True) for i, p in enumerate(tables, len(flat))]
    return (*flat, *by_rows)


def apart(groups: Sequence[Bundle]) -> tuple[Bundle, ...]:
    """Each parameter as a bundle of its own, under its own name."""
    return tuple(replace(bundle, name=p.name, parameters=(p,)) for bundle in groups for p in bundle.parameters)


def flat_variable(bundle: Bundle, dtype: str) -> Value:
    return apply("variable", name=bundle.name, type=TensorType(dtype, (bundle.size,)))


def flat_parts(forward: Forward, groups: Sequence[Bundle]) -> dict[Value, Value]:
    """Each trained parameter as a part of its bundle's flat array."""
    parts = {}
    for bundle in groups:
        theta = flat_variable(bundle, forward.dtype)
        for p, start in zip(bundle.parameters, bundle.starts(), strict=True):
            parts[forward.variables[p.name]] = apply("part", theta, start=start, shape=p.shape)
    return parts


def held(flat: Value, bundle: Bundle) -> Value:
    """The flat array of a bundle with every constraint on its parts."""
    parts = []
    for p, start in zip(bundle.parameters, bundle.starts(), strict=True):
        part = apply("part", flat, start=start, shape=p.shape)
        if p.constraint is not None:
            bound, incoming = p.constraint
            part = bound.operation.function(part, incoming, bound.params)
        parts.append(part)
    return apply("pack", *parts)
