"""Kernels whose work is divided into lanes: the calls of NumPy that they come to, with every view made when they are bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from nnc.compiler.workspace import lanes_of

Array = np.ndarray[Any, Any]
Call = tuple[Callable[..., Any], tuple[Any, ...]]
Calls = list[Call]
Phase = list[Calls]  # a list of calls for each lane; lanes of a phase read and write nothing that another one of them writes


class Divided:
    """A kernel that runs phase by phase, the lanes of each in any order and at the same time."""

    _given: tuple[Array, ...] = ()
    _calls: Iterable[Call] = ()

    def phases(self, *arrays: Any, **_: Any) -> list[Phase]:  # so declared, any list of arrays may be named
        raise NotImplementedError

    def __call__(self, *arrays: Array) -> None:
        """All of it, on this thread. The calls are kept, for a program gives the same arrays each time."""
        if len(self._given) != len(arrays) or any(a is not b for a, b in zip(self._given, arrays, strict=True)):
            self._given, self._calls = arrays, [call for phase in self.phases(*arrays) for lane in phase for call in lane]
        for function, given in self._calls:
            function(*given)


def by_samples(count: int, lane: Callable[[int, slice], Calls]) -> Phase:
    """`lane(number, samples)` for each lane of a batch."""
    return [lane(number, some) for number, some in enumerate(lanes_of(count))]

