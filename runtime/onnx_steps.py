"""The steps of a training on onnxruntime: one file holds forward, backward and update, and parameters stay where it runs.

State lies in two sets of buffers; a step reads one and writes the other, so that nothing has changed where a step goes wrong. The NumPy runtime has
the last word about such a step: it is given the same state and batch, and names the layer. Masks and noise are drawn here, as that
runtime draws them, and given in: both engines see the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from math import isfinite, prod
from typing import Any

import numpy as np

from nnc.compiler.ir import Graph, TensorType, Value, concrete
from nnc.compiler.onnx_export import BATCH, serialised
from nnc.compiler.onnx_step import step_to_onnx
from nnc.compiler.onnx_training import NEW, STEP, drawn
from nnc.compiler.training import Step

from .device import EngineRefusal, session
from .files import refuse
from .kernels import KERNELS, Array
from .model import Model
from .threads import workers

FIGURES = ("loss", "objective", "gradient_square")


def unwritten(model: Model) -> str:
    """Why the model's step is not one graph; empty where it is."""
    train = model.program.train
    solves = train is not None and "solver" in train.optimizer.operation.facts
    return f"{train.optimizer.name} evaluates the objective as often as a step needs" if train is not None and solves else ""


def states(model: Model) -> dict[str, Array]:
    """Everything that a step may change, by the names of training.onnx: parameters, running statistics, and each parameter's slots."""
    model.slots()
    found = {name: model.variables[name] for name in model.program.inference.parameters}
    for bundle in model.program.bundles:
        for name, slot in model.variables.items():
            if name.startswith(f"slot/{bundle.name}/"):
                for p, start in zip(bundle.parameters, bundle.starts(), strict=True):
                    flat = slot.reshape(-1)[start : start + prod(p.shape)]
                    found[f"slot/{p.name}/{name.rpartition('/')[2]}"] = flat.reshape(p.shape)
    return found


def training_file(model: Model, step: Step, metadata: dict[str, str]) -> bytes:
    """training.onnx: the whole step of a model in standard operators, in its dtype."""
    graph = step.graph
    kept = states(model)
    used = graph.leaves("variable").keys() | graph.updates.keys()
    kinds = {name: TensorType(str(array.dtype), array.shape) for name, array in kept.items() if name in used}
    name = model.program.experiment.network.name or "training"
    return serialised(step_to_onnx(graph, kinds, model.known, name=name, metadata=metadata))


class Bound:
    """A session for one batch size with all it reads and writes (steps.Filled)."""

    def __init__(self, steps: OnnxSteps, n: int):
        import onnxruntime as ort

        self.n, self.steps = n, steps
        try:
            self.session = session(steps.file, steps.device, dimensions={BATCH: n}, threads=workers())
        except EngineRefusal as error:
            refuse("E710", str(error), "train with --engine numpy")
        graph = steps.step.graph

        def space(kind: TensorType) -> Array:
            return np.zeros(concrete(kind.shape, n), kind.dtype)

        self.inputs = {name: space(v.type) for name, v in graph.leaves("input").items()}
        self.scalars = {name: space(v.type) for name, v in graph.leaves("scalar").items()}
        self.outputs = {name: space(graph.outputs[name].type) for name in FIGURES}
        self.random: list[tuple[Any, Array]] = []
        given = dict(self.inputs) | {STEP + name: array for name, array in self.scalars.items()}
        for name, value in drawn(graph).items():
            given[name] = space(value.type.with_dtype("bool") if value.op == "bernoulli" else value.type)
            self.random.append((_draws(value, n, steps.model.randomness), given[name]))
        self.indices = [(self.inputs[name], rows) for name, rows in _looked_up(graph)]
        wanted = {i.name for i in self.session.get_inputs()}
        self.fed = [(array, ort.OrtValue.ortvalue_from_numpy(array, steps.device)) for name, array in given.items() if name in wanted]
        names = [name for name in given if name in wanted]
        self.bindings = []
        for old, new in (steps.buffers, steps.buffers[::-1]):
            binding = self.session.io_binding()
            for name, (_, held) in zip(names, self.fed, strict=True):
                binding.bind_ortvalue_input(name, held)
            for name, held in old.items():
                binding.bind_ortvalue_input(name, held)
                if name in graph.updates:
                    binding.bind_ortvalue_output(NEW + name, new[name])
            for name, array in self.outputs.items():
                binding.bind_ortvalue_output(STEP + name, ort.OrtValue.ortvalue_from_numpy(array, "cpu"))
            self.bindings.append(binding)

    def reads(self, columns: Mapping[str, Any]) -> None:
        """Batches are put into `inputs`."""

    def advance(self) -> float:
        return self.steps.advance(self)

    def run(self, turn: int) -> None:
        for draw, array in self.random:
            draw(array, array)
        if self.steps.device != "cpu":  # there the arrays are the memory that is read
            for array, held in self.fed:
                held.update_inplace(array)
        self.session.run_with_iobinding(self.bindings[turn])


def _draws(value: Value, n: int, randomness: Any) -> Any:
    return KERNELS[value.op](value, n, randomness)


def _looked_up(graph: Graph) -> Iterator[tuple[str, int]]:
    """The inputs whose elements are rows of a table, with the number of its rows."""
    for value in graph.order():
        if value.op == "gather":
            table, index = value.operands
            while index.op in ("reshape", "transpose", "slice", "broadcast_to"):
                (index,) = index.operands
            rows = table.shape[0]
            assert index.op == "input"
            assert isinstance(rows, int)
            yield index.name, rows


class OnnxSteps:
    """The steps of a model on a device. `settle` brings the state into the model's variables."""

    MOST = 2  # batch sizes kept: the usual one, and what an epoch leaves over

    def __init__(self, model: Model, device: str):
        import onnxruntime as ort

        self.model, self.device = model, device
        problem = unwritten(model)
        if problem:
            refuse("E710", problem, "train with --engine numpy")
        self.step = model.step_apart()
        self.file = training_file(model, self.step, {})
        self.host = states(model)
        used = self.step.graph.leaves("variable").keys() | self.step.graph.updates.keys()
        self.names = [name for name in self.host if name in used]
        made = [{name: ort.OrtValue.ortvalue_from_numpy(np.array(self.host[name]), device) for name in self.names} for _ in range(2)]
        for name in self.names:
            if name not in self.step.graph.updates:
                made[1][name] = made[0][name]
        self.buffers = made
        self.turn = 0
        self.begun = False  # with the model's variables
        self.ahead = False  # of them
        self.bound: dict[int, Bound] = {}

    def at(self, n: int) -> Bound:
        if n not in self.bound:
            if len(self.bound) >= self.MOST:
                self.bound.pop(next(iter(self.bound)))
            self.bound[n] = Bound(self, n)
        return self.bound[n]

    def advance(self, bound: Bound) -> float:
        """Run a filled step; the objective before the update."""
        model = self.model
        if not self.begun:
            self._push()
        step = model.step_count
        model.randomness.step = step
        rate = model.rate(step)
        for name, array in bound.scalars.items():
            array[...] = rate if name == "lr" else self.step.scalars[name](step + 1)
        if any(array.min() < 0 or array.max() >= rows for array, rows in bound.indices):  # a negative one counts from the end there, on CUDA none is refused
            return self._on_the_host(bound)
        bound.run(self.turn)
        if not (isfinite(float(bound.outputs["objective"])) and isfinite(float(bound.outputs["gradient_square"]))):
            return self._on_the_host(bound)
        self.turn = 1 - self.turn
        self.ahead = True
        model.step_count = step + 1
        return float(bound.outputs["objective"])

    def _on_the_host(self, bound: Bound) -> float:
        """The step on NumPy, which says what is wrong with it, and where; if it finds nothing, its result counts."""
        self.settle()
        program = self.model.step_program(bound.n)
        for name, array in program.inputs.items():
            np.copyto(array, bound.inputs[name])
        with np.errstate(all="ignore"):
            objective = self.model.advance(program)
        for name in FIGURES:
            bound.outputs[name][...] = program.outputs[name]
        self._push()
        return objective

    def running(self) -> AbstractContextManager[None]:
        return nullcontext()

    def settle(self) -> None:
        """Bring the state into the model's variables, for evaluation and checkpoints."""
        if self.ahead:
            for name in self.names:
                np.copyto(self.host[name], self.buffers[self.turn][name].numpy())
            self.ahead = False

    def _push(self) -> None:
        for name in self.names:
            self.buffers[self.turn][name].update_inplace(np.ascontiguousarray(self.host[name]))
        self.begun, self.ahead = True, False
