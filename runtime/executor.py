"""Binds a plan to memory and runs it: a list of (kernel, arrays), called in order, nothing else in the steady step."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from nnc.compiler.ir import Graph, TensorType, Value, concrete
from nnc.compiler.layout import Order
from nnc.compiler.plan import Plan, plan
from nnc.compiler.workspace import has_tiles, workspace

from .divided import Call, Divided
from .kernels import KERNELS, Array, Randomness, nothing, view
from .lanes import divided
from .threads import for_each, hold


class NonFinite(Exception):
    """NaN or infinity appeared; `origin` is the layer or phase whose step made it first."""

    def __init__(self, origin: str, op: str):
        self.origin, self.op = origin, op
        super().__init__(f"{op} of {origin or 'the input'} gave NaN or infinity")


class Arena:
    """One block of memory that programs which never run at the same time share."""

    def __init__(self) -> None:
        self.block = np.empty(0, np.uint8)

    def reserve(self, size: int) -> Array:
        if self.block.size < size:
            raw = np.empty(size + 64, np.uint8)
            start = -raw.ctypes.data % 64
            self.block = raw[start : start + size]
        return self.block


class Program:
    """A plan bound to arrays: fill `inputs` (and `scalars`), call `run`, read `outputs` before the next program runs."""

    def __init__(
        self, made: Plan, variables: Mapping[str, Array], scalars: dict[str, Array], randomness: Randomness, arena: Arena, fast: bool = False
    ):
        self.plan, self.fast = made, fast
        n = made.n
        block = arena.reserve(made.arena_bytes)
        self.inputs: dict[str, Array] = {}
        arrays: dict[Value, Array] = {}

        def at(offset: int, kind: TensorType, order: Order | None = None) -> Array:
            raw = block[offset : offset + kind.nbytes(n)].view(kind.dtype)
            return laid_out(raw, concrete(kind.shape, n), order)

        static = set(made.static)
        steps = set(made.steps)
        for value in made.steps:
            place = made.places[value]
            if place.kind == "arena":
                if value.dtype == "string":
                    arrays[value] = np.empty(concrete(value.shape, n), object)
                else:
                    arrays[value] = at(place.offset, value.type, made.orders[value])
            elif place.kind == "variable":
                arrays[value] = variables[place.name]
        for value in made.graph.order():
            if value in static:
                arrays[value] = _static(value, n, [arrays.get(o) for o in value.operands], made.orders[value], randomness)
            elif value.op == "input":
                dtype = object if value.dtype == "string" else value.dtype
                arrays[value] = self.inputs[value.name] = np.zeros(concrete(value.shape, n), dtype)
            elif value.op == "variable":
                arrays[value] = variables[value.name]
            elif value.op == "scalar":
                arrays[value] = scalars.setdefault(value.name, np.zeros((), value.dtype))
            elif value.op == "constant":
                arrays[value] = np.array(value.attributes["value"], value.dtype)
            elif value in made.aliases:
                arrays[value] = view(value, n, arrays[value.operands[0]])
            elif value in steps and value not in arrays:
                place = made.places[value]
                assert place.owner is not None
                size = value.type.size(n)
                packed = arrays[place.owner]
                arrays[value] = packed[place.offset : place.offset + size].reshape(concrete(value.shape, n))
        if fast:
            from .fusion import copies, fused
        self.steps: list[Call] = []
        self.holding: AbstractContextManager[None] = nullcontext()  # the BLAS to one thread, where ours share what is long
        for value in made.steps:
            scratch = [at(offset, kind) for offset, kind in zip(made.scratch.get(value, ()), workspace(value, n, made.orders if fast else None), strict=True)]
            kernel = KERNELS[value.op](value, n, randomness)
            if value.op == "pack" and _lies_in_place(made, value):
                kernel = nothing
            self.steps.append((kernel, (*(arrays[o] for o in value.operands), arrays[value], *scratch)))
        self.forward_steps = self.steps[: made.forward]
        self.update_steps = self.steps[made.forward :]
        copied = [(variables[name], arrays[value]) for name, value in made.copies]
        if fast:
            self.forward_steps = fused(made, made.steps[: made.forward], self.forward_steps, randomness)
            self.update_steps = fused(made, made.steps[made.forward :], self.update_steps, randomness) + copies(copied)
        else:
            if any(isinstance(kernel, Divided) for kernel, _ in self.forward_steps):
                self.forward_steps = divided(made.steps[: made.forward], self.forward_steps)
                if any(call is for_each for call, _ in self.forward_steps):
                    self.holding = hold()
            self.update_steps += [(np.copyto, pair) for pair in copied]
        self.outputs = {name: arrays[value] for name, value in made.graph.outputs.items()}

    def reading(self, columns: Mapping[str, Any], rows: Array) -> list[Call] | None:
        """The forward steps with compiled ones before them that gather the inputs from columns; None where that is not possible.

        `rows` holds the address of the rows' numbers, int64, when they run.
        """
        if not self.fast:
            return None
        from .fusion import gathered

        return gathered([(columns[name], array) for name, array in self.inputs.items() if name in columns], rows, self.forward_steps)

    def forward(self, steps: list[Call] | None = None) -> None:
        """Everything that outputs need; no variable changes. `steps`: those of `reading`."""
        with self.holding:
            for kernel, arrays in steps or self.forward_steps:
                kernel(*arrays)

    def update(self) -> None:
        """The new values of the variables."""
        with self.holding:
            for kernel, arrays in self.update_steps:
                kernel(*arrays)

    def run(self) -> dict[str, Array]:
        with np.errstate(all="ignore"):
            self.forward()
            if self.update_steps:
                self.update()
        return self.outputs

    def find_non_finite(self) -> NonFinite:
        """Run the forward part again, looking at each result; the first that is not finite names its layer."""
        with np.errstate(all="ignore"):
            for name, array in self.inputs.items():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    return NonFinite(f"the data of `{name}`", "column")
            for value, (kernel, arrays) in zip(self.plan.steps[: self.plan.forward], self.steps, strict=False):
                result = arrays[len(value.operands)]
                if has_tiles(value):  # the work space of the plan is for the fast engine's kernel
                    arrays = (*arrays[: len(value.operands) + 1], *_space(value, self.plan.n))
                kernel(*arrays)
                if result.dtype.kind == "f" and not np.isfinite(result).all():
                    return NonFinite(value.origin, value.op)
        return NonFinite("the update", "optimizer")


def laid_out(flat: Array, shape: tuple[int, ...], order: Order | None) -> Array:
    """A flat array as one of the shape whose axes lie in memory in the order given."""
    if order is None or order == tuple(range(len(shape))):
        return flat.reshape(shape)
    return flat.reshape([shape[axis] for axis in order]).transpose([order.index(axis) for axis in range(len(shape))])


def _lies_in_place(made: Plan, packed: Value) -> bool:
    """Whether every part was written at its place; one value may be several parts, and is at one place only."""
    start = 0
    for part in packed.operands:
        place = made.places.get(part)
        if place is None or place.owner is not packed or place.offset != start:
            return False
        start += part.type.size(made.n)
    return True


def _static(value: Value, n: int, operands: list[Array | None], order: Order | None, randomness: Randomness) -> Array:
    """A value of constants and the batch size, computed when the plan is bound."""
    if value.op == "axis_size":
        return np.array(concrete(value.operands[0].shape, n)[value.attributes["axis"]], value.dtype)
    known = [o for o in operands if o is not None]
    if value.primitive.view:
        return view(value, n, known[0])
    out = laid_out(np.empty(value.type.size(n), value.dtype), concrete(value.shape, n), order)
    with np.errstate(all="ignore"):
        KERNELS[value.op](value, n, randomness)(*known, out, *_space(value, n))
    return out


def _space(value: Value, n: int) -> list[Array]:
    """Work space of NumPy's kernel."""
    return [np.empty(concrete(kind.shape, n), kind.dtype) for kind in workspace(value, n)]


class Executor:
    """A graph over given variables, with a program for each batch size that has occurred."""

    MOST = 4  # batch sizes kept

    def __init__(self, graph: Graph, variables: Mapping[str, Array], randomness: Randomness, arena: Arena, fast: bool = False):
        """`fast`: join elementwise steps into compiled loops, which pays where a program runs many times."""
        self.graph, self.variables, self.randomness, self.arena, self.fast = graph, variables, randomness, arena, fast
        self.scalars: dict[str, Array] = {}
        self.programs: dict[int, Program] = {}

    def at(self, n: int) -> Program:
        program = self.programs.get(n)
        if program is None:
            if len(self.programs) >= self.MOST:
                self.programs.pop(next(iter(self.programs)))
            program = self.programs[n] = Program(plan(self.graph, n, self.fast), self.variables, self.scalars, self.randomness, self.arena, self.fast)
        return program

    def run(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs for a batch, valid until the next run of a program in the same arena."""
        n = next((len(a) for a in batch.values()), 1)
        program = self.at(n)
        for name, array in program.inputs.items():
            np.copyto(array, batch[name], casting="unsafe")
        return program.run()
