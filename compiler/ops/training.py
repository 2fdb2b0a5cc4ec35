"""The remaining words of a train section: clipping, stopping, groups, a start from given weights, a goal, ensembles."""

from typing import Annotated

from pydantic import Field

from ..ir import Value, apply, constant
from ..operation import Kind, Params, Reference, Refers, operation


class NormParams(Params):
    norm: float = Field(gt=0, description="c, the largest norm")


def _shrink(g: Value, norm: Value, limit: float) -> Value:
    """g * min(1, c / norm)."""
    one = constant(1.0, g.dtype)
    return g * apply("minimum", one, constant(limit, g.dtype) / apply("maximum", norm, constant(1e-30, g.dtype)))


@operation(Kind.CLIP, NormParams, facts={"flat"})
def global_norm(gradients: list[Value], squares: list[Value], p: NormParams) -> list[Value]:
    """All gradients times min(1, c / norm), norm the root of the sum of all their squares. Source: Pascanu et al. 2013.

    Differs: torch divides by the norm + 1e-6; clipnorm of Keras is `norm`, its global_clipnorm is this one.
    """
    whole = squares[0]
    for square in squares[1:]:
        whole = whole + square
    length = apply("sqrt", whole)
    return [_shrink(g, length, p.norm) for g in gradients]


@operation(Kind.CLIP, NormParams)
def norm(gradients: list[Value], squares: list[Value], p: NormParams) -> list[Value]:
    """Each parameter's gradient times min(1, c / its norm)."""
    return [_shrink(g, apply("sqrt", square), p.norm) for g, square in zip(gradients, squares, strict=True)]


class ValueParams(Params):
    limit: float = Field(gt=0, description="c, the largest absolute value")


@operation(Kind.CLIP, ValueParams, facts={"flat"})
def value(gradients: list[Value], squares: list[Value], p: ValueParams) -> list[Value]:
    """Each element limited to [-c, c]."""

    def limited(g: Value) -> Value:
        high, low = constant(p.limit, g.dtype), constant(-p.limit, g.dtype)
        return apply("maximum", apply("minimum", g, high), low)

    return [limited(g) for g in gradients]


class EarlyStoppingParams(Params):
    monitor: Annotated[Reference, Refers("metric")] = Field(description="the figure to watch, such as val.loss")
    patience: int = Field(5, ge=1, description="epochs without a better value before training stops")
    min_delta: float = Field(0.0, ge=0, description="how much better counts as better")


@operation(Kind.STOP, EarlyStoppingParams)
def early_stopping(p: EarlyStoppingParams) -> None:
    """Stops after `patience` epochs without a better value, and keeps the weights of the best epoch.

    Differs: Keras's EarlyStopping keeps the last epoch's weights unless restore_best_weights is set, and has patience 0.
    """


class GroupParams(Params):
    part: Annotated[Reference, Refers("parameter")] = Field(description="a statement, a path or one parameter's name")
    rate: float = Field(1.0, ge=0, description="factor on the learning rate")
    frozen: bool = Field(False, description="hold the parameters; norms use their running statistics")


@operation(Kind.GROUP, GroupParams)
def group(p: GroupParams) -> None:
    """Parameters whose name starts with the part, with a rate of their own or frozen."""


class WeightsParams(Params):
    file: str = Field(description="a safetensors file with parameters by name")
    only: tuple[Annotated[Reference, Refers("parameter")], ...] = Field((), description="the parts to take; all when not given")


@operation(Kind.START, WeightsParams)
def weights(p: WeightsParams) -> None:
    """Parameters start from the file's arrays of the same names and shapes."""


class AtLeastParams(Params):
    monitor: Annotated[Reference, Refers("metric")] = Field(description="the figure, such as val.accuracy")
    value: float = Field(description="what it should reach")


@operation(Kind.GOAL, AtLeastParams, facts={"higher"})
def at_least(p: AtLeastParams) -> None:
    """The figure that would be good enough: higher is better."""


@operation(Kind.GOAL, AtLeastParams, facts={"lower"})
def at_most(p: AtLeastParams) -> None:
    """The figure that would be good enough: lower is better."""


class BaggingParams(Params):
    members: int = Field(ge=2, description="n: how many networks are trained")


@operation(Kind.ENSEMBLE, BaggingParams)
def bagging(p: BaggingParams) -> None:
    """n networks, each with initial weights and a bootstrap sample of its own: as many rows as the training split has, drawn with replacement.

    The outputs are averaged: probabilities, or values. `out_of_bag` is every training row as predicted by the members that have not drawn it.
    Source: Breiman 1996.
    """
