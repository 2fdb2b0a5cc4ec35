"""The threads of this process: those of the BLAS, and one pool for work in lanes.

NumPy's loops run on one thread. Work that is divided into lanes, such as the parts of a file or of a batch of images, runs in the pool, on as many
threads as the BLAS would use; while it does, the BLAS is held to one thread, for two pools that wait for each other are slower than either. What a
lane computes does not depend on which thread runs it, nor on how many there are.

Threads of Python run at once only inside of NumPy's calls: calls of microseconds wait for each other's lock, those of some ten microseconds hardly do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from queue import SimpleQueue
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import ThreadpoolController

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
    def _threads(self) -> list[SimpleQueue[_Task]]:
        """What each thread waits for; they end with the process."""
        queues: list[SimpleQueue[_Task]] = [SimpleQueue() for _ in range(self.workers - 1)]
        for tasks in queues:
            threading.Thread(target=_serve, args=(tasks,), name="nnc-lanes", daemon=True).start()
        return queues

    def for_each(self, count: int, body: Body) -> None:
        """Who is done with a number takes the next."""
        helpers = min(self.workers, count) - 1
        if helpers < 1 or not self._lock.acquire(blocking=False):  # busy for another thread of the user's
            _run(iter(range(count)), body)
            return
        try:
            with hold():
                numbers = iter(range(count))
                helping = [_Task(numbers, body) for _ in range(helpers)]
                for task, thread in zip(helping, self._threads, strict=False):
                    thread.put(task)
                try:
                    _run(numbers, body)
                finally:
                    for task in helping:  # nothing may still write when this returns
                        task.wait()
            for task in helping:
                if task.error is not None:
                    raise task.error
        finally:
            self._lock.release()


class _Task(AbstractContextManager[None]):
    """Numbers that some threads take from each other, and what to do with them; what goes wrong inside is kept for the thread that waits."""

    def __init__(self, numbers: Iterator[int], body: Body):
        self.numbers, self.body = numbers, body
        self.error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        self.error = error
        self._done.release()
        return True

    def wait(self) -> None:
        self._done.acquire()


def _serve(tasks: SimpleQueue[_Task]) -> None:
    while True:
        task = tasks.get()
        with task:
            _run(task.numbers, task.body)


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


def _run(numbers: Iterator[int], body: Body) -> None:
    with np.errstate(all="ignore"):
        for number in numbers:
            body(number)


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


def _after_fork() -> None:
    """Threads do not survive a fork: the child starts its own."""
    global _pool
    _pool = Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
