"""An interrupted training goes on as if nothing had happened: the same bits in parameters, history and figures."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import DIGITS, STEPS, at_step, command, interrupt, leftovers, nnc, outcome, process, refused, write

import nnc as api
from nnc.compiler.pipeline import read
from nnc.runtime import train as training
from nnc.runtime.train import Interrupted, Progress, train

EPOCHS = 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """The outcome and the printed figures of a training that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    said = nnc("train", write(folder / "digits.nn", DIGITS), "-o", folder / "run")
    assert said.status == 0, said.err
    return outcome(folder / "run"), figures(said.out)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return write(tmp_path / "digits.nn", DIGITS)


def figures(out: str) -> str:
    """The table of the figures, without the time that training took."""
    return out.partition("\n\n")[0]


def train_until(spec: Path, run: Path, step: int, resume: bool) -> bool:
    """Train on until Ctrl-C in this step of the process; whether it came before the end."""
    try:
        train(read(spec), spec.parent, run, resume=resume, progress=at_step(step, interrupt))
    except Interrupted:
        return True
    return False


@pytest.mark.parametrize("stops", [(1,), (STEPS - 1,), (STEPS,), (STEPS + 1,), (2 * STEPS + 7,), (1, 1, 1, 40, STEPS, 3), (EPOCHS * STEPS - 1,)])
def test_interrupted_at_any_step(spec: Path, tmp_path: Path, whole: Any, stops: tuple[int, ...]) -> None:
    run = tmp_path / "run"
    for i, step in enumerate(stops):
        assert train_until(spec, run, step, resume=i > 0)
    said = nnc("train", spec, "-o", run, "--resume")
    assert said.status == 0, said.err
    assert (outcome(run), figures(said.out)) == whole
    assert leftovers(tmp_path) == []


def test_two_runs_are_equal(spec: Path, tmp_path: Path, whole: Any) -> None:
    result = api.train(spec, out=tmp_path / "run")
    assert outcome(tmp_path / "run") == whole[0]
    assert len(result.history) == EPOCHS


def test_another_seed_gives_another_run(tmp_path: Path, whole: Any) -> None:
    spec = write(tmp_path / "digits.nn", DIGITS.replace("seed      = 5", "seed      = 6"))
    api.train(spec, out=tmp_path / "run")
    assert outcome(tmp_path / "run")[0] != whole[0][0]


def test_checkpoints_in_an_epoch_change_nothing(spec: Path, tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    api.train(spec, out=tmp_path / "run")
    assert outcome(tmp_path / "run") == whole[0]


def test_a_finished_run_resumes_to_itself(spec: Path, tmp_path: Path, whole: Any) -> None:
    api.train(spec, out=tmp_path / "run")
    said = nnc("train", spec, "-o", tmp_path / "run", "--resume")
    assert said.status == 0
    assert (outcome(tmp_path / "run"), figures(said.out)) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_interrupted_by_a_signal(spec: Path, tmp_path: Path, whole: Any, number: signal.Signals) -> None:
    """130 and the way to go on; SIGINT and SIGTERM arrive in a process of its own, at whatever step it is."""
    run = tmp_path / "run"
    started = subprocess.Popen(command("train", spec, "-o", run, "--set", "epochs=3000"), stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    for line in started.stderr:
        if line.startswith("epoch 1/"):
            break
    started.send_signal(number)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "nnc: interrupted; continue with --resume" in err
    assert "Traceback" not in err
    refused(nnc("train", spec, "-o", run, "--resume", "--set", "epochs=3001"), "E511", "constants")
    assert leftovers(tmp_path) == []


def test_interrupted_while_figures_are_computed(spec: Path, tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after the last step, where the signal comes as Python gives it."""

    def stop(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nnc.runtime.train.Trainer.result", stop)
        said = nnc("train", spec, "-o", tmp_path / "run")
    assert (said.status, said.err.splitlines()[-1]) == (130, "nnc: interrupted; continue with --resume")
    said = nnc("train", spec, "-o", tmp_path / "run", "--resume")
    assert (outcome(tmp_path / "run"), figures(said.out)) == whole


def test_the_command_resumes_to_the_same_bits(spec: Path, tmp_path: Path, whole: Any) -> None:
    run = tmp_path / "run"
    started = subprocess.Popen(command("train", spec, "-o", run), stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    for line in started.stderr:
        if line.startswith("epoch 2/"):
            break
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode in (0, 130), err  # 0 if it was faster than the signal
    said = process("train", spec, "-o", run, "--resume")
    assert said.status == 0, said.err
    assert (outcome(run), figures(said.out)) == whole


# Kills that leave no time to save

KILLED = textwrap.dedent("""
    import os, signal, sys
    from nnc.cli import main
    name, k, *arguments = sys.argv[1:]
    left = int(k)
    real = getattr(os, name)
    def counted(*given, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)
    setattr(os, name, counted)
    raise SystemExit(main(arguments))
""")


def kills() -> Iterator[tuple[str, int]]:
    """A seeded handful of moments inside a save. NNC_KILLS=200 makes it the full test."""
    chosen = random.Random(7)
    for i in range(int(os.environ.get("NNC_KILLS", "8")) // 2):
        yield ("write", "fsync", "replace", "open")[i % 4], chosen.randrange(1, 24)


@pytest.mark.parametrize(("name", "k"), list(kills()))
def test_killed_inside_a_save(spec: Path, tmp_path: Path, whole: Any, name: str, k: int) -> None:
    run = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", KILLED, name, str(k), "train", str(spec), "-o", str(run)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    go_on(spec, run, whole)


@pytest.mark.parametrize("wait", [random.Random(i).uniform(0.0, 0.4) for i in range(int(os.environ.get("NNC_KILLS", "8")) // 2)])
def test_killed_at_a_random_moment(spec: Path, tmp_path: Path, whole: Any, wait: float) -> None:
    run = tmp_path / "run"
    started = subprocess.Popen(command("train", spec, "-o", run), stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    started.stderr.readline()  # the run has begun
    time.sleep(wait)
    started.kill()
    started.communicate(timeout=60)
    go_on(spec, run, whole)


def go_on(spec: Path, run: Path, whole: Any) -> None:
    """Resume, or begin where nothing was begun."""
    begun = (run / "last.safetensors").is_file()
    if not begun:
        refused(nnc("train", spec, "-o", run, "--resume"), "E511", "nothing to resume")
    said = nnc("train", spec, "-o", run, *(["--resume"] if begun else []))
    assert said.status == 0, said.err
    assert (outcome(run), figures(said.out)) == whole
    assert leftovers(run) == []


# What a run may not be resumed with


@pytest.fixture
def stopped(spec: Path, tmp_path: Path) -> Path:
    assert train_until(spec, tmp_path / "run", 50, resume=False)
    return tmp_path / "run"


def test_a_changed_spec(stopped: Path, spec: Path) -> None:
    spec.write_text(DIGITS.replace("lr=0.003", "lr=0.004"), "utf-8")
    refused(nnc("train", spec, "-o", stopped, "--resume"), "E511", "the spec has changed")


def test_changed_constants(stopped: Path, spec: Path) -> None:
    refused(nnc("train", spec, "-o", stopped, "--resume", "--set", "epochs=7"), "E511", "--set")


def test_constants_are_remembered(spec: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert nnc("train", spec, "-o", run, "--set", "epochs=2").status == 0
    assert "trained 2 epochs" in nnc("train", spec, "-o", run, "--resume").out
    assert nnc("train", spec, "-o", run, "--resume", "--set", "epochs=2").status == 0


def test_constants_that_are_lists_are_remembered(tmp_path: Path) -> None:
    text = DIGITS.replace("let epochs = 6", "let epochs = 1\nlet kept = [64]").replace("image -> dense", "image -> reshape(kept) -> dense")
    spec = write(tmp_path / "lists.nn", text)
    api.train(spec, out=tmp_path / "run", kept=[64])
    api.train(spec, out=tmp_path / "run", kept=[64], resume=True)


def test_changed_data(tmp_path: Path) -> None:
    text = DIGITS.replace("digits()", 'csv("d.csv")').replace("column(pixels)", "columns(a)").replace("float32[64]", "float32[1]")
    text = text.replace("column(digit)", "column(b) -> category").replace("dense(10)", "dense(2)")
    rows = [f"{i},{'yes' if i % 3 else 'no'}" for i in range(60)]
    (tmp_path / "d.csv").write_text("a,b\n" + "\n".join(rows), "utf-8")
    spec = write(tmp_path / "table.nn", text)
    assert train_until(spec, tmp_path / "run", 3, resume=False)
    (tmp_path / "d.csv").write_text("a,b\n" + "\n".join(rows[:-1]) + "\n59.5,no", "utf-8")
    refused(nnc("train", spec, "-o", tmp_path / "run", "--resume"), "E511", "the data has changed")


def test_nothing_to_resume(spec: Path, tmp_path: Path) -> None:
    refused(nnc("train", spec, "-o", tmp_path / "none", "--resume"), "E511", "nothing to resume")
    assert not (tmp_path / "none").exists()


def test_another_environment_is_said(stopped: Path, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "environment", lambda engine: {"versions": {"numpy": "0.0"}})
    said = nnc("train", spec, "-o", stopped, "--resume")
    assert said.status == 0
    assert "the environment differs (versions)" in said.err


def test_one_training_in_a_directory(spec: Path, tmp_path: Path) -> None:
    """A second one is refused as long as the first is at work."""
    run, second = tmp_path / "run", []

    def on_step(*_: Any) -> None:
        if not second:
            second.append(nnc("train", spec, "-o", run))
            second.append(nnc("train", spec, "-o", run, "--resume"))

    train(read(spec), spec.parent, run, overrides={"epochs": "1"}, progress=Progress(on_step=on_step))
    for said in second:
        refused(said, "E704", "another nnc is training there")
