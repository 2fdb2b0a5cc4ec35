"""Keras: `model.fit`, on jax or on torch. The backend is chosen by the environment before Keras is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from workloads import Convolutional, Data, Dense, Recurrent, Tabular, Workload

STEPS_AT_ONCE = 20  # of a compiled call on jax; torch runs eagerly, one by one


def dense_network(workload: Dense) -> Any:
    made: list[Any] = []
    for size in workload.sizes[1:-1]:
        made.append(layers.Dense(size))
        if workload.norm:
            made.append(layers.BatchNormalization())
        made.append(layers.Activation(workload.activation))
        if workload.dropout:
            made.append(layers.Dropout(workload.dropout))
    return keras.Sequential([*made, layers.Dense(workload.sizes[-1])])


def convolutional_network(workload: Convolutional) -> Any:
    made: list[Any] = []
    for i, channels in enumerate(workload.channels):
        made.append(layers.Conv2D(channels, 3, padding="same" if workload.padded else "valid", use_bias=not workload.norm))
        if workload.norm:
            made.append(layers.BatchNormalization())
        made.append(layers.ReLU())
        if (i + 1) % workload.pool_every == 0:
            made.append(layers.MaxPooling2D(2))
    made.append(layers.GlobalAveragePooling2D() if workload.averaged else layers.Flatten())
    made += [layers.Dense(size, activation="relu") for size in workload.dense[:-1]]
    return keras.Sequential([*made, layers.Dense(workload.dense[-1])])


def tabular_network(workload: Tabular) -> Any:
    x = keras.Input((workload.numbers,))
    codes = keras.Input((workload.categories,), dtype="int32")
    rows = [layers.Embedding(workload.vocabulary, workload.size)(codes[:, i]) for i in range(workload.categories)]
    h = layers.Concatenate()([*rows, x])
    for size in workload.sizes[:-1]:
        h = layers.Dense(size, activation="relu")(h)
    return keras.Model([x, codes], layers.Dense(1)(h))


def optimizer(workload: Workload) -> Any:
    match workload.optimizer:
        case "adam":
            return keras.optimizers.Adam(workload.rate)
        case "momentum":
            return keras.optimizers.SGD(workload.rate, momentum=0.9)
        case "sgd":
            return keras.optimizers.SGD(workload.rate)
    raise AssertionError(workload.optimizer)


def compiled(workload: Workload, *, steps_at_once: int) -> Any:
    match workload:
        case Dense():
            model, loss = dense_network(workload), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        case Convolutional():
            model, loss = convolutional_network(workload), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        case Tabular():
            model, loss = tabular_network(workload), keras.losses.BinaryCrossentropy(from_logits=True)
        case Recurrent():
            model, loss = keras.Sequential([layers.LSTM(workload.units), layers.Dense(1)]), keras.losses.MeanSquaredError()
        case _:
            raise AssertionError(workload)
    model.compile(optimizer(workload), loss, steps_per_execution=steps_at_once)
    return model


class KerasTraining:
    def __init__(self, workload: Workload, model: Any, inputs: list[Any], label: Any):
        self.model, self.inputs, self.label, self.batch = model, inputs, label, workload.batch

    def epoch(self) -> float:
        given = self.inputs if len(self.inputs) > 1 else self.inputs[0]
        return float(self.model.fit(given, self.label, batch_size=self.batch, epochs=1, verbose=0).history["loss"][0])

    def steps(self) -> int:
        return int(self.model.optimizer.iterations)


Held = tuple[list[Any], Any]


def place(workload: Workload, data: Data, options: frozenset[str], folder: Path) -> Held:
    x = np.ascontiguousarray(data.x.transpose(0, 2, 3, 1)) if isinstance(workload, Convolutional) else data.x
    return [x, *([] if data.codes is None else [data.codes])], data.label


def prepare(workload: Workload, held: Held, options: frozenset[str]) -> KerasTraining:
    return KerasTraining(workload, compiled(workload, steps_at_once=STEPS_AT_ONCE if "jax" in options else 1), *held)
