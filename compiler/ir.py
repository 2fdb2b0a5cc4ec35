"""The graph: typed values in single assignment.

A value is the one result of a primitive applied to other values; an edge is a value being an operand. Shapes are known
except for the batch, which is a multiple of the symbol N: one graph serves every batch size, a plan fixes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import field
from itertools import count
from math import prod
from typing import Any

from .record import record


@record
class Batch:
    """`factor` times the number of samples in the batch."""

    factor: int = 1

    def __repr__(self) -> str:
        return "N" if self.factor == 1 else f"{self.factor}N"


Dim = int | Batch
Shape = tuple[Dim, ...]
N = Batch()

ITEM_BYTES = {"float16": 2, "float32": 4, "float64": 8, "int64": 8, "int32": 4, "int8": 1, "uint8": 1, "bool": 1, "string": 8}
FLOATS = ("float16", "float32", "float64")


def concrete(shape: Shape, n: int) -> tuple[int, ...]:
    """The shape at batch size n."""
    return tuple(d.factor * n if isinstance(d, Batch) else d for d in shape)


def elements(shape: Shape) -> tuple[int, int]:
    """The number of elements as (coefficient, power of N)."""
    return prod(d.factor if isinstance(d, Batch) else d for d in shape), sum(isinstance(d, Batch) for d in shape)


def dims(shape: Iterable[Dim]) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"


@record
class TensorType:
    dtype: str
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype}{dims(self.shape)}"

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    def with_shape(self, shape: Iterable[Dim]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: str) -> TensorType:
        return TensorType(dtype, self.shape)

    def size(self, n: int) -> int:
        """Number of elements at batch size n."""
        return prod(concrete(self.shape, n))

    def nbytes(self, n: int) -> int:
        return self.size(n) * ITEM_BYTES[self.dtype]


@record
class Primitive:
    """A closed tensor operation.

    `infer(*operand_types, **attributes)` gives the type of the result. `gradient(g, y, *operands)` gives the cotangent
    of each operand (or None) as values, which may still have the broadcast shape; attributes are read from `y`.
    """

    name: str
    infer: Callable[..., TensorType]
    gradient: Callable[..., tuple[Value | None, ...]] | None = None
    elementwise: bool = False  # one output element depends on the operands' elements at the same place alone
    view: bool = False  # the result may share the storage of its first operand
    leaf: bool = False


PRIMITIVES: dict[str, Primitive] = {}

_serial = count()
_origin: ContextVar[str] = ContextVar("origin", default="")


@contextmanager
def origin(path: str) -> Iterator[None]:
    """Values made inside belong to the layer or phase `path`: reports of NaN and the ONNX file name it."""
    token = _origin.set(path)
    try:
        yield
    finally:
        _origin.reset(token)


@record(eq=False)
class Value:
    """The result of `primitive` applied to `operands`; compared by identity."""

    primitive: Primitive
    operands: tuple[Value, ...]
    attributes: Mapping[str, Any]
    type: TensorType
    origin: str = ""
    serial: int = field(default_factory=lambda: next(_serial))

    @property
    def op(self) -> str:
        return self.primitive.name

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def dtype(self) -> str:
        return self.type.dtype

    @property
    def name(self) -> str:
        """The name of an input, a variable or a scalar."""
        return str(self.attributes["name"])

    def __repr__(self) -> str:
        return f"%{self.serial}:{self.op}"

    # Arithmetic with values and Python numbers

    def __add__(self, other: Value | float) -> Value:
        return apply("add", self, lift(other, self))

    def __radd__(self, other: float) -> Value:
        return apply("add", lift(other, self), self)

    def __sub__(self, other: Value | float) -> Value:
        return apply("subtract", self, lift(other, self))

    def __rsub__(self, other: float) -> Value:
        return apply("subtract", lift(other, self), self)

    def __mul__(self, other: Value | float) -> Value:
        return apply("multiply", self, lift(other, self))

    def __rmul__(self, other: float) -> Value:
        return apply("multiply", lift(other, self), self)

    def __truediv__(self, other: Value | float) -> Value:
        return apply("divide", self, lift(other, self))

    def __rtruediv__(self, other: float) -> Value:
        return apply("divide", lift(other, self), self)

    def __neg__(self) -> Value:
        return apply("negative", self)


def apply(primitive: str, *operands: Value, **attributes: Any) -> Value:
    """The value of a primitive; the type rule asserts that it fits."""
    definition = PRIMITIVES[primitive]
    result = definition.infer(*(o.type for o in operands), **attributes)
    return Value(definition, operands, attributes, result, _origin.get())


def rebuild(value: Value, operands: tuple[Value, ...]) -> Value:
    """The same primitive on other operands, with the same origin."""
    definition, types = value.primitive, [o.type for o in operands]
    alike = types == [o.type for o in value.operands]  # most often: only what an operand is computed from has changed
    result = value.type if alike else definition.infer(*types, **value.attributes)
    return Value(definition, operands, value.attributes, result, value.origin)


def lift(number: Value | float, like: Value) -> Value:
    """A Python number as a scalar of the other operand's dtype."""
    if isinstance(number, Value):
        return number
    return constant(number, like.dtype)


def constant(number: float, dtype: str) -> Value:
    return apply("constant", value=number, dtype=dtype)


def constant_of(value: Value) -> float | None:
    """The number, if the value is a constant."""
    return value.attributes["value"] if value.op == "constant" else None


@record
class Graph:
    """A function: named outputs, and new values for named variables, of its inputs, variables and scalars.

    All updates happen together, after everything else has been computed.
    """

    outputs: Mapping[str, Value]
    updates: Mapping[str, Value] = field(default_factory=dict)

    @property
    def roots(self) -> list[Value]:
        return [*self.outputs.values(), *self.updates.values()]

    def order(self) -> list[Value]:
        """Every value after its operands; what nothing needs is absent."""
        return topological(self.roots)

    def leaves(self, primitive: str) -> dict[str, Value]:
        """The inputs, variables or scalars in use, by name."""
        return {v.name: v for v in self.order() if v.op == primitive}

    def map(self, transform: Callable[[list[Value]], list[Value]]) -> Graph:
        """The graph with its roots replaced."""
        roots = transform(self.roots)
        outputs = dict(zip(self.outputs, roots, strict=False))
        updates = dict(zip(self.updates, roots[len(outputs) :], strict=True))
        return Graph(outputs, updates)


def topological(roots: Iterable[Value]) -> list[Value]:
    """Depth-first postorder without recursion."""
    done: dict[Value, None] = {}
    stack = [*roots][::-1]
    while stack:
        value = stack[-1]
        if value not in done:
            missing = [o for o in value.operands if o not in done]
            if missing:
                stack += missing[::-1]
                continue
            done[value] = None
        stack.pop()
    return [*done]


def rewired(value: Value, new: Mapping[Value, Value]) -> Value:
    """The value on what its operands have become; itself where they are as they were."""
    operands = tuple([new[o] for o in value.operands])
    return value if operands == value.operands else rebuild(value, operands)


def substitute(roots: list[Value], replace: Mapping[Value, Value]) -> list[Value]:
    """The roots with some values replaced by others wherever they are used."""
    new: dict[Value, Value] = {}
    for value in topological(roots):
        new[value] = replace.get(value) or rewired(value, new)
    return [new[r] for r in roots]


def rewrite(roots: list[Value], rule: Callable[[Value], Value]) -> list[Value]:
    """Rebuild bottom-up; `rule` sees each value with its operands already rewritten."""
    new: dict[Value, Value] = {}
    for value in topological(roots):
        new[value] = rule(rewired(value, new))
    return [new[r] for r in roots]


def show(graph: Graph) -> str:
    """The graph as text, one value a line."""
    lines = []
    numbers = {value: i for i, value in enumerate(graph.order())}
    for value, i in numbers.items():
        shown = ", ".join([f"%{numbers[o]}" for o in value.operands] + [f"{k}={v}" for k, v in value.attributes.items()])
        lines.append(f"%{i}: {value.type} = {value.op}({shown})" + (f"  # {value.origin}" if value.origin else ""))
    lines += [f"output {name} = %{numbers[v]}" for name, v in graph.outputs.items()]
    lines += [f"update {name} = %{numbers[v]}" for name, v in graph.updates.items()]
    return "\n".join(lines)
