"""Training rows drawn so that classes are equally frequent: the rule stands at class_balance in compiler/ops/data.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnc.runtime.kernels import generator

from .stored import Column

Array = np.ndarray[Any, Any]


def by_class(rows: Array, values: Column) -> list[Array]:
    """The rows of each class that has some. `values` are class indices, or rows of ones and zeros, of all rows."""
    classes = values[rows] if values.ndim == 1 else values[rows].argmax(axis=1)
    return [rows[classes == c] for c in np.unique(classes)]


def size(groups: Sequence[Array]) -> int:
    """Rows of an epoch."""
    return len(groups) * max(len(group) for group in groups)


def draw(groups: Sequence[Array], seed: int, epoch: int) -> Array:
    """The rows of an epoch, by class: as many of each as the largest class has."""
    most = max(len(group) for group in groups)
    parts = []
    for place, group in enumerate(groups):
        times, more = divmod(most, len(group))
        extra = generator(seed, f"balance/{place}", epoch).permutation(len(group))[:more]
        parts += [group] * times + [group[extra]]
    return np.concatenate(parts)
