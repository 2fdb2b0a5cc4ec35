"""Training batches, the next one made ready in a thread while a step runs.

Rows of arrays in memory are gathered about as fast as they would be copied from where the thread puts them, and a step whose kernels use all cores
leaves none to a thread. So one takes part only where rows come from a file, or are augmented with a core to spare. What a batch holds depends on
its rows and its step alone, not on who makes it, nor when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from nnc.compiler.experiment import Augmentation
from nnc.runtime.machine import usable_cores
from nnc.runtime.threads import workers

from .augment import augment
from .stored import Column, Stored

Array = np.ndarray[Any, Any]


class Gathering(Protocol):
    """A step that may take the rows of a batch itself."""

    def reads(self, columns: Mapping[str, Column]) -> Array | None:
        """Where to put the address of the rows' numbers; None where it does not."""


class Batches:
    """The batches of an epoch, `size` rows of `order` at a time; a context, which the thread does not outlive."""

    def __init__(self, columns: Mapping[str, Column], augmented: Sequence[Augmentation], seed: int, order: Array, size: int):
        self.columns, self.augmented, self.seed, self.order, self.size = columns, augmented, seed, np.ascontiguousarray(order, np.int64), size
        self.thread: ThreadPoolExecutor | None = None  # for batches that are more than rows gathered from memory
        self.pays = False
        self.rows: Array | None = None
        self.ready: tuple[int, Future[None], dict[str, Array]] | None = None

    def __enter__(self) -> Batches:
        stored = any(isinstance(column, Stored) for column in self.columns.values())
        self.pays = stored or usable_cores() > workers()
        if self.augmented or stored:
            self.thread = ThreadPoolExecutor(1, "nnc-batches")
        return self

    def __exit__(self, *_: object) -> None:
        if self.thread is not None:
            self.thread.shutdown(cancel_futures=True)

    def attach(self, step: Gathering) -> None:
        """Let a step take its rows itself, where nothing else is done to them."""
        self.rows = None if self.thread is not None else step.reads(self.columns)

    def fill(self, inputs: dict[str, Array], start: int, step: int) -> None:
        """Put the batch that starts at a place of the order into a step's inputs. Raises what making it ready raised."""
        if self.rows is not None:
            self.rows[0] = self.order.ctypes.data + 8 * start
            return
        rows = self.order[start : start + self.size]
        if self.thread is None:
            self._make(inputs, rows, step)
            return
        held: dict[str, Array] = {}
        if self.ready is not None and self.ready[0] == start:
            _, made, held = self.ready
            made.result()
            for name, array in held.items():
                np.copyto(inputs[name], array)
        else:
            self._make(inputs, rows, step)
        following = self.order[start + self.size : start + 2 * self.size]
        self.ready = None
        if self.pays and len(following) == len(rows):  # the last batch may be smaller
            held = held or {name: np.empty_like(array) for name, array in inputs.items()}
            self.ready = start + self.size, self.thread.submit(self._make_quietly, held, following, step + 1), held

    def _make(self, inputs: dict[str, Array], rows: Array, step: int) -> None:
        for name, array in inputs.items():
            if name in self.columns:
                self.columns[name].take(rows, 0, array, "clip")
        if self.augmented:
            augment(inputs, self.augmented, self.seed, step)

    def _make_quietly(self, inputs: dict[str, Array], rows: Array, step: int) -> None:
        """As the trainer's own thread is told: infinities are found by looking at results."""
        with np.errstate(all="ignore"):
            self._make(inputs, rows, step)
