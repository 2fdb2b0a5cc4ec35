"""Column selections and data steps.

A step that learns finds its figures on the training rows (runtime/data/fit.py), stores them with the model, and is part of
the exported graph: its expression here is the only definition. `gives` is the range of what comes out, where that is known, or None
where it has none; a step that keeps units leaves their range, one that `scales` makes large numbers small.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from ..diagnostics import Refusal
from ..ir import Batch, Value, apply, constant, dims
from ..operation import Column, Kind, NoParams, Params, Reference, Refers, StepBuild, operation
from ..primitives import total, vector
from .shapes import ReshapeParams
from .shapes import reshape as reshape_layer


class ColumnsParams(Params):
    except_: tuple[Annotated[Reference, Refers("column")], ...] = Field((), alias="except", description="columns to leave out of `all`")


@operation(Kind.COLUMN, operands=1)
def column(p: NoParams) -> None:
    """One column of the source: a number column is float32[1], text a string; arrays keep dtype and shape."""


@operation(Kind.COLUMN, ColumnsParams, operands=None)
def columns(p: ColumnsParams) -> None:
    """Several number columns as float32[k]; `all` is every number column but those in `except` and the classes of bundled data."""


def as_float(build: StepBuild, x: Column, step: str) -> Value:
    """The column in the program's float type; text is refused."""
    if x.value.dtype == "string":
        raise Refusal("E404", label=f"{step} takes numbers, this is text", help="use `category` or `one_hot` for text", step=step)
    return x.value if x.value.dtype == build.dtype else apply("cast", x.value, dtype=build.dtype)


def along(x: Value) -> tuple[int, ...]:
    """The shape of one figure per channel: axis 0 of images, the last axis of everything else."""
    axes = x.shape[1:]
    if not axes:
        return ()
    channel = 0 if len(axes) == 3 else len(axes) - 1
    return tuple(d if i == channel else 1 for i, d in enumerate(axes))  # type: ignore[misc]


class ScaleParams(Params):
    factor: float = Field(description="what values are multiplied by")


def _unscale(build: StepBuild, y: Value, p: ScaleParams) -> Value:
    return y * (1 / p.factor)


@operation(Kind.STEP, ScaleParams, inverse=_unscale, facts={"scales"})
def scale(build: StepBuild, x: Column, p: ScaleParams) -> Column:
    """x * factor."""
    if p.factor == 0:
        raise Refusal("E207", at="factor", label="everything would be 0", help="use a factor such as 1/255", argument="factor", value="0",
                      bound="other than 0")  # fmt: skip
    return Column(as_float(build, x, "scale") * p.factor)


def _unstandardize(build: StepBuild, y: Value, p: NoParams) -> Value:
    shape = along(y)
    return y * build.learned("std", shape) + build.learned("mean", shape)


@operation(Kind.STEP, learns=True, inverse=_unstandardize, facts={"scales"}, gives=lambda p: None)
def standardize(build: StepBuild, x: Column, p: NoParams) -> Column:
    """(x - mean) / std, by column or channel, over the training rows; std is biased, and 1 where it would be 0.

    Differs: as scikit-learn's StandardScaler; pandas and torch.std divide by n - 1.
    """
    value = as_float(build, x, "standardize")
    shape = along(value)
    return Column((value - build.learned("mean", shape)) / build.learned("std", shape))


class MinMaxParams(Params):
    low: float = Field(0.0, description="where the smallest training value goes")
    high: float = Field(1.0, description="where the largest training value goes")


def _unmin_max(build: StepBuild, y: Value, p: MinMaxParams) -> Value:
    shape = along(y)
    return (y - p.low) * (1 / (p.high - p.low)) * build.learned("range", shape) + build.learned("min", shape)


@operation(Kind.STEP, MinMaxParams, learns=True, inverse=_unmin_max, facts={"scales"}, gives=lambda p: (p.low, p.high))
def min_max(build: StepBuild, x: Column, p: MinMaxParams) -> Column:
    """low + (high - low) (x - min) / range, by column or channel, over the training rows; range is 1 where it would be 0."""
    if p.low >= p.high:
        raise Refusal("E207", at="high", label=f"low is {p.low:g}", help="give low < high", argument="high", value=f"{p.high:g}",
                      bound="greater than low")  # fmt: skip
    value = as_float(build, x, "min_max")
    shape = along(value)
    unit = (value - build.learned("min", shape)) / build.learned("range", shape)
    return Column(unit if (p.low, p.high) == (0, 1) else unit * (p.high - p.low) + p.low)


class ImputeParams(Params):
    strategy: Literal["median", "mean", "constant"] = Field("median", description="what stands in for a missing value")
    value: float = Field(0.0, description="the constant")


@operation(Kind.STEP, ImputeParams, learns=True, facts={"keeps_units"})
def impute(build: StepBuild, x: Column, p: ImputeParams) -> Column:
    """The training rows' median or mean, or a constant, where x is missing (NaN)."""
    value = as_float(build, x, "impute")
    shape = along(value)
    if p.strategy == "constant":
        fill = constant(p.value, value.dtype)
    else:
        fill = build.learned("fill", shape)
    return Column(apply("where", apply("is_nan", value), fill, value))


Labels = tuple[str, ...] | tuple[int | float, ...]


class CategoryParams(Params):
    classes: Labels | None = Field(None, description="the categories, in the order of their indices; the training values, sorted, when not given")


def _scalar(x: Column) -> Value:
    """A column of one number or text a sample, without an axis of length 1."""
    if any(d != 1 for d in x.dims):
        raise Refusal("E407", label=f"{dims(x.dims)} values a sample", help="apply it to one column", name="the step")
    return x.value if not x.dims else apply("reshape", x.value, shape=(x.value.shape[0],))


def _index(build: StepBuild, x: Column, given: Labels | None) -> tuple[Value, tuple[Any, ...]]:
    """The index of each value among the classes, or their number where it is none of them."""
    value = _scalar(x)
    classes = given if given is not None else build.classes()
    text = all(isinstance(c, str) for c in classes)
    if classes and text != (value.dtype == "string"):
        raise Refusal("E404", label=f"the column holds {'text' if value.dtype == 'string' else 'numbers'}", step="category",
                      help="write the classes as the column holds them")  # fmt: skip
    if len(set(classes)) < len(classes):
        raise Refusal("E207", at="classes", label="a class stands twice", help="name every class once", argument="classes", value="the list",
                      bound="distinct")  # fmt: skip
    keys = tuple(classes) if value.dtype == "string" else tuple(float(c) if value.type.is_float else int(c) for c in classes)
    looked = apply("lookup", value, keys=keys, values=tuple(range(len(classes))), default=len(classes), dtype="int64")
    return looked, tuple(classes)


@operation(Kind.STEP, CategoryParams, learns=True, classes=True)
def category(build: StepBuild, x: Column, p: CategoryParams) -> Column:
    """The index of the value among the classes, int64; unseen and missing values are the number of classes."""
    if p.classes is None and x.classes is not None and x.value.dtype == "int64" and all(isinstance(c, str) for c in x.classes):
        return x  # indices of classes with names already
    value, classes = _index(build, x, p.classes)
    return Column(value, classes)


class OneHotParams(Params):
    classes: int | Labels | None = Field(None, description="n for the integers 0..n-1, or the categories in order")


@operation(Kind.STEP, OneHotParams, learns=True, classes=True, facts={"scales"}, gives=lambda p: (0.0, 1.0))
def one_hot(build: StepBuild, x: Column, p: OneHotParams) -> Column:
    """1 at the index of the value among the classes and 0 elsewhere; all 0 for unseen and missing values."""
    if isinstance(p.classes, int):
        if p.classes < 2:
            raise Refusal("E207", at="classes", label="one class tells nothing", help="use one_hot(2) or more", argument="classes",
                          value=str(p.classes), bound="at least 2")  # fmt: skip
        index, classes = _scalar(x), tuple(range(p.classes))
        if index.dtype != "int64":
            index = apply("cast", index, dtype="int64") if index.dtype != "string" else index
        if index.dtype == "string":
            raise Refusal("E404", label="one_hot(n) takes the integers 0..n-1, this is text", help="write one_hot without a number", step="one_hot")
    elif x.classes is not None and x.value.dtype == "int64" and p.classes is None:
        index, classes = _scalar(x), x.classes
    else:
        index, classes = _index(build, x, p.classes)
    return Column(apply("one_hot", index, depth=len(classes), dtype=build.dtype), classes)


@operation(Kind.STEP, facts={"keeps_units"})
def flatten(build: StepBuild, x: Column, p: NoParams) -> Column:
    """All axes of a sample in one, the last fastest."""
    size = 1
    for d in x.dims:
        assert isinstance(d, int)
        size *= d
    return Column(apply("reshape", x.value, shape=(x.value.shape[0], size)), x.classes)


@operation(Kind.STEP, ReshapeParams, facts={"keeps_units"})
def reshape(build: StepBuild, x: Column, p: ReshapeParams) -> Column:
    """The same elements in the same order under other axes."""
    return Column(reshape_layer(build, x.value, p), x.classes)


@operation(Kind.STEP, facts={"balance"})
def class_balance(build: StepBuild, x: Column, p: NoParams) -> Column:
    """Changes no value: rows of the training split are drawn so that the classes of this data name are equally frequent.

    Of K classes with n_1 ... n_K training rows, an epoch takes m = max n_k rows of each: every row of class k floor(m / n_k) times, and
    m mod n_k rows of it once more, drawn without replacement by the seed and the epoch's number. Validation and test rows, figures
    and the exported model are untouched. One data name may have it, and it stands last.
    """
    if x.classes is None or x.value.type.rank != (1 if x.value.dtype == "int64" else 2):
        raise Refusal("E412", label="it holds numbers" if x.classes is None else f"{dims(x.dims)} a sample",
                      help="balance a data name with one class a sample: column(c) -> category -> class_balance", name="the column")  # fmt: skip
    return x


class ClipParams(Params):
    low: float = Field(description="the smallest value")
    high: float = Field(description="the largest value")


@operation(Kind.STEP, ClipParams, gives=lambda p: (p.low, p.high))
def clip(build: StepBuild, x: Column, p: ClipParams) -> Column:
    """min(max(x, low), high)."""
    if p.low >= p.high:
        raise Refusal("E207", at="high", label=f"low is {p.low:g}", help="give low < high", argument="high", value=f"{p.high:g}",
                      bound="greater than low")  # fmt: skip
    value = as_float(build, x, "clip")
    return Column(apply("minimum", apply("maximum", value, constant(p.low, value.dtype)), constant(p.high, value.dtype)))


def _unlog1p(build: StepBuild, y: Value, p: NoParams) -> Value:
    return apply("expm1", y)


@operation(Kind.STEP, inverse=_unlog1p, facts={"scales"})
def log1p(build: StepBuild, x: Column, p: NoParams) -> Column:
    """ln(1 + x), for x > -1."""
    return Column(apply("log1p", as_float(build, x, "log1p")))


class BitsParams(Params):
    bits: int = Field(ge=1, le=24, description="n: the number of binary outputs")


@operation(Kind.STEP, BitsParams, facts={"scales"}, gives=lambda p: (0.0, 1.0))
def bits(build: StepBuild, x: Column, p: BitsParams) -> Column:
    """The n lowest bits of a whole number as 0 and 1, the most significant first."""
    value = _scalar(x)
    number = value if value.dtype == build.dtype else apply("cast", value, dtype=build.dtype)
    if value.dtype == "string":
        raise Refusal("E404", label="bits takes whole numbers, this is text", help="use `category` for text", step="bits")
    rows = apply("reshape", number, shape=(value.shape[0], 1))
    steps = vector([2.0**-i for i in range(p.bits - 1, -1, -1)], build.dtype)
    shifted = apply("floor", rows * steps)
    return Column(shifted - apply("floor", shifted * 0.5) * 2.0)


class BucketizeParams(Params):
    edges: int | tuple[float, ...] = Field(description="the edges, ascending; or n for n buckets of equal share of the training rows")


@operation(Kind.STEP, BucketizeParams, learns=True, facts={"scales"})
def bucketize(build: StepBuild, x: Column, p: BucketizeParams) -> Column:
    """The number of edges that are not above the value, int64: 0 below the first, k from the last on."""
    value = _scalar(x)
    if value.dtype == "string":
        raise Refusal("E404", label="bucketize takes numbers, this is text", help="use `category` for text", step="bucketize")
    number = value if value.dtype == build.dtype else apply("cast", value, dtype=build.dtype)
    if isinstance(p.edges, int):
        if p.edges < 2:
            raise Refusal("E207", at="edges", label="one bucket tells nothing", help="use 2 or more", argument="edges", value=str(p.edges),
                          bound="at least 2")  # fmt: skip
        edges, count = build.learned("edges", (p.edges - 1,)), p.edges
    else:
        if not p.edges or any(a >= b for a, b in zip(p.edges, p.edges[1:], strict=False)):
            raise Refusal("E207", at="edges", label="edges rise", help="give them in ascending order, each once", argument="edges", value="the list",
                          bound="ascending")  # fmt: skip
        edges, count = vector(p.edges, build.dtype), len(p.edges) + 1
    above = apply("greater_equal", apply("reshape", number, shape=(value.shape[0], 1)), edges)
    index = apply("cast", total(apply("cast", above, dtype=build.dtype), 1), dtype="int64")
    return Column(index, tuple(range(count)))


@operation(Kind.STEP, learns=True, classes=True, starts_from="text")
def characters(build: StepBuild, x: Column, p: NoParams) -> Column:
    """The index of a character of a text among those of the training part, sorted; their number for others. It stands first."""
    classes = build.classes()
    looked = apply("lookup", x.value, keys=tuple(ord(c) for c in classes), values=tuple(range(len(classes))), default=len(classes), dtype="int64")
    return Column(looked, tuple(classes))


class WindowParams(Params):
    length: int = Field(ge=1, description="rows of a window")
    stride: int = Field(1, ge=1, description="rows between two windows")
    offset: int = Field(0, ge=0, description="rows that the first window is moved on")


@operation(Kind.STEP, WindowParams, facts={"window", "keeps_units"})
def window(build: StepBuild, x: Column, p: WindowParams) -> Column:
    """Rows i * stride + offset and the length - 1 after them are sample i. Shape: [...] -> [length, ...].

    Steps before it take rows, steps after it windows. A window lies in one file of a `files` split, in consecutive rows of one group of a
    `grouped` one, and in one part of a `by` split; `random` draws windows that do not overlap.

    `nnc eval --data` and `nnc predict` cut the rows of a new file in the same way. A prediction comes for every window of the inputs, also
    where its target lies beyond the last row; `row` beside it is the number of the last row that it sees. Under `grouped` windows stay in
    the runs of the column's values where the file has the column; without it the file is one series.
    """
    n = x.value.shape[0]
    assert isinstance(n, Batch)
    return Column(apply("reshape", x.value, shape=(Batch(n.factor // p.length), p.length, *x.value.shape[1:])), x.classes)
