"""Common subexpressions: equal primitives on equal operands are one value."""

from __future__ import annotations

from collections.abc import Hashable

from ..ir import Value, rewrite


def eliminate_common(roots: list[Value]) -> list[Value]:
    known: dict[Hashable, Value] = {}

    def share(value: Value) -> Value:
        # 0.0 and -0.0, and 1 and 1.0, are equal and must stay apart: repr tells them apart.
        attributes = tuple(sorted((k, repr(v)) for k, v in value.attributes.items()))
        return known.setdefault((value.op, value.operands, attributes, value.type), value)

    return rewrite(roots, share)
