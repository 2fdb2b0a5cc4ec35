"""Convolutions of 3x3 at stride 1 on the fast engine: Winograd's F(2x2, 3x3) in tiles, sixteen matrix products each.

A tile is some rows of pieces of some samples; its arrays stay in the cache. The transforms are compiled (compiled.py), the products
are the BLAS's. float32 loses nothing: the error is that of summing in another order, below 1e-6 of the largest value.
"""

from __future__ import annotations

import numpy as np

from nnc.compiler.ir import Value, concrete
from nnc.compiler.workspace import APART, full_padding, has_winograd

from . import compiled
from .convolution import Array, Edges, Kernel, Tiles, in_frame, last
from .threads import for_each

_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_TRANSFORM = np.kron(_G, _G).astype(np.float32)  # a 3x3 window, as nine numbers, to 4x4


def winograd(value: Value, n: int) -> Kernel | None:
    """The kernel of a convolution or of its gradients, where this form fits."""
    if not has_winograd(value):
        return None
    padding: Edges = value.attributes["padding"]
    if value.op == "conv2d":
        return _convolution(padding, turned=False)
    if value.op == "conv2d_weight_gradient":
        return _weight_gradient(padding)
    g, w = value.operands
    return _convolution(full_padding(value, g, concrete(w.shape, n)[2:]), turned=True)  # type: ignore[arg-type]


def _pieces(space: Array, count: int, channels: int) -> Array:
    """Work space as [16, count, channels]."""
    return space[:, : count * channels].reshape(16, count, channels)


def _convolution(padding: Edges, *, turned: bool) -> Kernel:
    """`turned`: the input gradient, a convolution of the cotangent with the window turned around, from output channels to input channels."""

    def run(x: Array, w: Array, out: Array, frame: Array, cut: Array, products: Array, weights: Array) -> None:
        x, y = last(x), last(out)
        window = w[:, :, ::-1, ::-1].transpose(2, 3, 0, 1) if turned else w.transpose(2, 3, 1, 0)
        np.matmul(_TRANSFORM, window.reshape(9, -1), weights.reshape(16, -1))
        channels, given = x.shape[3], y.shape[3]
        right, tiles = _tiles(y, frame, cut, channels)

        def lane(i: int) -> None:
            for some in tiles.lanes[i]:
                samples = some.stop - some.start
                framed = in_frame(x[some], frame[i], padding)
                for rows in tiles.rows:
                    count = samples * (rows.stop - rows.start) * right
                    d, m = _pieces(cut[i], count, channels), _pieces(products[i], count, given)
                    compiled.pieces(framed, rows.start, rows.stop, right, d)
                    np.matmul(d, weights, m)
                    compiled.joined(m, rows.start, rows.stop, right, y[some])

        for_each(len(frame), lane)

    return run


def _weight_gradient(padding: Edges) -> Kernel:
    def run(x: Array, g: Array, out: Array, frame: Array, cut: Array, products: Array, part: Array, sums: Array) -> None:
        x, g = last(x), last(g)
        channels, given = x.shape[3], g.shape[3]
        if not g.flags.c_contiguous:
            g = np.ascontiguousarray(g)
        right, tiles = _tiles(g, frame, cut, channels)

        def lane(i: int) -> None:
            first = True
            for some in tiles.lanes[i]:
                samples = some.stop - some.start
                framed = in_frame(x[some], frame[i], padding)
                for rows in tiles.rows:
                    count = samples * (rows.stop - rows.start) * right
                    d, s = _pieces(cut[i], count, channels), _pieces(products[i], count, given)
                    compiled.pieces(framed, rows.start, rows.stop, right, d)
                    compiled.spread(g[some], rows.start, rows.stop, right, s)
                    np.matmul(d.transpose(0, 2, 1), s, sums[i] if first else part[i])
                    if not first:
                        np.add(sums[i], part[i], sums[i])
                    first = False

        for_each(len(frame), lane)
        for other in sums[1:]:
            np.add(sums[0], other, sums[0])
        found = _TRANSFORM.T @ sums[0].reshape(16, -1)
        np.copyto(out, found.reshape(3, 3, channels, given).transpose(3, 2, 0, 1))

    return run


def _tiles(y: Array, frame: Array, cut: Array, channels: int) -> tuple[int, Tiles]:
    """Columns of pieces, and the tiles that the work space is made for."""
    samples, height, width, _ = y.shape
    down, right = -(-height // 2), -(-width // 2)
    rows = (cut.shape[2] - APART) // (frame.shape[1] * right * channels)
    return right, Tiles(samples, down, len(frame), (frame.shape[1], rows))
