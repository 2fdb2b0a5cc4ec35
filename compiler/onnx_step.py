"""A training step -> ONNX model: forward, backward, clipping and update as one graph of standard operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from .ir import Batch, Graph, TensorType, Value, constant_of
from .onnx_export import GraphEmitter, Notes
from .onnx_lowering import reshape_to, sizes, static
from .onnx_training import NEW, STEP, TRAINING, drawn

OPSET = 18  # onnxruntime's CUDA has no kernels for Pad from 19 on and ConvTranspose from 22 on


def step_to_onnx(graph: Graph, states: Mapping[str, TensorType], arrays: Mapping[str, Any], *, name: str, metadata: Mapping[str, str]) -> Any:
    """The model proto of a training step, checked in full: `states` are inputs, and outputs where the step changes them.

    Beside them stand the batch, under the names of its columns, and what onnx_training.py names: `step:lr` and other numbers of the step, `mask:...`
    and `noise:...` in; `step:loss`, `step:objective`, `step:gradient_square`, sums of metrics and `new:<state>` out. `arrays` are variables that never change.
    """
    emit = GraphEmitter(OPSET, Notes())
    batch, random = graph.leaves("input"), drawn(graph)
    scalars = {STEP + n: v for n, v in graph.leaves("scalar").items()}
    outputs = {STEP + n: v for n, v in graph.outputs.items()} | {NEW + n: v for n, v in graph.updates.items()}
    for reserved in (*states, *batch, *scalars, *random, *outputs):
        emit.fresh(reserved)
    emit.sampled = next(((n, d.factor) for n, v in batch.items() for d in v.shape[:1] if isinstance(d, Batch)), None)
    named = {v: n for n, v in (batch | scalars).items()} | {v: n for n, v in random.items()}

    def leaf(value: Value) -> str | None:
        match value.op:
            case "variable" if value.name in states:  # flat in the step
                return value.name if value.type == states[value.name] else reshape_to(emit, value.name, value.shape)
            case "variable":
                return emit.initialiser(value.name, arrays[value.name])
            case "bernoulli":
                return emit.node("Cast", named[value], to=value.dtype)
        return named.get(value)

    names: dict[Value, str] = {}
    biased, slopes = _biased(graph), _slopes(graph)
    inside = set(biased.values())
    for value in graph.order():
        emit.origin = value.origin
        given = leaf(value)
        operands = [names[o] for o in value.operands if o not in inside]
        if given is not None:
            names[value] = given
        elif value.op == "constant":
            names[value] = emit.tensor(value.attributes["value"], value.dtype)
        elif value in biased:
            convolution = biased[value]
            bias = reshape_to(emit, operands[0], convolution.shape[1:2])
            names[value] = TRAINING["conv2d"](emit, convolution, [*(names[o] for o in convolution.operands), bias])
        elif value in slopes:
            kink, taken = slopes[value], operands[0]
            if (kink.op, value.operands[0].op) == ("maximum", "greater"):  # read of the result, so that nothing else reads what a convolution gave
                taken = emit.node("Greater", names[kink], names[kink.operands[1]])
            names[value] = emit.node("Mul", operands[1], emit.node("Cast", taken, to=value.dtype))
        elif value not in inside:
            names[value] = TRAINING[value.op](emit, value, operands)
    emit.origin = ""
    made = {}
    for output, value in outputs.items():
        kind = made[output] = states[output.removeprefix(NEW)] if output.startswith(NEW) else value.type
        reshaped = [] if kind == value.type else [sizes(emit, static(kind.shape))]
        emit.output(output, "Reshape" if reshaped else "Identity", names[value], *reshaped)
    ports = {n: v.type for n, v in (batch | scalars).items()}
    ports |= {n: v.type.with_dtype("bool") if v.op == "bernoulli" else v.type for n, v in random.items()}
    return emit.model(name, dict(states) | ports, made, metadata)


def _biased(graph: Graph) -> dict[Value, Value]:
    """Additions of one number a channel that are a convolution's own, with the convolution: its operator takes a bias."""
    order = graph.order()
    uses = Counter(o for v in order for o in v.operands)
    uses.update(graph.roots)
    found = {}
    for value in order:
        if value.op == "add" and value.operands[0].op == "conv2d" and uses[value.operands[0]] == 1:
            linear, bias = value.operands
            if value.type == linear.type and bias.shape == (linear.shape[1], 1, 1):
                found[value] = linear
    return found


def _slopes(graph: Graph) -> dict[Value, Value]:
    """Cotangents that pass where a maximum or minimum took one operand, and are 0 elsewhere, with that maximum or minimum.

    They are written as products, which take a third of the time of a selection. A cotangent that is not finite would pass too, as NaN; the
    runtime has such a step judged by NumPy (runtime/onnx_steps.py).
    """
    order = graph.order()
    kinks = {value.operands: value for value in order if value.op in ("maximum", "minimum")}
    return {
        v: kinks[v.operands[0].operands]
        for v in order
        if v.op == "where" and v.operands[0].operands in kinks and constant_of(v.operands[2]) == 0 and v.operands[1].type == v.type
    }
