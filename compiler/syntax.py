"""The abstract syntax of a .nn file. Every node is frozen and knows its span.

Chains of arithmetic and of pipes are flat, so that a long line costs no recursion; only brackets nest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .source import Span

RESERVED = frozenset(("let", "data", "train", "tune", "export", "network", "block", "shared", "return", "in", "true", "false"))


@dataclass(frozen=True, slots=True)
class Identifier:
    """A name that a statement introduces."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Number:
    value: int | float
    span: Span


@dataclass(frozen=True, slots=True)
class Text:
    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class Boolean:
    value: bool
    span: Span


@dataclass(frozen=True, slots=True)
class List:
    items: tuple[Expression, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Name:
    """`relu`, or dotted: `val.loss`."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Argument:
    name: Identifier | None
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Call:
    name: Name
    arguments: tuple[Argument, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Negative:
    operand: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Chain:
    """`first op operand op operand ...`, operators of one precedence, evaluated from the left."""

    first: Expression
    rest: tuple[tuple[str, Expression], ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Pipe:
    """`first -> stage -> stage`: each stage takes what stands left of it as its first argument."""

    first: Expression
    stages: tuple[Name | Call, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Broken:
    """A value that could not be read and was reported: what depends on it stays silent."""

    span: Span


Expression = Broken | Number | Text | Boolean | List | Name | Call | Negative | Chain | Pipe


@dataclass(frozen=True, slots=True)
class Assignment:
    names: tuple[Identifier, ...]
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Result:
    """One output of a network or block; without a name it is called `output`."""

    name: Identifier | None
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Return:
    results: tuple[Result, ...]
    span: Span


Statement = Assignment | Return


@dataclass(frozen=True, slots=True)
class Let:
    name: Identifier
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Parameter:
    name: Identifier
    default: Expression | None


@dataclass(frozen=True, slots=True)
class Block:
    name: Identifier
    shared: bool
    parameters: tuple[Parameter, ...]
    body: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Type:
    """`float32[1, 28, 28]`; without brackets a scalar per sample."""

    dtype: Identifier
    dims: tuple[Expression, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Input:
    name: Identifier
    type: Type


@dataclass(frozen=True, slots=True)
class Network:
    name: Identifier | None
    inputs: tuple[Input, ...]
    body: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Entry:
    """`key = value` of a section."""

    name: Identifier
    value: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Choice:
    """`name in domain` of a tune section."""

    name: Identifier
    domain: Expression
    span: Span


@dataclass(frozen=True, slots=True)
class Section:
    """`data`, `train`, `tune` or `export`; `keyword` is the word with its place."""

    keyword: Identifier
    entries: tuple[Entry | Choice, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class File:
    lets: tuple[Let, ...]
    blocks: tuple[Block, ...]
    networks: tuple[Network, ...]
    sections: tuple[Section, ...]
    mentions: Mapping[str, int] = field(default_factory=dict)  # how often each name stands in the text
    broken: frozenset[str] = frozenset()  # names of items that could not be read
