"""Penalties on weights (roles weight, W and R, never biases and norms), added to the objective with their gradients; constraints on units."""

from typing import Literal

from pydantic import Field

from ..ir import Value, apply, constant
from ..operation import Incoming, Kind, Params, operation
from ..primitives import dot, root, total


class PenaltyParams(Params):
    strength: float = Field(ge=0, description="lambda")
    scale: float | Literal["1/samples"] = Field(1.0, kw_only=True, description="a factor, or 1/samples: one over the number of training samples")


def strength(p: PenaltyParams, samples: int | None) -> float:
    """lambda times its scale."""
    if p.scale == "1/samples":
        assert samples is not None
        return p.strength / samples
    return p.strength * float(p.scale)


@operation(Kind.PENALTY, PenaltyParams)
def l1(w: Value, p: PenaltyParams, samples: int | None) -> Value:
    """lambda * sum |w|; with scale=1/samples lambda/n * sum |w|. Source: Tibshirani 1996."""
    return total(apply("absolute", w)) * strength(p, samples)


@operation(Kind.PENALTY, PenaltyParams, facts={"decay"})
def l2(w: Value, p: PenaltyParams, samples: int | None) -> Value:
    """lambda/2 * sum w^2; with scale=1/samples lambda/(2n) * sum w^2. Source: Hoerl and Kennard 1970.

    Differs: Keras's L2(lambda) is lambda * sum w^2, twice this; torch's weight_decay=lambda has this gradient.
    """
    return dot(w, w) * (strength(p, samples) / 2)


class LmParams(PenaltyParams):
    m: float = Field(ge=1, description="the power; 1 is l1")


@operation(Kind.PENALTY, LmParams)
def lm(w: Value, p: LmParams, samples: int | None) -> Value:
    """lambda/m * sum |w|^m; with scale=1/samples divided by n as well."""
    return total(apply("power", apply("absolute", w), constant(p.m, w.dtype))) * (strength(p, samples) / p.m)


class MaxNormParams(Params):
    c: float = Field(gt=0, description="the largest norm")


@operation(Kind.CONSTRAINT, MaxNormParams)
def max_norm(w: Value, incoming: Incoming, p: MaxNormParams) -> Value:
    """w * min(1, c / ||w||_2) for the weights w that lead into each unit. Source: Srivastava et al. 2014.

    Differs: Keras's MaxNorm holds along axis 0 unless told otherwise, which for its convolutions is no unit.
    """
    units = apply("reshape", w, shape=incoming.shape) if incoming.shape else w
    length = root(total(units * units, *incoming.axes, keepdims=True))
    held = units * (constant(p.c, w.dtype) / apply("maximum", length, constant(p.c, w.dtype)))
    return apply("reshape", held, shape=w.shape) if incoming.shape else held
