"""NumPy kernels: for every primitive, how to make the function that a plan calls as `kernel(*operands, out, *scratch)`.

A ufunc is its own kernel, its third argument being `out`. Others are closures over what is known when the plan is bound; none
allocates arrays of the batch's size in a step but `bernoulli`, whose random words NumPy hands over in an array of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import repeat
from typing import Any

import numpy as np

from nnc.compiler.ir import Value, concrete
from nnc.compiler.workspace import INTEGER_OF, is_zero

from . import convolution, divided, integers, pooling, recurrence, recurrent, table_rows
from .convolution import Kernel, last, over_places
from .special import erf, sigmoid

Array = divided.Array


class Randomness:
    """Counter-based: what is drawn depends on the seed, the stream's name and the step, and on nothing drawn before."""

    def __init__(self, seed: int, step: int = 0):
        self.seed = seed
        self.counter = np.array([step], np.uint64)  # where compiled kernels read it
        self._bits = np.random.Philox(key=0)
        self._state: Any = self._bits.state
        self._normal = np.random.Generator(self._bits)
        self._empty = np.zeros(4, np.uint64)

    @property
    def step(self) -> int:
        return int(self.counter[0])

    @step.setter
    def step(self, step: int) -> None:
        self.counter[0] = step

    def words(self, stream: int, count: int) -> Array:
        """`count` random 64-bit words of a stream at the current step."""
        state = self._state
        state["state"]["key"] = np.array([self.seed & (2**64 - 1), stream], np.uint64)
        state["state"]["counter"] = np.array([0, 0, self.step, 0], np.uint64)
        state["buffer"], state["buffer_pos"], state["has_uint32"] = self._empty, 4, 0
        self._bits.state = state
        return self._bits.random_raw(count)

    def normal(self, stream: int, out: Array) -> None:
        """Standard normal numbers of a stream at the current step."""
        self.words(stream, 0)
        self._normal.standard_normal(out.shape, out.dtype, out)


def stream_of(name: str) -> int:
    """The number of a named stream of randomness."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def generator(seed: int, name: str, step: int = 0) -> np.random.Generator:
    """A generator for draws outside the step: initial parameters, the order of an epoch."""
    return np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), stream_of(name)], counter=[0, 0, step, 0]))


def _ufunc(function: Kernel) -> Callable[[Value, int, Randomness], Kernel]:
    return lambda value, n, randomness: function


def _softplus(x: Array, out: Array) -> None:
    np.logaddexp(x, 0.0, out)


def _maximum(a: Array, b: Array, out: Array) -> None:
    np.maximum(a, b, out=out)  # NumPy deprecates a third positional argument of these two


def _minimum(a: Array, b: Array, out: Array) -> None:
    np.minimum(a, b, out=out)


def _where(value: Value, n: int, randomness: Randomness) -> Kernel:
    """Selection by masks: copying with `where=` goes element by element, twenty times as long."""
    if value.dtype not in INTEGER_OF:

        def copy(condition: Array, a: Array, b: Array, out: Array) -> None:
            np.copyto(out, b)
            np.copyto(out, a, where=condition)

        return copy
    integer = INTEGER_OF[value.dtype]

    def bits(array: Array, out: Array) -> Array:
        return np.broadcast_to(array, out.shape).view(integer)

    def mask_of(condition: Array, mask: Array) -> None:
        np.negative(condition.view(np.int8), mask, casting="unsafe")

    if is_zero(value.operands[2]):

        def keep(condition: Array, a: Array, b: Array, out: Array, mask: Array) -> None:
            mask = alike(mask, out)
            mask_of(condition, mask)
            np.bitwise_and(bits(a, out), mask, out.view(integer))

        return keep

    def select(condition: Array, a: Array, b: Array, out: Array, mask: Array, other: Array) -> None:
        """b ^ ((a ^ b) & mask)."""
        mask, other = alike(mask, out), alike(other, out)
        mask_of(condition, mask)
        np.bitwise_xor(bits(a, out), bits(b, out), other)
        np.bitwise_and(other, mask, other)
        np.bitwise_xor(bits(b, out), other, out.view(integer))

    return select


def _copy(x: Array, out: Array) -> None:
    np.copyto(out, x, casting="unsafe")


def alike(space: Array, out: Array) -> Array:
    """Work space in the order in which `out` lies in memory."""
    if out.ndim != 4 or out.flags.c_contiguous:
        return space
    n, c, h, w = out.shape
    return space.reshape(n, h, w, c).transpose(0, 3, 1, 2)


def _reduce(ufunc: np.ufunc) -> Callable[[Value, int, Randomness], Kernel]:
    def make(value: Value, n: int, randomness: Randomness) -> Kernel:
        axes, keepdims = value.attributes["axes"], value.attributes["keepdims"]
        axis = axes[0] if len(axes) == 1 else axes
        if value.operands[0].type.rank == 4 and axes in ((0, 2, 3), (2, 3)):
            return _reduce_image(ufunc, axes, keepdims)
        return lambda x, out: ufunc.reduce(x, axis=axis, out=out, keepdims=keepdims)

    return make


def _reduce_image(ufunc: np.ufunc, axes: tuple[int, ...], keepdims: bool) -> Kernel:
    """Reduce all but channels, or all but samples and channels; images with channels last in long runs of memory."""

    def reduce(x: Array, out: Array) -> None:
        y = last(x)
        if not y.flags.c_contiguous:
            ufunc.reduce(x, axis=axes, out=out, keepdims=keepdims)
        elif axes == (0, 2, 3):
            out[...] = over_places(ufunc, y).reshape(out.shape)
        else:
            n, h, w, c = y.shape
            ufunc.reduce(y.reshape(n, h * w, c), axis=1, out=out.reshape(n, c))

    return reduce


def _dot(a: Array, b: Array, out: Array) -> None:
    out[...] = np.dot(a.reshape(-1), b.reshape(-1))


def _argmax(value: Value, n: int, randomness: Randomness) -> Kernel:
    axis = value.attributes["axis"]
    return lambda x, out: np.argmax(x, axis, out)


def _matmul(value: Value, n: int, randomness: Randomness) -> Kernel:
    ta, tb = value.attributes["transpose_a"], value.attributes["transpose_b"]
    if len(value.shape) == 2:  # takes less time to call, and a product of a column and a row a tenth
        return lambda a, b, out: np.dot(a.T if ta else a, b.T if tb else b, out)
    if not ta and not tb:
        return np.matmul

    def product(a: Array, b: Array, out: Array) -> None:
        np.matmul(a.swapaxes(-1, -2) if ta else a, b.swapaxes(-1, -2) if tb else b, out)

    return product


def _softmax(value: Value, n: int, randomness: Randomness) -> Kernel:
    axis = value.attributes["axis"]

    def softmax(x: Array, out: Array, row: Array) -> None:
        np.maximum.reduce(x, axis=axis, out=row, keepdims=True)
        np.subtract(x, row, out)
        np.exp(out, out)
        np.add.reduce(out, axis=axis, out=row, keepdims=True)
        np.divide(out, row, out)

    return softmax


def _log_softmax(value: Value, n: int, randomness: Randomness) -> Kernel:
    axis = value.attributes["axis"]

    def log_softmax(x: Array, out: Array, powers: Array, row: Array) -> None:
        np.maximum.reduce(x, axis=axis, out=row, keepdims=True)
        np.subtract(x, row, out)
        np.exp(out, powers)
        np.add.reduce(powers, axis=axis, out=row, keepdims=True)
        np.log(row, row)
        np.subtract(out, row, out)

    return log_softmax


# Moving elements


def _concat(value: Value, n: int, randomness: Randomness) -> Kernel:
    axis = value.attributes["axis"]
    return lambda *arrays: np.concatenate(arrays[:-1], axis, arrays[-1])


def _pack(value: Value, n: int, randomness: Randomness) -> Kernel:
    def pack(*arrays: Array) -> None:
        flat, start = arrays[-1], 0
        for array in arrays[:-1]:
            part = flat[start : start + array.size]
            if not np.may_share_memory(part, array):  # most were written there in the first place
                part[...] = array.reshape(-1)
            start += array.size

    return pack


def _pad(value: Value, n: int, randomness: Randomness) -> Kernel:
    axis, before = value.attributes["axis"], value.attributes["before"]

    def pad(x: Array, out: Array) -> None:
        out.fill(0.0)
        out[(slice(None),) * axis + (slice(before, before + x.shape[axis]),)] = x

    return pad


def _one_hot(value: Value, n: int, randomness: Randomness) -> Kernel:
    depth = value.attributes["depth"]
    classes = np.arange(depth)
    return lambda index, out: np.equal(index[..., None], classes, out, casting="unsafe")


def _pick(value: Value, n: int, randomness: Randomness) -> Kernel:
    depth = concrete(value.operands[0].shape, n)[-1]
    starts = np.arange(0, value.type.size(n) * depth, depth).reshape(concrete(value.shape, n))

    def pick(x: Array, index: Array, out: Array, places: Array) -> None:
        np.add(index, starts, places)
        np.take(x.reshape(-1), places, None, out, "clip")  # with "raise" NumPy would make an array of its own

    return pick


def _lookup(value: Value, n: int, randomness: Randomness) -> Kernel:
    keys = value.attributes["keys"]
    if value.operands[0].dtype == "float32":  # 0.1 is another number there
        keys = np.array(keys, np.float32).tolist()
    table = dict(zip(keys, value.attributes["values"], strict=True))
    default = value.attributes["default"]

    def lookup(x: Array, out: Array) -> None:
        out.reshape(-1)[...] = np.fromiter(map(table.get, x.reshape(-1).tolist(), repeat(default)), out.dtype, x.size)

    return lookup


def _bernoulli(value: Value, n: int, randomness: Randomness) -> Kernel:
    """16 random bits an element: the probability is met to 2^-16."""
    stream = stream_of(value.attributes["stream"])
    threshold = np.uint16(min(65535, round(value.attributes["probability"] * 65536)))
    size = value.type.size(n)

    def bernoulli(like: Array, out: Array) -> None:
        bits = randomness.words(stream, -(-size // 4)).view(np.uint16)[:size]
        np.less(_drawn(bits, out), threshold, out, casting="unsafe")

    return bernoulli


def _drawn(numbers: Array, out: Array) -> Array:
    """Random numbers in the shape of `out`: those of an image go channel by channel first, however it lies in memory."""
    if out.ndim != 4:
        return numbers.reshape(out.shape)
    n, c, h, w = out.shape
    return numbers.reshape(n, h, w, c).transpose(0, 3, 1, 2)


def _normal(value: Value, n: int, randomness: Randomness) -> Kernel:
    stream = stream_of(value.attributes["stream"])

    def normal(like: Array, out: Array) -> None:
        numbers = np.empty(out.size, out.dtype)
        randomness.normal(stream, numbers)
        np.copyto(out, _drawn(numbers, out))

    return normal


def nothing(*_: Array) -> None:
    """The kernel of a step whose work others have done."""


KERNELS: dict[str, Callable[[Value, int, Randomness], Kernel]] = {
    "negative": _ufunc(np.negative),
    "exp": _ufunc(np.exp),
    "log": _ufunc(np.log),
    "log1p": _ufunc(np.log1p),
    "expm1": _ufunc(np.expm1),
    "sqrt": _ufunc(np.sqrt),
    "tanh": _ufunc(np.tanh),
    "sigmoid": _ufunc(sigmoid),
    "softplus": _ufunc(_softplus),
    "erf": _ufunc(erf),
    "absolute": _ufunc(np.absolute),
    "sign": _ufunc(np.sign),
    "floor": _ufunc(np.floor),
    "add": _ufunc(np.add),
    "subtract": _ufunc(np.subtract),
    "multiply": _ufunc(np.multiply),
    "divide": _ufunc(np.divide),
    "power": _ufunc(np.power),
    "maximum": _ufunc(_maximum),
    "minimum": _ufunc(_minimum),
    "greater": _ufunc(np.greater),
    "greater_equal": _ufunc(np.greater_equal),
    "less": _ufunc(np.less),
    "less_equal": _ufunc(np.less_equal),
    "equal": _ufunc(np.equal),
    "is_nan": _ufunc(np.isnan),
    "where": _where,
    "cast": _ufunc(_copy),
    "reduce_sum": _reduce(np.add),
    "reduce_max": _reduce(np.maximum),
    "dot": _ufunc(_dot),
    "argmax": _argmax,
    "matmul": _matmul,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "conv2d": convolution.conv2d,
    "conv2d_input_gradient": convolution.conv2d_input_gradient,
    "conv2d_weight_gradient": convolution.conv2d_weight_gradient,
    "max_pool": pooling.max_pool,
    "max_pool_gradient": pooling.max_pool_gradient,
    "max_pool_gather": pooling.max_pool_gather,
    "avg_pool": pooling.avg_pool,
    "avg_pool_gradient": pooling.avg_pool_gradient,
    "reshape": _ufunc(lambda x, out: np.copyto(out.reshape(x.shape), x)),
    "pad": _pad,
    "concat": _concat,
    "pack": _pack,
    "one_hot": _one_hot,
    "pick": _pick,
    "lookup": _lookup,
    "recurrent": lambda value, n, randomness: recurrent.kernel(value),
    "recurrence": recurrence.recurrence,
    "recurrence_gradient": recurrence.recurrence_gradient,
    "gather": table_rows.gather,
    "scatter_add": table_rows.scatter_add,
    "coalesce": _ufunc(table_rows.coalesce),
    "scatter_update": _ufunc(table_rows.scatter_update),
    "bernoulli": _bernoulli,
    "normal": _normal,
    "quantize": _ufunc(integers.quantize),
    "dequantize": lambda value, n, randomness: integers.dequantize(value.attributes["axis"]),
}


def view(value: Value, n: int, source: Array) -> Array:
    """A view primitive on an array."""
    a = value.attributes
    match value.op:
        case "reshape":
            return source.reshape(concrete(value.shape, n))
        case "transpose":
            order: tuple[int, ...] = a["order"]
            return source.transpose(order)
        case "broadcast_to":
            return np.broadcast_to(source, concrete(value.shape, n))
        case "slice":
            part: Array = source[(slice(None),) * a["axis"] + (slice(a["start"], a["stop"]),)]
            return part
        case "part":
            shape = concrete(value.shape, n)
            return source[a["start"] : a["start"] + int(np.prod(shape, dtype=np.int64))].reshape(shape)
        case "surrogate":
            return source
    raise AssertionError(f"{value.op} is no view")
