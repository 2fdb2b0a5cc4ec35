"""scikit-learn: MLPClassifier, for dense networks without norm and dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier
from workloads import Data, Dense, Workload

ACTIVATIONS = {"relu": "relu", "sigmoid": "logistic"}


class SklearnTraining:
    """One `partial_fit` goes once through shuffled batches."""

    def __init__(self, workload: Dense, data: Data):
        self.data, self.classes, self.batch = data, np.arange(workload.sizes[-1]), workload.batch
        self.model: Any = MLPClassifier(
            workload.sizes[1:-1],
            activation=ACTIVATIONS[workload.activation],
            solver="adam" if workload.optimizer == "adam" else "sgd",
            alpha=0,
            batch_size=workload.batch,
            learning_rate_init=workload.rate,
            momentum=0.9 if workload.optimizer == "momentum" else 0,
            nesterovs_momentum=False,
        )

    def epoch(self) -> float:
        self.model.partial_fit(self.data.x, self.data.label, classes=self.classes)
        return float(self.model.loss_)

    def steps(self) -> int:
        return int(self.model.t_) // self.batch  # t_ counts samples


def place(workload: Workload, data: Data, options: frozenset[str], folder: Path) -> Data:
    return data


def prepare(workload: Workload, held: Data, options: frozenset[str]) -> SklearnTraining:
    assert isinstance(workload, Dense)
    return SklearnTraining(workload, held)
