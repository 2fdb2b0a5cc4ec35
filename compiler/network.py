"""The statements of a network, evaluated into a flat list of layer applications; blocks are expanded here.

Parameters are called by where they stand, `<statement>/<operation>/<role>`, so editing one statement renames nothing in
another. A second operation of one kind in a statement, in text order, gets `_2`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from . import syntax
from .diagnostics import Findings, Note, did_you_mean
from .experiment import Application, InputTensor, Network, Output, Ref
from .operation import Kind, find, names
from .ops.planned import PLANNED
from .resolve import UNKNOWN, Deferred, Given, Resolver, Scope, Tensors, Unknown, _shown
from .source import Span

MAX_APPLICATIONS = 50_000
MAX_BLOCK_DEPTH = 20
MAX_RANK = 8
DTYPES = ("float32", "int64")
_ARITHMETIC = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}


@dataclass
class Place:
    """Where an expression stands: the path of its statement, and how often each operation has occurred in it."""

    path: str
    calls: tuple[Span, ...] = ()
    active: tuple[str, ...] = ()  # blocks being expanded
    counts: dict[str, int] = field(default_factory=dict)

    def name(self, operation: str) -> str:
        """The path of the next operation of that name, in text order."""
        count = self.counts[operation] = self.counts.get(operation, 0) + 1
        return f"{self.path}/{operation}" if count == 1 else f"{self.path}/{operation}_{count}"


class TooLarge(Exception):
    """More applications than a network may have; reported where it was noticed."""


class NetworkChecker:
    def __init__(self, blocks: Iterable[syntax.Block], lets: Scope, findings: Findings):
        self.findings = findings
        self.resolver = Resolver(findings)
        self.lets = lets
        self.applications: list[Application] = []
        self.blocks: dict[str, syntax.Block] = {}
        self.used_blocks: set[str] = set()
        for block in blocks:
            self._introduce(block.name, self.blocks, "block")
            self.blocks[block.name.text] = block
            seen: dict[str, Any] = {}
            for parameter in block.parameters:
                if parameter.name.text in seen:
                    self.findings.add("E209", parameter.name.span, "given before", name=parameter.name.text, help="choose another name")
                seen[parameter.name.text] = True

    def check(self, network: syntax.Network) -> Network | None:
        """The network's applications and outputs; None where its statements could not be followed to the end."""
        scope = Scope(parent=self.lets)
        inputs = []
        for index, given in enumerate(network.inputs):
            self._introduce(given.name, scope.bindings, "input", scope)
            declared = self._input(given)
            if declared is not None:
                inputs.append(declared)
            scope.bindings[given.name.text] = Tensors((Ref(-1, index),)) if declared else UNKNOWN
        if not network.inputs:
            self.findings.add("E215", network.span, name="the network", problem="has no input", help="write network(x: float32[4]) { ... }")
        try:
            results = self._body(network.body, scope, Place(""), network.span, "network")
        except TooLarge:
            return None
        self._unused(network.body, scope)
        if results is None or len(inputs) < len(network.inputs):
            return None
        outputs = tuple(Output(name, refs.refs[0], span) for name, refs, span in results if isinstance(refs, Tensors))
        if len(outputs) < len(results):
            return None
        checked = Network(network.name.text if network.name else "", tuple(inputs), tuple(self.applications), outputs)
        reached = self._reached(checked)
        for index, given in enumerate(network.inputs):
            if Ref(-1, index) not in reached:
                self.findings.add("E215", given.name.span, name=f"`{given.name.text}`", problem="reaches no output",
                                  help="use it, or take it out of the network's inputs")  # fmt: skip
        return checked

    def report_unused_blocks(self) -> None:
        for name, block in self.blocks.items():
            if name not in self.used_blocks:
                self.findings.add("E213", block.name.span, name=name, help="use it, or remove it")

    # Declarations

    def _introduce(self, name: syntax.Identifier, known: dict[str, Any], what: str, scope: Scope | None = None) -> None:
        text = name.text
        if text in known:
            self.findings.add("E209", name.span, "given before", name=text, help="choose another name")
        elif find(Kind.LAYER, text) or text in PLANNED[Kind.LAYER] or text == "repeat":
            self.findings.add("E210", name.span, f"a {what} may not be called like a layer or activation", name=text,
                              what="a layer or activation", help=f"call it `{text}_` or `{text}ed`")  # fmt: skip
        elif text in self.lets.bindings:
            self.findings.add("E210", name.span, "nothing but a block's parameter hides a `let`", name=text, what="a `let`",
                              help="choose another name")  # fmt: skip
        elif scope is not None and text in self.blocks:
            self.findings.add("E210", name.span, f"a {what} may not be called like a block", name=text, what="a block", help="choose another name")

    def _input(self, given: syntax.Input) -> InputTensor | None:
        dtype = given.type.dtype
        if dtype.text not in DTYPES:
            self.findings.add("E206", dtype.span, argument=given.name.text, expected="float32 or int64", help=did_you_mean(dtype.text, DTYPES))
            return None
        shape: list[int] = []
        for node in given.type.dims:
            value = self.resolver.evaluate(node, self.lets)
            if value is UNKNOWN:
                return None
            if isinstance(value, Deferred):
                self.findings.add("E201", node.span, name=_text(self.findings, node.span), help=did_you_mean(_text(self.findings, node.span), self.lets.bindings))
                return None
            if not isinstance(value, int) or isinstance(value, bool):
                self.findings.add("E206", node.span, f"this is {_shown(value)}", argument="the length of an axis", expected="a whole number",
                                  help="divide with `//` where a whole number is wanted")  # fmt: skip
                return None
            if not 1 <= value <= 2**31:
                self.findings.add("E207", node.span, "the length of an axis", argument="the length of an axis", value=str(value),
                                  bound="between 1 and 2^31", help="use a positive length")  # fmt: skip
                return None
            shape.append(value)
        if len(shape) > MAX_RANK:
            self.findings.add("E207", given.type.span, f"{len(shape)} axes", argument="the number of axes", value=str(len(shape)),
                              bound=f"at most {MAX_RANK}", help="flatten some of them")  # fmt: skip
            return None
        return InputTensor(given.name.text, dtype.text, tuple(shape), given.type.span)

    # Statements

    def _body(
        self, body: tuple[syntax.Statement, ...], scope: Scope, at: Place, span: Span, what: str
    ) -> list[tuple[str, Tensors | Unknown, Span]] | None:
        """Evaluate statements into the scope; the results of the return."""
        results: list[tuple[str, Tensors | Unknown, Span]] | None = None
        for statement in body:
            if results is not None:
                again = isinstance(statement, syntax.Return)
                self.findings.add("E224", statement.span, "this comes after it", what=what,
                                  help="join them: return a = x, b = y" if again else "put the return last")  # fmt: skip
                break
            if isinstance(statement, syntax.Return):
                results = self._return(statement, scope, at)
                continue
            for name in statement.names:
                self._introduce(name, scope.bindings, "statement", scope)
            value = self._value(statement.value, scope, self._inside(at, statement.names[0].text))
            self._assign(statement, value, scope)
        if results is None:
            self.findings.add("E223", span, what=what, help="end it with `return name = tensor`")
        return results

    def _inside(self, at: Place, statement: str) -> Place:
        return Place(f"{at.path}/{statement}" if at.path else statement, at.calls, at.active)

    def _assign(self, statement: syntax.Assignment, value: Any, scope: Scope) -> None:
        tensors = self._tensors(value, statement.value)
        if isinstance(tensors, Tensors) and len(tensors.refs) != len(statement.names):
            self.findings.add("E225", statement.span, f"{len(statement.names)} names", found=len(tensors.refs),
                              help=f"write {', '.join('abcdefgh'[: len(tensors.refs)])} = ...")  # fmt: skip
            tensors = UNKNOWN
        for index, name in enumerate(statement.names):
            scope.bindings[name.text] = Tensors((tensors.refs[index],)) if isinstance(tensors, Tensors) else UNKNOWN

    def _return(self, statement: syntax.Return, scope: Scope, at: Place) -> list[tuple[str, Tensors | Unknown, Span]]:
        results: list[tuple[str, Tensors | Unknown, Span]] = []
        for result in statement.results:
            name = result.name.text if result.name else "output"
            if result.name is None and len(statement.results) > 1:
                self.findings.add("E226", result.span, help="write return a = x, b = y")
            if result.name is not None:
                self._introduce(result.name, {r[0]: 0 for r in results} | scope.bindings, "output", scope)
            value = self._tensors(self._value(result.value, scope, self._inside(at, name)), result.value)
            if isinstance(value, Tensors) and len(value.refs) != 1:
                self._several(result.value.span, value)
                value = UNKNOWN
            results.append((name, value, result.name.span if result.name else result.span))
        return results

    def _tensors(self, value: Any, node: syntax.Expression) -> Tensors | Unknown:
        """The value if it is a tensor; else a report."""
        if isinstance(value, Tensors | Unknown):
            return value
        if isinstance(value, Deferred) and isinstance(value.expression, syntax.Name):
            name = value.expression.text
            if find(Kind.LAYER, name) or name in self.blocks:
                self.findings.add("E227", node.span, f"`{name}` is an operation", found="an operation", help=f"write x -> {name}")
            else:
                self.findings.add("E201", node.span, name=name, help=did_you_mean(name, self._visible(value.scope)))
            return UNKNOWN
        self.findings.add("E227", node.span, f"this is {_shown(value)}", found=_shown(value), help="a statement gives a tensor; constants are `let`s")
        return UNKNOWN

    @staticmethod
    def _visible(scope: Scope | None) -> list[str]:
        found: list[str] = []
        while scope is not None:
            found += scope.bindings
            scope = scope.parent
        return found

    def _several(self, span: Span, value: Tensors) -> None:
        self.findings.add("E225", span, "one tensor is wanted here", found=len(value.refs), help="name them: a, b = ...")

    # Expressions over tensors

    def _value(self, node: syntax.Expression, scope: Scope, at: Place) -> Any:
        match node:
            case syntax.Pipe(first=first, stages=stages):
                value = self._value(first, scope, at)
                for stage in stages:
                    if isinstance(value, Deferred) or not isinstance(value, Tensors | Unknown):
                        value = self._tensors(value, first)
                    value = self._apply(stage, scope, at, value)
                return value
            case syntax.Call():
                return self._apply(node, scope, at, None)
            case syntax.Chain():
                return self._chain(node, scope, at)
            case syntax.Negative(operand=operand):
                value = self._value(operand, scope, at)
                if isinstance(value, Tensors):
                    return self._arithmetic("*", value, -1.0, node.span, at)
                return value if isinstance(value, Unknown) else self.resolver.evaluate(node, scope)
        return self.resolver.evaluate(node, scope)

    def _chain(self, node: syntax.Chain, scope: Scope, at: Place) -> Any:
        values = [self._value(node.first, scope, at), *(self._value(part, scope, at) for _, part in node.rest)]
        if not any(isinstance(v, Tensors | Unknown) for v in values):
            return self.resolver.evaluate(node, scope)
        nodes = [node.first, *(part for _, part in node.rest)]
        for index, (part, value) in enumerate(zip(nodes, values, strict=True)):
            if isinstance(value, bool | str | tuple | Deferred):
                values[index] = self._tensors(value, part)
        if any(v is UNKNOWN for v in values):
            return UNKNOWN
        total = values[0]
        for (op, part), value in zip(node.rest, values[1:], strict=True):
            if not isinstance(total, Tensors) and not isinstance(value, Tensors):
                if op in ("/", "//") and value == 0:
                    self.findings.add("E219", part.span, "this is 0", help="divide by another number")
                    return UNKNOWN
                total = {"+": total + value, "-": total - value, "*": total * value}.get(op) if op in "+-*" else total / value
                continue
            if op == "//":
                self.findings.add("E218", part.span, "`//` is for whole numbers", help="divide tensors with `/`")
                return UNKNOWN
            total = self._arithmetic(op, total, value, node.span, at)
        return total

    def _arithmetic(self, op: str, a: Any, b: Any, span: Span, at: Place) -> Tensors | Unknown:
        word = _ARITHMETIC[op]
        operation = find(Kind.LAYER, word)
        assert operation is not None
        for value in (a, b):
            if isinstance(value, Tensors) and len(value.refs) != 1:
                self._several(span, value)
                return UNKNOWN
        bound = self.resolver.bind(operation, span, [])
        assert bound is not None
        operands = tuple(v.refs[0] if isinstance(v, Tensors) else float(v) for v in (a, b))
        return self._add(Application(bound, operands, at.name(word), span, at.calls))

    def _add(self, application: Application) -> Tensors:
        if len(self.applications) >= MAX_APPLICATIONS:
            self.findings.add("E307", application.span, f"more than {MAX_APPLICATIONS:,} layers", what="the network", help="repeat fewer blocks")
            raise TooLarge
        self.applications.append(application)
        index = len(self.applications) - 1
        outputs = application.bound.operation.outputs(application.bound.params)
        return Tensors(tuple(Ref(index, i) for i in range(outputs)))

    # Calls

    def _apply(self, node: syntax.Name | syntax.Call, scope: Scope, at: Place, piped: Tensors | Unknown | None) -> Any:
        """The result of a layer, a block or repeat; `piped` is its first argument where a pipe leads here."""
        name = node if isinstance(node, syntax.Name) else node.name
        bound = scope.find(name.text)
        if isinstance(bound, Deferred) and isinstance(bound.expression, syntax.Name | syntax.Call):
            if isinstance(node, syntax.Call):
                self.findings.add("E227", node.span, "its arguments are given already", found="a finished call", help=f"write -> {name.text}")
                return UNKNOWN
            return self._apply(bound.expression, bound.scope, at, piped)
        if bound is not None:
            if bound is not UNKNOWN:
                self.findings.add("E202", name.span, f"this is {_shown(bound)}", name=name.text, kind=Kind.LAYER.value,
                                  help="right of `->` and before `(` stands an operation or a block")  # fmt: skip
            return UNKNOWN
        if name.text == "repeat":
            return self._repeat(node, scope, at, piped)
        path = at.name(name.text)
        given = [Given(None, piped, node.span)] if piped is not None else []
        if isinstance(node, syntax.Call):
            given += [Given(a.name, self._argument(a.value, scope, at), a.value.span) for a in node.arguments]
        if name.text in self.blocks:
            return self._expand(self.blocks[name.text], node, given, path, at)
        if find(Kind.LAYER, name.text) is None and name.text not in PLANNED[Kind.LAYER] and self.blocks:
            known = [*names(Kind.LAYER), *self.blocks, "repeat"]
            if not any(find(k, name.text) for k in Kind):
                self.findings.add("E202", name.span, "no layer, activation or block", name=name.text, kind=Kind.LAYER.value,
                                  help=did_you_mean(name.text, known))  # fmt: skip
                return UNKNOWN
        operation = self.resolver.operation(Kind.LAYER, name)
        if operation is None:
            return UNKNOWN
        leading: list[Ref | float] = []
        poisoned = False
        while given and given[0].name is None and isinstance(given[0].value, Tensors | Unknown):
            if operation.operands is not None and len(leading) == operation.operands:
                break
            value = given.pop(0).value
            if isinstance(value, Unknown):
                poisoned = True
                leading.append(0.0)
                continue
            if len(value.refs) != 1:
                if operation.operands is not None:
                    self._several(node.span, value)
                    return UNKNOWN
            leading += value.refs
        least = 2 if operation.operands is None else operation.operands
        if len(leading) < least and not poisoned:
            first = given[0] if given and given[0].name is None else None
            if first is not None and isinstance(first.value, Deferred):
                self._tensors(first.value, first.value.expression)
                return UNKNOWN
            what = "a tensor" if least == 1 else "at least two tensors"
            self.findings.add("E204", node.span, f"`{name.text}` takes {what}", operation=name.text, argument=what,
                              help=f"write x -> {name.text}" if least == 1 else f"write {name.text}(a, b)")  # fmt: skip
            return UNKNOWN
        made = self.resolver.bind(operation, node.span, given)
        if made is None or poisoned:
            return UNKNOWN
        return self._add(Application(made, tuple(leading), path, node.span, at.calls))

    def _argument(self, node: syntax.Expression, scope: Scope, at: Place) -> Any:
        """A tensor where the expression gives one, else a constant, a word or a call for the field to read."""
        return self._value(node, scope, at) if self._gives_tensor(node, scope) else self.resolver.evaluate(node, scope)

    def _gives_tensor(self, node: syntax.Expression, scope: Scope) -> bool:
        match node:
            case syntax.Name(text=text):
                return isinstance(scope.find(text), Tensors | Unknown)
            case syntax.Pipe():
                return True
            case syntax.Negative(operand=operand):
                return self._gives_tensor(operand, scope)
            case syntax.Chain(first=first, rest=rest):
                return any(self._gives_tensor(part, scope) for part in (first, *(part for _, part in rest)))
            case syntax.Call(name=name, arguments=arguments):
                known = name.text == "repeat" or name.text in self.blocks or find(Kind.LAYER, name.text) is not None
                return known and any(a.name is None and self._gives_tensor(a.value, scope) for a in arguments)
        return False

    def _repeat(self, node: syntax.Name | syntax.Call, scope: Scope, at: Place, piped: Tensors | Unknown | None) -> Any:
        """`x -> repeat(n, block)`: the block n times in a row, each with weights of its own."""
        arguments = node.arguments if isinstance(node, syntax.Call) else ()
        if piped is None and arguments:
            piped = self._tensors(self._value(arguments[0].value, scope, at), arguments[0].value)
            arguments = arguments[1:]
        if len(arguments) != 2 or any(a.name for a in arguments) or piped is None:
            self.findings.add("E204", node.span, operation="repeat", argument="a count and a block", help="write x -> repeat(3, block(64))")
            return UNKNOWN
        count = self.resolver.evaluate(arguments[0].value, scope)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            if count is not UNKNOWN:
                self.findings.add("E206", arguments[0].span, f"this is {_shown(count)}", argument="the count", expected="a whole number of at least 1",
                                  help="write x -> repeat(3, block(64))")  # fmt: skip
            return UNKNOWN
        body = arguments[1].value
        if not isinstance(body, syntax.Name | syntax.Call):
            self.findings.add("E206", body.span, argument="the block", expected="a block or a layer", help="write x -> repeat(3, block(64))")
            return UNKNOWN
        value: Any = piped
        for _ in range(count):
            value = self._apply(body, scope, at, value)
            if value is UNKNOWN:
                break
        return value

    def _expand(self, block: syntax.Block, node: syntax.Name | syntax.Call, given: list[Given], path: str, at: Place) -> Any:
        """The block's statements with its parameters bound, under the path of the call."""
        name = block.name.text
        self.used_blocks.add(name)
        called = Note(block.name.span, "the block")
        if name in at.active:
            self.findings.add("E216", node.span, "a block may not contain itself", name=name, notes=(called,), help="write the copies out, or use repeat")
            return UNKNOWN
        if len(at.active) >= MAX_BLOCK_DEPTH:
            self.findings.add("E104", node.span, f"blocks inside more than {MAX_BLOCK_DEPTH} blocks", help="use fewer levels of blocks")
            return UNKNOWN
        parameters = {p.name.text: p for p in block.parameters}
        scope = Scope(parent=self.lets)
        sound = True
        for place, argument in enumerate(given):
            if argument.name is None and place >= len(block.parameters):
                self.findings.add("E205", argument.span, f"`{name}` takes {len(block.parameters)}", operation=name, notes=(called,),
                                  help=f"its parameters are {', '.join(parameters)}")  # fmt: skip
                return UNKNOWN
            key = block.parameters[place].name.text if argument.name is None else argument.name.text
            if key not in parameters:
                assert argument.name is not None
                self.findings.add("E203", argument.name.span, f"no parameter of `{name}`", name=key, operation=name, notes=(called,),
                                  help=did_you_mean(key, parameters))  # fmt: skip
                sound = False
            elif key in scope.bindings:
                self.findings.add("E221", argument.span, "given before", argument=key, help="keep one of them")
                sound = False
            else:
                value = argument.value
                if isinstance(value, Tensors) and len(value.refs) != 1:
                    self._several(argument.span, value)
                    value = UNKNOWN
                scope.bindings[key] = value
        for key, parameter in parameters.items():
            if key not in scope.bindings:
                if parameter.default is None:
                    self.findings.add("E204", node.span, f"give {key}", operation=name, argument=key, notes=(called,), help=f"write {name}({key}=...)")
                    sound = False
                else:
                    scope.bindings[key] = self.resolver.evaluate(parameter.default, self.lets)
        if not sound or any(v is UNKNOWN for v in scope.bindings.values()):
            return UNKNOWN
        inner = Place(name if block.shared else path, (*at.calls, node.span), (*at.active, name))
        results = self._body(block.body, scope, inner, block.span, "block")
        self._unused(block.body, scope)
        for key, parameter in parameters.items():
            if key not in scope.used:
                self.findings.add("E222", parameter.name.span, name=key, help="use it, or remove it")
        if results is None or any(isinstance(value, Unknown) for _, value, _ in results):
            return UNKNOWN
        return Tensors(tuple(value.refs[0] for _, value, _ in results if isinstance(value, Tensors)))

    # Nothing is silently ignored

    def _unused(self, body: tuple[syntax.Statement, ...], scope: Scope) -> None:
        for statement in body:
            if isinstance(statement, syntax.Assignment):
                for name in statement.names:
                    if name.text not in scope.used and scope.bindings.get(name.text) is not UNKNOWN:
                        self.findings.add("E222", name.span, name=name.text, help="use it, or remove the statement")

    @staticmethod
    def _reached(network: Network) -> set[Ref]:
        """Every tensor that an output depends on."""
        reached: set[Ref] = set()
        stack = [o.ref for o in network.outputs]
        while stack:
            ref = stack.pop()
            if ref in reached:
                continue
            reached.add(ref)
            if ref.application >= 0:
                stack += [o for o in network.applications[ref.application].operands if isinstance(o, Ref)]
        return reached


def _text(findings: Findings, span: Span) -> str:
    return findings.source.text[span.start : span.end]
