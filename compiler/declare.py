"""What a file introduces: which names may be given where, and the types of network inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from . import syntax
from .diagnostics import Findings, Note, did_you_mean, suggestion
from .experiment import InputTensor
from .fields import value_words
from .operation import TABLE, Kind, find
from .resolve import Resolver
from .source import Span
from .values import UNKNOWN, Deferred, Scope, shown

MAX_RANK = 8
DTYPES = ("float32", "int64")


def is_layer(name: str) -> bool:
    """Whether the word stands right of `->`."""
    return find(Kind.LAYER, name) is not None or name == "repeat"


def is_data_step(name: str) -> bool:
    return any(find(kind, name) for kind in (Kind.STEP, Kind.COLUMN))


def is_word(name: str) -> bool:
    """Whether the name is a word of any kind."""
    return name in value_words() or any(find(kind, name) for kind in Kind) or name == "repeat"


def introduce(findings: Findings, name: syntax.Identifier, what: str, known: Mapping[str, Span], lets: Scope, blocks: Mapping[str, Span] | None = None) -> bool:
    """Check a name that a network, a block or a data section gives; whether it is new. `known` and `blocks` say where others stand."""
    text = name.text
    if text in known:
        findings.add("E209", name.span, "given before", name=text, notes=(Note(known[text], "given here"),), help="choose another name")
        return False
    step = what == "data name"
    if is_data_step(text) if step else is_layer(text):
        word = "a data step" if step else "a layer or activation"
        findings.add("E210", name.span, f"{_a(what)} may not be called like {word}", name=text, what=word, help=f"call it `{text}_`, or by what it holds")
    elif text in lets.bindings:
        notes = (Note(lets.places[text], "the `let`"),) if text in lets.places else ()
        findings.add("E210", name.span, "nothing but a block's parameter hides a `let`", name=text, what="a `let`", notes=notes, help=f"call it `{text}_`")
    elif blocks is not None and text in blocks:
        findings.add("E210", name.span, f"{_a(what)} may not be called like a block", name=text, what="a block",
                     notes=(Note(blocks[text], "the block"),), help=f"call it `{text}_`")  # fmt: skip
    return True


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"


def introduce_let(findings: Findings, name: syntax.Identifier, value: object, known: Mapping[str, Span]) -> bool:
    """Check the name of a constant; whether it is new."""
    if name.text in known:
        findings.add("E209", name.span, "given before", name=name.text, notes=(Note(known[name.text], "given here"),), help="keep one of them")
        return False
    # A number called `dropout` harms nobody: its place says what is meant. A word under the name of another word would hide it.
    if name.text in value_words() or (isinstance(value, Deferred) and is_word(name.text)):
        findings.add("E210", name.span, "a `let` may not be called like a word that is a value", name=name.text, what="a word that is a value",
                     help=f"call it `{name.text}_`, or by what it is for")  # fmt: skip
    return True


def constant(findings: Findings, node: syntax.Expression, value: object, scope: Scope, known: Iterable[str]) -> object:
    """The value of a `let`; UNKNOWN where it holds a name that means nothing anywhere."""
    if not isinstance(value, Deferred):
        return value
    for name in _names(node):
        if scope.find(name.text) is None and "." not in name.text and name.text != "samples" and not is_word(name.text) and name.text not in known:
            close = suggestion(name.text, [*scope.bindings, *value_words(), *(word for _, word in TABLE)])
            help = f"did you mean `{close}`?" if close else "a `let` holds a number, a word or a call, and uses `let`s above it"
            findings.add("E201", name.span, name=name.text, help=help)
            value = UNKNOWN
    # What is read later is read with the names that were in force here: a constant cannot come to mean itself.
    return Deferred(node, Scope(dict(scope.bindings))) if isinstance(value, Deferred) and value.expression is node else value


def _names(node: syntax.Expression) -> Iterable[syntax.Name]:
    match node:
        case syntax.Name():
            yield node
        case syntax.Call(name=name, arguments=arguments):
            yield name
            for argument in arguments:
                yield from _names(argument.value)
        case syntax.Negative(operand=operand):
            yield from _names(operand)
        case syntax.Chain(first=first, rest=rest):
            for part in (first, *(part for _, part in rest)):
                yield from _names(part)
        case syntax.List(items=items):
            for item in items:
                yield from _names(item)


def input_tensor(resolver: Resolver, given: syntax.Input, lets: Scope) -> InputTensor | None:
    """`name: float32[1, 28, 28]`, or a report."""
    findings, dtype, name = resolver.findings, given.type.dtype, given.name.text
    sound = dtype.text in DTYPES
    if not sound:
        near = "float32" if dtype.text in ("float", "float64", "float16", "double") else "int64" if "int" in dtype.text else ""
        help = f"write {near}; `precision` in the train section says what is computed in" if near == "float32" else f"write {near}" if near else ""
        findings.add("E206", dtype.span, f"this is `{dtype.text}`", argument=f"the type of `{name}`", expected="float32 or int64",
                     help=help or did_you_mean(dtype.text, DTYPES))  # fmt: skip
    shape: list[int] = []
    for node in given.type.dims:
        length = _length(resolver, node, lets)
        sound = sound and length is not None
        shape.append(length or 1)
    if len(shape) > MAX_RANK:
        findings.add("E207", given.type.span, f"{len(shape)} axes", argument="the number of axes", value=str(len(shape)),
                     bound=f"at most {MAX_RANK}", help="flatten some of them")  # fmt: skip
        sound = False
    return InputTensor(name, dtype.text, tuple(shape), Span(given.name.span.start, given.type.span.end)) if sound else None


def _length(resolver: Resolver, node: syntax.Expression, lets: Scope) -> int | None:
    """The length of an axis, or None after a report."""
    value, findings, argument = resolver.evaluate(node, lets), resolver.findings, "the length of an axis"
    if value is UNKNOWN:
        return None
    if isinstance(value, Deferred) and isinstance(node, syntax.Name):
        help = did_you_mean(node.text, lets.bindings) if lets.bindings else "write a whole number"
        findings.add("E201", node.span, "no `let` has this name", name=node.text, help=help)
    elif isinstance(value, bool) or not isinstance(value, int):
        help = "divide with `//` where a whole number is wanted" if isinstance(value, float) and isinstance(node, syntax.Chain) else "write a whole number"
        findings.add("E206", node.span, f"this is {shown(value)}", argument=argument, expected="a whole number", help=help)
    elif not 1 <= value <= 2**31:
        findings.add("E207", node.span, "the batch axis is implicit" if value < 0 else "", argument=argument, value=shown(value),
                     bound="between 1 and 2^31", help="leave the batch axis out" if value < 0 else "use a length between 1 and 2^31")  # fmt: skip
    else:
        return value
    return None
