"""Blocks as declarations: their names, and the binding of their parameters where one is used. network.py expands them."""

from __future__ import annotations

from . import syntax
from .declare import introduce
from .diagnostics import Findings, Note, did_you_mean, suggestion
from .resolve import Resolver
from .source import Span
from .values import UNKNOWN, Given, Scope, Tensors


def declared_blocks(file: syntax.File, lets: Scope, findings: Findings) -> dict[str, syntax.Block]:
    """The blocks by name; names that are given twice are reported."""
    blocks: dict[str, syntax.Block] = {}
    for block in file.blocks:
        if introduce(findings, block.name, "block", {name: b.name.span for name, b in blocks.items()}, lets):
            blocks[block.name.text] = block
        seen: dict[str, Span] = {}
        for parameter in block.parameters:
            name = parameter.name.text
            if name in seen:
                findings.add("E209", parameter.name.span, "given before", name=name, notes=(Note(seen[name], "given here"),), help="choose another name")
            seen.setdefault(name, parameter.name.span)
    return blocks


def several(findings: Findings, span: Span, value: Tensors) -> None:
    findings.add("E225", span, "one tensor is wanted here", found=len(value.refs), help="name them: a, b = ...")


def bind_parameters(resolver: Resolver, block: syntax.Block, node: syntax.Name | syntax.Call, given: list[Given], lets: Scope) -> Scope | None:
    """The scope of one use of a block: arguments, then defaults. None where something is wrong or unknown."""
    findings, name, called = resolver.findings, block.name.text, (Note(block.name.span, "the block"),)
    parameters = {p.name.text: p for p in block.parameters}
    scope = Scope(parent=lets, places={name: p.name.span for name, p in parameters.items()})
    sound, meant = True, set[str]()
    for place, argument in enumerate(given):
        if argument.name is None and place >= len(block.parameters):
            findings.add("E205", argument.span, f"`{name}` takes {len(block.parameters)}", operation=name, notes=called,
                         help=f"its parameters are {', '.join(parameters)}" if parameters else "leave it out")  # fmt: skip
            return None
        key = block.parameters[place].name.text if argument.name is None else argument.name.text
        if key not in parameters:
            assert argument.name is not None
            findings.add("E203", argument.name.span, "", name=key, operation=name, notes=called, thing="parameter", help=did_you_mean(key, parameters))
            meant.add(suggestion(key, parameters))
            sound = False
        elif key in scope.bindings:
            findings.add("E221", argument.span, "given before", argument=key, help="keep one of them")
            sound = False
        else:
            value = argument.value
            if isinstance(value, Tensors) and len(value.refs) != 1:
                several(findings, argument.span, value)
                value = UNKNOWN
            scope.bindings[key] = value
    for key, parameter in parameters.items():
        if key in scope.bindings:
            continue
        if parameter.default is not None:
            scope.bindings[key] = resolver.evaluate(parameter.default, lets)
            continue
        sound = False
        if key not in meant:
            findings.add("E204", node.span, f"give {key}", operation=name, argument=f"`{key}`", notes=called, help=f"write {name}({key}=...)")
    return scope if sound and all(v is not UNKNOWN for v in scope.bindings.values()) else None
