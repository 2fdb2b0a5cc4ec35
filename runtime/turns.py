"""How the threads of a team take turns: the loops in which they run a program's steps and wait for each other.

The control block holds what they share, each number on a cache line of its own. A program is a list of (kernel, arguments, parts) as numbers: two
addresses (addresses.py) and how many threads are to share the step.
"""

from __future__ import annotations

from .addresses import add, call, compiled, exchange, int64_at, integers, load, pause, store

LINE = 64  # bytes
ARRIVED, TURN, PUBLISHED, PROGRAM, STEPS, YIELD, PARKED = (LINE * i for i in range(7))
PATIENCE = 2**8  # looks at a number that does not change before others get the core


@compiled()
def _waited(control: int, looks: int) -> int:
    """One more look was in vain."""
    pause()
    if looks >= PATIENCE:
        yielding = load(control + YIELD)
        if yielding != 0:
            call(yielding, 0, 0, 0)
    return looks + 1


@compiled()
def run(control: int, part: int, parts: int) -> None:
    """Every step of the published program, with a wait for the others after each."""
    program, count = int64_at(load(control + PROGRAM)), load(control + STEPS)
    for i in range(count):
        used = min(program[3 * i + 2], parts)
        if part < used:
            call(program[3 * i], program[3 * i + 1], part, used)
        if parts > 1:
            turn = load(control + TURN)
            if add(control + ARRIVED, 1) == parts - 1:
                store(control + ARRIVED, 0)
                store(control + TURN, turn + 1)
            else:
                looks = 0
                while load(control + TURN) == turn:
                    looks = _waited(control, looks)


@integers(4)
def begin(control: int, program: int, count: int, parts: int) -> int:
    """Publish a program, and run this thread's part; where threads sleep, only publish: a bit for each of them."""
    store(control + PROGRAM, program)
    store(control + STEPS, count)
    asleep = 0
    if parts > 1:
        add(control + PUBLISHED, 1)
        for part in range(1, parts):
            if exchange(control + PARKED + LINE * part, 0) != 0:
                asleep |= 1 << part
    if asleep == 0:
        run(control, 0, parts)
    return asleep


@integers(3)
def steps(control: int, part: int, parts: int) -> int:
    """What `begin` left to do."""
    run(control, part, parts)
    return 0


@integers(5)
def serve(control: int, part: int, parts: int, seen: int, limit: int) -> int:
    """Run what is published, until nothing has been for a while; the number of the last program seen."""
    while True:
        looks = 0
        while load(control + PUBLISHED) == seen:
            pause()
            looks += 1
            if looks >= limit:
                store(control + PARKED + LINE * part, 1)
                if load(control + PUBLISHED) == seen or exchange(control + PARKED + LINE * part, 0) == 0:
                    return seen
                looks = 0
        seen += 1
        run(control, part, parts)


@integers(1)
def spin(count: int) -> int:
    for _ in range(count):
        pause()
    return 0


@integers(2)
def prepare(control: int, yielding: int) -> int:
    store(control + YIELD, yielding)
    return 0
