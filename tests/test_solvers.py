"""Optimisers with line searches and second derivatives: they reach the minima that scipy and scikit-learn find."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from networks import goes_on_from_a_file, spec, spread

import nnc
import nnc.compiler.ops
from nnc.compiler.operation import TABLE, Kind

Array = np.ndarray[Any, Any]
SOLVERS = ["newton", "hessian_free", "conjugate_gradient", "lbfgs"]

LINEAR = "  return output = x -> dense(2)"
LOGISTIC = "  return output = x -> dense(1) -> sigmoid"
CLASSES = "  return output = x -> dense(3) -> softmax"
DEEP = "  return output = x -> dense(5) -> tanh -> dense(1)"


def model_of(body: str, loss: str, optimizer: str, penalty: str = "0.1 * l2(1.0)", seed: int = 1, **keys: Any) -> Any:
    given = {"penalty": penalty} if penalty else {}
    return nnc.compile(spec(body, loss=f"{loss}(output, y)", optimizer=optimizer, batch="full", **given, **keys)).init(seed)


def rows(kind: str, n: int = 40) -> dict[str, Array]:
    random = np.random.default_rng(2)
    x = random.normal(size=(n, 3)) * [1.0, 3.0, 0.3]
    scores = x @ [1.0, -0.5, 2.0] + random.normal(size=n)
    return {"x": x, "y": {"numbers": np.stack([scores, scores**2], 1), "bits": (scores > 0)[:, None] * 1.0,
                          "classes": np.digitize(scores, [-1.0, 1.0]), "number": np.sin(scores)[:, None]}[kind]}  # fmt: skip


CONVEX = [(LINEAR, "quadratic", "numbers"), (LOGISTIC, "binary_cross_entropy", "bits"), (CLASSES, "cross_entropy", "classes")]


def slope(model: Any, batch: dict[str, Array]) -> float:
    return max(float(np.abs(g).max()) for g in model.gradients(batch)[1].values())


def by_scipy(model: Any, batch: dict[str, Array]) -> tuple[float, Array]:
    """The minimum of the model's own objective, whose gradients other tests hold to torch's; the model stays as it is."""
    optimize = pytest.importorskip("scipy.optimize", reason="scipy is the outside reference of this test")
    arrays = [model.parameters[name] for name in model.parameters]
    start = np.concatenate([a.ravel() for a in arrays])

    def put(theta: Array) -> None:
        for array, part in zip(arrays, np.split(theta, np.cumsum([a.size for a in arrays])[:-1]), strict=True):
            array[...] = part.reshape(array.shape)

    def objective(theta: Array) -> tuple[float, Array]:
        put(theta)
        value, slopes = model.gradients(batch)
        return value, np.concatenate([g.ravel() for g in slopes.values()])

    found = optimize.minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000})
    put(start)
    return float(found.fun), found.x


def test_every_solver_has_a_case() -> None:
    assert set(SOLVERS) == {name for (kind, name), found in TABLE.items() if kind is Kind.OPTIMISER and "solver" in found.facts}


@pytest.mark.parametrize(("written", "spelled"), [("newton(0.5)", "newton(damping=0.5)"), ("lbfgs(3)", "lbfgs(history=3)"),
                                                  ("hessian_free(0.5, 7)", "hessian_free(damping=0.5, iterations=7)")])  # fmt: skip
def test_what_stands_without_a_name_is_the_methods_own(written: str, spelled: str) -> None:
    one, other = (model_of(DEEP, "mse", optimizer).program.train.optimizer.params for optimizer in (written, spelled))
    assert one == other
    assert one.lr == 1


@pytest.mark.parametrize("optimizer", SOLVERS)
@pytest.mark.parametrize(("form", "share"), [("scaled", 0.5 * 0.1), ("absolute", 0.1)])
def test_decay_is_of_the_weights_before_the_step(optimizer: str, form: str, share: float) -> None:
    batch = rows("number")
    plain = model_of(DEEP, "mse", f"{optimizer}(lr=0.5)")
    decayed = model_of(DEEP, "mse", f"{optimizer}(lr=0.5, weight_decay=0.1, decay={form})")
    for model in (plain, decayed):
        spread(model, 3)
    before = {name: array.copy() for name, array in plain.parameters.items()}
    plain.step(batch)
    decayed.step(batch)
    for name, array in plain.parameters.items():
        lost = share * before[name] if name.endswith("weight") else 0.0
        np.testing.assert_allclose(decayed.parameters[name], array - lost, rtol=1e-12, atol=1e-14, err_msg=name)


def test_newton_reaches_the_minimum_of_a_quadratic_in_one_step() -> None:
    model, batch = model_of(LINEAR, "quadratic", "newton", ""), rows("numbers")
    spread(model, 0)
    model.step(batch)
    with_ones = np.column_stack([batch["x"], np.ones(len(batch["x"]))])
    wanted, *_ = np.linalg.lstsq(with_ones, batch["y"], rcond=None)
    np.testing.assert_allclose(model.parameters["output/dense/weight"], wanted[:3], rtol=1e-10)
    np.testing.assert_allclose(model.parameters["output/dense/bias"], wanted[3], rtol=1e-10)


def test_newton_finds_logistic_regression_in_less_than_ten_steps() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the outside reference of this test")
    batch = rows("bits")
    model = model_of(LOGISTIC, "binary_cross_entropy", "newton", "l2(0.025)")
    for steps in range(10):  # noqa: B007
        if slope(model, batch) < 1e-10:
            break
        model.step(batch)
    assert steps < 10
    assert slope(model, batch) < 1e-10
    wanted = linear_model.LogisticRegression(C=1.0, tol=1e-12, max_iter=1000).fit(batch["x"], batch["y"].ravel())  # 1 / (40 * 0.025)
    np.testing.assert_allclose(model.parameters["output/dense/weight"].ravel(), wanted.coef_[0], rtol=1e-6)
    np.testing.assert_allclose(model.parameters["output/dense/bias"], wanted.intercept_, rtol=1e-6)


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_a_damped_newton_step_solves_the_damped_system(damping: float) -> None:
    """The Hessian by differences of gradients, one column a parameter."""
    model, batch = model_of(DEEP, "mse", f"newton(damping={damping}, lr=0.5)"), rows("number")
    spread(model, 3)
    (bundle,) = model.program.bundles
    flat = model.variables[bundle.name]

    def gradient() -> Array:
        slopes = model.gradients(batch)[1]
        return np.concatenate([slopes[p.name].ravel() for p in bundle.parameters])

    columns, before, g = [], flat.copy(), gradient()
    for i in range(bundle.size):
        flat[i] = before[i] + 1e-5
        above = gradient()
        flat[i] = before[i] - 1e-5
        columns.append((above - gradient()) / 2e-5)
        flat[i] = before[i]
    model.step(batch)
    moved = (before - flat) / 0.5
    np.testing.assert_allclose(np.stack(columns, 1) @ moved + damping * moved, g, atol=1e-6 * np.abs(g).max() * max(1.0, np.abs(moved).max()))


@pytest.mark.parametrize("optimizer", SOLVERS)
@pytest.mark.parametrize(("body", "loss", "kind"), CONVEX, ids=lambda v: str(v).strip()[-8:])
def test_a_solver_reaches_scipys_minimum(body: str, loss: str, kind: str, optimizer: str) -> None:
    model, batch = model_of(body, loss, optimizer), rows(kind)
    for array in model.parameters.values():
        array[...] = 0.0  # newton without damping wants a start where the curvature is not lost
    wanted, theta = by_scipy(model, batch)
    values = [model.step(batch) for _ in range(60)]
    assert model.gradients(batch)[0] == pytest.approx(wanted, rel=1e-10)
    found = np.concatenate([model.parameters[name].ravel() for name in model.parameters])
    if body != CLASSES:  # whose biases may all be shifted
        np.testing.assert_allclose(found, theta, rtol=1e-4, atol=1e-5)
    if optimizer != "newton":
        assert all(after <= before + 1e-12 for before, after in pairwise(values))


@pytest.mark.parametrize("optimizer", ["hessian_free", "conjugate_gradient", "lbfgs", "lbfgs(history=2)"])
def test_a_network_goes_downhill_to_a_flat_place(optimizer: str) -> None:
    model, batch = model_of(DEEP, "mse", optimizer), rows("number")
    values = [model.step(batch) for _ in range(300)]
    assert all(after <= before for before, after in pairwise(values))
    assert slope(model, batch) < 1e-4


@pytest.mark.parametrize("optimizer", SOLVERS)
def test_at_the_minimum_nothing_moves(optimizer: str) -> None:
    model = model_of("  return output = x -> dense(2)", "quadratic", optimizer, "")
    x = rows("numbers")["x"]
    batch = {"x": x, "y": model.predict({"x": x})["output"]}
    before = {name: array.copy() for name, array in model.parameters.items()}
    for _ in range(3):
        model.step(batch)
    for name, array in model.parameters.items():
        np.testing.assert_allclose(array, before[name], atol=1e-9)


@pytest.mark.parametrize("optimizer", SOLVERS)
def test_a_solver_continues_from_a_file(optimizer: str, tmp_path: Any) -> None:
    batch = rows("number")
    whole, half = (model_of(DEEP, "mse", f"{optimizer}(damping=0.5)" if optimizer == "newton" else optimizer) for _ in range(2))
    goes_on_from_a_file(whole, half, batch, tmp_path)


@pytest.mark.parametrize("optimizer", SOLVERS)
def test_single_precision_comes_close(optimizer: str) -> None:
    model, batch = model_of(LOGISTIC, "binary_cross_entropy", optimizer, precision="float32"), rows("bits")
    exact = model_of(LOGISTIC, "binary_cross_entropy", "newton")
    for _ in range(40):
        model.step(batch)
        exact.step(batch)
    assert model.gradients(batch)[0] == pytest.approx(exact.gradients(batch)[0], rel=1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (spec(DEEP, optimizer="lbfgs"), "write batch = full"),
        (spec("  h = x -> dense(2)\n  return output = h -> dense(1)", optimizer="newton", batch="full", groups="[group(h, rate=0.5)]"), "rates of their own"),
        (spec("  return output = x -> dense(2000)", optimizer="newton", batch="full"), "at most 4,000 parameters"),
    ],
)
def test_what_a_solver_cannot_do_is_refused(text: str, said: str) -> None:
    with pytest.raises(nnc.SpecError, match=f"(?s)E516.*{said}"):
        nnc.compile(text)
