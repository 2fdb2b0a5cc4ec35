"""Recurrent layers over sequences, [steps, features]: rnn, lstm, gru with ONNX's parameters and gate orders.

In training a layer is written out step by step in primitives, so that its gradient, and the gradient of that, follow like any
other: one product projects the inputs of all steps, one small product a step the state. In inference it is one primitive, which
the exported file has as an operator. Steps come first inside, so that a step is a contiguous piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Batch, Value, apply, constant, dims
from ..operation import Bound, Build, Fan, Incoming, Kind, Of, Params, Weighted, operation
from .layers import require_float


class RecurrentParams(Params):
    units: int = Field(ge=1, description="size of the state")
    return_sequences: bool = Field(False, description="give the state of every step, not of the last alone")
    bidirectional: bool = Field(False, description="read the sequence from its end as well; the states stand beside each other")
    init: Annotated[Bound | None, Of(Kind.INITIALISER)] = Field(None, kw_only=True, description="how W and R start")
    bias_init: Annotated[Bound | None, Of(Kind.INITIALISER)] = Field(None, kw_only=True, description="how B starts")
    penalty: Annotated[tuple[Weighted, ...] | None, Of(Kind.PENALTY, many=True)] = Field(
        None, kw_only=True, description="a penalty in place of the train section's"
    )
    constraint: Annotated[Bound | None, Of(Kind.CONSTRAINT)] = Field(None, kw_only=True, description="what holds for each row of W and of R after every update")


class RnnParams(RecurrentParams):
    activation: Literal["tanh", "relu"] = Field("tanh", kw_only=True, description="the function of the step")


# One step: the projected input, the projected state and the states before, to the states after. The first state is what is given out.
Cell = Callable[[Value, Value, list[Value]], list[Value]]


@operation(Kind.LAYER, RnnParams, facts={"recurrent", "bounded"})
def rnn(build: Build, x: Value, p: RnnParams) -> Value:
    """h_t = tanh(W x_t + R h_(t-1) + Wb + Rb), h_0 = 0; or relu. W [1, units, in], R [1, units, units], B [1, 2 units].

    Shape: [steps, in] -> [units], or [steps, units] with return_sequences; bidirectional doubles units. Source: Elman 1990.

    Differs: torch and ONNX have two biases as here, Keras has one.
    """

    def cell(z: Value, r: Value, states: list[Value]) -> list[Value]:
        total = z + r
        return [apply("tanh", total) if p.activation == "tanh" else apply("maximum", total, constant(0.0, x.dtype))]

    return _recurrent(build, x, p, f"rnn_{p.activation}", 1, 1, cell)


@operation(Kind.LAYER, RecurrentParams, facts={"recurrent", "bounded", "gated"})
def lstm(build: Build, x: Value, p: RecurrentParams) -> Value:
    """i, o, f = sigmoid and g = tanh of W x_t + R h_(t-1) + Wb + Rb; c_t = f c_(t-1) + i g; h_t = o tanh(c_t). Gates lie in the order iofc.

    W [1, 4 units, in], R [1, 4 units, units], B [1, 8 units]. Shape as rnn. Source: Hochreiter and Schmidhuber 1997.

    Differs: torch and Keras have the gates in the order i, f, g, o, and Keras one bias, which starts at 1 for the gate f.
    """

    def cell(z: Value, r: Value, states: list[Value]) -> list[Value]:
        total = z + r
        gates, candidate = apply("sigmoid", _gate(total, 0, 3, p.units)), apply("tanh", _gate(total, 3, 1, p.units))
        i, o, f = (_gate(gates, k, 1, p.units) for k in range(3))
        c = f * states[1] + i * candidate
        return [o * apply("tanh", c), c]

    return _recurrent(build, x, p, "lstm", 4, 2, cell)


@operation(Kind.LAYER, RecurrentParams, facts={"recurrent", "bounded", "gated"})
def gru(build: Build, x: Value, p: RecurrentParams) -> Value:
    """z, r = sigmoid of W x_t + R h_(t-1) + Wb + Rb; n = tanh(W_h x_t + Wb_h + r (R_h h_(t-1) + Rb_h)); h_t = (1 - z) n + z h_(t-1).

    ONNX's linear_before_reset=1, gates in the order zrh. W [1, 3 units, in], R [1, 3 units, units], B [1, 6 units]. Shape as rnn.
    Source: Cho et al. 2014, arXiv:1406.1078.

    Differs: torch, and Keras with reset_after, have this form too; ONNX's default is linear_before_reset=0, which resets the state before the product.
    torch has the gates in the order r, z, n; Keras as here.
    """

    def cell(z: Value, r: Value, states: list[Value]) -> list[Value]:
        gates = apply("sigmoid", _gate(z, 0, 2, p.units) + _gate(r, 0, 2, p.units))
        update, reset = _gate(gates, 0, 1, p.units), _gate(gates, 1, 1, p.units)
        new = apply("tanh", _gate(z, 2, 1, p.units) + reset * _gate(r, 2, 1, p.units))
        return [new + update * (states[0] - new)]

    return _recurrent(build, x, p, "gru", 3, 1, cell)


def _gate(x: Value, first: int, count: int, units: int) -> Value:
    axis = x.type.rank - 1
    return apply("slice", x, axis=axis, start=first * units, stop=(first + count) * units)


def _recurrent(build: Build, x: Value, p: RecurrentParams, kind: str, gates: int, states: int, cell: Cell) -> Value:
    name = kind.partition("_")[0]
    require_float(x, name)
    if x.type.rank != 3:
        raise Refusal("E303", label=f"{name} takes sequences, [steps, features]", operand=f"a sample here is {dims(x.shape[1:])}",
                      help="reshape the input to two axes", operation=name)  # fmt: skip
    size, directions = x.shape[2], 2 if p.bidirectional else 1
    assert isinstance(size, int)
    w = build.parameter("W", (directions, gates * p.units, size), p.init, fan=Fan(size, p.units), incoming=Incoming((2,)))
    r = build.parameter("R", (directions, gates * p.units, p.units), p.init, fan=Fan(p.units, p.units), incoming=Incoming((2,)))
    b = build.parameter("B", (directions, 2 * gates * p.units), p.bias_init, fan=Fan(p.units, p.units))
    if not build.training:
        return apply("recurrent", x, w, r, b, kind=kind, sequences=p.return_sequences)
    steps_first = apply("transpose", x, order=(1, 0, 2))
    found = [_direction(steps_first, w, r, b, d, p, gates, states, cell) for d in range(directions)]
    joined = found[0] if directions == 1 else apply("concat", *found, axis=found[0].type.rank - 1)
    return apply("transpose", joined, order=(1, 0, 2)) if p.return_sequences else joined


def _direction(
    x: Value, w: Value, r: Value, b: Value, direction: int, p: RecurrentParams, gates: int, states: int, cell: Cell
) -> Value:
    """The states of one direction, written out: [steps, N, units] in the order of the input, or the last one [N, units]."""
    steps, n, size = x.shape
    assert isinstance(steps, int)
    assert isinstance(n, Batch)
    assert isinstance(size, int)
    width = gates * p.units

    def own(parameter: Value, *shape: int) -> Value:
        part = apply("slice", parameter, axis=0, start=direction, stop=direction + 1)
        return apply("reshape", part, shape=shape)

    bias = own(b, 2 * width)
    rows = apply("reshape", x, shape=(Batch(n.factor * steps), size))
    projected = apply("matmul", rows, own(w, width, size), transpose_a=False, transpose_b=True) + _gate(bias, 0, 1, width)
    z = apply("reshape", projected, shape=(steps, n, width))
    recurrent, state_bias = own(r, width, p.units), _gate(bias, 1, 1, width)
    zero = apply("broadcast_to", constant(0.0, x.dtype), shape=(n, p.units))
    now = [zero] * states
    given: list[Value] = []
    order = range(steps) if direction == 0 else range(steps - 1, -1, -1)
    for t in order:
        piece = apply("reshape", apply("slice", z, axis=0, start=t, stop=t + 1), shape=(n, width))
        projected_state = apply("matmul", now[0], recurrent, transpose_a=False, transpose_b=True) + state_bias
        now = cell(piece, projected_state, now)
        given.append(apply("reshape", now[0], shape=(1, n, p.units)))
    if not p.return_sequences:
        return now[0]
    return apply("concat", *(given if direction == 0 else reversed(given)), axis=0) if steps > 1 else given[0]
