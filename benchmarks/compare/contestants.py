"""Who takes part, and in what.

A contestant's module has two functions. `place(workload, data, options, folder)` brings the data to where training reads it, and is
not timed. `prepare(workload, held, options)` makes the network and gives a `Training`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from workloads import Convolutional, Dense, Workload


class Training(Protocol):
    def epoch(self) -> Any:
        """One epoch: shuffle, and train on every batch. The mean loss, where the contestant tells it; it is known when this returns."""

    def steps(self) -> int:
        """Updates made so far."""


@dataclass(frozen=True)
class Contestant:
    name: str
    module: str
    libraries: tuple[str, ...]  # without them it does not take part
    options: frozenset[str] = frozenset()
    own: bool = False  # nnc's, measured against the others; it runs in this interpreter
    takes: Callable[[Workload], bool] = lambda workload: True


def _images(workload: Workload) -> bool:
    return isinstance(workload, Convolutional)


def _no_images(workload: Workload) -> bool:
    """XLA on a CPU runs convolutions inside a loop many times slower than outside."""
    return not isinstance(workload, Convolutional)


def _plain(workload: Workload) -> bool:
    return isinstance(workload, Dense) and not workload.norm and not workload.dropout


_ALL = (
    Contestant("nnc", "nnc_trainer", (), frozenset({"numpy"}), own=True),
    Contestant("nnc-fast", "nnc_trainer", ("numba",), frozenset({"fast"}), own=True),
    Contestant("torch", "torch_peer", ("torch",)),
    Contestant("torch-cl", "torch_peer", ("torch",), frozenset({"channels_last"}), takes=_images),
    Contestant("torch-compile", "torch_peer", ("torch",), frozenset({"compile"})),
    Contestant("torch-compile-cl", "torch_peer", ("torch",), frozenset({"compile", "channels_last"}), takes=_images),
    Contestant("jax", "jax_peer", ("jax",)),
    Contestant("jax-epoch", "jax_peer", ("jax",), frozenset({"epoch"}), takes=_no_images),
    Contestant("keras-jax", "keras_peer", ("keras", "jax"), frozenset({"jax"})),
    Contestant("keras-torch", "keras_peer", ("keras", "torch"), frozenset({"torch"})),
    Contestant("sklearn", "sklearn_peer", ("sklearn",), takes=_plain),
)
CONTESTANTS = {contestant.name: contestant for contestant in _ALL}
