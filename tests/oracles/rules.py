"""Optimisers as the catalogue writes them, one array at a time in NumPy: the forms for which torch has no word.

A rule is called with the parameter, its gradient and the learning rate, keeps its state, and gives the new parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Rule = Callable[[Array, Array, float], Array]


def momentum(beta: float = 0.9, form: str = "heavy_ball") -> Rule:
    v: Any = 0.0

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
    v: Any = 0.0

    def rule(shifted: Array, g: Array, lr: float) -> Array:
        nonlocal v
        theta = shifted - beta * v
        v = beta * v - lr * g
        return theta + v + beta * v

    return rule


def rmsprop(
    decay: float = 0.9, eps: float = 1e-7, eps_in: str = "outside", momentum: float = 0.0, centered: bool = False
) -> Rule:
    s: Any = 0.0
    m: Any = 0.0
    v: Any = 0.0

    def rule(theta: Array, g: Array, lr: float) -> Array:
        nonlocal s, m, v
        s = decay * s + (1 - decay) * g**2
        m = decay * m + (1 - decay) * g
        square = s - m**2 if centered else s
        v = momentum * v + g / (np.sqrt(square + eps) if eps_in == "inside" else np.sqrt(square) + eps)
        return theta - lr * v

    return rule


def adam(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, eps_in: str = "outside") -> Rule:
    m: Any = 0.0
    v: Any = 0.0
    t = 0

    def rule(theta: Array, g: Array, lr: float) -> Array:
        nonlocal m, v, t
        t += 1
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        return theta - lr * m_hat / (np.sqrt(v_hat + eps) if eps_in == "inside" else np.sqrt(v_hat) + eps)

    return rule


RULES: dict[str, Callable[..., Rule]] = {
    "sgd": lambda: lambda theta, g, lr: theta - lr * g,
    "momentum": momentum,
    "nesterov": nesterov,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adam,
}
