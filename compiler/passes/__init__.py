"""Rewrites of the graph, one concern each. A pass maps roots to roots of the same meaning and the same types."""

from __future__ import annotations

from ..ir import Graph, Value
from .common import eliminate_common
from .products import join_products
from .simplify import simplify
from .stable import stabilise
from .sums import share_sums


def stabilised(graph: Graph) -> Graph:
    """For a graph that is about to be differentiated: losses in their stable forms."""
    return graph.map(stabilise)


def optimised(graph: Graph, *, inference: bool = False) -> Graph:
    """Constants folded, identities removed, equal terms shared. What nothing needs is gone by itself."""

    def all_passes(roots: list[Value]) -> list[Value]:
        shared = eliminate_common(join_products(simplify(roots, inference=inference)))
        return eliminate_common(simplify(share_sums(shared), inference=inference))

    return graph.map(all_passes)
