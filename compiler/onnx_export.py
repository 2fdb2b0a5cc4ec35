"""Graph -> ONNX model. The only importer of onnx.

opset and IR version are always pinned: onnx's own defaults are newer than the newest onnxruntime.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from onnx import TensorProto, checker, defs, helper, numpy_helper, shape_inference

from .ir import Batch, Graph, TensorType, Value
from .onnx_lowering import LOWERINGS, Body
from .record import record

DTYPES = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int8": TensorProto.INT8,
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


@record
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
    """Collects nodes and constants (onnx_lowering.Emitter). One for the body of a Scan has a list of nodes of its own, and the rest is its `parent`'s."""

    def __init__(self, opset: int, notes: Notes, parent: GraphEmitter | None = None):
        self.opset, self.notes, self.parent = opset, notes, parent
        self.nodes: list[Any] = []
        self.constants: list[Any] = parent.constants if parent else []
        self.known: dict[Any, str] = parent.known if parent else {}
        self.taken: dict[str, int] = parent.taken if parent else {}
        self.origin: str = parent.origin if parent else ""
        self.domains: set[str] = parent.domains if parent else set()
        self.parts: dict[str, list[str]] = {}
        self.sampled: tuple[str, int] | None = None  # an input, and how many times the batch its first axis is

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

    def several(self, op: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        name = self.fresh(f"{self.origin}/{op}" if self.origin else op)
        outputs = [name, *(self.fresh(f"{name}:{i}") for i in range(1, count))]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=name, **attributes))
        return outputs

    def scan(self, dtype: str, states: Sequence[str], sequences: Sequence[str], body: Body, *, reverse: bool) -> list[str]:
        inner = GraphEmitter(self.opset, self.notes, self)
        before, elements = ([inner.fresh(f"{self.origin}/{what}") for _ in given] for what, given in (("state", states), ("element", sequences)))
        after, results = body(inner, before, elements)
        results = [inner.node("Identity", name) for name in results]  # a state may be a result too
        kind = DTYPES[dtype]
        inputs, outputs = ([helper.make_tensor_value_info(n, kind, None) for n in names] for names in (before + elements, after + results))
        graph = helper.make_graph(inner.nodes, inner.fresh(f"{self.origin}/body"), inputs, outputs)
        found = self.several(
            "Scan", *states, *sequences, count=len(after) + len(results), body=graph, num_scan_inputs=len(sequences),
            scan_input_directions=[int(reverse)] * len(sequences), scan_output_directions=[int(reverse)] * len(results),
        )  # fmt: skip
        return found[len(after) :]

    @property
    def batch(self) -> str:
        if self.parent is not None:
            return self.parent.batch
        if "batch" not in self.known:
            assert self.sampled is not None, "no input has the batch on its first axis"
            source, factor = self.sampled
            size = self.node("Shape", source, start=0, end=1)
            self.known["batch"] = size if factor == 1 else self.node("Div", size, self.tensor([factor], "int64", [1]))
        return self.known["batch"]

    def output(self, name: str, operator: str, *inputs: str) -> None:
        """Append what gives an output of the graph, under its name."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=self.fresh(f"output/{name}")))

    def initialiser(self, name: str, array: Any) -> str:
        """Append an array of the host."""
        chosen = self.fresh(name)
        self.constants.append(numpy_helper.from_array(array, chosen))
        return chosen

    def model(self, name: str, inputs: Mapping[str, TensorType], outputs: Mapping[str, TensorType], metadata: Mapping[str, str]) -> Any:
        """The model proto of what the outputs need, checked in full. Raises Malformed where onnx does not accept it."""
        nodes, used = _needed(self.nodes, list(outputs))
        given, made = ([self._info(n, kind) for n, kind in ports.items()] for ports in (inputs, outputs))
        constants = [tensor for tensor in self.constants if tensor.name in used]
        proto = helper.make_graph(nodes, name, given, made, constants, doc_string=self.notes.graph or None)
        opsets = [helper.make_opsetid("", self.opset)]
        if "ai.onnx.ml" in self.domains:
            opsets.append(helper.make_opsetid("ai.onnx.ml", ML_OPSET))
        about = {"producer_name": "nnc", "doc_string": self.notes.graph}
        model = helper.make_model(proto, opset_imports=opsets, ir_version=ir_version(self.opset), **about)
        helper.set_model_props(model, dict(metadata))
        try:
            checker.check_model(model, full_check=True)
        except (checker.ValidationError, shape_inference.InferenceError) as error:
            first = str(error).strip().partition("\n")[0]
            raise Malformed(f"onnx's checker does not accept the file: {first[:200]}") from error
        return model

    def _info(self, name: str, kind: TensorType) -> Any:
        shape = [BATCH if isinstance(d, Batch) else d for d in kind.shape]
        return helper.make_tensor_value_info(name, DTYPES[kind.dtype], shape, doc_string=self.notes.ports.get(name, ""))

    def tensor(self, values: Any, dtype: str, shape: Sequence[int] | None = None) -> str:
        key = (repr(values), dtype, tuple(shape) if shape is not None else None)  # repr: 0.0 and -0.0 are equal and differ
        if key not in self.known:
            flat = values if shape is not None else [values]
            name = self.fresh(f"constant/{dtype}")
            self.constants.append(helper.make_tensor(name, DTYPES[dtype], list(shape or []), flat))
            self.known[key] = name
        return self.known[key]


def _needed(nodes: list[Any], outputs: list[str]) -> tuple[list[Any], set[str]]:
    """The nodes that the outputs depend on, and every name that those read."""
    used = set(outputs)
    kept = []
    for node in reversed(nodes):
        if not used.isdisjoint(node.output):
            kept.append(node)
            used.update(node.input)
            used.update(name for attribute in node.attribute for inner in attribute.g.node for name in inner.input)
    return kept[::-1], used


def require(operator: str, domain: str, opset: int) -> None:
    """Raises Unavailable for an operator that an opset does not have."""
    if not defs.has(operator, opset, domain):
        since = [schema.since_version for schema in defs.get_all_schemas_with_history() if (schema.name, schema.domain) == (operator, domain)]
        raise Unavailable(operator, opset, min(since, default=None))


def _biased(graph: Graph) -> dict[Value, tuple[Value, Value]]:
    """Additions of one number a channel that are a convolution's own, with the convolution and the bias: its operator takes one.

    So does Gemm, and where operands are dequantized an engine computes the whole with whole numbers.
    """
    order = graph.order()
    uses = Counter(o for v in order for o in v.operands)
    uses.update(graph.roots)
    found: dict[Value, tuple[Value, Value]] = {}
    for value in order:
        if value.op != "add" or value.operands[0].op not in ("conv2d", "conv2d_input_gradient", "matmul"):
            continue
        linear, bias = value.operands
        if uses[linear] != 1 or uses[bias] != 1 or value.type != linear.type:
            continue
        if linear.op == "matmul":
            if bias.op == "dequantize":
                found[value] = linear, bias
        elif bias.shape == (linear.shape[1], 1, 1):
            if bias.op == "variable":
                found[value] = linear, bias
            elif bias.op == "reshape" and bias.operands[0].op == "dequantize":
                found[value] = linear, bias.operands[0]
    return found


def _gemm(emit: GraphEmitter, value: Value, inputs: list[str]) -> str:
    """A product of two matrices plus a bias."""
    return emit.node("Gemm", *inputs, transA=int(value.attributes["transpose_a"]), transB=int(value.attributes["transpose_b"]))


def to_onnx(graph: Graph, arrays: Mapping[str, Any], *, opset: int, name: str, metadata: Mapping[str, str], notes: Notes | None = None) -> Any:
    """The model proto of a graph whose variables are `arrays` (numpy, by name), checked in full.

    Raises Unavailable where the opset lacks an operator, Malformed where onnx does not accept what a lowering wrote.
    """
    told = notes or Notes()
    emit = GraphEmitter(opset, told)
    names: dict[Value, str] = {}
    inputs = graph.leaves("input")
    for reserved in (*graph.outputs, *inputs):
        emit.fresh(reserved)
    biased = _biased(graph)
    biases = {bias for _, bias in biased.values()}
    inside = {operand for value in biased for operand in value.operands} - biases
    for value in graph.order():
        emit.origin = value.origin
        match value.op:
            case "input":
                names[value] = value.name
            case "variable":
                array = arrays[value.name].reshape(-1) if value in biases else arrays[value.name]
                names[value] = emit.initialiser(value.name, array)
            case "constant":
                names[value] = emit.tensor(value.attributes["value"], value.dtype)
            case _ if value in inside:
                pass  # written with its bias
            case _:
                linear, *bias = biased.get(value, (value,))
                assert linear.op in LOWERINGS, f"{linear.op} has no ONNX lowering"
                emit.origin = linear.origin
                lowering = _gemm if bias and linear.op == "matmul" else LOWERINGS[linear.op]
                names[value] = lowering(emit, linear, [names[o] for o in (*linear.operands, *bias)])
    emit.origin = ""
    for output, value in graph.outputs.items():
        emit.output(output, "Identity", names[value])
    return emit.model(name, {n: v.type for n, v in inputs.items()}, {n: v.type for n, v in graph.outputs.items()}, metadata)


def serialised(model: Any) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data
