"""A team of threads that goes through the compiled steps of a program together, each doing its part of every step.

After each step the threads wait for each other in a loop that spins, which costs a fraction of a microsecond where waking a thread costs tens.
Between programs a thread spins for a while too, then sleeps until it is woken. turns.py has what they run.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .bound import Bound
from .machine_code import Codes
from .threads import held, hold, workers

Array = np.ndarray[Any, Any]
Call = tuple[Callable[..., Any], tuple[Any, ...]]

SPIN_SECONDS = 2e-4  # that an idle thread waits awake
turns = Codes("turns")


def _yielding() -> int:
    """The address of what gives the core to another thread, where the system has one that takes no arguments."""
    function = getattr(ctypes.CDLL(None), "sched_yield", None) if os.name == "posix" else None
    return ctypes.cast(function, ctypes.c_void_p).value or 0 if function is not None else 0


class Team:
    def __init__(self, size: int):
        self.size = size
        self._memory = np.zeros(64 * (size + 16), np.uint8)  # the control block
        self._control = self._memory.ctypes.data + -self._memory.ctypes.data % 64
        self._lock = threading.Lock()
        self._gates = [threading.Semaphore(0) for _ in range(size)]
        self._begin, self._steps, self._serve = turns.begin.callable(4), turns.steps.callable(3), turns.serve.callable(5)
        turns.prepare.callable(2)(self._control, _yielding())
        self._limit = _looks(SPIN_SECONDS) if size > 1 else 0
        for part in range(1, size):
            threading.Thread(target=self._member, args=(part,), name=f"nnc-team-{part}", daemon=True).start()

    def _member(self, part: int) -> None:
        seen = 0
        while True:
            seen = self._serve(self._control, part, self.size, seen, self._limit)
            self._gates[part].acquire()

    def run(self, program: int, count: int, together: bool) -> None:
        """All steps of the program at an address, by the whole team or by the caller alone."""
        with self._lock:
            if held():
                self._run(program, count, together)
            else:
                with hold():
                    self._run(program, count, together)

    def _run(self, program: int, count: int, together: bool) -> None:
        asleep = self._begin(self._control, program, count, self.size if together else 1)
        if asleep:
            for part in range(1, self.size):
                if asleep >> part & 1:
                    self._gates[part].release()
            self._steps(self._control, 0, self.size)


def _looks(seconds: float) -> int:
    """How often a waiting thread looks in that time."""
    spin, count = turns.spin.callable(1), 10_000
    begun = time.perf_counter()
    spin(count)
    return max(100, int(count * seconds / max(time.perf_counter() - begun, 1e-7)))


_teams: dict[int, Team] = {}


def team() -> Team:
    """The team of this process of as many threads as lanes are run on."""
    size = workers()
    if size not in _teams:
        _teams[size] = Team(size)
    return _teams[size]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _teams.clear())  # threads do not survive a fork


WORTH_SHARING = 1500.0  # nanoseconds of a step's work


class Steps:
    """Compiled steps that follow each other in a program. `checks` are called where a kernel has left a fault: they say what is wrong."""

    def __init__(self, bound: Sequence[Bound], faults: Array | None = None, checks: Sequence[Call] = ()):
        members = team()
        self._kept = bound
        self._arguments = [np.array([a if isinstance(a, int) else a.ctypes.data for a in b.arguments], np.int64) for b in bound]
        parts = [members.size if b.work >= WORTH_SHARING else 1 for b in bound]
        rows = zip(bound, self._arguments, parts, strict=True)
        self._program = np.array([number for b, a, p in rows for number in (b.kernel.address, a.ctypes.data, p)], np.int64)
        self._address, self._count, self._together = self._program.ctypes.data, len(bound), max(parts) > 1
        self._run, self._faults, self._checks = members.run, faults, checks

    def before(self, calls: Sequence[Call]) -> list[Call]:
        """These steps and then others, as one program with those that come first."""
        if calls and isinstance(calls[0][0], Steps):
            first = calls[0][0]
            return [(Steps([*self._kept, *first._kept], first._faults, first._checks), ()), *calls[1:]]
        return [(self, ()), *calls]

    def apart(self) -> list[tuple[str, Callable[[], None]]]:
        """Each step as a program of its own, under its kernel's name and its first numbers: for looking where the time goes."""
        found: list[tuple[str, Callable[[], None]]] = []
        for i, bound in enumerate(self._kept):
            numbers = [str(a) for a in bound.arguments if isinstance(a, int)][:6]
            alone = partial(self._run, self._address + 24 * i, 1, bool(self._program[3 * i + 2] > 1))
            found.append((f"{bound.kernel.name} {' '.join(numbers)}", alone))
        return found

    def __call__(self) -> None:
        self._run(self._address, self._count, self._together)
        if self._checks and self._faults is not None and self._faults[0]:
            self._faults[0] = 0
            for kernel, arrays in self._checks:
                kernel(*arrays)
