"""Scales and shifts behind a linear step, such as batch normalisation in inference, taken into its weights: s (W x + b) + t = (s W) x + (s b + t).

A chain begins at a product with fixed weights or at a convolution and goes on while each value has one user: through additions and products
of fixed numbers and through changes of shape, as long as every unit of the linear step has a scale and a shift of its own, the same at all places. It is
replaced where something in it multiplies by learned numbers. What belongs to data steps stays as it is: a column's units are to be read off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nnc.compiler.ir import Graph, TensorType, Value, apply, concrete, constant_of, origin, rebuild

from .kernels import Array

LINEAR = ("matmul", "conv2d", "conv2d_input_gradient")
AFFINE = ("add", "subtract", "multiply", "divide", "negative")
VIEWS = ("reshape", "transpose")


@dataclass(frozen=True)
class Chain:
    """view(scale * linear + shift), with a scale and a shift for each unit."""

    linear: Value
    scale: Array
    shift: Array
    views: tuple[Value, ...] = ()
    learned: bool = False  # whether a scale of it is learned

    def units(self, number: Array, value: Value) -> Array | None:
        """Numbers that meet a value of the chain, one for each unit; None where they differ between the places of a unit."""
        whole = np.broadcast_to(number, concrete(value.shape, 1))
        for view in reversed(self.views):
            if view.op == "transpose":
                whole = whole.transpose(np.argsort(view.attributes["order"]))
            else:
                whole = whole.reshape(concrete(view.operands[0].shape, 1))
        by_unit = np.moveaxis(whole, _axis(self.linear), 0).reshape(len(self.scale), -1)
        return by_unit[:, 0].astype(np.float64) if (by_unit == by_unit[:, :1]).all() else None


class Weights:
    """The arrays of a graph and the new ones; equal weights that are used twice are one variable."""

    def __init__(self, arrays: Mapping[str, Array]):
        self.arrays = dict(arrays)
        self.made: dict[str, Value] = {}

    def variable(self, name: str, array: Array, kind: TensorType) -> Value:
        while name in self.arrays and not (name in self.made and np.array_equal(self.arrays[name], array)):
            name += "_"
        self.arrays[name] = array
        return self.made.setdefault(name, apply("variable", name=name, type=kind.with_shape(array.shape)))


def absorb(graph: Graph, arrays: Mapping[str, Array]) -> tuple[Graph, dict[str, Array]]:
    """The graph, whose fixed values are variables and constants alone, with such chains replaced; and its variables."""
    order = graph.order()
    uses = Counter(operand for value in order for operand in value.operands)
    uses.update(graph.roots)
    chains: dict[Value, Chain] = {}
    for value in order:
        found = _begun(value) or _continued(value, chains, arrays, uses)
        if found is not None:
            chains[value] = found
    inner = {o for value in chains for o in value.operands}
    ends = {value: chain for value, chain in chains.items() if chain.learned and value not in inner and _sound(chain)}
    weights, new = Weights(arrays), dict[Value, Value]()
    for value in order:
        if value in ends:
            new[value] = _replaced(ends[value], new[ends[value].linear.operands[0]], weights)
        else:
            operands = tuple(new[o] for o in value.operands)
            new[value] = value if operands == value.operands else rebuild(value, operands)
    made = graph.map(lambda roots: [new[root] for root in roots])
    return made, {name: weights.arrays[name] for name in made.leaves("variable")}


def _axis(linear: Value) -> int:
    """Where the units of a linear step are."""
    return linear.type.rank - 1 if linear.op == "matmul" else 1


def _begun(value: Value) -> Chain | None:
    if value.op not in LINEAR or value.operands[1].op != "variable" or value.operands[0].op == "variable":
        return None
    if value.op == "matmul" and (value.operands[1].type.rank != 2 or value.type.rank < 2 or value.attributes["transpose_a"]):
        return None
    units = value.shape[_axis(value)]
    assert isinstance(units, int)
    return Chain(value, np.ones(units), np.zeros(units))


def _continued(value: Value, chains: Mapping[Value, Chain], arrays: Mapping[str, Array], uses: Mapping[Value, int]) -> Chain | None:
    """The chain that a value adds a step to."""
    before = [o for o in value.operands if o in chains]
    if len(before) != 1 or uses[before[0]] != 1 or value.origin.startswith("data/"):
        return None
    (source,) = before
    chain = chains[source]
    if value.op in VIEWS:
        return Chain(chain.linear, chain.scale, chain.shift, (*chain.views, value), chain.learned)
    if value.op not in AFFINE or value.type != source.type:
        return None
    if value.op == "negative":
        return Chain(chain.linear, -chain.scale, -chain.shift, chain.views, chain.learned)
    first = value.operands[0] is source
    other = value.operands[1 if first else 0]
    number = _number(other, arrays)
    met = chain.units(number, value) if number is not None else None
    if met is None:
        return None
    scale, shift, learned = chain.scale, chain.shift, chain.learned
    match value.op:
        case "add":
            shift = shift + met
        case "subtract":
            scale, shift = (scale, shift - met) if first else (-scale, met - shift)
        case "multiply":
            scale, shift, learned = scale * met, shift * met, learned or other.op == "variable"
        case "divide" if first and (met != 0).all():
            scale, shift, learned = scale / met, shift / met, learned or other.op == "variable"
        case _:
            return None
    return Chain(chain.linear, scale, shift, chain.views, learned)


def _number(value: Value, arrays: Mapping[str, Array]) -> Array | None:
    """A fixed value as an array."""
    if value.op == "variable":
        return arrays[value.name]
    found = constant_of(value)
    return None if found is None else np.array(found)


def _sound(chain: Chain) -> bool:
    return bool(np.isfinite(chain.scale).all() and np.isfinite(chain.shift).all())


def _replaced(chain: Chain, x: Value, weights: Weights) -> Value:
    """The chain as one linear step of x with its shift."""
    linear, w = chain.linear, chain.linear.operands[1]
    old = weights.arrays[w.name]
    weight = _scaled(linear, old.astype(np.float64), chain.scale).astype(old.dtype)
    shift = chain.shift.astype(old.dtype).reshape(len(chain.shift), *(1,) * (linear.type.rank - 1 - _axis(linear)))
    with origin(linear.origin):
        made = rebuild(linear, (x, weights.variable(f"{w.name}_folded", weight, w.type)))
        made = made + weights.variable(f"{linear.origin}/bias_folded", shift, w.type)
    for view in chain.views:
        made = rebuild(view, (made,))
    return made


def _scaled(linear: Value, weight: Array, scale: Array) -> Array:
    """The weights times the scale of the unit that each leads to."""
    match linear.op:
        case "matmul":
            return weight * (scale[:, None] if linear.attributes["transpose_b"] else scale)
        case "conv2d":
            return weight * scale[:, None, None, None]
        case _:  # [in, out / groups, kh, kw], the outputs of a group side by side
            groups = linear.attributes["groups"]
            by_group = weight.reshape(groups, -1, *weight.shape[1:])
            return (by_group * scale.reshape(groups, 1, -1, 1, 1)).reshape(weight.shape)
