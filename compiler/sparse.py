"""Tables of which a step touches few rows: their gradients and updates, by row.

The gradient of a table W that is only looked up, W[i_1], W[i_2], ..., is zero but in the rows i_k. It is kept as the indices with a row for each,
[count] and [count, size], and never as a table. An index may occur several times; `coalesce` gives each occurrence the sum over all of them, so that
whatever an elementwise update makes of it is the same for all, and they may be written to the table in any order. The sum of its squares, one term a row of the
table, is then the dot product of the sums with the parts that were added up.

An update by rows is exact where an element whose gradient is zero stays what it is and leaves the optimiser's state as it is (the fact `sparse`),
and nothing else (a penalty, decay, a constraint) changes it. Elsewhere `lazy=true` asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .experiment import TrainParams
from .ir import Batch, Value, apply, elements, topological
from .lower import Forward, Parameter
from .primitives import dot
from .record import record

LEAST_ELEMENTS = 2**16  # of a table below which a dense update, a few passes over it in one go with other parameters, is as fast
LEAST_SHARE = 8  # rows of the table for each row that a batch may touch


def tables(forward: Forward, train: TrainParams) -> frozenset[str]:
    """The parameters that are updated by rows: where that is exact and worth while, and where the layer asks for it."""
    if "solver" in train.optimizer.operation.facts:
        return frozenset()
    rests = "sparse" in train.optimizer.operation.facts and not train.optimizer.params.weight_decay
    found = set()
    for name, touched in _lookups(forward).items():
        p = forward.parameters[name]
        if penalised(p, train) or not touched:
            continue
        exact = rests and p.constraint is None
        rows, size = p.shape
        worth = isinstance(train.batch, int) and rows * size >= LEAST_ELEMENTS and rows >= LEAST_SHARE * touched * train.batch
        if p.lazy or (exact and worth):
            found.add(name)
    return frozenset(found)


def penalised(p: Parameter, train: TrainParams) -> bool:
    """Whether a penalty gives every element a gradient."""
    return p.decays and bool(train.penalty if p.penalty is None else p.penalty)


def _lookups(forward: Forward) -> dict[str, int]:
    """For each trainable table that is looked up, and used in no other way, how many rows a sample touches."""
    touched: dict[str, int] = {}
    other: set[str] = set()
    roots = [*forward.outputs.values(), *forward.updates.values()]
    for value in topological(roots):
        for place, operand in enumerate(value.operands):
            if operand.op == "variable" and value.op == "gather" and place == 0 and operand.type.rank == 2:
                touched[operand.name] = touched.get(operand.name, 0) + elements(value.operands[1].shape)[0]
            elif operand.op == "variable":
                other.add(operand.name)
    other |= {root.name for root in roots if root.op == "variable"}
    return {name: count for name, count in touched.items() if name not in other and forward.parameters[name].trainable}


def lookups(goal: Value, variables: Sequence[Value]) -> dict[Value, list[Value]]:
    """For each table, where the objective looks it up."""
    found: dict[Value, list[Value]] = {v: [] for v in variables}
    for value in topological([goal]):
        if value.op == "gather" and value.operands[0] in found:
            found[value.operands[0]].append(value)
    return found


@record
class RowGradient:
    """The gradient of a table: at each index the sum over its occurrences, and the sum of the squares of its elements."""

    index: Value
    rows: Value
    square: Value


def row_gradient(places: Sequence[Value], cotangents: Mapping[Value, Value]) -> RowGradient | None:
    """From the cotangents of the lookups of one table; None where nothing depends on it."""
    known = [place for place in places if place in cotangents]
    if not known:
        return None
    size = known[0].shape[-1]
    indices, parts = [], []
    for place in known:
        index = place.operands[1]
        count = Batch(elements(index.shape)[0])
        indices.append(index if index.shape == (count,) else apply("reshape", index, shape=(count,)))
        g = cotangents[place]
        parts.append(g if g.shape == (count, size) else apply("reshape", g, shape=(count, size)))
    index, g = (v[0] if len(v) == 1 else apply("concat", *v, axis=0) for v in (indices, parts))
    rows = apply("coalesce", g, index, rows=known[0].operands[0].shape[0])
    return RowGradient(index, rows, dot(rows, g))
