"""Batch normalisation in an exported file is part of the linear step before it, and computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import spread

import nnc

FOLDED = [
    ("dense", "x -> dense(4) -> batch_norm -> relu"),
    ("dense without bias", "x -> dense(4, bias=false) -> batch_norm"),
    ("dense over steps", "x -> dense(6) -> relu -> reshape([2, 3]) -> dense(4) -> batch_norm -> tanh"),
    ("units under other axes", "x -> dense(12, bias=false) -> reshape([2, 2, 3]) -> batch_norm -> relu"),
    ("several", "x -> dense(4) -> batch_norm -> flatten -> batch_norm -> softmax(temperature=3)"),
    ("conv2d", "x -> dense(18) -> relu -> reshape([2, 3, 3]) -> conv2d(4, kernel=2) -> batch_norm -> relu"),
    ("conv2d without bias", "x -> dense(18) -> relu -> reshape([2, 3, 3]) -> conv2d(4, kernel=2, bias=false) -> batch_norm -> relu"),
    ("conv2d in groups", "x -> dense(16) -> relu -> reshape([4, 2, 2]) -> conv2d(6, kernel=2, padding=same, groups=2) -> batch_norm"),
    ("depthwise_conv2d", "x -> dense(18) -> relu -> reshape([2, 3, 3]) -> depthwise_conv2d(2, multiplier=2) -> batch_norm -> relu"),
    ("conv1d", "x -> dense(12) -> relu -> reshape([4, 3]) -> conv1d(5, kernel=2) -> batch_norm -> relu"),
    ("conv2d_transpose", "x -> dense(16) -> relu -> reshape([4, 2, 2]) -> conv2d_transpose(6, kernel=2, stride=2, groups=2) -> batch_norm"),
]
KEPT = [
    ("nothing linear before it", "x -> batch_norm -> dense(2)"),
    ("an activation between", "x -> dense(4) -> relu -> batch_norm"),
    ("units of a convolution that a shape mixes", "x -> dense(18) -> relu -> reshape([2, 3, 3]) -> conv2d(4, kernel=2) -> flatten -> batch_norm"),
]


def written(body: str, path: Path, seed: int = 1) -> tuple[Any, Any]:
    model = nnc.compile(f"network(x: float32[5]) {{ {body} }}" if "return" in body else f"network(x: float32[5]) {{ return y = {body} }}").init(seed)
    spread(model, seed)
    for name, array in model.parameters.items():
        if name.endswith("running_var"):
            array[...] = np.random.default_rng(seed).uniform(0.1, 4.0, array.shape)
    model.export_onnx(path)
    x = np.random.default_rng(seed).normal(size=(40, 5)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for name, found in zip([o.name for o in session.get_outputs()], session.run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(found, model.predict({"x": x})[name], rtol=1e-4, atol=1e-5)
    return model, onnx.load(path)


def of_norm(proto: Any) -> list[str]:
    return [node.name for node in proto.graph.node if "batch_norm" in node.name]


@pytest.mark.parametrize(("name", "body"), FOLDED, ids=[name for name, _ in FOLDED])
def test_it_is_folded(name: str, body: str, tmp_path: Path) -> None:
    _, proto = written(body, tmp_path / "m.onnx")
    assert not of_norm(proto)
    assert not [tensor.name for tensor in proto.graph.initializer if "batch_norm" in tensor.name]
    assert sum(tensor.name.endswith("weight_folded") for tensor in proto.graph.initializer) == 1
    assert sum(tensor.name.endswith("bias_folded") for tensor in proto.graph.initializer) == 1


@pytest.mark.parametrize(("name", "body"), KEPT, ids=[name for name, _ in KEPT])
def test_it_stays(name: str, body: str, tmp_path: Path) -> None:
    _, proto = written(body, tmp_path / "m.onnx")
    assert of_norm(proto)


def test_one_after_another(tmp_path: Path) -> None:
    layers = " -> ".join(["dense(4) -> batch_norm -> relu"] * 3)
    _, proto = written(f"x -> {layers}", tmp_path / "m.onnx")
    assert not of_norm(proto)
    assert sum(tensor.name.endswith("weight_folded") for tensor in proto.graph.initializer) == 3


def test_what_something_else_reads_stays(tmp_path: Path) -> None:
    """Before the norm, and between two of them."""
    _, proto = written("h = x -> dense(4)\n return y = h -> batch_norm, z = h -> relu", tmp_path / "m.onnx")
    assert of_norm(proto)
    _, proto = written("h = x -> dense(4)\n return y = h -> batch_norm, z = h", tmp_path / "m.onnx")
    assert of_norm(proto)
    _, proto = written("h = x -> dense(4) -> batch_norm\n return y = h -> batch_norm, z = h", tmp_path / "m.onnx")
    assert {name.split("/")[1] for name in of_norm(proto)} == {"batch_norm"}
    assert "h/dense/weight_folded" in {tensor.name for tensor in proto.graph.initializer}


def test_weights_that_are_used_twice_stand_once(tmp_path: Path) -> None:
    text = """
    shared block twin(v) { return v -> dense(4) -> batch_norm -> tanh }
    network(x: float32[5]) { a = x -> twin  b = x * 2 -> twin  return y = a + b }
    """
    model = nnc.compile(text).init(1)
    spread(model, 1)
    model.export_onnx(tmp_path / "m.onnx")
    stored = [tensor.name for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer]
    assert [name for name in stored if "weight" in name] == ["twin/output/dense/weight_folded"]


def test_a_column_is_scaled_back_where_it_can_be_seen(tmp_path: Path) -> None:
    """The way back to the units of a target is no part of the last layer's weights."""
    text = """
    network(x: float32[1]) { return y = x -> dense(1) }
    data { source = table(x=[1, 2, 3, 4], t=[10, 30, 20, 50])  x = column(x)  t = column(t) -> standardize  split = ordered(train=50%, validation=50%) }
    train { loss = mse(y, t)  optimizer = sgd(lr=0.1)  batch = 2  epochs = 1 }
    """
    (tmp_path / "a.nn").write_text(text)
    result = nnc.train(tmp_path / "a.nn", out=tmp_path / "run")
    result.model.export_onnx(tmp_path / "m.onnx")
    names = [node.name for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert "data/t/inverse/Mul" in names
