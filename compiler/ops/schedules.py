"""Schedules of the learning rate. i counts the steps of a stage from 0, e its epochs from 0, k its number of steps.

step and exponential change at the end of an epoch (unit=steps: at every step), the others at every step. Right of `->` a
schedule covers what remains.
"""

from __future__ import annotations

from math import cos, pi
from typing import Literal

from pydantic import Field

from ..diagnostics import Refusal
from ..operation import Clock, Kind, NoParams, Params, Stage, operation


@operation(Kind.SCHEDULE)
def constant(p: NoParams, lr: float, clock: Clock) -> Stage:
    """eta."""
    return Stage(lambda i: lr)


class UnitParams(Params):
    unit: Literal["epochs", "steps"] = Field("epochs", description="what the schedule counts in")

    def count(self, i: int, clock: Clock) -> int:
        """What has passed since the stage began: steps, or ends of epochs."""
        return i if self.unit == "steps" else (i + clock.offset) // clock.steps_per_epoch


class ExponentialParams(UnitParams):
    decay: float = Field(gt=0, le=1, description="factor of each epoch")


@operation(Kind.SCHEDULE, ExponentialParams)
def exponential(p: ExponentialParams, lr: float, clock: Clock) -> Stage:
    """eta * decay^e."""
    return Stage(lambda i: lr * p.decay ** p.count(i, clock))


class StepParams(UnitParams):
    every: int = Field(ge=1, description="epochs between two changes")
    factor: float = Field(0.1, gt=0, description="what the rate is multiplied by")


@operation(Kind.SCHEDULE, StepParams)
def step(p: StepParams, lr: float, clock: Clock) -> Stage:
    """eta * factor^floor(e / every)."""
    return Stage(lambda i: lr * p.factor ** (p.count(i, clock) // p.every))


class CosineParams(Params):
    to: float = Field(0.0, ge=0, description="the rate at the end")


@operation(Kind.SCHEDULE, CosineParams)
def cosine(p: CosineParams, lr: float, clock: Clock) -> Stage:
    """to + (eta - to) (1 + cos(pi i / k)) / 2. Source: Loshchilov and Hutter 2016, arXiv:1608.03983."""
    return Stage(lambda i: p.to + (lr - p.to) * (1 + cos(pi * min(1.0, i / clock.steps))) / 2)


class WarmupParams(Params):
    epochs: int | None = Field(None, ge=1, description="length in epochs")
    steps: int | None = Field(None, ge=1, description="or in steps")
    every: Literal["step", "epoch"] = Field("step", description="how often the rate rises")


@operation(Kind.SCHEDULE, WarmupParams)
def warmup(p: WarmupParams, lr: float, clock: Clock) -> Stage:
    """(i + 1) eta / k over its k steps; every=epoch: (e + 1) eta / n over its n epochs. Then eta."""
    if (p.epochs is None) == (p.steps is None):
        raise Refusal("E204", label="give one of epochs and steps", help="write warmup(epochs=2)", operation="warmup",
                      argument="epochs")  # fmt: skip
    if p.every == "epoch" and p.epochs is None:
        raise Refusal("E204", at="every", label="every=epoch counts epochs", help="give epochs", operation="warmup", argument="epochs")
    length = p.steps if p.steps is not None else p.epochs * clock.steps_per_epoch  # type: ignore[operator]
    if p.every == "epoch":
        return Stage(lambda i: lr * min(1.0, (i // clock.steps_per_epoch + 1) / p.epochs), length)  # type: ignore[operator]
    return Stage(lambda i: lr * min(1.0, (i + 1) / length), length)
