"""The threads of this process: those of the BLAS, and one pool for work in lanes.

NumPy's loops run on one thread. Work of some length that is divided into lanes, such as the parts of a file, runs in the pool, on as many threads as the
BLAS would use; while it does, the BLAS is held to one thread, for two pools that wait for each other are slower than either. What a
lane computes does not depend on which thread runs it, nor on how many there are. The steps of NumPy's engine are no such work: they take
microseconds each, and threads of Python would wait for each other's lock; there the BLAS divides the products.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

T = TypeVar("T")
Body = Callable[[int], None]


def blas_libraries() -> list[Any]:
    """The BLAS libraries of this process that tell their threads and let them be set, NumPy's own first."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return sorted(found, key=lambda library: "numpy" not in library.filepath)


class Pool:
    """`for_each(count, body)` calls body(0) ... body(count - 1); the order, and on which thread, is not defined."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @cached_property
    def _blas(self) -> list[Any]:
        return blas_libraries()

    @cached_property
    def workers(self) -> int:
        """As many threads as NumPy's BLAS has, so that its settings and the process's cores are respected."""
        return int(self._blas[0].num_threads) if self._blas else 1

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.workers - 1, "nnc-lanes")

    def for_each(self, count: int, body: Body) -> None:
        workers = min(self.workers, count)
        if workers < 2 or not self._lock.acquire(blocking=False):  # busy for another thread of the user's
            _run(range(count), body)
            return
        try:
            with hold():
                own, *others = shares(range(count), workers)
                running = [self._threads.submit(_run, share, body) for share in others]
                try:
                    _run(own, body)
                finally:
                    for future in running:  # nothing may still write when this returns
                        future.exception()
                for future in running:
                    future.result()
        finally:
            self._lock.release()


class hold(AbstractContextManager[None]):
    """While inside, the BLAS has one thread: those of a pool or a team do the sharing. May be entered again inside."""

    depth = 0
    before: ClassVar[list[int]] = []
    _lock = threading.Lock()

    def __enter__(self) -> None:
        with hold._lock:
            if hold.depth == 0:
                workers()  # counted before it changes
                hold.before = [library.num_threads for library in _pool._blas]
                for library in _pool._blas:
                    library.set_num_threads(1)
            hold.depth += 1

    def __exit__(self, *_: object) -> None:
        with hold._lock:
            hold.depth -= 1
            if hold.depth == 0:
                for library, threads in zip(_pool._blas, hold.before, strict=True):
                    library.set_num_threads(threads)


def held() -> bool:
    return hold.depth > 0


def _run(lanes: Sequence[int], body: Body) -> None:
    with np.errstate(all="ignore"):
        for lane in lanes:
            body(lane)


_pool = Pool()


@contextmanager
def with_threads(threads: int | None) -> Iterator[None]:
    """Have the BLAS, and with it the pool, on so many threads; as many as it takes, where that is less. None leaves them as they are."""
    global _pool
    libraries = blas_libraries() if threads is not None else []
    before = [library.num_threads for library in libraries]
    try:
        for library in libraries:
            library.set_num_threads(threads)
        _pool = Pool()
        yield
    finally:
        for library, count in zip(libraries, before, strict=True):
            library.set_num_threads(count)
        _pool = Pool()


def for_each(count: int, body: Body) -> None:
    """Call body(0) ... body(count - 1), on several threads where that is possible."""
    _pool.for_each(count, body)


def workers() -> int:
    """Threads that lanes are run on."""
    return _pool.workers


def shares(items: Sequence[T], count: int) -> list[Sequence[T]]:
    """The items in `count` runs of nearly equal length."""
    return [items[len(items) * i // count : len(items) * (i + 1) // count] for i in range(count)]


def _after_fork() -> None:
    """Threads do not survive a fork: the child starts its own."""
    global _pool
    _pool = Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
