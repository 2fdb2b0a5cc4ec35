"""Files in fewer bits: what onnxruntime makes of them, what they weigh, what they may lose, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from runs import DIGITS, TINY, nnc, refused, write

from nnc.compiler import pipeline
from nnc.compiler.interface import interface
from nnc.compiler.ir import Graph
from nnc.compiler.quantise import WEIGHT_LEVELS, observed, quantised, sites
from nnc.runtime.calibration import grids, whole_numbers
from nnc.runtime.data.dataset import open_data
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.export import computed, encoded
from nnc.runtime.kernels import Randomness
from nnc.runtime.quantisation import worse
from nnc.runtime.run import Run

Array = np.ndarray[Any, Any]

IMAGES = """
network(image: float32[1, 8, 8]) {
  body = image -> conv2d(8, kernel=3, padding=same) -> batch_norm -> relu -> max_pool(2)
               -> conv2d(16, kernel=3, padding=same) -> relu -> max_pool(2) -> flatten
  return probabilities = body -> dense(256) -> batch_norm -> relu -> dense(10) -> softmax
}
data {
  source = digits()
  image  = column(pixels) -> scale(1/16) -> reshape([1, 8, 8])
  label  = column(digit)
  split  = random(train=60%, validation=20%, test=20%, stratify=label, seed=1)
}
train {
  loss      = cross_entropy(probabilities, label)
  optimizer = adam(lr=0.005)
  batch     = 32
  epochs    = 6
  metrics   = [accuracy]
}
"""

MIXED = """
network(numbers: float32[2], colour: int64, town: int64) {
  c = colour -> embedding(4, 16)
  t = town   -> embedding(40, 16)
  return bought = concat(numbers, c, t) -> dense(64) -> relu -> dense(32) -> relu -> dense(1) -> sigmoid
}
data {
  source  = csv("shop.csv", missing="?")
  numbers = columns(age, income) -> impute(median) -> standardize
  colour  = column(colour) -> category
  town    = column(town) -> category
  answer  = column(answer) -> category(["no", "yes"])
  split   = random(train=60%, validation=20%, test=20%, seed=1)
}
train {
  loss      = binary_cross_entropy(bought, answer)
  optimizer = adam(lr=0.01)
  batch     = 32
  epochs    = 12
  metrics   = [auc, accuracy]
}
"""


def shop(folder: Path) -> None:
    """1,000 customers: a colour that decides much, an age with gaps, a town and an income that decide a little."""
    random = np.random.default_rng(0)
    colours, towns = random.choice(["red", "green", "blue"], 1000), random.integers(0, 30, 1000)
    ages, incomes = random.normal(40, 12, 1000), random.lognormal(10, 1, 1000)
    score = 2.0 * (colours == "red") + (ages - 40) / 10 + (towns % 3 - 1) + 0.3 * np.log(incomes / 2e4) + random.normal(0, 0.3, 1000)
    rows = [f"{'?' if i % 9 == 0 else f'{a:.1f}'},{m:.2f},{c},town {t},{'yes' if s > 0.6 else 'no'}"
            for i, (a, m, c, t, s) in enumerate(zip(ages, incomes, colours, towns, score, strict=True))]  # fmt: skip
    write(folder / "shop.csv", "\n".join(["age,income,colour,town,answer", *rows]) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each experiment trained once; only what is exported differs."""
    folder = tmp_path_factory.mktemp("quantisation")
    shop(folder)
    found = {}
    for name, text in {"digits": DIGITS, "images": IMAGES, "mixed": MIXED}.items():
        for form in ("int8(calibrate=100)", "float16"):
            outputs = "[bought, answer]" if name == "mixed" else "[probabilities, label]"
            spec = write(folder / f"{name}-{form[:5]}.nn", f"{text}\nexport {{ outputs = {outputs}  quantize = {form} }}\n")
            said = nnc("run", spec, "-o", folder / spec.stem)
            assert said.status == 0, said.err
            assert "float32" in said.out.rpartition("bundle")[2]
            found[f"{name} {form.partition('(')[0]}"] = folder / spec.stem
    return found


def report(run: Path) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((run / "export" / "verification.json").read_text())
    return whole


def session(data: bytes | str, *, optimise: bool = True) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def rows(run: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Raw and prepared validation rows."""
    spec = pipeline.read(run / "spec.nn")
    root = Path(Run(run).manifest()["data"]["root"])
    _, data = open_data(pipeline.analyse(spec, root=root), root).dataset()
    chosen = data.splits["validation"]
    return {name: raw[chosen] for name, raw in data.raw.items()}, {name: array[chosen] for name, array in data.arrays.items()}


EACH = [f"{name} {form}" for name in ("digits", "images", "mixed") for form in ("int8", "float16")]


@pytest.mark.parametrize("which", EACH)
def test_the_figures_are_those_of_the_file_that_was_written(which: str, made: dict[str, Path]) -> None:
    run = made[which]
    said = report(run)["quantisation"]
    raw, prepared = rows(run)
    model = session((run / "export" / "model.onnx").read_bytes())
    assert all(kind.type in ("tensor(float)", "tensor(int64)", "tensor(string)") for kind in (*model.get_inputs(), *model.get_outputs()))
    wanted = {i.name: raw[i.name].astype(object if i.type == "tensor(string)" else np.float32) for i in model.get_inputs()}
    found, decided = model.run(None, wanted)
    label = prepared["answer" if "mixed" in which else "label"]
    right = (found[:, 0] > 0.5) == label if "mixed" in which else found.argmax(1) == label
    assert said["after"]["figures"]["accuracy"] == pytest.approx(right.mean())
    assert (decided == (raw["answer"] if "mixed" in which else label)).mean() == pytest.approx(right.mean())
    assert said["split"] == "validation"
    assert said["rows"] == len(label)
    chosen = np.clip(found[:, 0] if "mixed" in which else found[np.arange(len(label)), label], 1e-30, 1)
    chosen = np.where(label, chosen, 1 - chosen) if "mixed" in which else chosen
    assert said["after"]["figures"]["loss"] == pytest.approx(-np.log(chosen).mean(), rel=1e-3)


@pytest.mark.parametrize("which", EACH)
def test_little_is_lost_and_the_file_is_small_and_sound(which: str, made: dict[str, Path]) -> None:
    run = made[which]
    whole = report(run)
    said, data = whole["quantisation"], (run / "export" / "model.onnx").read_bytes()
    assert whole["passed"]
    assert whole["bytes"] == len(data) == said["after"]["bytes"]
    assert said["worse_by"] <= said["most"] == 0.01
    assert said["before"]["figures"]["accuracy"] > 0.75
    own = session_figures(run)
    for name, value in said["before"]["figures"].items():
        assert value == pytest.approx(own[name], rel=1e-4), "before, they are the network's own"
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 18
    assert model.ir_version == 8
    wanted = onnx.TensorProto.INT8 if said["form"] == "int8" else onnx.TensorProto.FLOAT16
    assert {i.data_type for i in model.graph.initializer if len(i.dims) > 1 and np.prod(i.dims) > 100} == {wanted}
    if "images" in which:  # 20,000 weights; the others' files are half nodes
        assert said["before"]["bytes"] / len(data) > (2.4 if said["form"] == "int8" else 1.8)
    assert said["after"]["milliseconds"].keys() == {"1", "256"}


def session_figures(run: Path) -> dict[str, float]:
    figures: dict[str, float] = json.loads((run / "figures.json").read_text())["validation"]
    return figures


def test_what_must_stay_in_float32_stays(made: dict[str, Path]) -> None:
    for which in EACH:
        model = onnx.shape_inference.infer_shapes(onnx.load(made[which] / "export" / "model.onnx"))
        kinds = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output, *model.graph.input)}
        for node in model.graph.node:
            if node.op_type in ("Softmax", "Exp", "ReduceSum", "Sqrt", "Div", "LabelEncoder") or node.name.startswith("data/"):
                assert kinds[node.output[0]] not in (onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8), node.name
        ops = [node.op_type for node in model.graph.node]
        assert ("QuantizeLinear" in ops) == ("int8" in which)


def test_onnxruntime_computes_every_layer_with_whole_numbers(made: dict[str, Path], tmp_path: Path) -> None:
    for which, wanted in (("images int8", {"QLinearConv": 2, "QGemm": 2}), ("mixed int8", {"QGemm": 3})):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(str(made[which] / "export" / "model.onnx"), options, providers=["CPUExecutionProvider"])
        ops = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
        assert {op: ops.count(op) for op in wanted} == wanted
        assert not {"Conv", "FusedConv", "Gemm", "MatMul"} & set(ops)


# The graph


def network(body: str, opset: int = 18) -> tuple[Graph, dict[str, Array], Any]:
    """A folded serving graph with parameters drawn at random."""
    import nnc as package

    model = package.compile(f"{body}\nexport {{ opset = {opset} }}").init(seed=3)
    random = np.random.default_rng(1)
    for name, array in model.parameters.items():
        if array.ndim == 1:
            model.parameters[name] = random.uniform(0.5, 1.5, array.shape)
    return *computed(*model.serving()), model.program


def rewritten(graph: Graph, arrays: dict[str, Array], given: dict[str, Array]) -> tuple[Graph, dict[str, Array]]:
    found = sites(graph)
    made, stored = quantised(graph, grids(observed(found), arrays, given, 16))
    known = {**arrays, **whole_numbers(stored, arrays)}
    return made, {name: known[name] for name in made.leaves("variable")}


NETWORKS = [
    "network(x: float32[6]) { return y = x -> dense(8) -> tanh -> dense(3) }",
    "network(x: float32[6]) { return y = x -> dense(8, bias=false) -> leaky_relu -> dense(3, bias=false) -> softmax }",
    "network(x: float32[2, 9, 9]) { return y = x -> conv2d(6, kernel=3) -> relu -> conv2d(6, kernel=3, groups=3, stride=2) -> flatten -> dense(4) }",
    "network(x: float32[2, 6, 6]) { a = x -> conv2d(4, kernel=3, padding=same)  b = a -> relu -> conv2d(4, kernel=1)  return y = a + b -> global_avg_pool }",
    "network(x: float32[10, 3]) { return y = x -> conv1d(5, kernel=3) -> relu -> flatten -> dense(2) }",
    "network(x: float32[5, 4]) { return y = x -> attention(2) -> layer_norm -> flatten -> dense(3), z = x -> lstm(3) -> dense(2) }",
]


@pytest.mark.parametrize("opset", [13, 26])
@pytest.mark.parametrize("body", NETWORKS)
def test_the_file_computes_what_the_graph_says(body: str, opset: int) -> None:
    graph, arrays, program = network(body, opset)
    (x,) = graph.leaves("input").values()
    given = {"x": np.random.default_rng(0).normal(size=(64, *x.shape[1:])).astype(np.float32)}  # type: ignore[misc]
    made, known = rewritten(graph, arrays, given)
    data = encoded(program, made, known, opset, interface(program, graph))
    wanted = Executor(made, known, Randomness(0), Arena()).run(given)
    whole = Executor(graph, arrays, Randomness(0), Arena())
    exact = {name: array.copy() for name, array in whole.run(given).items()}
    for name, plain in wanted.items():
        (found,) = session(data, optimise=False).run([name], given)
        step = np.abs(exact[name]).max() / 60
        assert np.median(np.abs(found - plain)) < 1e-5
        assert np.abs(found - plain).max() < 2 * step, "a value at the border of two numbers may fall to either side"
        assert np.abs(plain - exact[name]).max() < 6 * step
        (fast,) = session(data).run([name], given)
        assert np.abs(fast - plain).max() < 2 * step


def test_weights_and_biases_are_within_half_a_step() -> None:
    graph, arrays, _ = network(NETWORKS[2])
    given = {"x": np.random.default_rng(0).normal(size=(32, 2, 9, 9)).astype(np.float32)}
    found = sites(graph)
    _, stored = quantised(graph, grids(observed(found), arrays, given, 16))
    assert len(stored) == len(found) == 3
    numbers = whole_numbers(stored, arrays)
    for kept in stored:
        weight, whole, scales = arrays[kept.source], numbers[kept.integers], numbers[kept.scales]
        assert whole.dtype == np.int8
        assert np.abs(whole).max() <= WEIGHT_LEVELS
        along = scales.reshape([-1 if axis == kept.axis else 1 for axis in range(weight.ndim)])
        assert len(scales) == weight.shape[kept.axis or 0]
        assert (np.abs(whole * along - weight) <= along * 0.5001).all()
        assert kept.bias is not None
        bias = numbers[kept.bias.integers] * numbers[kept.bias.scales].astype(float)
        np.testing.assert_allclose(bias, arrays[kept.bias.source].ravel(), atol=float(numbers[kept.bias.scales].max()))
    assert 2 * 255 * WEIGHT_LEVELS < 2**15, "a pair of products fits into 16 bits"


def test_a_range_holds_zero_and_is_the_better_one_of_those_tried() -> None:
    """One value far out costs more in rounding of the others than it is worth."""
    graph, arrays, _ = network("network(x: float32[4]) { return y = x -> dense(2) }")
    (x,) = observed(sites(graph))
    sample = np.random.default_rng(0).uniform(1, 2, (500, 4)).astype(np.float32)
    (grid,) = grids([x], arrays, {"x": sample}, 64).values()
    assert grid.zero == 0
    assert grid.scale == pytest.approx(sample.max() / 255, rel=0.06), "from 0 to the largest, though none is below 1"
    sample = np.random.default_rng(0).normal(size=(20000, 4)).astype(np.float32)
    sample[7, 2] = 9.0
    (grid,) = grids([x], arrays, {"x": sample}, 64).values()
    assert grid.scale < 0.9 * (9.0 - sample.min()) / 255


def test_data_steps_and_decisions_are_left_alone(made: dict[str, Path]) -> None:
    model = Run(made["mixed int8"]).model()
    graph, arrays = computed(*model.serving(decisions=True))
    found = sites(graph)
    assert len(found) == 5
    given = {name: np.asarray(array[:50], object if array.dtype.kind in "UO" else np.float32) for name, array in rows(made["mixed int8"])[0].items()}
    new, _ = rewritten(graph, arrays, given)
    before, after = ({v.op for v in part.order() if v.origin.startswith(("data/", "decision/"))} for part in (graph, new))
    assert before == after
    assert "quantize" not in after


# What is refused


def test_what_is_lost_is_a_share_of_what_there_was() -> None:
    assert worse("higher", 0.8, 0.76) == pytest.approx(0.05)
    assert worse("lower", 0.5, 0.6) == pytest.approx(0.2)
    assert worse("higher", 0.8, 0.9) < 0
    assert worse("lower", -2.0, -1.0) == pytest.approx(0.5)
    assert worse("lower", 0.0, 0.0) == 0
    assert worse("lower", 0.0, 1e-9) == worse("lower", 1.0, float("nan")) == worse("higher", 1.0, float("inf")) == float("inf")


def trained(folder: Path, text: str) -> Path:
    said = nnc("train", write(folder / "spec.nn", text), "-o", folder / "run")
    assert said.status == 0, said.err
    return folder / "run"


def test_a_network_that_loses_too_much_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    run = trained(tmp_path, TINY + "export { quantize = int8(most=0.01%) }")
    there = sorted(tmp_path.rglob("*"))
    refused(nnc("export", run), "E620", "mae on the validation split", "nothing was written", "it may lose 0.0001")
    assert sorted(tmp_path.rglob("*")) == there


def test_the_goal_decides_where_there_is_one(tmp_path: Path) -> None:
    run = trained(tmp_path, TINY.replace("metrics = [mae]", "metrics = [mae, rmse]  goal = at_most(val.rmse, 1)") + "export { quantize = float16 }")
    assert nnc("export", run).status == 0
    assert report(run)["quantisation"]["figure"] == "rmse"


def test_a_network_of_recurrent_layers_alone_has_no_form_in_8_bits(tmp_path: Path) -> None:
    text = TINY.replace("float32[1]", "float32[1, 1]").replace("dense(2) -> tanh -> dense(1)", "lstm(1)")
    text = text.replace("x = column(x) -> standardize", "x = column(x) -> standardize -> reshape([1, 1])")
    refused(nnc("export", trained(tmp_path, text + "export { quantize = int8 }")), "E621", "dense layers, convolutions and embeddings")


def test_changed_data_is_no_judge(tmp_path: Path) -> None:
    shop(tmp_path)
    run = trained(tmp_path, MIXED.replace("epochs    = 12", "epochs    = 1") + "export { quantize = float16 }")
    path = tmp_path / "shop.csv"
    path.write_text(path.read_text().replace("yes", "no", 1))
    refused(nnc("export", run), "E511", "another SHA-256")
    (tmp_path / "elsewhere").mkdir()
    shop(tmp_path / "elsewhere")
    assert nnc("export", run, "--data-root", tmp_path / "elsewhere").status == 0


@pytest.mark.parametrize("ensemble", ["bagging", "k_fold"])
def test_an_ensemble_is_quantised_as_one_graph(ensemble: str, tmp_path: Path) -> None:
    text = DIGITS.replace("let epochs = 6", "let epochs = 2")
    if ensemble == "bagging":
        text = text.replace("batch     = 32", "batch     = 32  ensemble = bagging(2)")
    else:
        text = text.replace("random(train=60%, validation=20%, test=20%, stratify=label, seed=1)", "k_fold(2, test=20%, stratify=label)")
    run = trained(tmp_path, text + "export { quantize = int8(most=3%) }")
    assert nnc("export", run).status == 0
    said = report(run)["quantisation"]
    assert said["values_rewritten"] == 4
    assert said["split"] == ("validation" if ensemble == "bagging" else "test")
    figures = json.loads((run / "figures.json").read_text())[said["split"]]
    assert said["before"]["figures"]["loss"] == pytest.approx(figures["loss"], rel=1e-4)
