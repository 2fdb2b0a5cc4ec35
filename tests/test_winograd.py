"""Winograd's forms of 3x3 convolutions leave the errors that they are said to leave, and run where they pay."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="the fast engine's numba is not installed")

import nnc
import nnc.compiler.pipeline  # fills the table of primitives
from nnc.compiler import plan
from nnc.compiler.ir import Batch, Graph, TensorType, Value, apply
from nnc.compiler.passes.tolerant import tolerant
from nnc.compiler.workspace import piece_side
from nnc.runtime.engine import require_fast
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.kernels import Randomness

ERRORS = {2: 1e-6, 4: 3e-5}  # of the largest value, by the side of a piece
OPERATIONS = ("conv2d", "conv2d_input_gradient", "conv2d_weight_gradient")
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNC_CACHE", str(tmp_path_factory.mktemp("code")))
        require_fast()
        yield


def convolution(op: str, channels: int, given: int, height: int, width: int, padding: int = 1, dtype: str = "float32", error: float = 0.0) -> Value:
    """A convolution of images [channels, height, width], or one of its gradients."""
    settings: dict[str, Any] = {"stride": (1, 1), "padding": ((padding, padding),) * 2, "dilation": (1, 1), "groups": 1}
    more = {"conv2d": {}, "conv2d_input_gradient": {"size": (height, width)}, "conv2d_weight_gradient": {"window": (3, 3)}}
    shapes = {"x": (channels, height, width), "g": (given, height + 2 * padding - 2, width + 2 * padding - 2)}
    images = [apply("input", name=name, type=TensorType(dtype, (Batch(), *shapes[name]))) for name in {OPERATIONS[0]: "x", OPERATIONS[1]: "g"}.get(op, "xg")]
    windows = [] if op == OPERATIONS[2] else [apply("variable", name="w", type=TensorType(dtype, (given, channels, 3, 3)))]
    value = apply(op, *images, *windows, **settings, **more[op])
    return tolerant([value], error)[0] if error else value


def exact(op: str, x: Array, g: Array, w: Array, padding: int) -> Array:
    """By definition, in float64."""
    x, g, w = (a.astype(np.float64) for a in (x, g, w))
    framed = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    high, wide = g.shape[2:]
    shifted = {(u, v): (slice(None), slice(None), slice(u, u + high), slice(v, v + wide)) for u in range(3) for v in range(3)}
    if op == "conv2d":
        return np.asarray(sum(np.einsum("ncij,oc->noij", framed[at], w[:, :, u, v]) for (u, v), at in shifted.items()))
    found = np.zeros_like(framed if op == "conv2d_input_gradient" else w)
    for (u, v), at in shifted.items():
        if op == "conv2d_input_gradient":
            found[at] += np.einsum("noij,oc->ncij", g, w[:, :, u, v])
        else:
            found[:, :, u, v] = np.einsum("ncij,noij->oc", framed[at], g)
    inside = slice(padding, -padding or None)
    return found[:, :, inside, inside] if op == "conv2d_input_gradient" else found


def error_of(value: Value, samples: int, padding: int) -> float:
    """The largest error of the fast engine's result, of the largest value."""
    random = np.random.default_rng(0)
    op, (first, second) = value.op, value.operands
    large = value if op == "conv2d_input_gradient" else first
    small = {"conv2d": value, "conv2d_input_gradient": first}.get(op, second)
    channels, given = (int(image.shape[1]) for image in (large, small))  # type: ignore[arg-type]
    x = np.maximum(random.normal(size=(samples, *large.shape[1:])), 0).astype(np.float32)  # type: ignore[arg-type]
    g = random.normal(size=(samples, *small.shape[1:])).astype(np.float32)  # type: ignore[arg-type]
    w = random.normal(0, (2 / 9 / channels) ** 0.5, (given, channels, 3, 3)).astype(np.float32)
    found = Executor(Graph({"v": value}), {"w": w}, Randomness(0), Arena(), fast=True).run({"x": x, "g": g})["v"]
    wanted = exact(op, x, g, w, padding)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("side", ERRORS)
@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize(
    ("channels", "given", "height", "width", "padding", "samples"),
    [(8, 8, 4, 4, 1, 1), (8, 16, 1, 9, 1, 3), (9, 23, 5, 7, 1, 5), (33, 17, 6, 10, 0, 2), (16, 40, 11, 3, 2, 7), (64, 64, 16, 16, 1, 32), (24, 8, 3, 99, 1, 2)],
)
def test_an_error_is_within_the_forms_bound(
    op: str, channels: int, given: int, height: int, width: int, padding: int, samples: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides that pieces do not divide, channels that vectors do not, several tiles and one sample."""
    monkeypatch.setattr("nnc.compiler.workspace._products", lambda value, samples, one: abs(one - side))  # wherever it pays
    value = convolution(op, channels, given, height, width, padding, error=ERRORS[side])
    assert piece_side(value, samples) == side
    assert error_of(value, samples, padding) < ERRORS[side]


def test_the_larger_form_is_the_one_with_the_larger_error() -> None:
    small, large = (error_of(convolution("conv2d", 64, 64, 16, 16, error=error), 4, 1) for error in (0.0, 3e-5))
    assert 2 * small < large < 3e-6  # by points 0, +-1, +-2 it would be 5e-6


@pytest.mark.parametrize(
    ("size", "samples", "side"), [((32, 32), 32, 4), ((8, 8), 32, 4), ((7, 7), 64, 4), ((6, 6), 64, 2), ((5, 5), 64, 2), ((8, 8), 1, 2), ((2, 2), 512, 2)]
)
@pytest.mark.parametrize("op", OPERATIONS)
def test_pieces_are_as_large_as_pays(op: str, size: tuple[int, int], samples: int, side: int) -> None:
    assert piece_side(convolution(op, 32, 64, *size, error=3e-5), samples) == side
    assert piece_side(convolution(op, 32, 64, *size), samples) == 2
    assert piece_side(convolution(op, 32, 64, *size, error=2e-5), samples) == 2
    assert piece_side(convolution(op, 7, 64, *size, error=3e-5), samples) == 0
    assert piece_side(convolution(op, 32, 64, *size, dtype="float64", error=3e-5), samples) == 0


NETWORK = """
network(x: float32[8, 14, 14]) {
  a = x -> conv2d(12, kernel=3, padding=same) -> relu -> conv2d(9, kernel=3) -> relu
  return y = a -> max_pool(2) -> conv2d(20, kernel=3, padding=same) -> flatten -> dense(1)
}
train { loss = quadratic(y, t)  optimizer = sgd(lr=0.001)  batch = 16  epochs = 1  precision = PRECISION }
"""


def trained(precision: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], dict[str, Array], str]:
    """Losses of some steps on one batch, the state they lead to, and the plan of a step."""
    monkeypatch.setenv("NNC_ENGINE", engine)
    model = nnc.compile(NETWORK.replace("PRECISION", precision)).init(0)
    random = np.random.default_rng(0)
    kinds = random.integers(0, 3, 64)
    batch = {"x": random.normal(size=(64, 8, 14, 14)) + kinds.reshape(-1, 1, 1, 1), "t": kinds.reshape(-1, 1) - 1.0}
    losses = [model.step(batch) for _ in range(12)]
    return losses, {k: v.copy() for k, v in model.state().items()}, plan.show(plan.plan(model.stepper().graph, 64))


def test_a_training_with_larger_errors_comes_out_where_the_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _, usual = trained("float32", "fast", monkeypatch)
    found, _, shown = trained("fast", "fast", monkeypatch)
    assert plain != found
    np.testing.assert_allclose(found, plain, rtol=1e-3)
    assert found[-1] < 0.3 * found[0]
    assert "F(" not in usual
    forms = re.findall(r"= conv2d\w*\(.* (\d+x\d+x\S+) .*F\((.)x., 3x3\) on the fast engine", shown)
    large = [("12x8x3x3", "4"), ("64x12x14x14", "4"), ("64x12x14x14", "4"), ("64x9x12x12", "4"), ("9x12x3x3", "4")]
    assert sorted(forms) == sorted([*large, ("64x20x6x6", "2"), ("64x9x6x6", "2"), ("20x9x3x3", "2")])


def test_other_engines_compute_as_with_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, state, _ = trained("float32", "numpy", monkeypatch)
    found, reached, _ = trained("fast", "numpy", monkeypatch)
    assert plain == found
    for key, array in state.items():
        np.testing.assert_array_equal(reached[key], array, err_msg=key)


def test_what_leaves_training_is_what_float32_leaves(tmp_path: Path) -> None:
    """Predictions, the exported model and the training step for onnxruntime know nothing of larger errors."""
    models = [nnc.compile(NETWORK.replace("PRECISION", precision)).init(0) for precision in ("float32", "fast")]
    x = np.random.default_rng(0).normal(size=(33, 8, 14, 14))
    first, second = (model.predict({"x": x}) for model in models)
    for name, array in first.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, second[name])
    for model in models:
        for graph in (model.step_apart().graph, model.program.inference_graph):
            assert not any("error" in value.attributes for value in graph.order())
