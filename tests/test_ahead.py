"""Batches made ready in a thread hold what they would hold without one, and what goes wrong there is not lost."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import at_step, raising

import nnc
from nnc.runtime.data import ahead
from nnc.runtime.data.ahead import Batches
from nnc.runtime.data.stored import Stored
from nnc.runtime.train import Interrupted

SPEC = """
network(image: float32[1, 4, 4]) { return y = image -> flatten -> dense(3) -> softmax }
data {
  source  = npz("images.npz")
  image   = column(image)
  t       = column(t) -> one_hot
  augment = [image -> shift(1) -> noise(0.5) -> mixup(0.4)]
}
train { loss = cross_entropy(y, t)  optimizer = adam(lr=0.01)  batch = 4  epochs = 3 }
"""


def written(folder: Path) -> Path:
    drawn = np.random.default_rng(0)
    np.savez(folder / "images.npz", image=drawn.normal(size=(30, 1, 4, 4)).astype("f4"), t=drawn.integers(0, 3, 30))
    (folder / "s.nn").write_text(SPEC)
    return folder / "s.nn"


def weights(result: Any) -> Any:
    return {name: array.tobytes() for name, array in result.model.parameters.items()}


class AsOnce(Batches):
    """Every batch made when it is wanted."""

    def __enter__(self) -> Batches:
        return self


def test_a_thread_changes_no_bit_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = written(tmp_path)
    made: list[str] = []
    monkeypatch.setattr(ahead, "usable_cores", lambda: 1 << 20)
    augment = ahead.augment
    monkeypatch.setattr(ahead, "augment", lambda *given: (made.append(threading.current_thread().name), augment(*given)))
    with_one = nnc.train(spec, out=tmp_path / "with")
    assert sum(name.startswith("nnc-batches") for name in made) == 3 * 6, "eight batches an epoch, the first and the smaller last one made at once"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nnc-batches")]
    monkeypatch.setattr("nnc.runtime.train.Batches", AsOnce)
    assert weights(nnc.train(spec, out=tmp_path / "without")) == weights(with_one)


def test_a_run_that_is_interrupted_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = written(tmp_path)
    monkeypatch.setattr(ahead, "usable_cores", lambda: 1 << 20)
    whole = nnc.train(spec, out=tmp_path / "whole")
    monkeypatch.setattr("nnc.runtime.train.CHECKPOINT_SECONDS", 0.0)

    class Stop(Exception):
        pass

    from nnc.compiler.pipeline import read
    from nnc.runtime.train import train

    with pytest.raises(Stop):
        train(read(spec), tmp_path, tmp_path / "run", progress=at_step(12, raising(Stop)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nnc-batches")]
    assert weights(train(read(spec), tmp_path, tmp_path / "run", resume=True)) == weights(whole)


def test_what_is_raised_in_the_thread_arrives_with_its_batch() -> None:
    def rows(chosen: Any) -> Any:
        if 6 in chosen:
            raise Interrupted
        return np.zeros((len(chosen), 1))

    column = Stored(rows, (10, 1), np.dtype("f8"))
    inputs = {"x": np.ones((2, 1))}
    with Batches({"x": column}, (), 0, np.arange(10), 2) as batches:
        for step, start in enumerate((0, 2, 4)):
            batches.fill(inputs, start, step)
        with pytest.raises(Interrupted):
            batches.fill(inputs, 6, 3)
