"""Invariants of a graph. Tests run it between passes; a violation is a bug of the compiler."""

from __future__ import annotations

from .ir import Graph, Value


def verify(graph: Graph) -> None:
    """Types follow from the operands; names of leaves are unique; an update has its variable's type."""
    named: dict[tuple[str, str], Value] = {}
    for value in graph.order():
        inferred = value.primitive.infer(*(o.type for o in value.operands), **value.attributes)
        assert inferred == value.type, f"{value!r} is {value.type}, its rule says {inferred}"
        if value.op in ("input", "variable", "scalar"):
            known = named.setdefault((value.op, value.name), value)
            assert known.type == value.type, f"{value.op} {value.name} is {known.type} and {value.type}"
    for name, new in graph.updates.items():
        known = named.get(("variable", name), new)
        assert known.type == new.type, f"update of {name} is {new.type}, the variable {known.type}"
