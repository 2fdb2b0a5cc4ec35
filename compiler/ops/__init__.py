"""The operation table, one file a family. Importing this package fills it."""

from . import (
    activations,
    convolution,
    data,
    initialisers,
    layers,
    losses,
    metrics,
    normalisation,
    optimisers,
    penalties,
    planned,
    recurrent,
    schedules,
    shapes,
    sources,
    training,
)

__all__ = [
    "activations",
    "convolution",
    "data",
    "initialisers",
    "layers",
    "losses",
    "metrics",
    "normalisation",
    "optimisers",
    "penalties",
    "planned",
    "recurrent",
    "schedules",
    "shapes",
    "sources",
    "training",
]
