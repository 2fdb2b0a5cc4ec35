"""The operation table, one file a family. Importing this package fills it.

The families do not postpone their annotations: pydantic would compile each of them from its text.
"""

from . import (
    activations,
    augmentations,
    convolution,
    data,
    initialisers,
    layers,
    losses,
    metrics,
    normalisation,
    optimisers,
    penalties,
    quantisation,
    recurrent,
    schedules,
    shapes,
    solvers,
    sources,
    splits,
    training,
    tuning,
)

__all__ = [
    "activations",
    "augmentations",
    "convolution",
    "data",
    "initialisers",
    "layers",
    "losses",
    "metrics",
    "normalisation",
    "optimisers",
    "penalties",
    "quantisation",
    "recurrent",
    "schedules",
    "shapes",
    "solvers",
    "sources",
    "splits",
    "training",
    "tuning",
]
