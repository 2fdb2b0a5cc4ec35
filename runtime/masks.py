"""Random masks as a compiled kernel, the bits of NumPy's: Philox4x64 with ten rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
counted as NumPy counts. A block is four 64-bit words, from which sixteen numbers come; eight blocks are made at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .addresses import cut, intrinsic, kernel, types, uint64_at
from .vectors import WIDTH, emit_mask, emit_store, vector

BLOCKS = 8
FACTORS, STEPS = (0xD2E7470EE14C6C93, 0xCA5A826395121157), (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
u64 = np.uint64


def _same(kind: Any, number: int) -> Any:
    from llvmlite import ir

    return ir.Constant(kind, [number] * kind.count)


def _spread(builder: Any, number: Any, count: int) -> Any:
    from llvmlite import ir

    kind = ir.VectorType(number.type, count)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), _same(ir.VectorType(ir.IntType(32), count), 0))


def _product(builder: Any, x: Any, factor: int) -> tuple[Any, Any]:
    """The upper and the lower 64 bits of each product, from products of 32 bits."""
    kind = x.type
    low, half = _same(kind, 0xFFFFFFFF), _same(kind, 32)
    of_low, of_high = _same(kind, factor & 0xFFFFFFFF), _same(kind, factor >> 32)
    upper, lower = builder.lshr(x, half), builder.and_(x, low)
    middle = builder.add(builder.mul(upper, of_low), builder.lshr(builder.mul(lower, of_low), half))
    other = builder.add(builder.mul(lower, of_high), builder.and_(middle, low))
    high = builder.add(builder.add(builder.mul(upper, of_high), builder.lshr(middle, half)), builder.lshr(other, half))
    return high, builder.mul(x, _same(kind, factor))


@intrinsic
def _masks(context: Any, out: Any, size: Any, counter: Any, step: Any, key_0: Any, key_1: Any, threshold: Any) -> Any:
    """The numbers of the blocks from `counter` on: 1 for each 16 bits that are below the threshold, 0 for others, of which `size` are written."""

    def made(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        from llvmlite import ir

        out, size, counter, step, *keys, threshold = given
        number, lane = ir.IntType(64), ir.IntType(32)
        kind, bits, shape = ir.VectorType(number, BLOCKS), ir.VectorType(ir.IntType(16), WIDTH), context.get_value_type(vector)
        none = _same(kind, 0)
        x = [builder.add(_spread(builder, counter, BLOCKS), ir.Constant(kind, [*range(BLOCKS)])), none, _spread(builder, step, BLOCKS), none]
        for turn in range(10):
            k0, k1 = (_spread(builder, builder.add(key, ir.Constant(number, turn * more % 2**64)), BLOCKS) for key, more in zip(keys, STEPS, strict=True))
            (h0, l0), (h1, l1) = _product(builder, x[0], FACTORS[0]), _product(builder, x[2], FACTORS[1])
            x = [builder.xor(builder.xor(h1, x[1]), k0), l1, builder.xor(builder.xor(h0, x[3]), k1), l0]
        places = ir.VectorType(lane, 2 * BLOCKS)
        pairs = [builder.shuffle_vector(x[i], x[i + 1], ir.Constant(places, [j // 2 + j % 2 * BLOCKS for j in range(2 * BLOCKS)])) for i in (0, 2)]
        limit = _spread(builder, builder.trunc(threshold, ir.IntType(16)), WIDTH)
        for block in range(BLOCKS):
            at = ir.Constant(ir.VectorType(lane, 4), [2 * block, 2 * block + 1, 2 * (BLOCKS + block), 2 * (BLOCKS + block) + 1])
            words = builder.shuffle_vector(*pairs, at)
            below = builder.uitofp(builder.icmp_unsigned("<", builder.bitcast(words, bits), limit), shape)
            mask = emit_mask(builder, builder.sub(size, ir.Constant(number, WIDTH * block)))
            emit_store(context, builder, builder.add(out, ir.Constant(number, 4 * WIDTH * block)), below, mask)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, *[types.uint64] * 5), made


@kernel
def bernoulli(a: Any, part: int, parts: int) -> None:
    """out, size, key 0, key 1, address of the step, threshold: 1 where 16 random bits are below it."""
    step = uint64_at(a[4])[0]
    first, last = cut(a[1], part, parts, BLOCKS * WIDTH)
    for start in range(first, last, BLOCKS * WIDTH):
        _masks(a[0] + 4 * start, last - start, u64(start // WIDTH + 1), step, u64(a[2]), u64(a[3]), u64(a[5]))
