"""Checked model -> forward graph, for training or for inference. Shapes and dtypes are found, and refused, here.

A layer that does not fit is reported and its result is poisoned: what depends on it stays silent, everything else is still
checked, so that all independent mistakes come out in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

from .diagnostics import Findings, Note, Refusal
from .experiment import Application, Network, Ref
from .ir import FLOATS, ITEM_BYTES, N, TensorType, Value, apply, constant, origin, topological
from .operation import Bound, Draw, Fan, Incoming, Kind, Weighted, find
from .record import record
from .shown import bytes_of
from .source import Span

MAX_BYTES = 16 * 2**30
NO_LIMIT = 2**63  # for what was trained already, under whichever limit


def is_weight(role: str) -> bool:
    """Whether penalties and weight decay apply to a role: to weights, never to biases and norms."""
    return role in ("W", "R") or role.endswith("weight")


@record
class Parameter:
    """A trainable array, or a running statistic (`trainable` false), as the graph knows it."""

    name: str
    role: str
    shape: tuple[int, ...]
    draw: Draw
    trainable: bool
    penalty: tuple[Weighted, ...] | None
    span: Span
    constraint: tuple[Bound, Incoming] | None = None
    lazy: bool = False  # updated by rows, also where that is not what a dense update does

    @property
    def decays(self) -> bool:
        """Whether penalties and weight decay apply: weights, not biases and norms."""
        return is_weight(self.role)


@dataclass(eq=False, repr=False)
class Forward:
    """The network's graph: inputs, outputs, and the parameters it made on the way."""

    dtype: str
    inputs: dict[str, Value] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    variables: dict[str, Value] = field(default_factory=dict)
    updates: dict[str, Value] = field(default_factory=dict)
    results: dict[Ref, Value | None] = field(default_factory=dict)  # of every application, None where it was refused

    @property
    def trainable(self) -> list[Parameter]:
        return [p for p in self.parameters.values() if p.trainable]


@dataclass(eq=False, repr=False)
class LayerBuild:
    """What a layer asks for (operation.Build), for one application."""

    forward: Forward
    application: Application
    training: bool
    frozen: bool
    auto_init: str
    stream: str
    max_bytes: int

    @property
    def dtype(self) -> str:
        return self.forward.dtype

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
        draw = draw or Draw("constant", start)
        if init is not None or (fan is not None and draw == Draw("constant", 0.0)):
            assert fan is not None
            word = self.auto_init if is_weight(role) else "zeros"
            operation = find(Kind.INITIALISER, word)
            assert operation is not None
            chosen = Bound(operation, operation.params()) if init is None or init.name == "auto" else init
            try:
                draw = chosen.operation.function(chosen.params, fan)
            except Refusal as refusal:
                if isinstance(refusal.at, str):
                    refusal.at = chosen.spans.get(refusal.at, chosen.span)
                raise
        return self._variable(role, shape, draw, trainable=True, incoming=incoming)

    def statistic(self, role: str, shape: tuple[int, ...], start: float | Draw) -> Value:
        draw = start if isinstance(start, Draw) else Draw("constant", start)
        value = self._variable(role, shape, draw, trainable=False)
        return self.forward.updates.get(value.name, value)

    def _variable(self, role: str, shape: tuple[int, ...], draw: Draw, trainable: bool, incoming: Incoming | None = None) -> Value:
        name = f"{self.application.path}/{role}"
        known = self.forward.parameters.get(name)
        if known is not None:  # a shared block comes here again
            if known.shape != shape:
                raise Refusal("E310", label=f"{list(shape)} here, {list(known.shape)} at its first use", help="give every use the same input shape",
                              name=name)  # fmt: skip
            return self.forward.variables[name]
        needed = prod(shape) * ITEM_BYTES[self.dtype]
        if needed > self.max_bytes:
            raise Refusal("E307", label=f"{role} {list(shape)} takes {bytes_of(needed)}", what="the network",
                          help="use fewer units, or raise --max-bytes")  # fmt: skip
        penalty = getattr(self.application.bound.params, "penalty", None)
        constraint = getattr(self.application.bound.params, "constraint", None)
        held = (constraint, incoming) if constraint is not None and incoming is not None else None
        lazy = getattr(self.application.bound.params, "lazy", False)
        self.forward.parameters[name] = Parameter(name, role, shape, draw, trainable, penalty, self.application.span, held, lazy)
        value = apply("variable", name=name, type=TensorType(self.dtype, shape))
        self.forward.variables[name] = value
        return value

    def update(self, statistic: Value, new: Value) -> None:
        name = f"{self.application.path}/" + _root_name(statistic, self.forward)
        self.forward.updates[name] = new

    def bernoulli(self, like: Value, probability: float) -> Value:
        return apply("bernoulli", like, probability=probability, stream=self.stream)

    def normal(self, like: Value) -> Value:
        return apply("normal", like, stream=self.stream)

    def depends_on_parameters(self, x: Value) -> bool:
        return any(v.op == "variable" for v in topological([x]))


def _root_name(statistic: Value, forward: Forward) -> str:
    """The role of a statistic, also where an earlier use of a shared layer has updated it."""
    if statistic.op == "variable":
        return statistic.name.rpartition("/")[2]
    return next(name for name, new in forward.updates.items() if new is statistic).rpartition("/")[2]


def lower(
    network: Network,
    findings: Findings,
    *,
    training: bool,
    dtype: str = "float32",
    frozen: Callable[[str], bool] = lambda path: False,
    max_bytes: int = MAX_BYTES,
) -> Forward:
    """The forward graph. Outputs that a refused layer leads to are missing; the findings say why."""
    forward = Forward(dtype)
    for index, declared in enumerate(network.inputs):
        kind = TensorType(dtype if declared.dtype == "float32" else declared.dtype, (N, *declared.shape))
        value = apply("input", name=declared.name, type=kind)
        forward.inputs[declared.name] = value
        forward.results[Ref(-1, index)] = value
    choices = _auto_initialisers(network)
    seen: dict[str, int] = {}
    for index, application in enumerate(network.applications):
        count = seen[application.path] = seen.get(application.path, 0) + 1
        stream = application.path if count == 1 else f"{application.path}#{count}"
        build = LayerBuild(forward, application, training, frozen(application.path), choices[index], stream, max_bytes)
        for output, result in enumerate(_apply(application, build, network, findings)):
            forward.results[Ref(index, output)] = result
    for named in network.outputs:
        found = forward.results.get(named.ref)
        if found is not None:
            forward.outputs[named.name] = found
    return forward


def _apply(application: Application, build: LayerBuild, network: Network, findings: Findings) -> Sequence[Value | None]:
    bound = application.bound
    outputs = bound.operation.outputs(bound.params)
    tensors = [o if isinstance(o, float) else build.forward.results[o] for o in application.operands]
    if any(t is None for t in tensors):
        return [None] * outputs
    dtype = next((t.dtype for t in tensors if isinstance(t, Value)), build.dtype)
    operands = [constant(t, dtype) if isinstance(t, float) else t for t in tensors]
    try:
        with origin(application.path):
            _require_floats(bound, tensors, dtype)
            if bound.operation.operands is None:
                result = bound.operation.function(build, *operands, p=bound.params)
            else:
                result = bound.operation.function(build, *operands, bound.params)
    except Refusal as refusal:
        at = bound.spans.get(refusal.at) if isinstance(refusal.at, str) else None
        notes = [Note(span, "used here") for span in application.calls]
        if refusal.operand:
            first = next(o for o in application.operands if isinstance(o, Ref))
            place = network.inputs[first.output].span if first.application < 0 else network.applications[first.application].span
            notes.insert(0, Note(place, refusal.operand))
        findings.add_refusal(refusal, at or application.span, notes)
        return [None] * outputs
    return result if isinstance(result, tuple) else (result,)


def _require_floats(bound: Bound, tensors: Sequence[Value | float | None], dtype: str) -> None:
    """Integers are indices: no activation takes them, and arithmetic on them stays among whole numbers."""
    if dtype in FLOATS:
        return
    broken = bound.name == "divide" or any(isinstance(t, float) and not t.is_integer() for t in tensors)
    if "activation" in bound.operation.facts or broken:
        raise Refusal("E305", label="integers are indices of classes or symbols", operand=f"this is {dtype}", operation=bound.name, dtype=dtype,
                      help="declare the input as float32, or embed the integers")  # fmt: skip


def _auto_initialisers(network: Network) -> list[str]:
    """For each application, the initialiser that the next activation after it prefers."""
    users: list[list[int]] = [[] for _ in network.applications]
    for index, application in enumerate(network.applications):
        for operand in application.operands:
            if isinstance(operand, Ref) and operand.application >= 0:
                users[operand.application].append(index)
    choices = [""] * len(network.applications)
    following = [""] * len(network.applications)
    for index in reversed(range(len(network.applications))):
        choices[index] = next((following[user] for user in users[index] if following[user]), "") or "xavier_uniform"
        operation = network.applications[index].bound.operation
        if "activation" in operation.facts:
            following[index] = operation.init or "xavier_uniform"
        elif "linear_step" not in operation.facts:
            following[index] = choices[index] if users[index] else ""
    return choices
