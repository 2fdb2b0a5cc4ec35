"""What layers, losses and optimisers mean, said by torch in float64. Arguments have the names of the language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from networks import is_fixed
from torch import Tensor

Parameters = dict[str, Tensor]
Pair = tuple[int, int]


def pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else tuple(value)


def padded(x: Tensor, padding: Any, window: Pair, stride: Pair, dilation: Pair, fill: float) -> Tensor:
    """The image with explicit edges; `same` as TensorFlow and ONNX's SAME_UPPER have it, the odd element after."""
    if padding == "valid":
        return x
    if padding != "same":
        high, wide = pair(padding)
        return F.pad(x, (wide, wide, high, high), value=fill)
    edges: list[int] = []
    for axis in (1, 0):
        size = x.shape[2 + axis]
        missing = max(0, (-(-size // stride[axis]) - 1) * stride[axis] + dilation[axis] * (window[axis] - 1) + 1 - size)
        edges += [missing // 2, missing - missing // 2]
    return F.pad(x, tuple(edges), value=fill)


def dense(p: Parameters, x: Tensor, units: int, bias: bool = True, **_: Any) -> Tensor:
    return F.linear(x, p["weight"].T, p["bias"] if bias else None)


def conv2d(
    p: Parameters,
    x: Tensor,
    channels: int,
    kernel: Any,
    stride: Any = 1,
    padding: Any = "valid",
    dilation: Any = 1,
    groups: int = 1,
    bias: bool = True,
) -> Tensor:
    stride, dilation = pair(stride), pair(dilation)
    x = padded(x, padding, pair(kernel), stride, dilation, 0.0)
    return F.conv2d(x, p["weight"], p["bias"] if bias else None, stride, 0, dilation, groups)


def max_pool(p: Parameters, x: Tensor, window: Any, stride: Any = None, padding: Any = "valid") -> Tensor:
    window = pair(window)
    stride = window if stride is None else pair(stride)
    return F.max_pool2d(padded(x, padding, window, stride, (1, 1), -torch.inf), window, stride)


def avg_pool(p: Parameters, x: Tensor, window: Any, stride: Any = None, padding: Any = "valid") -> Tensor:
    window = pair(window)
    stride = window if stride is None else pair(stride)
    total, count = (
        F.avg_pool2d(padded(t, padding, window, stride, (1, 1), 0.0), window, stride) for t in (x, torch.ones_like(x))
    )
    return total / count


def batch_norm(p: Parameters, x: Tensor, momentum: float = 0.9, epsilon: float = 1e-5, training: bool = True) -> Tensor:
    """torch keeps the unbiased variance; the running statistics here follow ONNX's rule, the biased one."""
    images = x.ndim == 4
    moved = x if images else x.reshape(-1, x.shape[-1])
    mean, var = p["running_mean"], p["running_var"]
    if not training:
        return F.batch_norm(moved, mean, var, p["scale"], p["bias"], False, 0.0, epsilon).reshape(x.shape)
    axes = (0, 2, 3) if images else (0,)
    with torch.no_grad():
        mean.lerp_(moved.mean(axes), 1 - momentum)
        var.lerp_(moved.var(axes, correction=0), 1 - momentum)
    return F.batch_norm(moved, None, None, p["scale"], p["bias"], True, 0.0, epsilon).reshape(x.shape)


class Surrogate(torch.autograd.Function):
    """A step forward, the slope of something smooth backward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, kind: str, at_zero: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.kind = kind
        return torch.heaviside(z, torch.tensor(at_zero, dtype=z.dtype))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (z,) = ctx.saved_tensors
        if ctx.kind == "identity":
            return g, None, None
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(torch.sigmoid(z).sum(), z)
        return g * slope, None, None


def _swish(p: Parameters, z: Tensor, beta: float = 1.0) -> Tensor:
    return F.silu(z * beta) / beta


def prelu(p: Parameters, z: Tensor, init: float = 0.25, form: str = "piecewise") -> Tensor:
    """torch has channels on axis 1, and the first form alone."""
    slope = p["slope"]
    if form == "max":
        return torch.maximum(z, z * (slope[:, None, None] if z.ndim == 4 else slope))
    return F.prelu(z, slope) if z.ndim == 4 else F.prelu(z.movedim(-1, 1), slope).movedim(1, -1)


def maxout(p: Parameters, x: Tensor, units: int, pieces: int = 2, bias: bool = True) -> Tensor:
    found = [F.linear(x, p["weight"][k].T, p["bias"][k] if bias else None) for k in range(pieces)]
    return torch.stack(found).amax(0)


def radial(p: Parameters, x: Tensor, units: int, beta: float = 1.0) -> Tensor:
    return torch.exp(-(torch.linalg.vector_norm(x[..., None, :] - p["center"], dim=-1) ** 2) * p["beta"])


def sparse_dense(p: Parameters, x: Tensor, units: int, density: float = 0.1, seed: int = 0, bias: bool = True) -> Tensor:
    return F.linear(x, (p["weight"] * p["mask"]).T, p["bias"] if bias else None)


def layer_norm(p: Parameters, x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """torch's weights have the shape of all axes that are normalised; here those of channels."""
    if x.ndim == 4:
        return F.layer_norm(x, x.shape[1:], eps=epsilon) * p["scale"][:, None, None] + p["bias"][:, None, None]
    return F.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], epsilon)


def group_norm(p: Parameters, x: Tensor, groups: int, epsilon: float = 1e-5) -> Tensor:
    first = x if x.ndim == 4 else x.movedim(-1, 1)
    found = F.group_norm(first, groups, p["scale"], p["bias"], epsilon)
    return found if x.ndim == 4 else found.movedim(1, -1)


def attention(p: Parameters, x: Tensor, heads: int = 1, causal: bool = False) -> Tensor:
    """torch's multi-head attention wants the weights of query, key and value in one array, and steps first."""
    size = x.shape[-1]
    weight = torch.cat([p[f"{name}_weight"].T for name in ("query", "key", "value")])
    bias = torch.cat([p[f"{name}_bias"] for name in ("query", "key", "value")])
    steps = x.transpose(0, 1)
    hidden = torch.ones(len(steps), len(steps)).triu(1).bool() if causal else None
    found, _ = F.multi_head_attention_forward(
        steps, steps, steps, size, heads, weight, bias, None, None, False, 0.0, p["output_weight"].T, p["output_bias"],
        attn_mask=hidden, need_weights=False,
    )  # fmt: skip
    return found.transpose(0, 1)


def conv1d(
    p: Parameters, x: Tensor, channels: int, kernel: int, stride: int = 1, padding: Any = "valid", dilation: int = 1, groups: int = 1, bias: bool = True
) -> Tensor:
    """torch has features before steps, and `same` without strides alone."""
    edges = (0, 0) if padding == "valid" else (padding, padding)
    if padding == "same":
        missing = max(0, (-(-x.shape[1] // stride) - 1) * stride + dilation * (kernel - 1) + 1 - x.shape[1])
        edges = (missing // 2, missing - missing // 2)
    image = F.pad(x.transpose(1, 2), edges)
    return F.conv1d(image, p["weight"], p["bias"] if bias else None, stride, 0, dilation, groups).transpose(1, 2)


def conv2d_transpose(
    p: Parameters, x: Tensor, channels: int, kernel: Any, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    dilation: Any = 1, groups: int = 1, bias: bool = True,
) -> Tensor:  # fmt: skip
    return F.conv_transpose2d(x, p["weight"], p["bias"] if bias else None, pair(stride), pair(padding), pair(output_padding), groups, pair(dilation))


def depthwise_conv2d(p: Parameters, x: Tensor, kernel: Any, multiplier: int = 1, **more: Any) -> Tensor:
    return conv2d(p, x, x.shape[1] * multiplier, kernel, groups=x.shape[1], **more)


# torch's order of gates, as places in ONNX's: i, f, g, o of iofc; r, z, n of zrh.
GATES = {"rnn": [0], "lstm": [0, 2, 3, 1], "gru": [1, 0, 2]}


def recurrent(kind: str) -> Callable[..., Tensor]:
    def run(
        p: Parameters, x: Tensor, units: int, return_sequences: bool = False, bidirectional: bool = False, activation: str = "tanh"
    ) -> Tensor:
        order = GATES[kind]

        def ordered(w: Tensor) -> Tensor:
            return torch.cat([w[k * units : (k + 1) * units] for k in order])

        weights = []
        for d in range(1 + bidirectional):
            b, bias = p["B"][d], len(order) * units
            weights += [ordered(p["W"][d]), ordered(p["R"][d]), ordered(b[:bias]), ordered(b[bias:])]
        start = x.new_zeros(1 + bidirectional, len(x), units)
        function = getattr(torch, f"rnn_{activation}" if kind == "rnn" else kind)
        states, *last = function(x, (start, start) if kind == "lstm" else start, weights, True, 1, 0.0, False, bidirectional, True)
        return states if return_sequences else torch.cat(list(last[0]), -1)

    return run


LAYERS: dict[str, Callable[..., Tensor]] = {
    "saturated_linear": lambda p, z, low=-1.0, high=1.0: F.hardtanh(z, low, high),
    "gaussian": lambda p, z: torch.exp(-z.square()),
    "prelu": prelu,
    "relu6": lambda p, z: F.relu6(z),
    "selu": lambda p, z: F.selu(z),
    "celu": lambda p, z, alpha=1.0: alpha * F.elu(z / alpha),  # torch.celu divides in float32
    "softplus": lambda p, z: F.softplus(z, threshold=1e9),
    "softsign": lambda p, z: F.softsign(z),
    "mish": lambda p, z: F.mish(z),
    "gelu": lambda p, z, approximate="none": F.gelu(z, approximate=approximate),
    "hard_sigmoid": lambda p, z: F.relu6(z + 3) / 6,  # the slope of torch's own is 1/6 in float32
    "hard_swish": lambda p, z: F.hardswish(z),
    "log_softmax": lambda p, z, axis=-1, temperature=1.0: F.log_softmax(z / temperature, axis if axis < 0 else axis + 1),
    "maxout": maxout,
    "radial": radial,
    "sparse_dense": sparse_dense,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "attention": attention,
    "conv1d": conv1d,
    "conv2d_transpose": conv2d_transpose,
    "depthwise_conv2d": depthwise_conv2d,
    "transpose": lambda p, x, order: x.permute(0, *(axis + 1 for axis in order)),
    "embedding": lambda p, x, vocabulary, size: F.embedding(x, p["weight"]),
    "spatial_dropout": lambda p, x, rate: F.dropout(x, rate, rate > 0),
    "gaussian_noise": lambda p, x, std: x + torch.randn_like(x) * std,
    "rnn": recurrent("rnn"),
    "lstm": recurrent("lstm"),
    "gru": recurrent("gru"),
    "dense": dense,
    "conv2d": conv2d,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "global_max_pool": lambda p, x: F.adaptive_max_pool2d(x, 1).flatten(1),
    "global_avg_pool": lambda p, x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "flatten": lambda p, x: x.flatten(1),
    "reshape": lambda p, x, shape: x.reshape(x.shape[0], *shape),
    "concat": lambda p, *xs, axis=None: torch.cat(
        xs, (axis if axis < 0 else axis + 1) if axis is not None else (1 if xs[0].ndim == 4 else -1)
    ),
    "add": lambda p, *xs: sum(xs),
    "subtract": lambda p, a, b: a - b,
    "multiply": lambda p, *xs: torch.stack(torch.broadcast_tensors(*xs)).prod(0),
    "divide": lambda p, a, b: a / b,
    "batch_norm": batch_norm,
    "dropout": lambda p, x, rate: F.dropout(x, rate, rate > 0),
    "linear": lambda p, z: z,
    "step": lambda p, z, surrogate, at_zero=0.0: Surrogate.apply(z, surrogate, at_zero),
    "sigmoid": lambda p, z: torch.sigmoid(z),
    "tanh": lambda p, z: torch.tanh(z),
    "relu": lambda p, z: F.relu(z),
    "leaky_relu": lambda p, z, slope=0.01: F.leaky_relu(z, slope),
    "elu": lambda p, z, alpha=1.0: F.elu(z, alpha),
    "swish": _swish,
    "softmax": lambda p, z, axis=-1, temperature=1.0: F.softmax(z / temperature, axis if axis < 0 else axis + 1),
}


def _sum(losses: Tensor) -> Tensor:
    """The mean over samples of the sum over a sample."""
    return losses.flatten(1).sum(1).mean() if losses.ndim > 1 else losses.mean()


def distribution(a: Tensor, y: Tensor) -> Tensor:
    return y if y.is_floating_point() else F.one_hot(y, a.shape[-1]).to(a)


def cross_entropy(a: Tensor, y: Tensor, smoothing: float = 0.0, class_weights: Any = None) -> Tensor:
    """torch wants classes on axis 1, and gives the logarithm of its softmax: of ln a, that is ln a itself."""
    log_a = torch.log(a).movedim(-1, 1)
    target = y if y.dtype == torch.int64 else y.movedim(-1, 1)
    weight = None if class_weights is None else a.new_tensor(class_weights)
    return F.cross_entropy(log_a, target, weight, label_smoothing=smoothing, reduction="none").mean()


def binary_cross_entropy(a: Tensor, y: Tensor, positive_weight: float = 1.0, class_weights: Any = None) -> Tensor:
    weight = None if class_weights is None else a.new_tensor(class_weights)[y.long()]
    positive = None if positive_weight == 1 else a.new_tensor(positive_weight)
    return _sum(F.binary_cross_entropy_with_logits(torch.logit(a), y, weight, reduction="none", pos_weight=positive))


LOSSES: dict[str, Callable[..., Tensor]] = {
    "quadratic": lambda a, y: _sum(F.mse_loss(a, y, reduction="none")) / 2,
    "mse": lambda a, y: F.mse_loss(a, y),
    "mae": lambda a, y: F.l1_loss(a, y),
    "huber": lambda a, y, delta=1.0: _sum(F.huber_loss(a, y, reduction="none", delta=delta)),
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "rmse": lambda a, y: F.mse_loss(a, y).sqrt(),
    "absolute": lambda a, y: _sum(F.l1_loss(a, y, reduction="none")),
    "log_cosh": lambda a, y: torch.log(torch.cosh(a - y)).mean(),
    "quantile": lambda a, y, q=0.5: (F.l1_loss(a, y) + ((2 * q - 1) * (y - a)).mean()) / 2,
    "poisson": lambda a, y: F.poisson_nll_loss(a, y, log_input=False, eps=0.0),
    "cosine": lambda a, y: 1 - F.cosine_similarity(a.flatten(1), y.flatten(1)).mean(),
    "hinge": lambda a, y: F.margin_ranking_loss(a, torch.zeros_like(a), 2 * y - 1, margin=1.0),
    "kl_divergence": lambda a, y: F.kl_div(torch.log(a), distribution(a, y), reduction="none").sum(-1).mean(),
    "hellinger": lambda a, y: (torch.linalg.vector_norm(a.sqrt() - distribution(a, y).sqrt(), dim=-1) / 2**0.5).mean(),
    "focal": lambda a, y, gamma=2.0: -(distribution(a, y) * (1 - a) ** gamma * torch.log(a)).sum(-1).mean(),
}


def tensors(arrays: Mapping[str, Any]) -> Parameters:
    """Copies of parameters as leaves."""
    found = {}
    for name, array in arrays.items():
        found[name] = torch.tensor(np.asarray(array), dtype=torch.float64, requires_grad=not is_fixed(name))
    return found


def under(path: str, parameters: Parameters) -> Parameters:
    """The parameters at a path, by role."""
    return {name.removeprefix(path + "/"): p for name, p in parameters.items() if name.startswith(path + "/")}


def tensor(array: Any) -> Tensor:
    """An array as float64, or as it is where it holds integers."""
    array = np.asarray(array)
    return torch.tensor(array if array.dtype.kind == "i" else array.astype(np.float64))
