"""Recurrent layers over sequences, [steps, features]: rnn, lstm, gru with ONNX's parameters and gate orders.

In training one product projects the inputs of all steps, and a primitive goes through the steps, a small product each for the state. In
inference the layer is one primitive, which the exported file has as an operator. Steps come first inside, so that a step is a contiguous piece.
"""

from typing import Annotated, Literal

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Batch, Value, apply, dims
from ..operation import Bound, Build, Fan, Incoming, Kind, Of, operation
from ..primitives import RECURRENCES, states
from .layers import PenalisedParams, require_float


class RecurrentParams(PenalisedParams):
    units: int = Field(ge=1, description="size of the state")
    return_sequences: bool = Field(False, description="give the state of every step, not of the last alone")
    bidirectional: bool = Field(False, description="read the sequence from its end as well; the states stand beside each other")
    init: Annotated[Bound | None, Of(Kind.INITIALISER)] = Field(None, kw_only=True, description="how W and R start")
    bias_init: Annotated[Bound | None, Of(Kind.INITIALISER)] = Field(None, kw_only=True, description="how B starts")
    constraint: Annotated[Bound | None, Of(Kind.CONSTRAINT)] = Field(None, kw_only=True, description="what holds for each row of W and of R after every update")


class RnnParams(RecurrentParams):
    activation: Literal["tanh", "relu"] = Field("tanh", kw_only=True, description="the function of the step")


@operation(Kind.LAYER, RnnParams, facts={"recurrent", "bounded"})
def rnn(build: Build, x: Value, p: RnnParams) -> Value:
    """h_t = tanh(W x_t + R h_(t-1) + Wb + Rb), h_0 = 0; or relu. W [1, units, in], R [1, units, units], B [1, 2 units].

    Shape: [steps, in] -> [units], or [steps, units] with return_sequences; bidirectional doubles units. Source: Elman 1990.

    Differs: torch and ONNX have two biases as here, Keras has one.
    """
    return _recurrent(build, x, p, f"rnn_{p.activation}")


@operation(Kind.LAYER, RecurrentParams, facts={"recurrent", "bounded", "gated"})
def lstm(build: Build, x: Value, p: RecurrentParams) -> Value:
    """i, o, f = sigmoid and g = tanh of W x_t + R h_(t-1) + Wb + Rb; c_t = f c_(t-1) + i g; h_t = o tanh(c_t). Gates lie in the order iofc.

    W [1, 4 units, in], R [1, 4 units, units], B [1, 8 units]. Shape as rnn. Source: Hochreiter and Schmidhuber 1997.

    Differs: torch and Keras have the gates in the order i, f, g, o, and Keras one bias, which starts at 1 for the gate f.
    """
    return _recurrent(build, x, p, "lstm")


@operation(Kind.LAYER, RecurrentParams, facts={"recurrent", "bounded", "gated"})
def gru(build: Build, x: Value, p: RecurrentParams) -> Value:
    """z, r = sigmoid of W x_t + R h_(t-1) + Wb + Rb; n = tanh(W_h x_t + Wb_h + r (R_h h_(t-1) + Rb_h)); h_t = (1 - z) n + z h_(t-1).

    ONNX's linear_before_reset=1, gates in the order zrh. W [1, 3 units, in], R [1, 3 units, units], B [1, 6 units]. Shape as rnn.
    Source: Cho et al. 2014, arXiv:1406.1078.

    Differs: torch, and Keras with reset_after, have this form too; ONNX's default is linear_before_reset=0, which resets the state before the product.
    torch has the gates in the order r, z, n; Keras as here.
    """
    return _recurrent(build, x, p, "gru")


def _recurrent(build: Build, x: Value, p: RecurrentParams, kind: str) -> Value:
    name = kind.partition("_")[0]
    require_float(x, name)
    if x.type.rank != 3:
        raise Refusal("E303", label=f"{name} takes sequences, [steps, features]", operand=f"a sample here is {dims(x.shape[1:])}",
                      help="reshape the input to two axes", operation=name)  # fmt: skip
    size, directions, gates = x.shape[2], 2 if p.bidirectional else 1, RECURRENCES[kind][0]
    assert isinstance(size, int)
    w = build.parameter("W", (directions, gates * p.units, size), p.init, fan=Fan(size, p.units), incoming=Incoming((2,)))
    r = build.parameter("R", (directions, gates * p.units, p.units), p.init, fan=Fan(p.units, p.units), incoming=Incoming((2,)))
    b = build.parameter("B", (directions, 2 * gates * p.units), p.bias_init, fan=Fan(p.units, p.units))
    if not build.training:
        return apply("recurrent", x, w, r, b, kind=kind, sequences=p.return_sequences)
    steps_first = apply("transpose", x, order=(1, 0, 2))
    found = [_direction(steps_first, w, r, b, d, p, kind) for d in range(directions)]
    joined = found[0] if directions == 1 else apply("concat", *found, axis=found[0].type.rank - 1)
    return apply("transpose", joined, order=(1, 0, 2)) if p.return_sequences else joined


def _direction(x: Value, w: Value, r: Value, b: Value, direction: int, p: RecurrentParams, kind: str) -> Value:
    """The states of one direction: [steps, N, units] in the order of the input, or the last one [N, units]."""
    steps, n, size = x.shape
    assert isinstance(steps, int)
    assert isinstance(n, Batch)
    assert isinstance(size, int)
    width = RECURRENCES[kind][0] * p.units

    def own(parameter: Value, *shape: int) -> Value:
        part = apply("slice", parameter, axis=0, start=direction, stop=direction + 1)
        return apply("reshape", part, shape=shape)

    biases = own(b, 2 * width)
    of_input, of_state = (apply("slice", biases, axis=0, start=i * width, stop=(i + 1) * width) for i in range(2))
    inside: tuple[Value, ...] = ()
    if kind == "gru":  # the reset gate multiplies R_h h + Rb_h, so this bias cannot be added before
        inside = (apply("slice", of_state, axis=0, start=2 * p.units, stop=width),)
        of_state = apply("pad", apply("slice", of_state, axis=0, start=0, stop=2 * p.units), axis=0, before=0, after=p.units)
    rows = apply("reshape", x, shape=(Batch(n.factor * steps), size))
    projected = apply("matmul", rows, own(w, width, size), transpose_a=False, transpose_b=True) + (of_input + of_state)
    z = apply("reshape", projected, shape=(steps, n, width))
    cells = apply("recurrence", z, own(r, width, p.units), *inside, kind=kind, reverse=direction == 1)
    h = states(cells)
    if p.return_sequences:
        return h
    last = 0 if direction else steps - 1
    return apply("reshape", apply("slice", h, axis=0, start=last, stop=last + 1), shape=(n, p.units))
