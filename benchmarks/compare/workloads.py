"""The eight workloads: what every contestant trains, and on which numbers.

`benchmarks/workloads/NAME.nn` says the same to nnc; a test holds the two together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SPECS = Path(__file__).parent.parent / "workloads"
RATES = {"sgd": 0.1, "momentum": 0.01, "adam": 1e-3}


@dataclass(frozen=True)
class Data:
    """Samples first. `codes` are the categories of a table, one column each."""

    x: Array
    label: Array
    codes: Array | None = None

    def arrays(self) -> dict[str, Array]:
        """By the names that the specs use."""
        codes = {} if self.codes is None else {f"c{i + 1}": np.ascontiguousarray(column) for i, column in enumerate(self.codes.T)}
        return {"x": self.x, **codes, "label": self.label}


@dataclass(frozen=True, kw_only=True)
class Workload(ABC):
    name: str
    batch: int
    samples: int  # in an epoch; whole batches
    optimizer: str

    @property
    def spec(self) -> Path:
        return SPECS / f"{self.name}.nn"

    @property
    def rate(self) -> float:
        return RATES[self.optimizer]

    def steps(self, samples: int) -> int:
        """Steps of an epoch."""
        return samples // self.batch

    @abstractmethod
    def data(self, samples: int, seed: int = 0) -> Data:
        """Random samples, equal for equal seeds."""


@dataclass(frozen=True, kw_only=True)
class Dense(Workload):
    """Dense layers; between them an activation, before it batch norm, after it dropout. Cross-entropy over classes."""

    sizes: tuple[int, ...]
    activation: str = "relu"
    norm: bool = False
    dropout: float = 0.0

    def data(self, samples: int, seed: int = 0) -> Data:
        draw = np.random.default_rng(seed)
        return Data(draw.standard_normal((samples, self.sizes[0]), np.float32), draw.integers(0, self.sizes[-1], samples))


@dataclass(frozen=True, kw_only=True)
class Convolutional(Workload):
    """3x3 convolutions, each with relu, a 2x2 max-pool after every `pool_every` of them, then dense layers. Cross-entropy over classes."""

    shape: tuple[int, int, int]
    channels: tuple[int, ...]
    pool_every: int
    padded: bool
    norm: bool  # in place of the bias
    averaged: bool  # the mean over positions before the dense layers
    dense: tuple[int, ...]

    def data(self, samples: int, seed: int = 0) -> Data:
        draw = np.random.default_rng(seed)
        return Data(draw.standard_normal((samples, *self.shape), np.float32), draw.integers(0, self.dense[-1], samples))

    @property
    def features(self) -> int:
        """What the first dense layer takes."""
        side = self.shape[1]
        for i in range(len(self.channels)):
            side -= 0 if self.padded else 2
            if (i + 1) % self.pool_every == 0:
                side //= 2
        return self.channels[-1] * (1 if self.averaged else side * side)


@dataclass(frozen=True, kw_only=True)
class Tabular(Workload):
    """An embedding for each category, joined with numbers, then dense layers with relu. Binary cross-entropy."""

    categories: int
    vocabulary: int
    size: int
    numbers: int
    sizes: tuple[int, ...]

    def data(self, samples: int, seed: int = 0) -> Data:
        draw = np.random.default_rng(seed)
        codes = draw.integers(0, self.vocabulary, (samples, self.categories))
        return Data(draw.standard_normal((samples, self.numbers), np.float32), draw.integers(0, 2, samples).astype(np.float32), codes)


@dataclass(frozen=True, kw_only=True)
class Recurrent(Workload):
    """One LSTM layer, and a dense layer on its last state. Squared error."""

    length: int
    features: int
    units: int

    def data(self, samples: int, seed: int = 0) -> Data:
        draw = np.random.default_rng(seed)
        return Data(draw.standard_normal((samples, self.length, self.features), np.float32), draw.standard_normal(samples, np.float32))


_ALL: tuple[Workload, ...] = (
    Dense(name="mlp-s", batch=10, samples=5_000, optimizer="sgd", sizes=(784, 30, 10), activation="sigmoid"),
    Dense(name="mlp-m", batch=64, samples=12_800, optimizer="adam", sizes=(784, 128, 10)),
    Dense(name="mlp-l", batch=128, samples=12_800, optimizer="adam", sizes=(784, 512, 512, 10), norm=True, dropout=0.2),
    Dense(name="mlp-xl", batch=256, samples=12_800, optimizer="momentum", sizes=(784, 1024, 1024, 10)),
    Convolutional(name="lenet", batch=64, samples=3_200, optimizer="momentum", shape=(1, 28, 28), channels=(32, 64), pool_every=1,
                  padded=False, norm=False, averaged=False, dense=(128, 10)),
    Convolutional(name="vgg-s", batch=32, samples=960, optimizer="adam", shape=(3, 32, 32), channels=(32, 32, 64, 64, 128, 128), pool_every=2,
                  padded=True, norm=True, averaged=True, dense=(10,)),
    Tabular(name="tabular", batch=256, samples=25_600, optimizer="adam", categories=8, vocabulary=1000, size=16, numbers=13, sizes=(256, 128, 1)),
    Recurrent(name="lstm", batch=32, samples=1_280, optimizer="adam", length=50, features=32, units=64),
)  # fmt: skip
WORKLOADS = {workload.name: workload for workload in _ALL}
