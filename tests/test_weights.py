"""Weights of samples and of classes: what a loss with them is, and what a row without one can still do."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from networks import check_gradients, kink_margin, spec, spread
from runs import nnc, refused, write
from test_losses_metrics import LOSSES, case, classes, reference

import nnc as api

assert reference is not None  # the fixture

Array = np.ndarray[Any, Any]
WEIGHTS = np.array([0.5, 0.0, 3.0, 1.0, 1.7])


def weighted(values: Any) -> tuple[Any, dict[str, Any]]:
    """A model whose loss is weighted, and a batch of five."""
    loss, head, shape, target = values
    dims = ", ".join(map(str, shape))
    body = f"  h = x -> dense({np.prod(shape)}) -> reshape([{dims}])\n  return output = h -> {head}"
    call = loss.call("output", "y")
    model = api.compile(spec(body, loss=f"{call[:-1]}, weights=w)")).init(1)
    for seed in range(50):
        random = np.random.default_rng(seed)
        spread(model, seed)
        batch = {"x": random.normal(size=(5, 3)), "y": target(random, 5, shape), "w": WEIGHTS}
        if kink_margin(model, batch) > 1e-3:
            return model, batch
    raise AssertionError("every batch lies at a kink")


@pytest.mark.parametrize("values", LOSSES, ids=case)
def test_a_weighted_losss_gradient_is_that_of_finite_differences(values: Any) -> None:
    check_gradients(*weighted(values))


@pytest.mark.parametrize("values", LOSSES, ids=case)
def test_a_weighted_loss_is_torchs_rows_times_the_weights(values: Any, reference: ModuleType) -> None:
    """1/n sum w_i loss_i, each loss_i torch's of a batch of one row; rmse is the root of that for mse."""
    loss, head, shape, target = values
    model, batch = weighted(values)
    p = reference.tensors(model.parameters)
    z = reference.dense(reference.under("h/dense", p), reference.tensor(batch["x"]), 0).reshape(-1, *shape)
    name, _, arguments = head.partition(" ")[0].partition("(")
    a = reference.LAYERS[name](p, z, **({"temperature": 2.0} if arguments else {}))
    y = reference.tensor(batch["y"])
    y = y if target is classes else y.double()
    word = "mse" if loss.word == "rmse" else loss.word
    wanted = sum(w * reference.LOSSES[word](a[i : i + 1], y[i : i + 1], **loss.arguments) for i, w in enumerate(WEIGHTS)) / 5
    wanted = wanted.sqrt() if loss.word == "rmse" else wanted
    wanted.backward()
    objective, slopes = model.gradients(batch)
    assert objective == pytest.approx(wanted.item(), rel=1e-10)
    assert model.loss(batch) == pytest.approx(wanted.item(), rel=1e-10)
    for role, tensor in p.items():
        np.testing.assert_allclose(slopes[role], tensor.grad.numpy(), rtol=1e-9, atol=1e-10 * float(tensor.grad.abs().max()), err_msg=role)


def test_weights_from_python_may_be_a_column_and_must_be_given() -> None:
    model = api.compile(spec("  return output = x -> dense(1)", loss="mse(output, y, weights=w)")).init(0)
    batch = {"x": np.ones((2, 3)), "y": np.zeros((2, 1))}
    plain = model.loss(batch | {"w": np.array([1, 3])})
    assert model.loss(batch | {"w": np.array([[1.0], [3.0]])}) == plain
    assert set(model.predict(batch)) == {"output"}
    for wrong, words in ((None, "no `w`"), (np.array([1.0, -2.0]), "-2 in row 1"), (np.array([np.nan, 1.0]), "nan in row 0"),
                         (np.array([1.0, np.inf]), "inf in row 1"), (np.ones((2, 2)), "[2]"), (np.ones(3), "3 samples")):  # fmt: skip
        for use in (model.loss, model.gradients, model.step):
            with pytest.raises(api.SpecError, match="E513") as refusal:
                use(batch | ({} if wrong is None else {"w": wrong}))
            assert words in str(refusal.value)


# With a data section

TABLE = """
network(x: float32[1]) { return p = x -> dense(8) -> tanh -> dense(3) -> softmax }
data {
  source = csv("rows.csv")
  x = column(x)
  k = column(k) -> category(["a", "b", "c"])
  w = column(w)
  split = ordered(train=75%, test=25%)
}
train { loss = cross_entropy(p, k, weights=w)  optimizer = adam(lr=0.01)  batch = 8  epochs = 3  metrics = [accuracy]  precision = float64 }
"""


def rows(folder: Path, n: int = 60) -> tuple[Array, list[str], Array]:
    random = np.random.default_rng(0)
    x, k = random.normal(size=n), [str(c) for c in random.choice(list("abc"), n, p=[0.7, 0.2, 0.1])]
    w = random.integers(0, 4, n) / 2
    write(folder / "rows.csv", "x,k,w\n" + "".join(f"{a!r},{c},{v}\n" for a, c, v in zip(x.tolist(), k, w, strict=True)))
    return x, k, w


def test_weights_weigh_training_and_the_loss_of_every_split_and_predict_needs_none(tmp_path: Path) -> None:
    x, k, w = rows(tmp_path)
    result = api.train(write(tmp_path / "a.nn", TABLE), out=tmp_path / "run")
    p = result.model.predict({"x": x[:, None]})["p"]
    index = np.array(["abc".index(c) for c in k])
    each = -np.log(p[np.arange(60), index])
    for split, part in (("train", slice(0, 45)), ("test", slice(45, 60))):
        assert result.figures[split]["loss"] == pytest.approx(float((w * each)[part].mean()), rel=1e-9)
        assert result.figures[split]["accuracy"] == pytest.approx(float((p.argmax(1) == index)[part].mean())), "metrics are not weighted"
    said = nnc("eval", tmp_path / "run", "--data", tmp_path / "rows.csv", "--format", "json")
    assert next(iter(json.loads(said.out).values()))["loss"] == pytest.approx(float((w * each).mean()), rel=1e-9)
    write(tmp_path / "new.csv", "x\n0.5\n-1\n")
    assert nnc("predict", tmp_path / "run", tmp_path / "new.csv", "-o", tmp_path / "out.csv").status == 0
    assert nnc("export", tmp_path / "run", "-o", tmp_path / "onnx").status == 0
    refused(nnc("eval", tmp_path / "run", "--data", tmp_path / "new.csv"), "E402")
    negative = (tmp_path / "rows.csv").read_text("utf-8").splitlines()
    write(tmp_path / "bad.csv", "\n".join([*negative[:3], negative[3].rpartition(",")[0] + ",-1", *negative[4:]]) + "\n")
    refused(nnc("eval", tmp_path / "run", "--data", tmp_path / "bad.csv"), "E415", "-1 in line 4 of bad.csv")


def test_a_weight_of_two_is_a_row_twice(tmp_path: Path) -> None:
    """Full batches: the sums are the same, and so is every step, once the rate makes up for the count that divides."""
    text = """
network(x: float32[1]) { return y = x -> dense(3) -> tanh -> dense(1) }
data { source = table(x=[%s], t=[%s], w=[%s])  x = column(x)  t = column(t)  w = column(w) }
train { loss = mse(y, t, weights=w)  optimizer = sgd(lr=%r)  batch = full  epochs = 20  precision = float64  shuffle = false }
"""
    found = []
    for name, x, w, lr in (("once", (0, 1, 2), (1, 2, 0), 0.3), ("twice", (0, 1, 1), (1, 1, 1), 0.3)):
        listed = ", ".join(map(str, x)), ", ".join(str(v * v) for v in x), ", ".join(map(str, w))
        found.append(api.train(write(tmp_path / f"{name}.nn", text % (*listed, lr)), out=tmp_path / name).model)
    for name, array in found[0].parameters.items():
        np.testing.assert_allclose(array, found[1].parameters[name], rtol=1e-10, err_msg=name)


# Balanced class weights


BALANCED = TABLE.replace("weights=w", "class_weights=balanced").replace("  w = column(w)\n", "")


def test_balanced_weights_count_the_training_rows_and_stay_with_the_model(tmp_path: Path) -> None:
    from sklearn.utils.class_weight import compute_class_weight

    x, k, _ = rows(tmp_path)
    assert len(set(k[:45])) == 3
    result = api.train(write(tmp_path / "a.nn", BALANCED), out=tmp_path / "run")
    table = compute_class_weight("balanced", classes=np.array(list("abc")), y=np.array(k[:45]))
    index = np.array(["abc".index(c) for c in k])
    each = table[index] * -np.log(result.model.predict({"x": x[:, None]})["p"][np.arange(60), index])
    assert result.figures["train"]["loss"] == pytest.approx(float(each[:45].mean()), rel=1e-9)
    assert result.figures["test"]["loss"] == pytest.approx(float(each[45:].mean()), rel=1e-9)
    loaded = api.load(tmp_path / "run" / "last.safetensors")
    assert loaded.loss({"x": x[45:, None], "k": index[45:]}) == pytest.approx(float(each[45:].mean()), rel=1e-9)
    assert loaded.program.experiment.data is not None
    write(tmp_path / "few.csv", "x,k\n0.5,c\n")
    said = nnc("eval", tmp_path / "run", "--data", tmp_path / "few.csv", "--format", "json")
    p = result.model.predict({"x": np.array([[0.5]])})["p"]
    assert next(iter(json.loads(said.out).values()))["loss"] == pytest.approx(float(table[2] * -np.log(p[0, 2])), rel=1e-9)
    fresh = api.compile(tmp_path / "a.nn").init()
    first = fresh.predict({"x": x[:1, None]})["p"][0, index[0]]
    assert fresh.loss({"x": x[:1, None], "k": index[:1]}) == pytest.approx(float(table[index[0]] * -np.log(first)))
    check_gradients(fresh, {"x": x[:7, None], "k": index[:7]})


def test_a_balanced_loss_is_the_one_of_the_list_it_stands_for(tmp_path: Path) -> None:
    """Indices, one-hot rows, and 0s and 1s: the figures of `balanced` are those of the weights written down."""
    rows(tmp_path)
    text = (tmp_path / "rows.csv").read_text("utf-8").splitlines()[1:46]
    share = {c: 45 / (3 * sum(f",{c}," in line for line in text)) for c in "abc"}
    listed = ", ".join(repr(share[c]) for c in "abc")
    one_hot = BALANCED.replace("category(", "one_hot(")
    forms = {
        "index": (BALANCED, listed),
        "one_hot": (one_hot, listed),
        "binary": (one_hot.replace("softmax", "sigmoid").replace("cross_entropy", "binary_cross_entropy"), f"{135 / (2 * 90)!r}, {135 / (2 * 45)!r}"),
    }
    for name, (spec_text, weights) in forms.items():
        found = []
        for kind, form in (("balanced", spec_text), ("list", spec_text.replace("balanced", f"[{weights}]"))):
            found.append(api.train(write(tmp_path / f"{name}_{kind}.nn", form), out=tmp_path / f"{name}_{kind}").figures)
        for split in ("train", "test"):
            assert found[0][split]["loss"] == pytest.approx(found[1][split]["loss"], rel=1e-9), name


def test_a_class_without_training_rows_weighs_one(tmp_path: Path) -> None:
    text = """
network(x: float32[1]) { return p = x -> dense(3) -> softmax }
data { source = table(x=[1, 2, 3, 4], k=["a", "a", "b", "c"])  x = column(x)  k = column(k) -> category(["a", "b", "c"])  split = ordered(train=75%, test=25%) }
train { loss = cross_entropy(p, k, class_weights=balanced)  optimizer = sgd(lr=0.1)  batch = 3  epochs = 1 }
"""
    model = api.train(write(tmp_path / "a.nn", text), out=tmp_path / "run").model
    np.testing.assert_allclose(model.learned["data/k/loss_0/class_weights"], [0.75, 1.5, 1.0])


def test_a_file_without_the_class_weights_is_damaged(tmp_path: Path) -> None:
    from nnc.runtime.files import read_arrays, write_arrays

    rows(tmp_path)
    model = api.compile(write(tmp_path / "a.nn", BALANCED)).init()
    model.save(tmp_path / "m.safetensors")
    arrays, about = read_arrays(tmp_path / "m.safetensors")
    write_arrays(tmp_path / "m.safetensors", {name: a for name, a in arrays.items() if "class_weights" not in name}, about)
    with pytest.raises(api.SpecError, match="E702"):
        api.load(tmp_path / "m.safetensors")
