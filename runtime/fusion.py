"""Elementwise steps that follow each other, as one loop: the fast engine's reading of a plan.

The plan has put every value at its place, and places are reused as soon as the last reader is past. One loop does to the first element what all
steps do before it comes to the second, so steps may share a loop only if none writes what another reads or writes at other elements: memory is
either apart or the same element by element. A value that nothing outside its loop reads is never stored.

Arrays of a loop are seen as [outer, inner] in the order of memory: what is broadcast is a row, a column, or a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from nnc.compiler.ir import Value
from nnc.compiler.plan import Plan

from . import loops
from .threads import for_each, workers

Array = np.ndarray[Any, Any]
Call = tuple[Callable[..., Any], tuple[Any, ...]]
LEAST_PARALLEL = 2**15  # elements of a loop that is worth a second thread
MANY_PASSES = frozenset(("where", "sigmoid", "tanh"))  # kernels that a loop of their own beats


@dataclass(frozen=True)
class Operand:
    """How a step's operand goes through the loop: `full`, `row` (of the inner axis), `column` (of the outer one) or `number`."""

    kind: str
    array: Array
    inner: int = 0  # elements of the inner axis, where the operand fixes it

    @property
    def span(self) -> tuple[int, int]:
        return byte_bounds(self.array)


@dataclass
class Step:
    value: Value
    operands: list[Operand]
    out: Array  # flat
    order: tuple[tuple[int, int], ...]  # the axes and their lengths, as they lie in memory
    kernel: Callable[..., Any]
    arrays: tuple[Array, ...]


@dataclass
class Group:
    """Steps of one loop."""

    steps: list[Step]
    inner: int = 0
    written: list[Array] = field(default_factory=list)
    read: list[Operand] = field(default_factory=list)

    def accepts(self, step: Step) -> bool:
        if step.out.size != self.steps[0].out.size or step.order != self.steps[0].order:
            return False
        inner = {o.inner for o in step.operands if o.inner} | ({self.inner} if self.inner else set())
        if len(inner) > 1:
            return False
        for operand in step.operands:
            if any(not _apart(operand, written) for written in self.written):
                return False
        new = Operand("full", step.out)
        return all(_apart(read, step.out) for read in self.read) and all(_apart(new, written) for written in self.written)

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.written.append(step.out)
        self.read += step.operands
        self.inner = self.inner or next((o.inner for o in step.operands if o.inner), 0)


def _apart(a: Operand, b: Array) -> bool:
    """Whether two pieces of memory do not overlap, or are the same element by element."""
    (start, stop), (other_start, other_stop) = a.span, byte_bounds(b)
    if stop <= other_start or other_stop <= start:
        return True
    return a.kind == "full" and start == other_start and stop == other_stop and a.array.dtype.itemsize == b.dtype.itemsize


def fused(made: Plan, values: Sequence[Value], calls: Sequence[Call]) -> list[Call]:
    """The calls of some steps of a plan, elementwise ones joined where they may be."""
    outside = _readers(made)
    result: list[Call] = []
    group: Group | None = None

    def close() -> None:
        nonlocal group
        if group is not None:
            result.extend(_calls(group, outside))
        group = None

    for value, (kernel, arrays) in zip(values, calls, strict=True):
        step = _step(value, kernel, arrays)
        if step is None:
            close()
            result.append((kernel, arrays))
            continue
        if group is None or not group.accepts(step):
            close()
            group = Group([])
        group.add(step)
    close()
    return result


def _readers(made: Plan) -> dict[Value, set[Value | None]]:
    """The steps that read each value's memory, also through views; None where it is read after the steps, or lies where others look."""
    found: dict[Value, set[Value | None]] = {value: set() for value in made.steps}

    def root(value: Value) -> Value:
        while value in made.aliases:
            value = value.operands[0]
        return value

    for value in made.steps:
        if made.places[value].kind != "arena":
            found[value].add(None)
        for operand in value.operands:
            found.setdefault(root(operand), set()).add(value)
    for value in made.graph.roots:
        found.setdefault(root(value), set()).add(None)
    return found


def _step(value: Value, kernel: Callable[..., Any], arrays: tuple[Array, ...]) -> Step | None:
    if value.op not in loops.TERMS or not all(loops.knows(a.dtype) for a in arrays[: len(value.operands) + 1]):
        return None
    out = arrays[len(value.operands)]
    order = _order_of(out)
    flat = _flat(out, order)
    if flat is None or out.size == 0:
        return None
    operands = [_operand(a, out, order) for a in arrays[: len(value.operands)]]
    if any(o is None for o in operands) or len({o.inner for o in operands if o is not None and o.inner}) > 1:
        return None
    return Step(value, [o for o in operands if o is not None], flat, tuple((axis, out.shape[axis]) for axis in order), kernel, arrays)


def _order_of(array: Array) -> tuple[int, ...]:
    """The axes from the outermost in memory to the innermost; those of length 1 are left out."""
    return tuple(sorted((i for i in range(array.ndim) if array.shape[i] != 1), key=lambda i: (-array.strides[i], i)))


def _flat(array: Array, order: tuple[int, ...]) -> Array | None:
    """The array as one axis in the order of memory, or None where it does not fill its memory."""
    expected = array.itemsize
    for axis in reversed(order):
        if array.strides[axis] != expected:
            return None
        expected *= array.shape[axis]
    return _seen(array, array.size)


class _Memory:
    """Some elements of an array one after another. A broadcast view calls itself read-only; compiled loops know one kind of array."""

    def __init__(self, array: Array, count: int):
        self.owner = array
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False), "shape": (count,), "strides": None}


def _seen(array: Array, count: int) -> Array:
    return np.asarray(_Memory(array, count))


def _operand(array: Array, out: Array, order: tuple[int, ...]) -> Operand | None:
    if array.size == 1:
        return Operand("number", _seen(array, 1))
    spread = np.broadcast_to(array, out.shape)
    steps = [spread.strides[axis] for axis in order]
    sizes = [out.shape[axis] for axis in order]
    moving = [i for i, step in enumerate(steps) if step != 0]
    if not moving:  # one number, spread
        return Operand("number", _seen(array, 1))
    first, last = moving[0], moving[-1] + 1
    if len(moving) != last - first:
        return None
    expected = array.itemsize
    for i in reversed(moving):
        if steps[i] != expected:
            return None
        expected *= sizes[i]
    count = expected // array.itemsize
    flat = _seen(array, count)
    if first == 0 and last == len(order):
        return Operand("full", flat)
    if last == len(order):
        return Operand("row", flat, count)
    if first == 0:
        return Operand("column", flat, out.size // count)
    return None


def _calls(group: Group, readers: dict[Value, set[Value | None]]) -> Iterable[Call]:
    members = {step.value for step in group.steps}
    if len(group.steps) == 1 and (group.steps[0].value.op not in MANY_PASSES or group.steps[0].out.size < 512):
        return [(step.kernel, step.arrays) for step in group.steps]
    inner = group.inner
    lines, parameters, outputs = [], _Parameters(inner), []
    registers: dict[tuple[int, int], str] = {}  # where a value of this loop lies -> its name in the loop
    for number, step in enumerate(group.steps):
        names = []
        for operand in step.operands:
            register = registers.get(operand.span) if operand.kind == "full" else None
            names.append(register or parameters.read(operand))
        name = f"v{number}"
        lines.append(f"{name} = {loops.term(step.value, names)}")
        span = byte_bounds(step.out)
        registers = {at: held for at, held in registers.items() if at != span} | {span: name}
        if readers[step.value] - members:
            outputs.append((parameters.name(Operand("full", step.out)), name, span))
    final = {span: (target, name) for target, name, span in outputs}  # of two values at one place the last one stays
    lines += [f"{target}[AT] = {name}" for target, name in final.values()]
    loop = loops.loop(parameters.kinds, [*parameters.reads, *lines], two=bool(inner))
    return [_bound(loop, parameters.arrays(), group.steps[0].out.size)]


class _Parameters:
    """The arrays of a loop, each once, as [outer, inner] where the loop has two axes."""

    def __init__(self, inner: int):
        self.inner = inner
        self.known: dict[tuple[str, tuple[int, int], np.dtype[Any]], str] = {}
        self.operands: list[Operand] = []
        self.reads: list[str] = []
        self.loaded: dict[str, str] = {}

    @property
    def kinds(self) -> list[tuple[str, str]]:
        return [(o.kind, str(o.array.dtype)) for o in self.operands]

    def name(self, operand: Operand) -> str:
        key = operand.kind, operand.span, operand.array.dtype
        if key not in self.known:
            self.known[key] = f"a{len(self.operands)}"
            self.operands.append(operand)
        return self.known[key]

    def read(self, operand: Operand) -> str:
        """The register of an array's element, read before anything is written."""
        name = self.name(operand)
        if name not in self.loaded:
            self.loaded[name] = f"x{name[1:]}"
            place = {"full": "AT", "row": "j", "column": "i", "number": "0"}[operand.kind]
            self.reads.append(f"{self.loaded[name]} = {name}[{place}]")
        return self.loaded[name]

    def arrays(self) -> list[tuple[str, Array]]:
        shaped = [(o.kind, o.array.reshape(-1, self.inner) if o.kind == "full" and self.inner else o.array) for o in self.operands]
        return shaped


def _bound(loop: Callable[..., Any], arrays: list[tuple[str, Array]], size: int) -> Call:
    """The loop over its arrays, in as many parts as there are threads where it is long."""
    outer = next(len(array) for kind, array in arrays if kind == "full")
    parts = min(workers(), outer) if size >= LEAST_PARALLEL else 1
    if parts == 1:
        return loop, tuple(array for _, array in arrays)
    cuts = [outer * i // parts for i in range(parts + 1)]
    lanes = [
        tuple(array[start:stop] if kind in ("full", "column") else array for kind, array in arrays)
        for start, stop in pairwise(cuts)
    ]

    def run(*_: Any) -> None:
        for_each(parts, lambda lane: loop(*lanes[lane]))

    return run, ()
