"""Sixteen numbers of float32 at once, for kernels that go over the channels of an image.

A kernel written with them needs no proof from LLVM that its many streams of memory do not overlap, and holds what it works on in registers.
LLVM cuts a vector in as many pieces as the processor's registers want. `count` is how many of the sixteen are meant: what lies behind
them is neither read nor written.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from .addresses import intrinsic, nb, types

WIDTH = 16
_BYTES = 4


class _Vector(types.Type):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="float32x16")


vector = _Vector()


@nb.extending.register_model(_Vector)
class _Model(nb.extending.models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any):
        from llvmlite import ir

        super().__init__(manager, kind, ir.VectorType(ir.FloatType(), WIDTH))


def _shape(context: Any) -> Any:
    return context.get_value_type(vector)


def emit_mask(builder: Any, count: Any) -> Any:
    """The mask of the first `count` elements."""
    from llvmlite import ir

    number = ir.IntType(64)
    kind = ir.VectorType(number, WIDTH)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), count, ir.Constant(ir.IntType(32), 0))
    spread = builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))
    return builder.icmp_signed("<", ir.Constant(kind, list(range(WIDTH))), spread)


def _places(builder: Any, address: Any, step: Any) -> Any:
    """Sixteen addresses, `step` bytes from one to the next."""
    from llvmlite import ir

    number = ir.IntType(64)
    kind = ir.VectorType(number, WIDTH)
    first, undefined = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH), ir.Constant(kind, ir.Undefined)
    start, apart = (
        builder.shuffle_vector(builder.insert_element(undefined, x, ir.Constant(ir.IntType(32), 0)), undefined, first) for x in (address, step)
    )
    at = builder.add(start, builder.mul(apart, ir.Constant(kind, list(range(WIDTH)))))
    return builder.inttoptr(at, ir.VectorType(ir.FloatType().as_pointer(), WIDTH))


def _access(builder: Any, name: str, kinds: list[Any], given: list[Any], result: Any) -> Any:
    from llvmlite import ir

    function = nb.core.cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, kinds), f"llvm.masked.{name}")
    return builder.call(function, given)


def _alignment() -> Any:
    from llvmlite import ir

    return ir.Constant(ir.IntType(32), _BYTES)


def emit_load(context: Any, builder: Any, address: Any, mask: Any) -> Any:
    """The instruction of `load`; a mask says which of the sixteen are read."""
    from llvmlite import ir

    shape = _shape(context)
    at = builder.inttoptr(address, shape.as_pointer())
    kinds = [at.type, ir.IntType(32), mask.type, shape]
    return _access(builder, f"load.v{WIDTH}f32.p0", kinds, [at, _alignment(), mask, ir.Constant(shape, None)], shape)


def emit_store(context: Any, builder: Any, address: Any, value: Any, mask: Any) -> None:
    from llvmlite import ir

    at = builder.inttoptr(address, _shape(context).as_pointer())
    kinds = [value.type, at.type, ir.IntType(32), mask.type]
    _access(builder, f"store.v{WIDTH}f32.p0", kinds, [value, at, _alignment(), mask], ir.VoidType())


def emit_load_apart(context: Any, builder: Any, address: Any, step: Any, mask: Any) -> Any:
    from llvmlite import ir

    shape, places = _shape(context), _places(builder, address, step)
    kinds = [places.type, ir.IntType(32), mask.type, shape]
    return _access(builder, f"gather.v{WIDTH}f32.v{WIDTH}p0", kinds, [places, _alignment(), mask, ir.Constant(shape, None)], shape)


def emit_store_apart(context: Any, builder: Any, address: Any, step: Any, value: Any, mask: Any) -> None:
    from llvmlite import ir

    places = _places(builder, address, step)
    kinds = [value.type, places.type, ir.IntType(32), mask.type]
    _access(builder, f"scatter.v{WIDTH}f32.v{WIDTH}p0", kinds, [value, places, _alignment(), mask], ir.VoidType())


@intrinsic
def load(context: Any, address: Any, count: Any) -> Any:
    """The numbers at an address; 0 behind the first `count`."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return emit_load(context, builder, given[0], emit_mask(builder, given[1]))

    return vector(types.int64, types.int64), made


@intrinsic
def store(context: Any, address: Any, value: Any, count: Any) -> Any:
    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        emit_store(context, builder, given[0], given[1], emit_mask(builder, given[2]))
        return context.get_dummy_value()

    return types.void(types.int64, vector, types.int64), made


@intrinsic
def load_apart(context: Any, address: Any, step: Any, count: Any) -> Any:
    """Numbers that lie `step` bytes from one to the next; 0 behind the first `count`."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return emit_load_apart(context, builder, given[0], given[1], emit_mask(builder, given[2]))

    return vector(types.int64, types.int64, types.int64), made


@intrinsic
def store_apart(context: Any, address: Any, step: Any, value: Any, count: Any) -> Any:
    """Write numbers `step` bytes from one to the next."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        emit_store_apart(context, builder, given[0], given[1], given[2], emit_mask(builder, given[3]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, vector, types.int64), made


@intrinsic
def spread(context: Any, number: Any) -> Any:
    """One number sixteen times."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        from llvmlite import ir

        kind = _shape(context)
        one = builder.insert_element(ir.Constant(kind, ir.Undefined), given[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))

    return vector(types.float32), made


def _of_two(compute: Callable[[Any, Any, Any], Any]) -> Any:
    @intrinsic
    def both(context: Any, a: Any, b: Any) -> Any:
        return vector(vector, vector), lambda context, builder, signature, given: compute(builder, given[0], given[1])

    return both


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.or_(builder.fcmp_ordered(">", a, b), builder.fcmp_unordered("uno", a, a)), a, b)


larger = _of_two(_larger)  # NaN stays NaN


@intrinsic
def where_equal(context: Any, a: Any, b: Any, x: Any, y: Any) -> Any:
    """x where a = b, else y."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.select(builder.fcmp_ordered("==", given[0], given[1]), given[2], given[3])

    return vector(vector, vector, vector, vector), made


@intrinsic
def plus_product(context: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once where the processor has an instruction for it."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        from llvmlite import ir

        shape = _shape(context)
        function = nb.core.cgutils.get_or_insert_function(builder.module, ir.FunctionType(shape, [shape] * 3), f"llvm.fmuladd.v{WIDTH}f32")
        return builder.call(function, given)

    return vector(vector, vector, vector), made


def _operator(symbol: Any, instruction: str) -> None:
    def typed(context: Any) -> Any:
        return lambda a, b: vector if isinstance(a, _Vector) and isinstance(b, _Vector) else None

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return getattr(builder, instruction)(*given)

    nb.extending.type_callable(symbol)(typed)
    nb.extending.lower_builtin(symbol, _Vector, _Vector)(made)


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")


def inlined(function: Any) -> Any:
    """A function whose body stands where it is called, so that a `count` of sixteen is known there."""
    return nb.njit(inline="always", error_model="numpy")(function)
