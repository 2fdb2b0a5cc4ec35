"""Optimisers, weight decay, clipping and schedules: step by step against torch and against the catalogue's formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from networks import Word, goes_on_from_a_file, spec, spread, word
from oracles.rules import RULES

import nnc
import nnc.compiler.ops
from nnc.compiler.operation import Kind, names
from nnc.compiler.training import rates

Array = np.ndarray[Any, Any]
BODY = "  h = x -> dense(4) -> tanh\n  return output = h -> dense(2)"
RATES = [0.05, 0.02, 0.08, 0.08, 0.01, 0.03, 0.05]  # that change, so that it matters where a form multiplies by them

OPTIMISERS = [
    word("sgd", lr=0.05),
    word("momentum", lr=0.05),
    word("momentum", lr=0.05, beta=0.6, form="lr_inside"),
    word("momentum", lr=0.05, beta=0.8, form="ema"),
    word("nesterov", lr=0.05),
    word("nesterov", lr=0.05, beta=0.5),
    word("rmsprop", lr=0.05),
    word("rmsprop", lr=0.05, decay=0.5, eps=0.1),
    word("rmsprop", lr=0.05, eps=0.1, eps_in="inside"),
    word("rmsprop", lr=0.05, centered=True, eps=1e-3),
    word("rmsprop", lr=0.05, momentum=0.7),
    word("rmsprop", lr=0.05, momentum=0.7, centered=True, eps=0.01, eps_in="inside"),
    word("adam"),
    word("adam", lr=0.05, beta1=0.7, beta2=0.9, eps=0.01),
    word("adam", lr=0.05, eps=0.01, eps_in="inside"),
    word("adamw"),
    word("adamw", beta1=0.8, weight_decay=0.0),
    word("adagrad"),
    word("adagrad", lr=0.05, eps=0.1),
    word("adadelta"),
    word("adadelta", lr=0.5, rho=0.8, eps=0.01),
    word("nadam"),
    word("nadam", lr=0.05, beta1=0.8, beta2=0.95, eps=0.01, momentum_decay=0.2),
    word("nadam", eps=0.01, eps_in="inside"),
    word("adamax"),
    word("adamax", lr=0.05, beta1=0.7, beta2=0.6, eps=0.01),
    word("amsgrad"),
    word("amsgrad", beta1=0.8, beta2=0.5, eps=0.01),
    word("amsgrad", beta2=0.5, eps=0.01, eps_in="inside"),
    word("lion"),
    word("lion", lr=0.05, beta1=0.6, beta2=0.3),
]

# They look at more than one gradient a step: test_solvers.py
SOLVERS = {"newton", "hessian_free", "conjugate_gradient", "lbfgs"}

DECAYS = [
    (word("sgd", lr=0.05, weight_decay=0.2), 0.2, "scaled"),
    (word("sgd", lr=0.05, weight_decay=0.02, decay="absolute"), 0.02, "absolute"),
    (word("momentum", lr=0.05, weight_decay=0.3), 0.3, "scaled"),
    (word("nesterov", lr=0.05, weight_decay=0.01, decay="absolute"), 0.01, "absolute"),
    (word("rmsprop", lr=0.05, weight_decay=0.1), 0.1, "scaled"),
    (word("rmsprop", lr=0.05, weight_decay=0.02, decay="absolute"), 0.02, "absolute"),
    (word("adam", lr=0.05, weight_decay=0.2), 0.2, "scaled"),
    (word("adam", lr=0.05, weight_decay=0.02, decay="absolute"), 0.02, "absolute"),
    (word("adamw", lr=0.05), 0.01, "scaled"),
    (word("adamw", lr=0.05, weight_decay=0.05, decay="absolute"), 0.05, "absolute"),
    (word("adagrad", weight_decay=0.1), 0.1, "scaled"),
    (word("adadelta", weight_decay=0.1), 0.1, "scaled"),
    (word("nadam", weight_decay=0.02, decay="absolute"), 0.02, "absolute"),
    (word("adamax", weight_decay=0.1), 0.1, "scaled"),
    (word("amsgrad", weight_decay=0.1), 0.1, "scaled"),
    (word("lion", weight_decay=0.1), 0.1, "scaled"),
]


def given(optimiser: Word, *without: str) -> dict[str, Any]:
    return {name: value for name, value in optimiser.arguments.items() if name not in without}


def started(text: str, seed: int = 2) -> tuple[Any, dict[str, Any]]:
    model = nnc.compile(text).init(seed)
    spread(model, seed)
    random = np.random.default_rng(seed)
    x = random.normal(size=(5, 3))
    return model, {"x": x, "y": random.normal(size=model.predict({"x": x})["output"].shape)}


def follow(model: Any, batch: dict[str, Any], step: Callable[[dict[str, Any], float], Mapping[str, Any]]) -> None:
    """Steps with changing rates; after each the parameters must be what `step` makes of the same gradients."""
    model.rate = lambda i: RATES[i]
    for rate in RATES:
        _, slopes = model.gradients(batch)
        wanted = step(slopes, rate)
        model.step(batch)
        for name, array in model.parameters.items():
            np.testing.assert_allclose(array, wanted[name], rtol=1e-9, atol=1e-11, err_msg=name)


def by_rule(
    model: Any, optimiser: Word, decay: float = 0.0, form: str = ""
) -> Callable[[dict[str, Any], float], Mapping[str, Any]]:
    """A step of the catalogue's formula; decay is decoupled and for weights alone."""
    arguments = given(optimiser, "lr", "weight_decay", *(("decay",) if form else ()))
    rules = {name: RULES[optimiser.word](**arguments) for name in model.parameters}
    theta = {name: array.copy() for name, array in model.parameters.items()}

    def step(slopes: dict[str, Any], rate: float) -> dict[str, Any]:
        for name in theta:
            moved = rules[name](theta[name], slopes[name], rate)
            lost = decay * (rate if form == "scaled" else 1.0) if name.endswith("weight") else 0.0
            theta[name] = moved - lost * theta[name]
        return theta

    return step


def test_every_word_has_a_case() -> None:
    assert {o.word for o in OPTIMISERS} == {o.word for o, _, _ in DECAYS} == RULES.keys()
    assert RULES.keys() | SOLVERS == set(names(Kind.OPTIMISER))
    assert CLIPS.keys() == set(names(Kind.CLIP))
    assert {name for name, _, _ in SCHEDULES} == set(names(Kind.SCHEDULE))


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=str)
def test_a_step_is_the_catalogues(optimiser: Word) -> None:
    without = word(optimiser.word, **(given(optimiser) | {"weight_decay": 0.0}))
    model, batch = started(spec(BODY, optimizer=str(without)))
    follow(model, batch, by_rule(model, optimiser))


@pytest.mark.parametrize(("optimiser", "decay", "form"), DECAYS, ids=str)
def test_decay_is_decoupled_and_spares_biases_and_norms(optimiser: Word, decay: float, form: str) -> None:
    body = "  h = x -> dense(4) -> batch_norm -> tanh\n  return output = h -> dense(2)"
    model, batch = started(spec(body, optimizer=str(optimiser)))
    step = by_rule(model, optimiser, decay, form)

    def without_statistics(slopes: dict[str, Any], rate: float) -> dict[str, Any]:
        found = dict(step(slopes, rate))
        running = {name: model.parameters[name] for name in found if "running" in name}
        return found | running

    follow(model, batch, without_statistics)


TORCHS: list[tuple[str, Callable[[Any], Any]]] = [
    ("sgd(lr=0.05)", lambda t: t.SGD),
    ("momentum(lr=0.05, beta=0.8)", lambda t: lambda p, lr: t.SGD(p, lr, momentum=0.8)),
    ("nesterov(lr=0.05)", lambda t: lambda p, lr: t.SGD(p, lr, momentum=0.9, nesterov=True)),
    ("rmsprop(lr=0.05)", lambda t: lambda p, lr: t.RMSprop(p, lr, alpha=0.9, eps=1e-7)),
    (
        "rmsprop(lr=0.05, centered=true, momentum=0.5, decay=0.8, eps=0.01)",
        lambda t: lambda p, lr: t.RMSprop(p, lr, alpha=0.8, eps=0.01, centered=True, momentum=0.5),
    ),
    ("adam", lambda t: t.Adam),
    ("adam(lr=0.05, beta1=0.8, beta2=0.95, eps=0.001)", lambda t: lambda p, lr: t.Adam(p, lr, (0.8, 0.95), 0.001)),
    ("adam(lr=0.05, weight_decay=0.1)", lambda t: lambda p, lr: t.AdamW(p, lr, weight_decay=0.1)),
    ("adamw", lambda t: t.AdamW),
    ("adagrad", lambda t: lambda p, lr: t.Adagrad(p, lr, eps=1e-7)),
    ("adadelta", lambda t: lambda p, lr: t.Adadelta(p, lr, 0.95)),
    ("adadelta(rho=0.7, eps=0.001)", lambda t: lambda p, lr: t.Adadelta(p, lr, 0.7, 0.001)),
    ("nadam", lambda t: t.NAdam),
    ("nadam(beta1=0.8, beta2=0.9, momentum_decay=0.1)", lambda t: lambda p, lr: t.NAdam(p, lr, (0.8, 0.9), momentum_decay=0.1)),
    ("adamax", lambda t: t.Adamax),
    ("amsgrad", lambda t: lambda p, lr: t.Adam(p, lr, amsgrad=True)),
    ("amsgrad(beta2=0.5)", lambda t: lambda p, lr: t.Adam(p, lr, (0.9, 0.5), amsgrad=True)),
]


@pytest.fixture
def torch() -> Iterator[ModuleType]:
    """torch with float64 for numbers of its own too, such as nadam's product."""
    torch = pytest.importorskip("torch", reason="torch is the outside reference of these tests and is not installed")
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(kept)


@pytest.mark.parametrize(("written", "choose"), TORCHS, ids=[written for written, _ in TORCHS])
def test_a_step_is_torchs(written: str, choose: Callable[[Any], Any], torch: ModuleType) -> None:
    """torch decays biases too: the network of this test has none."""
    body = BODY.replace("dense(4)", "dense(4, bias=false)").replace("dense(2)", "dense(2, bias=false)")
    model, batch = started(spec(body, optimizer=written))
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in model.parameters.items()}
    optimiser = choose(torch.optim)(list(tensors.values()), lr=0.1)
    changing = "momentum" not in written and "nesterov" not in written

    def step(slopes: dict[str, Any], rate: float) -> dict[str, Any]:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(slopes[name])
        for group in optimiser.param_groups:
            group["lr"] = rate if changing else 0.05
        optimiser.step()
        return {name: tensor.detach().numpy() for name, tensor in tensors.items()}

    if not changing:  # nesterov's equivalent form is torch's only while the rate stays
        model.rate = lambda i: 0.05
        for _ in RATES:
            wanted = step(model.gradients(batch)[1], 0.05)
            model.step(batch)
            for name, array in model.parameters.items():
                np.testing.assert_allclose(array, wanted[name], rtol=1e-9, atol=1e-12)
    else:
        follow(model, batch, step)


# Gradients of any size: the loss |x.w - y| with y far away has the gradient -x at every w, and w starts at 0


SIZES = [1.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10]


def moved(optimizer: str, size: float) -> tuple[Array, Array]:
    """The parameters after 20 steps, and the gradients that led there."""
    text = spec("  return output = x -> dense(1, bias=false)", inputs="x: float32[6]", loss="mae(output, y)", optimizer=optimizer)
    model = nnc.compile(text).init(0)
    weight = model.parameters["output/dense/weight"]
    weight[...] = 0
    given = size * np.random.default_rng(3).normal(size=(20, 6, 1)) * np.array([[1.0], [1.0], [0.3], [3.0], [1e-3], [1.0]])
    for slope in given:
        batch = {"x": -slope.T, "y": np.full((1, 1), 1e6)}
        np.testing.assert_array_equal(model.gradients(batch)[1]["output/dense/weight"], slope)
        model.step(batch)
    return weight.copy(), given


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=str)
def test_twenty_steps_are_those_of_fifty_digits(optimiser: Word, size: float) -> None:
    mpmath = pytest.importorskip("mpmath", reason="mpmath computes the formulas of this test with 50 digits")
    found, given_slopes = moved(word(optimiser.word, **(given(optimiser) | {"lr": 0.0625, "weight_decay": 0.0})).call(), size)
    rule = RULES[optimiser.word](**given(optimiser, "lr", "weight_decay"))
    with mpmath.workdps(50):
        theta = np.full((6, 1), mpmath.mpf(0))
        for slope in given_slopes:
            theta = rule(theta, np.vectorize(mpmath.mpf, otypes=[object])(slope), mpmath.mpf(0.0625))
        wanted = theta.astype(float)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=0)
    assert wanted.any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("written", "choose"), TORCHS, ids=[written for written, _ in TORCHS])
def test_twenty_steps_are_torchs(written: str, choose: Callable[[Any], Any], size: float, torch: ModuleType) -> None:
    name, _, arguments = written.rstrip(")").partition("(")
    arguments = ", ".join(["lr=0.05", *(a for a in arguments.split(", ") if a and not a.startswith("lr="))])
    found, slopes = moved(f"{name}({arguments})", size)
    theta = torch.zeros(6, 1, dtype=torch.float64, requires_grad=True)
    optimiser = choose(torch.optim)([theta], lr=0.05)
    for slope in slopes:
        theta.grad = torch.tensor(slope)
        optimiser.step()
    np.testing.assert_allclose(found, theta.detach().numpy(), rtol=1e-7, atol=0)


def test_defaults_are_those_of_the_language() -> None:
    for written, spelled in [
        ("adam", "adam(lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8, eps_in=outside, weight_decay=0.0)"),
        ("adamw", "adamw(lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, decay=scaled)"),
        ("momentum(0.1)", "momentum(lr=0.1, beta=0.9, form=heavy_ball, weight_decay=0.0)"),
        ("rmsprop(0.1)", "rmsprop(lr=0.1, decay=0.9, eps=1e-7, eps_in=outside, momentum=0.0, centered=false)"),
        ("nesterov(0.1)", "nesterov(lr=0.1, beta=0.9)"),
        ("adagrad", "adagrad(lr=0.01, eps=1e-7, weight_decay=0.0)"),
        ("adadelta", "adadelta(lr=1.0, rho=0.95, eps=1e-6)"),
        ("nadam", "nadam(lr=0.002, beta1=0.9, beta2=0.999, eps=1e-8, momentum_decay=0.004)"),
        ("adamax", "adamax(lr=0.002, beta1=0.9, beta2=0.999, eps=1e-8)"),
        ("amsgrad", "amsgrad(lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8)"),
        ("lion", "lion(lr=0.0001, beta1=0.9, beta2=0.99)"),
        # what stands after lr without a name is the method's own, never the decay
        ("momentum(0.1, 0.8, ema)", "momentum(lr=0.1, beta=0.8, form=ema)"),
        ("nesterov(0.1, 0.8)", "nesterov(lr=0.1, beta=0.8)"),
        ("rmsprop(0.1, 0.8, 0.01, inside)", "rmsprop(lr=0.1, decay=0.8, eps=0.01, eps_in=inside)"),
        ("adam(0.01, 0.8, 0.9, 0.01, inside)", "adam(lr=0.01, beta1=0.8, beta2=0.9, eps=0.01, eps_in=inside)"),
        ("adagrad(0.1, 0.01)", "adagrad(lr=0.1, eps=0.01)"),
        ("adadelta(1, 0.8, 0.01)", "adadelta(lr=1, rho=0.8, eps=0.01)"),
        ("lion(0.001, 0.8, 0.7)", "lion(lr=0.001, beta1=0.8, beta2=0.7)"),
    ]:
        first, second = (started(spec(BODY, optimizer=o)) for o in (written, spelled))
        for model, batch in (first, second):
            for _ in range(3):
                model.step(batch)
        for name, array in first[0].parameters.items():
            np.testing.assert_array_equal(array, second[0].parameters[name])


def test_a_centred_rmsprop_survives_a_gradient_that_never_changes() -> None:
    """The variance of a constant is zero, and rounding must not make it negative."""
    optimiser = "rmsprop(lr=1e-9, centered=true)"
    text = spec("  return output = x -> dense(1)", inputs="x: float32[99]", loss="mae(output, y)", optimizer=optimiser)
    for precision in ("float32", "float64"):
        model = nnc.compile(text.replace("float64", precision)).init(0)
        batch = {"x": np.random.default_rng(0).normal(size=(1, 99)), "y": np.full((1, 1), 100.0)}
        for _ in range(300):
            model.step(batch)
        assert all(np.isfinite(array).all() for array in model.state().values())


def test_a_parameter_without_influence_keeps_its_value() -> None:
    """Its gradient is zero, and zero divided by the root of zero stays zero."""
    for optimiser in sorted(RULES):
        optimiser += "(lr=0.1, weight_decay=0.0)"
        model, batch = started(spec("  h = x -> dense(3)\n  return output = h * 0 + x", optimizer=optimiser))
        before = model.parameters["h/dense/weight"].copy()
        for _ in range(3):
            model.step(batch)
        np.testing.assert_array_equal(model.parameters["h/dense/weight"], before)


def test_training_goes_on_where_a_file_left_it(tmp_path: Path) -> None:
    text = spec(BODY + "", optimizer="adam(weight_decay=0.1)", groups="[group(h, rate=0.5)]")
    whole, batch = started(text)
    goes_on_from_a_file(whole, started(text)[0], batch, tmp_path)


# Clipping


def _globally(slopes: dict[str, Any], c: float) -> dict[str, Any]:
    length = np.linalg.norm(np.concatenate([g.ravel() for g in slopes.values()]))
    return {name: g * c / length if length > c else g for name, g in slopes.items()}


def _each(slopes: dict[str, Any], c: float) -> dict[str, Any]:
    return {name: g * c / np.linalg.norm(g) if np.linalg.norm(g) > c else g for name, g in slopes.items()}


CLIPS: dict[str, Callable[[dict[str, Any], float], dict[str, Any]]] = {
    "global_norm": _globally,
    "norm": _each,
    "value": lambda slopes, c: {name: np.clip(g, -c, c) for name, g in slopes.items()},
}


@pytest.mark.parametrize("limit", [0.05, 0.3, 1e6])
@pytest.mark.parametrize("groups", ["[]", "[group(h, rate=0.5)]"])
@pytest.mark.parametrize("name", CLIPS)
def test_gradients_are_clipped_before_the_optimiser(name: str, groups: str, limit: float) -> None:
    """Under sgd the step is the clipped gradient. Groups lie in arrays of their own; the norm is over all of them."""
    model, batch = started(spec(BODY, optimizer="sgd(lr=1.0)", clip=f"{name}({limit})", groups=groups))
    before = {n: array.copy() for n, array in model.parameters.items()}
    _, slopes = model.gradients(batch)
    wanted = CLIPS[name](slopes, limit)
    assert any((wanted[n] != slopes[n]).any() for n in slopes) == (limit < 1e6)
    model.step(batch)
    for n, array in model.parameters.items():
        rate = 0.5 if groups != "[]" and n.startswith("h/") else 1.0
        np.testing.assert_allclose(before[n] - array, rate * wanted[n], rtol=1e-9, atol=1e-14, err_msg=n)


def test_what_is_frozen_counts_in_no_norm() -> None:
    model, batch = started(
        spec(BODY, optimizer="sgd(lr=1.0)", clip="global_norm(0.1)", groups="[group(h, frozen=true)]")
    )
    before = {n: array.copy() for n, array in model.parameters.items()}
    model.step(batch)
    moved = np.concatenate([(before[n] - array).ravel() for n, array in model.parameters.items()])
    assert np.linalg.norm(moved) == pytest.approx(0.1)


def test_a_gradient_of_zero_is_clipped_to_zero() -> None:
    for clip in CLIPS:
        model, batch = started(spec("  h = x -> dense(3)\n  return output = h * 0 + x", clip=f"{clip}(1.0)"))
        assert np.isfinite(model.step(batch))
        assert all(np.isfinite(array).all() for array in model.parameters.values())


# Schedules: ten epochs of four steps, lr = 0.5


def of(written: str, steps_per_epoch: int = 4, epochs: int = 10) -> list[float]:
    text = spec(BODY, optimizer="sgd(lr=0.5)", schedule=written, epochs=epochs)
    rate = rates(nnc.compile(text)._checked.train, steps_per_epoch)
    return [rate(i) for i in range(epochs * steps_per_epoch)]


def epochs(function: Callable[[int], float]) -> list[float]:
    return [function(i // 4) for i in range(40)]


SCHEDULES: list[tuple[str, str, list[float]]] = [
    ("constant", "constant", [0.5] * 40),
    ("exponential", "exponential(decay=0.8)", epochs(lambda e: 0.5 * 0.8**e)),
    ("exponential", "exponential(decay=0.8, unit=steps)", [0.5 * 0.8**i for i in range(40)]),
    ("step", "step(every=3)", epochs(lambda e: [0.5, 0.05, 0.005, 0.0005][e // 3])),
    ("step", "step(every=5, factor=0.5, unit=steps)", [0.5 * 0.5 ** (i // 5) for i in range(40)]),
    ("cosine", "cosine", [0.25 + 0.25 * np.cos(np.pi * i / 40) for i in range(40)]),
    ("cosine", "cosine(to=0.1)", [0.3 + 0.2 * np.cos(np.pi * i / 40) for i in range(40)]),
    ("warmup", "warmup(epochs=2)", [0.5 * (i + 1) / 8 for i in range(8)] + [0.5] * 32),
    ("warmup", "warmup(steps=3)", [0.5 / 3, 1 / 3] + [0.5] * 38),
    ("warmup", "warmup(epochs=4, every=epoch)", epochs(lambda e: 0.5 * min(1, (e + 1) / 4))),
    ("cosine", "warmup(epochs=2) -> cosine", [0.5 * (i + 1) / 8 for i in range(8)]
     + [0.25 + 0.25 * np.cos(np.pi * i / 32) for i in range(32)]),
    ("step", "warmup(epochs=1) -> step(every=2, factor=0.1)", [0.125, 0.25, 0.375, 0.5]
     + [0.5 * 0.1 ** (i // 8) for i in range(36)]),
    ("inverse_time", "inverse_time(0.5)", epochs(lambda e: 1 / (2 + e))),
    ("inverse_time", "inverse_time(decay=0.1, unit=steps)", [5 / (10 + i) for i in range(40)]),
    ("polynomial", "polynomial", [0.5 - i / 80 for i in range(40)]),
    ("polynomial", "warmup(epochs=5) -> polynomial(to=0.1, power=2)", [(i + 1) / 40 for i in range(20)]
     + [0.1 + 0.4 * (i / 20) ** 2 for i in range(20, 0, -1)]),
    ("cosine", "cosine(to=0.1, restarts=3)", [0.3 + 0.2 * np.cos(np.pi * i / 10) for i in range(10)] * 4),
    ("triangular", "triangular(low=0.1, high=0.9, period=2)", [0.1, 0.3, 0.5, 0.7, 0.9, 0.7, 0.5, 0.3] * 5),
    ("triangular", "triangular(low=0.1, high=0.5, period=4, unit=steps)", [0.1, 0.3, 0.5, 0.3] * 10),
    ("triangular", "triangular(low=1, high=2, period=2, unit=steps, mode=exp, gamma=0.25)",
     [1 + 0.5 * 0.25 ** (i // 2) if i % 2 else 1 for i in range(40)]),
    ("one_cycle", "one_cycle(peak=1, end=0.1, rise=0.5)", [0.75 - 0.25 * np.cos(np.pi * i / 20) for i in range(20)]
     + [0.55 + 0.45 * np.cos(np.pi * i / 19) for i in range(20)]),
    ("one_cycle", "one_cycle(peak=1, rise=0.5)", [0.75 - 0.25 * np.cos(np.pi * i / 20) for i in range(20)]
     + [5e-5 + 0.99995 * (1 + np.cos(np.pi * i / 19)) / 2 for i in range(20)]),
    ("reduce_on_plateau", "reduce_on_plateau(factor=0.5)", [0.5] * 40),  # the trainer counts what does not improve
    # An epoch ends where it ends, also when the schedule began in its middle
    ("exponential", "warmup(steps=2) -> exponential(decay=0.5)", [0.25, 0.5]
     + [0.5 * 0.5 ** (i // 4) for i in range(2, 40)]),
]  # fmt: skip


@pytest.mark.parametrize(("written", "wanted"), [s[1:] for s in SCHEDULES], ids=[s[1] for s in SCHEDULES])
def test_a_schedule_gives_its_rates(written: str, wanted: list[float]) -> None:
    np.testing.assert_allclose(of(written), wanted, rtol=1e-12)


def test_schedules_are_torchs() -> None:
    torch = pytest.importorskip("torch", reason="torch is the outside reference of this test and is not installed")
    schedulers = torch.optim.lr_scheduler
    cases: list[tuple[str, Callable[[Any], Any]]] = [
        ("exponential(decay=0.9, unit=steps)", lambda o: schedulers.ExponentialLR(o, 0.9)),
        ("step(every=7, factor=0.3, unit=steps)", lambda o: schedulers.StepLR(o, 7, 0.3)),
        ("cosine(to=0.02)", lambda o: schedulers.CosineAnnealingLR(o, 40, 0.02)),
        ("warmup(steps=8)", lambda o: schedulers.LinearLR(o, 1 / 8, 1, 7)),
        ("polynomial(power=1.5)", lambda o: schedulers.PolynomialLR(o, 40, 1.5)),
        ("cosine(to=0.02, restarts=4)", lambda o: schedulers.CosineAnnealingWarmRestarts(o, 8, eta_min=0.02)),
        ("triangular(low=0.02, high=0.3, period=8, unit=steps)", lambda o: schedulers.CyclicLR(o, 0.02, 0.3, 4, cycle_momentum=False)),
        ("one_cycle(peak=0.8, start=0.1, end=0.001, rise=0.25)",
         lambda o: schedulers.OneCycleLR(o, 0.8, total_steps=40, pct_start=0.275, div_factor=8, final_div_factor=100, cycle_momentum=False)),
    ]
    for written, make in cases:
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        scheduler = make(optimiser)
        wanted = []
        for _ in range(40):
            wanted.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            scheduler.step()
        np.testing.assert_allclose(of(written), wanted, rtol=1e-12, err_msg=written)


# Constraints


def by_unit(name: str, weight: Array) -> Array:
    """The weights in rows, one for each unit that they lead into."""
    if name == "maxout":
        return weight.transpose(0, 2, 1).reshape(-1, weight.shape[1])
    if name in ("rnn", "lstm", "gru"):
        return weight.reshape(-1, weight.shape[2])
    if name == "conv2d_transpose":  # two groups
        return np.concatenate([half.swapaxes(0, 1).reshape(half.shape[1], -1) for half in np.split(weight, 2)])
    if name in ("dense", "attention"):
        return weight.T
    return weight.reshape(len(weight), -1)


CONSTRAINED = [
    "dense(6, {})",
    "maxout(4, pieces=3, {})",
    "reshape([4, 3]) -> conv1d(5, kernel=2, {})",
    "reshape([3, 2, 2]) -> conv2d(5, kernel=2, padding=same, {})",
    "reshape([3, 2, 2]) -> depthwise_conv2d(2, multiplier=2, {})",
    "reshape([4, 3, 1]) -> conv2d_transpose(6, kernel=2, groups=2, {})",
    "reshape([3, 4]) -> attention(heads=2, {})",
    "reshape([3, 4]) -> rnn(4, {})",
    "reshape([3, 4]) -> lstm(3, {})",
    "reshape([3, 4]) -> gru(2, bidirectional=true, {})",
    "embedding(5, 3, {})",
]


@pytest.mark.parametrize("optimizer", ["sgd(lr=0.1)", "adam(lr=0.1, weight_decay=0.1)", "lbfgs"])
@pytest.mark.parametrize("layer", CONSTRAINED, ids=lambda v: v.rpartition("-> ")[2].partition("(")[0])
def test_a_largest_norm_holds_after_every_update(layer: str, optimizer: str) -> None:
    """The same step without the constraint says where the weights would be; a bias is left alone, and so is another layer."""
    name = layer.rpartition("-> ")[2].partition("(")[0]
    start = "x" if name == "embedding" else "x -> dense(12)"
    inputs = "x: int64[2]" if name == "embedding" else "x: float32[3]"
    models = []
    for constraint in ("constraint=max_norm(1.2)", ""):
        body = f"  h = {start} -> {layer.format(constraint).replace(', )', ')')} -> flatten\n  return output = h -> tanh -> dense(2)"
        models.append(nnc.compile(spec(body, inputs=inputs, optimizer=optimizer, batch="full")).init(0))
        spread(models[-1], 0)
    held, free = models
    random = np.random.default_rng(0)
    x = random.integers(0, 4, (5, 2)) if name == "embedding" else random.normal(size=(5, 3))
    batch = {"x": x, "y": random.normal(size=(5, 2))}
    limited = untouched = 0
    for _ in range(3):
        for parameter, array in free.parameters.items():
            array[...] = held.parameters[parameter]
        for slot, array in free.state().items():
            if slot.startswith("slot/"):
                array[...] = held.state()[slot]
        for model in models:
            model.step(batch)
        for parameter, array in held.parameters.items():
            if not parameter.startswith(f"h/{'dense_2' if name == 'dense' else name}/") or parameter.endswith(("bias", "B")):
                np.testing.assert_allclose(array, free.parameters[parameter], rtol=1e-12)
                continue
            rows, wanted = by_unit(name, array), by_unit(name, free.parameters[parameter])
            norms = np.linalg.norm(wanted, axis=1)
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.minimum(norms, 1.2), rtol=1e-9)
            np.testing.assert_allclose(rows * norms[:, None], wanted * np.linalg.norm(rows, axis=1)[:, None], rtol=1e-9, atol=1e-12)
            limited, untouched = limited + (norms > 1.2).sum(), untouched + (norms < 1.2).sum()
    assert limited
    assert untouched


def test_frozen_weights_keep_their_norm_and_zero_weights_stay() -> None:
    body = "  h = x -> dense(4, constraint=max_norm(0.1))\n  return output = h -> dense(2, init=zeros, constraint=max_norm(0.1)) -> relu"
    model, batch = started(spec(body, groups="[group(h, frozen=true)]"))
    model.parameters["output/dense/weight"][...] = 0
    model.parameters["output/dense/bias"][...] = -1
    before = model.parameters["h/dense/weight"].copy()
    model.step(batch)
    np.testing.assert_array_equal(model.parameters["h/dense/weight"], before)
    np.testing.assert_array_equal(model.parameters["output/dense/weight"], 0)
