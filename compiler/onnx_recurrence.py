"""Recurrences in training as ONNX operators: their steps are walked through in a Scan, forward and back.

The equations are those of runtime/recurrence.py: what a step back multiplies its cotangent with depends on forward values alone and is computed for all
steps at once. The blocks of a recurrence (primitives.RECURRENCES) are kept apart by the emitter, so that what reads one of them need not
have them all in one tensor.
"""

from __future__ import annotations

from collections.abc import Callable

from .ir import Value
from .onnx_lowering import Body, Emitter, reshape_to, sizes, zeros
from .primitives import RECURRENCES

Walk = Callable[[Emitter, Value, list[str]], list[str]]


def recurrence(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """The blocks one behind the other; those of the gates together are [steps, N, gates, units] in memory."""
    kind = value.attributes["kind"]
    gates, blocks = RECURRENCES[kind]
    _, steps, n, units = value.shape
    *apart, last = _FORWARD[kind](emit, value, inputs)
    count = gates if gates > 1 else 1
    pieces = [emit.node("Unsqueeze", name, sizes(emit, [0])) for name in apart]
    whole = emit.node("Concat", *pieces, reshape_to(emit, last, (count, steps, n, units)), axis=0) if pieces else reshape_to(emit, last, value.shape)
    emit.parts[whole] = [*apart, last]
    assert len(apart) + count == blocks
    return whole


def recurrence_gradient(emit: Emitter, value: Value, inputs: list[str]) -> str:
    """The cotangents of the projected inputs, and of a gru those of the projected states too."""
    found = _BACKWARD[value.attributes["kind"]](emit, value, [inputs[0], *_blocks(emit, value, inputs[1]), inputs[2]])
    pieces = [emit.node("Unsqueeze", name, sizes(emit, [0])) for name in found]
    whole = emit.node("Concat", *pieces, axis=0) if len(pieces) > 1 else pieces[0]
    emit.parts[whole] = found
    return whole


def _blocks(emit: Emitter, value: Value, cells: str) -> list[str]:
    """The blocks of a recurrence each by itself, the gates' as one tensor [steps, N, gates units]."""
    if cells in emit.parts:
        return emit.parts[cells]
    kept = value.operands[1].shape
    gates, blocks = RECURRENCES[value.attributes["kind"]]
    apart = blocks - gates
    found = [emit.node("Squeeze", emit.node("Slice", cells, *(sizes(emit, [k]) for k in (i, i + 1, 0))), sizes(emit, [0])) for i in range(apart)]
    last = emit.node("Slice", cells, *(sizes(emit, [k]) for k in (apart, blocks, 0)))
    return [*found, reshape_to(emit, last, (kept[1], kept[2], gates * _units(value)))]


def _gate(emit: Emitter, x: str, units: int, first: int, count: int = 1) -> str:
    return emit.node("Slice", x, *(sizes(emit, [k]) for k in (first * units, (first + count) * units, -1)))


def _state(emit: Emitter, value: Value, gates: int = 1) -> str:
    """Zeros [N, gates units]."""
    n, units = value.operands[0].shape[1], _units(value)
    return zeros(emit, value.dtype, (n, gates * units))


def _units(value: Value) -> int:
    r = value.operands[1] if value.op == "recurrence" else value.operands[2]
    assert isinstance(r.shape[1], int)
    return r.shape[1]


def _rnn(activation: str) -> Walk:
    def walk(emit: Emitter, value: Value, inputs: list[str]) -> list[str]:
        turned = emit.node("Transpose", inputs[1], perm=[1, 0])

        def step(emit: Emitter, states: list[str], elements: list[str]) -> tuple[list[str], list[str]]:
            h = emit.node(activation, emit.node("Add", emit.node("MatMul", states[0], turned), elements[0]))
            return [h], [h]

        return emit.scan(value.dtype, [_state(emit, value)], [inputs[0]], step, reverse=value.attributes["reverse"])

    return walk


def _lstm(emit: Emitter, value: Value, inputs: list[str]) -> list[str]:
    """h, c, tanh(c) and the gates i, o, f, g."""
    units = _units(value)
    turned = emit.node("Transpose", inputs[1], perm=[1, 0])

    def step(emit: Emitter, states: list[str], elements: list[str]) -> tuple[list[str], list[str]]:
        h, c = states
        z = emit.node("Add", emit.node("MatMul", h, turned), elements[0])
        gates = emit.node("Sigmoid", _gate(emit, z, units, 0, 3))
        new = emit.node("Tanh", _gate(emit, z, units, 3))
        i, o, f = emit.several("Split", gates, count=3, axis=-1, num_outputs=3)
        c = emit.node("Add", emit.node("Mul", i, new), emit.node("Mul", f, c))
        s = emit.node("Tanh", c)
        h = emit.node("Mul", o, s)
        return [h, c], [h, c, s, emit.node("Concat", gates, new, axis=-1)]

    zero = _state(emit, value)
    return emit.scan(value.dtype, [zero, zero], [inputs[0]], step, reverse=value.attributes["reverse"])


def _gru(emit: Emitter, value: Value, inputs: list[str]) -> list[str]:
    """h, R_h h + Rb_h, and the gates: update, reset, the new state."""
    units = _units(value)
    turned = emit.node("Transpose", inputs[1], perm=[1, 0])

    def step(emit: Emitter, states: list[str], elements: list[str]) -> tuple[list[str], list[str]]:
        (h,), (z,) = states, elements
        q = emit.node("MatMul", h, turned)
        gates = emit.node("Sigmoid", emit.node("Add", _gate(emit, q, units, 0, 2), _gate(emit, z, units, 0, 2)))
        inner = emit.node("Add", _gate(emit, q, units, 2), inputs[2])
        update, reset = emit.several("Split", gates, count=2, axis=-1, num_outputs=2)
        new = emit.node("Tanh", emit.node("Add", emit.node("Mul", reset, inner), _gate(emit, z, units, 2)))
        h = emit.node("Add", emit.node("Mul", emit.node("Sub", h, new), update), new)
        return [h], [h, inner, emit.node("Concat", gates, new, axis=-1)]

    return emit.scan(value.dtype, [_state(emit, value)], [inputs[0]], step, reverse=value.attributes["reverse"])


def _one_minus(emit: Emitter, value: Value, x: str) -> str:
    return emit.node("Sub", emit.tensor(1.0, value.dtype), x)


def _before(emit: Emitter, value: Value, states: str) -> str:
    """Of states [steps, N, units] at each step the one before it in time; zeros at the first."""
    steps, n, units = value.operands[0].shape[0], value.operands[0].shape[1], _units(value)
    assert isinstance(steps, int)
    zero = zeros(emit, value.dtype, (1, n, units))
    if steps == 1:
        return zero
    reverse = value.attributes["reverse"]
    first, last = (1, steps) if reverse else (0, steps - 1)
    rest = emit.node("Slice", states, *(sizes(emit, [k]) for k in (first, last, 0)))
    return emit.node("Concat", rest, zero, axis=0) if reverse else emit.node("Concat", zero, rest, axis=0)


def _walk_back(emit: Emitter, value: Value, states: list[str], sequences: list[str], step: Body) -> list[str]:
    return emit.scan(value.dtype, states, sequences, step, reverse=not value.attributes["reverse"])


def _rnn_back(slope: Callable[[Emitter, Value, str], str]) -> Walk:
    def walk(emit: Emitter, value: Value, inputs: list[str]) -> list[str]:
        """dz = slope (g + dz' R), with a prime what belongs to the step after."""
        g, h, r = inputs

        def step(emit: Emitter, states: list[str], elements: list[str]) -> tuple[list[str], list[str]]:
            dz = emit.node("Mul", emit.node("Add", emit.node("MatMul", states[0], r), elements[0]), elements[1])
            return [dz], [dz]

        return _walk_back(emit, value, [_state(emit, value)], [g, slope(emit, value, h)], step)

    return walk


def _slope_of_tanh(emit: Emitter, value: Value, h: str) -> str:
    return _one_minus(emit, value, emit.node("Mul", h, h))


def _slope_of_relu(emit: Emitter, value: Value, h: str) -> str:
    return emit.node("Cast", emit.node("Greater", h, emit.tensor(0.0, value.dtype)), to=value.dtype)


def _lstm_back(emit: Emitter, value: Value, inputs: list[str]) -> list[str]:
    """dh = g + dz' R; dc = dh o (1 - s^2) + f' dc'; dz of i, f, g is dc, of o dh, times what the forward values alone make."""
    g_h, _, c, s, gates, r = inputs
    units = _units(value)
    i, o, f, g = emit.several("Split", gates, count=4, axis=-1, num_outputs=4)

    def slope(gate: str, product: str) -> str:
        return emit.node("Mul", emit.node("Mul", gate, _one_minus(emit, value, gate)), product)

    of_g = emit.node("Mul", _one_minus(emit, value, emit.node("Mul", g, g)), i)
    factor = emit.node("Concat", slope(i, g), slope(o, s), slope(f, _before(emit, value, c)), of_g, axis=-1)
    to_c = emit.node("Mul", _one_minus(emit, value, emit.node("Mul", s, s)), o)

    def step(emit: Emitter, states: list[str], elements: list[str]) -> tuple[list[str], list[str]]:
        (after, carried), (g_t, factor_t, to_c_t, f_t) = states, elements
        dh = emit.node("Add", emit.node("MatMul", after, r), g_t)
        dc = emit.node("Add", carried, emit.node("Mul", dh, to_c_t))
        dz = emit.node("Mul", emit.node("Concat", dc, dh, dc, dc, axis=-1), factor_t)
        return [dz, emit.node("Mul", dc, f_t)], [dz]

    assert units
    return _walk_back(emit, value, [_state(emit, value, 4), _state(emit, value)], [g_h, factor, to_c, f], step)


def _gru_back(emit: Emitter, value: Value, inputs: list[str]) -> list[str]:
    """dh = g + update' dh' + dq' R; dz and dq are dh times factors. They differ in the new state's gate alone: dq = reset dz there."""
    g_h, h, inner, gates, r = inputs
    units = _units(value)
    update, reset, new = emit.several("Split", gates, count=3, axis=-1, num_outputs=3)
    kept = _one_minus(emit, value, update)
    of_update = emit.node("Mul", emit.node("Mul", emit.node("Sub", _before(emit, value, h), new), update), kept)
    plain = emit.node("Mul", kept, _one_minus(emit, value, emit.node("Mul", new, new)))
    of_new = emit.node("Mul", plain, reset)
    of_reset = emit.node("Mul", emit.node("Mul", _one_minus(emit, value, reset), of_new), inner)
    factor = emit.node("Concat", of_update, of_reset, of_new, axis=-1)

    def step(emit: Emitter, states: list[str], elements: list[str]) -> tuple[list[str], list[str]]:
        (after, carried), (g_t, factor_t, plain_t, update_t) = states, elements
        dh = emit.node("Add", emit.node("Add", carried, emit.node("MatMul", after, r)), g_t)
        dq = emit.node("Mul", emit.node("Concat", dh, dh, dh, axis=-1), factor_t)
        return [dq, emit.node("Mul", dh, update_t)], [dq, emit.node("Mul", dh, plain_t)]

    dq, dz_new = _walk_back(emit, value, [_state(emit, value, 3), _state(emit, value)], [g_h, factor, plain, update], step)
    return [emit.node("Concat", _gate(emit, dq, units, 0, 2), dz_new, axis=-1), dq]


_FORWARD: dict[str, Walk] = {"rnn_tanh": _rnn("Tanh"), "rnn_relu": _rnn("Relu"), "lstm": _lstm, "gru": _gru}
_BACKWARD: dict[str, Walk] = {"rnn_tanh": _rnn_back(_slope_of_tanh), "rnn_relu": _rnn_back(_slope_of_relu), "lstm": _lstm_back, "gru": _gru_back}
