"""Optimisers: the step that is subtracted from theta, given the gradient g. eta is the learning rate.

The training graph subtracts it, after decoupled weight decay: theta <- (1 - eta lambda) theta - step (decay=scaled), or
theta <- (1 - lambda) theta - step (decay=absolute), on weights without biases and norms. `usual` is where learning rates of an
optimiser lie, with room on both sides, `start` the one to begin with: advice goes by them.
"""

from math import sqrt
from typing import Annotated, Literal

from pydantic import Field

from ..ir import Value, apply, constant
from ..operation import Kind, Params, Rule, operation


class OptimiserParams(Params):
    lr: float = Field(gt=0, description="learning rate eta; a schedule starts from it")
    weight_decay: float = Field(0.0, ge=0, kw_only=True, description="lambda of decoupled decay")


DecayForm = Literal["scaled", "absolute"]


class DecayParams(OptimiserParams):
    decay: DecayForm = Field("scaled", kw_only=True, description="whether the decay is multiplied by eta")

    @property
    def decay_form(self) -> str:
        return self.decay


@operation(Kind.OPTIMISER, DecayParams, facts={"sparse"}, usual=(1e-05, 10), start=0.1)
def sgd(rule: Rule, theta: Value, g: Value, p: DecayParams) -> Value:
    """theta -= eta g. With batch=full it is gradient descent, with batch=1 the stochastic one. Source: Robbins and Monro 1951."""
    return rule.lr * g


class MomentumParams(DecayParams):
    beta: float = Field(0.9, ge=0, lt=1, description="share of the old velocity that is kept")
    form: Literal["heavy_ball", "lr_inside", "ema"] = Field("heavy_ball", description="which of the three definitions")


@operation(Kind.OPTIMISER, MomentumParams, usual=(1e-06, 2), start=0.01)
def momentum(rule: Rule, theta: Value, g: Value, p: MomentumParams) -> Value:
    """heavy_ball: v = beta v + g, theta -= eta v. lr_inside: v = beta v + eta g, theta -= v. ema: v = beta v + (1 - beta) g,
    theta -= eta v. Source: Polyak 1964.

    Differs: torch's SGD is heavy_ball, Keras's lr_inside; at a constant rate they agree. torch's dampening is like ema but for its first step.
    """
    v = rule.slot("velocity")
    gain = {"heavy_ball": g, "lr_inside": rule.lr * g, "ema": g * (1 - p.beta)}[p.form]
    new = v * p.beta + gain
    rule.update(v, new)
    return new if p.form == "lr_inside" else rule.lr * new


class NesterovParams(DecayParams):
    beta: float = Field(0.9, ge=0, lt=1, description="share of the old velocity that is kept")


@operation(Kind.OPTIMISER, NesterovParams, usual=(1e-06, 2), start=0.01)
def nesterov(rule: Rule, theta: Value, g: Value, p: NesterovParams) -> Value:
    """v = beta v - eta g, theta += beta v - eta g: Nesterov's step written for the shifted parameters theta + beta v.

    Source: Nesterov 1983; Sutskever et al. 2013.

    Differs: Keras's form has the rate inside, as here; torch's has it outside, v = beta v + g, theta -= eta (g + beta v): equal at a constant rate.
    """
    v = rule.slot("velocity")
    down = rule.lr * g
    new = v * p.beta - down
    rule.update(v, new)
    return down - new * p.beta


RHO = 0.9  # rmsprop's share where `decay` says the form of the weight decay


class RmspropParams(OptimiserParams):
    """`decay` is what the literature calls the share, and what every optimiser calls the form of its weight decay: the value tells which is meant."""

    decay: Annotated[float, Field(ge=0, lt=1)] | DecayForm = Field(
        RHO, description="share of the old mean square that is kept; or whether the weight decay is multiplied by eta, with a share of 0.9"
    )
    eps: float = Field(1e-7, gt=0, description="keeps the denominator from zero")
    eps_in: Literal["outside", "inside"] = Field("outside", description="epsilon outside or inside the root")
    momentum: float = Field(0.0, ge=0, lt=1, description="beta of a velocity over the scaled gradient")
    centered: bool = Field(False, description="subtract the square of the mean gradient")

    @property
    def rho(self) -> float:
        return RHO if isinstance(self.decay, str) else self.decay

    @property
    def decay_form(self) -> str:
        return self.decay if isinstance(self.decay, str) else "scaled"


@operation(Kind.OPTIMISER, RmspropParams, usual=(1e-06, 0.1), start=0.001)
def rmsprop(rule: Rule, theta: Value, g: Value, p: RmspropParams) -> Value:
    """s = decay s + (1 - decay) g^2, theta -= eta g / (sqrt(s) + eps). Source: Tieleman and Hinton 2012.

    eps_in=inside: eta g / sqrt(s + eps). centered: s - m^2 for s, m the running mean of g. momentum: v = beta v + the scaled
    gradient, theta -= eta v.

    Differs: torch has decay 0.99 and epsilon 1e-8 outside the root; Keras has epsilon inside it, eps_in=inside, and the rate inside the velocity.
    """
    s = rule.slot("mean_square")
    new = s * p.rho + g * g * (1 - p.rho)
    rule.update(s, new)
    if p.centered:
        m = rule.slot("mean")
        mean = m * p.rho + g * (1 - p.rho)
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


@operation(Kind.OPTIMISER, AdamParams, facts={"adaptive"}, usual=(1e-06, 0.1), start=0.001)
def adam(rule: Rule, theta: Value, g: Value, p: AdamParams) -> Value:
    """m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, theta -= eta m' / (sqrt(v') + eps), m' = m / (1 - b1^t),
    v' = v / (1 - b2^t), t from 1; eps_in=inside: eta m' / sqrt(v' + eps). Source: Kingma and Ba 2014, arXiv:1412.6980.

    Differs: torch has epsilon outside the root, after the correction, as here; Keras adds 1e-7 to sqrt(v), before the correction. torch's weight_decay
    under Adam is added to the gradient, here it is decoupled.
    """
    # Kept are m / (1 - b1) and v / (1 - b2), sums in which the latest gradient counts whole: two passes over the arrays less.
    m, v = rule.slot("sum"), rule.slot("square_sum")
    new_m, new_v = m * p.beta1 + g, v * p.beta2 + g * g
    rule.update(m, new_m)
    rule.update(v, new_v)
    first = rule.scalar("first_correction", lambda t: (1 - p.beta1) / (1 - p.beta1**t))
    if p.eps_in == "inside":
        second = rule.scalar("second_correction", lambda t: (1 - p.beta2) / (1 - p.beta2**t))
        return (rule.lr * first) * new_m / apply("sqrt", new_v * second + p.eps)
    # sqrt(v') + eps = (sqrt(v) + c eps) / c: one pass less.
    ratio = rule.scalar("root_correction", lambda t: sqrt((1 - p.beta2**t) / (1 - p.beta2)))
    return (rule.lr * first * ratio) * new_m / (apply("sqrt", new_v) + ratio * p.eps)


class AdamwParams(AdamParams):
    weight_decay: float = Field(0.01, ge=0, kw_only=True, description="lambda of decoupled decay")


@operation(Kind.OPTIMISER, AdamwParams, facts={"adaptive"}, usual=(1e-06, 0.1), start=0.001)
def adamw(rule: Rule, theta: Value, g: Value, p: AdamwParams) -> Value:
    """adam with decoupled weight decay 0.01 by default. Source: Loshchilov and Hutter 2017, arXiv:1711.05101.

    Differs: torch's decay is 0.01 too, Keras's 0.004, and both hold for biases and norms as well unless they are left out.
    """
    step: Value = adam(rule, theta, g, p)
    return step


class AdagradParams(DecayParams):
    lr: float = Field(0.01, gt=0, description="learning rate eta; a schedule starts from it")
    eps: float = Field(1e-7, gt=0, description="keeps the denominator from zero")


@operation(Kind.OPTIMISER, AdagradParams, facts={"adaptive", "sparse"}, usual=(0.0001, 1), start=0.01)
def adagrad(rule: Rule, theta: Value, g: Value, p: AdagradParams) -> Value:
    """s += g^2, theta -= eta g / (sqrt(s) + eps). Source: Duchi et al. 2011.

    Differs: torch has epsilon 1e-10 outside the root; Keras has 1e-7 inside it, and s starts from 0.1.
    """
    s = rule.slot("squares")
    new = s + g * g
    rule.update(s, new)
    return rule.lr * g / _root(new, p.eps, "outside")


class AdadeltaParams(DecayParams):
    lr: float = Field(1.0, gt=0, description="learning rate eta; a schedule starts from it")
    rho: float = Field(0.95, ge=0, lt=1, description="share of the old averages that is kept")
    eps: float = Field(1e-6, gt=0, description="inside both roots")


@operation(Kind.OPTIMISER, AdadeltaParams, facts={"adaptive"}, usual=(0.01, 10), start=1)
def adadelta(rule: Rule, theta: Value, g: Value, p: AdadeltaParams) -> Value:
    """s = rho s + (1 - rho) g^2, d = sqrt(u + eps) / sqrt(s + eps) g, u = rho u + (1 - rho) d^2, theta -= eta d.

    Source: Zeiler 2012, arXiv:1212.5701.

    Differs: torch has rho 0.9; Keras has eta 0.001 and epsilon 1e-7.
    """
    s, u = rule.slot("mean_square"), rule.slot("mean_square_step")
    new_s = s * p.rho + g * g * (1 - p.rho)
    d = apply("sqrt", u + p.eps) / apply("sqrt", new_s + p.eps) * g
    rule.update(s, new_s)
    rule.update(u, u * p.rho + d * d * (1 - p.rho))
    return rule.lr * d


class NadamParams(AdamParams):
    lr: float = Field(0.002, gt=0, description="learning rate eta; a schedule starts from it")
    momentum_decay: float = Field(0.004, ge=0, description="psi of the momentum's schedule")


@operation(Kind.OPTIMISER, NadamParams, facts={"adaptive"}, usual=(1e-06, 0.1), start=0.002)
def nadam(rule: Rule, theta: Value, g: Value, p: NadamParams) -> Value:
    """adam with Nesterov's look ahead: mu_t = b1 (1 - 0.96^(t psi) / 2), m' = mu_(t+1) m / (1 - prod_(i<=t+1) mu_i) +
    (1 - mu_t) g / (1 - prod_(i<=t) mu_i), theta -= eta m' / (sqrt(v') + eps). Source: Dozat 2016; the form of torch.

    Differs: Keras has 0.96^t in place of 0.96^(t psi), and epsilon 1e-7.
    """
    m, v = rule.slot("mean"), rule.slot("mean_square")
    new_m = m * p.beta1 + g * (1 - p.beta1)
    new_v = v * p.beta2 + g * g * (1 - p.beta2)
    rule.update(m, new_m)
    rule.update(v, new_v)
    products = [1.0]  # of mu_1 .. mu_t

    def mu(t: int) -> float:
        return p.beta1 * (1 - 0.5 * float(0.96 ** (t * p.momentum_decay)))

    def product(t: int) -> float:
        while len(products) <= t:
            products.append(products[-1] * mu(len(products)))
        return products[t]

    ahead = rule.scalar("momentum_ahead", lambda t: mu(t + 1) / (1 - product(t + 1)))
    now = rule.scalar("momentum_now", lambda t: (1 - mu(t)) / (1 - product(t)))
    second = rule.scalar("second_correction", lambda t: 1 / (1 - p.beta2**t))
    return rule.lr * (new_m * ahead + g * now) / _root(new_v * second, p.eps, p.eps_in)


class AdamaxParams(DecayParams):
    lr: float = Field(0.002, gt=0, description="learning rate eta; a schedule starts from it")
    beta1: float = Field(0.9, ge=0, lt=1, description="share of the old mean that is kept")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of the largest gradient")
    eps: float = Field(1e-8, gt=0, description="added to abs(g)")


@operation(Kind.OPTIMISER, AdamaxParams, facts={"adaptive"}, usual=(1e-06, 0.2), start=0.002)
def adamax(rule: Rule, theta: Value, g: Value, p: AdamaxParams) -> Value:
    """m = b1 m + (1 - b1) g, u = max(b2 u, |g| + eps), theta -= eta m / ((1 - b1^t) u). Source: Kingma and Ba 2014.

    Differs: torch is as here; Keras adds epsilon, 1e-7, to u instead of to |g|.
    """
    m, u = rule.slot("mean"), rule.slot("largest")
    new_m = m * p.beta1 + g * (1 - p.beta1)
    new_u = apply("maximum", u * p.beta2, apply("absolute", g) + p.eps)
    rule.update(m, new_m)
    rule.update(u, new_u)
    first = rule.scalar("first_correction", lambda t: 1 / (1 - p.beta1**t))
    return rule.lr * first * new_m / new_u


@operation(Kind.OPTIMISER, AdamParams, facts={"adaptive"}, usual=(1e-06, 0.1), start=0.001)
def amsgrad(rule: Rule, theta: Value, g: Value, p: AdamParams) -> Value:
    """adam with the largest v so far in place of v, before its correction. Source: Reddi et al. 2018, arXiv:1904.09237.

    Differs: torch is as here; Keras adds epsilon before the correction, as in its Adam.
    """
    m, v, top = rule.slot("mean"), rule.slot("mean_square"), rule.slot("largest_square")
    new_m = m * p.beta1 + g * (1 - p.beta1)
    new_v = v * p.beta2 + g * g * (1 - p.beta2)
    new_top = apply("maximum", top, new_v)
    for slot, new in ((m, new_m), (v, new_v), (top, new_top)):
        rule.update(slot, new)
    first = rule.scalar("first_correction", lambda t: 1 / (1 - p.beta1**t))
    second = rule.scalar("second_correction", lambda t: 1 / (1 - p.beta2**t))
    return (rule.lr * first) * new_m / _root(new_top * second, p.eps, p.eps_in)


class LionParams(DecayParams):
    lr: float = Field(0.0001, gt=0, description="learning rate eta; a schedule starts from it")
    beta1: float = Field(0.9, ge=0, lt=1, description="share of the old mean in the direction")
    beta2: float = Field(0.99, ge=0, lt=1, description="share of the old mean that is kept")


@operation(Kind.OPTIMISER, LionParams, facts={"adaptive"}, usual=(1e-07, 0.02), start=0.0001)
def lion(rule: Rule, theta: Value, g: Value, p: LionParams) -> Value:
    """theta -= eta sign(b1 m + (1 - b1) g), m = b2 m + (1 - b2) g. Source: Chen et al. 2023, arXiv:2302.06675.

    Differs: Keras's rate is 0.001; torch has no Lion.
    """
    m = rule.slot("mean")
    rule.update(m, m * p.beta2 + g * (1 - p.beta2))
    return rule.lr * apply("sign", m * p.beta1 + g * (1 - p.beta1))
