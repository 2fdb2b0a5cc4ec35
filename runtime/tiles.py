"""Tiles of a matrix product, which a core holds in its registers, and blocks of a matrix turned around: what products.py is made of.

A tile is some rows and some vectors of columns of a b. Column after column of a, each of its numbers is multiplied with a row of b, and all is added up
in registers, so that memory is read far less often than numbers are multiplied.
"""

from __future__ import annotations

from typing import Any

from .addresses import intrinsic, nb, types
from .vectors import WIDTH, emit_load, emit_mask, emit_store

LINE = 64  # bytes, on which panels begin


def _vector_at(builder: Any, address: Any, alignment: int) -> Any:
    from llvmlite import ir

    found = builder.load(builder.inttoptr(address, ir.VectorType(ir.FloatType(), WIDTH).as_pointer()))
    found.align = alignment
    return found


def _put(builder: Any, value: Any, address: Any, alignment: int) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = alignment


def tile(rows: int, vectors: int, *, whole: bool, packing: bool = False) -> Any:
    """tile(depth, a, down, right, b, c, below, more, height, width, source, step): c = a b, or c + a b where `more` is not 0.

    a's rows lie `down` bytes from each other and its columns `right`; b is a panel, `vectors` vectors for each of the `depth` rows; c's rows lie `below`
    bytes from each other. A tile that is not `whole` has the first `height` rows and `width` columns only; the rest is neither read nor written.
    One that is `packing` reads b's rows from `source`, `step` bytes from each other, and leaves them in the panel.
    """

    @intrinsic
    def of_product(context: Any, depth: Any, a: Any, down: Any, right: Any, b: Any, c: Any, below: Any, more: Any, height: Any, width: Any, source: Any,
                   step: Any) -> Any:  # fmt: skip
        def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            from llvmlite import ir

            depth, a, down, right, b, c, below, more, height, width, source, step = given
            number, lane = ir.IntType(64), ir.IntType(32)
            shape = ir.VectorType(ir.FloatType(), WIDTH)
            undefined, first = ir.Constant(shape, ir.Undefined), ir.Constant(ir.VectorType(lane, WIDTH), [0] * WIDTH)
            each = range(rows * vectors)
            begin, one, none = ir.Constant(number, 0), ir.Constant(number, 1), ir.Constant(shape, None)
            plus_product = nb.core.cgutils.get_or_insert_function(builder.module, ir.FunctionType(shape, [shape] * 3), f"llvm.fmuladd.v{WIDTH}f32")

            lines = [ir.Constant(number, i) for i in range(rows)]
            if not whole:  # those behind the last are the last once more
                last = builder.sub(height, one)
                lines = [builder.select(builder.icmp_signed("<", i, height), i, last) for i in lines]
            masks = [None if whole else emit_mask(builder, builder.sub(width, ir.Constant(number, WIDTH * v))) for v in range(vectors)]
            of_a = [builder.add(a, builder.mul(down, i)) for i in lines]
            places = [builder.add(builder.add(c, builder.mul(below, i)), ir.Constant(number, 4 * WIDTH * v)) for i in lines for v in range(vectors)]

            before = builder.block
            loop, after, adding, storing = (builder.append_basic_block(name) for name in ("loop", "after", "adding", "storing"))
            builder.branch(loop)
            builder.position_at_end(loop)
            p, along, panel, origin = (builder.phi(number) for _ in range(4))
            sums = [builder.phi(shape) for _ in each]
            beside = [ir.Constant(number, 4 * WIDTH * v) for v in range(vectors)]
            of_b = [_vector_at(builder, builder.add(origin, v), 4) if packing else _vector_at(builder, builder.add(panel, v), LINE) for v in beside]
            if packing:
                for v, x in zip(beside, of_b, strict=True):
                    _put(builder, x, builder.add(panel, v), LINE)
            next_sums = []
            for i in range(rows):
                x = builder.load(builder.inttoptr(builder.add(of_a[i], along), ir.FloatType().as_pointer()))
                x = builder.shuffle_vector(builder.insert_element(undefined, x, ir.Constant(lane, 0)), undefined, first)
                next_sums += [builder.call(plus_product, [x, of_b[v], sums[i * vectors + v]]) for v in range(vectors)]
            moves = ((p, begin, one), (along, begin, right), (panel, b, ir.Constant(number, 4 * WIDTH * vectors)), (origin, source, step))
            for phi, start, following in (*((x, start, builder.add(x, by)) for x, start, by in moves), *((sums[i], none, next_sums[i]) for i in each)):
                phi.add_incoming(start, before)
                phi.add_incoming(following, loop)
            builder.cbranch(builder.icmp_signed("<", p.incomings[1][0], depth), loop, after)

            builder.position_at_end(after)
            builder.cbranch(builder.icmp_signed("!=", more, begin), adding, storing)
            builder.position_at_end(adding)  # all is read before anything is written: a row may stand there more than once
            found = [_vector_at(builder, places[i], 4) if whole else emit_load(context, builder, places[i], masks[i % vectors]) for i in each]
            added = [builder.fadd(x, y) for x, y in zip(found, next_sums, strict=True)]
            builder.branch(storing)
            builder.position_at_end(storing)
            results = [builder.phi(shape) for _ in each]
            for i in each:
                results[i].add_incoming(next_sums[i], after)
                results[i].add_incoming(added[i], adding)
            for i in each:
                if whole:
                    _put(builder, results[i], places[i], 4)
                else:
                    emit_store(context, builder, places[i], results[i], masks[i % vectors])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), made

    return of_product


@intrinsic
def turn(context: Any, source: Any, step: Any, height: Any, width: Any, target: Any, apart: Any) -> Any:
    """Turn a block of 16 x 16 numbers around: rows `step` bytes from each other, of which `height` rows and `width` columns are there, to rows `apart` bytes
    from each other. All sixteen are written; what comes of rows and columns that are not there means nothing.
    """

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        from llvmlite import ir

        source, step, height, width, target, apart = given
        number, kind = ir.IntType(64), ir.VectorType(ir.IntType(32), WIDTH)
        last, mask = builder.sub(height, ir.Constant(number, 1)), emit_mask(builder, width)
        rows = []
        for i in range(WIDTH):
            line = ir.Constant(number, i)
            line = builder.select(builder.icmp_signed("<", line, height), line, last)
            rows.append(emit_load(context, builder, builder.add(source, builder.mul(step, line)), mask))
        for far in (8, 4, 2, 1):  # quarters change places, in ever smaller squares
            low = [WIDTH + (j ^ far) if j & far else j for j in range(WIDTH)]
            high = [WIDTH + j if j & far else j ^ far for j in range(WIDTH)]
            for i in range(WIDTH):
                if not i & far:
                    pair = rows[i], rows[i | far]
                    rows[i], rows[i | far] = (builder.shuffle_vector(*pair, ir.Constant(kind, some)) for some in (low, high))
        for i in range(WIDTH):
            _put(builder, rows[i], builder.add(target, builder.mul(apart, ir.Constant(number, i))), LINE)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), made
