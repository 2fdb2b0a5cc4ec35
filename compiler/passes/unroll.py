"""Recurrences written out step by step, where the gradient of their gradient is wanted: then each step is made of primitives that have both."""

from __future__ import annotations

from collections.abc import Callable

from ..ir import Value, apply, constant, rewrite

# One step: the projected input, the projected state and the states before, to the states after. The first state is what is given out.
Cell = Callable[[Value, Value, list[Value]], list[Value]]


def unroll(roots: list[Value]) -> list[Value]:
    return rewrite(roots, lambda value: _written_out(value) if value.op == "slice" and value.operands[0].op == "recurrence" else value)


def _written_out(states: Value) -> Value:
    """The states [1, steps, N, units] that a slice takes of a recurrence."""
    (cells,) = states.operands
    assert states.shape[0] == 1, "only the states of a recurrence are for others to read"
    assert states.attributes["start"] == 0, "only the states of a recurrence are for others to read"
    z, r, *b = cells.operands
    steps, n, width = z.shape
    units = r.shape[1]
    assert isinstance(steps, int)
    zero = apply("broadcast_to", constant(0.0, z.dtype), shape=(n, units))
    now = [zero, zero]
    given: list[Value] = []
    cell = _CELLS[cells.attributes["kind"]]
    order = range(steps - 1, -1, -1) if cells.attributes["reverse"] else range(steps)
    for t in order:
        piece = apply("reshape", apply("slice", z, axis=0, start=t, stop=t + 1), shape=(n, width))
        projected = apply("matmul", now[0], r, transpose_a=False, transpose_b=True)
        if b:
            projected = projected + apply("pad", b[0], axis=0, before=width - units, after=0)  # type: ignore[operator]
        now = cell(piece, projected, now)
        given.append(apply("reshape", now[0], shape=(1, 1, n, units)))
    in_place = given[::-1] if cells.attributes["reverse"] else given
    return apply("concat", *in_place, axis=1) if steps > 1 else given[0]


def _gate(x: Value, states: list[Value], first: int, count: int = 1) -> Value:
    units = states[0].shape[1]
    assert isinstance(units, int)
    return apply("slice", x, axis=1, start=first * units, stop=(first + count) * units)


def _rnn_tanh(z: Value, r: Value, states: list[Value]) -> list[Value]:
    return [apply("tanh", z + r)]


def _rnn_relu(z: Value, r: Value, states: list[Value]) -> list[Value]:
    return [apply("maximum", z + r, constant(0.0, z.dtype))]


def _lstm(z: Value, r: Value, states: list[Value]) -> list[Value]:
    total = z + r
    gates, candidate = apply("sigmoid", _gate(total, states, 0, 3)), apply("tanh", _gate(total, states, 3))
    i, o, f = (_gate(gates, states, k) for k in range(3))
    c = f * states[1] + i * candidate
    return [o * apply("tanh", c), c]


def _gru(z: Value, r: Value, states: list[Value]) -> list[Value]:
    gates = apply("sigmoid", _gate(z, states, 0, 2) + _gate(r, states, 0, 2))
    update, reset = _gate(gates, states, 0), _gate(gates, states, 1)
    new = apply("tanh", _gate(z, states, 2) + reset * _gate(r, states, 2))
    return [new + update * (states[0] - new)]


_CELLS: dict[str, Cell] = {"rnn_tanh": _rnn_tanh, "rnn_relu": _rnn_relu, "lstm": _lstm, "gru": _gru}
