"""NumPy kernels: for every primitive, how to make the function that a plan calls as `kernel(*operands, out, *scratch)`.

A ufunc is its own kernel, its third argument being `out`. Others are closures over what is known when the plan is bound; none
allocates arrays of the batch's size in a step but `bernoulli`, whose random words NumPy hands over in an array of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nnc.compiler.diagnostics import Findings
from nnc.compiler.ir import Value, concrete
from nnc.compiler.source import Source

from . import recurrent
from .special import erf

Array = np.ndarray[Any, Any]
Kernel = Callable[..., Any]


class Randomness:
    """Counter-based: what is drawn depends on the seed, the stream's name and the step, and on nothing drawn before."""

    def __init__(self, seed: int, step: int = 0):
        self.seed, self.step = seed, step
        self._bits = np.random.Philox(key=0)
        self._state: Any = self._bits.state
        self._normal = np.random.Generator(self._bits)
        self._empty = np.zeros(4, np.uint64)

    def words(self, stream: int, count: int) -> Array:
        """`count` random 64-bit words of a stream at the current step."""
        state = self._state
        state["state"]["key"] = np.array([self.seed & (2**64 - 1), stream], np.uint64)
        state["state"]["counter"] = np.array([0, 0, self.step, 0], np.uint64)
        state["buffer"], state["buffer_pos"], state["has_uint32"] = self._empty, 4, 0
        self._bits.state = state
        return self._bits.random_raw(count)  # type: ignore[return-value]


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


def _sigmoid(x: Array, out: Array) -> None:
    """1 / (1 + e^-x): an overflow of e^-x gives the right limit, 0."""
    np.negative(x, out)
    np.exp(out, out)
    np.add(out, 1.0, out)
    np.reciprocal(out, out)


def _softplus(x: Array, out: Array) -> None:
    np.logaddexp(x, 0.0, out)


def _maximum(a: Array, b: Array, out: Array) -> None:
    np.maximum(a, b, out=out)  # NumPy deprecates a third positional argument of these two


def _minimum(a: Array, b: Array, out: Array) -> None:
    np.minimum(a, b, out=out)


def _where(condition: Array, a: Array, b: Array, out: Array) -> None:
    np.copyto(out, b)
    np.copyto(out, a, where=condition)


def _copy(x: Array, out: Array) -> None:
    np.copyto(out, x, casting="unsafe")


def _reduce(ufunc: np.ufunc) -> Callable[[Value, int, Randomness], Kernel]:
    def make(value: Value, n: int, randomness: Randomness) -> Kernel:
        axes, keepdims = value.attributes["axes"], value.attributes["keepdims"]
        axis = axes[0] if len(axes) == 1 else axes
        return lambda x, out: ufunc.reduce(x, axis, None, out, keepdims)

    return make


def _dot(a: Array, b: Array, out: Array) -> None:
    out[...] = np.dot(a.reshape(-1), b.reshape(-1))


def _argmax(value: Value, n: int, randomness: Randomness) -> Kernel:
    axis = value.attributes["axis"]
    return lambda x, out: np.argmax(x, axis, out)


def _matmul(value: Value, n: int, randomness: Randomness) -> Kernel:
    ta, tb = value.attributes["transpose_a"], value.attributes["transpose_b"]
    if not ta and not tb:
        return np.matmul

    def product(a: Array, b: Array, out: Array) -> None:
        np.matmul(a.swapaxes(-1, -2) if ta else a, b.swapaxes(-1, -2) if tb else b, out)

    return product


def _softmax(value: Value, n: int, randomness: Randomness) -> Kernel:
    axis = value.attributes["axis"]

    def softmax(x: Array, out: Array, row: Array) -> None:
        np.maximum.reduce(x, axis, None, row, True)
        np.subtract(x, row, out)
        np.exp(out, out)
        np.add.reduce(out, axis, None, row, True)
        np.divide(out, row, out)

    return softmax


def _log_softmax(value: Value, n: int, randomness: Randomness) -> Kernel:
    axis = value.attributes["axis"]

    def log_softmax(x: Array, out: Array, powers: Array, row: Array) -> None:
        np.maximum.reduce(x, axis, None, row, True)
        np.subtract(x, row, out)
        np.exp(out, powers)
        np.add.reduce(powers, axis, None, row, True)
        np.log(row, row)
        np.subtract(out, row, out)

    return log_softmax


# Convolution: patches as rows, one product. Images are [sample, channel, height, width].


def _padder(padding: Any, fill: float) -> Callable[[Array, Array], Array]:
    """Copy an image into its padded work space; without padding the image itself is used."""
    (top, bottom), (left, right) = padding
    if not (top or bottom or left or right):
        return lambda x, padded: x

    def pad(x: Array, padded: Array) -> Array:
        padded.fill(fill)
        padded[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
        return padded

    return pad


def _interior(padding: Any, size: tuple[int, ...]) -> tuple[slice, ...]:
    (top, _), (left, _) = padding
    return slice(None), slice(None), slice(top, top + size[0]), slice(left, left + size[1])


def _patches(x: Array, out_size: tuple[int, ...], window: Any, stride: Any, dilation: Any) -> Array:
    """A view [sample, row, column, channel, kernel row, kernel column] of a padded image."""
    sn, sc, sh, sw = x.strides
    shape = (x.shape[0], *out_size, x.shape[1], *window)
    return as_strided(x, shape, (sn, sh * stride[0], sw * stride[1], sc, sh * dilation[0], sw * dilation[1]), writeable=False)


class _Convolution:
    """The geometry that the three products of a convolution share."""

    def __init__(self, value: Value, n: int, image: Value, weight: Value, output: Value):
        a = value.attributes
        self.stride, self.dilation, self.groups, self.padding = a["stride"], a["dilation"], a["groups"], a["padding"]
        self.image = concrete(image.shape, n)
        self.weight = concrete(weight.shape, n)
        self.output = concrete(output.shape, n)
        self.pad = _padder(self.padding, 0.0)
        taps = self.weight[2] * self.weight[3]
        self.columns = [slice(g * self.weight[1] * taps, (g + 1) * self.weight[1] * taps) for g in range(self.groups)]
        per = self.weight[0] // self.groups
        self.outputs = [slice(g * per, (g + 1) * per) for g in range(self.groups)]

    def gather(self, x: Array, padded: Array, columns: Array) -> None:
        """Patches of the image as rows of `columns`."""
        patches = _patches(self.pad(x, padded), self.output[2:], self.weight[2:], self.stride, self.dilation)
        np.copyto(columns.reshape(patches.shape), patches)

    def scatter(self, columns: Array, padded: Array, out: Array) -> None:
        """Add patches back to the places they came from."""
        kh, kw = self.weight[2:]
        oh, ow = self.output[2:]
        patches = columns.reshape(self.image[0], oh, ow, self.image[1], kh, kw)
        padded.fill(0.0)
        for i in range(kh):
            for j in range(kw):
                top, left = i * self.dilation[0], j * self.dilation[1]
                part = padded[:, :, top : top + oh * self.stride[0] : self.stride[0], left : left + ow * self.stride[1] : self.stride[1]]
                np.add(part, patches[..., i, j].transpose(0, 3, 1, 2), part)
        np.copyto(out, padded[_interior(self.padding, self.image[2:])])

    def channels_last(self, y: Array, rows: Array) -> None:
        n, c, h, w = self.output
        np.copyto(rows.reshape(n, h, w, c), y.transpose(0, 2, 3, 1))


def _conv2d(value: Value, n: int, randomness: Randomness) -> Kernel:
    x_value, w_value = value.operands
    c = _Convolution(value, n, x_value, w_value, value)

    def conv2d(x: Array, w: Array, out: Array, padded: Array, columns: Array, rows: Array) -> None:
        c.gather(x, padded, columns)
        flat = w.reshape(w.shape[0], -1)
        if c.groups == 1:
            np.matmul(columns, flat.T, rows)
        else:
            for o, k in zip(c.outputs, c.columns, strict=True):
                np.matmul(columns[:, k], flat[o].T, rows[:, o])
        batch, channels, high, wide = c.output
        np.copyto(out, rows.reshape(batch, high, wide, channels).transpose(0, 3, 1, 2))

    return conv2d


def _conv2d_input_gradient(value: Value, n: int, randomness: Randomness) -> Kernel:
    g_value, w_value = value.operands
    c = _Convolution(value, n, value, w_value, g_value)

    def input_gradient(g: Array, w: Array, out: Array, padded: Array, columns: Array, rows: Array) -> None:
        c.channels_last(g, rows)
        flat = w.reshape(w.shape[0], -1)
        if c.groups == 1:
            np.matmul(rows, flat, columns)
        else:
            for o, k in zip(c.outputs, c.columns, strict=True):
                np.matmul(rows[:, o], flat[o], columns[:, k])
        c.scatter(columns, padded, out)

    return input_gradient


def _conv2d_weight_gradient(value: Value, n: int, randomness: Randomness) -> Kernel:
    x_value, g_value = value.operands
    c = _Convolution(value, n, x_value, value, g_value)

    def weight_gradient(x: Array, g: Array, out: Array, padded: Array, columns: Array, rows: Array, flat: Array) -> None:
        c.gather(x, padded, columns)
        c.channels_last(g, rows)
        if c.groups == 1:
            np.matmul(rows.T, columns, flat)
        else:
            for o, k in zip(c.outputs, c.columns, strict=True):
                np.matmul(rows[:, o].T, columns[:, k], flat[o])
        np.copyto(out, flat.reshape(out.shape))

    return weight_gradient


# Pooling: one strided view of the padded image for each place of the window


def _places(value: Value, n: int, output: Value) -> list[tuple[slice, ...]]:
    window, stride = value.attributes["window"], value.attributes["stride"]
    _, _, oh, ow = concrete(output.shape, n)
    return [
        (slice(None), slice(None), slice(i, i + oh * stride[0], stride[0]), slice(j, j + ow * stride[1], stride[1]))
        for i in range(window[0])
        for j in range(window[1])
    ]


def _max_pool(value: Value, n: int, randomness: Randomness) -> Kernel:
    places = _places(value, n, value)
    pad = _padder(value.attributes["padding"], -np.inf)

    def max_pool(x: Array, out: Array, padded: Array) -> None:
        x = pad(x, padded)
        np.copyto(out, x[places[0]])
        for place in places[1:]:
            np.maximum(out, x[place], out=out)

    return max_pool


def _each_maximum(value: Value, n: int) -> Callable[[Array, Array, Array, Array, Array], Any]:
    """Go through the window's places with a mask of where the first maximum stands."""
    places = _places(value, n, value.operands[1])
    pad = _padder(value.attributes["padding"], -np.inf)

    def walk(x: Array, top: Array, padded: Array, free: Array, hit: Array) -> Any:
        x = pad(x, padded)
        free.fill(True)
        for place in places:
            np.equal(x[place], top, hit)
            np.logical_and(hit, free, hit)
            np.greater(free, hit, free)
            yield place

    return walk


def _max_pool_gradient(value: Value, n: int, randomness: Randomness) -> Kernel:
    walk = _each_maximum(value, n)
    inside = _interior(value.attributes["padding"], concrete(value.shape, n)[2:])

    def gradient(x: Array, top: Array, g: Array, out: Array, padded: Array, spread: Array, free: Array, hit: Array) -> None:
        spread.fill(0.0)
        for place in walk(x, top, padded, free, hit):
            part = spread[place]
            np.add(part, g, part, where=hit)
        np.copyto(out, spread[inside])

    return gradient


def _max_pool_gather(value: Value, n: int, randomness: Randomness) -> Kernel:
    walk = _each_maximum(value, n)
    pad = _padder(value.attributes["padding"], 0.0)

    def gather(x: Array, top: Array, g: Array, out: Array, padded: Array, spread: Array, free: Array, hit: Array) -> None:
        source = pad(g, spread)
        for place in walk(x, top, padded, free, hit):
            np.copyto(out, source[place], where=hit)

    return gather


def _inverse_counts(value: Value, n: int, image: Value, output: Value) -> Array:
    """1 / the number of elements of each window that are no padding."""
    (top, bottom), (left, right) = value.attributes["padding"]
    _, _, h, w = concrete(image.shape, n)
    inside = np.zeros((1, 1, h + top + bottom, w + left + right), value.dtype)
    inside[:, :, top : top + h, left : left + w] = 1
    counts = sum(inside[place] for place in _places(value, n, output))
    return 1 / np.asarray(counts, value.dtype)


def _avg_pool(value: Value, n: int, randomness: Randomness) -> Kernel:
    places = _places(value, n, value)
    pad = _padder(value.attributes["padding"], 0.0)
    inverse = _inverse_counts(value, n, value.operands[0], value)

    def avg_pool(x: Array, out: Array, padded: Array) -> None:
        x = pad(x, padded)
        np.copyto(out, x[places[0]])
        for place in places[1:]:
            np.add(out, x[place], out)
        np.multiply(out, inverse, out)

    return avg_pool


def _avg_pool_gradient(value: Value, n: int, randomness: Randomness) -> Kernel:
    places = _places(value, n, value.operands[0])
    inverse = _inverse_counts(value, n, value, value.operands[0])
    inside = _interior(value.attributes["padding"], concrete(value.shape, n)[2:])

    def gradient(g: Array, out: Array, padded: Array, scaled: Array) -> None:
        np.multiply(g, inverse, scaled)
        padded.fill(0.0)
        for place in places:
            part = padded[place]
            np.add(part, scaled, part)
        np.copyto(out, padded[inside])

    return gradient


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
        flat = x.reshape(-1).tolist()
        out.reshape(-1)[...] = [table.get(v, default) for v in flat]

    return lookup


def _bernoulli(value: Value, n: int, randomness: Randomness) -> Kernel:
    """16 random bits an element: the probability is met to 2^-16."""
    stream = stream_of(value.attributes["stream"])
    threshold = np.uint16(min(65535, round(value.attributes["probability"] * 65536)))
    size = value.type.size(n)

    def bernoulli(like: Array, out: Array) -> None:
        bits = randomness.words(stream, -(-size // 4)).view(np.uint16)[:size]
        np.less(bits.reshape(out.shape), threshold, out, casting="unsafe")

    return bernoulli


def _normal(value: Value, n: int, randomness: Randomness) -> Kernel:
    stream = stream_of(value.attributes["stream"])
    return lambda like, out: randomness.normal(stream, out)


def _gather(value: Value, n: int, randomness: Randomness) -> Kernel:
    layer = value.origin

    def gather(table: Array, index: Array, out: Array) -> None:
        if index.size and (index.max() >= len(table) or index.min() < 0):
            outside = index.max() if index.max() >= len(table) else index.min()
            findings = Findings(Source("", ""))
            findings.add("E515", None, f"the table has {len(table)} rows", help="give the table a row more than there are categories, for what training has not seen",
                         layer=layer, index=int(outside))  # fmt: skip
            findings.stop_on_errors()
        table.take(index, 0, out, "clip")

    return gather


def _scatter_add(g: Array, index: Array, out: Array) -> None:
    """Rows of one index lie together after a stable sort, so that each sum is one reduction."""
    flat = index.reshape(-1)
    rows = g.reshape(flat.size, -1)
    order = flat.argsort(kind="stable")
    sorted_index = flat[order]
    starts = np.flatnonzero(np.concatenate(([True], sorted_index[1:] != sorted_index[:-1])))
    out.fill(0.0)
    out.reshape(len(out), -1)[sorted_index[starts]] = np.add.reduceat(rows[order], starts, axis=0)


KERNELS: dict[str, Callable[[Value, int, Randomness], Kernel]] = {
    "negative": _ufunc(np.negative),
    "exp": _ufunc(np.exp),
    "log": _ufunc(np.log),
    "log1p": _ufunc(np.log1p),
    "expm1": _ufunc(np.expm1),
    "sqrt": _ufunc(np.sqrt),
    "tanh": _ufunc(np.tanh),
    "sigmoid": _ufunc(_sigmoid),
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
    "where": _ufunc(_where),
    "cast": _ufunc(_copy),
    "reduce_sum": _reduce(np.add),
    "reduce_max": _reduce(np.maximum),
    "dot": _ufunc(_dot),
    "argmax": _argmax,
    "matmul": _matmul,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "conv2d": _conv2d,
    "conv2d_input_gradient": _conv2d_input_gradient,
    "conv2d_weight_gradient": _conv2d_weight_gradient,
    "max_pool": _max_pool,
    "max_pool_gradient": _max_pool_gradient,
    "max_pool_gather": _max_pool_gather,
    "avg_pool": _avg_pool,
    "avg_pool_gradient": _avg_pool_gradient,
    "reshape": _ufunc(lambda x, out: np.copyto(out, x.reshape(out.shape))),
    "pad": _pad,
    "concat": _concat,
    "pack": _pack,
    "one_hot": _one_hot,
    "pick": _pick,
    "lookup": _lookup,
    "recurrent": lambda value, n, randomness: recurrent.kernel(value),
    "gather": _gather,
    "scatter_add": _ufunc(_scatter_add),
    "bernoulli": _bernoulli,
    "normal": _normal,
}


def view(value: Value, n: int, source: Array) -> Array:
    """A view primitive on an array."""
    a = value.attributes
    match value.op:
        case "reshape":
            return source.reshape(concrete(value.shape, n))
        case "transpose":
            return source.transpose(a["order"])
        case "broadcast_to":
            return np.broadcast_to(source, concrete(value.shape, n))
        case "slice":
            return source[(slice(None),) * a["axis"] + (slice(a["start"], a["stop"]),)]
        case "part":
            shape = concrete(value.shape, n)
            return source[a["start"] : a["start"] + int(np.prod(shape, dtype=np.int64))].reshape(shape)
        case "surrogate":
            return source
    raise AssertionError(f"{value.op} is no view")
