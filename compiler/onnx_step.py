"""A training step -> ONNX model: forward, backward, clipping and update as one graph of standard operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .ir import Batch, Graph, TensorType, Value
from .onnx_export import GraphEmitter, Notes
from .onnx_lowering import reshape_to, sizes, static
from .onnx_training import NEW, STEP, TRAINING, drawn

OPSET = 18  # onnxruntime's CUDA has no kernels for Pad from 19 on and ConvTranspose from 22 on


def step_to_onnx(graph: Graph, states: Mapping[str, TensorType], arrays: Mapping[str, Any], *, name: str, metadata: Mapping[str, str]) -> Any:
    """The model proto of a training step, checked in full: `states` are inputs, and outputs where the step changes them.

    Beside them stand the batch, under the names of its columns, and what onnx_training.py names: `step:lr` and other numbers of the step, `mask:...`
    and `noise:...` in; `step:loss`, `step:objective`, `step:gradient_square` and `new:<state>` out. `arrays` are variables that never change.
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
    for value in graph.order():
        emit.origin = value.origin
        given = leaf(value)
        if given is None and value.op == "constant":
            given = emit.tensor(value.attributes["value"], value.dtype)
        names[value] = given or TRAINING[value.op](emit, value, [names[o] for o in value.operands])
    emit.origin = ""
    made = {}
    for output, value in outputs.items():
        kind = made[output] = states[output.removeprefix(NEW)] if output.startswith(NEW) else value.type
        reshaped = [] if kind == value.type else [sizes(emit, static(kind.shape))]
        emit.output(output, "Reshape" if reshaped else "Identity", names[value], *reshaped)
    ports = {n: v.type for n, v in (batch | scalars).items()}
    ports |= {n: v.type.with_dtype("bool") if v.op == "bernoulli" else v.type for n, v in random.items()}
    return emit.model(name, dict(states) | ports, made, metadata)
