"""What the trainer asks of an engine: a step to fill and take, and the state settled into the model where others read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from .engine import Engine
from .executor import Program
from .kernels import Array
from .model import Model


class Filled(Protocol):
    """A step for one batch size: fill `inputs`, advance, read `outputs`."""

    @property
    def inputs(self) -> dict[str, Array]: ...

    @property
    def outputs(self) -> Mapping[str, Array]: ...

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


class HostStep:
    def __init__(self, model: Model, program: Program):
        self.model, self.program = model, program
        self.inputs, self.outputs = program.inputs, program.outputs

    def advance(self) -> float:
        return self.model.advance(self.program)


class HostSteps:
    """Steps in the model's own memory, on NumPy or in compiled loops."""

    def __init__(self, model: Model):
        self.model = model

    def at(self, n: int) -> Filled:
        return HostStep(self.model, self.model.step_program(n))

    def settle(self) -> None:
        """The state is there already."""


def steps_on(engine: Engine, model: Model, n: int) -> Steps:
    """The steps of a model on an engine. E710 where onnxruntime cannot take those for n samples, E709 where the device has no kernel for a node."""
    if engine.name != "onnxruntime":
        return HostSteps(model)
    from .onnx_steps import OnnxSteps

    steps = OnnxSteps(model, engine.device)
    steps.at(n)
    return steps
