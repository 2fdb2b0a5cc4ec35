"""NumPy's engine: long steps divided into lanes, which threads share, and joined where each lane may go on to the next step by itself.

Images pass through convolution, normalisation, activation and pool lane by lane, and what a step leaves in the cache the next one finds
there. Lanes do not depend on the machine, so neither do the bits of what they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from nnc.compiler.ir import Value
from nnc.compiler.workspace import lanes_of

from .divided import Array, Call, Divided, Phase
from .threads import for_each

Span = tuple[int, int]  # addresses

WORTH_DIVIDING = 2**16  # elements of the largest array
WORTH_SHARING = 4 * 2**20  # bytes that calls are given: with fewer, the caller is done before a second thread is awake


def divided(values: Sequence[Value], steps: Sequence[Call]) -> list[Call]:
    """The calls of some steps of a plan, the long ones in lanes where a kernel among them has some.

    Without one, as in a recurrent network, products are most of the work, and the BLAS shares them better among all its threads.
    """
    whole = [kernel.phases(*arrays) if isinstance(kernel, Divided) else [[[(kernel, arrays)]]] for kernel, arrays in steps]
    if all(len(phase) == 1 for phases in whole for phase in phases):
        return [call for phases in whole for phase in phases for lane in phase for call in lane]
    found: list[_Region] = []
    for value, (kernel, arrays), phases in zip(values, steps, whole, strict=True):
        lanes = _elementwise(value, kernel, arrays) if value.primitive.elementwise and max(a.size for a in arrays) >= WORTH_DIVIDING else []
        for phase in [lanes] if lanes else phases:
            region = _Region(phase)
            if found and found[-1].takes(region):
                found[-1].join(region)
            else:
                found.append(region)
    return [call for region in found for call in region.calls()]


def _elementwise(value: Value, kernel: Callable[..., Any], arrays: tuple[Array, ...]) -> Phase:
    """Lanes along the first axis; nothing where it cannot be divided."""
    out = arrays[len(value.operands)]
    if out.ndim == 0:
        return []
    alike = [a.ndim == out.ndim and len(a) == len(out) for a in arrays]
    if not all(same or a.ndim < out.ndim or len(a) == 1 for a, same in zip(arrays, alike, strict=True)):
        return []
    return [[(kernel, tuple(a[some] if same else a for a, same in zip(arrays, alike, strict=True)))] for some in lanes_of(len(out))]


class _Region:
    """Lanes that may run at the same time, and the memory that they touch: what all of them read, and what each has for itself."""

    def __init__(self, lanes: Phase):
        self.lanes = lanes
        touched = [{byte_bounds(a) for _, given in calls for a in given if isinstance(a, np.ndarray)} for calls in lanes if len(lanes) > 1]
        self.shared: set[Span] = set.intersection(*touched) if touched else set()
        self.own = [some - self.shared for some in touched]

    def takes(self, other: _Region) -> bool:
        """Whether each lane may go on to the other's: what a lane has for itself, no other lane touches in either."""
        if len(self.lanes) != len(other.lanes) or len(self.lanes) < 2:
            return False
        own = [(*span, lane) for region in (self, other) for lane, spans in enumerate(region.own) for span in spans]
        return not _meet([*own, *((*span, -1) for span in self.shared | other.shared)])

    def join(self, other: _Region) -> None:
        self.lanes = [mine + theirs for mine, theirs in zip(self.lanes, other.lanes, strict=True)]
        self.own = [mine | theirs for mine, theirs in zip(self.own, other.own, strict=True)]
        self.shared |= other.shared

    def calls(self) -> list[Call]:
        lanes = self.lanes
        bytes_given = sum(a.nbytes for calls in lanes for _, given in calls for a in given if isinstance(a, np.ndarray))
        if len(lanes) < 2 or bytes_given < WORTH_SHARING:
            return [call for calls in lanes for call in calls]

        def run(lane: int) -> None:
            for function, given in lanes[lane]:
                function(*given)

        return [(for_each, (len(lanes), run))]


def _meet(spans: list[tuple[int, int, int]]) -> bool:
    """Whether the memory of different lanes overlaps; those of one lane may."""
    reach: dict[int, int] = {}  # how far each lane's spans go that began so far
    for start, stop, lane in sorted(spans):
        if any(end > start for other, end in reach.items() if other != lane):
            return True
        reach[lane] = max(reach.get(lane, 0), stop)
    return False
