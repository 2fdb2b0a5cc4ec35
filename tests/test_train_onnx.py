"""`nnc train --engine onnxruntime`: the specs of this repository step by step beside NumPy, and whole trainings, stopped and resumed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from runs import DIGITS, STEPS, TINY, at_step, history, interrupt, nnc, outcome, process, refused, write
from test_onnx_training import CUDA, EPSILON, Twins, apart, operators, single

import nnc as api
from nnc.compiler.ir import Graph, concrete
from nnc.compiler.onnx_training import STEP, drawn
from nnc.compiler.pipeline import read
from nnc.runtime.device import PROVIDERS, obstacle, session
from nnc.runtime.executor import Arena, Executor
from nnc.runtime.kernels import KERNELS, Randomness
from nnc.runtime.onnx_steps import states, training_file
from nnc.runtime.train import Interrupted, train

SPECS = Path(__file__).parent.parent / "specs"
NAMES = sorted(path.stem for path in SPECS.glob("*.nn"))
BATCH = {"shakespeare": 4, "sunspots_lstm": 4}  # samples in a step of the larger ones
BOUND = {"mnist_cnn": 4e-5}  # seven convolutions and batch norms: NumPy's gradients are up to 7e-6 from those in float64, onnxruntime's up to 2e-5
Array = np.ndarray[Any, Any]


def alone(name: str, *, smooth: bool = False, optimizer: str = "", metrics: bool = False) -> str:
    """A spec without its data, for batches that are drawn; `smooth`: without kinks."""
    text = (SPECS / f"{name}.nn").read_text("utf-8")
    text = re.sub(r"^(data|tune) \{.*?^\}\n", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^export .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(rf"^  (schedule|stop{'' if metrics else '|metrics'}) .*\n", "", text, flags=re.MULTILINE)
    text = text.replace("l2(5.0, scale=1/samples)", "l2(0.001)")
    if smooth:
        text = text.replace("relu", "softplus").replace("max_pool", "avg_pool")
    if optimizer:
        text = re.sub(r"^  optimizer = .*$", f"  optimizer = {optimizer}", re.sub(r"^let lr .*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)
    return text


def batch(text: str, n: int, seed: int = 0) -> dict[str, Array]:
    """Random rows for a spec without data."""
    random = np.random.default_rng(seed)
    program = api.compile(text)._checked
    inputs = {i.name: random.normal(size=(n, *i.shape)) if i.dtype == "float32" else random.integers(0, 12, (n, *i.shape))
              for i in program.experiment.network.inputs}  # fmt: skip
    classes = next(iter(program.inference.outputs.values())).shape[-1]
    for name, target in program.targets().items():
        shape = (n, *target.shape)
        numbers = random.integers(0, 2, shape).astype(float) if "entropy" in text else random.normal(size=shape)
        inputs[name] = random.integers(0, classes, shape) if target.dtype == "int64" else numbers
    return inputs


def twins(name: str, **changed: Any) -> Twins:
    text = alone(name, **changed)
    return Twins(text, batch(text, BATCH.get(name, 16)))


def normed(twins: Twins) -> set[str]:
    """Biases in front of batch norm: their gradients are rounding alone."""
    text = twins.plain.program.experiment.source.text
    return {name for name in twins.plain.parameters if name.endswith("bias") and "batch_norm" in text and re.search(r"(dense|conv2d)/bias", name)}


def check_gradients(name: str, steps: int, least: float) -> None:
    """beta=0: the velocity is the gradient. Each step has other rows, so that there is always something left to learn."""
    text = alone(name, smooth=True, optimizer="momentum(lr=0.01, beta=0)")
    both = twins(name, smooth=True, optimizer="momentum(lr=0.01, beta=0)")
    left_out = {f"slot/{key}/velocity" for key in normed(both)}
    for seed in range(steps):
        both.feed(batch(text, BATCH.get(name, 16), seed))
        wanted, found = both.step()
        assert found == pytest.approx(wanted, rel=1e-5)
        distances = {key: d for key, d in apart(both.gradients(), least).items() if key not in left_out}
        assert distances
        assert max(distances.values()) <= BOUND.get(name, 1e-5), distances


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_the_specs(name: str) -> None:
    """Three steps, each from the same state: loss and gradients to 1e-5 of the largest element, on twins without kinks, with masks of dropout."""
    check_gradients(name, 3, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_the_specs_for_a_hundred_steps(name: str) -> None:
    """Some gradients come to be sums that nearly cancel: a hundredth of the network's largest counts where one is smaller."""
    check_gradients(name, 100, 1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_updates_of_the_specs(name: str) -> None:
    """As they stand, kinks and optimiser and clipping included: what three steps, each from the same state, change.

    Adam divides by the root of g^2: where g is near 0 its rounding is most of it.
    """
    both = twins(name)
    left_out = normed(both)
    for _ in range(3):
        before = {key: array.copy() for key, array in states(both.plain).items()}
        wanted, found = both.step()
        assert found == pytest.approx(wanted, rel=1e-5)
        for key, reference in states(both.plain).items():
            moved = float(np.abs(reference - before[key]).max())
            distance = float(np.abs(states(both.other)[key] - reference).max())
            if not any(part in key for part in left_out):
                assert distance <= 3e-2 * moved + 4 * EPSILON * float(np.abs(reference).max()), key


def run_freely(name: str, steps: int, **changed: Any) -> tuple[list[float], list[float], Twins]:
    both = twins(name, **changed)
    losses = [both.step(again=i == 0) for i in range(steps)]
    return [a for a, _ in losses], [b for _, b in losses], both


@pytest.mark.parametrize("name", ["and_gate", "digits", "mnist_mlp", "wine_regression"])
def test_a_hundred_free_steps_without_kinks(name: str) -> None:
    wanted, found, both = run_freely(name, 100, smooth=True, optimizer="momentum(lr=0.01)")
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    left_out = normed(both)
    for key, reference in both.plain.parameters.items():
        if key not in left_out:
            np.testing.assert_allclose(both.other.parameters[key], reference, rtol=0, atol=1e-4 * max(1e-3, float(np.abs(reference).max())), err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_free_steps(name: str) -> None:
    """The loss curve within 2%."""
    wanted, found, _ = run_freely(name, 100)
    np.testing.assert_allclose(found, wanted, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_no_shape_is_left_to_compute_at_a_known_batch(name: str, tmp_path: Path) -> None:
    """onnxruntime would compute shapes on the CPU, and with --device cuda no node may stay there."""
    options = onnxruntime.SessionOptions()
    options.add_free_dimension_override_by_name("batch", 16)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(twins(name).steps.file, options, providers=["CPUExecutionProvider"])
    left = operators(onnx.load(tmp_path / "o.onnx").graph)
    assert left <= CUDA - {"Shape", "Range"}


@pytest.mark.parametrize("name", NAMES)
def test_the_sums_of_metrics_in_the_file_are_numpys(name: str) -> None:
    """In training mode, of the batch that the step sees."""
    text = alone(name, metrics=True)
    model = api.compile(text).init(1)
    step = model.step_apart(metrics=True)
    sums = [key for key in step.graph.outputs if "/" in key]
    assert bool(sums) == ("metrics" in text)
    rows = {key: single(array) for key, array in batch(text, 12).items()}
    made = session(training_file(model, step, {}))
    given = rows | states(model)
    for key, value in drawn(step.graph).items():
        given[key] = np.zeros(concrete(value.shape, 12), bool)
        KERNELS[value.op](value, 12, Randomness(0))(given[key], given[key])
    given = {i.name: given.get(i.name, np.ones([], np.float32)) for i in made.get_inputs()}
    found = dict(zip(sums, made.run([STEP + key for key in sums], given), strict=True))
    plain = Graph({key: step.graph.outputs[key] for key in sums})
    wanted = Executor(plain, states(model) | model.known, Randomness(0), Arena()).run(rows) if sums else {}
    for key in sums:
        np.testing.assert_allclose(found[key], wanted[key], rtol=1e-5, atol=1e-5, err_msg=key)


# Whole trainings


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """The outcome and the printed figures of a training on onnxruntime that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    said = nnc("train", write(folder / "digits.nn", DIGITS), "-o", folder / "run", "--engine", "onnxruntime")
    assert said.status == 0, said.err
    assert said.err.count("onnxruntime runs the steps on the CPU; --device cuda asks for a GPU") == 1
    return outcome(folder / "run"), said.out.partition("\n\n")[0]


def train_until(spec: Path, run: Path, step: int, resume: bool) -> None:
    """Train on until Ctrl-C in this step of the process."""
    with pytest.raises(Interrupted):
        train(read(spec), spec.parent, run, resume=resume, progress=at_step(step, interrupt), engine="onnxruntime")


@pytest.mark.parametrize("stops", [(1,), (STEPS,), (7, STEPS, 2 * STEPS + 3)])
def test_a_stopped_training_resumes_bit_for_bit(tmp_path: Path, whole: Any, stops: tuple[int, ...]) -> None:
    """Dropout, batch norm, adam, a schedule, early stopping, a shuffled order."""
    spec, run = write(tmp_path / "digits.nn", DIGITS), tmp_path / "run"
    for i, step in enumerate(stops):
        train_until(spec, run, step, resume=i > 0)
    said = nnc("train", spec, "-o", run, "--resume", "--engine", "onnxruntime", "--device", "cpu")
    assert said.status == 0, said.err
    assert "--device cuda" not in said.err
    assert (outcome(run), said.out.partition("\n\n")[0]) == whole


def test_it_follows_numpys_training(tmp_path: Path, whole: Any) -> None:
    """The same masks and the same order: curves of the validation loss that differ by rounding."""
    assert nnc("train", write(tmp_path / "digits.nn", DIGITS), "-o", tmp_path / "run", "--engine", "numpy").status == 0
    plain = [record["val"]["loss"] for record in history(tmp_path / "run")]
    found = [record["val"]["loss"] for record in whole[0][2]]
    assert found != plain
    np.testing.assert_allclose(found, plain, rtol=1e-3)


def test_a_run_goes_on_with_another_engine(tmp_path: Path) -> None:
    spec, run = write(tmp_path / "digits.nn", DIGITS), tmp_path / "run"
    train_until(spec, run, STEPS + 1, resume=False)
    said = nnc("train", spec, "-o", run, "--resume", "--engine", "numpy")
    assert said.status == 0
    assert "the environment differs (engine)" in said.err
    assert nnc("eval", run).status == nnc("export", run).status == 0


def test_the_variable_chooses_as_the_flag_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = write(tmp_path / "tiny.nn", TINY)
    monkeypatch.setenv("NNC_ENGINE", "onnxruntime")
    assert "onnxruntime runs the steps on the CPU" in nnc("train", spec, "-o", tmp_path / "a").err
    assert "onnxruntime" not in nnc("train", spec, "-o", tmp_path / "b", "--engine", "numpy").err
    assert f"onnxruntime {onnxruntime.__version__} on cpu" in (tmp_path / "a" / "manifest.json").read_text("utf-8")
    assert "onnxruntime" in process("doctor", env=os.environ | {"NNC_ENGINE": "onnxruntime"}).out


def test_the_trainer_says_whats_wrong_with_a_step(tmp_path: Path) -> None:
    spec = write(tmp_path / "tiny.nn", TINY.replace("adam(lr=0.05)", "sgd(lr=1e30)"))
    refused(nnc("train", spec, "-o", tmp_path / "run", "--engine", "onnxruntime"), "E510", status=3)


OTHERS = [("batch = 2", "batch = full"), ("epochs = 2", "epochs = 2\n  ensemble = bagging(2)"), ("epochs = 2", "epochs = 2\n  precision = float64")]


@pytest.mark.parametrize("changed", OTHERS)
def test_other_trainings(tmp_path: Path, changed: tuple[str, str]) -> None:
    """float64 where onnxruntime has its kernels, whole batches, ensembles."""
    spec = write(tmp_path / "tiny.nn", TINY.replace(*changed))
    plain, other = (api.train(spec, out=tmp_path / engine, engine=engine) for engine in ("numpy", "onnxruntime"))
    assert other.figures["train"]["loss"] == pytest.approx(plain.figures["train"]["loss"], rel=1e-4)


def test_the_file_of_a_build_is_a_whole_training(tmp_path: Path) -> None:
    """training.onnx stepped through by hand: state out is state in; loss, and the sums that accuracy is made of."""
    spec = write(tmp_path / "digits.nn", DIGITS)
    assert nnc("build", spec, "-o", tmp_path / "build").status == 0
    made = onnxruntime.InferenceSession(tmp_path / "build" / "digits" / "training.onnx", providers=["CPUExecutionProvider"])
    model = api.compile(spec).init(5)
    kinds = {i.name: i for i in made.get_inputs()}
    kept = {name: np.array(array) for name, array in states(model).items() if name in kinds}
    random = np.random.default_rng(0)
    image, label = random.normal(size=(200, 64)).astype(np.float32), random.integers(0, 10, 200)
    image[np.arange(200), label] += 3.0
    (mask,) = [name for name in kinds if name.startswith("mask:")]
    losses, right = [], []
    for step in range(1, 61):
        given = kept | {"image": image, "label": label, mask: random.random((200, 16)) < 0.8, "step:lr": np.float32(0.01)}
        given |= {"step:first_correction": np.float32(0.1 / (1 - 0.9**step)), "step:root_correction": np.float32(((1 - 0.999**step) / 0.001) ** 0.5)}
        found = dict(zip([o.name for o in made.get_outputs()], made.run(None, {n: np.asarray(a) for n, a in given.items()}), strict=True))
        kept = {name: found.get(f"new:{name}", array) for name, array in kept.items()}
        losses.append(float(found["step:loss"]))
        right.append(float(found["step:accuracy/sum"] / found["step:accuracy/count"]))
    assert losses[-1] < 0.5 * losses[0]
    assert right[-1] > 0.8 > 0.3 > right[0]


def test_what_onnxruntime_cannot_take_is_refused_before_there_is_a_run(tmp_path: Path) -> None:
    solved = write(tmp_path / "solved.nn", TINY.replace("adam(lr=0.05)", "lbfgs(lr=1)").replace("batch = 2", "batch = full"))
    double = write(tmp_path / "double.nn", TINY.replace("adam(lr=0.05)", "adam(lr=0.05)\n  precision = float64").replace("tanh", "gelu"))
    for spec, words in ((solved, "lbfgs evaluates"), (double, "NOT_IMPLEMENTED")):
        refused(nnc("train", spec, "-o", tmp_path / "run", "--engine", "onnxruntime"), "E710", words)
        assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_device_that_is_not_there_is_refused_before_there_is_a_run(tmp_path: Path) -> None:
    if obstacle() is None:
        pytest.skip("a GPU is there")
    spec = write(tmp_path / "tiny.nn", TINY)
    for more in ((), ("--engine", "onnxruntime")):
        refused(nnc("train", spec, "-o", tmp_path / "run", "--device", "cuda", *more), "E709")
    refused(nnc("train", spec, "-o", tmp_path / "run", "--device", "cuda", "--engine", "numpy"), "E709", "the engine numpy runs on the CPU")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(obstacle() is not None, reason="no GPU that onnxruntime can use is here")
@pytest.mark.parametrize("name", NAMES)
def test_steps_on_the_gpu(name: str) -> None:
    """Every node of every spec's step has a kernel there, and the step changes what NumPy's changes."""
    text = alone(name, smooth=True, optimizer="momentum(lr=0.01, beta=0)")
    both = Twins(text, batch(text, BATCH.get(name, 16)), device="cuda")
    assert both.filled.session.get_providers()[0] == PROVIDERS["cuda"]
    wanted, found = both.step()
    assert found == pytest.approx(wanted, rel=1e-5)
    assert max(d for key, d in apart(both.gradients()).items() if key[5:-9] not in normed(both)) <= 1e-4
