"""Graph -> ONNX model. The only importer of onnx.

opset and IR version are always pinned: onnx's own defaults are newer than the newest onnxruntime.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import TensorProto, checker, defs, helper, numpy_helper, shape_inference

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


class Unavailable(Exception):
    """An operator that the chosen opset does not have."""

    def __init__(self, operator: str, opset: int, needed: int | None):
        self.operator, self.opset, self.needed = operator, opset, needed
        since = f"it comes with opset {needed}" if needed is not None else "no opset has it"
        super().__init__(f"opset {opset} has no operator {operator}: {since}")


@dataclass(frozen=True)
class Notes:
    """What a reader of the file is told: of the graph, of inputs and outputs by name, of layers by path."""

    graph: str = ""
    ports: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)

    def of(self, path: str) -> str:
        """About a layer, also of a member of an ensemble."""
        return self.layers.get(path) or self.layers.get(path.partition("/")[2], "")


def ir_version(opset: int) -> int:
    """The file format that was current with an opset, so that every onnxruntime that has the opset loads the file."""
    return max(ir for first, ir in ((13, 7), (15, 8), (19, 9), (21, 10), (23, 11), (24, 12), (26, 13)) if opset >= first)


class GraphEmitter:
    """Collects nodes and constants (onnx_lowering.Emitter)."""

    def __init__(self, opset: int, notes: Notes):
        self.opset = opset
        self.notes = notes
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
        require(op, domain, ML_OPSET if domain else self.opset)
        name = self.fresh(f"{self.origin}/{op}" if self.origin else op)
        if "to" in attributes:
            attributes["to"] = DTYPES[attributes["to"]]
        self.nodes.append(helper.make_node(op, list(inputs), [*[""] * place, name], name=name, domain=domain,
                                           doc_string=self.notes.of(self.origin) or None, **attributes))  # fmt: skip
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


def require(operator: str, domain: str, opset: int) -> None:
    """Raises Unavailable for an operator that an opset does not have."""
    if not defs.has(operator, opset, domain):
        since = [schema.since_version for schema in defs.get_all_schemas_with_history() if (schema.name, schema.domain) == (operator, domain)]
        raise Unavailable(operator, opset, min(since, default=None))


def _biased(graph: Graph) -> dict[Value, Value]:
    """Additions of one number a channel that are a convolution's own, with the convolution: its operator takes a bias."""
    order = graph.order()
    uses = Counter(o for v in order for o in v.operands)
    uses.update(graph.roots)
    found: dict[Value, Value] = {}
    for value in order:
        if value.op == "add" and value.operands[0].op in ("conv2d", "conv2d_input_gradient") and value.operands[1].op == "variable":
            linear, bias = value.operands
            if uses[linear] == uses[bias] == 1 and value.type == linear.type and bias.shape == (linear.shape[1], 1, 1):
                found[value] = linear
    return found


def to_onnx(graph: Graph, arrays: Mapping[str, Any], *, opset: int, name: str, metadata: Mapping[str, str], notes: Notes | None = None) -> Any:
    """The model proto of a graph whose variables are `arrays` (numpy, by name), checked in full.

    Raises Unavailable where the opset lacks an operator, Malformed where onnx does not accept what a lowering wrote.
    """
    told = notes or Notes()
    emit = GraphEmitter(opset, told)
    names: dict[Value, str] = {}
    initialisers = []
    inputs = graph.leaves("input")
    for reserved in (*graph.outputs, *inputs):
        emit.fresh(reserved)
    biased = _biased(graph)
    inside, biases = set(biased.values()), {value.operands[1] for value in biased}
    for value in graph.order():
        emit.origin = value.origin
        match value.op:
            case "input":
                names[value] = value.name
            case "variable":
                names[value] = emit.fresh(value.name)
                array = arrays[value.name].reshape(-1) if value in biases else arrays[value.name]
                initialisers.append(numpy_helper.from_array(array, names[value]))
            case "constant":
                names[value] = emit.tensor(value.attributes["value"], value.dtype)
            case _ if value in inside:
                pass  # written with its bias
            case _:
                linear = biased.get(value, value)
                operands = linear.operands if linear is value else (*linear.operands, value.operands[1])
                assert linear.op in LOWERINGS, f"{linear.op} has no ONNX lowering"
                emit.origin = linear.origin
                names[value] = LOWERINGS[linear.op](emit, linear, [names[o] for o in operands])
    emit.origin = ""
    for output, value in graph.outputs.items():
        emit.nodes.append(helper.make_node("Identity", [names[value]], [output], name=emit.fresh(f"output/{output}")))
    proto = helper.make_graph(
        emit.nodes,
        name,
        [_info(n, v.type, told) for n, v in inputs.items()],
        [_info(n, v.type, told) for n, v in graph.outputs.items()],
        initialisers + emit.constants,
        doc_string=told.graph or None,
    )
    opsets = [helper.make_opsetid("", opset)]
    if "ai.onnx.ml" in emit.domains:
        opsets.append(helper.make_opsetid("ai.onnx.ml", ML_OPSET))
    model = helper.make_model(proto, opset_imports=opsets, ir_version=ir_version(opset), producer_name="nnc", doc_string=told.graph)
    helper.set_model_props(model, dict(metadata))
    try:
        checker.check_model(model, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        first = str(error).strip().partition("\n")[0]
        raise Malformed(f"onnx's checker does not accept the file: {first[:200]}") from error
    return model


def _info(name: str, kind: TensorType, notes: Notes) -> Any:
    shape = [BATCH if isinstance(d, Batch) else d for d in kind.shape]
    return helper.make_tensor_value_info(name, DTYPES[kind.dtype], shape, doc_string=notes.ports.get(name, ""))


def serialised(model: Any) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data
