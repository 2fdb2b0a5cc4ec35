"""Graph -> plan for one batch size: an order of steps, and a place in memory for every value.

Leaves live in storage of their own. Views (reshape, slice, part ...) are no step at all. Values that depend on constants and
the batch size alone are computed once, when the plan is bound. Everything else lies in one arena, at offsets that are reused as
soon as the last reader is past; elementwise steps write over an operand that dies with them, as does the gradient of a
pool of maxima whose windows divide the image, over the image, of which it reads each place before it; gradients are written
straight into the flat array that `pack` makes of them, and new values of variables straight over the old where every reader
of the old is past. So a step allocates nothing, and the peak is known before anything runs.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from math import prod

from .ir import Graph, TensorType, Value, concrete
from .layout import Order, memory_orders
from .record import record
from .workspace import divides, image, piece_side, workspace

ALIGNMENT = 64
_NOT_IN_PLACE = frozenset(("softplus", "erf", "cast", "is_nan"))  # kernels that read an operand after they began to write


@record
class Place:
    """Where a computed value lies: at an offset of the arena, inside a packed array, or over a variable."""

    kind: str  # "arena", "inside" or "variable"
    offset: int = 0  # bytes in the arena; elements in the packed array
    owner: Value | None = None  # of "inside"
    name: str = ""  # of "variable"


@dataclass(eq=False, repr=False)
class Plan:
    """What the executor binds. `forward` is the number of steps before the first that only updates need."""

    graph: Graph
    n: int
    steps: list[Value]
    static: list[Value]
    places: dict[Value, Place]
    scratch: dict[Value, tuple[int, ...]]
    copies: list[tuple[str, Value]]
    forward: int
    arena_bytes: int
    aliases: frozenset[Value]
    orders: dict[Value, Order | None]
    in_place: dict[Value, Value] = field(default_factory=dict)


def is_static(value: Value, static: set[Value]) -> bool:
    if value.op == "axis_size":
        return True
    return bool(value.operands) and all(o.op == "constant" or o in static for o in value.operands)


class Planner:
    def __init__(self, graph: Graph, n: int, fast: bool = False):
        self.graph, self.n, self.fast = graph, n, fast
        self.order = graph.order()
        self.static: set[Value] = set()
        for value in self.order:
            if is_static(value, self.static):
                self.static.add(value)
        self.orders, self.aliases = memory_orders(self.order)
        self.root = self._roots()
        self.steps = [v for v in self.order if not v.primitive.leaf and v not in self.static and v not in self.aliases]
        self._delay_masks()
        self._hasten_gradients()
        self.position = {v: i for i, v in enumerate(self.steps)}
        self.last_use = self._last_uses()
        self.readers = self._readers()
        self.places: dict[Value, Place] = {}
        self.in_place: dict[Value, Value] = {}

    def _roots(self) -> dict[Value, Value]:
        root: dict[Value, Value] = {}
        for value in self.order:
            root[value] = root[value.operands[0]] if value in self.aliases else value
        return root

    def _delay_masks(self) -> None:
        """Put a comparison right before its only reader, where what it compares is there until then or nearly: it needs no memory meanwhile."""
        readers: dict[Value, list[Value]] = {}
        for value in self.steps:
            for operand in value.operands:
                readers.setdefault(self.root[operand], []).append(value)
        position = {v: i for i, v in enumerate(self.steps)}
        roots = {self.root[v] for v in self.graph.roots}
        before: dict[Value, list[Value]] = {}
        for value in self.steps:
            if value.dtype != "bool" or not value.primitive.elementwise or len(readers.get(value, ())) != 1 or value in roots:
                continue
            (reader,) = readers[value]
            if reader.dtype == "bool":  # may be put off itself
                continue
            operands = [self.root[o] for o in value.operands if self.root[o] in position]
            if all(any(position[other] >= position[reader] - 1 for other in readers[o] if other is not value) for o in operands):
                before.setdefault(reader, []).append(value)
        delayed = {value for some in before.values() for value in some}
        self.steps = [v for step in self.steps if step not in delayed for v in (*before.get(step, ()), step)]

    def _hasten_gradients(self) -> None:
        """Put what is packed right after the last of its operands: a weight's gradient is taken while the cotangent is in the cache, and nothing keeps
        the cotangents of all layers until the end. Sums come first, so that they can be joined with what makes their terms.
        """
        known = set(self.steps)
        packed = dict.fromkeys(o for value in self.steps if value.op == "pack" for o in value.operands if o in known)
        position = {v: i for i, v in enumerate(self.steps)}
        after: dict[Value, list[Value]] = {}
        for value in sorted(packed, key=lambda v: (v.op != "reduce_sum", position[v])):
            made = [self.root[o] for o in value.operands if self.root[o] in known]
            if made:
                after.setdefault(max(made, key=position.__getitem__), []).append(value)
        moved = {value for some in after.values() for value in some}
        waiting = [v for v in reversed(self.steps) if v not in moved]
        self.steps = []
        while waiting:
            value = waiting.pop()
            self.steps.append(value)
            waiting += reversed(after.get(value, ()))

    def _last_uses(self) -> dict[Value, int]:
        """The position of the last step that reads a root's memory; outputs are read after the last step."""
        last: dict[Value, int] = {}
        for value in self.steps:
            for operand in value.operands:
                last[self.root[operand]] = self.position[value]
        for value in self.graph.roots:
            last[self.root[value]] = len(self.steps)
        return last

    def _readers(self) -> dict[str, list[int]]:
        """For each variable, the positions of the steps that read it, also through views."""
        found: dict[str, list[int]] = {}
        for value in self.steps:
            for operand in value.operands:
                source = self.root[operand]
                if source.op == "variable":
                    found.setdefault(source.name, []).append(self.position[value])
        for value in self.graph.roots:
            source = self.root[value]
            if source.op == "variable":
                found.setdefault(source.name, []).append(len(self.steps))
        return found

    def plan(self) -> Plan:
        copies = self._update_in_variables()
        self._pack_in_place()
        needed = [self.position[self.root[v]] for v in self.graph.outputs.values() if self.root[v] in self.position]
        forward = max(needed, default=-1) + 1
        arena, scratch = self._allocate(forward)
        static = [v for v in self.order if v in self.static]
        return Plan(self.graph, self.n, self.steps, static, self.places, scratch, copies, forward, arena,
                    frozenset(self.aliases), self.orders, self.in_place)  # fmt: skip

    def _update_in_variables(self) -> list[tuple[str, Value]]:
        """Write a new value over its variable where that is safe; else it is copied when all is done."""
        copies: list[tuple[str, Value]] = []
        taken: set[Value] = set()
        needed = [self.position[self.root[v]] for v in self.graph.outputs.values() if self.root[v] in self.position]
        forward = max(needed, default=-1)
        for name, new in self.graph.updates.items():
            assert self.root[new].op != "variable", f"{name} would become another variable, which may have changed by then"
            at = self.position.get(new)
            readers = self.readers.get(name, [])
            safe = (
                at is not None
                and at > forward
                and new not in taken
                and all(reader <= at for reader in readers)
                and self._writes_over(new, name)
            )
            if safe:
                self.places[new] = Place("variable", name=name)
                taken.add(new)
            else:
                copies.append((name, new))
        return copies

    def _writes_over(self, new: Value, name: str) -> bool:
        """Whether the kernel may write its result over the variable, as far as it reads it itself."""
        read = [o for o in new.operands if self.root[o].op == "variable" and self.root[o].name == name]
        if new.op == "scatter_update":
            return read == [new.operands[0]] and read[0].op == "variable"
        return new.primitive.elementwise and new.op not in _NOT_IN_PLACE and all(o.type == new.type for o in read)  # at the same place

    def _pack_in_place(self) -> None:
        """Let steps write into the packed array that wants them."""
        for value in self.steps:
            if value.op != "pack" or value in self.places:
                continue
            start = 0
            for operand in value.operands:
                if operand in self.position and operand not in self.places and operand.op != "pack":
                    self.places[operand] = Place("inside", start, value)
                    self.last_use[value] = max(self.last_use[value], self.last_use[operand])
                start += prod(concrete(operand.shape, self.n))

    def _allocate(self, forward: int) -> tuple[int, dict[Value, tuple[int, ...]]]:
        arena = _Arena()
        scratch: dict[Value, tuple[int, ...]] = {}
        dying: list[list[Value]] = [[] for _ in range(len(self.steps) + 1)]
        for value, last in self.last_use.items():
            dying[last].append(value)
        held: dict[Value, tuple[int, int]] = {}  # offset and length of the arena block that a root occupies
        wanted: dict[Value, Value] = {}  # packed array -> itself, once a part of it has been placed
        numbers: list[Value] = []
        for at, value in enumerate(self.steps):
            place = self.places.get(value)
            if place is not None and place.kind == "inside":
                owner = place.owner
                assert owner is not None
                if owner not in wanted:
                    wanted[owner] = owner
                    self._hold(owner, arena, held)
            elif place is None and value.type.size(self.n) == 1:
                numbers.append(value)
            elif place is None and value not in wanted:
                donor = self._donor(value, at, held)
                if donor is not None:
                    held[value] = held.pop(donor)
                    self.in_place[value] = donor
                    self.places[value] = Place("arena", held[value][0])
                else:
                    self._hold(value, arena, held, again=at >= forward and value.primitive.elementwise)
            kinds: tuple[TensorType, ...] = workspace(value, self.n, self.orders if self.fast else None)
            blocks = [(arena.take(kind.nbytes(self.n)), kind.nbytes(self.n)) for kind in kinds]
            if blocks:
                scratch[value] = tuple(offset for offset, _ in blocks)
            for offset, length in blocks:
                arena.give(offset, length)
            for root in dying[at]:
                if root in held:
                    arena.give(*held.pop(root))
            if self.last_use.get(value, -1) < 0 and value in held:  # nothing reads it
                arena.give(*held.pop(value))
        for value in numbers:  # apart, for a number would cut the memory that an array has left; and the fast engine computes them early
            self.places[value] = Place("arena", arena.high)
            arena.high += ALIGNMENT
        return arena.high, scratch

    def _hold(self, value: Value, arena: _Arena, held: dict[Value, tuple[int, int]], *, again: bool = False) -> None:
        """Take memory for a value. `again`: where an equally long one lay, if that is free; values of an update that overlap in part could not share a loop."""
        length = value.type.nbytes(self.n)
        offset = next((o for o in arena.past.get(length, ()) if arena.take_at(o, length)), None) if again else None
        if offset is None:
            offset = arena.take(length)
            arena.past.setdefault(length, []).append(offset)
        held[value] = (offset, length)
        self.places[value] = Place("arena", offset)

    def _donor(self, value: Value, at: int, held: dict[Value, tuple[int, int]]) -> Value | None:
        """An operand whose memory the step may write over."""
        operands = value.operands
        if value.op == "max_pool_gradient" and divides(value, *operands[:2]):
            operands = operands[:1]
        elif not value.primitive.elementwise or value.op in _NOT_IN_PLACE:
            return None
        for operand in operands:
            source = self.root[operand]
            whole = operand is source or (operand.op == "reshape" and source.type.nbytes(self.n) == operand.type.nbytes(self.n))
            alike = operand.type == value.type and self.orders[operand] == self.orders[value]
            if whole and alike and self.last_use.get(source) == at and source in held:
                others = [o for o in value.operands if self.root[o] is source and o.type != value.type]
                if not others:
                    return source
        return None


class _Arena:
    """Offsets in one growing block: best fit among freed ones, neighbours merged."""

    def __init__(self) -> None:
        self.high = 0
        self.free: list[tuple[int, int]] = []  # (offset, length), by offset
        self.past: dict[int, list[int]] = {}  # where values of a length have lain

    def take(self, length: int) -> int:
        length = _aligned(length)
        fitting = [(size, offset) for offset, size in self.free if size >= length]
        if fitting:
            size, offset = min(fitting)
            self.free.remove((offset, size))
            if size > length:
                insort(self.free, (offset + length, size - length))
            return offset
        offset = self.high
        if self.free and sum(self.free[-1]) == self.high:  # the last free block grows
            offset = self.free.pop()[0]
        self.high = offset + length
        return offset

    def take_at(self, offset: int, length: int) -> bool:
        """Take a place that is known; whether it was free."""
        length = _aligned(length)
        for start, size in self.free:
            if start <= offset and offset + length <= start + size:
                self.free.remove((start, size))
                for rest in ((start, offset - start), (offset + length, start + size - offset - length)):
                    if rest[1]:
                        insort(self.free, rest)
                return True
        return False

    def give(self, offset: int, length: int) -> None:
        length = _aligned(length)
        place = bisect_left(self.free, (offset, 0))
        if place < len(self.free) and offset + length == self.free[place][0]:
            length += self.free.pop(place)[1]
        if place and sum(self.free[place - 1]) == offset:
            offset, length = self.free[place - 1][0], self.free[place - 1][1] + length
            self.free.pop(place - 1)
        insort(self.free, (offset, length))


def _aligned(length: int) -> int:
    return max(ALIGNMENT, -(-length // ALIGNMENT) * ALIGNMENT)


def plan(graph: Graph, n: int, fast: bool = False) -> Plan:
    """The plan of a graph for batches of n samples; `fast`: with the work space of the fast engine's kernels."""
    return Planner(graph, n, fast).plan()


def _as_run(made: Plan) -> list[Value]:
    """The steps in their order, and each view before what first reads it."""
    known = dict.fromkeys(made.static)
    found: dict[Value, None] = {}
    for value in (*made.steps, *made.graph.outputs.values()):
        for operand in (*value.operands, value):
            views = []
            while operand in made.aliases and operand not in known and operand not in found:
                views.append(operand)
                operand = operand.operands[0]
            found |= dict.fromkeys(reversed(views))
        if value in made.places:
            found[value] = None
    return [*found]


def show(made: Plan) -> str:
    """The program that runs, one step a line, in the order in which they run: what is computed, from what, and where it is put."""
    order = _as_run(made)
    numbers: dict[Value, str] = {value: f"%{number}" for number, value in enumerate((*made.static, *order), 1)}
    for value in made.graph.order():
        match value.op:
            case "constant":
                numbers[value] = f"{value.attributes['value']:g}" if isinstance(value.attributes["value"], float) else str(value.attributes["value"])
            case "input" | "variable" | "scalar":
                numbers[value] = value.name
    lines = [f"# batch {made.n}, arena {made.arena_bytes:,} bytes, {len(made.steps)} steps"]
    lines += [f"once    {numbers[v]} = {v.op}({', '.join(numbers[o] for o in v.operands)})" for v in made.static]
    updates = set(made.steps[made.forward :])
    for value in order:
        shape = "x".join(map(str, concrete(value.shape, made.n))) or "scalar"
        arguments = ", ".join(numbers[o] for o in value.operands)
        if value in made.aliases:
            lines.append(f"view    {numbers[value]} = {value.op}({arguments}) {shape}")
            continue
        place = made.places[value]
        where = {"arena": f"@{place.offset}", "inside": "in pack", "variable": f"over {place.name}"}[place.kind]
        over = " in place" if value in made.in_place else ""
        phase = "update " if value in updates else "forward"
        notes = [value.origin] if value.origin else []
        if "error" in value.attributes:  # in which form the fast engine may make use of that
            side = piece_side(value, image(value.operands[0], made.n)[0])
            notes += [f"F({side}x{side}, 3x3) on the fast engine"] if side else []
        lines.append(f"{phase} {numbers[value]} = {value.op}({arguments}) {shape} {where}{over}" + (f"  # {', '.join(notes)}" if notes else ""))
    lines += [f"copy    {name} = {numbers[value]}" for name, value in made.copies]
    lines += [f"output  {name} = {numbers[value]}" for name, value in made.graph.outputs.items()]
    return "\n".join(lines)
