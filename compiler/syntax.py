"""The abstract syntax of a .nn file. Every node is frozen and knows its span.

Chains of arithmetic and of pipes are flat, so that a long line costs no recursion; only brackets nest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from .record import record
from .source import Span

RESERVED = frozenset(("let", "data", "train", "tune", "export", "network", "block", "shared", "return", "in", "true", "false"))


@record
class Identifier:
    """A name that a statement introduces."""

    text: str
    span: Span


@record
class Number:
    value: int | float
    span: Span


@record
class Text:
    value: str
    span: Span


@record
class Boolean:
    value: bool
    span: Span


@record
class List:
    items: tuple[Expression, ...]
    span: Span


@record
class Name:
    """`relu`, or dotted: `val.loss`."""

    text: str
    span: Span


@record
class Argument:
    name: Identifier | None
    value: Expression
    span: Span


@record
class Call:
    name: Name
    arguments: tuple[Argument, ...]
    span: Span


@record
class Negative:
    operand: Expression
    span: Span


@record
class Chain:
    """`first op operand op operand ...`, operators of one precedence, evaluated from the left."""

    first: Expression
    rest: tuple[tuple[str, Expression], ...]
    span: Span


@record
class Pipe:
    """`first -> stage -> stage`: each stage takes what stands left of it as its first argument."""

    first: Expression
    stages: tuple[Name | Call, ...]
    span: Span


@record
class Broken:
    """A value that could not be read and was reported: what depends on it stays silent."""

    span: Span


Expression = Broken | Number | Text | Boolean | List | Name | Call | Negative | Chain | Pipe


@record
class Assignment:
    names: tuple[Identifier, ...]
    value: Expression
    span: Span


@record
class Result:
    """One output of a network or block; without a name it is called `output`."""

    name: Identifier | None
    value: Expression
    span: Span


@record
class Return:
    results: tuple[Result, ...]
    span: Span


Statement = Assignment | Return


@record
class Let:
    name: Identifier
    value: Expression
    span: Span


@record
class Parameter:
    name: Identifier
    default: Expression | None


@record
class Block:
    name: Identifier
    shared: bool
    parameters: tuple[Parameter, ...]
    body: tuple[Statement, ...]
    span: Span


@record
class Type:
    """`float32[1, 28, 28]`; without brackets a scalar per sample."""

    dtype: Identifier
    dims: tuple[Expression, ...]
    span: Span


@record
class Input:
    name: Identifier
    type: Type


@record
class Network:
    name: Identifier | None
    inputs: tuple[Input, ...]
    body: tuple[Statement, ...]
    span: Span


@record
class Entry:
    """`key = value` of a section."""

    name: Identifier
    value: Expression
    span: Span


@record
class Choice:
    """`name in domain` of a tune section."""

    name: Identifier
    domain: Expression
    span: Span


@record
class Section:
    """`data`, `train`, `tune` or `export`; `keyword` is the word with its place."""

    keyword: Identifier
    entries: tuple[Entry | Choice, ...]
    span: Span


@record
class File:
    lets: tuple[Let, ...]
    blocks: tuple[Block, ...]
    networks: tuple[Network, ...]
    sections: tuple[Section, ...]
    mentions: Mapping[str, int] = field(default_factory=dict)  # how often each name stands in the text
    broken: frozenset[str] = frozenset()  # names of items that could not be read
