"""What compiled code does with addresses: arrays that lie there, functions to call, and numbers that several threads share.

A kernel of the fast engine is a C function `void kernel(const int64 *arguments, int64 part, int64 parts)`: addresses, sizes and attributes lie one
after another in `arguments`, and it does its part of the work, of `parts` that are done side by side.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from .machine_code import Code, numba, text_of

nb = numba()
types = nb.types
F = TypeVar("F", bound=Callable[..., Any])
KERNEL = types.void(types.CPointer(types.int64), types.int64, types.int64)
_PAUSE = {"x86_64": "llvm.x86.sse2.pause", "amd64": "llvm.x86.sse2.pause"}.get(platform.machine().lower(), "")


def intrinsic(function: Callable[..., Any]) -> Any:
    """A function that LLVM's builder writes; compiled code calls it without the first parameter."""
    return nb.extending.intrinsic(function)


def compiled(signature: str | None = None) -> Callable[[F], F]:
    """A function for kernels, or for Python without the interpreter's lock."""

    def made(function: F) -> F:
        result: F = nb.njit(signature, nogil=True, error_model="numpy")(function)
        return result

    return made


class CompiledKernel:
    """A function with C's calling convention that numba compiles."""

    def __init__(self, function: Callable[..., Any], signature: Any = KERNEL, **options: Any):
        self.function, self.signature, self.options = function, signature, options
        self.name, self.__doc__ = function.__name__, function.__doc__

    def compiled(self) -> tuple[str, bytes]:
        """Its name in the object file, and the file."""
        made = nb.cfunc(self.signature, error_model="numpy", **self.options)(self.function)
        return str(made.native_name), bytes(made._library._get_compiled_object())

    @cached_property
    def address(self) -> int:
        module = self.function.__module__.rpartition(".")[2]
        return Code(text_of(module), self.name, lambda: self).address


def kernel(function: Callable[..., None]) -> CompiledKernel:
    return CompiledKernel(function)


def summing(function: Callable[..., None]) -> CompiledKernel:
    """A kernel whose sums LLVM may take in another order, which it needs for vector instructions; NaN and infinity stay what they are."""
    return CompiledKernel(function, fastmath={"reassoc"})


def integers(count: int) -> Callable[[Callable[..., int]], CompiledKernel]:
    """A function of so many integers that gives one."""
    return lambda function: CompiledKernel(function, types.int64(*[types.int64] * count))


@compiled()
def cut(n: int, part: int, parts: int, unit: int) -> tuple[int, int]:
    """First and last of the elements of a part, in whole units."""
    units = (n + unit - 1) // unit
    return min(n, units * part // parts * unit), min(n, units * (part + 1) // parts * unit)


def _pointer(kind: Any) -> Any:
    @intrinsic
    def pointer(context: Any, address: Any) -> Any:
        def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), made

    return pointer


float32_at = _pointer(types.float32)
float64_at = _pointer(types.float64)
boolean_at = _pointer(types.boolean)
int64_at = _pointer(types.int64)
int32_at = _pointer(types.int32)
uint64_at = _pointer(types.uint64)
uint16_at = _pointer(types.uint16)
uint8_at = _pointer(types.uint8)


@intrinsic
def apart(context: Any) -> Any:
    """Promise LLVM that what the pointers of this function point to does not overlap: its loops need no checks then."""

    def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        for argument in builder.function.args:
            if isinstance(argument.type, ir.PointerType):
                argument.add_attribute("noalias")
        return context.get_dummy_value()

    return types.void(), made


@intrinsic
def call(context: Any, function: Any, arguments: Any, part: Any, parts: Any) -> Any:
    """Call the kernel at an address."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        from llvmlite import ir

        number = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [number.as_pointer(), number, number])
        builder.call(builder.inttoptr(given[0], kind.as_pointer()), [builder.inttoptr(given[1], number.as_pointer()), given[2], given[3]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), made


def _shared(builder: Any, address: Any) -> Any:
    from llvmlite import ir

    return builder.inttoptr(address, ir.IntType(64).as_pointer())


@intrinsic
def load(context: Any, address: Any) -> Any:
    """A number that another thread may write; what it wrote before is there too."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.load_atomic(_shared(builder, given[0]), "seq_cst", 8)

    return types.int64(types.int64), made


@intrinsic
def store(context: Any, address: Any, value: Any) -> Any:
    """Write a number for other threads, after everything that was written before."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        builder.store_atomic(given[1], _shared(builder, given[0]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), made


@intrinsic
def exchange(context: Any, address: Any, value: Any) -> Any:
    """Write a shared number; what it was."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.atomic_rmw("xchg", _shared(builder, given[0]), given[1], "seq_cst")

    return types.int64(types.int64, types.int64), made


@intrinsic
def add(context: Any, address: Any, value: Any) -> Any:
    """Add to a shared number; what it was."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.atomic_rmw("add", _shared(builder, given[0]), given[1], "seq_cst")

    return types.int64(types.int64, types.int64), made


@intrinsic
def pause(context: Any) -> Any:
    """Tell the processor that this thread waits."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        from llvmlite import ir

        if _PAUSE:
            function = nb.core.cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), _PAUSE)
            builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), made
