"""Activations: functions of the pre-activation z, elementwise except softmax."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Value, apply, constant
from ..operation import Build, Kind, NoParams, Params, operation

_XAVIER = "xavier_uniform"
_HE = "he_normal"


@operation(Kind.LAYER, facts={"activation", "unbounded"}, init=_XAVIER)
def linear(build: Build, z: Value, p: NoParams) -> Value:
    """z, elementwise."""
    return z


class StepParams(Params):
    surrogate: Literal["none", "identity", "sigmoid"] = Field(
        "none", description="whose gradient stands in for the step's, which is zero"
    )
    at_zero: float = Field(0.0, ge=0, le=1, description="the value at z = 0")


@operation(Kind.LAYER, StepParams, facts={"activation", "bounded"}, init=_XAVIER)
def step(build: Build, z: Value, p: StepParams) -> Value:
    """1 if z > 0 else 0, elementwise; `at_zero` where z = 0.

    The gradient is the surrogate's: 1 for identity, sigmoid'(z) for sigmoid. Source: Rosenblatt 1958.
    """
    value = apply("cast", apply("greater", z, constant(0.0, z.dtype)), dtype=z.dtype)
    if p.at_zero:
        zero = apply("equal", z, constant(0.0, z.dtype))
        value = apply("where", zero, constant(p.at_zero, z.dtype), value)
    if p.surrogate != "none":
        return apply("surrogate", value, z if p.surrogate == "identity" else apply("sigmoid", z))
    if build.training and build.depends_on_parameters(z):
        raise Refusal("E505", label="no gradient passes here", help="write step(surrogate=identity) or step(surrogate=sigmoid)")
    return value


@operation(Kind.LAYER, facts={"activation", "bounded", "saturating", "probability"}, init=_XAVIER)
def sigmoid(build: Build, z: Value, p: NoParams) -> Value:
    """1 / (1 + e^-z), elementwise, without overflow for large abs(z)."""
    return apply("sigmoid", z)


@operation(Kind.LAYER, facts={"activation", "bounded", "saturating"}, init=_XAVIER)
def tanh(build: Build, z: Value, p: NoParams) -> Value:
    """(e^z - e^-z) / (e^z + e^-z), elementwise."""
    return apply("tanh", z)


@operation(Kind.LAYER, facts={"activation", "rectifier"}, init=_HE)
def relu(build: Build, z: Value, p: NoParams) -> Value:
    """max(z, 0), elementwise; its slope at 0 is 0."""
    return apply("maximum", z, constant(0.0, z.dtype))


class LeakyReluParams(Params):
    slope: float = Field(0.01, ge=0, description="slope where z < 0")


@operation(Kind.LAYER, LeakyReluParams, facts={"activation", "rectifier"}, init=_HE)
def leaky_relu(build: Build, z: Value, p: LeakyReluParams) -> Value:
    """z if z > 0 else slope * z, elementwise. Source: Maas et al. 2013."""
    return apply("where", apply("greater", z, constant(0.0, z.dtype)), z, z * p.slope)


class EluParams(Params):
    alpha: float = Field(1.0, gt=0, description="minus the limit for z -> -inf")


@operation(Kind.LAYER, EluParams, facts={"activation", "rectifier"}, init=_HE)
def elu(build: Build, z: Value, p: EluParams) -> Value:
    """z if z > 0 else alpha * (e^z - 1), elementwise. Source: Clevert et al. 2015, arXiv:1511.07289."""
    zero = constant(0.0, z.dtype)
    below = apply("expm1", apply("minimum", z, zero)) * p.alpha
    return apply("where", apply("greater", z, zero), z, below)


class SwishParams(Params):
    beta: float = Field(1.0, gt=0, description="slope of the gate")


@operation(Kind.LAYER, SwishParams, facts={"activation", "rectifier"}, init=_HE)
def swish(build: Build, z: Value, p: SwishParams) -> Value:
    """z * sigmoid(beta * z), elementwise. Source: Ramachandran et al. 2017, arXiv:1710.05941."""
    return z * apply("sigmoid", z * p.beta)


class SoftmaxParams(Params):
    axis: int = Field(-1, description="the axis of a sample that sums to 1")
    temperature: float = Field(1.0, gt=0, description="T: above 1 flatter, below 1 sharper")


@operation(Kind.LAYER, SoftmaxParams, facts={"activation", "bounded", "probability", "distribution"}, init=_XAVIER)
def softmax(build: Build, z: Value, p: SoftmaxParams) -> Value:
    """e^(z_i / T) / sum_j e^(z_j / T) along an axis, with the largest z subtracted first."""
    rank = z.type.rank - 1
    if rank == 0:
        raise Refusal("E303", label="softmax wants at least one axis", help="give dense(units) first", operand="a scalar per sample",
                      operation="softmax")  # fmt: skip
    if not -rank <= p.axis < rank:
        raise Refusal("E309", at="axis", label=f"a sample has {rank} axes", help=f"use an axis from {-rank} to {rank - 1}",
                      axis=p.axis)  # fmt: skip
    scaled = z if p.temperature == 1 else z * (1 / p.temperature)
    return apply("softmax", scaled, axis=p.axis % rank + 1)
