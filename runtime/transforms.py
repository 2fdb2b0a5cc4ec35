"""T x T^T for compiled kernels: x is a small matrix of vectors of float32 somewhere in memory, T is known when the kernel is compiled.

The instructions are written out for T: zeros cost nothing, and what two rows, or two columns, that differ in the signs of every second place
have in common is computed once.
"""

from __future__ import annotations

from typing import Any, Protocol

from .addresses import intrinsic, types
from .interpolation import Matrix, turned
from .vectors import WIDTH, emit_load, emit_load_apart, emit_mask, emit_store, emit_store_apart

Vectors = list[Any]


class Access(Protocol):
    """Where the elements of a matrix lie; compiled code says so with a tuple of numbers."""

    def element(self, builder: Any, given: list[Any], row: int, column: int, count: Any) -> Element:
        """Element row, column, of which the first `count` numbers are meant."""


class Element(Protocol):
    def load(self, context: Any, builder: Any) -> Any: ...
    def store(self, context: Any, builder: Any, value: Any) -> None: ...


class _Run:
    """Numbers beside each other."""

    def __init__(self, at: Any, mask: Any):
        self.at, self.mask = at, mask

    def load(self, context: Any, builder: Any) -> Any:
        return emit_load(context, builder, self.at, self.mask)

    def store(self, context: Any, builder: Any, value: Any) -> None:
        emit_store(context, builder, self.at, value, self.mask)


class _Apart:
    """Numbers `step` bytes from one to the next."""

    def __init__(self, at: Any, step: Any, mask: Any):
        self.at, self.step, self.mask = at, step, mask

    def load(self, context: Any, builder: Any) -> Any:
        return emit_load_apart(context, builder, self.at, self.step, self.mask)

    def store(self, context: Any, builder: Any, value: Any) -> None:
        emit_store_apart(context, builder, self.at, self.step, value, self.mask)


def _number(value: int) -> Any:
    from llvmlite import ir

    return ir.Constant(ir.IntType(64), value)


def _at(builder: Any, start: Any, *steps: tuple[int, Any]) -> Any:
    for times, step in steps:
        if times:
            start = builder.add(start, builder.mul(_number(times), step))
    return start


class Image:
    """(address, bytes to the row below, to the column beside, first row, end of rows, first column, end of columns): what is outside is 0."""

    def element(self, builder: Any, given: list[Any], row: int, column: int, count: Any) -> Element:
        from llvmlite import ir

        at, below, beside, top, bottom, left, right = given
        tests = [(top, "<=", row), (bottom, ">", row), (left, "<=", column), (right, ">", column)]
        inside = ir.Constant(ir.IntType(1), 1)
        for bound, symbol, place in tests:
            inside = builder.and_(inside, builder.icmp_signed(symbol, bound, _number(place)))
        every = ir.IntType(WIDTH)
        chosen = builder.bitcast(builder.select(inside, ir.Constant(every, -1), ir.Constant(every, 0)), ir.VectorType(ir.IntType(1), WIDTH))
        return _Run(_at(builder, at, (row, below), (column, beside)), builder.and_(emit_mask(builder, count), chosen))


class Stack:
    """(address, bytes from an element to the next), row by row in rows of `extent`."""

    def __init__(self, extent: int):
        self.extent = extent

    def element(self, builder: Any, given: list[Any], row: int, column: int, count: Any) -> Element:
        at, apart = given
        return _Run(_at(builder, at, (row * self.extent + column, apart)), emit_mask(builder, count))


class Windows:
    """(address, bytes from an element of a 3x3 window to the next, bytes from window to window): a vector is of as many windows."""

    def element(self, builder: Any, given: list[Any], row: int, column: int, count: Any) -> Element:
        at, by, step = given
        return _Apart(_at(builder, at, (3 * row + column, by)), step, emit_mask(builder, count))


def transform(matrix: Matrix, source: Access, target: Access) -> Any:
    """A function (source, target, count) for kernels: T x T^T of the matrix at the source, of `count` numbers an element, to the target."""

    @intrinsic
    def transformed(context: Any, source_at: Any, target_at: Any, count: Any) -> Any:
        def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            from_, to = ([builder.extract_value(numbers, i) for i in range(len(kind))] for numbers, kind in zip(given, signature.args[:2], strict=False))
            rows, columns = len(matrix), len(matrix[0])
            halves = []
            for column in range(columns):
                x = [source.element(builder, from_, row, column, given[2]).load(context, builder) for row in range(columns)]
                halves.append(_product(builder, matrix, x))
            for row in range(rows):
                for column, value in enumerate(_product(builder, matrix, [half[row] for half in halves])):
                    target.element(builder, to, row, column, given[2]).store(context, builder, value)
            return context.get_dummy_value()

        return types.void(source_at, target_at, count), made

    return transformed


def _twins(matrix: Matrix) -> dict[int, int]:
    """Rows that are others with the signs of every second place turned, by those."""
    alike = [tuple(x if k % 2 == 0 else -x for k, x in enumerate(row)) for row in matrix]
    return {i: j for i in range(len(matrix)) for j in range(i + 1, len(matrix)) if matrix[i] != matrix[j] == alike[i]}


def _product(builder: Any, matrix: Matrix, x: Vectors) -> Vectors:
    """T x."""
    if twins := _twins(matrix):
        found = {}
        for row, numbers in enumerate(matrix):
            terms = [*zip(numbers, x, strict=True)]
            if row in twins:
                even, odd = _sum(builder, terms[::2]), _sum(builder, terms[1::2])
                found[row], found[twins[row]] = builder.fadd(even, odd), builder.fsub(even, odd)
            elif row not in found:
                found[row] = _sum(builder, terms)
        return [found[row] for row in range(len(matrix))]
    twins = _twins(turned(matrix))
    both = {i: (builder.fadd(x[i], x[j]), builder.fsub(x[i], x[j])) for i, j in twins.items()}
    alone = [k for k in range(len(x)) if k not in twins.values()]
    return [_sum(builder, [(numbers[k], both[k][row % 2] if k in both else x[k]) for k in alone]) for row, numbers in enumerate(matrix)]


def _sum(builder: Any, terms: list[tuple[float, Any]]) -> Any:
    """The sum of numbers times vectors; a processor that multiplies and adds in one instruction may."""
    from llvmlite import ir

    total = None
    for number, x in sorted((term for term in terms if term[0] != 0), key=lambda term: term[0] != 1):
        if number != 1 and (total is None or number != -1):
            x = builder.fmul(x, ir.Constant(x.type, [number] * WIDTH), flags=("contract",))
        if total is None:
            total = x
        else:
            total = builder.fsub(total, x) if number == -1 else builder.fadd(total, x, flags=("contract",))
    assert total is not None
    return total
