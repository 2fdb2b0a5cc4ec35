"""Elementwise steps that follow each other, as one loop: the fast engine's reading of a plan.

The plan has put every value at its place, and places are reused as soon as the last reader is past. One loop does to the first element what all
steps do before it comes to the second, so steps may share a loop only if none writes what another reads or writes at other elements: memory is
either apart or the same element by element. A value that nothing outside its loop reads is never stored.

Arrays of a loop are seen as [outer, inner] in the order of memory: what is broadcast is a row, a column, or a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from nnc.compiler.ir import Value
from nnc.compiler.plan import Plan

from . import loops
from .bound import Argument, Bound, sums_of
from .kernels import Randomness, nothing
from .machine_code import Codes
from .native import RUN, copied, native, taken
from .team import Steps
from .threads import workers

Array = np.ndarray[Any, Any]
dense = Codes("dense")
Call = tuple[Callable[..., Any], tuple[Any, ...]]


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


@dataclass
class Group:
    """Steps of one loop."""

    steps: list[Step]
    inner: int = 0
    written: list[Array] = field(default_factory=list)
    read: list[Operand] = field(default_factory=list)
    sums: list[tuple[int, Value, Array]] = field(default_factory=list)  # of a step's result over all but its innermost axis

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

    def ignores(self, step: Step) -> bool:
        """Whether the step may as well run before this loop: neither writes what the other reads or writes."""
        theirs = [byte_bounds(written) for written in self.written]
        out = byte_bounds(step.out)
        return not any(_meet(o.span, w) for o in step.operands for w in theirs) and not any(_meet(out, s) for s in (*theirs, *(r.span for r in self.read)))

    def sums_up(self, value: Value, x: Array, out: Array) -> bool:
        """Whether the loop takes a sum over all axes but the innermost of what one of its steps has just computed."""
        for number, step in enumerate(self.steps):
            if step.value is value.operands[0] and x.dtype == out.dtype == np.float32 and out.flags.c_contiguous and len(step.order) > 1:
                axis, inner = step.order[-1]
                summed = all(a in value.attributes["axes"] for a, _ in step.order[:-1]) and axis not in value.attributes["axes"]
                over = any(byte_bounds(later.out) == byte_bounds(step.out) for later in self.steps[number + 1 :])
                if not summed or over or self.inner not in (0, inner):
                    return False
                self.inner = inner
                self.sums.append((number, value, out.reshape(-1)))
                self.written.append(out.reshape(-1))
                return True
        return False

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.written.append(step.out)
        self.read += step.operands
        self.inner = self.inner or next((o.inner for o in step.operands if o.inner), 0)


def _apart(a: Operand, b: Array) -> bool:
    """Whether two pieces of memory do not overlap, or are the same element by element."""
    mine, others = a.span, byte_bounds(b)
    return not _meet(mine, others) or (a.kind == "full" and mine == others and a.array.dtype.itemsize == b.dtype.itemsize)


def _meet(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _join(groups: list[Group], step: Step) -> None:
    """Put a step into the last loop that takes it, past those that do not mind; else it begins one.

    What is a single number is computed as early as it may be, so that it does not come between steps over arrays: an optimiser's corrections are such.
    """
    place = len(groups)
    while place > 0:
        if groups[place - 1].accepts(step):
            groups[place - 1].add(step)
            return
        if not groups[place - 1].ignores(step):
            break
        place -= 1
    begun = Group([])
    begun.add(step)
    groups.insert(place if step.out.size == 1 else len(groups), begun)


def _take_sum(groups: list[Group], value: Value, x: Array, out: Array) -> bool:
    """Let a loop add up what it computes, where the loops after it have nothing to do with the place of the sum."""
    if value.op != "reduce_sum":
        return False
    for place in reversed(range(len(groups))):
        if groups[place].sums_up(value, x, out):
            return True
        used = [*(o.span for o in groups[place].read), *(byte_bounds(written) for written in groups[place].written)]
        if any(_meet(byte_bounds(out), span) for span in used):
            return False
    return False


def fused(made: Plan, values: Sequence[Value], calls: Sequence[Call], randomness: Randomness) -> list[Call]:
    """The calls of some steps of a plan: compiled ones together, elementwise ones among them joined where they may be."""
    outside = _readers(made)
    result: list[Call] = []
    compiled: list[Bound] = []
    checked: list[Call] = []
    faults = np.zeros(1, np.int64)
    groups: list[Group] = []  # loops that may still grow

    def close() -> None:
        for group in groups:
            compiled.extend(_bound(group, outside))
        groups.clear()

    def finish() -> None:
        close()
        if compiled:
            result.append((Steps(compiled.copy(), faults, checked.copy()), ()))
            compiled.clear()
            checked.clear()

    for value, (kernel, arrays) in zip(values, calls, strict=True):
        step = _step(value, arrays)
        if step is not None:
            _join(groups, step)
            continue
        spread = _spread(value, arrays)
        if spread is not None:
            close()
            copy, step = spread
            compiled += copy
            _join(groups, step)
            continue
        if kernel is nothing or _take_sum(groups, value, arrays[0], arrays[1]):
            continue
        bound = native(value, arrays, randomness, faults)
        if bound is None:
            finish()
            result.append((kernel, arrays))
            continue
        close()
        compiled += bound
        if value.op == "gather":
            checked.append((kernel, arrays))
    finish()
    return result


def gathered(feeds: Sequence[tuple[Any, Array]], rows: Array, calls: list[Call]) -> list[Call] | None:
    """Calls with compiled steps before them that gather rows of columns into inputs; None where a column is not in memory or lies otherwise."""
    bound = [taken(column, out, rows) for column, out in feeds if isinstance(column, np.ndarray)]
    found = [b for b in bound if b is not None]
    return Steps(found).before(calls) if found and len(found) == len(feeds) else None


def copies(pairs: Sequence[tuple[Array, Array]]) -> list[Call]:
    """Copies of arrays into others, compiled where that is possible."""
    found = [copied(x, out) for out, x in pairs]
    bound = [b for some in found if some is not None for b in some]
    plain: list[Call] = [(np.copyto, pair) for pair, some in zip(pairs, found, strict=True) if some is None]
    return [*plain, (Steps(bound), ())] if bound else plain


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


def _step(value: Value, arrays: tuple[Array, ...]) -> Step | None:
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
    return Step(value, [o for o in operands if o is not None], flat, tuple((axis, out.shape[axis]) for axis in order))


def _spread(value: Value, arrays: tuple[Array, ...]) -> tuple[Sequence[Bound], Step] | None:
    """A copy to the result's place of the one operand that lies in another order, or is repeated along axes in the middle; the step takes it from there."""
    if value.op not in loops.TERMS:
        return None
    count = len(value.operands)
    given, out = arrays[:count], arrays[count]
    order = _order_of(out)
    other = [i for i, a in enumerate(given) if _operand(a, out, order) is None]
    if len(other) != 1 or any(_meet(byte_bounds(a), byte_bounds(out)) for a in given):
        return None
    step = _step(value, (*given[: other[0]], out, *given[other[0] + 1 :], out))
    copy = None if step is None else copied(np.broadcast_to(given[other[0]], out.shape), out)
    return None if step is None or copy is None else (copy, step)


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


def _bound(group: Group, readers: dict[Value, set[Value | None]]) -> list[Bound]:
    """The loop of a group, with its arrays; then the sums of what its runs of rows have added up."""
    members: set[Value | None] = {*(step.value for step in group.steps), *(value for _, value, _ in group.sums)}
    inner = group.inner
    lines, parameters, outputs = [], _Parameters(), []
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
    size = group.steps[0].out.size
    text = [*parameters.reads, *lines]
    sums = [f"v{number}" for number, _, _ in group.sums]
    loop = loops.summing_loop(parameters.kinds, text, sums) if sums else loops.loop(parameters.kinds, text, two=bool(inner))
    shape = (size // inner, inner) if inner else (size, 1)
    slow = sum(step.value.op in SLOW for step in group.steps)
    work = size * (0.05 * len(parameters.operands) + 0.02 * len(lines) + 0.4 * slow)
    arguments: tuple[Argument, ...] = (*shape, *(o.array for o in parameters.operands))
    if not group.sums:
        return [Bound(loop, arguments, work)]
    runs = -(-shape[0] // (RUN * workers())) * workers()
    apart = [sums_of(runs + loops.SUMS * workers(), inner) for _ in group.sums]
    added = [Bound(dense.add_sums, (some, runs, inner, out), 0.0) for some, (_, _, out) in zip(apart, group.sums, strict=True)]
    return [Bound(loop, (*arguments, runs, *apart), work), *added]


SLOW = frozenset(("exp", "tanh", "sigmoid", "log", "divide", "sqrt", "power", "softplus", "log1p", "expm1"))


class _Parameters:
    """The arrays of a loop, each once."""

    def __init__(self) -> None:
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
