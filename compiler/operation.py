"""The open table: every word of the language, declared once.

An operation is a parameter model, an expression over primitives, a docstring and facts. What its function takes and
gives depends on its kind; Kind says so. Everything else (argument checking, gradients, shapes, export, documentation)
is derived from the declaration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from enum import Enum
from inspect import cleandoc
from typing import Any, Literal, Protocol

from pydantic import ConfigDict
from pydantic_core.core_schema import CoreSchema, is_instance_schema

from .declared import Declared
from .ir import Dim, Shape, Value
from .record import record
from .source import Span


class Kind(Enum):
    """What a word is. The value is how messages call it; the comment is the signature of the function."""

    LAYER = "layer or activation"  # (build, *tensors, p) -> Value or tuple of Values
    INITIALISER = "initialiser"  # (p, fan) -> Draw
    PENALTY = "penalty"  # (w, p, samples) -> scalar Value
    CONSTRAINT = "constraint"  # (w, incoming, p) -> Value, the weights that are allowed
    LOSS = "loss"  # (build, prediction, target, p) -> Value [N], one loss a sample
    METRIC = "metric"  # (prediction, target, p) -> Sums
    OPTIMISER = "optimizer"  # (rule, theta, g, p) -> Value, the step to subtract from theta
    SCHEDULE = "schedule"  # (p, lr, clock) -> Stage
    CLIP = "clipping"  # (gradients, the sum of squares of each, p) -> gradients
    STOP = "stopping rule"
    GOAL = "goal"
    GROUP = "group"
    START = "start"
    ENSEMBLE = "ensemble"
    SOURCE = "source"
    COLUMN = "column selection"
    STEP = "data step"  # (build, column, p) -> Column
    SPLIT = "split"
    AUGMENTATION = "augmentation"
    DOMAIN = "domain"
    OBJECTIVE = "objective"
    SEARCH = "search"
    QUANTISATION = "quantisation"


class Params(Declared):
    """The arguments of an operation. A field's description is its documentation."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, frozen=True, arbitrary_types_allowed=True, defer_build=True
    )


class NoParams(Params):
    """An operation without arguments."""


@record
class Of:
    """Marks a field whose value is an operation of a kind: one, a weighted sum (`many`), or a pipe of several (`chain`)."""

    kind: Kind
    many: bool = False
    chain: bool = False


@record
class Refers:
    """Marks a field whose value is a name: of a column, a data name, a metric, a parameter or an output."""

    to: Literal["column", "data", "metric", "parameter", "output"]


class Whole:
    """A value that a field takes as it is. Pydantic would look into a dataclass, and first find out how."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        return is_instance_schema(cls)


@record
class Reference(Whole):
    """A name given as an argument, with its place."""

    name: str
    span: Span


@record
class Operation:
    name: str
    kind: Kind
    params: type[Params]
    function: Callable[..., Any]
    operands: int | None = 1  # how many tensors or references stand before the arguments; None: any number, at least two
    outputs: Callable[[Any], int] = lambda p: 1
    facts: frozenset[str] = frozenset()
    init: str = ""  # an activation's choice for init=auto in the layer before it
    extra: dict[str, Any] = field(default_factory=dict)  # further functions of the kind, such as `inverse` of a data step

    @property
    def doc(self) -> str:
        return cleandoc(self.function.__doc__ or "")

    @property
    def differs(self) -> str:
        """How torch, Keras or ONNX define the word otherwise: the paragraph of the docstring that begins with `Differs:`."""
        return next((" ".join(part.split()) for part in self.doc.split("\n\n") if part.startswith("Differs: ")), "")


@record
class Bound(Whole):
    """An operation with its arguments, as written at `span`. `spans` are the places of the arguments."""

    operation: Operation
    params: Any
    span: Span | None = None
    spans: dict[str, Span] = field(default_factory=dict)
    operands: tuple[Reference, ...] = ()

    @property
    def name(self) -> str:
        return self.operation.name


@record
class Weighted(Whole):
    """One term of a sum of operations."""

    weight: float
    term: Bound


TABLE: dict[tuple[Kind, str], Operation] = {}


def operation(
    kind: Kind, params: type[Params] = NoParams, *, name: str = "", **facts: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare the function as an operation of a kind, under its own name unless another is given."""

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        word = name or function.__name__
        assert (kind, word) not in TABLE, f"{word} is declared twice"
        known = {k: facts.pop(k) for k in list(facts) if k in ("operands", "outputs", "init")}
        known["facts"] = frozenset(facts.pop("facts", ()))
        TABLE[kind, word] = Operation(word, kind, params, function, extra=facts, **known)
        return function

    return declare


def find(kind: Kind, name: str) -> Operation | None:
    return TABLE.get((kind, name))


def names(kind: Kind) -> list[str]:
    return [name for k, name in TABLE if k is kind]


# What functions of operations work with


@record
class Draw:
    """How an array starts: constant(a), normal or truncated_normal (mean a, standard deviation b), uniform on [a, b), orthogonal(gain a),
    mask (1 with probability a, by the seed b, else 0), ahead (-1e9 above the diagonal, else 0), or an array of a file.
    """

    distribution: Literal["constant", "normal", "truncated_normal", "uniform", "orthogonal", "mask", "ahead", "file"]
    a: float = 0.0
    b: float = 0.0
    file: str = ""
    name: str = ""


@record
class Fan:
    """What an initialiser may depend on: connections into and out of a unit."""

    into: int
    out: int


@record
class Incoming:
    """Which elements of a weight lead into one unit: all along some axes, of the weight or of the weight in another shape."""

    axes: tuple[int, ...]
    shape: tuple[int, ...] = ()


class Build(Protocol):
    """What a layer may ask for while it writes its expression."""

    @property
    def training(self) -> bool: ...
    @property
    def frozen(self) -> bool:
        """Whether the layer's parameters are held, which makes a norm use its running statistics."""
        ...

    @property
    def dtype(self) -> str: ...
    def parameter(
        self,
        role: str,
        shape: tuple[int, ...],
        init: Bound | None = None,
        *,
        fan: Fan | None = None,
        start: float = 0.0,
        draw: Draw | None = None,
        incoming: Incoming | None = None,
    ) -> Value:
        """A trainable array, drawn by the initialiser with the fan, or else as `draw` says, or filled with `start`.

        The layer's constraint holds where `incoming` says what belongs to a unit.
        """
        ...

    def statistic(self, role: str, shape: tuple[int, ...], start: float | Draw) -> Value:
        """An array that is not trained: fixed, or updated by a rule of the layer's own."""
        ...

    def update(self, statistic: Value, new: Value) -> None: ...
    def bernoulli(self, like: Value, probability: float) -> Value:
        """1 with the probability, else 0; fixed by the seed, the layer's path and the step."""
        ...

    def normal(self, like: Value) -> Value:
        """Standard normal numbers; fixed by the seed, the layer's path and the step."""
        ...

    def depends_on_parameters(self, x: Value) -> bool: ...


class LossBuild(Protocol):
    """What a loss may ask for."""

    @property
    def dtype(self) -> str: ...
    def learned(self, role: str, shape: Shape) -> Value:
        """An array that the training rows decide; the model keeps it."""
        ...


class Rule(Protocol):
    """What an optimiser may ask for while it writes its update."""

    lr: Value

    def slot(self, name: str) -> Value:
        """State of the parameter's shape that starts at zero."""
        ...

    def update(self, slot: Value, new: Value) -> None: ...
    def scalar(self, name: str, of_step: Callable[[int], float]) -> Value:
        """A number computed in float64 on the host from the step, which counts from 1."""
        ...


@record
class Clock:
    """Where a stage of a schedule stands: its length is `steps` if nothing shortens it, and it begins `offset` steps after
    the beginning of an epoch.
    """

    steps_per_epoch: int
    steps: int
    offset: int = 0


@record
class Stage:
    """A piece of a schedule: how many steps it covers (None: all that remain) and the rate at each, from 0."""

    rate: Callable[[int], float]
    steps: int | None = None


@record
class Sums:
    """A metric: sums over the samples of a batch, and how their totals make the figure."""

    terms: dict[str, Value]
    finish: Callable[[dict[str, Any]], Any]


class StepBuild(Protocol):
    """What a data step may ask for."""

    @property
    def dtype(self) -> str:
        """The float type that the program computes in."""
        ...

    def learned(self, role: str, shape: Shape) -> Value:
        """An array that the step's fit finds on the training rows."""
        ...

    def classes(self) -> tuple[Any, ...]:
        """The classes that the step's fit found."""
        ...


@record
class Column:
    """A column inside a pipeline of data steps: its values, and its classes where they are known."""

    value: Value
    classes: tuple[Any, ...] | None = None

    @property
    def dims(self) -> tuple[Dim, ...]:
        return self.value.shape[1:]
