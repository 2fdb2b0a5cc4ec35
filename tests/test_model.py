"""The Python interface: compile, init, parameters, predict, loss, gradients, step, save, load, export, train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from runs import DIGITS, TINY, digest, write

import nnc
from nnc import SpecError

Array = np.ndarray[Any, Any]

FREE = """
let width = 4
network(x: float32[3]) {
  h = x -> dense(width) -> batch_norm -> relu -> dropout(0.5)
  return y = h -> dense(2) -> softmax
}
train { loss = cross_entropy(y, label)  optimizer = adam(lr=0.01)  penalty = l2(0.1)  batch = 4  epochs = 1  seed = 3  precision = float64 }
"""


def batch(n: int = 8, seed: int = 0) -> dict[str, Array]:
    drawn = np.random.default_rng(seed)
    return {"x": drawn.normal(size=(n, 3)), "label": drawn.integers(0, 2, n)}


# compile and init


def test_compile_from_text_and_from_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "free.nn", FREE)
    models = [nnc.compile(source).init(seed=1) for source in (FREE, path, str(path))]
    assert len({digest(model.state()) for model in models}) == 1


def test_constants_replace_lets() -> None:
    assert nnc.compile(FREE, width=7).init().parameters["h/dense/weight"].shape == (3, 7)
    for wrong in ({"width": "many"}, {"width": 1.5}, {"with": 3}, {"width": None}):
        with pytest.raises(SpecError):
            nnc.compile(FREE, **wrong)


def test_refusals_carry_diagnostics(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as found:
        nnc.compile(FREE.replace("relu", "rleu").replace("adam", "adma"))
    assert [d.code for d in found.value.diagnostics] == ["E202", "E202"]
    assert "did you mean `relu`?" in str(found.value)
    with pytest.raises(SpecError, match="E401"):
        nnc.compile(tmp_path / "none.nn")


def test_the_seed_makes_the_parameters() -> None:
    program = nnc.compile(FREE)
    same, again, other, given = (digest(program.init(s).state()) for s in (1, 1, 2, None))
    assert same == again != other
    assert given == digest(program.init(3).state())


def test_initialising_depends_on_names_not_on_neighbours() -> None:
    """A parameter is drawn from the seed and its own name: another statement changes nothing in it."""
    one = nnc.compile(FREE).init(1)
    two = nnc.compile(FREE.replace("return y", "extra = x -> dense(4)\n  g = h + extra\n  return y").replace("= h -> dense(2)", "= g -> dense(2)")).init(1)
    np.testing.assert_array_equal(one.parameters["y/dense/weight"], two.parameters["y/dense/weight"])


# parameters


def test_parameters_can_be_read_and_assigned() -> None:
    model = nnc.compile(FREE).init(seed=1)
    assert list(model.parameters) == ["h/dense/weight", "h/dense/bias", "h/batch_norm/scale", "h/batch_norm/bias", "h/batch_norm/running_mean",
                                      "h/batch_norm/running_var", "y/dense/weight", "y/dense/bias"]  # fmt: skip
    model.parameters["y/dense/weight"] = np.zeros((4, 2))
    model.parameters["y/dense/bias"] = [0.0, np.log(3.0)]
    np.testing.assert_allclose(model.predict({"x": batch()["x"]})["y"], [[0.25, 0.75]] * 8)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("y/dense/bias", [1.0], ValueError),
        ("y/dense/bias", [[1.0, 2.0]], ValueError),
        ("y/dense/bias", 0.0, ValueError),
        ("y/dense/bias", [1.0, np.nan], ValueError),
        ("y/dense/bias", [1.0, np.inf], ValueError),
        ("y/dense/bias", ["a", "b"], ValueError),
        ("y/dense/bias", [1.0, 1j], ValueError),
        ("y/bias", [1.0, 2.0], KeyError),
    ],
)
def test_assignments_that_do_not_fit(name: str, value: Any, error: type[Exception]) -> None:
    model = nnc.compile(FREE).init()
    before = digest(model.state())
    with pytest.raises(error):
        model.parameters[name] = value
    assert digest(model.state()) == before
    with pytest.raises(TypeError):
        del model.parameters["y/dense/bias"]


def test_assigning_keeps_a_copy() -> None:
    model, mine = nnc.compile(FREE).init(), np.ones(2)
    model.parameters["y/dense/bias"] = mine
    mine[:] = 5
    assert model.parameters["y/dense/bias"].tolist() == [1, 1]


# predict, loss, gradients, step


def test_predict_is_inference() -> None:
    """No dropout: twice the same; running statistics: rows do not see each other; nothing changes."""
    model, x = nnc.compile(FREE).init(seed=1), batch()["x"]
    for _ in range(3):
        model.step(batch())
    before = digest(model.state())
    whole = model.predict({"x": x})["y"]
    np.testing.assert_array_equal(whole, model.predict({"x": x})["y"])
    np.testing.assert_allclose(np.concatenate([model.predict({"x": x[i : i + 1]})["y"] for i in range(8)]), whole, rtol=1e-12)
    assert digest(model.state()) == before
    whole[:] = 0
    assert model.predict({"x": x})["y"].sum() > 0, "the result is the caller's own"


def test_loss_is_inference_without_penalties() -> None:
    model, given = nnc.compile(FREE).init(seed=1), batch()
    model.step(given)
    before = digest(model.state())
    probabilities = model.predict({"x": given["x"]})["y"]
    by_hand = -np.mean(np.log(probabilities[np.arange(8), given["label"]]))
    assert model.loss(given) == pytest.approx(by_hand, rel=1e-12)
    assert isinstance(model.loss(given), float)
    assert digest(model.state()) == before


def test_gradients_change_no_state() -> None:
    """Twice the same, in training mode; then a step as if they had not been asked for."""
    model, other, given = nnc.compile(FREE).init(seed=1), nnc.compile(FREE).init(seed=1), batch()
    model.step(given)
    other.step(given)
    before = digest(model.state())
    first, second = model.gradients(given), model.gradients(given)
    assert first[0] == second[0]
    assert digest(first[1]) == digest(second[1])
    assert digest(model.state()) == before
    assert list(first[1]) == list(model.parameters)
    assert not first[1]["h/batch_norm/running_mean"].any()
    assert model.step(given) == other.step(given) == first[0]
    assert digest(model.state()) == digest(other.state())


def test_gradients_are_of_the_whole_objective() -> None:
    """Of the loss with dropout at this step and the penalty, by central differences."""
    text = FREE.replace("l2(0.1)", "l2(0.3)")
    model, given, h = nnc.compile(text).init(seed=1), batch(), 1e-5
    objective, found = model.gradients(given)
    for name, place in (("y/dense/weight", (1, 0)), ("h/dense/weight", (2, 3)), ("h/batch_norm/scale", (1,)), ("y/dense/bias", (0,))):
        values = []
        for sign in (1, -1):
            array = model.parameters[name].copy()
            array[place] += sign * h
            model.parameters[name] = array
            values.append(model.gradients(given)[0])
            array[place] -= sign * h
            model.parameters[name] = array
        assert found[name][place] == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5, abs=1e-8)
    without = nnc.compile(FREE.replace("penalty = l2(0.1)", "")).init(seed=1)
    weights = sum((model.parameters[n] ** 2).sum() for n in ("h/dense/weight", "y/dense/weight"))
    ratio = (objective - without.gradients(given)[0]) / weights
    assert ratio == pytest.approx(0.3, rel=1e-9) or ratio == pytest.approx(0.15, rel=1e-9)


def test_step_trains() -> None:
    model, given = nnc.compile(FREE.replace("dropout(0.5)", "dropout(0.1)").replace("l2(0.1)", "l2(1e-4)")).init(seed=1), batch(64)
    given["label"] = (given["x"][:, 0] > 0).astype(int)
    before, statistics = model.loss(given), model.parameters["h/batch_norm/running_mean"].copy()
    losses = [model.step(given) for _ in range(200)]
    assert model.loss(given) < 0.5 * before
    assert losses[-1] < 0.7 * losses[0]
    assert (model.parameters["h/batch_norm/running_mean"] != statistics).any()
    assert model.step_count == 200


def test_batches_of_any_size() -> None:
    model = nnc.compile(FREE).init(seed=1)
    for n in (1, 7, 64, 3, 200, 5, 2, 7):
        assert np.isfinite(model.step(batch(n)))
        assert model.predict({"x": batch(n)["x"]})["y"].shape == (n, 2)


@pytest.mark.parametrize("kind", [list, lambda x: x.astype("f2"), lambda x: x.astype("f8"), np.asfortranarray, lambda x: np.repeat(x, 2, axis=0)[::2]])
def test_arrays_of_any_kind(kind: Any) -> None:
    model, given = nnc.compile(FREE).init(seed=1), batch()
    exact = model.predict({"x": given["x"].astype("f2")})["y"]
    np.testing.assert_allclose(model.predict({"x": kind(given["x"].astype("f2").astype("f8"))})["y"], exact, rtol=1e-12)


X = np.zeros((4, 3))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "it has no `x`"),
        ({"x": X}, "it has no `label`"),
        ({"x": X[:, :2], "label": [0, 1, 0, 1]}, "[2], declared is [3]"),
        ({"x": X[0], "label": [0]}, "shape"),
        ({"x": X, "label": [0, 1]}, "2 samples"),
        ({"x": X[:0], "label": []}, "no sample"),
        ({"x": X, "label": [0, 1, 2, 1]}, "class 2"),
        ({"x": X, "label": [0, 1, -1, 1]}, "class -1"),
        ({"x": X, "label": ["a", "b", "a", "b"]}, "numbers"),
        ({"x": X.astype(object), "label": [0, 1, 0, 1]}, "numbers"),
        ({"x": X + 1j, "label": [0, 1, 0, 1]}, "numbers"),
        ({"x": [[0.0], [1.0, 2.0]], "label": [0, 1]}, "no array"),
        ({"x": 3.0, "label": [0]}, "x"),
    ],
)
def test_batches_that_do_not_fit(given: dict[str, Any], words: str) -> None:
    model = nnc.compile(FREE).init(seed=1)
    before = digest(model.state())
    for call in (model.loss, model.gradients, model.step):
        with pytest.raises(SpecError, match="E513") as found:
            call(given)
        assert words in str(found.value)
    assert digest(model.state()) == before


def test_free_targets_are_checked_against_each_batch() -> None:
    """One spec takes class indices or distributions, as the batch has them."""
    model, given = nnc.compile(FREE).init(seed=1), batch()
    one_hot = {"x": given["x"], "label": np.eye(2)[given["label"]]}
    indices = model.loss(given)
    assert model.loss(one_hot) == pytest.approx(indices, rel=1e-12)
    assert model.gradients(one_hot)[0] == pytest.approx(model.gradients(given)[0], rel=1e-12)
    assert model.loss(given) == indices
    with pytest.raises(SpecError):
        model.loss({"x": given["x"], "label": np.zeros((8, 5))})
    assert model.loss(given) == indices


def test_a_regression_target_may_lack_its_axis() -> None:
    text = "network(x: float32[3]) { return y = x -> dense(1) }\ntrain { loss = mse(y, t) optimizer = sgd(lr=0.1) batch = 4 epochs = 1 precision = float64 }"
    model, x, t = nnc.compile(text).init(seed=1), batch()["x"], np.arange(8.0)
    assert model.loss({"x": x, "t": t}) == pytest.approx(model.loss({"x": x, "t": t.reshape(8, 1)}))
    assert model.loss({"x": x, "t": t}) == pytest.approx(np.mean((model.predict({"x": x})["y"].reshape(-1) - t) ** 2))
    with pytest.raises(SpecError):
        model.loss({"x": x, "t": np.zeros((8, 3))})


def test_a_network_alone_predicts() -> None:
    model = nnc.compile("network(x: float32[3]) { return y = x -> dense(2) }").init(seed=1)
    assert model.predict({"x": X})["y"].shape == (4, 2)
    for call in (model.loss, model.gradients, model.step):
        with pytest.raises(SpecError, match="no train section"):
            call({"x": X})


# save and load


def test_saved_and_loaded(tmp_path: Path) -> None:
    """The loaded model is the same model: parameters, optimiser state and the count of steps."""
    model, given = nnc.compile(FREE, width=5).init(seed=1), batch()
    for _ in range(3):
        model.step(given)
    model.save(tmp_path / "m.safetensors")
    loaded = nnc.load(tmp_path / "m.safetensors")
    assert digest(loaded.state()) == digest(model.state())
    np.testing.assert_array_equal(loaded.predict({"x": given["x"]})["y"], model.predict({"x": given["x"]})["y"])
    assert [loaded.step(given) for _ in range(3)] == [model.step(given) for _ in range(3)]
    assert digest(loaded.state()) == digest(model.state())


def test_a_saved_model_needs_no_data(tmp_path: Path) -> None:
    """What the data steps learned is in the file: it exports without the spec and the data."""
    (tmp_path / "d.csv").write_text("x,w,t\n" + "".join(f"{i},{'ab'[i % 2]},{'no' if i < 6 else 'yes'}\n" for i in range(12)), "utf-8")
    text = """network(x: float32[1], w: float32[2]) { return y = concat(x, w) -> dense(2) -> softmax }
    data { source = csv("d.csv")  x = column(x) -> standardize  w = column(w) -> one_hot  t = column(t) -> category }
    train { loss = cross_entropy(y, t)  optimizer = sgd(lr=0.1)  batch = 4  epochs = 1 }
    export { outputs = [y, t] }"""
    model = nnc.compile(write(tmp_path / "s.nn", text)).init(seed=1)
    model.save(tmp_path / "m.safetensors")
    (tmp_path / "d.csv").unlink()
    (tmp_path / "s.nn").unlink()
    loaded = nnc.load(tmp_path / "m.safetensors")
    report = loaded.export_onnx(tmp_path / "m.onnx")
    assert report["passed"]
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    y, t = session.run(["y", "t"], {"x": np.array([[3.0], [9.0]], "f4"), "w": np.array(["b", "never seen"], object)})
    mean, std = np.mean(range(12)), np.std(range(12))
    wanted = loaded.predict({"x": (np.array([[3.0], [9.0]]) - mean) / std, "w": np.array([[0, 1], [0, 0]])})["y"]
    np.testing.assert_allclose(y, wanted, rtol=1e-5)
    assert t.tolist() == [["no", "yes"][i] for i in wanted.argmax(1)]


def test_a_run_is_loaded_like_a_saved_model(tmp_path: Path) -> None:
    result = nnc.train(write(tmp_path / "tiny.nn", TINY), out=tmp_path / "run")
    loaded = nnc.load(tmp_path / "run" / "best.safetensors")
    assert digest(dict(loaded.parameters.items())) == digest(dict(result.model.parameters.items()))
    with pytest.raises(SpecError, match="E401"):
        nnc.load(tmp_path / "none.safetensors")
    with pytest.raises(SpecError, match="E401"):
        nnc.load(tmp_path)


# train


def test_train_returns_the_model_and_its_figures(tmp_path: Path) -> None:
    result = nnc.train(write(tmp_path / "digits.nn", DIGITS), out=tmp_path / "run", epochs=4)
    assert list(result.figures) == ["train", "validation", "test"]
    assert all(set(found) == {"loss", "accuracy"} for found in result.figures.values())
    rows = result.data.splits["test"]
    outputs = result.model.predict({"image": result.data.arrays["image"][rows]})["probabilities"]
    labels = result.data.arrays["label"][rows]
    assert result.figures["test"]["accuracy"] == pytest.approx(np.mean(outputs.argmax(1) == labels))
    assert result.model.loss({"image": result.data.arrays["image"][rows], "label": labels}) == pytest.approx(result.figures["test"]["loss"], rel=1e-5)


def test_two_programs_do_not_disturb_each_other() -> None:
    one, two = nnc.compile(FREE).init(seed=1), nnc.compile(FREE).init(seed=1)
    alone = nnc.compile(FREE).init(seed=1)
    for i in range(4):
        one.step(batch(seed=i))
        two.predict({"x": batch(seed=i)["x"]})
        alone.step(batch(seed=i))
        two.step(batch(seed=i + 10))
    assert digest(one.state()) == digest(alone.state())
