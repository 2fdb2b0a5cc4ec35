"""Layers with weights on the last axis, and dropout."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Batch, Value, apply
from ..operation import Bound, Build, Fan, Kind, Of, Params, Weighted, operation


class WeightParams(Params):
    """What every layer with weights takes; None stands for `auto`, zeros and the penalty of the train section."""

    init: Annotated[Bound | None, Of(Kind.INITIALISER)] = Field(None, kw_only=True, description="how the weights start")
    bias_init: Annotated[Bound | None, Of(Kind.INITIALISER)] = Field(None, kw_only=True, description="how the biases start")
    bias: bool = Field(True, kw_only=True, description="whether a bias is added")
    penalty: Annotated[tuple[Weighted, ...] | None, Of(Kind.PENALTY, many=True)] = Field(
        None, kw_only=True, description="a penalty in place of the train section's"
    )


class DenseParams(WeightParams):
    units: int = Field(ge=1, description="number of outputs")


@operation(Kind.LAYER, DenseParams, facts={"linear_step"})
def dense(build: Build, x: Value, p: DenseParams) -> Value:
    """x W + b on the last axis, W [in, units], b [units].

    Shape: [..., in] -> [..., units].
    """
    require_float(x, "dense")
    if x.type.rank < 2:
        raise Refusal("E303", label="dense acts on the last axis of a sample", help="declare the input as float32[1]",
                      operand="this is a scalar per sample", operation="dense")  # fmt: skip
    size = x.shape[-1]
    assert isinstance(size, int)
    w = build.parameter("weight", (size, p.units), p.init, fan=Fan(size, p.units))
    rows = x
    if x.type.rank > 2:
        leading = x.shape[:-1]
        n = leading[0]
        assert isinstance(n, Batch)
        factor = n.factor
        for d in leading[1:]:
            assert isinstance(d, int)
            factor *= d
        rows = apply("reshape", x, shape=(Batch(factor), size))
    y = apply("matmul", rows, w, transpose_a=False, transpose_b=False)
    if p.bias:
        y = y + build.parameter("bias", (p.units,), p.bias_init, fan=Fan(size, p.units))
    return apply("reshape", y, shape=(*x.shape[:-1], p.units)) if x.type.rank > 2 else y


class DropoutParams(Params):
    rate: float | None = Field(None, ge=0, lt=1, description="share of elements set to 0")
    keep: float | None = Field(None, gt=0, le=1, description="share of elements kept: 1 - rate")
    scaling: Literal["inverted", "inference"] = Field(
        "inverted", description="divide by keep in training, or multiply by keep in inference"
    )


@operation(Kind.LAYER, DropoutParams, facts={"transparent", "dropout"})
def dropout(build: Build, x: Value, p: DropoutParams) -> Value:
    """x * m / keep in training, m_i = 1 with probability keep = 1 - rate; x in inference.

    With scaling=inference: x * m in training, x * keep in inference. The mask is fixed by the seed, the layer and the
    step. Source: Srivastava et al. 2014.
    """
    require_float(x, "dropout")
    if (p.rate is None) == (p.keep is None):
        raise Refusal("E204", label="give one of rate and keep", help="write dropout(0.2) or dropout(keep=0.8)",
                      operation="dropout", argument="rate")  # fmt: skip
    keep = p.keep if p.keep is not None else 1 - p.rate  # type: ignore[operator]
    if keep == 1:
        return x
    if not build.training:
        return x * keep if p.scaling == "inference" else x
    masked = x * build.bernoulli(x, keep)
    return masked * (1 / keep) if p.scaling == "inverted" else masked


def require_float(x: Value, operation: str) -> None:
    """Refuse integers where only floats make sense."""
    if not x.type.is_float:
        raise Refusal("E305", label=f"{operation} takes floats", help="declare the input as float32, or embed the integers",
                      operand=f"this is {x.dtype}", operation=operation, dtype=x.dtype)  # fmt: skip
