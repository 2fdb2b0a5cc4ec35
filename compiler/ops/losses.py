"""Losses per sample; the loss of a batch is their mean. `a` is the prediction, `y` the target.

With `weights` it is 1/n sum_i w_i loss_i, n the number of samples: a weight is how often a sample counts, whoever shares its batch, and
the sums over a split do not depend on how it is cut. Keras divides by n too; torch's cross_entropy and scikit-learn divide by the sum of the weights,
which is the same where their mean is 1.

Prediction and target must have equal shapes after axes of length 1 are dropped; nothing broadcasts. cross_entropy works on
the last axis, which an index target lacks, and averages over other axes; the others sum or average over a sample. `after` is the
output layer that a loss is made for.
"""

from math import log, prod, sqrt
from typing import Annotated, Literal

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Shape, Value, apply, constant, dims
from ..operation import Column, Kind, LossBuild, Params, Reference, Refers, operation
from ..primitives import root, total, vector


class LossParams(Params):
    """What every loss takes."""

    weights: Annotated[Reference | None, Refers("data")] = Field(
        None,
        kw_only=True,
        description="w_i >= 0 of each sample i: the loss of n samples is 1/n sum w_i loss_i, as in Keras; torch and scikit-learn divide by sum w_i",
    )


def squeezed(shape: Shape) -> Shape:
    """The axes of a sample without those of length 1."""
    return tuple(d for d in shape[1:] if d != 1)


def is_index(a: Value, y: Column) -> bool:
    """Whether the target holds the class's index on the prediction's last axis."""
    return (
        y.value.dtype == "int64"
        and a.type.rank >= 2
        and a.shape[-1] != 1
        and squeezed(y.value.shape) == tuple(d for d in a.shape[1:-1] if d != 1)
    )


def same_shape(a: Value, y: Column) -> bool:
    return squeezed(a.shape) == squeezed(y.value.shape)


def aligned(a: Value, y: Column, loss: str) -> Value:
    """The target in the prediction's dtype and shape."""
    if not same_shape(a, y) or y.value.dtype == "string":
        raise mismatch(a, y, loss)
    value = y.value if y.value.dtype == a.dtype else apply("cast", y.value, dtype=a.dtype)
    return value if value.shape == a.shape else apply("reshape", value, shape=a.shape)


def mismatch(a: Value, y: Column, loss: str) -> Refusal:
    has, got = dims(a.shape[1:]), f"{y.value.dtype}{dims(y.value.shape[1:])}"
    help = "end the network with dense(units) of the target's size"
    if y.classes is not None and loss == "cross_entropy" and a.type.rank < 3:
        help = f"end the network with dense({len(y.classes)}) -> softmax"
    elif y.value.dtype == "int64" and loss != "cross_entropy":
        help = "use cross_entropy for classes, or one_hot the target"
    elif y.value.dtype == "string":
        help = "turn the text into classes with `-> category`"
    return Refusal("E502", label=f"the prediction is {has}, the target {got}", help=help, loss=loss)


def _class_index(a: Value, y: Column) -> Value:
    """An index target with the prediction's leading axes; more classes than outputs are refused."""
    outputs = a.shape[-1]
    if y.classes is not None and len(y.classes) > outputs:  # type: ignore[operator]
        raise Refusal("E503", label=f"{outputs} outputs for {len(y.classes)} classes",
                      help=f"end the network with dense({len(y.classes)}) -> softmax", classes=len(y.classes),
                      outputs=outputs)  # fmt: skip
    return y.value if y.value.shape == a.shape[:-1] else apply("reshape", y.value, shape=a.shape[:-1])


def _sum(x: Value) -> Value:
    """Sum over all axes of a sample."""
    return x if x.type.rank == 1 else total(x, *range(1, x.type.rank))


def _mean(x: Value) -> Value:
    """Mean over all axes of a sample."""
    count = prod(d for d in x.shape[1:] if isinstance(d, int))
    return _sum(x) if count == 1 else _sum(x) * (1 / count)


@operation(Kind.LOSS, LossParams, operands=2, facts={"numeric"})
def quadratic(build: LossBuild, a: Value, y: Column, p: LossParams) -> Value:
    """1/2 ||a - y||^2."""
    d = a - aligned(a, y, "quadratic")
    return _sum(d * d) * 0.5


@operation(Kind.LOSS, LossParams, operands=2, facts={"numeric"})
def mse(build: LossBuild, a: Value, y: Column, p: LossParams) -> Value:
    """mean (a - y)^2."""
    d = a - aligned(a, y, "mse")
    return _mean(d * d)


@operation(Kind.LOSS, LossParams, operands=2, facts={"numeric"})
def mae(build: LossBuild, a: Value, y: Column, p: LossParams) -> Value:
    """mean |a - y|; its slope at a = y is 0."""
    return _mean(apply("absolute", a - aligned(a, y, "mae")))


@operation(Kind.LOSS, LossParams, operands=2, facts={"numeric"}, batch="root")
def rmse(build: LossBuild, a: Value, y: Column, p: LossParams) -> Value:
    """The root of the mean of (a - y)^2, taken over the batch."""
    squares: Value = mse(build, a, y, p)
    return squares


@operation(Kind.LOSS, LossParams, operands=2, facts={"numeric"})
def absolute(build: LossBuild, a: Value, y: Column, p: LossParams) -> Value:
    """||a - y||_1.

    Differs: torch's L1Loss and Keras's MeanAbsoluteError are `mae`.
    """
    return _sum(apply("absolute", a - aligned(a, y, "absolute")))


@operation(Kind.LOSS, LossParams, operands=2, facts={"numeric"})
def log_cosh(build: LossBuild, a: Value, y: Column, p: LossParams) -> Value:
    """mean ln cosh(a - y), as |d| + ln(1 + e^(-2|d|)) - ln 2, which does not overflow."""
    size = apply("absolute", a - aligned(a, y, "log_cosh"))
    return _mean(size + apply("softplus", size * -2.0) - log(2))


class QuantileParams(LossParams):
    q: float = Field(0.5, gt=0, lt=1, description="the quantile that the prediction stands for")


@operation(Kind.LOSS, QuantileParams, operands=2, facts={"numeric"})
def quantile(build: LossBuild, a: Value, y: Column, p: QuantileParams) -> Value:
    """mean of q (y - a) where y >= a, else (1 - q) (a - y). Source: Koenker and Bassett 1978."""
    d = aligned(a, y, "quantile") - a
    return _mean(apply("maximum", d * p.q, d * (p.q - 1)))


@operation(Kind.LOSS, LossParams, operands=2, facts={"numeric"}, after="softplus")
def poisson(build: LossBuild, a: Value, y: Column, p: LossParams) -> Value:
    """mean of a - y ln a: the negative log likelihood of counts y at rate a, without the term that depends on y alone.

    Differs: torch's PoissonNLLLoss takes ln a unless log_input=False; Keras's adds 1e-7 to a inside the logarithm.
    """
    return _mean(a - aligned(a, y, "poisson") * _ln(a))


@operation(Kind.LOSS, LossParams, operands=2, facts={"numeric"})
def cosine(build: LossBuild, a: Value, y: Column, p: LossParams) -> Value:
    """1 - a.y / (||a|| ||y||) over a sample; 1 where either is zero.

    Differs: Keras's CosineSimilarity is -a.y / (||a|| ||y||), 1 less than this.
    """
    target = aligned(a, y, "cosine")
    lengths = apply("sqrt", apply("maximum", _sum(a * a) * _sum(target * target), constant(1e-24, a.dtype)))
    return 1.0 - _sum(a * target) / lengths


@operation(Kind.LOSS, LossParams, operands=2, facts={"score", "binary"})
def hinge(build: LossBuild, a: Value, y: Column, p: LossParams) -> Value:
    """mean max(0, 1 - s a), s = 2 y - 1 for y in {0, 1}; a is a score, without sigmoid. Source: Cortes and Vapnik 1995.

    Differs: torch's margin losses and Keras want targets -1 and 1; Keras changes 0 to -1.
    """
    sign = aligned(a, y, "hinge") * 2.0 - 1.0
    return _mean(apply("maximum", 1.0 - sign * a, constant(0.0, a.dtype)))


def _distribution(a: Value, y: Column, loss: str) -> Value:
    """The target as a distribution on the last axis: given as one, or one-hot from a class index."""
    if is_index(a, y):
        return apply("one_hot", _class_index(a, y), depth=a.shape[-1], dtype=a.dtype)
    if a.type.rank < 2 or y.value.dtype == "int64":
        raise mismatch(a, y, loss)
    return aligned(a, y, loss)


def _tiny(dtype: str) -> float:
    """The smallest normal number: logarithms of it are finite."""
    return 1.2e-38 if dtype == "float32" else 2.3e-308


def _ln(a: Value) -> Value:
    """ln a, constant below the smallest normal number. Of a softmax the stable form has no need of that."""
    return apply("log", apply("maximum", a, constant(_tiny(a.dtype), a.dtype)))


@operation(Kind.LOSS, LossParams, operands=2, facts={"classes"}, after="softmax")
def kl_divergence(build: LossBuild, a: Value, y: Column, p: LossParams) -> Value:
    """sum y ln(y / a) on the last axis, 0 ln 0 = 0; averaged over other axes. Its gradient is -y / a, and 0 where a = 0.

    Source: Kullback and Leibler 1951.

    Differs: torch's KLDivLoss takes ln a, and its mean is over all elements; batchmean is the one here. Keras clips both to at least 1e-7.
    """
    target = _distribution(a, y, "kl_divergence")
    return _mean(total(target * (_ln(target) - _ln(a)), -1))


@operation(Kind.LOSS, LossParams, operands=2, facts={"classes", "every_class"}, after="softmax")
def hellinger(build: LossBuild, a: Value, y: Column, p: LossParams) -> Value:
    """1/sqrt(2) ||sqrt(a) - sqrt(y)||_2 on the last axis, averaged over other axes.

    The gradient of the norm is taken as 0 where a = y; below 1e-12 the root is the line through 0. Source: Hellinger 1909.
    """
    d = _finite_root(a) - _finite_root(_distribution(a, y, "hellinger"))
    return _mean(root(total(d * d, -1)) * sqrt(0.5))


def _finite_root(x: Value) -> Value:
    """sqrt(x), whose slope is at most 10^6."""
    edge = constant(1e-12, x.dtype)
    return apply("where", apply("greater", x, edge), apply("sqrt", apply("maximum", x, edge)), x * 1e6)


class FocalParams(LossParams):
    gamma: float = Field(2.0, ge=0, description="how much well-classified samples are discounted")


@operation(Kind.LOSS, FocalParams, operands=2, facts={"classes"}, after="softmax")
def focal(build: LossBuild, a: Value, y: Column, p: FocalParams) -> Value:
    """-sum y (1 - a)^gamma ln a on the last axis, averaged over other axes. Source: Lin et al. 2017, arXiv:1708.02002.

    Differs: Keras and torchvision multiply by alpha, 0.25 by default.
    """
    target = _distribution(a, y, "focal")
    rest = apply("maximum", 1.0 - a, constant(_tiny(a.dtype), a.dtype))
    discount = apply("power", rest, constant(p.gamma, a.dtype))
    return _mean(-total(target * discount * _ln(a), -1))


class HuberParams(LossParams):
    delta: float = Field(1.0, gt=0, description="where the square turns into a line")


@operation(Kind.LOSS, HuberParams, operands=2, facts={"numeric"})
def huber(build: LossBuild, a: Value, y: Column, p: HuberParams) -> Value:
    """sum of 1/2 d^2 where |d| <= delta, else delta (|d| - delta/2), d = a - y. Source: Huber 1964.

    Differs: torch's HuberLoss and Keras's Huber take the mean over outputs, here it is the sum; torch's SmoothL1Loss is divided by delta.
    """
    d = a - aligned(a, y, "huber")
    size = apply("absolute", d)
    inside = apply("less_equal", size, constant(p.delta, a.dtype))
    return _sum(apply("where", inside, d * d * 0.5, (size - p.delta / 2) * p.delta))


class ClassParams(LossParams):
    class_weights: tuple[float, ...] | Literal["balanced"] | None = Field(
        None,
        kw_only=True,
        description="a weight for each class; balanced: rows / (classes * rows of the class) over the training split, as scikit-learn has it, "
        "1 for a class without training rows, which is not counted",
    )


class CrossEntropyParams(ClassParams):
    smoothing: float = Field(0.0, ge=0, lt=1, description="s: the target becomes (1 - s) y + s / classes")


class BinaryParams(ClassParams):
    positive_weight: float = Field(1.0, gt=0, kw_only=True, description="weight of the term y ln a")


def _by_class(build: LossBuild, a: Value, y: Column, p: ClassParams, classes: int) -> Value | None:
    """The weight of each class index, or of each element of a binary target; None without class weights."""
    if p.class_weights is None:
        return None
    table = build.learned("class_weights", (classes,)) if p.class_weights == "balanced" else vector(_checked(p.class_weights, classes), a.dtype)
    table = table if table.dtype == a.dtype else apply("cast", table, dtype=a.dtype)
    if isinstance(p, BinaryParams):
        first, second = (apply("slice", table, axis=0, start=i, stop=i + 1) for i in range(2))
        return aligned(a, y, "binary_cross_entropy") * (second - first) + first
    if is_index(a, y):
        return apply("gather", table, _class_index(a, y))
    return total(aligned(a, y, "cross_entropy") * table, -1)


def _checked(given: tuple[float, ...], classes: int) -> tuple[float, ...]:
    """The weights of a list, one for each class."""
    if len(given) != classes:
        raise Refusal("E207", at="class_weights", label=f"{len(given)} weights for {classes} classes", help=f"give {classes} numbers",
                      argument="class_weights", value=f"{len(given)} long", bound=f"{classes} long")  # fmt: skip
    if min(given) < 0:
        raise Refusal("E207", at="class_weights", label="a weight below 0", help="use 0 or more", argument="class_weights",
                      value=f"{min(given):g}", bound="at least 0")  # fmt: skip
    return given


@operation(Kind.LOSS, CrossEntropyParams, operands=2, facts={"classes"}, after="softmax")
def cross_entropy(build: LossBuild, a: Value, y: Column, p: CrossEntropyParams) -> Value:
    """-sum y ln a on the last axis, averaged over other axes; for a class index y, -ln a_y. Times the weight of the class.

    After softmax the pair becomes the stable log_softmax form.

    Differs: torch's CrossEntropyLoss takes logits, and with class weights divides by their sum over the batch, here by the number of samples. Smoothing
    is by s / classes over all classes in torch and Keras too; with class weights torch weighs each class's share by its own weight.
    """
    log_a = apply("log", a)
    outputs = a.shape[-1] if a.type.rank > 1 else 1
    assert isinstance(outputs, int)
    if is_index(a, y):
        losses = -apply("pick", log_a, _class_index(a, y))
        if p.smoothing:
            losses = losses * (1 - p.smoothing) - total(log_a, -1) * (p.smoothing / outputs)
    else:
        if a.type.rank < 2 or y.value.dtype == "int64":
            raise mismatch(a, y, "cross_entropy")
        target = aligned(a, y, "cross_entropy")
        if p.smoothing:
            target = target * (1 - p.smoothing) + p.smoothing / outputs
        losses = -total(target * log_a, -1)
    weight = _by_class(build, a, y, p, outputs)
    return _mean(losses if weight is None else losses * weight)


@operation(Kind.LOSS, BinaryParams, operands=2, facts={"binary"}, after="sigmoid")
def binary_cross_entropy(build: LossBuild, a: Value, y: Column, p: BinaryParams) -> Value:
    """-sum [y ln a + (1 - y) ln(1 - a)] over outputs. After sigmoid the pair becomes ln(1 + e^z) - y z.

    Differs: torch and Keras take the mean over outputs, here it is the sum.
    """
    target = aligned(a, y, "binary_cross_entropy")
    if y.value.dtype == "int64" and y.classes is not None and len(y.classes) > 2:
        raise Refusal("E503", label=f"{len(y.classes)} classes on one output", help=f"use dense({len(y.classes)}) -> softmax and cross_entropy",
                      classes=len(y.classes), outputs=1)  # fmt: skip
    yes, no = target * apply("log", a), (1.0 - target) * apply("log", 1.0 - a)
    losses = -((yes if p.positive_weight == 1 else yes * p.positive_weight) + no)
    weight = _by_class(build, a, y, p, 2)
    return _sum(losses if weight is None else losses * weight)
