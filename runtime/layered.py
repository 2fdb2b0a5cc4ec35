"""A drawing of a directed graph in layers (Sugiyama, Tagawa and Toda 1981): every edge goes down, few cross, and each box stands near its neighbours.

A box's layer is the longest way to it. An edge that passes layers takes a place in each of them. In its layer a box stands by the mean place of its
neighbours, upwards and downwards in turn. Its x is as near to the mean of theirs as the gaps between boxes let it be: the least sum of squares in a
given order is an isotonic regression (pool adjacent violators).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

ORDERINGS, PLACINGS = 8, 12
ACROSS, DOWN = 26.0, 44.0  # gaps between boxes, and between layers
PASSING = 12.0  # width of an edge in a layer that it passes
MOST_PASSED = 4000

Edge = tuple[int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class Drawing:
    """The middle of each box's upper edge, the way of each edge from box to box, and the size of all."""

    places: list[Point]
    ways: dict[Edge, list[Point]]
    width: float
    height: float


def drawing(sizes: Sequence[tuple[float, float]], edges: Sequence[Edge]) -> Drawing:
    """Places for boxes [width, height]. Edges lead from a lower number to a higher one."""
    level = _levels(len(sizes), edges)
    widths, of = [width for width, _ in sizes], [*level]
    chains: dict[Edge, list[int]] = {}
    bounded = sum(level[b] - level[a] - 1 for a, b in edges) <= MOST_PASSED
    for a, b in edges:
        passed = [*range(level[a] + 1, level[b])] if bounded else []
        chains[a, b] = [a, *range(len(of), len(of) + len(passed)), b]
        of += passed
        widths += [PASSING] * len(passed)
    above: list[list[int]] = [[] for _ in of]
    below: list[list[int]] = [[] for _ in of]
    for chain in chains.values():
        for a, b in pairwise(chain):
            below[a].append(b)
            above[b].append(a)
    layers: list[list[int]] = [[] for _ in range(max(of, default=-1) + 1)]
    for item, layer in enumerate(of):
        layers[layer].append(item)
    _order(layers, above, below)
    x = _placed(layers, above, below, widths)
    heights = [max((sizes[i][1] for i in layer if i < len(sizes)), default=0.0) for layer in layers]
    tops = [sum(heights[:i]) + DOWN * i for i in range(len(layers))]
    places = [(x[i], tops[level[i]]) for i in range(len(sizes))]
    ways: dict[Edge, list[Point]] = {}
    for (a, b), chain in chains.items():
        between = [point for i in chain[1:-1] for point in ((x[i], tops[of[i]]), (x[i], tops[of[i]] + heights[of[i]]))]
        ways[a, b] = [(x[a], tops[of[a]] + sizes[a][1]), *between, (x[b], tops[of[b]])]
    right = max((x[i] + widths[i] / 2 for i in range(len(x))), default=0.0)
    return Drawing(places, ways, right, tops[-1] + heights[-1] if layers else 0.0)


def _levels(count: int, edges: Sequence[Edge]) -> list[int]:
    """The longest way to each box; what nothing leads to stands right above what it leads to."""
    level, sources = [0] * count, set(range(count))
    for a, b in sorted(edges):
        level[b] = max(level[b], level[a] + 1)
        sources.discard(b)
    lowest: dict[int, int] = {}
    for a, b in edges:
        if a in sources:
            lowest[a] = min(lowest.get(a, level[b]), level[b])
    for a, reached in lowest.items():
        level[a] = reached - 1
    return level


def _order(layers: list[list[int]], above: list[list[int]], below: list[list[int]]) -> None:
    place = {item: float(i) for layer in layers for i, item in enumerate(layer)}
    for sweep in range(ORDERINGS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            near = above if sweep % 2 == 0 else below
            layer.sort(key=lambda item, near=near: _mean([place[o] for o in near[item]], place[item]))  # type: ignore[misc]
            place |= {item: float(i) for i, item in enumerate(layer)}


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _placed(layers: list[list[int]], above: list[list[int]], below: list[list[int]], widths: Sequence[float]) -> list[float]:
    """The middle of each item; the leftmost begins at 0."""
    x = [0.0] * len(widths)
    for layer in layers:
        for item, at in zip(layer, _spread([0.0] * len(layer), [widths[i] for i in layer]), strict=True):
            x[item] = at
    for sweep in range(PLACINGS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            near = above if sweep % 2 == 0 else below
            wanted = [_mean([x[o] for o in near[i]], x[i]) for i in layer]
            for item, at in zip(layer, _spread(wanted, [widths[i] for i in layer]), strict=True):
                x[item] = at
    left = min((at - width / 2 for at, width in zip(x, widths, strict=True)), default=0.0)
    return [at - left for at in x]


def _spread(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Places nearest to those wanted, in their order and without overlap."""
    offsets, at = [], 0.0
    for i, width in enumerate(widths):
        at += (widths[i - 1] + width) / 2 + ACROSS if i else 0.0
        offsets.append(at)
    blocks: list[tuple[float, int]] = []  # mean and size of runs that stand as close as they can
    for target, offset in zip(wanted, offsets, strict=True):
        mean, size = target - offset, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    starts = [mean for mean, size in blocks for _ in range(size)]
    return [start + offset for start, offset in zip(starts, offsets, strict=True)]
