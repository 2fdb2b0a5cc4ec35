"""Numbers for a quantized graph: the grids of its activations, found on real rows, and its weights as whole numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnc.compiler.ir import Graph, Value
from nnc.compiler.quantise import Grid, Stored

from .executor import Arena, Executor
from .kernels import Array, Randomness

SHARES = np.arange(1.0, 0.29, -0.05)  # of what lies above 0, or below, that a grid may cover
MOST_ELEMENTS = 2**17  # of an activation, that shares are compared on
LAST = 255  # the largest of the whole numbers


def grids(values: Sequence[Value], variables: Mapping[str, Array], rows: Mapping[str, Array], batch: int) -> dict[Value, Grid]:
    """The grid of each value: of those over a share of the range that holds 0 and all rows, the one with the smallest squared error."""
    executor = Executor(Graph({str(i): value for i, value in enumerate(values)}), variables, Randomness(0), Arena())
    count = len(next(iter(rows.values())))
    parts: list[list[Array]] = [[] for _ in values]
    lowest, highest = np.zeros(len(values)), np.zeros(len(values))
    for start in range(0, count, batch):
        found = executor.run({name: array[start : start + batch] for name, array in rows.items()})
        for index, kept in enumerate(parts):
            array = found[str(index)]
            lowest[index], highest[index] = min(lowest[index], array.min()), max(highest[index], array.max())
            step = -(-array.size * count // (MOST_ELEMENTS * batch)) | 1  # odd: it meets every channel of an even number
            kept.append(array.ravel()[::step].astype(np.float64))
    return {value: _best(np.concatenate(parts[i]), lowest[i], highest[i]) for i, value in enumerate(values)}


def _best(sample: Array, low: float, high: float) -> Grid:
    """The upper end first, then the lower one."""

    def error(grid: Grid) -> float:
        return float(np.square(sample - _rounded(sample, grid)).mean())

    top = min(SHARES, key=lambda share: error(_grid(low, high * share)))
    bottom = min(SHARES, key=lambda share: error(_grid(low * share, high * top)))
    return _grid(low * bottom, high * top)


def _grid(low: float, high: float) -> Grid:
    """The grid from low <= 0 to high >= 0, with 0 on it."""
    scale = float(np.float32((high - low) / LAST)) or 1.0
    return Grid(scale, min(LAST, round(-low / scale)))


def _rounded(x: Array, grid: Grid) -> Array:
    whole = np.clip(np.rint(x / grid.scale) + grid.zero, 0, LAST)
    return np.asarray((whole - grid.zero) * grid.scale)


def whole_numbers(stored: Sequence[Stored], variables: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays of quantized weights, tables and biases, by name."""
    found: dict[str, Array] = {}
    for kept in stored:
        weight = variables[kept.source].astype(np.float64)
        if kept.transposed:
            weight = weight.T
        axes = tuple(axis for axis in range(weight.ndim) if axis != kept.axis)
        scales = np.abs(weight).max(axes) / kept.levels
        if kept.bias is not None:  # which must fit into 32 bits with the scale of the weight
            bias = variables[kept.bias.source].astype(np.float64).reshape(-1)
            scales = np.maximum(scales, np.abs(bias) / (kept.bias.levels * kept.input_scale))
        scales = np.where(scales > 0, scales, 1.0).astype(np.float32)
        along = scales if kept.axis is None else np.expand_dims(scales, axes)
        found[kept.scales] = scales
        found[kept.integers] = np.rint(weight / along).clip(-kept.levels, kept.levels).astype(np.int8)
        if kept.bias is not None:
            found[kept.bias.scales] = (scales.astype(np.float64) * kept.input_scale).astype(np.float32)
            found[kept.bias.integers] = np.rint(bias / found[kept.bias.scales]).astype(np.int32)
    return found
