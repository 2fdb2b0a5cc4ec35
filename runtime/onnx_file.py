"""What an ONNX file of any origin holds: nodes, types, sizes. Nothing of it is run, and no other file is opened.

The arrays of a model are most of its bytes and nothing that is told here, so the file is not loaded. Its wire format (messages of fields, each with a
number, a wire type and, for what is nested, a length) is walked through, arrays and long attributes are stepped over, and what is left, a few
kilobytes of structure, is given to onnx. The structure and the number of fields are bounded, so that a made-up file takes neither the
memory nor the day.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from .files import refuse

LARGEST = 2**31  # bytes of a protobuf message, and of the file
_STRUCTURE = 1 << 24  # bytes without arrays
_FIELDS = 500_000
_DEPTH = 40  # of graphs inside attributes
_SMALL = 4096  # bytes of an array or attribute that is kept: shapes are among them
_WINDOW = 1 << 16
_SECONDS = 30
_INFERENCE = """
import sys
import onnx
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
except (ImportError, ValueError, OSError):
    pass
model = onnx.ModelProto.FromString(sys.stdin.buffer.read())
sys.stdout.buffer.write(onnx.shape_inference.infer_shapes(model).SerializeToString())
"""

# The messages of onnx.proto that are walked through, by the field that holds them; the fields that hold data; those that are left out
_NESTED: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_DATA = {"tensor": {4, 5, 6, 7, 9, 10, 11}, "attribute": {4, 7, 8, 9}}
_LEFT_OUT = {"model": {20, 25}}  # training, functions

Shape = tuple[int | str, ...]  # "?" for a length that nothing tells


@dataclass(frozen=True)
class Kind:
    dtype: str
    shape: Shape | None

    def __str__(self) -> str:
        return self.dtype + ("" if self.shape is None else f"[{', '.join(map(str, self.shape))}]")


@dataclass(frozen=True)
class Array:
    """An array that the file holds, or names in another file."""

    kind: Kind
    elements: int
    bytes: int
    external: bool = False

    @property
    def counts(self) -> bool:
        """Whether it is a parameter: whole numbers of 32 and 64 bits are shapes and indices, numbers without an axis are constants."""
        return bool(self.kind.shape) and self.kind.dtype not in ("int64", "int32", "uint64", "uint32", "bool", "string")


@dataclass(frozen=True)
class Node:
    """`depth` counts the graphs around it; `parameters` and `bytes` are of arrays that no node before it uses."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    depth: int
    parameters: int
    bytes: int
    captured: tuple[str, ...] = ()  # what the graphs in its attributes take from around them

    @property
    def layer(self) -> str:
        """The name without the operator at its end."""
        head, _, last = self.name.rpartition("/")
        return head.strip("/") if head and last.partition("_")[0] == self.operator.rpartition(".")[2] else self.name


@dataclass(frozen=True)
class OnnxFile:
    path: Path
    bytes: int
    ir_version: int
    opsets: Mapping[str, int]
    producer: str
    metadata: Mapping[str, str]
    inputs: Mapping[str, Kind]
    outputs: Mapping[str, Kind]
    nodes: tuple[Node, ...]
    kinds: Mapping[str, Kind]  # of every name, as far as they are known
    arrays: Mapping[str, Array]
    external: tuple[str, ...]  # other files in which it keeps arrays

    @property
    def parameters(self) -> int:
        return sum(array.elements for array in self.arrays.values() if array.counts)

    @property
    def array_bytes(self) -> int:
        return sum(array.bytes for array in self.arrays.values())


    def content(self) -> dict[str, Any]:
        """All of it, for JSON."""

        def kind(given: Kind | None) -> dict[str, Any]:
            return {"dtype": given.dtype if given else None, "shape": list(given.shape) if given and given.shape is not None else None}

        def named(names: Iterable[str]) -> list[dict[str, Any]]:
            return [{"name": name} | kind(self.kinds.get(name)) for name in names]

        nodes = [{"name": node.name, "operator": node.operator, "depth": node.depth, "inputs": named(node.inputs), "outputs": named(node.outputs),
                  "parameters": node.parameters, "bytes": node.bytes} for node in self.nodes]  # fmt: skip
        return {
            "file": str(self.path), "bytes": self.bytes, "ir_version": self.ir_version, "opsets": dict(self.opsets), "producer": self.producer,
            "metadata": dict(self.metadata), "inputs": named(self.inputs), "outputs": named(self.outputs), "parameters": self.parameters,
            "array_bytes": self.array_bytes, "external": list(self.external), "nodes": nodes,
        }  # fmt: skip


class _Damaged(Exception):
    """The bytes are no ONNX model, in words."""


# The wire format


class _Window:
    """Some bytes of a file, and others when they are asked for."""

    def __init__(self, file: BinaryIO):
        self.file, self.start, self.held = file, 0, b""

    def read(self, start: int, stop: int) -> bytes:
        if start < self.start or stop > self.start + len(self.held):
            self.file.seek(start)
            self.start, self.held = start, self.file.read(max(stop - start, _WINDOW))
            if len(self.held) < stop - start:
                raise _Damaged("it changes while it is read")
        return self.held[start - self.start : stop - self.start]


class _Walk:
    """Goes through a model once; `structure` is what is left without its arrays."""

    def __init__(self, window: _Window):
        self.window, self.fields, self.kept = window, 0, 0

    def structure(self, message: str, start: int, stop: int, depth: int = 0) -> bytes:
        if depth > _DEPTH:
            raise _Damaged(f"its graphs are nested more than {_DEPTH} deep")
        parts: list[bytes] = []
        left_out = _LEFT_OUT.get(message, set()) | (_DATA.get(message, set()) if stop - start > _SMALL else set())
        for number, begin, content, end in self._fields(start, stop):
            if number in left_out:
                continue
            nested = _NESTED[message].get(number)
            if nested is not None and content > begin:
                inner = self.structure(nested, content, end, depth + (nested == "graph"))
                parts += [_varint(number << 3 | 2), _varint(len(inner)), inner]
                continue
            self.kept += end - begin
            if self.kept > _STRUCTURE:
                raise _Damaged(f"without arrays it still has more than {_STRUCTURE >> 20} MiB")
            parts.append(self.window.read(begin, end))
        return b"".join(parts)

    def _fields(self, place: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, start of the field, start of what is in it (where it is nested, else the field's start), and end."""
        while place < stop:
            self.fields += 1
            if self.fields > _FIELDS:
                raise _Damaged(f"it has more than {_FIELDS:,} fields")
            begin = place
            tag, place = self._number(place, stop)
            number, wire = tag >> 3, tag & 7
            content = begin
            if wire == 0:
                _, place = self._number(place, stop)
            elif wire == 2:
                length, content = self._number(place, stop)
                place = content + length
            elif wire in (1, 5):
                place += 8 if wire == 1 else 4
            else:
                raise _Damaged("its bytes are no fields of a model")
            if not number:
                raise _Damaged("its bytes are no fields of a model")
            if place > stop:
                raise _Damaged(f"it ends {place - stop:,} bytes too early: byte {begin:,} begins a field of {place - begin:,}")
            yield number, begin, content, place

    def _number(self, place: int, stop: int) -> tuple[int, int]:
        value = 0
        for shift, byte in enumerate(self.window.read(place, min(place + 10, stop))):
            value |= (byte & 0x7F) << (7 * shift)
            if byte < 0x80:
                return value, place + shift + 1
        raise _Damaged("it ends within a number" if place + 10 > stop else "its bytes are no fields of a model")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


# What onnx makes of the structure


def read_onnx(path: Path) -> OnnxFile:
    """Raises E401 where there is no file, E611 for what is no ONNX model."""
    if not path.is_file():
        refuse("E401", "it is no file" if path.exists() else "there is no such file", "give the path of an .onnx file", path=str(path))
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if not size:
                raise _Damaged("it is empty")
            if size >= LARGEST:
                raise _Damaged(f"it has {size:,} bytes, and one message holds less than {LARGEST:,}")
            return _described(path, size, _Walk(_Window(file)).structure("model", 0, size))
    except OSError as error:
        refuse("E401", str(error.strerror), "give the path of an .onnx file", path=str(path))
    except _Damaged as damage:
        _refuse(path, str(damage))


def _refuse(path: Path, label: str) -> NoReturn:
    refuse("E611", label, "give an .onnx file, whole as its exporter wrote it", path=str(path))


def _described(path: Path, size: int, structure: bytes) -> OnnxFile:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.ModelProto.FromString(structure)
    except DecodeError as error:
        raise _Damaged("its bytes are no fields of a model") from error
    if not model.HasField("graph"):
        raise _Damaged("it has no graph")
    if not model.ir_version or not model.opset_import:
        raise _Damaged("it says no version of the operators: it may have been cut short")
    told = {info.name for info in (*model.graph.value_info, *model.graph.output)}
    if any(name and name not in told for node in model.graph.node for name in node.output):
        with suppress(DecodeError):
            model = onnx.ModelProto.FromString(_inferred(structure) or structure)
    return _Reading(model).described(path, size)


def _inferred(structure: bytes) -> bytes:
    """The structure with the shapes that onnx infers; nothing where it cannot.

    onnx 1.23 ends the process on some models, such as a LabelEncoder without an input: it is given one of its own.
    """
    try:
        return subprocess.run([sys.executable, "-P", "-c", _INFERENCE], input=structure, capture_output=True, timeout=_SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return b""


def _text(given: str | bytes) -> str:
    """A string field; protobuf gives its bytes where they are no UTF-8."""
    if isinstance(given, bytes):
        raise _Damaged("its names are no text")
    return given


def _texts(given: Iterable[str | bytes]) -> tuple[str, ...]:
    return tuple(map(_text, given))


@dataclass
class _Reading:
    model: Any
    kinds: dict[str, Kind] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    counted: set[str] = field(default_factory=set)
    external: dict[str, None] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def described(self, path: Path, size: int) -> OnnxFile:
        model, graph = self.model, self.model.graph
        self.graph(graph, 0)
        opsets = {_text(entry.domain) or "ai.onnx": entry.version for entry in model.opset_import}
        inputs = {name: self.kinds[name] for name in (_text(i.name) for i in graph.input) if name not in self.arrays}
        outputs = {name: self.kinds[name] for name in (_text(o.name) for o in graph.output)}
        producer = " ".join(part for part in _texts((model.producer_name, model.producer_version)) if part)
        metadata = {_text(entry.key): _text(entry.value) for entry in model.metadata_props}
        return OnnxFile(path, size, model.ir_version, opsets, producer, metadata, inputs, outputs, tuple(self.nodes), self.kinds, self.arrays,
                        tuple(self.external))  # fmt: skip

    def graph(self, graph: Any, depth: int) -> set[str]:
        """Note everything in it; the names that it takes from around it."""
        for info in (*graph.input, *graph.output, *graph.value_info):
            self.kinds[_text(info.name)] = _kind(info.type)
        own = {_text(i.name) for i in graph.input}
        for tensor in graph.initializer:
            own.add(self.array(_text(tensor.name), tensor))
        for sparse in graph.sparse_initializer:
            own.add(self.array(_text(sparse.values.name), sparse.values, tuple(sparse.dims)))
        used: dict[str, None] = {}
        for node in graph.node:
            place = len(self.nodes)
            self.nodes.append(Node("", "", (), (), depth, 0, 0))  # before those of the graphs in it
            inputs, outputs, captured = _texts(node.input), _texts(node.output), self.within(node, depth)
            fresh = [name for name in dict.fromkeys((*inputs, *outputs)) if name in self.arrays and name not in self.counted]
            self.counted.update(fresh)
            known = [self.arrays[name] for name in fresh]
            domain, operator = _texts((node.domain, node.op_type))
            self.nodes[place] = Node(
                _text(node.name) or next((name for name in outputs if name), ""), f"{domain}.{operator}" if domain not in ("", "ai.onnx") else operator,
                inputs, outputs, depth, sum(a.elements for a in known if a.counts), sum(a.bytes for a in known), captured,
            )  # fmt: skip
            used |= dict.fromkeys((*inputs, *captured))
            own.update(outputs)
        return {name for name in used if name and name not in own}

    def within(self, node: Any, depth: int) -> tuple[str, ...]:
        """Note the graphs and the array in a node's attributes; what the graphs take from around them."""
        found: set[str] = set()
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                found |= self.graph(inner, depth + 1)
            if node.op_type == "Constant" and attribute.HasField("t"):
                self.array(_text(node.output[0]) if node.output else "", attribute.t)
        return tuple(sorted(found))

    def array(self, name: str, tensor: Any, shape: tuple[int, ...] | None = None) -> str:
        kind = Kind(_dtype(tensor.data_type), tuple(tensor.dims) if shape is None else shape)
        elements = max(0, prod(tensor.dims))
        if tensor.data_location == 1:
            self.external |= {_text(entry.value): None for entry in tensor.external_data if entry.key == "location"}
        self.kinds[name] = kind
        self.arrays[name] = Array(kind, elements, elements * _bits(kind.dtype) // 8, tensor.data_location == 1)
        return name


_NAMES = {"float": "float32", "double": "float64"}


def _dtype(number: int) -> str:
    import onnx

    try:
        name: str = onnx.TensorProto.DataType.Name(number).lower()
    except ValueError:
        return f"type {number}"
    return _NAMES.get(name, name)


def _bits(dtype: str) -> int:
    """Of an element; 0 where that differs from one to the next, as in texts."""
    digits = "".join(c if c.isdigit() else " " for c in dtype).split()
    return int(digits[0]) if digits and not dtype.startswith("type") else 8 if dtype == "bool" else 0


def _kind(given: Any) -> Kind:
    which = given.WhichOneof("value")
    if which not in ("tensor_type", "sparse_tensor_type"):
        return Kind((which or "?").removesuffix("_type"), None)
    tensor = getattr(given, which)
    if not tensor.HasField("shape"):
        return Kind(_dtype(tensor.elem_type), None)
    return Kind(_dtype(tensor.elem_type), tuple(d.dim_value if d.HasField("dim_value") else _length(_text(d.dim_param)) for d in tensor.shape.dim))


def _length(name: str) -> str:
    """What the file calls a length; onnx's inference makes up names of its own."""
    return name if name and not name.startswith("unk__") else "?"
