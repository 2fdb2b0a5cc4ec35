"""Layers with weights on the last axis, and dropout."""

from collections.abc import Callable
from math import sqrt
from typing import Annotated, Literal

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Batch, Value, apply, dims
from ..operation import Bound, Build, Draw, Fan, Incoming, Kind, Of, Params, Weighted, operation
from ..primitives import total
from .channels import channels_of, other_axes


class PenalisedParams(Params):
    """With weights that a penalty of their own may hold."""

    penalty: Annotated[tuple[Weighted, ...] | None, Of(Kind.PENALTY, many=True)] = Field(
        None, kw_only=True, description="a penalty in place of the train section's"
    )


class WeightParams(PenalisedParams):
    """What every layer with weights takes; None stands for `auto`, zeros and the penalty of the train section."""

    init: Annotated[Bound | None, Of(Kind.INITIALISER)] = Field(None, kw_only=True, description="how the weights start")
    bias_init: Annotated[Bound | None, Of(Kind.INITIALISER)] = Field(None, kw_only=True, description="how the biases start")
    bias: bool = Field(True, kw_only=True, description="whether a bias is added")


class ConstrainedParams(WeightParams):
    """With a constraint: for layers whose weights stand for connections as they are."""

    constraint: Annotated[Bound | None, Of(Kind.CONSTRAINT)] = Field(None, kw_only=True, description="what holds for each unit's weights after every update")


class DenseParams(ConstrainedParams):
    units: int = Field(ge=1, description="number of outputs")


@operation(Kind.LAYER, DenseParams, facts={"linear_step", "last_axis"})
def dense(build: Build, x: Value, p: DenseParams) -> Value:
    """x W + b on the last axis, W [in, units], b [units].

    Shape: [..., in] -> [..., units]. Source: Rosenblatt 1958.

    Differs: torch's weight is [units, in], Keras's as here. torch draws weight and bias from U(-1/sqrt(in), 1/sqrt(in)), Keras as here, from Glorot's
    uniform, with the bias 0.
    """
    require_float(x, "dense")
    if x.type.rank < 2:
        raise Refusal("E303", label="dense acts on the last axis of a sample", help="declare the input as float32[1]",
                      operand="this is a scalar per sample", operation="dense")  # fmt: skip
    rows, back = as_rows(x)
    size = rows.shape[1]
    assert isinstance(size, int)
    y = times(rows, build.parameter("weight", (size, p.units), p.init, fan=Fan(size, p.units), incoming=Incoming((0,))))
    if p.bias:
        y = y + build.parameter("bias", (p.units,), p.bias_init, fan=Fan(size, p.units))
    return back(y)


def times(a: Value, b: Value) -> Value:
    """The matrix product."""
    return apply("matmul", a, b, transpose_a=False, transpose_b=False)


def as_rows(x: Value) -> tuple[Value, Callable[[Value], Value]]:
    """A tensor as rows of its last axis, and the way back for rows of any length."""
    if x.type.rank == 2:
        return x, lambda y: y
    count = 1
    for d in x.shape[:-1]:
        count *= d.factor if isinstance(d, Batch) else d
    rows = apply("reshape", x, shape=(Batch(count), x.shape[-1]))
    return rows, lambda y: apply("reshape", y, shape=(*x.shape[:-1], *y.shape[1:]))


class DropoutParams(Params):
    rate: float | None = Field(None, ge=0, lt=1, description="share of elements set to 0")
    keep: float | None = Field(None, gt=0, le=1, description="share of elements kept: 1 - rate")
    scaling: Literal["inverted", "inference"] = Field(
        "inverted", description="divide by keep in training, or multiply by keep in inference"
    )


@operation(Kind.LAYER, DropoutParams, facts={"transparent", "dropout"})
def dropout(build: Build, x: Value, p: DropoutParams) -> Value:
    """x * m / keep in training, m_i = 1 with probability keep = 1 - rate; x in inference.

    With scaling=inference: x * m in training, x * keep in inference. The mask is fixed by the seed, the layer and the step. Source: Srivastava et al.
    2014. Shape: any -> same.

    Differs: torch, Keras and ONNX know scaling=inverted alone.
    """
    require_float(x, "dropout")
    if (p.rate is None) == (p.keep is None):
        raise Refusal("E204", label="give one of rate and keep", help="write dropout(0.2) or dropout(keep=0.8)",
                      operation="dropout", argument="rate")  # fmt: skip
    keep = p.keep if p.rate is None else 1 - p.rate
    assert keep is not None
    if keep == 1:
        return x
    if not build.training:
        return x * keep if p.scaling == "inference" else x
    masked = x * build.bernoulli(x, keep)
    return masked * (1 / keep) if p.scaling == "inverted" else masked


class SpatialDropoutParams(Params):
    rate: float = Field(0.5, ge=0, lt=1, description="share of channels set to 0")


@operation(Kind.LAYER, SpatialDropoutParams, facts={"transparent", "dropout"})
def spatial_dropout(build: Build, x: Value, p: SpatialDropoutParams) -> Value:
    """x * m / (1 - rate) in training, one m for each channel of a sample; x in inference. Source: Tompson et al. 2014. Shape: any -> same."""
    require_float(x, "spatial_dropout")
    channels_of(x, "spatial_dropout")
    if not build.training or p.rate == 0:
        return x
    one = x
    for axis in other_axes(x)[1:]:
        one = apply("slice", one, axis=axis, start=0, stop=1)
    return x * (build.bernoulli(one, 1 - p.rate) * (1 / (1 - p.rate)))


class GaussianNoiseParams(Params):
    std: float = Field(0.1, ge=0, description="standard deviation of the noise")


@operation(Kind.LAYER, GaussianNoiseParams, facts={"transparent", "noise"})
def gaussian_noise(build: Build, x: Value, p: GaussianNoiseParams) -> Value:
    """x + std * noise in training, noise standard normal; x in inference. Shape: any -> same. Source: Bishop 1995."""
    require_float(x, "gaussian_noise")
    return x + build.normal(x) * p.std if build.training and p.std else x


class EmbeddingParams(PenalisedParams):
    vocabulary: int = Field(ge=1, description="number of rows: indices run from 0 to one less")
    size: int = Field(ge=1, description="length of a row")
    lazy: bool = Field(False, kw_only=True, description="update only rows that the batch names, under every optimizer")
    init: Annotated[Bound | None, Of(Kind.INITIALISER)] = Field(None, kw_only=True, description="how the rows start; normal(std=0.05) when not given")
    constraint: Annotated[Bound | None, Of(Kind.CONSTRAINT)] = Field(None, kw_only=True, description="what holds for each unit's weights after every update")


@operation(Kind.LAYER, EmbeddingParams, facts={"embedding"})
def embedding(build: Build, x: Value, p: EmbeddingParams) -> Value:
    """The row of the index. Shape: int64 [...] -> [..., size]; weight [vocabulary, size]. Source: Bengio et al. 2003.

    Under sgd and adagrad, without penalty, constraint and weight decay, a step on a large table touches only the rows that the batch names, with the
    same result. Other optimizers move every row in every step: a velocity or a running mean goes on where the gradient is zero. With lazy=true they leave
    the other rows and their state as they are, decay and constraint as well (as torch's SparseAdam); a row named after a pause is then updated as if
    there had been none.

    Differs: torch draws rows from N(0, 1), Keras from U(-0.05, 0.05).
    """
    if x.dtype != "int64":
        raise Refusal("E305", label="embedding takes indices", help="declare the input as int64", operand=f"this is {x.dtype}",
                      operation="embedding", dtype=x.dtype)  # fmt: skip
    fan = Fan(p.vocabulary, p.size)
    w = build.parameter("weight", (p.vocabulary, p.size), p.init, fan=fan, draw=Draw("normal", 0.0, 0.05), incoming=Incoming((1,)))
    return apply("gather", w, x)


class MaxoutParams(ConstrainedParams):
    units: int = Field(ge=1, description="number of outputs")
    pieces: int = Field(2, ge=1, description="linear pieces of each output")


@operation(Kind.LAYER, MaxoutParams, facts={"activation", "linear_step", "last_axis"}, init="he_normal")
def maxout(build: Build, x: Value, p: MaxoutParams) -> Value:
    """max_k (x W_k + b_k) on the last axis, W [pieces, in, units], b [pieces, units]. Source: Goodfellow et al. 2013.

    Shape: [..., in] -> [..., units]. Of equal pieces each gets an equal share of the gradient.
    """
    require_float(x, "maxout")
    rows, back = as_rows(x)
    size = rows.shape[1]
    assert isinstance(size, int)
    fan = Fan(size, p.units)
    w = build.parameter("weight", (p.pieces, size, p.units), p.init, fan=fan, incoming=Incoming((1,)))
    side = apply("reshape", apply("transpose", w, order=(1, 0, 2)), shape=(size, p.pieces * p.units))
    pieces = apply("reshape", times(rows, side), shape=(rows.shape[0], p.pieces, p.units))
    if p.bias:
        pieces = pieces + build.parameter("bias", (p.pieces, p.units), p.bias_init, fan=fan)
    return back(apply("reduce_max", pieces, axes=(1,), keepdims=False))


class RadialParams(Params):
    units: int = Field(ge=1, description="number of centres")
    init: Annotated[Bound | None, Of(Kind.INITIALISER)] = Field(None, kw_only=True, description="how the centres start; normal(std=1) when not given")
    beta: float = Field(1.0, gt=0, kw_only=True, description="the sharpness that every unit starts with")


@operation(Kind.LAYER, RadialParams, facts={"activation", "bounded"})
def radial(build: Build, x: Value, p: RadialParams) -> Value:
    """exp(-beta_j ||x - c_j||^2) on the last axis; center [units, in] and beta [units] are learned. Source: Broomhead and Lowe 1988.

    Shape: [..., in] -> [..., units].
    """
    require_float(x, "radial")
    rows, back = as_rows(x)
    size = rows.shape[1]
    assert isinstance(size, int)
    c = build.parameter("center", (p.units, size), p.init, fan=Fan(size, p.units), draw=Draw("normal", 0.0, 1.0))
    beta = build.parameter("beta", (p.units,), start=p.beta)
    d = apply("reshape", rows, shape=(rows.shape[0], 1, size)) - c
    return back(apply("exp", -(total(d * d, 2) * beta)))


class SparseDenseParams(WeightParams):
    units: int = Field(ge=1, description="number of outputs")
    density: float = Field(0.1, gt=0, le=1, description="share of the connections that are there")
    seed: int = Field(0, ge=0, description="of the choice of connections")


@operation(Kind.LAYER, SparseDenseParams, facts={"linear_step", "last_axis"})
def sparse_dense(build: Build, x: Value, p: SparseDenseParams) -> Value:
    """x (W * M) + b on the last axis, M a fixed random mask of zeros and ones. fan_in counts the connections that are there.

    Shape: [..., in] -> [..., units]. Source: Mocanu et al. 2018, arXiv:1707.04780.
    """
    require_float(x, "sparse_dense")
    rows, back = as_rows(x)
    size = rows.shape[1]
    assert isinstance(size, int)
    fan = Fan(max(1, round(size * p.density)), max(1, round(p.units * p.density)))
    w = build.parameter("weight", (size, p.units), p.init, fan=fan)
    mask = build.statistic("mask", (size, p.units), Draw("mask", p.density, p.seed))
    y = times(rows, w * mask)
    return back(y + build.parameter("bias", (p.units,), p.bias_init, fan=fan) if p.bias else y)


class AttentionParams(PenalisedParams):
    heads: int = Field(1, ge=1, description="number of heads; they share the features between them")
    causal: bool = Field(False, description="whether a step sees only itself and what is before it")
    init: Annotated[Bound | None, Of(Kind.INITIALISER)] = Field(None, kw_only=True, description="how the weights start")
    constraint: Annotated[Bound | None, Of(Kind.CONSTRAINT)] = Field(None, kw_only=True, description="what holds for each unit's weights after every update")


@operation(Kind.LAYER, AttentionParams)
def attention(build: Build, x: Value, p: AttentionParams) -> Value:
    """Self-attention: softmax(Q K^T / sqrt(d)) V for each head, heads joined and projected; Q, K, V, O are x W + b.

    Shape: [steps, features] -> the same; d = features / heads. Source: Vaswani et al. 2017, arXiv:1706.03762.

    Differs: torch and Keras take query, key and value apart, and Keras the size of a head; ONNX's Attention, from opset 23, has no projections.
    """
    require_float(x, "attention")
    if x.type.rank != 3:
        raise Refusal("E303", label="attention takes sequences, [steps, features]", operand=f"a sample here is {dims(x.shape[1:])}",
                      help="reshape the input to two axes", operation="attention")  # fmt: skip
    n, steps, size = x.shape
    assert isinstance(steps, int)
    assert isinstance(size, int)
    if size % p.heads:
        raise Refusal("E306", at="heads", label=f"{p.heads} heads of {size} features", operand=f"the input here has {size} features",
                      help="the number of heads must divide the features", groups=p.heads)  # fmt: skip
    rows, back = as_rows(x)

    def projected(source: Value, name: str) -> Value:
        w = build.parameter(f"{name}_weight", (size, size), p.init, fan=Fan(size, size), incoming=Incoming((0,)))
        return times(source, w) + build.parameter(f"{name}_bias", (size,), fan=Fan(size, size))

    def headed(name: str) -> Value:
        parts = apply("reshape", projected(rows, name), shape=(n, steps, p.heads, size // p.heads))
        return apply("transpose", parts, order=(0, 2, 1, 3))

    scores = apply("matmul", headed("query") * sqrt(p.heads / size), headed("key"), transpose_a=False, transpose_b=True)
    if p.causal:
        scores = scores + build.statistic("ahead", (steps, steps), Draw("ahead"))
    mixed = times(apply("softmax", scores, axis=3), headed("value"))
    joined = apply("reshape", apply("transpose", mixed, order=(0, 2, 1, 3)), shape=rows.shape)
    return back(projected(joined, "output"))


def require_float(x: Value, operation: str) -> None:
    """Refuse integers where only floats make sense."""
    if not x.type.is_float:
        raise Refusal("E305", label=f"{operation} takes floats", help="declare the input as float32, or embed the integers",
                      operand=f"this is {x.dtype}", operation=operation, dtype=x.dtype)  # fmt: skip
