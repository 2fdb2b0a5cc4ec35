"""The network's layers in float16: weights, products, and what lies between them. Sums and what is steep stay in float32.

float16 has 11 bits of mantissa and ends at 65,504. So the statistics of norms, softmax, logarithms, powers and quotients keep float32, and so
does everything that leads to a sum element by element, such as the squares of a variance. Inputs, data steps, averages over an ensemble,
decisions and outputs are float32 as before.
"""

from __future__ import annotations

from .ir import Graph, TensorType, Value, apply, constant, origin

HALF = frozenset(
    ("negative", "tanh", "sigmoid", "softplus", "erf", "absolute", "sign", "floor", "add", "subtract", "multiply", "maximum", "minimum", "where", "matmul",
     "conv2d", "conv2d_input_gradient", "max_pool", "avg_pool", "reshape", "transpose", "broadcast_to", "slice", "pad", "concat", "gather", "recurrent",
     "reduce_max")
)  # fmt: skip
STEEP = frozenset(("reduce_sum", "dot", "softmax", "log_softmax", "exp", "expm1", "log", "log1p", "power", "sqrt", "divide"))
OUTSIDE = ("data/", "decision/", "average")
LARGEST = 65504.0


def in_half(graph: Graph) -> set[Value]:
    """The float32 values that are computed in float16."""
    order = graph.order()
    steep: set[Value] = set()
    for value in reversed(order):  # users stand behind what they use
        if value.op in STEEP or (value in steep and value.primitive.elementwise):
            steep.update(o for o in value.operands if o.primitive.elementwise)
    return {v for v in order if v.op in HALF and v.dtype == "float32" and v not in steep and not v.origin.startswith(OUTSIDE)}


def halved(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """The graph with its layers in float16, and the names of the variables that it keeps in float16, with those that they are made of."""
    chosen = in_half(graph)
    new: dict[Value, Value] = {}
    other: dict[tuple[Value, str], Value] = {}  # of a value in the other precision
    names: dict[str, str] = {}

    def as_type(value: Value, dtype: str) -> Value:
        made = new[value]
        if value.dtype != "float32" or made.dtype == dtype:
            return made
        if (value, dtype) not in other:
            other[value, dtype] = _cast(value, made, dtype, names)
        return other[value, dtype]

    for value in graph.order():
        if not value.operands:
            new[value] = value
            continue
        dtype = "float16" if value in chosen else "float32"
        with origin(value.origin):
            new[value] = apply(value.op, *(as_type(o, dtype) for o in value.operands), **value.attributes)
    return Graph({name: as_type(value, "float32") for name, value in graph.outputs.items()}), names


def _cast(value: Value, made: Value, dtype: str, names: dict[str, str]) -> Value:
    """A value in another precision; of a weight and a number nothing has to be computed."""
    if value.op == "variable" and dtype == "float16":
        name = f"{value.name}_float16"
        names[name] = value.name
        return apply("variable", name=name, type=TensorType(dtype, value.shape))
    number = value.attributes["value"] if value.op == "constant" else None
    if number is not None:
        return constant(max(-LARGEST, min(LARGEST, number)), dtype)
    return apply("cast", made, dtype=dtype)
