"""Kernels whose work is divided into lanes: the calls of NumPy that they come to, with every view made when they are bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnc.compiler.workspace import lanes_of

Array = np.ndarray[Any, Any]
Calls = list[tuple[Callable[..., Any], tuple[Any, ...]]]
Phase = list[Calls]  # a list of calls for each lane; lanes of a phase read and write nothing that another one of them writes


class Divided:
    """A kernel that runs phase by phase, the lanes of each in any order and at the same time."""

    def phases(self, *arrays: Any, **_: Any) -> list[Phase]:  # so declared, any list of arrays may be named
        raise NotImplementedError

    def __call__(self, *arrays: Array) -> None:
        """All of it, on this thread."""
        for phase in self.phases(*arrays):
            for lane in phase:
                for function, given in lane:
                    function(*given)


def by_samples(count: int, lane: Callable[[int, slice], Calls]) -> Phase:
    """`lane(number, samples)` for each lane of a batch."""
    return [lane(number, some) for number, some in enumerate(lanes_of(count))]

