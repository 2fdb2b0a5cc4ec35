"""What a network costs: floating-point operations and bytes, by layer, before anything runs."""

from __future__ import annotations

from math import prod

from .experiment import Ref
from .ir import Shape, Value, concrete, dims
from .program import Program
from .record import record


@record
class LayerCost:
    """One layer for one sample; `path` is what its parameters are called by."""

    path: str
    operation: str
    output: str
    parameters: int
    flops: int


@record
class Cost:
    """Totals of one network; bytes are of the arrays that a step, or a prediction, of the given batch keeps at once.

    An ensemble trains `members` of them, one after another, and predicts with all.
    """

    layers: tuple[LayerCost, ...]
    parameters: int
    flops: int
    batch: int
    parameter_bytes: int
    training_bytes: int | None
    inference_bytes: int
    members: int


def flops(value: Value, n: int = 1) -> int:
    """Multiplications and additions of one value at batch size n; moving elements costs none."""
    size = prod(concrete(value.shape, n))
    match value.op:
        case "matmul":
            a = value.operands[0]
            inner: int = concrete(a.shape, n)[-2 if value.attributes["transpose_a"] else -1]
            return 2 * size * inner
        case "conv2d":
            return 2 * size * prod(concrete(value.operands[1].shape[1:], n))
        case "max_pool" | "avg_pool":
            window: tuple[int, int] = value.attributes["window"]
            return size * prod(window)
        case "reduce_sum" | "reduce_max" | "dot" | "argmax":
            return prod(concrete(value.operands[0].shape, n))
        case "softmax" | "log_softmax":
            return 4 * size
    return size if value.primitive.elementwise and value.op != "cast" else 0


def training_samples(program: Program) -> int | None:
    """About how many samples the training split holds; None where only the whole source tells."""
    data = program.experiment.data
    if data is None or data.schema.rows is None:
        return None
    window = next((name.window for name in data.names.values() if name.window is not None), None)
    samples = data.schema.rows if window is None else max(0, (data.schema.rows - window.offset - window.length) // window.stride + 1)
    share = getattr(data.split.params, "train", 1.0) if data.split is not None else 1.0
    if program.experiment.folds is not None:
        p = program.experiment.folds.params
        share = (1 - p.test) * (p.folds - 1) / p.folds
    return round(samples * share) if isinstance(share, float | int) else samples


def _shown(shape: Shape) -> str:
    return dims(shape[1:]) if len(shape) > 1 else "scalar"


def cost(program: Program, fast: bool = False) -> Cost:
    """The cost of a checked program; training bytes, on NumPy's engine or the fast one, are None without a train section."""
    network, forward = program.experiment.network, program.inference
    by_path: dict[str, int] = {}
    for value in program.inference_graph.order():
        by_path[value.origin] = by_path.get(value.origin, 0) + flops(value)
    layers, counted = [], set()
    for index, application in enumerate(network.applications):
        path = application.path
        own = [p for p in forward.parameters.values() if p.name.rpartition("/")[0] == path and p.name not in counted]
        counted |= {p.name for p in own}
        result = forward.results[Ref(index)]
        assert result is not None
        count = sum(prod(p.shape) for p in own)
        layers.append(LayerCost(path, application.bound.name, _shown(result.shape), count, by_path.pop(path, 0)))
    parameters = sum(prod(p.shape) for p in forward.parameters.values())
    total = sum(flops(v) for v in program.inference_graph.order())
    batch = program.batch
    training = program.training_bytes(batch, fast) if program.train is not None else None
    return Cost(tuple(layers), parameters, total, batch, program.parameter_bytes, training, program.inference_bytes(batch), program.experiment.members)
