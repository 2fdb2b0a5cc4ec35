"""Ensembles: members that differ, outputs that are averaged, figures that are honest, one graph, and runs that go on after a kill."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from runs import digest, history, leftovers, nnc, refused, write
from test_resume import KILLED, train_until

import nnc as api
from nnc.compiler.diagnostics import SpecError
from nnc.compiler.operation import Bound as BoundOperation
from nnc.compiler.operation import Kind, Reference, find
from nnc.compiler.pipeline import read
from nnc.compiler.source import Span
from nnc.runtime.data.dataset import open_data
from nnc.runtime.data.splits import Rows, bootstrap, split_rows
from nnc.runtime.ensemble import Ensemble
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.files import read_arrays
from nnc.runtime.kernels import Randomness
from nnc.runtime.members import parts
from nnc.runtime.train import EnsembleResult

Array = np.ndarray[Any, Any]

IRIS = """
let epochs = 8
network(measures: float32[4]) {
  return kind = measures -> dense(8, bias=false) -> batch_norm -> relu -> dropout(0.1) -> dense(3) -> softmax
}
data {
  source   = iris()
  measures = columns(all, except=[species]) -> impute(median) -> standardize
  label    = column(species)
  split    = SPLIT
}
train {
  loss      = cross_entropy(kind, label)
  optimizer = adam(lr=0.02)
  schedule  = cosine
  batch     = 16
  epochs    = epochs
  stop      = early_stopping(monitor=val.loss, patience=3)
  metrics   = [accuracy, confusion_matrix]
  seed      = 3
  ENSEMBLE
}
export { outputs = [kind, label] }
"""
BAGGING = IRIS.replace("SPLIT", "random(train=60%, validation=20%, test=20%, stratify=label, seed=1)").replace("ENSEMBLE", "ensemble = bagging(4)")
FOLDS = IRIS.replace("SPLIT", "k_fold(4, test=20%, stratify=label, seed=1)").replace("ENSEMBLE", "")
SPECS = {"bagging": BAGGING, "k_fold": FOLDS}

# Targets far from 0, so that the folds' means and deviations matter.
REGRESSION = """
network(x: float32[1]) {
  return y = x -> dense(6) -> tanh -> dense(1)
}
data {
  source = table(x=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], t=[100, 130, 110, 150, 170, 155, 190, 230, 220, 250, 400, 275])
  x = column(x) -> min_max(-1, 1)
  t = column(t) -> standardize
  split = k_fold(3, test=25%, seed=2)
}
train {
  loss = mse(y, t)
  optimizer = adam(lr=0.05)
  batch = 4
  epochs = 30
  metrics = [mae, rmse]
}
"""


def ensemble_of(text: str, folder: Path) -> EnsembleResult:
    result = api.train(write(folder / "spec.nn", text), out=folder / "run")
    assert isinstance(result, EnsembleResult)
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[EnsembleResult, Path]]:
    found = {}
    for name, text in SPECS.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = ensemble_of(text, folder), folder
    return found


def served(model: Any, raw: dict[str, Array], outputs: tuple[str, ...] = ()) -> dict[str, Array]:
    """What one network answers for raw columns."""
    graph, variables = model.serving(outputs)
    return {k: a.copy() for k, a in Executor(graph, variables, Randomness(0), Arena()).run({n: raw[n] for n in graph.leaves("input")}).items()}


def opened(spec: Path) -> Any:
    from nnc.compiler.pipeline import analyse

    return open_data(analyse(read(spec), root=spec.parent), spec.parent)


# Rows


def fold_split(rows: int, k: int, fold: int, test: float = 0.0, classes: Array | None = None, seed: int = 0) -> dict[str, Array]:
    operation = find(Kind.SPLIT, "k_fold")
    assert operation is not None
    stratify = Reference("label", Span(0, 1)) if classes is not None else None
    bound = BoundOperation(operation, operation.params(folds=k, test=test, seed=seed, stratify=stratify))
    return split_rows(bound, Rows(rows, str, classes=classes), fold).rows


@pytest.mark.parametrize(("rows", "k", "test"), [(10, 2, 0.0), (11, 3, 0.0), (100, 7, 0.2), (5, 5, 0.0), (23, 4, 0.5)])
def test_folds_are_disjoint_and_cover(rows: int, k: int, test: float) -> None:
    splits = [fold_split(rows, k, fold, test) for fold in range(k)]
    held = splits[0].get("test", np.array([], int))
    assert len(held) == rows - round(rows * (1 - test))
    validated = np.concatenate([s["validation"] for s in splits])
    assert sorted([*validated.tolist(), *held.tolist()]) == list(range(rows))
    sizes = [len(s["validation"]) for s in splits]
    assert max(sizes) - min(sizes) <= 1
    for s in splits:
        assert sorted(np.concatenate([*s.values()]).tolist()) == list(range(rows))
        np.testing.assert_array_equal(s.get("test", held), held)


def test_folds_keep_the_shares_of_classes() -> None:
    classes = np.array(["a"] * 50 + ["b"] * 21 + ["c"] * 9, object)
    splits = [fold_split(80, 4, fold, 0.1, classes) for fold in range(4)]
    for kind in "abc":
        counts = [int((classes[s["validation"]] == kind).sum()) for s in splits]
        assert max(counts) - min(counts) <= 1, (kind, counts)
        assert (classes[splits[0]["test"]] == kind).sum() == round((classes == kind).sum() * 0.1)
    assert splits[0]["validation"].tolist() != fold_split(80, 4, 0, 0.1, classes, seed=1)["validation"].tolist()


def test_a_bootstrap_sample() -> None:
    rows = np.arange(1000, 2000)
    drawn = bootstrap(rows, 7)
    assert len(drawn) == 1000
    assert set(drawn) <= set(rows)
    assert 0.60 < len(set(drawn)) / 1000 < 0.66  # 1 - 1/e = 0.632
    np.testing.assert_array_equal(drawn, bootstrap(rows, 7))
    assert drawn.tolist() != bootstrap(rows, 8).tolist()


# Members


@pytest.mark.parametrize("name", SPECS)
def test_members_differ(name: str, trained: Any) -> None:
    result, folder = trained[name]
    weights = [m.parameters["kind/dense/weight"] for m in result.model.members]
    assert all(not np.array_equal(a, b) for i, a in enumerate(weights) for b in weights[:i])
    rows = [m.splits["train"].tolist() for m in result.members]
    assert all(a != b for i, a in enumerate(rows) for b in rows[:i])
    fresh = [api.compile(folder / "spec.nn").init(m.seed).parameters["kind/dense/weight"].copy() for m in result.model.members]
    assert all(not np.array_equal(a, b) for i, a in enumerate(fresh) for b in fresh[:i]), "initial weights of their own"


def test_bagging_learns_once_and_folds_learn_apart(trained: Any) -> None:
    """A fold's figures come from its own training rows, so that no validation row has a say in them."""
    bagging, folds = trained["bagging"][0], trained["k_fold"][0]
    assert bagging.model.alike
    assert "data/measures/standardize/mean" in bagging.model.known
    assert not folds.model.alike
    raw = opened(trained["k_fold"][1] / "spec.nn").raws["measures"]
    for member, known in zip(folds.model.members, folds.members, strict=True):
        own = raw[known.splits["train"]].astype(np.float64)
        np.testing.assert_allclose(member.learned["data/measures/standardize/mean"], own.mean(0), rtol=1e-6)
        np.testing.assert_allclose(member.learned["data/measures/standardize/std"], own.std(0), rtol=1e-6)


def test_members_keep_their_best_epoch(trained: Any) -> None:
    for result, folder in trained.values():
        for index, member in enumerate(result.members, 1):
            losses = [record["val"]["loss"] for record in history(folder / "run" / "members" / str(index))]
            assert member.figures["validation"]["loss"] == min(losses)


# The average


def test_the_average_of_prepared_rows(trained: Any) -> None:
    model = trained["bagging"][0].model
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("f4")
    each = [m.predict({"measures": x})["kind"] for m in model.members]
    np.testing.assert_allclose(model.predict({"measures": x})["kind"], np.mean(each, axis=0), rtol=1e-6)
    assert np.abs(each[0] - each[1]).max() > 1e-3
    with pytest.raises(SpecError, match="E513") as refusal:
        trained["k_fold"][0].model.predict({"measures": x})
    assert "serve" in str(refusal.value)


@pytest.mark.parametrize("name", SPECS)
def test_the_average_of_raw_rows(name: str, trained: Any) -> None:
    """Outputs are the mean of the members' outputs, and the decision is that of the mean."""
    result, folder = trained[name]
    raw = opened(folder / "spec.nn").raws
    each = [served(m, raw, ("kind",))["kind"] for m in result.model.members]
    found = result.model.serve(raw)
    np.testing.assert_allclose(found["kind"], np.mean(each, axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found["label"], np.mean(each, axis=0).argmax(1))


def test_the_decision_is_not_a_vote() -> None:
    """Two members lean to class 0, one is sure of class 1."""
    text = "network(x: float32[1]) { return y = x -> dense(2) -> softmax }\n"
    text += 'data { source = table(x=[0, 1], t=["no", "yes"])  x = column(x)  t = column(t) -> category }\n'
    text += "train { loss = cross_entropy(y, t)  optimizer = sgd(0.1)  batch = 1  epochs = 1 }"
    program = api.compile(text)
    members = [program.init(i) for i in range(3)]
    for member, bias in zip(members, ([0.2, 0], [0.2, 0], [0, 5.0]), strict=True):
        member.parameters["y/dense/weight"][...] = 0
        member.parameters["y/dense/bias"][...] = bias
    assert Ensemble(members).serve({"x": np.zeros((1, 1), "f4")})["t"].tolist() == ["yes"]


def test_units_of_the_column(tmp_path: Path) -> None:
    """Each fold has its own mean and deviation of the target; the average is taken in the column's units, and metrics are in them."""
    result = ensemble_of(REGRESSION, tmp_path)
    model, data = result.model, opened(tmp_path / "spec.nn")
    assert len({float(m.learned["data/t/standardize/mean"][0]) for m in model.members}) == 3
    each = np.array([served(m, data.raws)["y"] for m in model.members])
    average = each.mean(0)
    np.testing.assert_allclose(model.serve(data.raws)["y"], average, rtol=1e-5)
    test, t = result.members[0].splits["test"], data.raws["t"]
    assert result.figures["test"]["mae"] == pytest.approx(np.abs(average - t)[test].mean(), rel=1e-5)
    std = float(model.members[0].learned["data/t/standardize/std"][0])
    assert result.figures["test"]["loss"] == pytest.approx((((average - t)[test] / std) ** 2).mean(), rel=1e-4)
    held = np.concatenate([(each[i] - t)[m.splits["validation"]] for i, m in enumerate(result.members)])
    assert result.figures["out_of_fold"]["mae"] == pytest.approx(np.abs(held).mean(), rel=1e-5)
    assert result.figures["out_of_fold"]["rmse"] == pytest.approx(np.sqrt((held**2).mean()), rel=1e-5)


# Figures


def test_mean_and_spread(trained: Any) -> None:
    for result, _ in trained.values():
        for split in ("train", "validation", "test"):
            for name in ("loss", "accuracy"):
                values = np.array([m.figures[split][name] for m in result.members])
                assert result.spread[split][name].mean == pytest.approx(values.mean())
                assert result.spread[split][name].std == pytest.approx(values.std(ddof=1))
                assert values.std() > 0 or split != "train"
        assert "confusion_matrix" not in result.spread["test"]


def cross_entropy(p: Array, label: Array) -> float:
    return float(-np.log(p[np.arange(len(p)), label].astype(np.float64)).mean())


def test_out_of_fold(trained: Any) -> None:
    """Every row is judged by the member that has not seen it."""
    result, folder = trained["k_fold"]
    raw = opened(folder / "spec.nn").raws
    found, labels = [], []
    for member, known in zip(result.model.members, result.members, strict=True):
        rows = known.splits["validation"]
        found.append(served(member, {k: a[rows] for k, a in raw.items()}, ("kind",))["kind"])
        labels.append(raw["label"][rows])
    p, label = np.concatenate(found), np.concatenate(labels)
    assert len(p) == 120
    assert result.figures["out_of_fold"]["loss"] == pytest.approx(cross_entropy(p, label), rel=1e-5)
    assert result.figures["out_of_fold"]["accuracy"] == pytest.approx((p.argmax(1) == label).mean())
    assert set(result.figures) == {"test", "out_of_fold"}


def test_out_of_bag(trained: Any) -> None:
    """Every training row is judged by the average of the members that have not drawn it; rows that all have drawn are left out."""
    result, folder = trained["bagging"]
    data = opened(folder / "spec.nn")
    pool = data.dataset()[1].splits["train"]
    raw = data.raws
    each = np.array([served(m, raw, ("kind",))["kind"] for m in result.model.members], np.float64)
    unseen = np.array([~np.isin(pool, m.splits["train"]) for m in result.members])
    judged = unseen.any(0)
    assert 0 < judged.sum() < len(pool)
    p = (each[:, pool] * unseen[:, :, None]).sum(0)[judged] / unseen.sum(0)[judged, None]
    label = raw["label"][pool][judged]
    assert result.figures["out_of_bag"]["loss"] == pytest.approx(cross_entropy(p, label), rel=1e-5)
    assert result.figures["out_of_bag"]["accuracy"] == pytest.approx((p.argmax(1) == label).mean())
    whole = each.mean(0)[pool]
    assert result.figures["train"]["loss"] == pytest.approx(cross_entropy(whole, raw["label"][pool]), rel=1e-5)


def test_members_that_are_sure_and_right_have_a_finite_loss() -> None:
    """sigmoid(60) is 1 in float64 as well: 0 ln 0 is 0."""
    text = "network(x: float32[1]) { return y = x -> dense(1) -> sigmoid }\n"
    text += "data { source = table(x=[1, 2], t=[1, 1])  x = column(x)  t = column(t) }\n"
    text += "train { loss = binary_cross_entropy(y, t)  optimizer = sgd(0.1)  batch = 1  epochs = 1  metrics = [log_loss] }"
    members = [api.compile(text).init(i) for i in range(2)]
    for member in members:
        member.parameters["y/dense/weight"][...] = 60
    from nnc.runtime.metrics import Evaluator

    figures = Evaluator.of(Ensemble(members)).figures([{"x": np.array([[1.0], [2.0]], "f4"), "t": np.ones((2, 1), "f4")}])
    assert figures["loss"] == pytest.approx(0, abs=1e-12)
    assert figures["log_loss"] == pytest.approx(0, abs=1e-12)


def test_overlapping_windows_have_nothing_out_of_bag(tmp_path: Path) -> None:
    """Windows share rows: one that was not drawn is not unseen. Where they do not overlap, it is, and folds can be made of them."""
    values = ", ".join(f"{np.sin(i / 2):.3f}" for i in range(40))
    text = f"""
network(history: float32[4, 1]) {{ return y = history -> flatten -> dense(1) }}
data {{
  source  = table(v=[{values}])
  series  = column(v) -> standardize
  history = series -> window(4, stride=STRIDE)
  next    = series -> window(1, offset=4, stride=STRIDE)
  split   = ordered(train=80%, test=20%)
}}
train {{ loss = mse(y, next)  optimizer = adam(0.01)  batch = 4  epochs = 2  ensemble = bagging(3)  metrics = [mae] }}
"""
    assert set(ensemble_of(text.replace("STRIDE", "1"), tmp_path).figures) == {"train", "test"}
    apart = text.replace("STRIDE", "4")
    assert set(ensemble_of(apart, tmp_path).figures) == {"train", "test", "out_of_bag"}
    folds = apart.replace("ordered(train=80%, test=20%)", "k_fold(3, test=20%)").replace("ensemble = bagging(3)", "")
    result = ensemble_of(folds, tmp_path)
    assert set(result.figures) == {"test", "out_of_fold"}
    data = opened(tmp_path / "spec.nn").dataset()[1]
    each = np.mean([served(m, data.raw)["y"] for m in result.model.members], axis=0)
    test = data.splits["test"]
    assert result.figures["test"]["mae"] == pytest.approx(np.abs(each - data.raw["next"].reshape(-1, 1))[test].mean(), rel=1e-5)


def test_full_batch_solvers_take_bootstrap_samples(tmp_path: Path) -> None:
    text = REGRESSION.replace("k_fold(3, test=25%, seed=2)", "ordered(train=75%, test=25%)").replace("adam(lr=0.05)", "lbfgs")
    text = text.replace("batch = 4", "batch = full\n  ensemble = bagging(3)").replace("epochs = 30", "epochs = 3")
    result = ensemble_of(text, tmp_path)
    assert all(len(m.splits["train"]) == 9 for m in result.members)
    assert result.figures["train"]["rmse"] < 100


@pytest.mark.parametrize("name", SPECS)
def test_weights_of_classes_and_samples(name: str, tmp_path: Path) -> None:
    """The ensemble's loss weighs as a member's does: with the weights of its rows, and the first member's of the classes."""
    text = SPECS[name].replace("cross_entropy(kind, label)", "cross_entropy(kind, label, class_weights=balanced, weights=w)")
    text = text.replace("except=[species]", "except=[species, petal_width]").replace("float32[4]", "float32[3]")
    result = ensemble_of(text.replace("  split ", "  w = column(petal_width)\n  split "), tmp_path)
    raw = opened(tmp_path / "spec.nn").raws
    test = result.members[0].splits["test"]
    p = result.model.serve({k: a[test] for k, a in raw.items()})["kind"]
    weights = next(a for n, a in result.model.members[0].learned.items() if n.endswith("class_weights"))
    label = raw["label"][test]
    each = -np.log(p[np.arange(len(p)), label].astype(np.float64)) * weights[label] * raw["w"][test].reshape(-1)
    assert result.figures["test"]["loss"] == pytest.approx(each.mean(), rel=1e-5)


# Files


@pytest.mark.parametrize("name", SPECS)
def test_the_exported_file_is_one_graph(name: str, trained: Any, tmp_path: Path) -> None:
    """Shared inputs, parameters by member, the mean of what the members' own files compute."""
    result, folder = trained[name]
    raw = {"measures": opened(folder / "spec.nn").raws["measures"]}
    report = result.model.export_onnx(tmp_path / "all.onnx", raw)
    assert report["passed"]
    proto = onnx.load(tmp_path / "all.onnx")
    assert [i.name for i in proto.graph.input] == ["measures"]
    assert [o.name for o in proto.graph.output] == ["kind", "label"]
    names = {i.name for i in proto.graph.initializer if not i.name.startswith("constant/")}
    assert {f"member_{i}/kind/dense_2/weight" for i in range(1, 5)} <= names
    starts = {n.split("/")[0] for n in names}
    assert starts == {"member_1", "member_2", "member_3", "member_4", *(["data"] if name == "bagging" else [])}
    assert any(node.name.startswith("member_2/kind/dense") for node in proto.graph.node)
    each = []
    for index, member in enumerate(result.model.members):
        member.export_onnx(tmp_path / f"{index}.onnx", raw)
        each.append(ort.InferenceSession(tmp_path / f"{index}.onnx", providers=["CPUExecutionProvider"]).run(["kind"], raw)[0])
    kind, label = ort.InferenceSession(tmp_path / "all.onnx", providers=["CPUExecutionProvider"]).run(["kind", "label"], raw)
    np.testing.assert_allclose(kind, np.mean(each, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(label, np.mean(each, axis=0).argmax(1))


@pytest.mark.parametrize("name", SPECS)
def test_commands_take_the_whole_ensemble(name: str, trained: Any, tmp_path: Path) -> None:
    result, folder = trained[name]
    run = folder / "run"
    found = json.loads(nnc("eval", run, "--format", "json").out)
    assert found.pop("members") == [m.figures for m in result.members]
    assert found == result.figures
    shown = nnc("eval", run).out
    assert "members" in shown
    assert "\u00b1" in shown
    header = "sepal_length,sepal_width,petal_length,petal_width,species\n"
    names = list(opened(folder / "spec.nn").data.schema.columns)
    rows = np.array([[5.1, 3.5, 1.4, 0.2], [6.0, 2.9, 4.5, 1.5], [6.3, 3.3, 6.0, 2.5]])
    lines = [",".join([*(f"{v}" for v in row), str(i)]) for i, row in enumerate(rows)]
    file = write(tmp_path / "new.csv", ",".join(names) + "\n" + "\n".join(lines) + "\n")
    assert len(names) == header.count(",") + 1
    assert nnc("predict", run, file, "-o", tmp_path / "out.npz").status == 0
    with np.load(tmp_path / "out.npz") as written:
        wanted = result.model.serve({"measures": rows.astype("f4")})
        np.testing.assert_allclose(written["kind"], wanted["kind"], rtol=1e-6)
        np.testing.assert_array_equal(written["label"], wanted["label"])
    labelled = json.loads(nnc("eval", run, "--data", file, "--format", "json").out)["data"]
    assert labelled["loss"] == pytest.approx(cross_entropy(wanted["kind"], np.arange(3)), rel=1e-5)
    assert nnc("export", run, "-o", tmp_path / "dist").status == 0
    assert json.loads((tmp_path / "dist" / "verification.json").read_text())["passed"]


@pytest.mark.parametrize("name", SPECS)
def test_save_and_load(name: str, trained: Any, tmp_path: Path) -> None:
    result, folder = trained[name]
    result.model.save(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == (folder / "run" / "ensemble.safetensors").read_bytes()
    again = api.load(tmp_path / "m.safetensors")
    assert isinstance(again, Ensemble)
    assert digest(again.known) == digest(result.model.known)
    raw = opened(folder / "spec.nn").raws
    np.testing.assert_array_equal(again.serve(raw)["kind"], result.model.serve(raw)["kind"])
    data = bytearray((tmp_path / "m.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(SpecError, match="E702"):
        api.load(tmp_path / "m.safetensors")


def test_build_writes_the_average_of_initial_weights(tmp_path: Path) -> None:
    assert nnc("build", write(tmp_path / "folds.nn", FOLDS), "-o", tmp_path / "build").status == 0
    proto = onnx.load(tmp_path / "build" / "folds" / "model.onnx")
    assert "member_4/kind/dense/weight_folded" in {i.name for i in proto.graph.initializer}
    assert "unchanged" in nnc("build", tmp_path / "folds.nn", "-o", tmp_path / "build").out


def test_what_an_ensemble_costs(tmp_path: Path) -> None:
    spec = write(tmp_path / "s.nn", FOLDS)
    assert "4 times: an ensemble" in nnc("check", spec).out
    said = nnc("summary", spec).out
    parameters = int(next(line.split()[1].replace(",", "") for line in said.splitlines() if line.startswith("parameters")))
    assert f"4 such networks, trained one after another: 4 times the time; the exported one has {4 * parameters:,} parameters" in said
    assert "such networks" not in nnc("summary", write(tmp_path / "one.nn", BAGGING.replace("ensemble = bagging(4)", ""))).out


def test_a_class_that_a_fold_lacks(tmp_path: Path) -> None:
    """`c` occurs once: the fold that validates it has two classes to learn from."""
    text = """
network(x: float32[3]) { return y = x -> dense(1) }
data {
  source = table(x=["a", "b", "a", "b", "c", "a"], t=[1, 2, 3, 4, 5, 6])
  x = column(x) -> one_hot
  t = column(t)
  split = k_fold(3)
}
train { loss = mse(y, t)  optimizer = adam  batch = 2  epochs = 1 }
"""
    refused(nnc("train", write(tmp_path / "s.nn", text), "-o", tmp_path / "run"), "E407", "a fold may lack one")
    assert nnc("train", write(tmp_path / "s.nn", text.replace("one_hot", 'one_hot(["a", "b", "c"])')), "-o", tmp_path / "run").status == 0


# Interrupted runs


def outcome(run: Path) -> tuple[str, list[Any]]:
    """The bytes of the ensemble, and what its members have recorded."""
    members = sorted((run / "members").iterdir())
    states = [digest(read_arrays(m / "last.safetensors")[0]) for m in members]
    return hashlib.sha256((run / "ensemble.safetensors").read_bytes()).hexdigest(), [*states, *(history(m) for m in members)]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("stops", [(1,), (48,), (49,), (110,), (3, 60, 30, 1)])
def test_interrupted_in_any_member(name: str, stops: tuple[int, ...], trained: Any, tmp_path: Path) -> None:
    """A member has at most 48 steps: 8 epochs of 6."""
    _, folder = trained[name]
    run = tmp_path / "run"
    for i, step in enumerate(stops):
        assert train_until(folder / "spec.nn", run, step, resume=i > 0)
        assert not (run / "ensemble.safetensors").exists()
        for said in (nnc("eval", run), nnc("export", run), nnc("predict", run, folder / "spec.nn", "-o", tmp_path / "out.csv")):
            refused(said, "E521", "--resume")
    said = nnc("train", folder / "spec.nn", "-o", run, "--resume")
    assert said.status == 0, said.err
    assert outcome(run) == outcome(folder / "run")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("call", "k"), [("write", 40), ("fsync", 60), ("replace", 75), ("open", 160), ("rmdir", 1), ("replace", 5)])
def test_killed_in_any_member(call: str, k: int, trained: Any, tmp_path: Path) -> None:
    """SIGKILL inside a save, of the third member among others; what was there before is a run of one network."""
    _, folder = trained["k_fold"]
    run = tmp_path / "run"
    if call == "rmdir":
        ensemble_of(BAGGING.replace("let epochs = 8", "let epochs = 1"), tmp_path)  # its folders are cleared
    done = subprocess.run([sys.executable, "-c", KILLED, call, str(k), "train", str(folder / "spec.nn"), "-o", str(run)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    begun = (run / "members" / "1" / "last.safetensors").is_file()
    said = nnc("train", folder / "spec.nn", "-o", run, *(["--resume"] if begun else []))
    assert said.status == 0, said.err
    assert outcome(run) == outcome(folder / "run")
    assert leftovers(run) == []


def test_a_finished_ensemble_resumes_to_itself(trained: Any, tmp_path: Path) -> None:
    for _, folder in trained.values():
        before = outcome(folder / "run")
        said = nnc("train", folder / "spec.nn", "-o", folder / "run", "--resume")
        assert said.status == 0, said.err
        assert outcome(folder / "run") == before


def test_what_an_ensemble_may_not_be_resumed_with(tmp_path: Path) -> None:
    text = BAGGING.replace("let epochs = 8", "let epochs = 1\nlet n = 3").replace("bagging(4)", "bagging(n)")
    spec, run = write(tmp_path / "spec.nn", text), tmp_path / "run"
    assert train_until(spec, run, 8, resume=False)
    refused(nnc("train", spec, "-o", run, "--resume", "--set", "n=4"), "E511", "--set")
    refused(nnc("train", write(tmp_path / "other.nn", text.replace("0.02", "0.03")), "-o", run, "--resume"), "E511", "the spec has changed")
    one = text.replace("ensemble = bagging(n)", "").replace("let n = 3", "")
    refused(nnc("train", write(tmp_path / "one.nn", one), "-o", run, "--resume"), "E511", "the spec has changed")
    second = run / "members" / "2"
    second.mkdir(exist_ok=True)
    (second / "last.safetensors").write_bytes((run / "members" / "1" / "last.safetensors").read_bytes())
    refused(nnc("train", spec, "-o", run, "--resume"), "E511", "another member's")


def test_a_run_of_one_network_takes_the_place_of_an_ensemble(tmp_path: Path) -> None:
    """And the other way round; files of the user's stay."""
    run = tmp_path / "run"
    ensemble_of(BAGGING.replace("let epochs = 8", "let epochs = 1"), tmp_path)
    write(run / "members" / "2" / "notes.txt", "mine")
    one = write(tmp_path / "one.nn", BAGGING.replace("let epochs = 8", "let epochs = 1").replace("ensemble = bagging(4)", ""))
    assert nnc("train", one, "-o", run).status == 0
    assert sorted(p.name for p in run.iterdir()) == [
        "best.safetensors", "figures.json", "last.safetensors", "manifest.json", "members", "metrics.jsonl", "plan.txt", "rows.json", "spec.nn",
        "verdict.json"]  # fmt: skip
    assert [str(p.relative_to(run)) for p in (run / "members").rglob("*") if p.is_file()] == ["members/2/notes.txt"]
    assert "accuracy" in nnc("eval", run).out
    refused(nnc("train", tmp_path / "spec.nn", "-o", run, "--resume"), "E511", "the spec has changed")
    ensemble_of(BAGGING.replace("let epochs = 8", "let epochs = 1"), tmp_path)
    assert not (run / "last.safetensors").exists()
    assert (run / "members" / "2" / "notes.txt").is_file()


def test_two_ensembles_are_equal(trained: Any, tmp_path: Path) -> None:
    ensemble_of(BAGGING, tmp_path)
    mine, other = (read_arrays(folder / "run" / "ensemble.safetensors")[0] for folder in (tmp_path, trained["bagging"][1]))
    assert digest(mine) == digest(other)
    assert len([*parts(opened(tmp_path / "spec.nn"))]) == 4
