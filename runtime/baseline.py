"""What a prediction that ignores its inputs would reach: the mean of each target over the training rows, for every sample.

A loss says nothing by itself; beside this one it says how much of the target a network explains. An accuracy that is no better
than this one comes from always giving the most frequent class.
"""

from __future__ import annotations

from collections import ChainMap
from typing import Any

import numpy as np

from nnc.compiler.ir import Value
from nnc.compiler.objective import pairs

from .data.dataset import Dataset
from .data.stored import Column, parts
from .kernels import Array
from .metrics import Evaluator
from .model import Model

_EDGE = 1e-7  # probabilities stay so far from 0 and 1


def constant_figures(model: Model, data: Dataset) -> dict[str, dict[str, float]]:
    """Loss and metrics of the best constant prediction, by split."""
    program = model.program
    assert program.train is not None
    probabilities = {t.term.operands[0].name for t in program.train.loss if "numeric" not in t.term.operation.facts}
    constants = {}
    for prediction, target in pairs(program.train):
        output = program.inference.outputs[prediction]
        found = _mean(data.arrays[target], data.splits["train"], output)
        if prediction in probabilities:
            found = np.clip(found, _EDGE, 1 - _EDGE)
        constants[f"constant/{prediction}"] = found.astype(output.dtype)
    evaluator = Evaluator(program.constant_evaluation(), ChainMap(dict(constants), dict(model.known)), model.arena)
    return {split: evaluator.figures(data.batches(split, evaluator.batch)) for split in data.splits}


def _mean(target: Column, train: Array, output: Value) -> Array:
    """The mean target in the shape of a sample of the prediction: for class indices their shares, the same at every place."""
    shape: tuple[Any, ...] = output.shape[1:]
    places = [d for d in shape[:-1] if d != 1]
    if target.dtype.kind in "iu" and shape and shape[-1] != 1 and [d for d in target.shape[1:] if d != 1] == places:
        values = target[train]
        shares = np.bincount(values.reshape(-1), minlength=shape[-1]) / values.size
        return np.array(np.broadcast_to(shares, shape))
    total = np.sum([part.sum(axis=0, dtype=np.float64) for _, part in parts(target, train)], axis=0)
    return np.asarray(total / len(train)).reshape(shape)
