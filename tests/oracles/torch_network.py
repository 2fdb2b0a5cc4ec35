"""What a random network means, said by torch: its statements, blocks and objective are read again from what was drawn, not from nnc's graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from drawn import ARITHMETIC, Block, Drawn, Stage, Statement, Use
from networks import Word
from torch import Tensor

from .torch_reference import LAYERS, LOSSES, Parameters, under

# The parts of a split are two tensors here; the layers that draw noise do nothing in inference.
INFERENCE = {
    "dropout": lambda p, x, rate, scaling="inverted": x * (1 - rate) if scaling == "inference" else x,
    "spatial_dropout": lambda p, x, rate: x,
    "gaussian_noise": lambda p, x, std: x,
}


def split(p: Parameters, x: Tensor, parts: Any, axis: int) -> tuple[Tensor, ...]:
    return x.split(list(parts) if isinstance(parts, tuple) else x.shape[axis + 1] // parts, axis + 1)


@dataclass
class Place:
    """A path, and how often each word has stood there."""

    path: str
    counts: dict[str, int] = field(default_factory=dict)

    def name(self, word: str) -> str:
        count = self.counts[word] = self.counts.get(word, 0) + 1
        return f"{self.path}/{word}" if count == 1 else f"{self.path}/{word}_{count}"


class Network:
    """One run of a drawn network. `closest` is how near a step came to its threshold, `own` the penalties of layers by their paths."""

    def __init__(self, drawn: Drawn, parameters: Parameters, *, training: bool):
        self.drawn, self.parameters, self.training = drawn, parameters, training
        self.blocks = {block.name: block for block in drawn.blocks}
        self.closest = float("inf")
        self.own: dict[str, Word] = {}

    def outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scope: dict[str, Any] = dict(inputs)
        for statement in self.drawn.body:
            self._statement(statement, scope, statement.names[0])
        for result in self.drawn.results:
            self._statement(result, scope, result.names[0])
        return {result.names[0]: scope[result.names[0]] for result in self.drawn.results}

    def _statement(self, statement: Statement, scope: dict[str, Any], path: str) -> None:
        operands = [scope[name] for name in statement.operands]
        if statement.pattern:
            scope[statement.names[0]] = ARITHMETIC[statement.pattern](*operands)
            return
        (value,), place = operands, Place(path)
        for stage in statement.stages:
            for _ in range(stage.times or 1):
                value = self._stage(stage, value, scope, place)
        scope.update(zip(statement.names, value if isinstance(value, tuple) else (value,), strict=True))

    def _stage(self, stage: Stage, x: Tensor, scope: Mapping[str, Any], place: Place) -> Any:
        layer = scope[stage.layer.name] if isinstance(stage.layer, Use) else stage.layer
        given = {name: scope[value.name] if isinstance(value, Use) else value for name, value in layer.arguments.items()}
        path = place.name(layer.word)
        if layer.word in self.blocks:
            return self._block(self.blocks[layer.word], x, given, path)
        if layer.word == "split":
            return split({}, x, **given)
        if layer.word == "step":
            self.closest = min(self.closest, float(x.detach().abs().min()))
        if "penalty" in given:
            self.own[path] = given.pop("penalty")
        more = {"training": self.training} if layer.word == "batch_norm" else {}
        function = INFERENCE.get(layer.word) if not self.training else None
        return (function or LAYERS[layer.word])(under(path, self.parameters), x, *(scope[name] for name in stage.others), **given, **more)

    def _block(self, block: Block, x: Tensor, given: Mapping[str, Any], path: str) -> Tensor:
        scope = {"v": x, **block.parameters, **given}
        start = block.name if block.shared else path
        for statement in block.body:
            self._statement(statement, scope, f"{start}/{statement.names[0]}")
        found: Tensor = scope[block.body[-1].names[0]]
        return found


def loss(drawn: Drawn, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """The weighted sum of the losses."""
    total = torch.zeros((), dtype=torch.float64)
    for term in drawn.loss:
        target = batch[f"{term.output}_target"]
        if term.target != "classes" and not target.is_floating_point():
            target = target.double()
        total = total + term.weight * LOSSES[term.loss.word](outputs[term.output], target, **term.loss.arguments)
    return total


def norm(penalty: Word, w: Tensor) -> Tensor:
    """lambda sum |w|, lambda/2 sum w^2, lambda/m sum |w|^m, each with its scale."""
    factor = penalty.arguments["strength"] * penalty.arguments.get("scale", 1.0)
    if penalty.word == "lm":
        m = penalty.arguments["m"]
        return factor / m * w.abs().pow(m).sum()
    return factor * w.abs().sum() if penalty.word == "l1" else factor / 2 * w.square().sum()


def penalties(network: Network) -> Tensor:
    """On every weight (weight, W, R, the four of attention): the layer's own penalty, else the train section's. After a run."""
    total = torch.zeros((), dtype=torch.float64)
    for name, w in network.parameters.items():
        path, _, role = name.rpartition("/")
        if role not in ("W", "R") and not role.endswith("weight"):
            continue
        if path in network.own:
            total = total + norm(network.own[path], w)
        else:
            for penalty in network.drawn.penalty:
                total = total + penalty.weight * norm(penalty.term, w)
    return total
