"""What the trainer asks of an engine: a step to fill and take, and the state settled into the model where others read it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from .divided import Call
from .engine import Engine
from .executor import Program
from .kernels import Array
from .model import Model
from .threads import hold


class Filled(Protocol):
    """A step for one batch size: fill `inputs`, advance, read `outputs`."""

    @property
    def inputs(self) -> dict[str, Array]: ...

    @property
    def outputs(self) -> Mapping[str, Array]: ...

    def reads(self, columns: Mapping[str, Any]) -> Array | None:
        """Let the step gather its inputs itself: where to put the address of the rows' numbers (int64); None where it does not."""
        ...

    def advance(self) -> float:
        """Run the step; the objective before the update. E510 names the layer where a value is not finite."""
        ...


class Steps(Protocol):
    def at(self, n: int) -> Filled:
        """The step for batches of n samples."""
        ...

    def settle(self) -> None:
        """Bring the state into the model's variables."""
        ...

    def running(self) -> AbstractContextManager[None]:
        """A context for many steps."""
        ...


class HostStep:
    def __init__(self, model: Model, program: Program):
        self.model, self.program = model, program
        self.inputs, self.outputs = program.inputs, program.outputs
        self.columns: Mapping[str, Any] | None = None
        self.rows = np.zeros(1, np.int64)
        self.forward: list[Call] | None = None

    def reads(self, columns: Mapping[str, Any]) -> Array | None:
        if self.columns is not columns:
            self.columns, self.forward = columns, self.program.reading(columns, self.rows)
        return None if self.forward is None else self.rows

    def advance(self) -> float:
        return self.model.advance(self.program, self.forward)


class HostSteps:
    """Steps in the model's own memory, on NumPy or in compiled loops."""

    def __init__(self, model: Model, fast: bool):
        self.model, self.fast = model, fast
        self.made: dict[int, HostStep] = {}

    def at(self, n: int) -> Filled:
        program = self.model.step_program(n)
        if n not in self.made or self.made[n].program is not program:
            self.made[n] = HostStep(self.model, program)
        return self.made[n]

    def settle(self) -> None:
        """The state is there already."""

    def running(self) -> AbstractContextManager[None]:
        return hold() if self.fast else nullcontext()


def steps_on(engine: Engine, model: Model, n: int) -> Steps:
    """The steps of a model on an engine. E710 where onnxruntime cannot take those for n samples, E709 where the device has no kernel for a node."""
    if engine.name != "onnxruntime":
        return HostSteps(model, engine.name == "fast")
    from .onnx_steps import OnnxSteps

    steps = OnnxSteps(model, engine.device)
    steps.at(n)
    return steps
