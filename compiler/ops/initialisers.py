"""Initialisers: the distribution a parameter starts from. fan_in and fan_out count connections of a unit."""

from math import sqrt
from typing import Literal

from pydantic import Field

from ..diagnostics import Refusal
from ..operation import Draw, Fan, Kind, NoParams, Params, operation


@operation(Kind.INITIALISER)
def zeros(p: NoParams, fan: Fan) -> Draw:
    """0 everywhere."""
    return Draw("constant", 0.0)


@operation(Kind.INITIALISER)
def ones(p: NoParams, fan: Fan) -> Draw:
    """1 everywhere."""
    return Draw("constant", 1.0)


class ConstantParams(Params):
    value: float = Field(description="the value of every element")


@operation(Kind.INITIALISER, ConstantParams)
def constant(p: ConstantParams, fan: Fan) -> Draw:
    """The value everywhere."""
    return Draw("constant", p.value)


class NormalParams(Params):
    std: float = Field(0.01, gt=0, description="standard deviation")
    mean: float = Field(0.0, description="mean")


@operation(Kind.INITIALISER, NormalParams)
def normal(p: NormalParams, fan: Fan) -> Draw:
    """Normal with the mean and standard deviation.

    Differs: std is 1 in torch and 0.05 in Keras by default.
    """
    return Draw("normal", p.mean, p.std)


class UniformParams(Params):
    low: float = Field(-0.05, description="lower end")
    high: float = Field(0.05, description="upper end, excluded")


@operation(Kind.INITIALISER, UniformParams)
def uniform(p: UniformParams, fan: Fan) -> Draw:
    """Uniform on [low, high).

    Differs: torch's default is [0, 1); Keras's is as here.
    """
    if not p.low < p.high:
        raise Refusal("E207", at="high", label=f"low is {p.low:g}", help="give low < high", argument="high", value=f"{p.high:g}",
                      bound="greater than low")  # fmt: skip
    return Draw("uniform", p.low, p.high)


@operation(Kind.INITIALISER, suits="saturating", twin="he_normal")
def xavier_normal(p: NoParams, fan: Fan) -> Draw:
    """Normal, std = sqrt(2 / (fan_in + fan_out)). Source: Glorot and Bengio 2010.

    Differs: torch's is as here; Keras's GlorotNormal is truncated at two standard deviations and widened to keep std.
    """
    return Draw("normal", 0.0, sqrt(2 / (fan.into + fan.out)))


@operation(Kind.INITIALISER, suits="saturating", twin="he_uniform")
def xavier_uniform(p: NoParams, fan: Fan) -> Draw:
    """Uniform on [-r, r), r = sqrt(6 / (fan_in + fan_out)). Source: Glorot and Bengio 2010."""
    r = sqrt(6 / (fan.into + fan.out))
    return Draw("uniform", -r, r)


@operation(Kind.INITIALISER, suits="rectifier", twin="xavier_normal")
def he_normal(p: NoParams, fan: Fan) -> Draw:
    """Normal, std = sqrt(2 / fan_in). Source: He et al. 2015, arXiv:1502.01852.

    Differs: torch's kaiming_normal_ is as here; Keras's HeNormal is truncated at two standard deviations and widened to keep std.
    """
    return Draw("normal", 0.0, sqrt(2 / fan.into))


@operation(Kind.INITIALISER, suits="rectifier", twin="xavier_uniform")
def he_uniform(p: NoParams, fan: Fan) -> Draw:
    """Uniform on [-r, r), r = sqrt(6 / fan_in). Source: He et al. 2015, arXiv:1502.01852."""
    r = sqrt(6 / fan.into)
    return Draw("uniform", -r, r)


@operation(Kind.INITIALISER, NormalParams)
def truncated_normal(p: NormalParams, fan: Fan) -> Draw:
    """Normal with the mean and standard deviation, redrawn beyond two standard deviations.

    Differs: Keras's is as here; torch's trunc_normal_ cuts at the values -2 and 2, whatever std is.
    """
    return Draw("truncated_normal", p.mean, p.std)


@operation(Kind.INITIALISER)
def lecun_normal(p: NoParams, fan: Fan) -> Draw:
    """Normal, std = sqrt(1 / fan_in). Source: LeCun et al. 1998.

    Differs: Keras's is truncated at two standard deviations and widened to keep std.
    """
    return Draw("normal", 0.0, sqrt(1 / fan.into))


@operation(Kind.INITIALISER)
def lecun_uniform(p: NoParams, fan: Fan) -> Draw:
    """Uniform on [-r, r), r = sqrt(3 / fan_in). Source: LeCun et al. 1998."""
    r = sqrt(3 / fan.into)
    return Draw("uniform", -r, r)


class OrthogonalParams(Params):
    gain: float = Field(1.0, gt=0, description="what the orthogonal matrix is multiplied by")


@operation(Kind.INITIALISER, OrthogonalParams)
def orthogonal(p: OrthogonalParams, fan: Fan) -> Draw:
    """gain times rows or columns of an orthogonal matrix, whichever are fewer; axes after the first are one. Source: Saxe et al. 2013.

    Differs: torch too keeps the first axis apart, Keras the last one.
    """
    return Draw("orthogonal", p.gain)


class ScaledParams(Params):
    activation: Literal["logistic", "tanh", "relu"] = Field(description="the activation that follows; relu stands for all rectifiers")
    distribution: Literal["normal", "uniform"] = Field("normal", description="normal or uniform")


_GAINS = {"logistic": 1.0, "tanh": 4.0, "relu": sqrt(2)}


@operation(Kind.INITIALISER, ScaledParams)
def scaled(p: ScaledParams, fan: Fan) -> Draw:
    """By activation: logistic r = sqrt(6 / (in + out)) or std = sqrt(2 / (in + out)); tanh 4 times that; relu sqrt(2) times that."""
    gain = _GAINS[p.activation]
    if p.distribution == "normal":
        return Draw("normal", 0.0, gain * sqrt(2 / (fan.into + fan.out)))
    r = gain * sqrt(6 / (fan.into + fan.out))
    return Draw("uniform", -r, r)


class FromParams(Params):
    file: str = Field(description="a safetensors file")
    name: str = Field(description="the array in it, of the parameter's shape")


@operation(Kind.INITIALISER, FromParams, name="from")
def from_file(p: FromParams, fan: Fan) -> Draw:
    """The array of a file: transfer of one parameter."""
    return Draw("file", file=p.file, name=p.name)


@operation(Kind.INITIALISER)
def auto(p: NoParams, fan: Fan) -> Draw:
    """Chosen from the activation that follows: he_normal before rectifiers, lecun_normal before selu, else xavier_uniform.

    The compiler replaces it by that choice before anything is drawn.
    """
    draw: Draw = xavier_uniform(p, fan)
    return draw
