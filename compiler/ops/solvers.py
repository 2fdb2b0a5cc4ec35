"""Optimisers that look at more than one gradient a step: line searches and second derivatives. They want batch=full.

The functions here are declarations; runtime/solvers.py runs them on the objective's graph, its gradient, and the product of its
Hessian with a vector, which is the gradient differentiated again. `slots` gives the arrays that pass from step to step, `work` the bytes of what else a
step writes down: of newton, the Hessian twice and what solving takes.
"""

from pydantic import Field

from ..operation import Kind, operation
from .optimisers import DecayParams

MOST_NEWTON = 4000  # parameters whose Hessian newton still writes down


class SolverParams(DecayParams):
    """Decoupled decay is subtracted from where the solver came to: lambda, times eta if scaled, of the weights before the step."""

    lr: float = Field(1.0, gt=0, kw_only=True, description="length of the step that is tried first; a schedule starts from it")


class NewtonParams(SolverParams):
    damping: float = Field(0.0, ge=0, description="what is added to the Hessian's diagonal")


@operation(Kind.OPTIMISER, NewtonParams, facts={"solver", "hessian"}, slots=lambda size, p: {}, work=lambda size: 3 * 8 * size * size)
def newton(p: NewtonParams) -> None:
    """theta -= eta (H + damping I)^-1 g, H the whole Hessian; refused above a few thousand parameters.

    Source: Nocedal and Wright 2006, chapter 3.
    """


class HessianFreeParams(SolverParams):
    damping: float = Field(1.0, gt=0, description="lambda at the start; it adapts to how well the quadratic model fits")
    iterations: int = Field(50, ge=1, description="products with the Hessian in a step, at most")


@operation(Kind.OPTIMISER, HessianFreeParams, facts={"solver", "hessian"}, slots=lambda size, p: {"damping": (1,)})
def hessian_free(p: HessianFreeParams) -> None:
    """theta += eta d, (H + lambda I) d = -g by conjugate gradients on Hessian-vector products; lambda by Levenberg and Marquardt's rule.

    Source: Martens 2010.
    """


@operation(Kind.OPTIMISER, SolverParams, facts={"solver"}, slots=lambda size, p: {"gradient": (size,), "direction": (size,)})
def conjugate_gradient(p: SolverParams) -> None:
    """d = -g + beta d, beta = max(0, g.(g - g') / g'.g') (Polak-Ribiere+), theta += a d with a by a strong-Wolfe line search.

    It starts again from -g where d does not descend. Source: Nocedal and Wright 2006, chapter 5.
    """


class LbfgsParams(SolverParams):
    history: int = Field(10, ge=1, le=100, description="pairs of steps and gradient changes that are kept")


@operation(
    Kind.OPTIMISER,
    LbfgsParams,
    facts={"solver"},
    slots=lambda size, p: {"steps": (p.history, size), "changes": (p.history, size), "kept": (1,)},
)
def lbfgs(p: LbfgsParams) -> None:
    """theta += a d, d = -H g with H from the last steps and gradient changes by the two-loop recursion, a by a strong-Wolfe line search.

    Source: Nocedal and Wright 2006, algorithm 7.4.

    Differs: torch's LBFGS has no line search unless line_search_fn says strong_wolfe, goes up to 20 such steps in a call, and keeps 100 pairs.
    """
