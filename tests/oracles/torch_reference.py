"""What layers, losses and optimisers mean, said by torch in float64. Arguments have the names of the language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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


LAYERS: dict[str, Callable[..., Tensor]] = {
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


def cross_entropy(a: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """torch wants classes on axis 1, and gives the logarithm of its softmax: of ln a, that is ln a itself."""
    log_a = torch.log(a).movedim(-1, 1)
    target = y if y.dtype == torch.int64 else y.movedim(-1, 1)
    return F.cross_entropy(log_a, target, label_smoothing=smoothing)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "quadratic": lambda a, y: _sum(F.mse_loss(a, y, reduction="none")) / 2,
    "mse": lambda a, y: F.mse_loss(a, y),
    "mae": lambda a, y: F.l1_loss(a, y),
    "huber": lambda a, y, delta=1.0: _sum(F.huber_loss(a, y, reduction="none", delta=delta)),
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": lambda a, y: _sum(F.binary_cross_entropy(a, y, reduction="none")),
}


def tensors(arrays: Mapping[str, Any]) -> Parameters:
    """Copies of parameters as leaves."""
    found = {}
    for name, array in arrays.items():
        found[name] = torch.tensor(np.asarray(array), dtype=torch.float64, requires_grad="running_" not in name)
    return found


def under(path: str, parameters: Parameters) -> Parameters:
    """The parameters at a path, by role."""
    return {name.removeprefix(path + "/"): p for name, p in parameters.items() if name.startswith(path + "/")}


def run(nodes: Any, x: Tensor, parameters: Parameters, training: bool = True) -> Tensor:
    """The last tensor of a random network."""
    results = [x]
    for index, node in enumerate(nodes, 1):
        more = {"training": training} if node.layer.word == "batch_norm" else {}
        operands = [results[i] for i in node.operands]
        results.append(
            LAYERS[node.layer.word](under(node.path(index), parameters), *operands, **node.layer.arguments, **more)
        )
    return results[-1]


def tensor(array: Any) -> Tensor:
    """An array as float64, or as it is where it holds integers."""
    array = np.asarray(array)
    return torch.tensor(array if array.dtype.kind == "i" else array.astype(np.float64))
