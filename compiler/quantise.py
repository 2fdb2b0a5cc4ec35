"""Products with weights in whole numbers of 8 bits, in the form that inference engines know: quantize and dequantize around each operand.

A number of the graph is r = (q - zero) scale. Weights are signed, with a scale for each channel of the result and zero = 0; activations are
unsigned, with one scale and one zero for a tensor, which calibration finds (runtime/calibration.py). An engine computes a product of
dequantized operands, and its bias of 32 bits, with whole numbers. The result of a convolution is quantized again: engines have no other form of it. A
ReLU behind one is then nothing but the lower end of the numbers. Rows of an embedding stay whole numbers until they are gathered.

Only layers of the network are rewritten: data steps and decisions compare and decide, which rounding would change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from .ir import Graph, TensorType, Value, apply, constant, constant_of, origin, rebuild
from .record import record

OUTSIDE = ("data/", "decision/")  # where values that are no layer's come from
WEIGHT_LEVELS = 64  # 255 * 64 * 2 < 2^15: processors that add pairs of products in 16 bits do not overflow, so that all of them agree
TABLE_LEVELS = 127
ACTIVATION = "uint8"
_MOVING = frozenset(("max_pool", "reshape", "transpose", "slice"))  # their results are elements of the operand


@record
class Grid:
    """The numbers (q - zero) scale, q from 0 to 255."""

    scale: float
    zero: int


@record
class Site:
    """A product with a weight, and where its rewritten form ends: at its bias, and the ReLU behind a convolution, if it has them."""

    product: Value
    top: Value
    bias: Value | None = None

    @property
    def weight(self) -> Value:
        return self.product.operands[0 if self.product.op == "gather" else 1]


@record
class Stored:
    """Arrays that a quantized graph keeps: `integers` and their `scales`, made of the array `source`.

    `axis` is that of the channels, in the array as it is stored. A bias has the scale of the weight times that of the input.
    """

    integers: str
    scales: str
    source: str
    axis: int | None
    levels: int
    transposed: bool = False
    bias: Stored | None = None
    input_scale: float = 1.0


def sites(graph: Graph) -> list[Site]:
    """The products of the network's layers with weights that are variables, of a graph whose constants are folded."""
    order = graph.order()
    users: dict[Value, list[Value]] = {}
    for value in order:
        for operand in value.operands:
            users.setdefault(operand, []).append(value)
    last = set(graph.roots)
    found = []
    for value in order:
        if value.origin.startswith(OUTSIDE):
            continue
        of_rows = value.op == "matmul" and value.type.rank == 2 and not value.attributes["transpose_a"]
        if (of_rows or value.op == "conv2d") and value.operands[1].op == "variable":
            found.append(_site(value, users, last))
        elif value.op == "gather" and value.operands[0].op == "variable":
            found.append(Site(value, value))
    return found


def _site(product: Value, users: Mapping[Value, list[Value]], last: set[Value]) -> Site:
    """With the bias, and behind a convolution the ReLU, that alone follow it."""

    def follower(value: Value) -> Value | None:
        return users[value][0] if len(users.get(value, ())) == 1 and value not in last else None

    top, bias, after = product, None, follower(product)
    if after is not None and after.op == "add":
        other = after.operands[1] if after.operands[0] is product else after.operands[0]
        channels = product.shape[1]
        if other.op == "variable" and other.shape in ((channels,), (channels, 1, 1)) and after.type == product.type:
            top, bias, after = after, other, follower(after)
    if product.op == "conv2d" and after is not None and after.op == "maximum" and 0.0 in (constant_of(o) for o in after.operands):
        top = after
    return Site(product, top, bias)


def observed(found: list[Site]) -> list[Value]:
    """The activations whose grids calibration must find."""
    tops = {site.top for site in found if site.product.op == "conv2d"}
    inputs = [_source(site.product.operands[0], tops) for site in found if site.product.op != "gather"]
    return list(dict.fromkeys([*inputs, *(site.top for site in found if site.top in tops)]))


def _source(x: Value, tops: set[Value]) -> Value:
    """The result of a convolution that these are elements of, if they are: they lie on its grid already."""
    source = x
    while source not in tops and source.op in _MOVING:
        source = source.operands[0]
    return source if source in tops else x


@dataclass
class _Writer:
    """Builds the quantized graph."""

    grids: Mapping[Value, Grid]
    tops: set[Value]
    new: dict[Value, Value] = field(default_factory=dict)
    stored: dict[tuple[object, ...], Stored] = field(default_factory=dict)
    names: Counter[str] = field(default_factory=Counter)

    def fresh(self, name: str) -> str:
        self.names[name] += 1
        return name if self.names[name] == 1 else self.fresh(f"{name}_{self.names[name]}")

    def on_grid(self, x: Value, grid: Grid) -> Value:
        scale, zero = constant(grid.scale, x.dtype), constant(grid.zero, ACTIVATION)
        return apply("dequantize", apply("quantize", x, scale, zero), scale, zero, axis=None)

    def activation(self, x: Value) -> Value:
        if x in self.tops:
            return self.new[x]
        return self.on_grid(self.new[x], self.grids[_source(x, self.tops)])

    def keep(self, site: Site) -> Stored:
        """The arrays of a site's weight and bias, shared between sites where they are the same."""
        product, weight, bias = site.product, site.weight, site.bias
        scale = self.grids[_source(product.operands[0], self.tops)].scale if bias is not None else 1.0
        transposed = product.op == "matmul" and product.attributes["transpose_b"]
        key = (weight, product.op, transposed, bias, scale)
        if key not in self.stored:
            name = weight.name
            of_bias = None
            if bias is not None:
                of_bias = Stored(self.fresh(f"{bias.name}_int32"), self.fresh(f"{bias.name}_scale"), bias.name, 0, 2**30)
            axis = {"conv2d": 0, "matmul": 1, "gather": None}[product.op]
            levels = TABLE_LEVELS if product.op == "gather" else WEIGHT_LEVELS
            self.stored[key] = Stored(self.fresh(f"{name}_int8"), self.fresh(f"{name}_scale"), name, axis, levels, transposed, of_bias, scale)
        return self.stored[key]

    def rewritten(self, site: Site) -> Value:
        product, kept = site.product, self.keep(site)
        dtype = product.dtype
        shape = site.weight.shape[::-1] if kept.transposed else site.weight.shape
        integers = apply("variable", name=kept.integers, type=TensorType("int8", shape))
        scales = apply("variable", name=kept.scales, type=TensorType(dtype, () if kept.axis is None else (shape[kept.axis],)))
        if product.op == "gather":
            rows = apply("gather", integers, self.new[product.operands[1]])
            return apply("dequantize", rows, scales, axis=None)
        x = self.activation(product.operands[0])
        weight = apply("dequantize", integers, scales, axis=kept.axis)
        attributes = {"transpose_a": False, "transpose_b": False} if product.op == "matmul" else product.attributes
        result = apply(product.op, x, weight, **attributes)
        if kept.bias is not None:
            channels = (product.shape[1],)
            whole = apply("variable", name=kept.bias.integers, type=TensorType("int32", channels))
            steps = apply("variable", name=kept.bias.scales, type=TensorType(dtype, channels))
            bias = apply("dequantize", whole, steps, axis=0)
            result = result + (bias if product.op == "matmul" else apply("reshape", bias, shape=(*channels, 1, 1)))
        return result if product.op == "matmul" else self.on_grid(result, self.grids[site.top])


def quantised(graph: Graph, grids: Mapping[Value, Grid]) -> tuple[Graph, list[Stored]]:
    """The graph with its sites rewritten, and the arrays that its variables stand for. `grids` has those of `observed`."""
    found = {site.top: site for site in sites(graph)}
    tops = {top for top, site in found.items() if site.product.op == "conv2d"}
    writer = _Writer(grids, tops)
    for name in graph.leaves("variable"):
        writer.fresh(name)
    for value in graph.order():
        if value in found:
            with origin(found[value].product.origin):
                writer.new[value] = writer.rewritten(found[value])
        else:
            operands = tuple(writer.new[o] for o in value.operands)
            writer.new[value] = value if operands == value.operands else rebuild(value, operands)
    return Graph({name: writer.new[value] for name, value in graph.outputs.items()}), list(writer.stored.values())
