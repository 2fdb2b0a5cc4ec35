"""`nnc inspect`: what an ONNX file holds, ours and others'; what is none, or would do harm, is a diagnostic; and its picture."""

from __future__ import annotations

import json
import random
import shutil
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from runs import nnc, refused, write

from nnc.compiler.diagnostics import SpecError
from nnc.runtime import onnx_file
from nnc.runtime.graph_picture import BOXES, ENDS, graph_picture
from nnc.runtime.layered import ACROSS, drawing
from nnc.runtime.onnx_file import read_onnx

LENET = """
network(image: float32[1, 28, 28]) {
  c1 = image -> conv2d(6, kernel=5, padding=2) -> tanh -> avg_pool(2)
  c2 = c1 -> conv2d(16, kernel=5) -> tanh -> avg_pool(2)
  return digit = c2 -> flatten -> dense(120) -> tanh -> dense(84) -> tanh -> dense(10) -> softmax
}
"""
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lenet")
    assert nnc("build", write(folder / "lenet.nn", LENET), "-o", folder).status == 0
    return folder / "lenet" / "model.onnx"


def value(name: str, shape: list[Any] | None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], arrays: list[Any] = (), **more: Any) -> Path:  # type: ignore[assignment]
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(arrays))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, **more)
    path.write_bytes(model.SerializeToString())
    return path


def test_what_a_file_holds_is_what_onnx_and_onnxruntime_find(lenet: Path) -> None:
    found, model = read_onnx(lenet), onnx.load(lenet)
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert found.parameters == sum(a.size for a in arrays if a.dtype == np.float32 and a.ndim) == 61_706
    assert found.array_bytes == sum(a.nbytes for a in arrays)
    assert (found.bytes, found.ir_version, found.opsets) == (lenet.stat().st_size, model.ir_version, {"ai.onnx": 18})
    assert [node.operator for node in found.nodes] == [node.op_type for node in model.graph.node]
    assert sum(node.bytes for node in found.nodes) == found.array_bytes
    for node in model.graph.node:  # every value as an output of its own
        model.graph.output.append(onnx.ValueInfoProto(name=node.output[0])) if node.output[0] != "digit" else None
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for name, array in zip(names, session.run(names, {"image": np.zeros((3, 1, 28, 28), np.float32)}), strict=True):
        kind = found.kinds[name]
        assert kind.shape is not None
        assert (kind.dtype, [3 if d in ("batch", "?") else d for d in kind.shape]) == (str(array.dtype), [*array.shape]), name


def test_the_table_and_json(lenet: Path) -> None:
    told = nnc("inspect", lenet)
    assert told.status == 0, told.err
    rows = [" ".join(line.split()) for line in told.out.splitlines()]
    assert "input image float32[batch, 1, 28, 28]" in rows
    assert any(row.startswith("c2/conv2d Conv [batch, 6, 14, 14] [16, 6, 5, 5] ") for row in rows)
    assert "parameters 61,706" in rows
    content = json.loads(nnc("inspect", lenet, "--format", "json").out)
    assert content["parameters"] == 61_706
    assert content["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["batch", 1, 28, 28]}]
    assert sum(node["parameters"] for node in content["nodes"] if node["name"].startswith("c2/conv2d/")) == 2_416


def test_a_foreign_file_with_graphs_inside(tmp_path: Path) -> None:
    """The branches of an If are listed below it, and take from around them what they do not make."""
    yes = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["a"])], "yes", [], [value("a", [2])])
    no = helper.make_graph([helper.make_node("Neg", ["x"], ["b"], name="nay")], "no", [], [value("b", [2])])
    nodes = [helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0), helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32(0))),
             helper.make_node("Greater", ["s", "k"], ["c"]), helper.make_node("If", ["c"], ["y"], name="choice", then_branch=yes, else_branch=no)]  # fmt: skip
    path = save(tmp_path / "m.onnx", nodes, [value("x", [2])], [value("y", [2])], [numpy_helper.from_array(np.ones(2, np.float32), "w")],
                producer_name="\x1b[31mred", doc_string="d")  # fmt: skip
    found = read_onnx(path)
    assert [(node.operator, node.depth) for node in found.nodes][3:] == [("If", 0), ("Neg", 1), ("Mul", 1)]
    assert found.nodes[3].captured == ("w", "x")
    assert (found.parameters, found.nodes[5].parameters) == (2, 2)
    assert str(found.kinds["s"]) == "float32[]"
    told = nnc("inspect", path, "-o", tmp_path / "m.svg").out
    assert "\x1b" not in told
    assert "\n  nay " in told
    assert {"choice", "If"} <= set(texts(tmp_path / "m.svg"))


def test_arrays_in_other_files_are_named_and_not_opened(tmp_path: Path) -> None:
    array = numpy_helper.from_array(np.zeros((3, 4), np.float32), "w")
    onnx.external_data_helper.set_external_data(array, "../../etc/secret")
    array.ClearField("raw_data")
    path = save(tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", ["n", 3])], [value("y", ["n", 4])], [array])
    told = nnc("inspect", path)
    assert told.status == 0
    assert "elsewhere   48 B of them in ../../etc/secret, which was not opened" in told.out
    assert "parameters  12" in told.out


def hollow(path: Path, size: int) -> Path:
    """A model with an array of that many bytes, which the disk does not hold."""
    array = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[size // 4])
    front = array.SerializeToString() + b"\x4a" + onnx_file._varint(size)  # raw_data
    graph = helper.make_graph([helper.make_node("Neg", ["w"], ["y"])], "g", [], [value("y", None)]).SerializeToString()
    graph += b"\x2a" + onnx_file._varint(len(front) + size) + front
    model = helper.make_model(helper.make_graph([], "", [], []), opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model.ClearField("graph")
    with path.open("wb") as file:
        file.write(model.SerializeToString() + b"\x3a" + onnx_file._varint(len(graph) + size) + graph)
        file.truncate(file.tell() + size)
    return path


def test_large_files_take_little_memory(tmp_path: Path) -> None:
    path = hollow(tmp_path / "m.onnx", 1 << 30)
    tracemalloc.start()
    try:
        found = read_onnx(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
    assert (found.parameters, found.array_bytes, found.bytes) == (1 << 28, 1 << 30, path.stat().st_size)


def refusals() -> dict[str, tuple[Callable[[Path], object], str]]:
    def message(*fields: tuple[int, bytes]) -> bytes:
        return b"".join(bytes([number << 3 | 2]) + onnx_file._varint(len(data)) + data for number, data in fields)

    deep = b""
    for _ in range(60):
        deep = message((1, message((5, message((6, deep))))))
    return {
        "empty": (lambda path: path.write_bytes(b""), "it is empty"),
        "a text": (lambda path: path.write_text("network(x: float32[2]) { return x }"), "no fields of a model"),
        "a picture": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "no fields of a model"),
        "2 GiB": (lambda path: hollow(path, 1 << 31), "one message holds less than 2,147,483,648"),
        "no graph": (lambda path: path.write_bytes(b"\x08\x08"), "it has no graph"),
        "no version": (lambda path: path.write_bytes(message((7, b""))), "it may have been cut short"),
        "deep": (lambda path: path.write_bytes(b"\x08\x08" + message((8, b"\x10\x12"), (7, deep))), "nested more than 40 deep"),
        "many fields": (lambda path: path.write_bytes(b"\x08\x08" + message((7, message(*[(1, b"")] * 510_000)))), "more than 500,000 fields"),
        "no arrays": (lambda path: path.write_bytes(message((6, bytes(1 << 25)))), "more than 16 MiB"),
        "no text": (lambda path: path.write_bytes(b"\x08\x08" + message((2, b"\xff"), (8, b"\x10\x12"), (7, b""))), "its names are no text"),
    }


@pytest.mark.parametrize("name", refusals())
def test_what_is_no_model_is_refused(name: str, tmp_path: Path) -> None:
    make, words = refusals()[name]
    make(tmp_path / "m.onnx")
    begun = time.monotonic()
    refused(nnc("inspect", tmp_path / "m.onnx"), "E611", words)
    assert time.monotonic() - begun < 10


def test_a_truncated_file_is_refused_wherever_it_ends(lenet: Path, tmp_path: Path) -> None:
    whole, drawn = lenet.read_bytes(), random.Random(0)
    for end in (1, 2, 3, len(whole) - 1, *(drawn.randrange(len(whole)) for _ in range(20))):
        (tmp_path / "m.onnx").write_bytes(whole[:end])
        refused(nnc("inspect", tmp_path / "m.onnx"), "E611")


def test_no_file(tmp_path: Path) -> None:
    refused(nnc("inspect", tmp_path / "none.onnx"), "E401", "no such file")
    refused(nnc("inspect", tmp_path), "E401", "it is no file")
    refused(nnc("inspect", "/dev/zero"), "E401", "it is no file")


def test_a_picture_never_takes_the_place_of_its_model(lenet: Path, tmp_path: Path) -> None:
    model = Path(shutil.copy(lenet, tmp_path / "m.onnx"))
    refused(nnc("inspect", model, "-o", model), "E704", "it is the input")
    assert model.read_bytes() == lenet.read_bytes()


def test_a_model_that_ends_the_process_of_onnx(tmp_path: Path) -> None:
    """Its shape inference follows a null pointer for the type of a missing input."""
    node = helper.make_node("LabelEncoder", ["nothing"], ["y"], domain="ai.onnx.ml", keys_strings=["a"], values_int64s=[1])
    other = helper.make_node("Neg", ["x"], ["z"])
    found = read_onnx(save(tmp_path / "m.onnx", [node, other], [value("x", [3])], [value("z", [3])]))
    assert [node.operator for node in found.nodes] == ["ai.onnx.ml.LabelEncoder", "Neg"]
    assert "y" not in found.kinds


def test_mutated_files_are_told_or_refused(lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "_inferred", lambda structure: b"")  # another process each time
    whole, drawn, told, codes = lenet.read_bytes(), random.Random(1), 0, set[str]()
    structure = [i for i in range(len(whole)) if whole[i] and (i < 4096 or drawn.random() < 0.05)]
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(drawn.randint(1, 4)):
            data[drawn.choice(structure)] = drawn.randrange(256)
        (tmp_path / "m.onnx").write_bytes(data)
        try:
            found = read_onnx(tmp_path / "m.onnx")
        except SpecError as error:
            codes |= {d.code for d in error.diagnostics}
            continue
        told += 1
        json.dumps(found.content())
        ElementTree.fromstring(graph_picture(found))
    assert told > 50
    assert codes == {"E611"}


# The picture


def texts(path: Path) -> list[str]:
    return [element.text or "" for element in ElementTree.parse(path).iter(f"{SVG}text")]


def test_the_picture_of_a_small_network(lenet: Path, tmp_path: Path) -> None:
    assert nnc("inspect", lenet, "-o", tmp_path / "lenet.svg").status == 0
    told = texts(tmp_path / "lenet.svg")
    layers = [text for text in told if text.startswith(("c1/", "c2/", "digit/"))]
    assert layers == ["c1/conv2d", "c1/tanh", "c1/avg_pool", "c2/conv2d", "c2/tanh", "c2/avg_pool", "digit/flatten", "digit/dense", "digit/tanh",
                      "digit/dense_2", "digit/tanh_2", "digit/dense_3", "digit/softmax"]  # fmt: skip
    assert "[batch, 16, 10, 10] \u00b7 2,416 parameters" in told
    root = ElementTree.parse(tmp_path / "lenet.svg").getroot()
    assert not root.findall(f".//{SVG}script")
    rectangles = [(float(r.get("y", "0")), float(r.get("height", "0"))) for r in root.iter(f"{SVG}rect") if r.get("x")]
    assert len(rectangles) == 15
    assert all(top + height < below for (top, height), (below, _) in pairwise(sorted(rectangles)))


@pytest.mark.parametrize("seed", range(20))
def test_boxes_stand_apart_and_edges_go_down(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    count = int(drawn.integers(1, 40))
    sizes = [(float(w), float(h)) for w, h in drawn.uniform(20, 200, (count, 2))]
    edges = sorted({(int(a), int(b)) for a, b in np.sort(drawn.integers(0, count, (2 * count, 2)), axis=1) if a != b})
    found = drawing(sizes, edges)
    boxes = [(x - w / 2, y, x + w / 2, y + h) for (x, y), (w, h) in zip(found.places, sizes, strict=True)]
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert left >= -1e-6
        assert right <= found.width + 1e-6
        assert bottom <= found.height + 1e-6
        for other_left, other_top, other_right, other_bottom in boxes[:i]:
            apart = right + ACROSS <= other_left + 1e-6 or other_right + ACROSS <= left + 1e-6
            assert apart or bottom <= other_top or other_bottom <= top
    for (a, b), way in found.ways.items():
        assert way[0] == pytest.approx((found.places[a][0], boxes[a][3]))
        assert way[-1] == pytest.approx(found.places[b])
        assert all(below >= above for (_, above), (_, below) in pairwise(way))


def test_an_edge_passes_beside_the_boxes_between() -> None:
    found = drawing([(50.0, 20.0)] * 4, [(0, 1), (1, 2), (2, 3), (0, 3)])
    for x, y in found.ways[0, 3][1:-1]:
        assert all(abs(x - place) > 25 for place, top in found.places if top <= y <= top + 20)


@pytest.mark.parametrize("named", [True, False])
def test_a_large_graph_is_drawn_in_few_boxes(named: bool, tmp_path: Path) -> None:
    """By the beginnings of names where they have any, else by what follows each other."""
    nodes, outputs, inputs = [], [], []
    for block in range(400):
        inputs.append(value(f"i{block}", [1]))
        for layer in range(5):
            before = f"b{block}l{layer - 1}" if layer else f"i{block}"
            nodes.append(helper.make_node("Relu", [before], [f"b{block}l{layer}"], name=f"m/{block % 7}/b{block}/l{layer}/Relu" if named else ""))
        outputs.append(value(f"b{block}l4", [1]))
    path = save(tmp_path / "m.onnx", nodes, inputs, outputs)
    begun = time.monotonic()
    assert nnc("inspect", path, "-o", tmp_path / "m.svg").status == 0
    assert time.monotonic() - begun < 10
    told = texts(tmp_path / "m.svg")
    boxes = len(ElementTree.parse(tmp_path / "m.svg").getroot().findall(f"{SVG}rect")) - 1
    assert boxes <= BOXES + 2 * ENDS + 2
    assert f"and {400 - ENDS} more inputs" in told
    assert {f"m/{i}" for i in range(7)} <= set(told) or not named


def test_names_cannot_write_into_the_picture(tmp_path: Path) -> None:
    node = helper.make_node("Neg", ["x"], ["y"], name='<script>alert("1")</script>\x01&')
    path = save(tmp_path / "m.onnx", [node], [value("x", [1])], [value("y", [1])])
    assert nnc("inspect", path, "-o", tmp_path / "m.svg").status == 0
    root = ElementTree.parse(tmp_path / "m.svg").getroot()
    assert not [element for element in root.iter() if element.tag.endswith("script")]
