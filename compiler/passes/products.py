"""Sums of products: a1^T b1 + a2^T b2 + ... = [a1; a2; ...]^T [b1; b2; ...].

The gradient of a weight that is used at every step of a sequence is such a sum: one product over all steps instead of one a step.
"""

from __future__ import annotations

from collections import Counter

from ..ir import Value, apply, substitute, topological

LEAST = 3  # products that are worth two concatenations


def join_products(roots: list[Value]) -> list[Value]:
    order = topological(roots)
    uses = Counter(o for v in order for o in v.operands)
    uses.update(roots)
    inner = {o for v in order if v.op == "add" for o in v.operands if o.op == "add" and uses[o] == 1 and o.type == v.type}
    replace = {}
    for value in order:
        if value.op == "add" and value not in inner:
            joined = _joined(_terms(value, inner), uses)
            if joined is not None:
                replace[value] = joined
    return substitute(roots, replace) if replace else roots


def _terms(top: Value, inner: set[Value]) -> list[Value]:
    """The terms of a chain of additions, from the left."""
    found, stack = [], [top]
    while stack:
        value = stack.pop()
        if value is top or value in inner:
            stack += reversed(value.operands)
        else:
            found.append(value)
    return found


def _joined(terms: list[Value], uses: Counter[Value]) -> Value | None:
    """The sum with its products made one; None where there are too few."""
    products = [t for t in terms if _is_product(t) and uses[t] == 1]
    if len(products) < LEAST or len({t.type for t in terms}) > 1:
        return None
    left, right = (apply("concat", *(p.operands[i] for p in products), axis=0) for i in range(2))
    result = apply("matmul", left, right, transpose_a=True, transpose_b=False)
    chosen = set(products)
    for term in terms:
        if term not in chosen:
            result = result + term
    return result


def _is_product(value: Value) -> bool:
    return value.op == "matmul" and value.type.rank == 2 and value.attributes["transpose_a"] and not value.attributes["transpose_b"]
