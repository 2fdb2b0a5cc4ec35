"""The reference page says what the operation table says, and where other libraries define a word otherwise."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from networks import spec, spread

import nnc
import nnc.compiler.ops  # fills the table
from nnc.compiler.operation import TABLE, Kind, find, names

DOCS = Path(__file__).parent.parent / "docs"
# Rows that need no source: they move or combine elements
MOVES = {"add", "subtract", "multiply", "divide", "concat", "split", "flatten", "reshape", "transpose", "linear", "saturated_linear"}


@pytest.fixture(scope="module")
def page() -> ModuleType:
    found = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_page_is_what_the_table_gives(page: ModuleType) -> None:
    assert (DOCS / "reference.md").read_text() == page.reference(), "run python docs/reference.py"
    assert {kind for kind, _ in TABLE} == page.SECTIONS.keys()


def test_a_missing_row_is_noticed(page: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    written = (DOCS / "reference.md").read_text()
    for key in ((Kind.LAYER, "mish"), (Kind.OPTIMISER, "lion"), (Kind.SOURCE, "npy")):
        with monkeypatch.context() as changed:
            changed.delitem(TABLE, key)
            assert page.reference() != written, key


def test_every_row_has_what_a_reader_looks_for(page: ModuleType) -> None:
    """The formula, every argument, the shape, the source, and how others differ."""
    sections = (DOCS / "reference.md").read_text().split("\n## ")[1:]
    rows = {section.partition("\n")[0]: dict(row.split("\n", 1) for row in section.split("\n### ")[1:]) for section in sections}
    for (kind, name), operation in TABLE.items():
        row = rows[page.SECTIONS[kind]][name]
        flat = " ".join(row.split())
        assert operation.doc, name
        assert " ".join(operation.doc.split("\n\n")[0].split()) in flat, name
        for argument, field in page.argument_fields(operation.params).items():
            assert field.description, f"{name}({argument})"
            assert f"- `{argument}`: {field.description}" in row, f"{name}({argument})"
        assert operation.differs.removeprefix("Differs: ") in flat, name
        if kind is Kind.LAYER:
            assert any(said in operation.doc for said in ("elementwise", "Shape")), f"{name} does not say its shape"
        if kind in (Kind.LAYER, Kind.OPTIMISER) and name not in MOVES and "solver" not in operation.facts:
            assert "Source: " in operation.doc, f"{name} does not say where it is from"


# What is said of others, shown where torch or ONNX can show it


def differs(kind: Kind, name: str, *words: str) -> None:
    operation = find(kind, name)
    assert operation is not None
    for said in words:
        assert said in operation.differs, f"{name}: {said}"


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is what the rows are compared with, and is not installed")


def of(call: str, x: Any, **parameters: Any) -> Any:
    """A layer's output on one batch, in float64."""
    shape = ", ".join(map(str, x.shape[1:]))
    body = f"  return output = x -> {call}, trained = x -> flatten -> dense(1)"  # a train section makes it float64, and wants a parameter
    model = nnc.compile(spec(body, inputs=f"x: float32[{shape}]", loss="mse(trained, y)")).init(0)
    for role, value in parameters.items():
        model.parameters[f"output/{call.partition('(')[0]}/{role}"][...] = value
    return model.predict({"x": x})["output"]


def loss(call: str, a: Any, y: Any) -> float:
    """The loss of a prediction that is given as the input, through the identity."""
    size = a.shape[-1]
    model = nnc.compile(spec(f"  return output = x -> dense({size}, bias=false)", inputs=f"x: float32[{size}]", loss=call)).init(0)
    model.parameters["output/dense/weight"] = np.eye(size)
    return float(model.loss({"x": a, "y": y}))


def test_torchs_batch_norm_keeps_the_unbiased_variance_and_the_other_share(torch: Any) -> None:
    differs(Kind.LAYER, "batch_norm", "0.1 for 0.9 here", "n / (n - 1)")
    x = np.random.default_rng(0).normal(2, 3, (5, 3))
    model = nnc.compile(spec("  return output = x -> batch_norm", loss="mse(output, y)")).init(0)
    model.step({"x": x, "y": x})
    other = torch.nn.BatchNorm1d(3, dtype=torch.float64)
    other(torch.tensor(x))
    assert other.momentum == pytest.approx(0.1)
    np.testing.assert_allclose(model.parameters["output/batch_norm/running_mean"], other.running_mean)
    ours, theirs = model.parameters["output/batch_norm/running_var"] - 0.9, other.running_var.numpy() - 0.9
    np.testing.assert_allclose(theirs, ours * 5 / 4)


def test_torchs_average_counts_padding(torch: Any) -> None:
    differs(Kind.LAYER, "avg_pool", "count_include_pad=False")
    x = np.random.default_rng(0).normal(size=(1, 1, 4, 4))
    ours, image = of("avg_pool(2, padding=1)", x), torch.tensor(x)
    np.testing.assert_allclose(ours, torch.nn.AvgPool2d(2, padding=1, count_include_pad=False)(image))
    assert not np.allclose(ours, torch.nn.AvgPool2d(2, padding=1)(image))


def test_torch_pads_poolings_by_half_a_window_at_most_and_keeps_axes(torch: Any) -> None:
    differs(Kind.LAYER, "max_pool", "more than half")
    x = np.random.default_rng(0).normal(size=(1, 2, 4, 4))
    assert of("max_pool(3, padding=2)", x).shape == (1, 2, 2, 2)
    with pytest.raises(RuntimeError, match="half"):
        torch.nn.functional.max_pool2d(torch.tensor(x), 3, padding=2)
    differs(Kind.LAYER, "global_max_pool", "two axes of length 1")
    assert of("global_max_pool", x).shape == (1, 2)
    assert torch.nn.AdaptiveMaxPool2d(1)(torch.tensor(x)).shape == (1, 2, 1, 1)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_torchs_same_knows_no_stride_and_puts_the_odd_element_after(torch: Any) -> None:
    differs(Kind.LAYER, "conv2d", "without strides alone")
    x, w = np.random.default_rng(0).normal(size=(1, 1, 5, 5)), np.random.default_rng(1).normal(size=(1, 1, 2, 4))
    wanted = torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(w), padding="same")
    np.testing.assert_allclose(of("conv2d(1, kernel=[2, 4], padding=same)", x, weight=w, bias=0), wanted)
    with pytest.raises(RuntimeError, match="stride"):
        torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(w), stride=2, padding="same")


def test_torchs_softplus_ends_at_its_threshold(torch: Any) -> None:
    differs(Kind.LAYER, "softplus", "z > 20")
    z = np.array([[19.0, 21.0]])
    theirs = torch.nn.functional.softplus(torch.tensor(z)).numpy()
    assert theirs[0, 1] == 21
    assert of("softplus", z)[0, 1] > 21
    np.testing.assert_allclose(of("softplus", z)[0, 0], theirs[0, 0], rtol=1e-15)


def test_torchs_norms_of_images_scale_elements_and_its_prelu_is_one(torch: Any) -> None:
    differs(Kind.LAYER, "layer_norm", "scale for each element")
    assert torch.nn.LayerNorm([2, 3, 3]).weight.shape == (2, 3, 3)
    differs(Kind.LAYER, "prelu", "one slope for all channels")
    assert torch.nn.PReLU().weight.shape == (1,)


def test_losses_of_torch_are_means_over_outputs(torch: Any) -> None:
    random = np.random.default_rng(0)
    a, y = random.normal(size=(4, 3)), random.normal(size=(4, 3))
    ta, ty = torch.tensor(a), torch.tensor(y)
    differs(Kind.LOSS, "huber", "here it is the sum", "divided by delta")
    assert loss("huber(output, y, delta=0.5)", a, y) == pytest.approx(3 * torch.nn.HuberLoss(delta=0.5)(ta, ty).item())
    assert torch.nn.SmoothL1Loss(beta=0.5)(ta, ty).item() == pytest.approx(torch.nn.HuberLoss(delta=0.5)(ta, ty).item() / 0.5)
    differs(Kind.LOSS, "absolute", "are `mae`")
    assert loss("mae(output, y)", a, y) == pytest.approx(torch.nn.L1Loss()(ta, ty).item())
    differs(Kind.LOSS, "binary_cross_entropy", "mean over outputs")
    p, bits = 1 / (1 + np.exp(-a)), (y > 0).astype(float)
    assert loss("binary_cross_entropy(output, y)", p, bits) == pytest.approx(3 * torch.nn.BCELoss()(torch.tensor(p), torch.tensor(bits)).item())


def test_distances_of_distributions_in_torch(torch: Any) -> None:
    random = np.random.default_rng(0)
    a, y = random.dirichlet(np.ones(3), 4), random.dirichlet(np.ones(3), 4)
    log_a, ty = torch.tensor(np.log(a)), torch.tensor(y)
    differs(Kind.LOSS, "kl_divergence", "takes ln a", "batchmean")
    ours = loss("kl_divergence(output, y)", a, y)
    assert ours == pytest.approx(torch.nn.KLDivLoss(reduction="batchmean")(log_a, ty).item())
    assert ours == pytest.approx(3 * torch.nn.functional.kl_div(log_a, ty, reduction="none").mean().item())
    differs(Kind.LOSS, "cross_entropy", "divides by their sum", "each class's share by its own weight")
    index, weights = np.array([0, 2, 1, 1]), np.array([0.5, 2.0, 1.0])
    each = torch.nn.functional.cross_entropy(log_a, torch.tensor(index), torch.tensor(weights))
    written = "cross_entropy(output, y, class_weights=[0.5, 2, 1]{})"
    assert loss(written.format(""), a, index) == pytest.approx(each.item() * weights[index].sum() / 4)
    smooth = torch.nn.functional.cross_entropy(log_a, torch.tensor(index), torch.tensor(weights), label_smoothing=0.2, reduction="none").mean()
    assert loss(written.format(", smoothing=0.2"), a, index) != pytest.approx(smooth.item())
    differs(Kind.LOSS, "poisson", "ln a unless log_input=False")
    counts = random.integers(0, 4, (4, 3)).astype(float)
    assert loss("poisson(output, y)", a, counts) == pytest.approx(torch.nn.PoissonNLLLoss(log_input=True)(log_a, torch.tensor(counts)).item())


def test_defaults_of_torchs_optimisers(torch: Any) -> None:
    theta = [torch.zeros(1, requires_grad=True)]
    for name, made, words, wanted in (
        ("adagrad", torch.optim.Adagrad, "epsilon 1e-10", {"eps": 1e-10}),
        ("adadelta", torch.optim.Adadelta, "rho 0.9", {"rho": 0.9, "lr": 1.0, "eps": 1e-6}),
        ("rmsprop", torch.optim.RMSprop, "decay 0.99 and epsilon 1e-8", {"alpha": 0.99, "eps": 1e-8}),
        ("adamw", torch.optim.AdamW, "0.01 too", {"weight_decay": 0.01}),
        ("nadam", torch.optim.NAdam, "0.96^t", {"momentum_decay": 4e-3}),
    ):
        differs(Kind.OPTIMISER, name, words)
        assert {key: made(theta).defaults[key] for key in wanted} == wanted
    lbfgs = torch.optim.LBFGS(theta).defaults
    differs(Kind.OPTIMISER, "lbfgs", "no line search unless", "up to 20", "100 pairs")
    assert (lbfgs["line_search_fn"], lbfgs["max_iter"], lbfgs["history_size"]) == (None, 20, 100)
    differs(Kind.SCHEDULE, "one_cycle", "peak / 25")
    optimiser = torch.optim.SGD(theta, lr=0.1)
    torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1.0, total_steps=10)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(1 / 25)
    assert not hasattr(torch.optim, "Lion")
    differs(Kind.OPTIMISER, "lion", "torch has no Lion")


def test_forms_of_momentum_agree_at_a_constant_rate_alone(torch: Any) -> None:
    differs(Kind.OPTIMISER, "nesterov", "equal at a constant rate")
    random = np.random.default_rng(0)
    batch = {"x": random.normal(size=(4, 3)), "y": random.normal(size=(4, 3))}
    for rates, equal in (([0.1] * 4, True), ([0.1, 0.05, 0.02, 0.01], False)):
        model = nnc.compile(spec("  return output = x -> dense(3, bias=false)", optimizer="nesterov(lr=0.1)")).init(0)
        spread(model, 0)
        theta = torch.tensor(model.parameters["output/dense/weight"].copy(), requires_grad=True)
        other = torch.optim.SGD([theta], lr=0.1, momentum=0.9, nesterov=True)
        model.rate = rates.__getitem__
        for rate in rates:
            other.param_groups[0]["lr"] = rate
            other.zero_grad()
            torch.nn.functional.mse_loss(torch.tensor(batch["x"]) @ theta, torch.tensor(batch["y"])).backward()
            other.step()
            model.step(batch)
        assert np.allclose(model.parameters["output/dense/weight"], theta.detach().numpy(), rtol=1e-12) == equal


def test_initialisers_and_clipping_of_torch(torch: Any) -> None:
    differs(Kind.INITIALISER, "truncated_normal", "whatever std is")
    drawn = torch.nn.init.trunc_normal_(torch.empty(20_000), std=0.1)
    assert drawn.abs().max() > 0.3, "three deviations are not cut"
    differs(Kind.INITIALISER, "normal", "std is 1 in torch")
    assert torch.nn.init.normal_(torch.empty(20_000)).std() == pytest.approx(1, abs=0.05)
    differs(Kind.LAYER, "embedding", "N(0, 1)")
    assert torch.nn.Embedding(200, 100).weight.std().item() == pytest.approx(1, abs=0.05)
    differs(Kind.CLIP, "global_norm", "1e-6")
    theta = torch.zeros(1, requires_grad=True)
    theta.grad = torch.tensor([1e-6])
    torch.nn.utils.clip_grad_norm_([theta], 1e-7)
    assert theta.grad.item() == pytest.approx(1e-7 / 2, rel=1e-3)


def test_defaults_of_onnx() -> None:
    def default(operator: str, attribute: str, opset: int = 21) -> Any:
        return onnx.helper.get_attribute_value(onnx.defs.get_schema(operator, opset).attributes[attribute].default_value)

    differs(Kind.LAYER, "hard_sigmoid", "slope 1/5")
    assert default("HardSigmoid", "alpha") == pytest.approx(0.2)
    differs(Kind.LAYER, "leaky_relu", "ONNX is 0.01")
    assert default("LeakyRelu", "alpha") == pytest.approx(0.01)
    differs(Kind.LAYER, "gru", "linear_before_reset=0")
    assert default("GRU", "linear_before_reset") == 0
    differs(Kind.LAYER, "softmax", "since opset 13")
    assert (default("Softmax", "axis", 13), default("Softmax", "axis", 12)) == (-1, 1)
    differs(Kind.LAYER, "selu", "rounded to float32")
    assert default("Selu", "alpha") == np.float32(1.6732632423543772)
    assert default("Selu", "gamma") == pytest.approx(1.0507009873554805, rel=1e-6)
    differs(Kind.LAYER, "avg_pool", "Keras and ONNX leave padding out")
    assert default("AveragePool", "count_include_pad") == 0
    differs(Kind.LAYER, "gelu", "exact form by default")
    assert default("Gelu", "approximate") == b"none"
    differs(Kind.LAYER, "layer_norm", "1e-5 in torch and ONNX")
    assert default("LayerNormalization", "epsilon") == pytest.approx(1e-5)


def test_rows_that_differ_say_so_in_a_sentence() -> None:
    said = [operation.differs for operation in TABLE.values() if operation.differs]
    assert len(said) > 50
    assert all(text.endswith(".") and any(other in text for other in ("torch", "Keras", "ONNX", "scikit-learn")) for text in said)
    assert {find(Kind.OPTIMISER, name).differs != "" for name in names(Kind.OPTIMISER) if name.startswith("ada")} == {True}  # type: ignore[union-attr]
