"""The exported file against the NumPy runtime: every layer, every data step; and what the file looks like."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import around, spread
from test_operations import LAYERS, MERGES
from test_primitives import CASES, Case

import nnc
from nnc.cli import main
from nnc.compiler.ir import PRIMITIVES, Batch, Graph, TensorType, apply
from nnc.compiler.onnx_export import serialised, to_onnx
from nnc.compiler.onnx_lowering import LOWERINGS
from nnc.compiler.operation import Kind, names
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.kernels import Randomness

OPSETS = [13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26]


def sessions(path: Path) -> list[Any]:
    """The file in onnxruntime, with its graph optimisations off and on."""
    found = []
    for level in (onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.intra_op_num_threads = 1
        found.append(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
    return found


def agree(path: Path, inputs: dict[str, Any], wanted: dict[str, Any]) -> None:
    """The file gives what is wanted at batch 1, 7 and N, optimisations off and on."""
    rows = len(next(iter(inputs.values())))
    for session in sessions(path):
        assert [o.name for o in session.get_outputs()] == list(wanted)
        for size in (1, 7, rows):
            got = session.run(None, {name: array[:size] for name, array in inputs.items()})
            for (name, reference), result in zip(wanted.items(), got, strict=True):
                assert result.shape == reference[:size].shape, name
                if reference.dtype.kind == "f":
                    np.testing.assert_allclose(result, reference[:size], rtol=1e-4, atol=1e-5, err_msg=name)
                else:
                    np.testing.assert_array_equal(result, reference[:size], err_msg=name)


def exported(text: str, path: Path, *, seed: int = 1, rows: dict[str, Any] | None = None, **inputs: tuple[int, ...]) -> tuple[Any, dict[str, Any]]:
    """Export a network with arbitrary parameters and compare it with `predict` on normal draws of the given sample shapes."""
    model = nnc.compile(text).init(seed)
    spread(model, seed)
    report = model.export_onnx(path)
    random = np.random.default_rng(seed)
    given = rows or {name: random.normal(size=(12, *shape)) for name, shape in inputs.items()}
    agree(path, {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in given.items()}, model.predict(given))
    return model, report


# Layers

SPECIAL = [
    ("step", "x -> dense(6) -> step -> dense(2)"),
    ("step", "x -> dense(6) -> step(at_zero=0.5)"),
    ("step", "x -> dense(6) -> step(surrogate=sigmoid) -> dense(2)"),
    ("dropout", "x -> dense(6) -> dropout(0.4) -> dense(2)"),
    ("dropout", "x -> dense(6) -> dropout(0.4, scaling=inference) -> dense(2)"),
    ("spatial_dropout", "x -> dense(8) -> reshape([2, 2, 2]) -> spatial_dropout(0.4) -> conv2d(2, kernel=2)"),
    ("gaussian_noise", "x -> dense(6) -> gaussian_noise(0.4) -> dense(2)"),
]  # fmt: skip


def test_every_layer_has_a_case() -> None:
    covered = {layer.word for layer, _ in LAYERS} | {merge[0] for merge in MERGES} | {word for word, _ in SPECIAL} | {"embedding", "split"}
    assert covered == set(names(Kind.LAYER))


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: str(v).replace(" ", ""))
def test_a_layer_leaves_as_it_predicts(layer: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    text = f"network(x: float32[3]) {{\n{around(layer, shape)}\n}}\nexport {{ opset = %d }}"
    for opset in (13, 18):
        exported(text % opset, tmp_path / "m.onnx", x=(3,))


@pytest.mark.parametrize("written", sorted({merge[1] for merge in MERGES}))
def test_a_merge_leaves_as_it_predicts(written: str, tmp_path: Path) -> None:
    exported(f"network(a: float32[2, 3], b: float32[2, 3]) {{ return {written} }}", tmp_path / "m.onnx", a=(2, 3), b=(2, 3))
    if "axis=0" not in written:
        exported(f"network(a: float32[2, 3, 3], b: float32[2, 3, 3]) {{ return {written} -> relu }}", tmp_path / "m.onnx", a=(2, 3, 3), b=(2, 3, 3))


@pytest.mark.parametrize(("word", "body"), SPECIAL)
def test_special_layers_leave_as_they_predict(word: str, body: str, tmp_path: Path) -> None:
    exported(f"network(x: float32[3]) {{ return {body} }}", tmp_path / "m.onnx", x=(3,))


@pytest.mark.parametrize("declared", ["k: int64", "k: int64[4]", "k: int64[2, 3]"])
def test_an_embedding_leaves_as_it_predicts(declared: str, tmp_path: Path) -> None:
    shape = tuple(int(d) for d in declared.partition("[")[2].rstrip("]").split(",") if d)
    rows = np.random.default_rng(0).integers(0, 6, (12, *shape))
    last = "dense(2)" if len(shape) != 1 else "lstm(3, bidirectional=true)"
    exported(f"network({declared}) {{ return k -> embedding(6, 3) -> {last} }}", tmp_path / "m.onnx", rows={"k": rows})


def test_a_split_leaves_as_it_predicts(tmp_path: Path) -> None:
    text = "network(x: float32[4, 6]) {{ a, b, c = x -> split({}) return first = a, second = b -> relu, third = c, sum = a + c }}"
    for written in ("3", "[2, 2, 2], axis=-1", "[1, 2, 1], axis=0"):
        exported(text.format(written), tmp_path / "m.onnx", x=(4, 6))


@pytest.mark.parametrize(
    "body",
    ["x * 2 + 1", "1 - x", "2 / (x * x + 1)", "-x", "(x - 3) / 4", "x -> relu", "x"],
)  # fmt: skip
def test_arithmetic_leaves_as_it_predicts(body: str, tmp_path: Path) -> None:
    exported(f"network(x: float32[3]) {{ return {body} }}", tmp_path / "m.onnx", x=(3,))


def test_a_scalar_per_sample_and_integers_pass(tmp_path: Path) -> None:
    exported("network(x: float32) { return x * 3 -> tanh }", tmp_path / "m.onnx", x=())
    random = np.random.default_rng(0)
    exported("network(k: int64[2]) { return k }", tmp_path / "m.onnx", rows={"k": random.integers(-5, 2**40, (9, 2))})


SHARED = """
shared block twin(v) { return v -> dense(4) -> batch_norm -> tanh }
block arm(v, units, act = relu) { return v -> dense(units) -> act }
network siamese(left: float32[3], right: float32[3]) {
  a = left -> twin
  b = right -> twin
  h = concat(a, b) -> repeat(2, arm(8, act=swish))
  return near = a * b -> dense(1) -> sigmoid, kind = h -> dense(3) -> softmax(temperature=2.0), both = h
}
"""


def test_shared_blocks_several_inputs_and_outputs(tmp_path: Path) -> None:
    model, report = exported(SHARED, tmp_path / "m.onnx", left=(3,), right=(3,))
    stored = {t.name for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    weights = {name for name in model.parameters if name.endswith("weight")}
    assert len(weights) == 5, "one of the two uses of twin, two arms, two outputs"
    assert {f"{name}_folded" if name.startswith("twin") else name for name in weights} <= stored
    assert set(report["outputs"]) == {"near", "kind", "both"}


def test_a_float64_program_leaves_in_float32(tmp_path: Path) -> None:
    train = "train { loss = mse(y, t)  optimizer = sgd(lr=0.1)  batch = 4  epochs = 1  precision = float64 }"
    text = f"network(x: float32[5]) {{ return y = x -> dense(4) -> tanh -> dense(1) }}\n{train}"
    model, _ = exported(text, tmp_path / "m.onnx", x=(5,))
    assert model.parameters["y/dense/weight"].dtype == np.float64
    stored = onnx.load(tmp_path / "m.onnx")
    assert {t.data_type for t in stored.graph.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


@pytest.mark.parametrize("shape", [(4,), (3, 2), (2, 4, 3)])
def test_trained_running_statistics_leave(shape: tuple[int, ...], tmp_path: Path) -> None:
    body = f"x: float32[{', '.join(map(str, shape))}]) {{ return y = x -> batch_norm(momentum=0.5) -> flatten -> dense(1) }}"
    text = f"network({body}\ntrain {{ loss = mse(y, t)  optimizer = sgd(lr=0.01)  batch = 8  epochs = 1 }}"
    model = nnc.compile(text).init(0)
    random = np.random.default_rng(0)
    for _ in range(5):
        model.step({"x": 5 + 3 * random.normal(size=(8, *shape)), "t": random.normal(size=(8, 1))})
    assert (model.parameters["y/batch_norm/running_mean"] > 3).all()
    model.export_onnx(tmp_path / "m.onnx")
    x = (5 + 3 * random.normal(size=(9, *shape))).astype(np.float32)
    agree(tmp_path / "m.onnx", {"x": x}, model.predict({"x": x}))


# Primitives, also those that no layer needs yet

TRAINING_ALONE = {
    "conv2d_weight_gradient", "max_pool_gradient", "max_pool_gather", "avg_pool_gradient", "pack", "part", "bernoulli", "normal", "scatter_add",
    "recurrence", "recurrence_gradient", "coalesce", "scatter_update",
}  # fmt: skip


def test_every_primitive_of_inference_has_a_lowering() -> None:
    assert set(LOWERINGS) == {name for name, p in PRIMITIVES.items() if not p.leaf} - TRAINING_ALONE


@pytest.mark.parametrize("opset", [13, 18, 26])
@pytest.mark.parametrize("name", LOWERINGS)
def test_a_primitive_leaves_as_it_is(name: str, opset: int, tmp_path: Path) -> None:
    for case in (CASES | {"axis_size": [Case([np.ones((3, 2))], attributes={"axis": 0, "dtype": "float32"}, batched=(0,))]})[name]:
        arrays = {f"x{i}": np.asarray(a, np.float32 if np.asarray(a).dtype == np.float64 else None) for i, a in enumerate(case.operands)}
        operands = []
        for i, (key, array) in enumerate(arrays.items()):
            dtype = "string" if array.dtype.kind in "OU" else str(array.dtype)
            shape = (Batch(), *array.shape[1:]) if i in case.batched else array.shape
            operands.append(apply("input", name=key, type=TensorType(dtype, shape)))
        attributes = {k: "float32" if v == "float64" else v for k, v in case.attributes.items()}
        graph = Graph({"y": apply(name, *operands, **attributes)})
        (tmp_path / "m.onnx").write_bytes(serialised(to_onnx(graph, {}, opset=opset, name=name, metadata={})))
        batch = next((len(arrays[f"x{i}"]) for i in case.batched), 1)
        program = Executor(graph, {}, Randomness(0), Arena()).at(batch)
        for key, array in program.inputs.items():
            array[...] = arrays[key]
        wanted = program.run()["y"]
        for session in sessions(tmp_path / "m.onnx"):
            (got,) = session.run(None, arrays)
            assert got.shape == wanted.shape
            if wanted.dtype.kind == "f":
                np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
            else:
                np.testing.assert_array_equal(got, wanted)


# The file

RICH = """
shared block norm(v) { return v -> batch_norm }
network rich(image: float32[2, 7, 6], steps: float32[4, 3]) {
  c = image -> conv2d(4, kernel=3, padding=same, stride=2) -> batch_norm -> relu -> max_pool(2) -> dropout(0.2)
  p = image -> avg_pool(3, stride=2, padding=1) -> global_avg_pool
  s = steps -> dense(5) -> norm -> elu -> dropout(0.3, scaling=inference) -> flatten
  h = concat(c -> flatten, p, s) -> dense(8) -> norm2
  return probabilities = h -> dense(3) -> softmax, score = h -> dense(1) -> leaky_relu
}
export { opset = %d }
""".replace(" -> norm2", " -> batch_norm -> swish")
RICH_INPUTS = {"image": (2, 7, 6), "steps": (4, 3)}


def rich(tmp_path: Path, opset: int = 18) -> tuple[Any, onnx.ModelProto]:
    model, _ = exported(RICH % opset, tmp_path / "m.onnx", **RICH_INPUTS)  # type: ignore[arg-type]
    return model, onnx.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_loads_and_agrees(opset: int, tmp_path: Path) -> None:
    _, proto = rich(tmp_path, opset)
    assert {o.domain: o.version for o in proto.opset_import} == {"": opset}
    assert proto.ir_version <= 13
    onnx.checker.check_model(proto, full_check=True)


def test_every_shape_but_the_batch_is_known(tmp_path: Path) -> None:
    _, proto = rich(tmp_path)
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    known = {v.name: v.type.tensor_type for v in (*inferred.graph.value_info, *inferred.graph.output)}
    for node in inferred.graph.node:
        for name in node.output:
            assert known[name].elem_type, name
            sizes = [d.dim_value for d in known[name].shape.dim]
            assert all(sizes[1:]), (name, sizes)
    for value in (*proto.graph.input, *proto.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
        assert all(d.dim_value > 0 for d in value.type.tensor_type.shape.dim[1:])


def test_the_batch_keeps_its_name(tmp_path: Path) -> None:
    exported("network(x: float32[1, 5, 5]) { return x -> conv2d(2, kernel=2) -> relu -> flatten -> dense(2) }", tmp_path / "m.onnx", x=(1, 5, 5))
    inferred = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "m.onnx"), strict_mode=True)
    assert {v.type.tensor_type.shape.dim[0].dim_param for v in inferred.graph.value_info} == {"batch"}


def test_parameters_keep_their_names_and_nothing_constant_is_left_to_compute(tmp_path: Path) -> None:
    model, proto = rich(tmp_path)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    kept = [name for name in model.parameters if f"{name}_folded" not in stored and "/batch_norm/" not in name]
    assert {"probabilities/dense/weight", "probabilities/dense/bias", "score/dense/weight"} <= set(kept)
    for name in kept:
        np.testing.assert_array_equal(stored[name].reshape(model.parameters[name].shape), model.parameters[name], err_msg=name)
    assert not any("batch_norm" in name for name in stored), "it is in the weights before it"
    fed = {i.name for i in proto.graph.input}
    for node in proto.graph.node:
        assert any(name in fed for name in node.input), f"{node.name} has constants alone"
        fed |= set(node.output)
    used = {name for node in proto.graph.node for name in node.input}
    assert set(stored) <= used


def test_inference_alone_leaves(tmp_path: Path) -> None:
    _, proto = rich(tmp_path)
    operators = {node.op_type for node in proto.graph.node}
    assert {node.domain for node in proto.graph.node} == {""}
    assert not operators & {"Dropout", "RandomUniform", "RandomNormal", "Bernoulli", "Shape", "If", "Loop"}
    assert len([node for node in proto.graph.node if node.op_type == "Sqrt"]) == 0


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    """In one process and in two, whose hash seeds differ."""
    (tmp_path / "rich.nn").write_text(RICH % 18)
    program = "import nnc, sys; nnc.compile(sys.argv[1]).init(3).export_onnx(sys.argv[2])"
    digests = set()
    for seed in ("1", "2"):
        target = tmp_path / f"{seed}.onnx"
        command = [sys.executable, "-P", "-c", program, tmp_path / "rich.nn", target]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
        digests.add(hashlib.sha256(target.read_bytes()).hexdigest())
    model = nnc.compile(tmp_path / "rich.nn").init(3)
    reports = [model.export_onnx(tmp_path / "again.onnx") for _ in range(2)]
    assert digests == {report["sha256"] for report in reports} == {hashlib.sha256((tmp_path / "again.onnx").read_bytes()).hexdigest()}


def test_the_file_says_where_it_comes_from(tmp_path: Path) -> None:
    model, proto = rich(tmp_path)
    said = {p.key: p.value for p in proto.metadata_props}
    assert proto.producer_name == "nnc"
    assert proto.graph.name == "rich"
    assert said["spec_sha256"] == hashlib.sha256(model.program.experiment.source.text.encode()).hexdigest()
    assert said["producer"] == f"nnc {nnc.__version__}"


def test_the_file_tells_its_reader_what_it_takes_and_gives(tmp_path: Path) -> None:
    write_csv(tmp_path / "people.csv", people(120, seed=0))
    (tmp_path / "people.nn").write_text(PEOPLE % (4, "[3, 11]", "float32", 18))
    result = nnc.train(tmp_path / "people.nn", out=tmp_path / "run")
    result.model.export_onnx(tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    said = {value.name: value.doc_string for value in (*proto.graph.input, *proto.graph.output)}
    assert said["numbers"] == "columns age, hours; missing: NaN, replaced by the median of the training rows"
    assert said["spread"] == "columns age, hours; missing: NaN, replaced by 20"
    assert said["job"] == 'column job; categories: cook, miner, poet, retired, smith; missing: "", as any value that is no category'
    assert said["city"] == 'column city; categories: Rome, Oslo; missing: "", as any value that is no category'
    assert said["band"] == "column band; categories: 0.1, 2.5, 7.25; missing: NaN, as any value that is no category"
    assert said["count"] == "column count; categories: 0, 1, 2, 3"
    assert said["pay_hat"] == "the prediction of wage; unit: that of column wage"
    assert said["pay"] == "pay_hat, under the name of its target; unit: that of column wage"
    assert said["chance"] == "the probability of each class of class, along the last axis; categories: high, low, other"
    assert said["class"] == "the decision on class that chance makes; categories: high, low, other"
    assert said["rank"] == "the decision on rank that old makes; categories: 3, 11"
    assert "people.nn" in proto.graph.doc_string
    assert str(tmp_path).encode() not in proto.SerializeToString()
    layers = {node.name: node.doc_string for node in proto.graph.node}
    assert layers["chance/dense/MatMul"] == "line 4: dense(3)"
    assert layers["data/numbers/standardize/Sub"] == "line 8: standardize"


def test_exporting_prints_nothing(tmp_path: Path) -> None:
    """Also where onnxruntime's GPU build finds no CUDA: the CPU provider is asked for, and only that."""
    spec = "network(x: float32[2]) { return x -> dense(2) -> tanh }"
    program = f"import nnc; assert nnc.compile('{spec}').init(0).export_onnx('m.onnx')['providers'] == ['CPUExecutionProvider']"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Raw rows in, decoded outputs out

PEOPLE = """
network(numbers: float32[2], spread: float32[2], job: float32[%d], city: float32[2], band: float32[3], count: float32[4]) {
  h = concat(numbers, spread, job, city, band, count) -> dense(8) -> tanh
  return pay = h -> dense(1), chance = h -> dense(3) -> softmax, old = h -> dense(1) -> sigmoid, share = h -> dense(1)
}
data {
  source  = csv("people.csv", missing="?")
  numbers = columns(age, hours) -> impute(median) -> standardize
  spread  = columns(age, hours) -> impute(constant, value=20) -> min_max(low=-1, high=1)
  job     = column(job) -> category -> one_hot
  city    = column(city) -> one_hot(["Rome", "Oslo"])
  band    = column(band) -> category -> one_hot
  count   = column(count) -> one_hot(4)
  pay     = column(wage) -> standardize
  share   = column(portion) -> scale(0.01) -> min_max
  class   = column(class) -> category -> class_balance
  rank    = column(rank) -> category(%s)
  split   = random(train=60%%, validation=20%%, test=20%%, stratify=class)
}
train {
  loss      = mse(pay_hat, pay) + cross_entropy(chance, class) + binary_cross_entropy(old, rank) + mse(share_hat, share)
  optimizer = adam(lr=0.05)
  batch     = 16
  epochs    = 3
  precision = %s
}
export { outputs = [pay_hat, chance, class, rank, pay, share]  opset = %d }
""".replace("return pay =", "return pay_hat =").replace("share = h", "share_hat = h")
JOBS = ["cook", "", "miner", "poet, retired", "?", "smith"]


def people(rows: int, *, seed: int, unseen: bool = False) -> list[dict[str, str]]:
    """Rows of a table as text: missing numbers, missing and, where asked for, unseen categories."""
    random = np.random.default_rng(seed)
    jobs = [*JOBS, "astronaut"] if unseen else JOBS
    made = []
    for _ in range(rows):
        made.append({
            "age": "?" if random.random() < 0.2 else str(int(random.integers(18, 80))),
            "hours": "" if random.random() < 0.2 else f"{random.normal(38, 6):.2f}",
            "job": str(random.choice(jobs)),
            "city": str(random.choice(["Rome", "Oslo", "Bonn" if unseen else "Oslo"])),
            "band": str(random.choice(["0.1", "2.5", "7.25", "" if unseen else "7.25"])),
            "count": str(random.integers(0, 6 if unseen else 4)),
            "wage": f"{random.normal(50_000, 9_000):.1f}",
            "portion": f"{random.uniform(10, 90):.2f}",
            "class": str(random.choice(["low", "high", "other"])),
            "rank": str(random.choice(["3", "11"])),
        })  # fmt: skip
    return made


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    lines = [",".join(rows[0]), *(",".join(f'"{cell}"' if "," in cell else cell for cell in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def raw_inputs(rows: list[dict[str, str]]) -> dict[str, Any]:
    """What a caller of the exported model feeds: numbers with NaN where missing, text with "" where missing."""

    def numbers(*columns: str) -> Any:
        return np.array([[float("nan" if row[c] in ("", "?") else row[c]) for c in columns] for row in rows], np.float32)

    def text(column: str) -> Any:
        return np.array(["" if row[column] == "?" else row[column] for row in rows], object)

    given = {"numbers": numbers("age", "hours"), "job": text("job"), "city": text("city"), "band": numbers("band"), "count": numbers("count")}
    return given | {"spread": given["numbers"]}


@pytest.mark.parametrize(("precision", "opset", "ranks"), [("float32", 18, "[3, 11]"), ("float64", 13, "[3, 11]"), ("float32", 26, "[11, 3]")])
def test_the_model_takes_raw_rows_and_gives_what_nnc_predict_gives(precision: str, opset: int, ranks: str, tmp_path: Path) -> None:
    (tmp_path / "people.nn").write_text(PEOPLE % (4, ranks, precision, opset))
    write_csv(tmp_path / "people.csv", people(120, seed=0))
    assert main(["run", str(tmp_path / "people.nn"), "-o", str(tmp_path / "run")]) == 0
    fresh = people(40, seed=1, unseen=True)
    write_csv(tmp_path / "fresh.csv", fresh)
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "fresh.csv"), "-o", str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as archive:
        wanted = {name: archive[name] for name in archive.files}
    raw = raw_inputs(fresh)
    for session in sessions(tmp_path / "run/export/model.onnx"):
        fed = {i.name: raw[i.name] for i in session.get_inputs()}
        assert fed.keys() == raw.keys()
        names_out = [o.name for o in session.get_outputs()]
        assert names_out == ["pay_hat", "chance", "class", "rank", "pay", "share"]
        for size in (1, 7, len(fresh)):
            got = dict(zip(names_out, session.run(None, {n: a[:size] for n, a in fed.items()}), strict=True))
            for name in ("pay_hat", "chance", "pay", "share"):
                np.testing.assert_allclose(got[name], wanted[name][:size], rtol=1e-4, atol=1e-5, err_msg=name)
            for name in ("class", "rank"):
                assert got[name].tolist() == wanted[name][:size].tolist()
            assert got["class"].tolist() == np.array(["high", "low", "other"])[got["chance"].argmax(-1)].tolist()
            assert set(got["rank"].tolist()) <= {3, 11}
            np.testing.assert_array_equal(got["pay"], got["pay_hat"])
    assert 20_000 < wanted["pay_hat"].mean() < 80_000, "in the column's units"
    report = json.loads((tmp_path / "run/export/verification.json").read_text())
    assert report["passed"]
    assert report["real_rows"] == 24, "the validation split"


def test_every_data_step_has_a_case() -> None:
    written = (PEOPLE, IMAGES, SERIES, TEXT)
    covered = {step for step in names(Kind.STEP) if any(f"-> {step}" in spec or f"= {step}()" in spec for spec in written)}
    assert covered == set(names(Kind.STEP))


SERIES = """
network(history: float32[4, 1], flags: float32[3, 3], bucket: int64[2], share: int64[2]) {
  b = bucket -> embedding(4, 2) -> flatten
  s = share -> embedding(3, 2) -> flatten
  return next = concat(history -> lstm(3), flags -> flatten, b, s) -> dense(1)
}
data {
  source  = csv("series.csv")
  value   = column(value) -> log1p -> clip(0, 5) -> min_max
  history = value -> window(4)
  future  = column(value) -> log1p -> standardize -> window(1, offset=4)
  flags   = column(count) -> bits(3) -> window(3)
  bucket  = column(value) -> bucketize([2, 5, 10]) -> window(2)
  share   = column(value) -> bucketize(3) -> window(2)
  split   = ordered(train=60%, validation=20%, test=20%)
}
train { loss = mse(next, future)  optimizer = adam(lr=0.01)  batch = 8  epochs = 2  metrics = [rmse] }
"""

TEXT = """
network(text: int64[6]) { return next = text -> embedding(12, 4) -> gru(5, return_sequences=true) -> dense(11) -> softmax }
data {
  source = text("letters.txt")
  chars  = characters()
  text   = chars -> window(6, stride=6)
  target = chars -> window(6, stride=6, offset=1)
  split  = ordered(train=80%, validation=20%)
}
train { loss = cross_entropy(next, target)  optimizer = adam(lr=0.01)  batch = 4  epochs = 2  metrics = [perplexity] }
export { outputs = [next, target] }
"""


def test_a_series_is_prepared_inside_the_file(tmp_path: Path) -> None:
    """Raw windows in, the next value in the column's units out; the windows of a row stand beside each other."""
    random = np.random.default_rng(1)
    values = np.exp(random.normal(1.0, 0.8, 60)).round(3)
    counts = random.integers(0, 8, 60)
    (tmp_path / "series.csv").write_text("value,count\n" + "".join(f"{v},{c}\n" for v, c in zip(values, counts, strict=True)))
    (tmp_path / "series.nn").write_text(SERIES)
    result = nnc.train(tmp_path / "series.nn", out=tmp_path / "run")
    raw = result.data.raw
    start = 7
    np.testing.assert_allclose(raw["history"][start, :, 0], values[start : start + 4], rtol=1e-6)
    np.testing.assert_allclose(raw["future"][start, 0, 0], values[start + 4], rtol=1e-6)
    prepared = result.data.arrays
    np.testing.assert_array_equal(prepared["flags"][start, 0], [counts[start] >> 2 & 1, counts[start] >> 1 & 1, counts[start] & 1])
    np.testing.assert_array_equal(prepared["bucket"][start], np.searchsorted([2, 5, 10], values[start : start + 2], side="right"))
    assert set(np.unique(prepared["share"])) == {0, 1, 2}
    logs = np.log1p(values[:36])
    wanted = (np.log1p(values[start + 4]) - logs.mean()) / logs.std()
    np.testing.assert_allclose(prepared["future"][start, 0, 0], wanted, rtol=1e-5, err_msg="learned on the rows before the cut")
    assert result.model.export_onnx(tmp_path / "m.onnx", raw)["passed"]
    (session,) = sessions(tmp_path / "m.onnx")[:1]
    fed = {i.name: raw[i.name][:5] for i in session.get_inputs()}
    scaled = result.model.predict({name: prepared[name][:5] for name in fed})["next"]
    np.testing.assert_allclose(session.run(None, fed)[0], np.expm1(scaled * logs.std() + logs.mean()), rtol=1e-4)


def test_a_text_is_prepared_inside_the_file(tmp_path: Path) -> None:
    """Code points in, characters out."""
    random = np.random.default_rng(2)
    text = "".join(random.choice(list("abcdefghij "), 400))
    (tmp_path / "letters.txt").write_text(text)
    (tmp_path / "text.nn").write_text(TEXT)
    result = nnc.train(tmp_path / "text.nn", out=tmp_path / "run")
    raw = result.data.raw["text"]
    assert "".join(map(chr, raw[3])) == text[18:24]
    assert "".join(map(chr, result.data.raw["target"][3])) == text[19:25]
    assert result.model.export_onnx(tmp_path / "m.onnx", result.data.raw)["passed"]
    (session,) = sessions(tmp_path / "m.onnx")[:1]
    chances, decided = session.run(["next", "target"], {"text": raw[:2]})
    symbols = sorted(set(text))
    assert decided.tolist() == [[symbols[k] for k in row] for row in chances.argmax(-1)]


IMAGES = """
network(image: float32[1, 4, 6], flat: float32[24], wide: float32[2, 12], colour: float32[3, 2, 2], on: float32[2], kind: float32[3]) {
  c = image -> conv2d(3, kernel=2) -> relu -> flatten
  k = colour -> conv2d(2, kernel=2) -> flatten
  return size = concat(c, flat, wide -> flatten, k, on, kind) -> dense(1), digit_p = c -> dense(4) -> softmax
}
data {
  source = npz("images.npz")
  image  = column(pixels) -> scale(1/255)
  flat   = column(pixels) -> flatten -> scale(0.01)
  wide   = column(pixels) -> reshape([2, 12]) -> min_max
  colour = column(colour) -> standardize
  on     = column(on) -> scale(2)
  kind   = column(kind) -> one_hot
  size   = column(size) -> standardize
  digit  = column(digit)
  split  = random(train=75%, test=25%)
}
train { loss = mse(size_p, size) + cross_entropy(digit_p, digit)  optimizer = adam(lr=0.01)  batch = 8  epochs = 2 }
export { outputs = [size_p, digit_p, digit, size]  opset = 17 }
""".replace("return size =", "return size_p =")


def test_arrays_are_prepared_inside_the_file(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    arrays = {
        "pixels": random.integers(0, 256, (48, 1, 4, 6)).astype(np.uint8),
        "colour": random.normal(100, 30, (48, 3, 2, 2)),  # float64, as numpy writes it
        "on": random.integers(0, 2, (48, 2)).astype(bool),
        "kind": random.integers(0, 3, 48).astype(np.uint8),
        "size": random.normal(170, 10, 48).astype(np.float32),
        "digit": random.integers(0, 4, 48).astype(np.int32),
    }
    np.savez(tmp_path / "images.npz", **arrays)
    (tmp_path / "images.nn").write_text(IMAGES)
    assert main(["run", str(tmp_path / "images.nn"), "-o", str(tmp_path / "run")]) == 0
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "images.npz"), "-o", str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as archive:
        wanted = {name: archive[name] for name in ("size_p", "digit_p", "digit", "size")}
    path = tmp_path / "run/export/model.onnx"
    declared = {i.name: i.type for i in sessions(path)[0].get_inputs()}
    assert declared["image"] == "tensor(uint8)"
    assert declared["colour"] == "tensor(float)"
    columns = {"image": "pixels", "flat": "pixels", "wide": "pixels"}
    raw = {name: arrays[columns.get(name, name)] for name in declared}
    agree(path, raw | {"colour": raw["colour"].astype(np.float32)}, wanted)
    assert abs(wanted["size"].mean() - 170) < 10
