"""A program with parameters: predict, loss, gradients, step, save and load."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from math import isfinite, prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nnc.compiler import pipeline, training
from nnc.compiler.diagnostics import Findings, SpecError
from nnc.compiler.ir import Graph, concrete
from nnc.compiler.lower import NO_LIMIT
from nnc.compiler.objective import PARTNER, SHARE, Target, pairs
from nnc.compiler.schema import ColumnSchema, Schema
from nnc.compiler.serve import serving_graph
from nnc.compiler.source import Source

from . import solvers
from .divided import Call
from .engine import choose
from .executor import Arena, Executor, Program
from .files import read_arrays, refuse, write_arrays
from .initial import fill
from .kernels import Randomness
from .parameters import Parameters

Array = np.ndarray[Any, Any]
FORMAT = 1


class Model:
    """Parameters and optimiser state of a program. A batch is a dict of arrays: inputs and targets, batch axis first.

    `fast`: steps in compiled loops, by default where they can run and NNC_ENGINE does not say otherwise.
    """

    def __init__(
        self,
        program: pipeline.Program,
        seed: int,
        learned: Mapping[str, Array] | None = None,
        samples: int | None = None,
        root: Path | None = None,
        fast: bool | None = None,
    ):
        """`root` is where files of initial values lie; without one, they are about to be replaced."""
        self.program, self.seed, self.samples = program, seed, samples
        self.step_count = 0
        self._fast = fast
        self.learned = dict(learned or {})
        self.randomness = Randomness(seed)
        self.arena = Arena()
        self.variables: dict[str, Array] = {}
        self.known: Mapping[str, Array] = ChainMap(self.variables, self.learned)  # metrics need the way back to a column's units
        self._allocate()
        fill(self.variables, program.inference.parameters.values(), seed, program.experiment.source, root)
        self._targets: dict[str, Target] | None = None
        self._executors: dict[str, Executor] = {}
        self._step: training.Step | None = None
        self._evaluation: training.Evaluation | None = None
        base = program.train.optimizer.params.lr if program.train else 0.0
        self.rate: Callable[[int], float] = lambda step: base  # the trainer puts the schedule here

    # Storage

    def _allocate(self) -> None:
        """Trained parameters as views of one flat array a bundle; everything else in arrays of its own."""
        dtype = self.program.dtype
        for bundle in self.program.bundles:
            flat = self.variables[bundle.name] = np.zeros(bundle.size, dtype)
            for p, start in zip(bundle.parameters, bundle.starts(), strict=True):
                self.variables[p.name] = flat[start : start + prod(p.shape)].reshape(p.shape)
        for p in self.program.inference.parameters.values():
            self.variables.setdefault(p.name, np.zeros(p.shape, dtype))

    @property
    def parameters(self) -> Parameters:
        return Parameters(self.variables, self.program.inference.parameters)

    def state(self) -> dict[str, Array]:
        """Everything that training changes, by name: parameters, running statistics and the optimiser's slots."""
        flat = {b.name for b in self.program.bundles} | {"direction"}
        return {name: array for name, array in self.variables.items() if name not in flat}

    def slots(self) -> None:
        """Make the optimiser's state, at zero, if it is not there yet."""
        for name, kind in self.stepper().slots.items():
            if name not in self.variables:
                self.variables[name] = np.zeros(concrete(kind.shape, 1), kind.dtype)

    # Graphs

    def stepper(self) -> training.Step:
        if self._step is None:
            self._step = self.program.step(self._targets, self.samples)
        return self._step

    def step_apart(self, *, metrics: bool = False) -> training.Step:
        """The step with every parameter by itself (training.onnx)."""
        return self.program.step_apart(self._targets, self.samples, metrics=metrics)

    def _executor(self, key: str, graph: Graph) -> Executor:
        if key not in self._executors:
            fast = key == "step" and (choose().name == "fast" if self._fast is None else self._fast)
            self._executors[key] = Executor(graph, self.known, self.randomness, self.arena, fast)
        return self._executors[key]

    def _fresh(self, batch: Mapping[str, Array]) -> None:
        """Take the types of free targets from the batch; graphs for other types are dropped."""
        if self.program.experiment.data is not None:
            return
        wanted = self.program.targets()
        weights = {w.name for w in self.program.train.sample_weights()} if self.program.train is not None else set()
        for name, target in wanted.items():
            if name in weights:
                continue  # always one number a sample
            array = batch[name]
            dtype = "int64" if array.dtype.kind in "iub" else self.program.dtype
            wanted[name] = Target(dtype, array.shape[1:], target.classes, target.inverse)
        if wanted != (self._targets or self.program.targets()):
            self._targets, self._step, self._evaluation = wanted, None, None
            for key in ("loss", "gradients", "step", "product"):
                self._executors.pop(key, None)

    # Batches

    def _checked(self, given: Mapping[str, Any], targets: bool) -> dict[str, Array]:
        """The batch as arrays that fit the graph's inputs; E513 names what does not."""
        declared = {i.name: i for i in self.program.experiment.network.inputs}
        wanted = list(declared)
        if targets:
            if self.program.train is None:
                self._refuse("the spec has no train section", "add `train { loss = ... }`")
            weights = list(dict.fromkeys(w.name for w in self.program.train.sample_weights()))
            wanted += [t for _, t in pairs(self.program.train) if t not in declared] + weights
        batch: dict[str, Array] = {}
        rows: int | None = None
        for name in wanted:
            if name not in given:
                self._refuse(f"it has no `{name}`", f"give {', '.join(wanted)}")
            try:
                array = np.asarray(given[name])
            except ValueError:  # lists of unequal lengths
                self._refuse(f"`{name}` is no array", "give every sample the same shape")
            if array.dtype == object or array.dtype.kind not in "fiub":
                self._refuse(f"`{name}` is {array.dtype}", "give numbers, already preprocessed")
            if name in declared:
                array = self._fitted(name, array, declared[name].shape, declared[name].dtype)
            if array.ndim == 0:
                self._refuse(f"`{name}` has no batch axis", "put samples on the first axis")
            if rows is not None and len(array) != rows:
                self._refuse(f"`{name}` has {len(array)} samples, `{wanted[0]}` {rows}", "give every array the same first axis")
            rows = len(array)
            batch[name] = self._weights(name, array) if targets and name in weights else array
        if not rows:
            self._refuse("it holds no sample", "give at least one")
        if targets:
            self._check_targets(batch)
        return batch

    def _fitted(self, name: str, array: Array, shape: tuple[int, ...], dtype: str) -> Array:
        if array.shape[1:] != shape:
            label = f"`{name}` has samples of shape {list(array.shape[1:])}, declared is {list(shape)}"
            self._refuse(label, f"reshape it to (n, {', '.join(map(str, shape))})")
        if dtype == "int64" and array.dtype.kind == "f":
            self._refuse(f"`{name}` holds floats, declared is int64", "cast it with astype(np.int64)")
        return array

    def _weights(self, name: str, array: Array) -> Array:
        """Sample weights: one number a sample, none below 0."""
        if array.size != len(array):
            self._refuse(f"`{name}` has samples of shape {list(array.shape[1:])}, weights are one number each", "give one weight a sample")
        flat = array.reshape(len(array))
        wrong = ~(np.isfinite(flat) & (flat >= 0))
        if wrong.any():
            row = int(np.argmax(wrong))
            self._refuse(f"`{name}` holds {flat[row]:g} in row {row}", "weights are finite and not below 0")
        return flat if self.program.experiment.data is None else flat.reshape(len(flat), *self.program.targets()[name].shape)

    def _check_targets(self, batch: dict[str, Array]) -> None:
        train = self.program.train
        assert train is not None
        known = self.program.targets()
        data = self.program.experiment.data
        for prediction, name in pairs(train):
            array = batch[name]
            if data is not None:
                target = known[name]
                if array.shape[1:] != target.shape:
                    if prod(array.shape[1:]) != prod(target.shape):
                        self._refuse(f"`{name}` has samples of shape {list(array.shape[1:])}, the data section's are {list(target.shape)}", "reshape it")
                    batch[name] = array = array.reshape(len(array), *target.shape)
                if target.dtype == "int64" and array.dtype.kind == "f":
                    self._refuse(f"`{name}` holds floats, the data section gives int64", "cast it with astype(np.int64)")
            output = self.program.inference.outputs[prediction]
            indices = [d for d in array.shape[1:] if d != 1] == [d for d in output.shape[1:-1] if d != 1]
            if array.dtype.kind in "iu" and output.shape[-1] != 1 and indices and array.size:
                outputs = int(output.shape[-1])  # type: ignore[arg-type]
                if array.min() < 0 or array.max() >= outputs:
                    bad = int(array.max()) if array.max() >= outputs else int(array.min())
                    self._refuse(f"`{name}` holds the class {bad}, `{prediction}` has {outputs} outputs", f"classes are 0..{outputs - 1}")

    def _refuse(self, label: str, help: str) -> NoReturn:
        refuse("E513", label, help)

    # What a user calls

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """The outputs, in inference mode: no dropout, running statistics."""
        batch = self._checked(inputs, targets=False)
        found = self._executor("predict", self.program.inference_graph).run(batch)
        return {name: array.copy() for name, array in found.items()}

    def loss(self, batch: Mapping[str, Any]) -> float:
        """The mean loss in inference mode, without penalties."""
        checked = self._checked(batch, targets=True)
        self._fresh(checked)
        if self._evaluation is None:
            self._evaluation = self.program.evaluation(self._targets)
        return self._evaluation.loss(self._executor("loss", self._evaluation.graph).run(checked))

    def gradients(self, batch: Mapping[str, Any]) -> tuple[float, dict[str, Array]]:
        """The whole objective in training mode, penalties included, and its gradient by every parameter; changes no state."""
        checked = self._checked(batch, targets=True)
        self._fresh(checked)
        if "gradients" not in self._executors:
            self._executor("gradients", self.program.gradients(self._targets, self.samples))
        self.randomness.step = self.step_count
        found = self._executors["gradients"].run(checked)
        by_name = {name: found[f"gradient/{name}"].copy() for name in self.program.inference.parameters}
        return float(found["objective"]), by_name

    def step(self, batch: Mapping[str, Any]) -> float:
        """One update of parameters and running statistics; the objective before it. The batch is taken as it is: nothing augments it."""
        checked = self._checked(batch, targets=True)
        self._fresh(checked)
        program = self.step_program(len(next(iter(checked.values()))))
        for name, array in program.inputs.items():
            if name == SHARE:
                array.fill(1)
            else:
                np.copyto(array, checked[name.removeprefix(PARTNER)], casting="unsafe")
        with np.errstate(all="ignore"):
            return self.advance(program)

    def step_program(self, n: int) -> Program:
        """The bound step for batches of n samples; fill its inputs, then `advance`."""
        self.slots()
        return self._executor("step", self.stepper().graph).at(n)

    def advance(self, program: Program, forward: list[Call] | None = None) -> float:
        """Run a filled step; the objective before the update. E510 names the layer where a value is not finite.

        Nothing changes in that case: the forward and backward part is checked before the update runs. `forward`: steps that fill it too.
        """
        executor = self._executors["step"]
        step = self.step_count
        self.randomness.step = step
        rate = self.rate(step)
        for name, array in executor.scalars.items():
            array[...] = rate if name == "lr" else self.stepper().scalars[name](step + 1)
        program.forward(forward)
        objective = float(program.outputs["objective"])
        if not isfinite(objective) or not isfinite(float(program.outputs["gradient_square"])):
            self._report_non_finite(program)
        if "gradient" in program.outputs:
            self._solve(program, rate)
        program.update()
        self.step_count = step + 1
        return objective

    def _solve(self, program: Program, rate: float) -> None:
        """Let a solver move the parameters, evaluating the step's objective as often as it wants."""
        train = self.program.train
        assert train is not None
        bundle = self.program.bundles[0]
        theta = self.variables[bundle.name]

        def evaluate() -> tuple[float, Array]:
            program.forward()
            return float(program.outputs["objective"]), program.outputs["gradient"].astype(np.float64)

        def product(direction: Array) -> Array:
            if "product" not in self._executors:
                self.variables["direction"] = np.zeros_like(theta)
                self._executor("product", self.program.product(self._targets, self.samples))
            self.variables["direction"][...] = direction
            other = self._executors["product"].at(program.plan.n)
            for name, array in other.inputs.items():
                np.copyto(array, program.inputs[name])
            other.forward()
            return other.outputs["product"].astype(np.float64)

        optimizer, p = train.optimizer, train.optimizer.params
        state = {name: self.variables[f"slot/{bundle.name}/{name}"] for name in optimizer.operation.extra["slots"](bundle.size, p)}
        weights = [slice(start, start + prod(q.shape)) for q, start in zip(bundle.parameters, bundle.starts(), strict=True) if q.decays]
        solvers.solve(optimizer.name, p, solvers.Problem(theta, evaluate, product, state, rate), weights)

    def _report_non_finite(self, program: Program) -> None:
        found = program.find_non_finite()
        findings = Findings(Source("", ""))
        what = f"`{found.origin}`" if found.origin else "the loss"
        findings.add("E510", None, f"first in {found.op}", what=what, step=self.step_count + 1,
                     help="lower the learning rate, add clip = global_norm(1.0), or scale the data")  # fmt: skip
        raise TrainingFailure(findings.found)

    @property
    def members(self) -> tuple[Model, ...]:
        """The networks whose outputs are averaged: this one."""
        return (self,)

    def evaluation(self) -> training.Evaluation:
        return self.program.evaluation()

    # Files

    def about(self) -> dict[str, Any]:
        """What a file must know beside the arrays to make this model again."""
        experiment = self.program.experiment
        schema = experiment.data.schema if experiment.data is not None else None
        return {
            "format": FORMAT,
            "name": experiment.source.name,
            "spec": experiment.source.text,
            "overrides": experiment.overrides,
            "seed": self.seed,
            "samples": self.samples,
            "step": self.step_count,
            "schema": _schema_out(schema) if schema is not None else None,
            "classes": {path: list(found) for path, found in (self.program.learned or {}).items()},
        }

    def save(self, path: str | Path, more: Mapping[str, Any] | None = None) -> None:
        """Weights, optimiser state, spec and learned data steps in one checked file."""
        write_arrays(Path(path), self.state() | self.learned, self.about() | dict(more or {}))

    def restore(self, arrays: Mapping[str, Array], step_count: int) -> None:
        """Take the state of a file that this program wrote; ValueError for one that another program wrote.

        A file from before the first step has no slots: they begin at zero.
        """
        if any(name.startswith("slot/") for name in arrays):
            self.slots()
        for name, array in self.state().items():
            given = arrays.get(name)
            if given is None and name.startswith("slot/"):
                array.fill(0)
            elif given is None or given.shape != array.shape or given.dtype != array.dtype:
                raise ValueError(f"`{name}` is not what the spec makes it")
            else:
                array[...] = given
        self.step_count = step_count

    def export_onnx(self, path: str | Path, rows: Mapping[str, Array] | None = None, *, opset: int | None = None) -> dict[str, Any]:
        """Write the verified ONNX file; the report of the verification. `rows` are raw rows to verify with, `opset` replaces the spec's."""
        from .export import export

        return export(self.program, *self.serving(), Path(path), rows, opset=opset)

    def serving(self, outputs: tuple[str, ...] = (), *, decisions: bool = False, dtype: str = "float32") -> tuple[Graph, dict[str, Array]]:
        """The graph from raw columns to decoded outputs, and its variables."""
        graph = serving_graph(self.program, outputs, decisions=decisions, dtype=dtype)
        return graph, {name: self.known[name].astype(dtype) for name in graph.leaves("variable")}


class TrainingFailure(SpecError):
    """Training stopped while running: exit status 3."""


def _schema_out(schema: Schema) -> dict[str, Any]:
    columns = {
        name: {"dtype": c.dtype, "shape": list(c.shape), "classes": list(c.classes) if c.classes is not None else None}
        for name, c in schema.columns.items()
    }
    return {"columns": columns, "rows": schema.rows}


def schema_in(content: Mapping[str, Any]) -> Schema:
    columns = {
        name: ColumnSchema(c["dtype"], tuple(c["shape"]), tuple(c["classes"]) if c["classes"] is not None else None)
        for name, c in content["columns"].items()
    }
    return Schema(columns, content["rows"])


def load_with(path: Path) -> tuple[Model, dict[str, Any]]:
    """The model of a file that `save` or a run wrote, and everything that the file knows about it; E702 if it is damaged."""
    arrays, about = read_arrays(path)
    return made_again(arrays, about, path), about


def made_again(arrays: Mapping[str, Array], about: Mapping[str, Any], path: Path) -> Model:
    """The model of these arrays, as `about` describes it; E702 names the file where the two do not fit."""
    try:
        if about["format"] != FORMAT:
            refuse("E702", f"its format is {about['format']}, this version reads {FORMAT}", "use the version that wrote it", path=str(path))
        source, overrides = Source(str(about["name"]), str(about["spec"])), dict(about["overrides"])
        seed, step_count = int(about["seed"]), int(about["step"])
        samples = None if about["samples"] is None else int(about["samples"])
        classes = {name: tuple(found) for name, found in about["classes"].items()}
        schema = None if about["schema"] is None else schema_in(about["schema"])
        program = pipeline.analyse(source, root=None, overrides=overrides, schema=schema, learned=classes, max_bytes=NO_LIMIT)
        learned = {name: array for name, array in arrays.items() if name.startswith("data/")}
        _check_learned(program, learned)
        model = Model(program, seed, learned, samples)
        model.restore(arrays, step_count)
        return model
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        refuse("E702", f"its checksum is right, its content is not: {error}", "take a file that nnc wrote", path=str(path))


def _check_learned(program: pipeline.Program, learned: Mapping[str, Array]) -> None:
    """ValueError where an array that a data step or a loss learned is missing or has another shape."""
    wanted: dict[str, tuple[int, ...]] = {balance.name: (balance.classes,) for balance in program.balances}
    for prepared in program.prepared.values():
        wanted |= {name: concrete(value.shape, 1) for name, value in Graph({"column": prepared.column.value}).leaves("variable").items()}
    for name, shape in wanted.items():
        if name not in learned or learned[name].shape != shape:
            raise ValueError(f"`{name}` is not what the spec makes it")


