"""Schedules of the learning rate. i counts the steps of a stage from 0, e its epochs from 0, k its number of steps.

step, exponential, inverse_time and reduce_on_plateau change at the end of an epoch (unit=steps: at every step), the others at
every step. Right of `->` a
schedule covers what remains.
"""

from math import cos, pi
from typing import Annotated, Literal

from pydantic import Field

from ..diagnostics import Refusal
from ..operation import Clock, Kind, NoParams, Params, Reference, Refers, Stage, operation


@operation(Kind.SCHEDULE, facts={"constant"})
def constant(p: NoParams, lr: float, clock: Clock) -> Stage:
    """eta."""
    return Stage(lambda i: lr)


class UnitParams(Params):
    unit: Literal["epochs", "steps"] = Field("epochs", kw_only=True, description="what the schedule counts in")

    def count(self, i: int, clock: Clock) -> int:
        """What has passed since the stage began: steps, or ends of epochs."""
        return i if self.unit == "steps" else (i + clock.offset) // clock.steps_per_epoch


class ExponentialParams(UnitParams):
    decay: float = Field(gt=0, le=1, description="factor of each epoch")


@operation(Kind.SCHEDULE, ExponentialParams)
def exponential(p: ExponentialParams, lr: float, clock: Clock) -> Stage:
    """eta * decay^e.

    Differs: torch's ExponentialLR changes at the end of an epoch as here, Keras's ExponentialDecay at every step unless staircase.
    """
    return Stage(lambda i: lr * p.decay ** p.count(i, clock))


class StepParams(UnitParams):
    every: int = Field(ge=1, description="epochs between two changes")
    factor: float = Field(0.1, gt=0, description="what the rate is multiplied by")


@operation(Kind.SCHEDULE, StepParams)
def step(p: StepParams, lr: float, clock: Clock) -> Stage:
    """eta * factor^floor(e / every)."""
    return Stage(lambda i: lr * p.factor ** (p.count(i, clock) // p.every))


class InverseTimeParams(UnitParams):
    decay: float = Field(gt=0, description="d")


@operation(Kind.SCHEDULE, InverseTimeParams)
def inverse_time(p: InverseTimeParams, lr: float, clock: Clock) -> Stage:
    """eta / (1 + d e)."""
    return Stage(lambda i: lr / (1 + p.decay * p.count(i, clock)))


class PolynomialParams(Params):
    to: float = Field(0.0, ge=0, description="the rate at the end")
    power: float = Field(1.0, gt=0, description="1 is a line")


@operation(Kind.SCHEDULE, PolynomialParams)
def polynomial(p: PolynomialParams, lr: float, clock: Clock) -> Stage:
    """to + (eta - to) (1 - i / k)^power."""
    return Stage(lambda i: p.to + (lr - p.to) * max(0.0, 1 - i / clock.steps) ** p.power)


class CosineParams(Params):
    to: float = Field(0.0, ge=0, description="the rate at the end")
    restarts: int = Field(0, ge=0, description="how often it starts again from eta")


@operation(Kind.SCHEDULE, CosineParams)
def cosine(p: CosineParams, lr: float, clock: Clock) -> Stage:
    """to + (eta - to) (1 + cos(pi i / k)) / 2, k steps to the end or to the next restart. Source: Loshchilov and Hutter 2016."""
    period = clock.steps / (p.restarts + 1)

    def rate(i: int) -> float:
        part = 1.0 if i >= clock.steps else i % period / period
        return p.to + (lr - p.to) * (1 + cos(pi * part)) / 2

    return Stage(rate)


class TriangularParams(UnitParams):
    low: float = Field(gt=0, description="the lowest rate")
    high: float = Field(gt=0, description="the highest rate")
    period: float = Field(gt=0, description="epochs of a rise and a fall")
    mode: Literal["linear", "exp"] = Field("linear", description="whether the peaks stay, or shrink by gamma a period")
    gamma: float = Field(0.5, gt=0, lt=1, description="factor of a period, with mode=exp")


@operation(Kind.SCHEDULE, TriangularParams)
def triangular(p: TriangularParams, lr: float, clock: Clock) -> Stage:
    """low + (high - low) (1 - |2 x - 1|), x the part of the period that is past; mode=exp: times gamma^periods. Source: Smith 2015."""
    if p.low >= p.high:
        raise Refusal("E207", at="high", label=f"low is {p.low:g}", help="give low < high", argument="high", value=f"{p.high:g}",
                      bound="greater than low")  # fmt: skip
    period = p.period * (1 if p.unit == "steps" else clock.steps_per_epoch)

    def rate(i: int) -> float:
        height = 1 - abs(2 * (i % period / period) - 1)
        return p.low + (p.high - p.low) * height * (p.gamma ** (i / period) if p.mode == "exp" else 1.0)

    return Stage(rate)


class OneCycleParams(Params):
    peak: float = Field(gt=0, description="the highest rate")
    start: float | None = Field(None, gt=0, description="the rate at the start; eta when not given")
    end: float | None = Field(None, gt=0, description="the rate at the end; start / 10000 when not given")
    rise: float = Field(0.3, gt=0, lt=1, description="share of the steps that rise")


@operation(Kind.SCHEDULE, OneCycleParams)
def one_cycle(p: OneCycleParams, lr: float, clock: Clock) -> Stage:
    """From start to peak over the first share of the steps, then to end, both along half a cosine. Source: Smith and Topin 2017.

    Differs: torch's OneCycleLR starts from peak / 25.
    """
    start = lr if p.start is None else p.start
    end = start / 10_000 if p.end is None else p.end
    up = p.rise * clock.steps

    def rate(i: int) -> float:
        first, last, part = (start, p.peak, i / up) if i < up else (p.peak, end, min(1.0, (i - up) / max(1.0, clock.steps - 1 - up)))
        return last + (first - last) * (1 + cos(pi * part)) / 2

    return Stage(rate)


class PlateauParams(Params):
    factor: float = Field(0.1, gt=0, lt=1, description="what the rate is multiplied by")
    patience: int = Field(10, ge=0, description="epochs without a better value that are waited for")
    monitor: Annotated[Reference | None, Refers("metric")] = Field(None, description="the figure to watch; val.loss when not given")
    least: float = Field(0.0, ge=0, description="the rate does not fall below this")
    min_delta: float = Field(1e-4, ge=0, description="relative improvement that counts")


@operation(Kind.SCHEDULE, PlateauParams, facts={"plateau"})
def reduce_on_plateau(p: PlateauParams, lr: float, clock: Clock) -> Stage:
    """eta * factor^r, r the number of times that the figure has not become better for more than `patience` epochs.

    The trainer counts; the stage itself is constant.

    Differs: torch waits as here; Keras reduces when `patience` epochs have passed, one sooner, and its min_delta is absolute.
    """
    return Stage(lambda i: lr)


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
