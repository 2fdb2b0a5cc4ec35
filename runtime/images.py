"""Convolutions and pools as compiled kernels: for a value and its arrays, the kernels to run in turn and what they are given.

The graph's images are [sample, channel, height, width]; the kernels want the channels of a place beside each other. What lies otherwise
is copied first, into work space that the plan has for it (compiler/workspace.py). Work is done in as many lanes as there are threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

import numpy as np

from nnc.compiler.ir import Value
from nnc.compiler.workspace import APART, full_padding, has_depthwise, has_tiles, piece_side

from . import native_depthwise
from .bound import Array, Bound
from .machine_code import Codes
from .threads import workers

dense, patches, pools, winograd = Codes("dense"), Codes("patches"), Codes("pools"), Codes("winograd")
FLOP, MOVE = 0.006, 0.1  # nanoseconds of a product's multiply-add, and of an element that is moved


def kernels(value: Value, arrays: tuple[Array, ...]) -> list[Bound] | None:
    """The kernels of an operation on images; None where it has none."""
    if not has_tiles(value):
        return None
    return list(_POOLS[value.op](value, arrays) if value.op in _POOLS else _convolution(value, arrays))


def _level(x: Array, space: list[Array], rows: list[Bound]) -> Array:
    """The image as [n, h, w, c] without gaps, copied where it lies otherwise."""
    x = x.transpose(0, 2, 3, 1)
    if x.flags.c_contiguous:
        return x
    while space[0].size != x.size:  # meant for an image that lies without gaps after all: of one channel, say
        space.pop(0)
    flat = space.pop(0).reshape(x.shape)
    rows.append(_copy(x, flat))
    return flat


def _copy(x: Array, out: Array) -> Bound:
    axes = [(n, x.strides[i] // 4, out.strides[i] // 4) for i, n in enumerate(x.shape)]
    axes = [(1, 0, 0)] * (4 - len(axes)) + axes
    axes[2:] = sorted(axes[2:], key=lambda axis: (axis[1:] == (1, 1), axis[0]))  # the longer innermost, unless one is a piece of memory in both
    return Bound(dense.copy, (x, out, *(number for axis in axes for number in axis)), x.size * 4 * MOVE)


def _depthwise(value: Value, arrays: tuple[Array, ...]) -> Iterator[Bound]:
    first, second, out, space, *copies = arrays
    rows: list[Bound] = []
    image = _level(first, copies, rows)
    if value.op == "conv2d_weight_gradient":
        g = _level(second, copies, rows)
        yield from [*rows, *native_depthwise.weight_gradient(value, image, g, space, _lanes(space), out)]
        return
    multiplier, _, channels = space.shape
    by_tap = second.reshape(channels, multiplier, -1).transpose(1, 2, 0)
    back = value.op == "conv2d_input_gradient"
    yield from [*rows, _copy(by_tap, space), native_depthwise.convolution(value, image, space, second.shape[2:], out.transpose(0, 2, 3, 1), back=back)]


def _convolution(value: Value, arrays: tuple[Array, ...]) -> Iterator[Bound]:
    if has_depthwise(value):
        yield from _depthwise(value, arrays)
        return
    first, second, out = arrays[:3]
    rows: list[Bound] = []
    side = piece_side(value, len(first))
    count = 3 if side else 2  # arrays of work space before the copies
    space, copies = arrays[3 : 3 + count], list(arrays[3 + count :])
    if value.op == "conv2d":
        x, y = _level(first, copies, rows), out.transpose(0, 2, 3, 1)
        rows += _winograd(side, x, second, y, value.attributes["padding"], space, turned=False) if side else _patches(value, x, second, y, space)
    elif value.op == "conv2d_input_gradient":
        g, x = _level(first, copies, rows), out.transpose(0, 2, 3, 1)
        padding = full_padding(value, value.operands[0], second.shape[2:])
        if side:
            rows += _winograd(side, g, second, x, padding, space, turned=True)
        elif value.attributes["stride"] == (1, 1):
            rows += _turned_patches(value, g, second, x, padding, space)
        else:
            rows += _scattered(value, g, second, x, space)
    else:
        x, g = _level(first, copies, rows), _level(second, copies, rows)
        rows += _winograd_weights(side, value, x, g, out, space) if side else _patch_weights(value, x, g, out, space)
    yield from rows


def _lanes(space: Array) -> int:
    return min(workers(), len(space))


def _share(rows: int, tile: int, lanes: int) -> int:
    """Rows of a tile, at most so many, such that every lane has as many tiles as the others."""
    rounds = ceil(rows / (tile * lanes))
    return ceil(rows / (rounds * lanes))


def _pieces(side: int, x: Array, y: Array, cut: Array, other: Array, middle: Array) -> tuple[Any, ...]:
    """What follows the geometry in the arguments of Winograd's kernels; y is the image of pieces, `middle` what follows the lanes."""
    n, height, width, _ = y.shape
    channels = x.shape[3]
    down, right = -(-height // side), -(-width // side)
    lanes = _lanes(cut)
    tile = (cut.shape[2] - APART) // (right * channels)
    return down, right, n, _share(n * down, tile, lanes), lanes, middle, cut, cut[0].size, cut.shape[2], other, other[0].size, other.shape[2], middle.shape[-1]


def _work(side: int, y: Array, channels: int) -> float:
    return y.size * channels * 2 * ((side + 2) / side) ** 2 * FLOP


def _winograd(side: int, x: Array, w: Array, y: Array, padding: Any, space: tuple[Array, ...], *, turned: bool) -> list[Bound]:
    cut, products, weights = space
    channels, given = x.shape[3], y.shape[3]
    taps = w.shape[1] * 9
    shape = (channels, given, taps, 9, 1) if turned else (channels, given, 9, taps, 0)
    window = Bound(getattr(winograd, f"windows{side}"), (w, *shape, weights, weights.shape[-1]), channels * given * 4.0)
    geometry = x, *x.shape[1:], padding[0][0], padding[1][0], y, *y.shape[1:]
    given_to = (*geometry, *_pieces(side, x, y, cut, products, weights))
    return [window, Bound(getattr(winograd, f"convolution{side}"), given_to, _work(side, y, channels))]


def _winograd_weights(side: int, value: Value, x: Array, g: Array, out: Array, space: tuple[Array, ...]) -> list[Bound]:
    cut, spread, sums = space
    (top, _), (left, _) = value.attributes["padding"]
    pieces = _pieces(side, x, g, cut, spread, sums)
    given = x, *x.shape[1:], top, left, g, *g.shape[1:], *pieces
    return [
        Bound(getattr(winograd, f"weight_gradient{side}"), given, _work(side, g, x.shape[3])),
        Bound(getattr(winograd, f"gathered_windows{side}"), (sums, pieces[4], x.shape[3], g.shape[3], sums.shape[-1], out), out.size * 0.5),
    ]


def _geometry(value: Value, x: Array, y: Array, window: Any, padding: Any, stride: Any) -> tuple[Any, ...]:
    a = value.attributes
    return x, *x.shape[1:], *window, *stride, *a["dilation"], padding[0][0], padding[1][0], y, *y.shape[1:], len(x), a["groups"]


def _tile(columns: Array, y: Array, depth: int, groups: int) -> tuple[int, int]:
    """Rows of a tile, and lanes."""
    lanes, total = _lanes(columns), y.shape[0] * y.shape[1]
    tile = max(1, columns[0].size // (y.shape[2] * (depth // groups)))
    return _share(total, tile, lanes), lanes


def _patches(value: Value, x: Array, w: Array, y: Array, space: tuple[Array, ...]) -> list[Bound]:
    columns, matrix = space
    groups = value.attributes["groups"]
    rows = _matrix(w.reshape(groups, -1, *w.shape[1:]).transpose(0, 3, 4, 2, 1), matrix)
    a = value.attributes
    return [*rows, _tiled(value, x, y, w.shape[2:], a["padding"], a["stride"], columns, matrix)]


def _turned_patches(value: Value, g: Array, w: Array, x: Array, padding: Any, space: tuple[Array, ...]) -> list[Bound]:
    """The convolution of the cotangent with the window turned around, from output channels to input channels."""
    columns, matrix = space
    groups = value.attributes["groups"]
    rows = _matrix(w.reshape(groups, -1, *w.shape[1:])[..., ::-1, ::-1].transpose(0, 3, 4, 1, 2), matrix)
    return [*rows, _tiled(value, g, x, w.shape[2:], padding, (1, 1), columns, matrix)]


def _tiled(value: Value, x: Array, y: Array, window: Any, padding: Any, stride: Any, columns: Array, matrix: Array) -> Bound:
    depth = int(np.prod(window)) * x.shape[3]
    groups = value.attributes["groups"]
    given = (*_geometry(value, x, y, window, padding, stride), *_tile(columns, y, depth, groups), matrix, columns, columns[0].size)
    return Bound(patches.convolution, given, y.size * depth / groups * 2 * FLOP + y.size / y.shape[3] * depth * MOVE)


def _matrix(w: Array, matrix: Array) -> list[Bound]:
    """The weights [group, window's rows and columns, one channel, other channel] as a matrix for each group."""
    return [_copy(some, flat) for some, flat in zip(w, matrix.reshape(w.shape), strict=True)]


def _scattered(value: Value, g: Array, w: Array, x: Array, space: tuple[Array, ...]) -> list[Bound]:
    columns, matrix = space
    a = value.attributes
    groups = a["groups"]
    rows = _matrix(w.reshape(groups, -1, *w.shape[1:]).transpose(0, 1, 3, 4, 2), matrix)
    depth = w.shape[2] * w.shape[3] * x.shape[3]
    tile = max(1, columns[0].size // (g.shape[2] * (depth // groups)))
    given = (*_geometry(value, x, g, w.shape[2:], a["padding"], a["stride"]), tile, _lanes(columns), matrix, columns, columns[0].size)
    return [*rows, Bound(patches.scattered, given, g.size * depth / groups * 2 * FLOP)]


def _patch_weights(value: Value, x: Array, g: Array, out: Array, space: tuple[Array, ...]) -> list[Bound]:
    columns, sums = space
    a = value.attributes
    groups, window = a["groups"], out.shape[2:]
    depth = int(np.prod(window)) * x.shape[3]
    tile, lanes = _tile(columns, g, depth, groups)
    given = (*_geometry(value, x, g, window, a["padding"], a["stride"]), tile, lanes, sums, columns, columns[0].size)
    work = g.size * depth / groups * 2 * FLOP + g.size / g.shape[3] * depth * MOVE
    shape = (lanes, groups, int(np.prod(window)), x.shape[3] // groups, g.shape[3] // groups)
    return [Bound(patches.weight_gradient, given, work), Bound(patches.gathered, (sums, *shape, out), out.size * 2.0)]


def _pool(value: Value, x: Array, y: Array) -> tuple[Any, ...]:
    a = value.attributes
    return x, *x.shape[1:], *a["window"], *a["stride"], a["padding"][0][0], a["padding"][1][0], y, *y.shape[1:3], len(x)


def _forward_pool(value: Value, arrays: tuple[Array, ...]) -> Iterator[Bound]:
    rows: list[Bound] = []
    x = _level(arrays[0], list(arrays[2:]), rows)
    yield from rows
    yield Bound(getattr(pools, value.op), _pool(value, x, arrays[1].transpose(0, 2, 3, 1)), x.size * MOVE)


def _max_pool_gradient(value: Value, arrays: tuple[Array, ...]) -> Iterator[Bound]:
    rows: list[Bound] = []
    copies = list(arrays[4:])
    x, y, g = (_level(image, copies, rows) for image in arrays[:3])
    yield from rows
    a = value.attributes
    alone = a["stride"][0] >= a["window"][0] and a["stride"][1] >= a["window"][1]
    yield Bound(pools.max_pool_gradient, (*_pool(value, x, y), g, arrays[3].transpose(0, 2, 3, 1), int(alone)), x.size * 3 * MOVE)


def _avg_pool_gradient(value: Value, arrays: tuple[Array, ...]) -> Iterator[Bound]:
    rows: list[Bound] = []
    g = _level(arrays[0], list(arrays[2:]), rows)
    yield from rows
    x = arrays[1].transpose(0, 2, 3, 1)
    yield Bound(pools.avg_pool_gradient, _pool(value, x, g), x.size * 3 * MOVE)


_POOLS = {"max_pool": _forward_pool, "avg_pool": _forward_pool, "max_pool_gradient": _max_pool_gradient, "avg_pool_gradient": _avg_pool_gradient}
OPERATIONS = ("conv2d", "conv2d_input_gradient", "conv2d_weight_gradient", *_POOLS)
