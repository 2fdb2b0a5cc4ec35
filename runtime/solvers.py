"""Optimisers with line searches and second derivatives, on one objective: newton, hessian_free, conjugate_gradient, lbfgs.

Directions and scalar products are computed in float64; the parameters keep their own precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SUFFICIENT = 1e-4  # c1 of the strong Wolfe conditions
MOST_EVALUATIONS = 25


@dataclass
class Problem:
    """The objective around the current parameters. `evaluate` gives value and gradient at `theta`, which a solver moves in place."""

    theta: Array
    evaluate: Callable[[], tuple[float, Array]]
    product: Callable[[Array], Array]
    state: dict[str, Array]
    lr: float

    def move(self, start: Array, direction: Array, length: float) -> tuple[float, Array]:
        """Value and gradient at start + length * direction, where theta then is."""
        self.theta[...] = start + length * direction
        return self.evaluate()


@dataclass(frozen=True)
class Point:
    """A place on the line: its length, the value, the slope, the gradient."""

    length: float
    value: float
    slope: float
    gradient: Array


def line_search(
    problem: Problem, start: Array, value: float, gradient: Array, direction: Array, first: float, c2: float = 0.9
) -> Point | None:
    """A length that fulfils the strong Wolfe conditions: f(a) <= f(0) + c1 a f'(0) and |f'(a)| <= c2 |f'(0)|.

    Bracket by growing, then bisect by cubic interpolation (Nocedal and Wright 2006, algorithms 3.5 and 3.6). Where the conditions cannot be
    met in the objective's precision, the best point found; None where nothing descends.
    """
    origin = Point(0.0, value, float(gradient @ direction), gradient)

    def at(length: float) -> Point:
        f, g = problem.move(start, direction, length)
        return Point(length, f if isfinite(f) else float("inf"), float(g @ direction), g)

    low, high, previous, length = origin, None, origin, first
    best = origin
    for _ in range(MOST_EVALUATIONS):
        if high is not None:
            length = _between(low, high)
        point = at(length)
        if point.value < best.value:
            best = point
        falls = point.value <= origin.value + SUFFICIENT * length * origin.slope
        if high is None:
            if not falls or (previous.length and point.value >= previous.value):
                low, high = previous, point
            elif abs(point.slope) <= -c2 * origin.slope:
                return point
            elif point.slope >= 0:
                low, high = point, previous
            else:
                previous, length = point, 2 * length
        elif not falls or point.value >= low.value:
            high = point
        else:
            if abs(point.slope) <= -c2 * origin.slope:
                return point
            if point.slope * (high.length - low.length) >= 0:
                high = low
            low = point
        if high is not None and abs(high.length - low.length) <= 1e-12 * max(1.0, abs(low.length)):
            break
    if best is origin:
        problem.theta[...] = start
        problem.evaluate()
        return None
    if point is not best:
        problem.move(start, direction, best.length)
    return best


def _between(low: Point, high: Point) -> float:
    """The minimum of the cubic through both points, kept off the ends; the middle where there is none."""
    width = high.length - low.length
    middle = low.length + width / 2
    if not isfinite(high.value) or not isfinite(high.slope):
        return middle
    d1 = low.slope + high.slope - 3 * (low.value - high.value) / (low.length - high.length)
    square = d1 * d1 - low.slope * high.slope
    if square < 0:
        return middle
    d2 = sqrt(square) * (1 if width > 0 else -1)
    divisor = high.slope - low.slope + 2 * d2
    found = high.length - width * (high.slope + d2 - d1) / divisor if divisor else middle
    near, far = sorted((low.length + 0.1 * width, high.length - 0.1 * width))
    return found if near <= found <= far else middle


def newton(problem: Problem, p: Any) -> None:
    _, gradient = problem.evaluate()
    size = len(gradient)
    hessian = np.empty((size, size))
    unit = np.zeros(size)
    for i in range(size):
        unit[i] = 1.0
        hessian[i] = problem.product(unit)
        unit[i] = 0.0
    hessian += hessian.T
    hessian *= 0.5
    hessian.flat[:: size + 1] += p.damping
    noise = 10 * size * float(np.finfo(problem.theta.dtype).eps)  # what is flat but for rounding is left alone
    step = np.linalg.lstsq(hessian, gradient, rcond=noise)[0]
    problem.move(problem.theta.astype(np.float64), -step, problem.lr)


def hessian_free(problem: Problem, p: Any) -> None:
    start = problem.theta.astype(np.float64)
    value, gradient = problem.evaluate()
    kept = problem.state["damping"]
    damping = float(kept[0]) or p.damping
    direction, model = _solve_damped(problem, gradient, damping, p.iterations)
    length = problem.lr
    for _ in range(MOST_EVALUATIONS):
        now, _ = problem.move(start, direction, length)
        if isfinite(now) and now < value:
            break
        length /= 2
    else:
        problem.theta[...] = start
        now = value
    gain = (now - value) / model if model < 0 else 0.0  # what came of what the quadratic model promised
    kept[0] = damping * 1.5 if gain < 0.25 else damping / 1.5 if gain > 0.75 else damping
    problem.evaluate()


def _solve_damped(problem: Problem, gradient: Array, damping: float, iterations: int) -> tuple[Array, float]:
    """(H + damping I) d = -g by conjugate gradients, and the quadratic model's change along d; stops at negative curvature."""
    d, r = np.zeros_like(gradient), -gradient
    direction, square = r.copy(), float(r @ r)
    enough = 1e-10 * square
    for _ in range(iterations):
        if square <= enough:
            break
        h = problem.product(direction) + damping * direction
        curvature = float(direction @ h)
        if curvature <= 0:
            d = direction if not d.any() else d
            break
        length = square / curvature
        d = d + length * direction
        r = r - length * h
        new = float(r @ r)
        direction, square = r + new / square * direction, new
    return d, float(gradient @ d + d @ (problem.product(d) + damping * d) / 2)


def conjugate_gradient(problem: Problem, p: Any) -> None:
    start = problem.theta.astype(np.float64)
    value, gradient = problem.evaluate()
    before, direction = (problem.state[name].astype(np.float64) for name in ("gradient", "direction"))
    square = float(before @ before)
    beta = max(0.0, float(gradient @ (gradient - before)) / square) if square else 0.0
    chosen = -gradient + beta * direction
    if float(chosen @ gradient) >= 0:
        chosen = -gradient
    length = float(gradient @ gradient)
    first = problem.lr * min(1.0, 1 / sqrt(length)) if length else problem.lr
    point = line_search(problem, start, value, gradient, chosen, first, c2=0.1) if length else None
    problem.state["gradient"][...] = gradient if point is not None else 0.0
    problem.state["direction"][...] = chosen if point is not None else 0.0


def lbfgs(problem: Problem, p: Any) -> None:
    start = problem.theta.astype(np.float64)
    value, gradient = problem.evaluate()
    steps, changes = problem.state["steps"], problem.state["changes"]
    count = int(problem.state["kept"][0])
    pairs = [(steps[i].astype(np.float64), changes[i].astype(np.float64)) for i in range(count)]
    direction, first = _two_loops(gradient, pairs), problem.lr
    if not pairs:
        length = float(np.abs(gradient).sum())
        first = problem.lr * min(1.0, 1 / length) if length else problem.lr
    if float(direction @ gradient) >= 0:
        direction, count = -gradient, 0
    if not gradient.any():
        return
    point = line_search(problem, start, value, gradient, direction, first)
    if point is None:
        problem.state["kept"][0] = 0
        return
    step, change = problem.theta.astype(np.float64) - start, point.gradient - gradient
    if float(step @ change) > 1e-10 * float(change @ change):
        if count == len(steps):
            steps[:-1], changes[:-1] = steps[1:].copy(), changes[1:].copy()
            count -= 1
        steps[count], changes[count] = step, change
        count += 1
    problem.state["kept"][0] = count


def _two_loops(gradient: Array, pairs: list[tuple[Array, Array]]) -> Array:
    """-H g, H the inverse Hessian that the pairs stand for."""
    q, weights = gradient.copy(), []
    for step, change in reversed(pairs):
        weight = float(step @ q) / float(step @ change)
        weights.append(weight)
        q -= weight * change
    if pairs:
        step, change = pairs[-1]
        q *= float(step @ change) / float(change @ change)
    for (step, change), weight in zip(pairs, reversed(weights), strict=True):
        q += step * (weight - float(change @ q) / float(step @ change))
    return -q


SOLVERS: dict[str, Callable[[Problem, Any], None]] = {
    "newton": newton,
    "hessian_free": hessian_free,
    "conjugate_gradient": conjugate_gradient,
    "lbfgs": lbfgs,
}


def solve(name: str, p: Any, problem: Problem, weights: Sequence[slice]) -> None:
    """One step of the solver with these parameters, and decoupled decay of the weights among theta: minus lambda times what they were before it."""
    lost = p.weight_decay * (problem.lr if p.decay_form == "scaled" else 1.0)
    before = [problem.theta[part].copy() for part in weights] if lost else []
    SOLVERS[name](problem, p)
    for part, old in zip(weights, before, strict=bool(lost)):
        problem.theta[part] -= lost * old
