"""A kernel with what it is given: what a step of a plan becomes where it is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
Argument = int | Array


class Addressed(Protocol):
    """A kernel in memory."""

    name: str

    @property
    def address(self) -> int: ...


@dataclass(frozen=True)
class Bound:
    """A kernel and its arguments: numbers, and arrays whose addresses are meant. `work` is about how many nanoseconds one thread takes."""

    kernel: Addressed
    arguments: tuple[Argument, ...]
    work: float


def sums_of(count: int, columns: int) -> Array:
    """Zeros [count, columns] in float32 that begin where a line of the cache does: a vector across two lines is stored and read again slowly."""
    memory = np.zeros(count * columns + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + count * columns].reshape(count, columns)


def moved(*arrays: Array) -> float:
    """Nanoseconds for going through arrays that are in a cache."""
    return sum(a.size for a in arrays) * 0.1


def plain(*arrays: Array) -> bool:
    """Whether each lies in memory in the order of its axes."""
    return all(a.flags.c_contiguous for a in arrays)
