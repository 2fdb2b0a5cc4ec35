"""The statements of a network, evaluated into a flat list of layer applications; blocks are expanded here.

Parameters are called by where they stand, `<statement>/<operation>/<role>`, so editing one statement renames nothing in
another. A second operation of one kind in a statement, in text order, gets `_2`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import syntax
from .blocks import bind_parameters, declared_blocks, several
from .declare import input_tensor, introduce, is_layer
from .diagnostics import Findings, Note, did_you_mean
from .experiment import Application, InputTensor, Network, Output, Ref
from .operation import Kind, find
from .resolve import Resolver
from .source import Span
from .values import UNKNOWN, Deferred, Given, Scope, Tensors, Unknown, shown

MAX_APPLICATIONS = 2_000
MAX_EXPANSIONS = 5_000
MAX_BLOCK_DEPTH = 20
_ARITHMETIC = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide"}


@dataclass(eq=False, repr=False)
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
    """More layers or blocks than a network may have; reported where it was noticed."""


class NetworkChecker:
    def __init__(self, file: syntax.File, lets: Scope, findings: Findings):
        self.findings = findings
        self.resolver = Resolver(findings)
        self.lets = lets
        self.mentions = file.mentions
        self.broken = file.broken
        self.applications: list[Application] = []
        self.blocks = declared_blocks(file, lets, findings)
        self.block_places = {name: block.name.span for name, block in self.blocks.items()}
        self.used_blocks: set[str] = set()
        self.expansions = 0

    def check(self, network: syntax.Network) -> Network | None:
        """The network's sound inputs, applications and outputs; None where there are too many to go on."""
        scope = Scope(parent=self.lets)
        inputs: list[InputTensor] = []
        for given in network.inputs:
            new = introduce(self.findings, given.name, "input", scope.places, self.lets, self.block_places)
            declared = input_tensor(self.resolver, given, self.lets)
            if not new:
                continue
            scope.places[given.name.text] = given.name.span
            scope.bindings[given.name.text] = Tensors((Ref(-1, len(inputs)),)) if declared else UNKNOWN
            if declared is not None:
                inputs.append(declared)
        if not network.inputs:
            self.findings.add("E215", Span(network.span.start, network.span.start + len("network")), "nothing comes in", name="the network",
                              problem="has no input", help="write network(x: float32[4]) { ... }")  # fmt: skip
        try:
            results = self._body(network.body, scope, Place(""), network.span, "network")
        except TooLarge:
            return None
        names = frozenset(name for name, _, _ in results or ())
        outputs = tuple(Output(name, refs.refs[0], span) for name, refs, span in results or () if isinstance(refs, Tensors))
        failed = names - {output.name for output in outputs} if results is not None else None
        checked = Network(network.name.text if network.name else "", tuple(inputs), tuple(self.applications), outputs, failed)
        if results is not None:
            self._unused(network.body, scope)
            self._unreached(network, checked)
        return checked

    def _unreached(self, network: syntax.Network, checked: Network) -> None:
        if any(found.span is not None and network.span.start <= found.span.start < network.span.end for found in self.findings.errors):
            return  # what an input was meant for may be part of the mistake
        reached = self._reached(checked)
        places = {given.name.text: given.name.span for given in reversed(network.inputs)}
        for index, declared in enumerate(checked.inputs):
            if Ref(-1, index) not in reached and self._certainly_unused(declared.name):
                self.findings.add("E215", places[declared.name], name=f"`{declared.name}`", problem="reaches no output",
                                  help="use it, or take it out of the network's inputs")  # fmt: skip

    def _certainly_unused(self, name: str) -> bool:
        """Whether what found no use of a name can be trusted: beside an error, only if nothing else mentions the name."""
        return self.findings.certainly_unused(name, self.mentions)

    def report_unused_blocks(self) -> None:
        for name, block in self.blocks.items():
            if name not in self.used_blocks and self._certainly_unused(name):
                self.findings.add("E213", block.name.span, name=name, help="use it, or remove it")

    # Statements

    def _body(
        self, body: tuple[syntax.Statement, ...], scope: Scope, at: Place, span: Span, what: str
    ) -> list[tuple[str, Tensors | Unknown, Span]] | None:
        """Evaluate statements into the scope; the results of the return."""
        results: list[tuple[str, Tensors | Unknown, Span]] | None = None
        for statement in body:
            if results is not None:  # what follows a return is not followed
                again = isinstance(statement, syntax.Return)
                self.findings.add("E224", statement.span, "this comes after it", what=what,
                                  help="join them: return a = x, b = y" if again else "put the return last")  # fmt: skip
                break
            if isinstance(statement, syntax.Return):
                results = self._return(statement, scope, at)
                continue
            first = statement.names[0].text
            value = self._value(statement.value, scope, self._inside(at, f"{first} again" if first in scope.places else first))
            for name in statement.names:
                if not introduce(self.findings, name, "statement", scope.places, self.lets, self.block_places):
                    value = UNKNOWN
                scope.places.setdefault(name.text, name.span)
            self._assign(statement, value, scope)
        if results is None and not self.findings.unreadable_in(span):
            self.findings.add("E223", Span(span.start, span.start + len(what)), f"no `return` in this {what}", what=what,
                              help="end it with `return name = tensor`")  # fmt: skip
        return results

    def _inside(self, at: Place, statement: str) -> Place:
        return Place(f"{at.path}/{statement}" if at.path else statement, at.calls, at.active)

    def _assign(self, statement: syntax.Assignment, value: Any, scope: Scope) -> None:
        tensors = self._tensors(value, statement.value)
        if isinstance(tensors, Tensors) and len(tensors.refs) != len(statement.names):
            wanted = ", ".join("abcdefgh"[: len(tensors.refs)]) if len(tensors.refs) <= 8 else "a, b, ..."
            self.findings.add("E225", statement.names[0].span.to(statement.names[-1].span), f"for {len(statement.names)} names", found=len(tensors.refs),
                              help=f"write {wanted} = ...")  # fmt: skip
            tensors = UNKNOWN
        for index, name in enumerate(statement.names):
            scope.bindings.setdefault(name.text, Tensors((tensors.refs[index],)) if isinstance(tensors, Tensors) else UNKNOWN)

    def _return(self, statement: syntax.Return, scope: Scope, at: Place) -> list[tuple[str, Tensors | Unknown, Span]]:
        results: list[tuple[str, Tensors | Unknown, Span]] = []
        for result in statement.results:
            name = result.name.text if result.name else "output"
            if result.name is None and len(statement.results) > 1:
                self.findings.add("E226", result.span, help="write return a = x, b = y")
            if result.name is not None:
                introduce(self.findings, result.name, "output", scope.places | {n: s for n, _, s in results}, self.lets, self.block_places)
            value = self._tensors(self._value(result.value, scope, self._inside(at, name)), result.value)
            if isinstance(value, Tensors) and len(value.refs) != 1:
                several(self.findings, result.value.span, value)
                value = UNKNOWN
            results.append((name, value, result.name.span if result.name else result.span))
        return results

    def _tensors(self, value: Any, node: syntax.Expression) -> Tensors | Unknown:
        """The value if it is a tensor; else a report."""
        if isinstance(value, Tensors | Unknown):
            return value
        if isinstance(value, Deferred) and isinstance(value.expression, syntax.Name):
            name = value.expression.text
            if name in self.broken:
                return UNKNOWN
            if is_layer(name) or name in self.blocks:
                self.findings.add("E227", node.span, f"`{name}` is an operation", found="an operation", help=f"write x -> {name}")
            else:
                self.findings.add("E201", node.span, name=name, help=did_you_mean(name, [*value.scope.visible(), *self.blocks]))
            return UNKNOWN
        self.findings.add("E227", node.span, f"this is {shown(value)}", found=shown(value), help="a statement gives a tensor; constants are `let`s")
        return UNKNOWN

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
                total = self.resolver.combine(op, total, value, part.span, node.span)
            elif op == "//":
                self.findings.add("E218", part.span, "`//` is for whole numbers", help="divide tensors with `/`")
                return UNKNOWN
            elif op == "/" and not isinstance(value, Tensors) and value == 0:
                self.findings.add("E219", part.span, "this is 0", help="divide by another number")
                return UNKNOWN
            else:
                total = self._arithmetic(op, total, value, node.span, at)
            if total is UNKNOWN:
                return UNKNOWN
        return total

    def _arithmetic(self, op: str, a: Any, b: Any, span: Span, at: Place) -> Tensors | Unknown:
        word = _ARITHMETIC[op]
        operation = find(Kind.LAYER, word)
        assert operation is not None
        for value in (a, b):
            if isinstance(value, Tensors) and len(value.refs) != 1:
                several(self.findings, span, value)
                return UNKNOWN
        bound = self.resolver.bind(operation, span, [])
        assert bound is not None
        operands = tuple(v.refs[0] if isinstance(v, Tensors) else float(v) for v in (a, b))
        return self._add(Application(bound, operands, at.name(word), span, at.calls))

    def _add(self, application: Application) -> Tensors | Unknown:
        if len(self.applications) >= MAX_APPLICATIONS:
            self.findings.add("E307", application.span, f"more than {MAX_APPLICATIONS:,} layers", what="the network", help="repeat fewer blocks")
            raise TooLarge
        if any(isinstance(operand, float) and abs(operand) > 3.4e38 for operand in application.operands):
            self.findings.add("E219", application.span, "a constant larger than any float32", help="use smaller numbers")
            return UNKNOWN
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
        # Its place says that an operation is meant: a number or a tensor of the same name is no obstacle.
        if bound is not None and not is_layer(name.text) and name.text not in self.blocks:
            if bound is not UNKNOWN:
                self.findings.add("E202", name.span, f"this is {shown(bound)}", name=name.text, kind=Kind.LAYER.value,
                                  help="right of `->` and before `(` stands an operation or a block")  # fmt: skip
            return UNKNOWN
        if name.text == "repeat":
            return self._repeat(node, scope, at, piped)
        path = at.name(name.text)
        given = [Given(None, piped, node.span)] if piped is not None else []
        if isinstance(node, syntax.Call):
            given += [Given(a.name, self._argument(a.value, scope, at), a.value.span, a.value) for a in node.arguments]
        if name.text in self.blocks:
            return self._expand(self.blocks[name.text], node, given, path, at)
        if name.text in self.broken:
            return UNKNOWN
        operation = self.resolver.operation(Kind.LAYER, name, [*self.blocks, "repeat"])
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
            if len(value.refs) != 1 and operation.operands is not None:
                several(self.findings, node.span, value)
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
                known = is_layer(name.text) or name.text in self.blocks
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
                self.findings.add("E206", arguments[0].span, f"this is {shown(count)}", argument="the count", expected="a whole number of at least 1",
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
            if isinstance(value, Tensors) and len(value.refs) != 1:
                several(self.findings, body.span, value)
                return UNKNOWN
        return value

    def _expand(self, block: syntax.Block, node: syntax.Name | syntax.Call, given: list[Given], path: str, at: Place) -> Any:
        """The block's statements with its parameters bound, under the path of the call."""
        name = block.name.text
        self.used_blocks.add(name)
        self.expansions += 1
        if self.expansions > MAX_EXPANSIONS:
            self.findings.add("E307", node.span, f"more than {MAX_EXPANSIONS:,} uses of blocks", what="the network", help="repeat fewer blocks")
            raise TooLarge
        called = Note(block.name.span, "the block")
        if name in at.active:
            self.findings.add("E216", node.span, "a block may not contain itself", name=name, notes=(called,), help="stack copies with repeat where it is used")
            return UNKNOWN
        if len(at.active) >= MAX_BLOCK_DEPTH:
            self.findings.add("E104", node.span, f"blocks inside more than {MAX_BLOCK_DEPTH} blocks", help="use fewer levels of blocks")
            return UNKNOWN
        scope = bind_parameters(self.resolver, block, node, given, self.lets)
        if scope is None:
            return UNKNOWN
        inner = Place(name if block.shared else path, (*at.calls, node.span), (*at.active, name))
        before = len(self.findings.found)
        results = self._body(block.body, scope, inner, block.span, "block")
        self.findings.note_since(before, Note(node.span, "used here"))
        if results is not None:
            self._unused(block.body, scope)
            for parameter in block.parameters:
                key = parameter.name.text
                if key not in scope.used and self._certainly_unused(key):
                    self.findings.add("E222", parameter.name.span, name=key, help="use it, or take it out of the block")
        if results is None or any(isinstance(value, Unknown) for _, value, _ in results):
            return UNKNOWN
        return Tensors(tuple(value.refs[0] for _, value, _ in results if isinstance(value, Tensors)))

    # Nothing is silently ignored

    def _unused(self, body: tuple[syntax.Statement, ...], scope: Scope) -> None:
        for statement in body:
            if isinstance(statement, syntax.Assignment):
                for name in statement.names:
                    unused = name.text not in scope.used and scope.bindings.get(name.text, UNKNOWN) is not UNKNOWN
                    if unused and self._certainly_unused(name.text):
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
