"""nnc: a workload's spec, trained by the trainer of `nnc train`.

An epoch is the trainer's own: the order from the seed, batches taken from the data, forward, backward, update, the running loss and the
report to an observer after every step. What follows an epoch of `nnc train` and no peer does, evaluation and a checkpoint on disk, is left out.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from workloads import Data, Workload

from nnc.compiler.pipeline import analyse, read
from nnc.runtime.data.dataset import Dataset, load
from nnc.runtime.engine import choose
from nnc.runtime.model import Model
from nnc.runtime.run import Run
from nnc.runtime.train import Progress, Trainer

Held = tuple[Dataset, Path]


class EpochsOnly(Trainer):
    """A trainer that only counts when an epoch ends."""

    mean_loss = float("nan")

    def close_epoch(self, seconds: float, seen: int) -> None:
        place = self.place
        self.mean_loss = place.loss_sum / seen
        place.epoch, place.position, place.loss_sum = place.epoch + 1, 0, 0.0
        self.saved_at = time.monotonic()  # no checkpoint falls due


class NncTraining:
    def __init__(self, trainer: EpochsOnly):
        self.trainer = trainer

    def epoch(self) -> float:
        self.trainer.epoch()
        return self.trainer.mean_loss

    def steps(self) -> int:
        return self.trainer.model.step_count


def write(workload: Workload, data: Data, folder: Path) -> None:
    """The file that the spec's data section reads."""
    with (folder / f"{workload.name}.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **data.arrays())


def place(workload: Workload, data: Data, options: frozenset[str], folder: Path) -> Held:
    os.environ["NNC_ENGINE"] = "fast" if "fast" in options else "numpy"
    write(workload, data, folder)
    return load(analyse(read(workload.spec), root=folder), folder)[1], folder


def prepare(workload: Workload, held: Held, options: frozenset[str]) -> NncTraining:
    dataset, folder = held
    program = analyse(read(workload.spec), root=folder)  # again: `place` is not timed, and a compiler's time counts
    assert program.train is not None
    model = Model(program, program.train.seed, dataset.learned.arrays, dataset.rows("train"), folder)
    return NncTraining(EpochsOnly(model, dataset, Run(folder / "run"), Progress(), choose()))
