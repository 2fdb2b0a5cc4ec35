"""Every program of specs/ and random networks in old and new versions of ONNX's operators: checked in full, known in every shape, and right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from drawing import network
from test_specs import DATA, SPECS

import nnc
from nnc.runtime.edge_rows import verification_rows
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.kernels import Randomness
from nnc.runtime.rounding import trust

OPSETS = (13, 18, 21)
OWN_DATA = ("and_gate", "digits")


def check(model: Any, opset: int, path: Path) -> None:
    graph, arrays = model.serving()
    model.export_onnx(path, opset=opset)
    proto = onnx.load(path)
    assert {o.domain: o.version for o in proto.opset_import}[""] == opset
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    known = {value.name: value.type.tensor_type for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)}
    for node in inferred.graph.node:
        for name in filter(None, node.output):
            assert known[name].elem_type, name
            unknown = [d for d in known[name].shape.dim if not d.HasField("dim_value")]
            assert known[name].HasField("shape"), name
            assert len(unknown) <= 1, f"{name}: {known[name].shape}"
            assert not unknown or unknown[0].dim_param, f"{name} has an axis without a name"
    rows = verification_rows(graph, None)
    wanted = {name: array.copy() for name, array in Executor(graph, arrays, Randomness(0), Arena()).run(rows.arrays).items()}
    allowed = trust(graph, arrays, rows, rows.total)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for name, found in zip(wanted, session.run(list(wanted), rows.arrays), strict=True):
        decided = allowed[name].decided
        if wanted[name].dtype.kind != "f":
            np.testing.assert_array_equal(found[decided], wanted[name][decided])
            continue
        distance = np.abs(found - wanted[name])[decided].reshape(decided.sum(), -1)
        bound = 1e-5 + 1e-4 * np.abs(wanted[name][decided]).reshape(distance.shape) + allowed[name].rounding[decided, None]
        assert (distance <= bound).all(), f"{name} differs by {distance.max()}"


@pytest.mark.parametrize("name", sorted(path.stem for path in SPECS.glob("*.nn")))
def test_programs(name: str, tmp_path: Path) -> None:
    if name not in OWN_DATA and not DATA.is_dir():
        pytest.skip(f"the data of {name} is no part of the package")
    model = nnc.compile(SPECS / f"{name}.nn", data_root=DATA if name not in OWN_DATA else None).init()
    for opset in OPSETS:
        check(model, opset, tmp_path / f"{opset}.onnx")


@pytest.mark.parametrize("seed", range(700, 710))
def test_random_networks(seed: int, tmp_path: Path) -> None:
    _, model, _ = network(seed)
    for opset in OPSETS:
        check(model, opset, tmp_path / f"{opset}.onnx")
