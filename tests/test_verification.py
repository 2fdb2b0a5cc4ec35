"""An export is refused where the engines disagree, and only there: rounding errors, ties and thresholds do not upset it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from networks import spread

import nnc
from nnc.cli import main
from nnc.compiler.onnx_lowering import LOWERINGS
from nnc.runtime import export as exporting
from nnc.runtime import verification
from nnc.runtime.device import EngineRefusal
from nnc.runtime.edge_rows import EDGE_ROWS, verification_rows
from nnc.runtime.rounding import trust
from nnc.runtime.verification import verify

TEXT = """
network(age: float32[1], job: float32[3]) { return p = concat(age, job) -> dense(4) -> dense(2) -> softmax }
data {
  source = table(age=[31, 50, 18, 77, 40, 41], job=["cook", "poet", "cook", "smith", "poet", "smith"], sick=["no", "yes", "no", "yes", "no", "no"])
  age    = column(age) -> impute(mean) -> standardize
  job    = column(job) -> category -> one_hot
  sick   = column(sick) -> category
}
train { loss = cross_entropy(p, sick)  optimizer = sgd(lr=0.1)  batch = 6  epochs = 1 }
export { outputs = [p, sick] }
"""


RIGHT = dict(LOWERINGS)


def writes(op: str, *first: int, **attributes: Any) -> Callable[..., str]:
    """A lowering that writes another operator, on some of its operands."""
    return lambda emit, value, inputs: emit.node(op, *([inputs[i] for i in first] or inputs), **attributes)


def inverted(emit: Any, value: Any, inputs: list[str]) -> str:
    return str(emit.node("Not", emit.node("IsNaN", inputs[0])))


def slightly_more(emit: Any, value: Any, inputs: list[str]) -> str:
    return str(emit.node("Mul", emit.node("Tanh", inputs[0]), emit.tensor(1.001, "float32")))


def other_default(emit: Any, value: Any, inputs: list[str]) -> str:
    """Unseen categories become the first one."""
    a = value.attributes
    if value.dtype == "string":
        return RIGHT["lookup"](emit, value, inputs)
    keys, values = list(a["keys"]), list(a["values"])
    return str(emit.node("LabelEncoder", inputs[0], domain="ai.onnx.ml", keys_strings=keys, values_int64s=values, default_int64=0))


def swapped_pads(emit: Any, value: Any, inputs: list[str]) -> str:
    (top, bottom), (left, right) = value.attributes["padding"]
    a = value.attributes
    return str(emit.node("Conv", *inputs, strides=list(a["stride"]), pads=[bottom, right, top, left], dilations=list(a["dilation"]), group=a["groups"]))


WRONG = [
    ("tanh", writes("Sigmoid"), "network(x: float32[3]) { return x -> dense(4) -> tanh }"),
    ("tanh", slightly_more, "network(x: float32[3]) { return x -> dense(4) -> tanh }"),
    ("maximum", writes("Min"), "network(x: float32[3]) { return x -> dense(4) -> relu }"),
    ("sigmoid", writes("HardSigmoid"), "network(x: float32[3]) { return x -> dense(4) -> sigmoid }"),
    ("greater", writes("Less"), "network(x: float32[3]) { return x -> dense(4) -> step -> dense(1) }"),
    ("greater", writes("GreaterOrEqual"), "network(x: float32[3]) { return x -> dense(4, init=zeros) -> step }"),
    ("softmax", writes("Softmax", axis=1), "network(x: float32[2, 3]) { return x -> softmax }"),
    ("reduce_sum", writes("ReduceL1", 0, axes=[2, 3], keepdims=0), "network(x: float32[2, 3, 3]) { return x -> global_avg_pool }\nexport { opset = 15 }"),
    ("avg_pool", writes("AveragePool", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], count_include_pad=1),
     "network(x: float32[1, 4, 4]) { return x -> avg_pool(3, stride=1, padding=1) }"),
    ("conv2d", swapped_pads, "network(x: float32[1, 4, 5]) { return x -> conv2d(2, kernel=2, padding=same) }"),
    ("argmax", writes("ArgMin", axis=1, keepdims=0), TEXT),
    ("is_nan", inverted, TEXT),
    ("lookup", other_default, TEXT),
]  # fmt: skip


def made(text: str, seed: int = 1) -> Any:
    model = nnc.compile(text).init(seed)
    if "init=zeros" not in text:
        spread(model, seed)
    return model


@pytest.mark.parametrize(("primitive", "wrong", "text"), WRONG, ids=lambda v: v if isinstance(v, str) and "{" not in v else "")
def test_a_wrong_lowering_is_refused_and_nothing_written(primitive: str, wrong: Any, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(text)
    assert model.export_onnx(tmp_path / "right.onnx")["passed"]
    earlier = (tmp_path / "right.onnx").read_bytes()
    monkeypatch.setitem(LOWERINGS, primitive, wrong)
    for name in ("right.onnx", "new.onnx", "folder/new.onnx"):
        with pytest.raises(nnc.SpecError) as refused:
            model.export_onnx(tmp_path / name)
        assert [d.code for d in refused.value.diagnostics] == ["E601"]
    assert [p.name for p in tmp_path.iterdir()] == ["right.onnx"]
    assert (tmp_path / "right.onnx").read_bytes() == earlier


def test_the_command_fails_with_status_1_and_keeps_the_earlier_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.nn").write_text(TEXT)
    assert main(["run", str(tmp_path / "a.nn"), "-o", str(tmp_path / "run")]) == 0
    folder = tmp_path / "run/export"
    kept = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {p.name for p in kept} >= {"model.onnx", "verification.json", "signature.json", "manifest.json", "spec.nn"}
    monkeypatch.setitem(LOWERINGS, "softmax", writes("Sigmoid"))
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert "error[E601]" in said
    assert "`p` differs by 0." in said
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == kept


def test_a_file_that_the_checker_refuses_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOWERINGS, "tanh", writes("Tanh", 0, 0))
    with pytest.raises(nnc.SpecError, match="checker does not accept"):
        made("network(x: float32[3]) { return x -> tanh }").export_onnx(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_onnxruntime_refuses_is_named() -> None:
    graph, arrays = made("network(x: float32[3]) { return x -> tanh }").serving()
    with pytest.raises(EngineRefusal, match="does not load"):
        verify(b"no model", graph, arrays, verification_rows(graph, None))


def test_an_operator_that_the_opset_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOWERINGS, "tanh", lambda emit, value, inputs: emit.node("Atan", emit.node("Gelu", inputs[0])))
    model = made("network(x: float32[3]) { return x -> tanh }")
    with pytest.raises(nnc.SpecError, match=r"E607.*opset 19 has no operator Gelu(.|\n)*it comes with opset 20(.|\n)*use opset = 20 or more"):
        model.export_onnx(tmp_path / "m.onnx", opset=19)
    with pytest.raises(nnc.SpecError, match="E601"):  # now it is there, and something else
        model.export_onnx(tmp_path / "m.onnx", opset=20)
    for opset in (0, 12, 27):
        with pytest.raises(nnc.SpecError, match=r"E207(.|\n)*opsets go from 13 to 26"):
            model.export_onnx(tmp_path / "m.onnx", opset=opset)
    assert not list(tmp_path.iterdir())


def test_a_model_too_large_for_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "MOST_BYTES", 3 * 40 * 4)
    made("network(x: float32[3]) { return x -> dense(30) }").export_onnx(tmp_path / "m.onnx")
    with pytest.raises(nnc.SpecError, match="too large for one ONNX file"):
        made("network(x: float32[3]) { return x -> dense(31) }").export_onnx(tmp_path / "n.onnx")
    assert not (tmp_path / "n.onnx").exists()


# What must not upset a right export


def engines(path: Path, model: Any, rows: dict[str, Any], output: str) -> tuple[Any, Any]:
    """An output of the NumPy runtime and of onnxruntime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return model.predict(rows)[output], session.run([output], rows)[0]


def cancelling(units: int, size: int = 600) -> Any:
    """Weights whose sums are zero but for rounding: the order of summation decides."""
    random = np.random.default_rng(5)
    half = random.normal(size=(size // 2, units)) / 3
    return np.concatenate([half, -half[::-1]]).astype(np.float32)


def mirrored(rows: int, size: int = 600) -> Any:
    half = np.random.default_rng(6).normal(size=(rows, size // 2)).astype(np.float32)
    return np.concatenate([half, half[:, ::-1]], axis=1)


def test_rows_at_the_threshold_of_a_step_may_differ(tmp_path: Path) -> None:
    model = nnc.compile("network(x: float32[600]) { return y = x -> dense(8) -> step -> dense(2) }").init(0)
    model.parameters["y/dense/weight"] = cancelling(8)
    rows = {"x": np.concatenate([mirrored(20), np.random.default_rng(0).normal(size=(40, 600)).astype(np.float32)])}
    report = model.export_onnx(tmp_path / "m.onnx", rows)
    wanted, got = engines(tmp_path / "m.onnx", model, rows, "y")
    assert np.abs(wanted - got)[:20].max() > 0.1, "the engines part, so the rule was needed"
    assert np.abs(wanted - got)[20:].max() < 1e-5
    found = report["outputs"]["y"]
    assert found["undecided"] >= 2 * 2 * 20 / 4
    assert found["differing"] == 0
    assert found["compared"] > 2 * 40


def test_near_ties_of_a_decision_may_differ(tmp_path: Path) -> None:
    text = """
    network(x: float32[600]) { return p = x -> dense(2) }
    data { source = npz("x.npz")  x = column(x)  t = column(t) -> category([4, 9]) }
    train { loss = cross_entropy(p, t)  optimizer = sgd(lr=0.1)  batch = 8  epochs = 1 }
    export { outputs = [p, t] }
    """
    x, t = mirrored(20), np.array([4, 9] * 10)
    np.savez(tmp_path / "x.npz", x=x, t=t)
    model = nnc.compile(text, data_root=tmp_path).init(0)
    model.parameters["p/dense/weight"] = cancelling(2)
    rows = {"x": np.concatenate([x, np.random.default_rng(0).normal(size=(30, 600)).astype(np.float32)])}
    report = model.export_onnx(tmp_path / "m.onnx", rows)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    chosen = session.run(["t"], rows)[0]
    numpy_choice = np.array([4, 9])[model.predict(rows)["p"].argmax(-1)]
    assert (chosen != numpy_choice)[:20].any(), "the engines part, so the rule was needed"
    assert (chosen == numpy_choice)[20:].all()
    found = report["outputs"]["t"]
    assert found["passed"]
    assert found["undecided"] > 0
    assert 0.5 < found["argmax_agreement"] < 1
    assert report["outputs"]["p"]["undecided"] == 0, "the logits themselves are continuous"


def test_cancellation_is_allowed_what_float32_loses(tmp_path: Path) -> None:
    model = nnc.compile("network(x: float32[200]) { return y = x -> dense(1) }").init(0)
    weight = np.random.default_rng(1).normal(size=(200, 1))
    model.parameters["y/dense/weight"] = weight - weight.mean()
    rows = {"x": (20_000 + np.random.default_rng(2).normal(size=(60, 200))).astype(np.float32)}
    report = model.export_onnx(tmp_path / "m.onnx", rows)
    wanted, got = engines(tmp_path / "m.onnx", model, rows, "y")
    assert (np.abs(wanted - got) > 1e-5 + 1e-4 * np.abs(wanted)).any(), "beyond the bound, so the allowance was needed"
    assert report["outputs"]["y"]["undecided"] <= 4 * EDGE_ROWS


def test_an_edge_row_in_which_float32_has_no_answer_may_differ(tmp_path: Path) -> None:
    """At zeros in, 1 / d divides by what rounding leaves of a sum of zero."""
    model = nnc.compile("network(x: float32[3]) { d = x -> dense(600) -> dense(1)  return y = 1 / d }").init(0)
    half = np.random.default_rng(1).normal(size=300)
    model.parameters["d/dense/bias"] = np.concatenate([half, half[::-1]])
    model.parameters["d/dense_2/weight"] = cancelling(1)
    rows = {"x": np.random.default_rng(2).normal(size=(30, 3)).astype(np.float32)}
    report = model.export_onnx(tmp_path / "m.onnx", rows)
    wanted, got = engines(tmp_path / "m.onnx", model, {"x": np.zeros((1, 3), np.float32)}, "y")
    assert abs(wanted / got - 1) > 0.01, "the engines part, so the rule was needed"
    assert report["outputs"]["y"]["undecided"] >= 4
    assert report["outputs"]["y"]["compared"] > 2 * 30


def test_values_without_bound_agree(tmp_path: Path) -> None:
    """Overflow to infinity and NaN are the same in both engines, and far values are compared relative to their size."""
    model = made("network(x: float32[3]) { return y = x -> dense(4) -> swish -> batch_norm, z = 1 / x }")
    rows = {"x": np.array([[1e30, -1e30, 1e38], [0, 1e-30, -1e-38], [3e5, 2e5, -7e5]], np.float32)}
    assert model.export_onnx(tmp_path / "m.onnx", rows)["passed"]


def test_a_large_network_is_run_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("network(x: float32[4]) { return x -> dense(64) -> tanh -> dense(2) -> softmax }")
    rows = {"x": np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)}
    whole = model.export_onnx(tmp_path / "m.onnx", rows)
    assert {s["batch"] for s in whole["settings"]} == {1, 7, 50 + EDGE_ROWS}
    monkeypatch.setattr(verification, "ARENA_BYTES", 8 * 1024)
    pieces = model.export_onnx(tmp_path / "m.onnx", rows)
    assert 1 < max(s["batch"] for s in pieces["settings"]) < 50
    assert pieces["outputs"]["output"]["compared"] == whole["outputs"]["output"]["compared"]


# Rows and the report


def test_edge_rows_have_the_scale_of_the_data() -> None:
    graph, _ = made("network(x: float32[2], k: int64[1]) { return a = x -> dense(1), b = k }").serving()
    x = np.random.default_rng(0).normal([1e5, -3], [2e3, 0.01], (100, 2)).astype(np.float32)
    rows = verification_rows(graph, {"x": x, "k": np.arange(50, 150)[:, None]})
    assert (rows.real, rows.total) == (100, 100 + EDGE_ROWS)
    edges = rows.arrays["x"][100:]
    np.testing.assert_array_equal(edges[:3], [[0, 0], x.min(0), x.max(0)])
    assert np.abs(edges[5:, 0] - 1e5).max() < 1e4
    assert np.abs(edges[5:, 1] + 3).max() < 0.05
    assert np.abs(edges[4] - [1e5, -3]).max(initial=0) > np.abs(x - x.mean(0)).max(), "one row far out"
    assert np.isfinite(edges).all()
    assert rows.arrays["k"].min() >= 50, "no index that the data does not hold"


def test_missing_and_unseen_values_are_among_the_edge_rows() -> None:
    graph, _ = made(TEXT).serving()
    rows = verification_rows(graph, {"age": np.array([[30.0], [50.0]]), "job": np.array(["cook", "poet"], object)})
    assert np.isnan(rows.arrays["age"]).any()
    assert {"", "never seen", "cook"} <= set(rows.arrays["job"])


def test_the_report_is_complete_and_plain_json(tmp_path: Path) -> None:
    rows = {"age": np.array([[30.0], [np.nan], [50.0]]), "job": np.array(["cook", "", "poet"], object)}
    report = made(TEXT).export_onnx(tmp_path / "m.onnx", rows)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["passed"], report["rows"], report["real_rows"], report["edge_rows"]) == (True, 3 + EDGE_ROWS, 3, EDGE_ROWS)
    assert {key: report["bound"][key] for key in ("absolute", "relative", "rounding", "unit")} == {
        "absolute": 1e-5, "relative": 1e-4, "rounding": 8.0, "unit": 2.0**-24,
    }  # fmt: skip
    total = 3 + EDGE_ROWS
    on_cpu = [{key: s[key] for key in ("batch", "optimisations")} for s in report["settings"] if s["provider"] == "CPUExecutionProvider"]
    assert on_cpu == [{"batch": b, "optimisations": o} for b in (1, 7, total) for o in ("off", "on")]
    assert report["onnxruntime"] == onnxruntime.__version__
    assert report["providers"][0] == "CPUExecutionProvider"
    assert ("CUDAExecutionProvider" in report["providers"]) != ("CUDAExecutionProvider" in report["absent"])
    assert report["bytes"] == (tmp_path / "m.onnx").stat().st_size
    p, sick = report["outputs"]["p"], report["outputs"]["sick"]
    assert 0 <= p["absolute"] < 1e-5
    assert 0 <= p["relative"] < 1e-4
    assert p["compared"] + p["undecided"] == sick["compared"] + sick["undecided"] == 2 * 3 * total * len(report["providers"])
    assert p["argmax_agreement"] == sick["argmax_agreement"] == 1


# Arithmetic that is coarser than float32


def in_tf32(array: Any) -> Any:
    """Rounded to the eleven bits that a GPU's tensor cores take of a float32."""
    return ((array.astype(np.float32).view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)


@pytest.mark.parametrize("layers", ["dense(64) -> tanh -> dense(3)", "dense(200) -> relu -> dense(200) -> relu -> dense(3)"])
def test_what_tf32_does_to_a_network_is_within_its_bound_and_little_more(layers: str) -> None:
    model = made(f"network(x: float32[50]) {{ return y = x -> {layers} }}")
    graph, arrays = model.serving()
    rows = verification_rows(graph, {"x": np.random.default_rng(0).normal(size=(100, 50)).astype(np.float32)})
    value = rows.arrays["x"]
    weights = [name for name in model.parameters if name.endswith("weight")]
    for place, name in enumerate(weights):
        value = in_tf32(value) @ in_tf32(arrays[name]) + arrays[name.replace("weight", "bias")]
        if place < len(weights) - 1:
            value = np.tanh(value) if "tanh" in layers else np.maximum(value, 0)
    distance = np.abs(value - model.predict(rows.arrays)["y"]).max(1)
    for coarse in (False, True):
        allowed = trust(graph, arrays, rows, rows.total, tf32=coarse)["y"]
        within = distance <= 1e-5 + 1e-4 * np.abs(value).min(1) + allowed.rounding
        assert within[allowed.decided].all() == coarse
        if coarse:
            assert np.median(allowed.rounding) < 100 * np.median(distance), "a bound that lets a wrong result through is none"
