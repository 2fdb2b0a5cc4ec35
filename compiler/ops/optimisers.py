"""Optimisers: the step that is subtracted from theta, given the gradient g. eta is the learning rate.

The training graph subtracts it, after decoupled weight decay: theta <- (1 - eta lambda) theta - step (decay=scaled), or
theta <- (1 - lambda) theta - step (decay=absolute), on weights without biases and norms.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal

from pydantic import Field

from ..ir import Value, apply, constant
from ..operation import Kind, Params, Rule, operation


class OptimiserParams(Params):
    lr: float = Field(gt=0, description="learning rate eta; a schedule starts from it")
    weight_decay: float = Field(0.0, ge=0, description="lambda of decoupled decay")

    @property
    def decay_form(self) -> str:
        return "scaled"


class DecayParams(OptimiserParams):
    decay: Literal["scaled", "absolute"] = Field("scaled", description="whether the decay is multiplied by eta")

    @property
    def decay_form(self) -> str:
        return self.decay


@operation(Kind.OPTIMISER, DecayParams)
def sgd(rule: Rule, theta: Value, g: Value, p: DecayParams) -> Value:
    """theta -= eta g. With batch=full it is gradient descent, with batch=1 the stochastic one."""
    return rule.lr * g


class MomentumParams(DecayParams):
    beta: float = Field(0.9, ge=0, lt=1, description="share of the old velocity that is kept")
    form: Literal["heavy_ball", "lr_inside", "ema"] = Field("heavy_ball", description="which of the three definitions")


@operation(Kind.OPTIMISER, MomentumParams)
def momentum(rule: Rule, theta: Value, g: Value, p: MomentumParams) -> Value:
    """heavy_ball: v = beta v + g, theta -= eta v. lr_inside: v = beta v + eta g, theta -= v. ema: v = beta v + (1 - beta) g,
    theta -= eta v. Source: Polyak 1964.
    """
    v = rule.slot("velocity")
    gain = {"heavy_ball": g, "lr_inside": rule.lr * g, "ema": g * (1 - p.beta)}[p.form]
    new = v * p.beta + gain
    rule.update(v, new)
    return new if p.form == "lr_inside" else rule.lr * new


class NesterovParams(DecayParams):
    beta: float = Field(0.9, ge=0, lt=1, description="share of the old velocity that is kept")


@operation(Kind.OPTIMISER, NesterovParams)
def nesterov(rule: Rule, theta: Value, g: Value, p: NesterovParams) -> Value:
    """v = beta v - eta g, theta += beta v - eta g: Nesterov's step written for the shifted parameters theta + beta v."""
    v = rule.slot("velocity")
    down = rule.lr * g
    new = v * p.beta - down
    rule.update(v, new)
    return down - new * p.beta


class RmspropParams(OptimiserParams):
    decay: float = Field(0.9, ge=0, lt=1, description="share of the old mean square that is kept")
    eps: float = Field(1e-7, gt=0, description="keeps the denominator from zero")
    eps_in: Literal["outside", "inside"] = Field("outside", description="epsilon outside or inside the root")
    momentum: float = Field(0.0, ge=0, lt=1, description="beta of a velocity over the scaled gradient")
    centered: bool = Field(False, description="subtract the square of the mean gradient")


@operation(Kind.OPTIMISER, RmspropParams)
def rmsprop(rule: Rule, theta: Value, g: Value, p: RmspropParams) -> Value:
    """s = decay s + (1 - decay) g^2, theta -= eta g / (sqrt(s) + eps). Source: Tieleman and Hinton 2012.

    eps_in=inside: eta g / sqrt(s + eps). centered: s - m^2 for s, m the running mean of g. momentum: v = beta v + the scaled
    gradient, theta -= eta v.
    """
    s = rule.slot("mean_square")
    new = s * p.decay + g * g * (1 - p.decay)
    rule.update(s, new)
    if p.centered:
        m = rule.slot("mean")
        mean = m * p.decay + g * (1 - p.decay)
        rule.update(m, mean)
        new = apply("maximum", new - mean * mean, constant(0.0, g.dtype))  # rounding may leave it below zero
    scaled = g / _root(new, p.eps, p.eps_in)
    if p.momentum:
        v = rule.slot("velocity")
        scaled = v * p.momentum + scaled
        rule.update(v, scaled)
    return rule.lr * scaled


def _root(s: Value, eps: float, eps_in: str) -> Value:
    return apply("sqrt", s + eps) if eps_in == "inside" else apply("sqrt", s) + eps


class AdamParams(DecayParams):
    lr: float = Field(0.001, gt=0, description="learning rate eta; a schedule starts from it")
    beta1: float = Field(0.9, ge=0, lt=1, description="share of the old mean that is kept")
    beta2: float = Field(0.999, ge=0, lt=1, description="share of the old mean square that is kept")
    eps: float = Field(1e-8, gt=0, description="keeps the denominator from zero")
    eps_in: Literal["outside", "inside"] = Field("outside", description="epsilon outside or inside the root")


@operation(Kind.OPTIMISER, AdamParams, facts={"adaptive"})
def adam(rule: Rule, theta: Value, g: Value, p: AdamParams) -> Value:
    """m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, theta -= eta m' / (sqrt(v') + eps), m' = m / (1 - b1^t),
    v' = v / (1 - b2^t), t from 1; eps_in=inside: eta m' / sqrt(v' + eps). Source: Kingma and Ba 2014, arXiv:1412.6980.
    """
    m, v = rule.slot("mean"), rule.slot("mean_square")
    new_m = m * p.beta1 + g * (1 - p.beta1)
    new_v = v * p.beta2 + g * g * (1 - p.beta2)
    rule.update(m, new_m)
    rule.update(v, new_v)
    first = rule.scalar("first_correction", lambda t: 1 / (1 - p.beta1**t))
    if p.eps_in == "inside":
        second = rule.scalar("second_correction", lambda t: 1 / (1 - p.beta2**t))
        return (rule.lr * first) * new_m / apply("sqrt", new_v * second + p.eps)
    # sqrt(v') + eps = c (sqrt(v) + eps / c) with c = 1 / sqrt(1 - b2^t): one pass over the array less.
    ratio = rule.scalar("root_correction", lambda t: sqrt(1 - p.beta2**t))
    return (rule.lr * first * ratio) * new_m / (apply("sqrt", new_v) + ratio * p.eps)


class AdamwParams(AdamParams):
    weight_decay: float = Field(0.01, ge=0, description="lambda of decoupled decay")


@operation(Kind.OPTIMISER, AdamwParams, facts={"adaptive"})
def adamw(rule: Rule, theta: Value, g: Value, p: AdamwParams) -> Value:
    """adam with decoupled weight decay 0.01 by default. Source: Loshchilov and Hutter 2017, arXiv:1711.05101."""
    step: Value = adam(rule, theta, g, p)
    return step
