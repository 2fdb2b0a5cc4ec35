"""Random networks as data: written as a spec by `text`, interpreted by oracles/torch_network.py; drawing.py draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from networks import Array, Shape, Word, spec


@dataclass(frozen=True)
class Use:
    """A parameter of the block around it, as an argument or as a layer."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Stage:
    """One call of a pipe: a layer, a block, or a block's parameter; the tensors beside the piped one; how often it is repeated."""

    layer: Word | Use
    others: tuple[str, ...] = ()
    times: int = 0

    def __str__(self) -> str:
        called = self.layer.call(*self.others) if isinstance(self.layer, Word) else str(self.layer)
        return f"repeat({self.times}, {called})" if self.times else called


@dataclass(frozen=True)
class Statement:
    """`names = first -> stage -> ...`; or arithmetic, `names = <pattern of the operands>`."""

    names: tuple[str, ...]
    operands: tuple[str, ...]
    stages: tuple[Stage, ...] = ()
    pattern: str = ""

    @property
    def value(self) -> str:
        if self.pattern:
            return self.pattern.format(*self.operands)
        return " -> ".join((*self.operands, *map(str, self.stages)))

    def __str__(self) -> str:
        return f"{', '.join(self.names)} = {self.value}"


# What the patterns of arithmetic mean
ARITHMETIC: dict[str, Callable[..., Any]] = {
    "{0} + {1}": lambda a, b: a + b,
    "{0} - {1}": lambda a, b: a - b,
    "{0} * {1}": lambda a, b: a * b,
    "{0} * 0.5 - 1": lambda a: a * 0.5 - 1,
    "1 - {0}": lambda a: 1 - a,
    "-{0}": lambda a: -a,
    "{0} / 4": lambda a: a / 4,
    "{0} * {0} + 1": lambda a: a * a + 1,
    "2 / ({0} * {0} + 1)": lambda a: 2 / (a * a + 1),
}


@dataclass(frozen=True)
class Block:
    name: str
    shared: bool
    parameters: Mapping[str, Any]  # with their defaults, words or numbers
    body: tuple[Statement, ...]  # the last one is the return
    takes: Shape
    gives: Shape

    def __str__(self) -> str:
        given = ", ".join(("v", *(f"{name} = {value}" for name, value in self.parameters.items())))
        lines = [f"  {statement}" for statement in self.body[:-1]]
        return "\n".join([f"{'shared ' * self.shared}block {self.name}({given}) {{", *lines, f"  return {self.body[-1]}", "}\n"])


@dataclass(frozen=True)
class Input:
    name: str
    shape: Shape
    vocabulary: int = 0  # above 0 it holds indices below it

    def __str__(self) -> str:
        dims = f"[{', '.join(map(str, self.shape))}]" if self.shape else ""
        return f"{self.name}: {'int64' if self.vocabulary else 'float32'}{dims}"

    def rows(self, n: int, random: np.random.Generator) -> Array:
        if self.vocabulary:
            return random.integers(0, self.vocabulary, (n, *self.shape))
        return random.normal(size=(n, *self.shape))


@dataclass(frozen=True)
class Term:
    """A weighted loss of an output; the target is drawn as `target` says."""

    weight: float
    loss: Word
    output: str
    target: str
    shape: Shape

    def __str__(self) -> str:
        return f"{self.weight:g} * {self.loss.call(self.output, f'{self.output}_target')}"

    def rows(self, n: int, random: np.random.Generator) -> Array:
        shape = (n, *self.shape)
        match self.target:
            case "numbers":
                return random.normal(size=shape)
            case "counts":
                return random.integers(0, 5, shape).astype(np.float64)
            case "bits":
                return random.integers(0, 2, shape).astype(np.float64)
            case "parts":
                return random.uniform(0.05, 0.95, shape)
            case "shares":
                return random.dirichlet(np.ones(shape[-1]), shape[:-1])
        assert self.target == "classes"
        return random.integers(0, shape[-1], shape[:-1])


@dataclass(frozen=True)
class Penalty:
    weight: float
    term: Word

    def __str__(self) -> str:
        return f"{self.weight:g} * {self.term}"


def written_sum(terms: tuple[Any, ...]) -> str:
    return " + ".join(map(str, terms))


@dataclass(frozen=True)
class Drawn:
    """A random network with its objective."""

    inputs: tuple[Input, ...]
    blocks: tuple[Block, ...]
    body: tuple[Statement, ...]
    results: tuple[Statement, ...]
    loss: tuple[Term, ...]
    penalty: tuple[Penalty, ...]
    noisy: bool = False
    opset: int = 18

    @property
    def text(self) -> str:
        body = "\n".join(f"  {statement}" for statement in self.body)
        keys = {"penalty": written_sum(self.penalty)} if self.penalty else {}
        whole = spec(
            f"{body}\n  return {', '.join(map(str, self.results))}",
            inputs=", ".join(map(str, self.inputs)), loss=written_sum(self.loss), **keys,
        )  # fmt: skip
        return "".join(map(str, self.blocks)) + whole + f"export {{ opset = {self.opset} }}\n"

    def layers(self) -> Iterator[Word]:
        """Every layer that is applied somewhere, with its arguments as written."""
        for statement in (*self.body, *self.results, *(s for block in self.blocks for s in block.body)):
            for stage in statement.stages:
                if isinstance(stage.layer, Word):
                    yield stage.layer
                    yield from (v for v in stage.layer.arguments.values() if isinstance(v, Word) and v.word not in PENALTIES)
        yield from (v for block in self.blocks for v in block.parameters.values() if isinstance(v, Word))

    @property
    def jumps(self) -> bool:
        """Whether a slope is not that of the value."""
        return any(layer.word == "step" for layer in self.layers())

    def rows(self, n: int, seed: int) -> dict[str, Array]:
        random = np.random.default_rng(seed)
        return {given.name: given.rows(n, random) for given in self.inputs}

    def batch(self, n: int, seed: int) -> dict[str, Array]:
        random = np.random.default_rng([seed, 1])
        return self.rows(n, seed) | {f"{term.output}_target": term.rows(n, random) for term in self.loss}


PENALTIES = ("l1", "l2", "lm")
