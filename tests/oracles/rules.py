"""Optimisers as the catalogue writes them, one array at a time in NumPy: the forms for which torch has no word. Arrays may hold numbers of any precision.

A rule is called with the parameter, its gradient and the learning rate, keeps its state, and gives the new parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Rule = Callable[[Array, Array, float], Array]
HALF = 0.5  # a power, which arrays of numbers with any number of digits have; they have no root


def momentum(beta: float = 0.9, form: str = "heavy_ball") -> Rule:
    v: Any = 0

    def rule(theta: Array, g: Array, lr: float) -> Array:
        nonlocal v
        if form == "lr_inside":
            v = beta * v + lr * g
            return theta - v
        v = beta * v + (g if form == "heavy_ball" else (1 - beta) * g)
        return theta - lr * v

    return rule


def nesterov(beta: float = 0.9) -> Rule:
    """v = beta v - eta g(theta + beta v), theta += v; what a program holds is the shifted theta + beta v."""
    v: Any = 0

    def rule(shifted: Array, g: Array, lr: float) -> Array:
        nonlocal v
        theta = shifted - beta * v
        v = beta * v - lr * g
        return theta + v + beta * v

    return rule


def rmsprop(
    decay: float = 0.9, eps: float = 1e-7, eps_in: str = "outside", momentum: float = 0.0, centered: bool = False
) -> Rule:
    s: Any = 0
    m: Any = 0
    v: Any = 0

    def rule(theta: Array, g: Array, lr: float) -> Array:
        nonlocal s, m, v
        s = decay * s + (1 - decay) * g**2
        m = decay * m + (1 - decay) * g
        square = s - m**2 if centered else s
        v = momentum * v + g / ((square + eps) ** HALF if eps_in == "inside" else square**HALF + eps)
        return theta - lr * v

    return rule


def adam(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, eps_in: str = "outside") -> Rule:
    m: Any = 0
    v: Any = 0
    t = 0

    def rule(theta: Array, g: Array, lr: float) -> Array:
        nonlocal m, v, t
        t += 1
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        return theta - lr * m_hat / ((v_hat + eps) ** HALF if eps_in == "inside" else v_hat**HALF + eps)

    return rule


def adagrad(eps: float = 1e-7) -> Rule:
    s: Any = 0

    def rule(theta: Array, g: Array, lr: float) -> Array:
        nonlocal s
        s = s + g**2
        return theta - lr * g / (s**HALF + eps)

    return rule


def adadelta(rho: float = 0.95, eps: float = 1e-6) -> Rule:
    squares: Any = 0
    steps: Any = 0

    def rule(theta: Array, g: Array, lr: float) -> Array:
        nonlocal squares, steps
        squares = rho * squares + (1 - rho) * g**2
        step = ((steps + eps) / (squares + eps)) ** HALF * g
        steps = rho * steps + (1 - rho) * step**2
        return theta - lr * step

    return rule


def nadam(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, eps_in: str = "outside", momentum_decay: float = 0.004) -> Rule:
    m: Any = 0
    v: Any = 0
    past: Any = 1
    t = 0

    def rule(theta: Array, g: Array, lr: float) -> Array:
        nonlocal m, v, past, t
        t += 1
        now, ahead = (beta1 * (1 - 0.5 * 0.96 ** (i * momentum_decay)) for i in (t, t + 1))
        past = past * now
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        look = ahead * m / (1 - past * ahead) + (1 - now) * g / (1 - past)
        v_hat = v / (1 - beta2**t)
        return theta - lr * look / ((v_hat + eps) ** HALF if eps_in == "inside" else v_hat**HALF + eps)

    return rule


def adamax(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> Rule:
    m: Any = 0
    u: Any = 0
    t = 0

    def rule(theta: Array, g: Array, lr: float) -> Array:
        nonlocal m, u, t
        t += 1
        m = beta1 * m + (1 - beta1) * g
        u = np.maximum(beta2 * u, abs(g) + eps)
        return theta - lr / (1 - beta1**t) * m / u

    return rule


def amsgrad(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, eps_in: str = "outside") -> Rule:
    m: Any = 0
    v: Any = 0
    top: Any = 0
    t = 0

    def rule(theta: Array, g: Array, lr: float) -> Array:
        nonlocal m, v, top, t
        t += 1
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        top = np.maximum(top, v)
        top_hat = top / (1 - beta2**t)
        return theta - lr * m / (1 - beta1**t) / ((top_hat + eps) ** HALF if eps_in == "inside" else top_hat**HALF + eps)

    return rule


def lion(beta1: float = 0.9, beta2: float = 0.99) -> Rule:
    m: Any = 0

    def rule(theta: Array, g: Array, lr: float) -> Array:
        nonlocal m
        direction = beta1 * m + (1 - beta1) * g
        m = beta2 * m + (1 - beta2) * g
        return theta - lr * ((direction > 0) * 1 - (direction < 0) * 1)

    return rule


RULES: dict[str, Callable[..., Rule]] = {
    "sgd": lambda: lambda theta, g, lr: theta - lr * g,
    "momentum": momentum,
    "nesterov": nesterov,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adam,
    "adagrad": adagrad,
    "adadelta": adadelta,
    "nadam": nadam,
    "adamax": adamax,
    "amsgrad": amsgrad,
    "lion": lion,
}
