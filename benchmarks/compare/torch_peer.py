"""PyTorch: eager, with images channels last, and through torch.compile."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from workloads import WORKLOADS, Convolutional, Data, Dense, Recurrent, Tabular, Workload

GATES = [0, 2, 3, 1]  # of ONNX's i, o, f, c where torch has i, f, c, o
ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
LOSSES: dict[type[Workload], Callable[..., Tensor]] = {
    Dense: functional.cross_entropy,
    Convolutional: functional.cross_entropy,
    Tabular: functional.binary_cross_entropy_with_logits,
    Recurrent: functional.mse_loss,
}


def dense_stack(sizes: Sequence[int], between: Any) -> list[nn.Module]:
    """Dense layers, with `between(width)` after each but the last."""
    made: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        made.append(nn.Linear(fan_in, fan_out))
        if i < len(sizes) - 2:
            made += between(fan_out)
    return made


def dense_network(workload: Dense) -> nn.Module:
    def between(width: int) -> list[nn.Module]:
        norm = [nn.BatchNorm1d(width)] if workload.norm else []
        dropout = [nn.Dropout(workload.dropout)] if workload.dropout else []
        return [*norm, ACTIVATIONS[workload.activation](), *dropout]

    return nn.Sequential(*dense_stack(workload.sizes, between))


def convolutional_network(workload: Convolutional) -> nn.Module:
    made: list[nn.Module] = []
    fan_in = workload.shape[0]
    for i, channels in enumerate(workload.channels):
        made.append(nn.Conv2d(fan_in, channels, 3, padding=1 if workload.padded else 0, bias=not workload.norm))
        if workload.norm:
            made.append(nn.BatchNorm2d(channels))
        made.append(nn.ReLU())
        if (i + 1) % workload.pool_every == 0:
            made.append(nn.MaxPool2d(2))
        fan_in = channels
    if workload.averaged:
        made.append(nn.AdaptiveAvgPool2d(1))
    made.append(nn.Flatten())
    return nn.Sequential(*made, *dense_stack((workload.features, *workload.dense), lambda width: [nn.ReLU()]))


class TabularNetwork(nn.Module):
    def __init__(self, workload: Tabular):
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(workload.vocabulary, workload.size) for _ in range(workload.categories))
        joined = workload.categories * workload.size + workload.numbers
        self.head = nn.Sequential(*dense_stack((joined, *workload.sizes), lambda width: [nn.ReLU()]))

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        rows = [embedding(codes[:, i]) for i, embedding in enumerate(self.embeddings)]
        return self.head(torch.cat([*rows, x], 1)).squeeze(1)


class RecurrentNetwork(nn.Module):
    def __init__(self, workload: Recurrent):
        super().__init__()
        self.lstm = nn.LSTM(workload.features, workload.units, batch_first=True)
        self.head = nn.Linear(workload.units, 1)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        return self.head(states[:, -1]).squeeze(1)


def copy_weights(parameters: Mapping[str, Any], network: nn.Module) -> None:
    """Give a network the parameters of nnc's, layer by layer in their order."""
    layers = [{n.rpartition("/")[2]: parameters[n] for n in names} for _, names in groupby(parameters, lambda n: n.rpartition("/")[0])]
    modules = [m for m in network.modules() if any(True for _ in m.parameters(recurse=False))]
    with torch.no_grad():
        for module, own in zip(modules, layers, strict=True):
            for name, array in _torch_names(type(module).__name__, own).items():
                getattr(module, name).copy_(torch.from_numpy(np.ascontiguousarray(array)))


def _torch_names(module: str, own: dict[str, Any]) -> dict[str, Any]:
    if module == "LSTM":
        units = own["R"].shape[2]
        w, r = (own[role].reshape(4, units, -1)[GATES].reshape(4 * units, -1) for role in "WR")
        wb, rb = (half.reshape(4, units)[GATES].reshape(-1) for half in np.split(own["B"][0], 2))
        return {"weight_ih_l0": w, "weight_hh_l0": r, "bias_ih_l0": wb, "bias_hh_l0": rb}
    if module.startswith("BatchNorm"):
        running = {f"running_{name}": own[f"running_{name}"] for name in ("mean", "var")}
        return {"weight": own["scale"], "bias": own["bias"], **running}
    return own | ({"weight": own["weight"].T} if module == "Linear" else {})


def network(workload: Workload) -> nn.Module:
    match workload:
        case Dense():
            return dense_network(workload)
        case Convolutional():
            return convolutional_network(workload)
        case Tabular():
            return TabularNetwork(workload)
        case Recurrent():
            return RecurrentNetwork(workload)
    raise AssertionError(workload)


class Answering(nn.Module):
    """A network with the function that its spec ends with and its loss has inside."""

    def __init__(self, workload: Workload):
        super().__init__()
        self.network = network(workload)
        self.ending = {Tabular: "sigmoid", Recurrent: "none"}.get(type(workload), "softmax")

    def forward(self, *inputs: Tensor) -> Tensor:
        y = self.network(*inputs)
        if self.ending == "softmax":
            return functional.softmax(y, 1)
        return torch.sigmoid(y) if self.ending == "sigmoid" else y


def operands(inputs: Mapping[str, Any]) -> list[Any]:
    """Named arrays as the network takes them: x, and categories beside each other."""
    codes = [array for name, array in inputs.items() if name != "x"]
    return [inputs["x"], *([np.stack(codes, 1)] if codes else [])]


def optimizer(workload: Workload, parameters: Any) -> torch.optim.Optimizer:
    match workload.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, workload.rate, fused=True)
        case "momentum":
            return torch.optim.SGD(parameters, workload.rate, momentum=0.9)
        case "sgd":
            return torch.optim.SGD(parameters, workload.rate)
    raise AssertionError(workload.optimizer)


class TorchTraining:
    def __init__(self, workload: Workload, model: nn.Module, inputs: Sequence[Tensor], label: Tensor, *, compiled: bool = False):
        self.inputs, self.label, self.batch = inputs, label, workload.batch
        loss = LOSSES[type(workload)]

        def objective(label: Tensor, *inputs: Tensor) -> Tensor:
            return loss(model(*inputs), label)

        self.objective = torch.compile(objective) if compiled else objective
        self.optimizer = optimizer(workload, model.parameters())
        self.done = 0

    def step(self, chosen: Tensor) -> float:
        """One update on the chosen rows; the loss before it."""
        loss = self.objective(self.label[chosen], *(x[chosen] for x in self.inputs))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done += 1
        return float(loss.item())

    def epoch(self) -> float:
        batches = torch.randperm(len(self.label)).split(self.batch)
        return sum(self.step(chosen) for chosen in batches) / len(batches)

    def steps(self) -> int:
        return self.done


Held = tuple[list[Tensor], Tensor]


def place(workload: Workload, data: Data, options: frozenset[str], folder: Path) -> Held:
    inputs = [torch.from_numpy(array) for array in (data.x, data.codes) if array is not None]
    if "channels_last" in options:
        inputs[0] = inputs[0].to(memory_format=torch.channels_last)
    return inputs, torch.from_numpy(data.label)


def prepare(workload: Workload, held: Held, options: frozenset[str]) -> TorchTraining:
    model = network(workload)
    if "channels_last" in options:
        model = model.to(memory_format=torch.channels_last)
    return TorchTraining(workload, model, *held, compiled="compile" in options)


if __name__ == "__main__":  # NAME FOLDER: the state_dict of a network with the weights of NAME-weights.npz
    given, folder = WORKLOADS[sys.argv[1]], Path(sys.argv[2])
    answering = Answering(given)
    with np.load(folder / f"{given.name}-weights.npz") as weights:
        copy_weights({name: weights[name] for name in weights.files}, answering.network)
    torch.save(answering.state_dict(), folder / f"{given.name}.pt")
