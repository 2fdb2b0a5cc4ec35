"""Initialisers: the distribution a parameter starts from. fan_in and fan_out count connections of a unit."""

from __future__ import annotations

from math import sqrt

from pydantic import Field

from ..diagnostics import Refusal
from ..operation import Draw, Fan, Kind, NoParams, Params, operation


@operation(Kind.INITIALISER)
def zeros(p: NoParams, fan: Fan) -> Draw:
    """0 everywhere."""
    return Draw("constant", 0.0)


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
    """Normal with the mean and standard deviation."""
    return Draw("normal", p.mean, p.std)


class UniformParams(Params):
    low: float = Field(-0.05, description="lower end")
    high: float = Field(0.05, description="upper end, excluded")


@operation(Kind.INITIALISER, UniformParams)
def uniform(p: UniformParams, fan: Fan) -> Draw:
    """Uniform on [low, high)."""
    if not p.low < p.high:
        raise Refusal("E207", at="high", label=f"low is {p.low:g}", help="give low < high", argument="high", value=f"{p.high:g}",
                      bound="greater than low")  # fmt: skip
    return Draw("uniform", p.low, p.high)


@operation(Kind.INITIALISER)
def xavier_normal(p: NoParams, fan: Fan) -> Draw:
    """Normal, std = sqrt(2 / (fan_in + fan_out)). Source: Glorot and Bengio 2010."""
    return Draw("normal", 0.0, sqrt(2 / (fan.into + fan.out)))


@operation(Kind.INITIALISER)
def xavier_uniform(p: NoParams, fan: Fan) -> Draw:
    """Uniform on [-r, r), r = sqrt(6 / (fan_in + fan_out)). Source: Glorot and Bengio 2010."""
    r = sqrt(6 / (fan.into + fan.out))
    return Draw("uniform", -r, r)


@operation(Kind.INITIALISER)
def he_normal(p: NoParams, fan: Fan) -> Draw:
    """Normal, std = sqrt(2 / fan_in). Source: He et al. 2015, arXiv:1502.01852."""
    return Draw("normal", 0.0, sqrt(2 / fan.into))


@operation(Kind.INITIALISER)
def he_uniform(p: NoParams, fan: Fan) -> Draw:
    """Uniform on [-r, r), r = sqrt(6 / fan_in). Source: He et al. 2015, arXiv:1502.01852."""
    r = sqrt(6 / fan.into)
    return Draw("uniform", -r, r)


@operation(Kind.INITIALISER)
def auto(p: NoParams, fan: Fan) -> Draw:
    """Chosen from the activation that follows: he_normal before rectifiers, else xavier_uniform.

    The compiler replaces it by that choice before anything is drawn.
    """
    draw: Draw = xavier_uniform(p, fan)
    return draw
