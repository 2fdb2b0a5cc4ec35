"""Layers that move elements or combine tensors without parameters. Axes are those of a sample: the batch is not counted."""

from math import prod

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Value, apply, dims
from ..operation import Build, Kind, NoParams, Params, operation


@operation(Kind.LAYER, facts={"shape"})
def flatten(build: Build, x: Value, p: NoParams) -> Value:
    """All axes of a sample in one, the last fastest. Shape: [...] -> [product]."""
    return apply("reshape", x, shape=(x.shape[0], _count(x)))


class ReshapeParams(Params):
    shape: tuple[int, ...] = Field(min_length=1, description="the new axes; one may be -1, for what remains")


@operation(Kind.LAYER, ReshapeParams, facts={"shape"})
def reshape(build: Build, x: Value, p: ReshapeParams) -> Value:
    """The same elements in the same order under other axes. Shape: [...] -> shape."""
    size, shape = _count(x), p.shape
    known = prod(d for d in shape if d != -1)
    free = shape.count(-1)
    fits = known > 0 and free <= 1 and (size % known == 0 if free else size == known) and all(d == -1 or d > 0 for d in shape)
    if not fits:
        raise Refusal("E304", at="shape", label=f"{dims(shape)} holds {'a multiple of ' if free else ''}{known} elements",
                      help=f"choose axes whose product is {size}", operand=f"a sample here is {dims(x.shape[1:])}: {size} elements",
                      size=size, shape=dims(shape))  # fmt: skip
    return apply("reshape", x, shape=(x.shape[0], *(size // known if d == -1 else d for d in shape)))


def _count(x: Value) -> int:
    return prod(d for d in x.shape[1:] if isinstance(d, int))


class TransposeParams(Params):
    order: tuple[int, ...] = Field(min_length=1, description="the axes of a sample in their new order, counted from 0")


@operation(Kind.LAYER, TransposeParams, facts={"shape"})
def transpose(build: Build, x: Value, p: TransposeParams) -> Value:
    """The axes in another order. Shape: the axes of the input in that order."""
    rank = x.type.rank - 1
    if sorted(p.order) != list(range(rank)):
        raise Refusal("E309", at="order", label=f"a sample has {rank} axes", help=f"name each of 0..{rank - 1} once", axis=dims(p.order))
    return apply("transpose", x, order=(0, *(a + 1 for a in p.order)))


class SplitParams(Params):
    parts: int | tuple[int, ...] = Field(description="number of equal parts, or the length of each")
    axis: int = Field(-1, description="the axis that is cut")

    @property
    def count(self) -> int:
        return self.parts if isinstance(self.parts, int) else len(self.parts)


@operation(Kind.LAYER, SplitParams, outputs=lambda p: max(1, p.count), facts={"shape"})
def split(build: Build, x: Value, p: SplitParams) -> tuple[Value, ...]:
    """Several tensors, cut from one on an axis: `a, b = x -> split(2)`. Shape: the input's, but for the axis."""
    rank = x.type.rank - 1
    if not -rank <= p.axis < rank:
        raise Refusal("E309", at="axis", label=f"a sample has {rank} axes", help=f"use an axis from {-rank} to {rank - 1}", axis=p.axis)
    axis = p.axis % rank + 1
    length = x.shape[axis]
    assert isinstance(length, int)
    sizes = (length // max(1, p.parts),) * p.parts if isinstance(p.parts, int) else p.parts
    if sum(sizes) != length or min(sizes, default=0) < 1:
        raise Refusal("E304", at="parts", label=f"{p.parts if isinstance(p.parts, int) else dims(p.parts)} of an axis of {length}", size=length,
                      operand=f"a sample here is {dims(x.shape[1:])}", shape=f"{p.count} parts", help="choose parts that sum to the axis")  # fmt: skip
    found, start = [], 0
    for size in sizes:
        found.append(apply("slice", x, axis=axis, start=start, stop=start + size))
        start += size
    return tuple(found)


class ConcatParams(Params):
    axis: int | None = Field(None, description="the axis to join on; channels when not given")


@operation(Kind.LAYER, ConcatParams, operands=None, facts={"merge"})
def concat(build: Build, *tensors: Value, p: ConcatParams) -> Value:
    """The tensors one after another on an axis: of channels for images, the last for everything else.

    All other axes must be equal. Shape: that of the tensors, their lengths on the axis added.
    """
    first = tensors[0]
    rank = first.type.rank - 1
    _same_dtype("concat", tensors)
    for other in tensors[1:]:
        if other.type.rank != first.type.rank:
            raise _differ("concat", first, other, "reshape one of them")
    if rank == 0:
        tensors = tuple(apply("reshape", t, shape=(t.shape[0], 1)) for t in tensors)
        first, rank = tensors[0], 1
    chosen = p.axis if p.axis is not None else (0 if rank == 3 else -1)
    if not -rank <= chosen < rank:
        raise Refusal("E309", at="axis", label=f"a sample has {rank} axes", help=f"use an axis from {-rank} to {rank - 1}",
                      axis=chosen)  # fmt: skip
    axis = chosen % rank + 1
    for other in tensors[1:]:
        if any(a != b for i, (a, b) in enumerate(zip(first.shape, other.shape, strict=True)) if i != axis):
            raise _differ("concat", first, other, f"only axis {axis - 1} may differ")
    return apply("concat", *tensors, axis=axis)


@operation(Kind.LAYER, operands=None, facts={"merge"})
def add(build: Build, *tensors: Value, p: NoParams) -> Value:
    """a + b + ..., elementwise, on equal shapes."""
    return _fold("add", tensors)


@operation(Kind.LAYER, operands=None, facts={"merge"})
def subtract(build: Build, *tensors: Value, p: NoParams) -> Value:
    """a - b, elementwise, on equal shapes; written a - b."""
    return _fold("subtract", tensors)


@operation(Kind.LAYER, operands=None, facts={"merge", "product"})
def multiply(build: Build, *tensors: Value, p: NoParams) -> Value:
    """a * b * ..., elementwise, on equal shapes."""
    return _fold("multiply", tensors)


@operation(Kind.LAYER, operands=None, facts={"merge"})
def divide(build: Build, *tensors: Value, p: NoParams) -> Value:
    """a / b, elementwise, on equal shapes; written a / b."""
    return _fold("divide", tensors)


def _fold(primitive: str, tensors: tuple[Value, ...]) -> Value:
    _same_dtype(primitive, tensors)
    result = tensors[0]
    for other in tensors[1:]:
        if other.shape != result.shape and () not in (other.shape, result.shape):
            raise _differ(primitive, result, other, "make the shapes equal, for instance with dense or reshape")
        result = apply(primitive, result, other)
    return result


def _same_dtype(operation: str, tensors: tuple[Value, ...]) -> None:
    dtypes = [t.dtype for t in tensors]
    if len(set(dtypes)) > 1:
        raise Refusal("E305", label=f"the tensors are {' and '.join(dict.fromkeys(dtypes))}", help="embed or one-hot the integers first",
                      operation=operation, dtype=" with ".join(dict.fromkeys(dtypes)))  # fmt: skip


def _differ(operation: str, a: Value, b: Value, help: str) -> Refusal:
    return Refusal("E302", label=f"{dims(a.shape[1:])} and {dims(b.shape[1:])}", help=help, operation=operation,
                   operand=f"this is {dims(a.shape[1:])}")  # fmt: skip
