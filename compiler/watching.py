"""What training watches, as a graph that runs on a few rows: gradients by layer, dead units, activations in their flat ends.

The forward pass is the training's, so its dropout is in it, and the gradient is the objective's. What it means that a layer dies
or saturates is declared by the operation (`dies` and `flat`, ops/activations.py); the graph only reduces that to a few numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from .bundles import Bundle
from .experiment import Application, Network, Ref
from .ir import Graph, Value, apply, origin
from .lower import Parameter
from .objective import Objective
from .ops.channels import other_axes
from .passes import optimised
from .passes.stable import stabilise
from .primitives import total
from .record import record
from .training import gradient_squares


@record
class Watching:
    """Outputs of the graph: `gradient/<layer>`, the sum of squares of the gradient by all trained parameters of a layer;
    `living/<layer>`, for each unit a number above 0 if it lives for any of the rows; `flat/<layer>`, how many activations are flat.
    `flat` says of how many for each row.
    """

    graph: Graph
    layers: dict[str, tuple[Parameter, ...]]
    flat: dict[str, int]


def layer_of(parameter: str) -> str:
    """The path of the layer that a parameter belongs to."""
    return parameter.rpartition("/")[0]


def by_layer(parameters: Sequence[Parameter]) -> dict[str, tuple[Parameter, ...]]:
    """Parameters by the path of their layer, in the order of the network."""
    found: dict[str, tuple[Parameter, ...]] = {}
    for p in parameters:
        found[layer_of(p.name)] = (*found.get(layer_of(p.name), ()), p)
    return found


def watching_graph(objective: Objective, groups: Sequence[Bundle]) -> Watching:
    """Gradients of the objective by each layer that is trained, and how the activations inside the network stand."""
    layers = by_layer([p for bundle in groups for p in bundle.parameters])
    outputs: dict[str, Value] = {}
    squares = gradient_squares(objective, groups)
    with origin("watch"):
        for layer, parameters in layers.items():
            first, *rest = (squares[p.name] for p in parameters)
            outputs[f"gradient/{layer}"] = sum(rest, first)
        flat = {}
        for name, application, a in _hidden(objective):
            extra, p = application.bound.operation.extra, application.bound.params
            living = extra["dies"](a, p) if "dies" in extra else None
            if living is not None:
                axes = (0,) if a.type.rank == 1 else other_axes(a)
                outputs[f"living/{name}"] = apply("reduce_max", living, axes=axes, keepdims=False)
            if "flat" in extra:
                outputs[f"flat/{name}"] = total(apply("cast", extra["flat"](a, p), dtype=a.dtype))
                flat[name] = prod(d for d in a.shape[1:] if isinstance(d, int))
    return Watching(optimised(Graph(outputs).map(stabilise)), layers, flat)


def _hidden(objective: Objective) -> Iterator[tuple[str, Application, Value]]:
    """Applications with their results, each under a name of its own: neither outputs, where certainty is wanted, nor gates, which may be shut."""
    network: Network = objective.network
    aside = {output.ref.application for output in network.outputs}
    for application in network.applications:
        if "product" in application.bound.operation.facts:
            operands = {operand.application for operand in application.operands if isinstance(operand, Ref) and operand.application >= 0}
            aside |= {index for index in operands if "probability" in network.applications[index].bound.operation.facts}
    uses: dict[str, int] = {}
    for index, application in enumerate(network.applications):
        count = uses[application.path] = uses.get(application.path, 0) + 1
        value = objective.forward.results[Ref(index)]
        if index not in aside and value is not None:
            yield application.path if count == 1 else f"{application.path}#{count}", application, value
