"""Graph -> ONNX model. The only importer of onnx.

opset and IR version are always pinned: onnx's own defaults are newer than the newest onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnx import TensorProto, checker, helper, numpy_helper, shape_inference

from .ir import Batch, Graph, TensorType, Value
from .onnx_lowering import LOWERINGS

DTYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}
BATCH = "batch"
ML_OPSET = 2


class Malformed(Exception):
    """The model does not pass onnx's checker: a lowering is wrong."""


def ir_version(opset: int) -> int:
    """The file format that was current with an opset, so that every onnxruntime that has the opset loads the file."""
    return max(ir for first, ir in ((13, 7), (15, 8), (19, 9), (21, 10), (23, 11), (24, 12), (26, 13)) if opset >= first)


class GraphEmitter:
    """Collects nodes and constants (onnx_lowering.Emitter)."""

    def __init__(self, opset: int):
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.known: dict[Any, str] = {}
        self.taken: dict[str, int] = {}
        self.origin = ""
        self.domains: set[str] = set()

    def fresh(self, wanted: str) -> str:
        """A name of its own: the wanted one, or with a number behind it."""
        count = self.taken[wanted] = self.taken.get(wanted, 0) + 1
        return wanted if count == 1 else self.fresh(f"{wanted}_{count}")

    def node(self, op: str, *inputs: str, place: int = 0, domain: str = "", **attributes: Any) -> str:
        name = self.fresh(f"{self.origin}/{op}" if self.origin else op)
        if "to" in attributes:
            attributes["to"] = DTYPES[attributes["to"]]
        self.nodes.append(helper.make_node(op, list(inputs), [*[""] * place, name], name=name, domain=domain, **attributes))
        self.domains.add(domain)
        return name

    def tensor(self, values: Any, dtype: str, shape: Sequence[int] | None = None) -> str:
        key = (repr(values), dtype, tuple(shape) if shape is not None else None)  # repr: 0.0 and -0.0 are equal and differ
        if key not in self.known:
            flat = values if shape is not None else [values]
            name = self.fresh(f"constant/{dtype}")
            self.constants.append(helper.make_tensor(name, DTYPES[dtype], list(shape or []), flat))
            self.known[key] = name
        return self.known[key]


def to_onnx(graph: Graph, arrays: Mapping[str, Any], *, opset: int, name: str, metadata: Mapping[str, str]) -> Any:
    """The model proto of a graph whose variables are `arrays` (numpy, by name), checked in full."""
    emit = GraphEmitter(opset)
    names: dict[Value, str] = {}
    initialisers = []
    inputs = graph.leaves("input")
    for reserved in (*graph.outputs, *inputs):
        emit.fresh(reserved)
    for value in graph.order():
        emit.origin = value.origin
        match value.op:
            case "input":
                names[value] = value.name
            case "variable":
                names[value] = emit.fresh(value.name)
                initialisers.append(numpy_helper.from_array(arrays[value.name], names[value]))
            case "constant":
                names[value] = emit.tensor(value.attributes["value"], value.dtype)
            case _:
                assert value.op in LOWERINGS, f"{value.op} has no ONNX lowering"
                names[value] = LOWERINGS[value.op](emit, value, [names[o] for o in value.operands])
    emit.origin = ""
    for output, value in graph.outputs.items():
        emit.nodes.append(helper.make_node("Identity", [names[value]], [output], name=emit.fresh(f"output/{output}")))
    proto = helper.make_graph(
        emit.nodes,
        name,
        [_info(n, v.type) for n, v in inputs.items()],
        [_info(n, v.type) for n, v in graph.outputs.items()],
        initialisers + emit.constants,
    )
    opsets = [helper.make_opsetid("", opset)]
    if "ai.onnx.ml" in emit.domains:
        opsets.append(helper.make_opsetid("ai.onnx.ml", ML_OPSET))
    model = helper.make_model(proto, opset_imports=opsets, ir_version=ir_version(opset), producer_name="nnc")
    helper.set_model_props(model, dict(metadata))
    try:
        checker.check_model(model, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        first = str(error).strip().partition("\n")[0]
        raise Malformed(f"onnx's checker does not accept the file: {first[:200]}") from error
    return model


def _info(name: str, kind: TensorType) -> Any:
    return helper.make_tensor_value_info(name, DTYPES[kind.dtype], [BATCH if isinstance(d, Batch) else d for d in kind.shape])


def serialised(model: Any) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data
