"""Activations: functions of the pre-activation z, elementwise except softmax.

Beside facts they declare what advice and the watch of training go by, each a function of the arguments p, or of the output a too:
`range(p)` is what the output can be, where it cannot be everything; `dies(a, p)` is above 0 wherever a unit is alive, for activations
whose slope is exactly 0 on one side; `flat(a, p)` holds where the slope is below FLAT of the steepest; `steepest` is the largest slope,
where that is below 1.
"""

from math import inf, pi, sqrt
from typing import Any, Literal

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Value, apply, constant
from ..operation import Build, Kind, NoParams, Params, operation
from .channels import along_channels, channels_of

_XAVIER = "xavier_uniform"
_HE = "he_normal"
_LECUN = "lecun_normal"
FLAT = 0.05

Range = tuple[float, float]


def _unit(p: Any) -> Range:
    return 0.0, 1.0


def _around_zero(p: Any) -> Range:
    return -1.0, 1.0


def _not_negative(p: Any) -> Range:
    return 0.0, inf


def _below_slope(slope: Value) -> Value:
    """Where a slope, 1 at its steepest, is flat."""
    return apply("less", slope, constant(FLAT, slope.dtype))


def _at_an_end(a: Value, low: float, high: float) -> Value:
    """Where a clipped output lies at an end, beyond which its slope is 0: at most a rounding away from it."""
    half = (high - low) / 2
    return apply("greater_equal", apply("absolute", a - (low + half)), constant(half * (1 - 1e-6), a.dtype))


def _itself(a: Value, p: Any) -> Value:
    return a


def _clipped(z: Value, low: float, high: float) -> Value:
    return apply("minimum", apply("maximum", z, constant(low, z.dtype)), constant(high, z.dtype))


def _positive(z: Value) -> Value:
    return apply("greater", z, constant(0.0, z.dtype))


def _below(z: Value) -> Value:
    """min(z, 0): what an exponential of the negative side may see without overflow."""
    return apply("minimum", z, constant(0.0, z.dtype))


@operation(Kind.LAYER, facts={"activation", "unbounded"}, init=_XAVIER)
def linear(build: Build, z: Value, p: NoParams) -> Value:
    """z, elementwise."""
    return z


class StepParams(Params):
    surrogate: Literal["none", "identity", "sigmoid"] = Field(
        "none", description="whose gradient stands in for the step's, which is zero"
    )
    at_zero: float = Field(0.0, ge=0, le=1, description="the value at z = 0")


@operation(Kind.LAYER, StepParams, facts={"activation", "discontinuous", "bounded"}, init=_XAVIER, range=_unit)
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


@operation(Kind.LAYER, facts={"activation", "bounded", "saturating", "probability"}, init=_XAVIER, steepest=0.25, range=_unit,
           flat=lambda a, p: _below_slope(a * (1.0 - a) * 4.0))  # fmt: skip
def sigmoid(build: Build, z: Value, p: NoParams) -> Value:
    """1 / (1 + e^-z), elementwise, without overflow for large abs(z). Source: Rumelhart et al. 1986."""
    return apply("sigmoid", z)


@operation(Kind.LAYER, facts={"activation", "bounded", "saturating"}, init=_XAVIER, range=_around_zero, flat=lambda a, p: _below_slope(1.0 - a * a))
def tanh(build: Build, z: Value, p: NoParams) -> Value:
    """(e^z - e^-z) / (e^z + e^-z), elementwise. Source: LeCun et al. 1998."""
    return apply("tanh", z)


@operation(Kind.LAYER, facts={"activation", "rectifier"}, init=_HE, range=_not_negative, dies=_itself)
def relu(build: Build, z: Value, p: NoParams) -> Value:
    """max(z, 0), elementwise; its slope at 0 is 0. Source: Nair and Hinton 2010."""
    return apply("maximum", z, constant(0.0, z.dtype))


class LeakyReluParams(Params):
    slope: float = Field(0.01, ge=0, description="slope where z < 0")


@operation(Kind.LAYER, LeakyReluParams, facts={"activation", "rectifier"}, init=_HE, dies=lambda a, p: a if p.slope == 0 else None)
def leaky_relu(build: Build, z: Value, p: LeakyReluParams) -> Value:
    """z if z > 0 else slope * z, elementwise; its slope at 0 is that below. Source: Maas et al. 2013.

    Differs: the slope of torch and ONNX is 0.01 as well, that of Keras's layer 0.3.
    """
    return apply("where", _positive(z), z, z * p.slope)


class EluParams(Params):
    alpha: float = Field(1.0, gt=0, description="minus the limit for z -> -inf")


@operation(Kind.LAYER, EluParams, facts={"activation", "rectifier"}, init=_HE, range=lambda p: (-p.alpha, inf))
def elu(build: Build, z: Value, p: EluParams) -> Value:
    """z if z > 0 else alpha * (e^z - 1), elementwise. Source: Clevert et al. 2015, arXiv:1511.07289."""
    return apply("where", _positive(z), z, apply("expm1", _below(z)) * p.alpha)


class SaturatedLinearParams(Params):
    low: float = Field(-1.0, description="the smallest value")
    high: float = Field(1.0, description="the largest value")


@operation(Kind.LAYER, SaturatedLinearParams, facts={"activation", "bounded", "saturating"}, init=_XAVIER, range=lambda p: (p.low, p.high),
           flat=lambda a, p: _at_an_end(a, p.low, p.high))  # fmt: skip
def saturated_linear(build: Build, z: Value, p: SaturatedLinearParams) -> Value:
    """clip(z, low, high), elementwise; its slope at the ends is 0."""
    if p.low >= p.high:
        raise Refusal("E207", at="high", label=f"low is {p.low:g}", help="give low < high", argument="high", value=f"{p.high:g}",
                      bound="greater than low")  # fmt: skip
    return _clipped(z, p.low, p.high)


@operation(Kind.LAYER, facts={"activation", "bounded"}, init=_XAVIER, range=_unit)
def gaussian(build: Build, z: Value, p: NoParams) -> Value:
    """e^(-z^2), elementwise. Source: Broomhead and Lowe 1988."""
    return apply("exp", -(z * z))


class PreluParams(Params):
    slope_init: float = Field(0.25, alias="init", description="the slope that every channel starts with")
    form: Literal["piecewise", "max"] = Field("piecewise", description="piecewise: a z below 0; max: the larger of a z and z")


@operation(Kind.LAYER, PreluParams, facts={"activation", "rectifier"}, init=_HE)
def prelu(build: Build, z: Value, p: PreluParams) -> Value:
    """z if z > 0 else a z, with one learned slope a for each channel; form=max: max(a z, z). Source: He et al. 2015.

    The forms agree for a <= 1. Shape: any -> same; slope [channels].

    Differs: torch's layer has one slope for all channels unless it is given their number; Keras's has one for each element, from 0.
    """
    a = along_channels(build.parameter("slope", (channels_of(z, "prelu"),), start=p.slope_init), z)
    return apply("maximum", z, a * z) if p.form == "max" else apply("where", _positive(z), z, a * z)


@operation(Kind.LAYER, facts={"activation", "rectifier", "bounded"}, init=_HE, range=lambda p: (0.0, 6.0), dies=_itself)
def relu6(build: Build, z: Value, p: NoParams) -> Value:
    """min(max(z, 0), 6), elementwise; its slope at 0 and 6 is 0. Source: Krizhevsky 2010."""
    return _clipped(z, 0.0, 6.0)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@operation(Kind.LAYER, facts={"activation", "self_normalizing", "rectifier"}, init=_LECUN, range=lambda p: (-_SELU_SCALE * _SELU_ALPHA, inf))
def selu(build: Build, z: Value, p: NoParams) -> Value:
    """1.0507 (z if z > 0 else 1.6733 (e^z - 1)), elementwise: keeps mean 0 and variance 1. Source: Klambauer et al. 2017.

    Differs: ONNX's constants are these rounded to float32, so that a Selu operator gives other last digits.
    """
    return apply("where", _positive(z), z, apply("expm1", _below(z)) * _SELU_ALPHA) * _SELU_SCALE


@operation(Kind.LAYER, EluParams, facts={"activation", "rectifier"}, init=_HE, range=lambda p: (-p.alpha, inf))
def celu(build: Build, z: Value, p: EluParams) -> Value:
    """z if z > 0 else alpha (e^(z / alpha) - 1), elementwise. Source: Barron 2017, arXiv:1704.07483."""
    return apply("where", _positive(z), z, apply("expm1", _below(z) * (1 / p.alpha)) * p.alpha)


@operation(Kind.LAYER, facts={"activation", "rectifier"}, init=_HE, range=_not_negative)
def softplus(build: Build, z: Value, p: NoParams) -> Value:
    """ln(1 + e^z), elementwise, without overflow. Source: Dugas et al. 2001.

    Differs: torch's is z itself where z > 20, its threshold; Keras's and ONNX's are as here.
    """
    return apply("softplus", z)


@operation(Kind.LAYER, facts={"activation", "bounded", "saturating"}, init=_XAVIER, range=_around_zero,
           flat=lambda a, p: _below_slope((1.0 - apply("absolute", a)) * (1.0 - apply("absolute", a))))  # fmt: skip
def softsign(build: Build, z: Value, p: NoParams) -> Value:
    """z / (1 + |z|), elementwise. Source: Bergstra et al. 2009."""
    return z / (apply("absolute", z) + 1.0)


@operation(Kind.LAYER, facts={"activation", "rectifier"}, init=_HE)
def mish(build: Build, z: Value, p: NoParams) -> Value:
    """z * tanh(ln(1 + e^z)), elementwise. Source: Misra 2019, arXiv:1908.08681."""
    return z * apply("tanh", apply("softplus", z))


class GeluParams(Params):
    approximate: Literal["none", "tanh"] = Field("none", description="the exact form, or the one with tanh")


@operation(Kind.LAYER, GeluParams, facts={"activation", "rectifier"}, init=_HE)
def gelu(build: Build, z: Value, p: GeluParams) -> Value:
    """z (1 + erf(z / sqrt 2)) / 2, elementwise; approximate=tanh: z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.

    Differs: torch, Keras and ONNX take the exact form by default, as here; JAX takes the one with tanh.
    """
    if p.approximate == "tanh":
        gate = apply("tanh", (z + z * z * z * 0.044715) * sqrt(2 / pi))
    else:
        gate = apply("erf", z * sqrt(0.5))
    return z * (gate + 1.0) * 0.5


@operation(Kind.LAYER, facts={"activation", "bounded", "saturating", "probability"}, init=_XAVIER, steepest=1 / 6, range=_unit,
           flat=lambda a, p: _at_an_end(a, 0.0, 1.0))  # fmt: skip
def hard_sigmoid(build: Build, z: Value, p: NoParams) -> Value:
    """clip(z / 6 + 1/2, 0, 1), elementwise; its slope at the ends is 0. Source: Courbariaux et al. 2015, arXiv:1511.00363.

    Differs: torch and Keras 3 define it so; ONNX's HardSigmoid and Keras 2 have the slope 1/5.
    """
    return _clipped(z * (1 / 6) + 0.5, 0.0, 1.0)


@operation(Kind.LAYER, facts={"activation", "rectifier"}, init=_HE, dies=lambda a, p: apply("absolute", a))
def hard_swish(build: Build, z: Value, p: NoParams) -> Value:
    """z * clip(z / 6 + 1/2, 0, 1), elementwise. Source: Howard et al. 2019, arXiv:1905.02244."""
    return z * _clipped(z * (1 / 6) + 0.5, 0.0, 1.0)


class SwishParams(Params):
    beta: float = Field(1.0, gt=0, description="slope of the gate")


@operation(Kind.LAYER, SwishParams, facts={"activation", "rectifier"}, init=_HE)
def swish(build: Build, z: Value, p: SwishParams) -> Value:
    """z * sigmoid(beta * z), elementwise. Source: Ramachandran et al. 2017, arXiv:1710.05941.

    Differs: silu in torch and Keras, where beta is 1.
    """
    return z * apply("sigmoid", z * p.beta)


class SoftmaxParams(Params):
    axis: int = Field(-1, description="the axis of a sample that sums to 1")
    temperature: float = Field(1.0, gt=0, description="T: above 1 flatter, below 1 sharper")


def _scaled(z: Value, p: SoftmaxParams, name: str) -> tuple[Value, int]:
    """z / T and the axis counted with the batch."""
    rank = z.type.rank - 1
    if rank == 0:
        raise Refusal("E303", label=f"{name} wants at least one axis", help="give dense(units) first", operand="a scalar per sample",
                      operation=name)  # fmt: skip
    if not -rank <= p.axis < rank:
        raise Refusal("E309", at="axis", label=f"a sample has {rank} axes", help=f"use an axis from {-rank} to {rank - 1}",
                      axis=p.axis)  # fmt: skip
    return z if p.temperature == 1 else z * (1 / p.temperature), p.axis % rank + 1


@operation(Kind.LAYER, SoftmaxParams, facts={"activation", "bounded", "probability", "distribution"}, init=_XAVIER, range=_unit)
def softmax(build: Build, z: Value, p: SoftmaxParams) -> Value:
    """e^(z_i / T) / sum_j e^(z_j / T) along an axis, with the largest z subtracted first. Shape: any -> same. Source: Bridle 1990.

    Differs: torch wants the axis to be said; ONNX's default is the last one since opset 13, and before it all axes from 1 on were one. None of them, nor
    Keras, has a temperature.
    """
    scaled, axis = _scaled(z, p, "softmax")
    return apply("softmax", scaled, axis=axis)


@operation(Kind.LAYER, SoftmaxParams, facts={"activation"}, init=_XAVIER, range=lambda p: (-inf, 0.0))
def log_softmax(build: Build, z: Value, p: SoftmaxParams) -> Value:
    """z_i / T - ln sum_j e^(z_j / T) along an axis. Shape: any -> same. Source: Bridle 1990."""
    scaled, axis = _scaled(z, p, "log_softmax")
    return apply("log_softmax", scaled, axis=axis)
