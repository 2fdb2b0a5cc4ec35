"""Tables that are updated by rows: the same as a dense update where that is promised, and what `lazy` promises where it is not."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from networks import spec, spread
from runs import at_step, raising, write

import nnc
from nnc.compiler import sparse
from nnc.compiler.ir import concrete
from nnc.compiler.plan import plan
from nnc.runtime.executor import Executor
from nnc.runtime.train import Interrupted, train

Array = np.ndarray[Any, Any]
ROWS = 300
TWICE = f"""
shared block word(i) {{ return e = i -> embedding({ROWS}, 3) }}
network(x: int64[4], u: int64, z: float32[2]) {{
  a = x -> word -> flatten
  b = u -> word
  c = u -> embedding({ROWS}, 2)
  return output = concat(a, b, c, z) -> dense(6) -> tanh -> dense(2)
}}
train {{ loss = mse(output, y)  optimizer = OPTIMIZER  batch = 4  epochs = 1  precision = float64  KEYS }}
"""


def batch(n: int, seed: int) -> dict[str, Array]:
    """Indices of which many come twice."""
    random = np.random.default_rng(seed)
    x, u = random.integers(0, 12, (n, 4)) ** 2, random.integers(0, 5, n)
    return {"x": x, "u": u, "z": random.normal(size=(n, 2)), "y": random.normal(size=(n, 2))}


def made(monkeypatch: pytest.MonkeyPatch, optimizer: str, keys: str = "", *, by_rows: bool) -> Any:
    monkeypatch.setattr(sparse, "LEAST_ELEMENTS", 0 if by_rows else 10**9)
    monkeypatch.setattr(sparse, "LEAST_SHARE", 1)
    model = nnc.compile(TWICE.replace("OPTIMIZER", optimizer).replace("KEYS", keys)).init(3)
    spread(model, 3)
    assert sum(bundle.sparse for bundle in model.program.bundles) == (2 if by_rows else 0)
    return model


@pytest.mark.parametrize("keys", ["", "clip = global_norm(0.5)", "clip = norm(0.2)", "clip = value(0.01)", "groups = [group(word, rate=0.3)]"])
@pytest.mark.parametrize("optimizer", ["sgd(lr=0.3)", "adagrad(lr=0.2)"])
def test_rows_give_what_a_dense_update_gives(optimizer: str, keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, rows = (made(monkeypatch, optimizer, keys, by_rows=by_rows) for by_rows in (False, True))
    start = dense.parameters["word/e/embedding/weight"].copy()
    for seed in range(6):
        given = batch(3 + seed % 2, seed)
        assert rows.step(given) == pytest.approx(dense.step(given), rel=1e-12)
        squares = [float(next(iter(m._executors["step"].programs.values())).outputs["gradient_square"]) for m in (dense, rows)]
        assert squares[0] == pytest.approx(squares[1], rel=1e-11)
        for name, array in dense.parameters.items():
            np.testing.assert_allclose(rows.parameters[name], array, rtol=1e-12, atol=1e-14, err_msg=name)
    moved = (start != rows.parameters["word/e/embedding/weight"]).any(axis=1)
    assert 0 < moved.sum() < 40


DENSE = [
    ("momentum(lr=0.1)", ""), ("adam", ""), ("sgd(lr=0.1, weight_decay=0.1)", ""), ("adagrad", "penalty = l2(0.1)"),
    ("sgd(lr=0.1)", "groups = [group(word, frozen=true), group(c, frozen=true)]"),
]  # fmt: skip


@pytest.mark.parametrize(("optimizer", "keys"), DENSE)
def test_where_rows_would_not_be_exact_the_update_is_dense(optimizer: str, keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "LEAST_ELEMENTS", 0)
    monkeypatch.setattr(sparse, "LEAST_SHARE", 1)
    program = nnc.compile(TWICE.replace("OPTIMIZER", optimizer).replace("KEYS", keys))._checked
    assert not any(bundle.sparse for bundle in program.bundles)


def test_small_tables_constraints_and_whole_epochs_are_dense() -> None:
    def by_rows(layer: str, batch: str = "4") -> bool:
        body = f"  return output = x -> {layer} -> dense(1)"
        program = nnc.compile(spec(body, inputs="x: int64", batch=batch))._checked
        return any(bundle.sparse for bundle in program.bundles)

    assert by_rows("embedding(10000, 8)")
    assert not by_rows("embedding(1000, 8)")
    assert not by_rows("embedding(10000, 8)", batch="5000")
    assert not by_rows("embedding(10000, 8)", batch="full")
    assert not by_rows("embedding(10000, 8, constraint=max_norm(1))")
    assert by_rows("embedding(10, 8, lazy=true, constraint=max_norm(1))", batch="full")


# Against torch


def embedded(optimizer: str, keys: str = "") -> Any:
    text = f"""
network(x: int64[3]) {{ return output = x -> embedding(20, 2, lazy=true) -> flatten -> dense(1, bias=false) }}
train {{ loss = mse(output, y)  optimizer = {optimizer}  batch = 4  epochs = 1  precision = float64  {keys} }}
"""
    return nnc.compile(text).init(1)


TABLE, DENSE_WEIGHT = "output/embedding/weight", "output/dense/weight"
TORCHS = {
    "sgd(lr=0.1)": lambda torch, p: torch.optim.SGD(p, lr=0.1),
    "adagrad(lr=0.1)": lambda torch, p: torch.optim.Adagrad(p, lr=0.1, eps=1e-7),
    "adam(lr=0.1, eps=1e-300)": lambda torch, p: torch.optim.SparseAdam(p, lr=0.1, eps=1e-300),  # its epsilon stands elsewhere
}


@pytest.mark.parametrize("optimizer", TORCHS)
def test_steps_by_rows_are_torchs_on_sparse_gradients(optimizer: str) -> None:
    torch: ModuleType = pytest.importorskip("torch", reason="torch is the outside reference of these tests and is not installed")
    model = embedded(optimizer, 'groups = [group("output/dense", frozen=true)]')
    table = torch.nn.Parameter(torch.tensor(model.parameters[TABLE]))
    weight = torch.tensor(model.parameters[DENSE_WEIGHT])
    other = TORCHS[optimizer](torch, [table])
    random = np.random.default_rng(0)
    for _ in range(8):
        x, y = random.integers(0, 20, (4, 3)) // 2 * 2, random.normal(size=(4, 1))
        rows = torch.nn.functional.embedding(torch.tensor(x), table, sparse=True)
        ((rows.reshape(4, 6) @ weight - torch.tensor(y)) ** 2).mean().backward()
        assert table.grad.is_sparse
        with torch.sparse.check_sparse_tensor_invariants():  # torch warns where nobody says whether it shall check
            other.step()
        other.zero_grad()
        model.step({"x": x, "y": y})
        np.testing.assert_allclose(model.parameters[TABLE], table.detach().numpy(), rtol=1e-9, atol=1e-12)


EVERY = ["momentum(lr=0.1)", "nesterov(lr=0.1)", "rmsprop(lr=0.1, centered=true, momentum=0.5)", "adamw(lr=0.1)", "adadelta", "nadam", "adamax", "amsgrad",
         "lion(lr=0.1, weight_decay=0.1)"]  # fmt: skip


@pytest.mark.parametrize("optimizer", EVERY)
def test_lazy_rows_that_rest_stay_and_the_others_move_as_ever(optimizer: str) -> None:
    """Batches that name the same rows in every step: for those the update is the dense one's."""
    lazy = embedded(optimizer)
    dense = nnc.compile(lazy.program.experiment.source.text.replace(", lazy=true", "")).init(1)
    start = lazy.parameters[TABLE].copy()
    random = np.random.default_rng(0)
    named = [2, 3, 5, 7]
    for _ in range(5):
        given = {"x": np.stack([random.permutation(named)[:3], *([named[:3], named[1:]] * 2)]), "y": random.normal(size=(5, 1))}
        assert lazy.step(given) == pytest.approx(dense.step(given), rel=1e-11)
        np.testing.assert_allclose(lazy.parameters[TABLE][named], dense.parameters[TABLE][named], rtol=1e-10)
    rest = np.setdiff1d(np.arange(20), named)
    np.testing.assert_array_equal(lazy.parameters[TABLE][rest], start[rest])
    assert (lazy.parameters[TABLE][named] != start[named]).all()


def test_a_lazy_row_has_no_velocity_while_it_rests() -> None:
    def after_a_pause(text: str) -> bool:
        model = nnc.compile(text).init(1)
        model.step({"x": np.full((2, 3), 4), "y": np.ones((2, 1))})
        between = model.parameters[TABLE][4].copy()
        model.step({"x": np.full((2, 3), 9), "y": np.ones((2, 1))})
        return bool((model.parameters[TABLE][4] != between).any())

    text = embedded("momentum(lr=0.1)").program.experiment.source.text
    assert not after_a_pause(text)
    assert after_a_pause(text.replace(", lazy=true", ""))


def test_a_constraint_and_decay_hold_for_the_rows_that_are_updated() -> None:
    model = embedded("sgd(lr=0.1, weight_decay=0.5)")
    text = model.program.experiment.source.text.replace("lazy=true", "lazy=true, constraint=max_norm(0.01)")
    model = nnc.compile(text).init(1)
    model.parameters[TABLE] = np.full((20, 2), 1.0)
    model.step({"x": np.array([[1, 2, 2]]), "y": np.ones((1, 1))})
    lengths = np.linalg.norm(model.parameters[TABLE], axis=1)
    np.testing.assert_allclose(lengths[[1, 2]], 0.01)
    np.testing.assert_allclose(lengths[[0, *range(3, 20)]], np.sqrt(2))


# What a step costs


@pytest.mark.parametrize("optimizer", ["sgd(lr=0.1)", "adagrad", "adam"])
def test_a_step_makes_no_array_of_the_tables_size(optimizer: str) -> None:
    rows, size, n = 50_000, 8, 16
    body = f"  return output = x -> embedding({rows}, {size}, lazy=true) -> dense(1)"
    program = nnc.compile(spec(body, inputs="x: int64", optimizer=optimizer, clip="global_norm(1.0)", precision="float32"))._checked
    step = program.step()
    made = plan(step.graph, n)
    whole = [v for v in made.steps if int(np.prod(concrete(v.shape, n), dtype=int)) >= rows]
    assert {made.places[v].kind for v in whole} == {"variable"}
    assert not made.copies
    assert made.arena_bytes < 100_000
    tables = 1 + sum(kind.shape == (rows, size) for kind in step.slots.values())
    assert tables * rows * size * 4 < program.training_bytes(n) < tables * rows * size * 4 + 200_000


def test_watching_a_table_makes_no_array_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, rows = (made(monkeypatch, "sgd(lr=0.1)", by_rows=by_rows) for by_rows in (False, True))
    found = []
    for model in (dense, rows):
        graph = model.program.watching().graph
        found.append({name: float(array) for name, array in Executor(graph, model.known, model.randomness, model.arena).run(batch(5, 1)).items()
                      if name.startswith("gradient/")})  # fmt: skip
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert all(ROWS not in v.shape for v in rows.program.watching().graph.order() if v.op != "variable")


def test_an_index_outside_the_table_changes_nothing() -> None:
    model = embedded("adagrad(lr=0.1)")
    model.step({"x": np.array([[1, 2, 3]]), "y": np.ones((1, 1))})
    before = {name: array.copy() for name, array in model.state().items()}
    with pytest.raises(nnc.SpecError, match="E515"):
        model.step({"x": np.array([[1, 2, 20]]), "y": np.ones((1, 1))})
    for name, array in model.state().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


# Saved and resumed

RUN = """
network(i: int64) { return y = i -> embedding(9000, 8) -> dense(1) }
data { source = csv("rows.csv")  i = column(i) -> category  t = column(t) }
train { loss = mse(y, t)  optimizer = adagrad(lr=0.1)  batch = 16  epochs = 3 }
"""


def test_a_training_by_rows_resumes_bit_for_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    write(tmp_path / "rows.csv", "i,t\n" + "".join(f"c{i},{t}\n" for i, t in zip(random.integers(0, 60, 100), random.normal(size=100), strict=True)))
    spec_path = write(tmp_path / "a.nn", RUN)
    whole = nnc.train(spec_path, out=tmp_path / "whole").model
    assert any(bundle.sparse for bundle in whole.program.bundles)
    with pytest.raises(KeyboardInterrupt):
        train(nnc.compiler.pipeline.read(spec_path), tmp_path, tmp_path / "run", progress=at_step(10, raising(KeyboardInterrupt)))
    resumed = nnc.train(spec_path, out=tmp_path / "run", resume=True).model
    assert issubclass(Interrupted, KeyboardInterrupt)
    for name, array in whole.state().items():
        np.testing.assert_array_equal(resumed.state()[name], array, err_msg=name)
    loaded = nnc.load(tmp_path / "run" / "last.safetensors")
    given = {"i": np.array([0, 1, 1]), "t": np.ones((3, 1))}
    assert loaded.step(given) == resumed.step(given)
    np.testing.assert_array_equal(loaded.parameters[TABLE.replace("output", "y")], resumed.parameters[TABLE.replace("output", "y")])
