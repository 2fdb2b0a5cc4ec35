"""Parse tree -> AST, one method for each rule of the grammar; recursion is bounded by the nesting that parse.py allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import syntax
from .diagnostics import Findings
from .source import Span
from .tokens import span_of

if TYPE_CHECKING:
    from lark import Token, Tree


class Builder:
    """Reports what the grammar allows and the language does not."""

    def __init__(self, findings: Findings):
        self.findings = findings

    def item(self, tree: Tree[Token]) -> object:
        child = tree.children[0]
        return getattr(self, f"_{child.data}")(child)  # type: ignore[union-attr]

    @staticmethod
    def _tree_span(tree: Tree[Token]) -> Span:
        return Span(tree.meta.start_pos, tree.meta.end_pos)

    @staticmethod
    def _identifier(token: Token) -> syntax.Identifier:
        return syntax.Identifier(str(token), span_of(token))

    def _let(self, tree: Any) -> Any:
        name, value = tree.children
        return syntax.Let(self._identifier(name), self.expression(value), self._tree_span(tree))

    def _block(self, tree: Any) -> Any:
        shared, name, *parameters, body = tree.children
        given = tuple(
            syntax.Parameter(self._identifier(p.children[0]), self.expression(p.children[1]) if p.children[1] else None)
            for p in parameters
            if p is not None
        )
        return syntax.Block(self._identifier(name), shared is not None, given, self._body(body), self._tree_span(tree))

    def _network(self, tree: Any) -> Any:
        name, *inputs, body = tree.children
        given = tuple(self._input(i) for i in inputs if i is not None)
        identifier = self._identifier(name) if name is not None else None
        return syntax.Network(identifier, given, self._body(body), self._tree_span(tree))

    def _input(self, tree: Any) -> Any:
        name, type_tree = tree.children
        dtype, *dims = type_tree.children
        values = tuple(self.expression(d) for d in dims if d is not None)
        span = self._tree_span(type_tree)
        return syntax.Input(self._identifier(name), syntax.Type(self._identifier(dtype), values, span))

    def _body(self, tree: Any) -> Any:
        return tuple(self._assignment(s) if s.data == "assignment" else self._return(s) for s in tree.children)

    def _assignment(self, tree: Any) -> Any:
        *names, value = tree.children
        identifiers = tuple(self._identifier(n) for n in names)
        return syntax.Assignment(identifiers, self.expression(value), self._tree_span(tree))

    def _return(self, tree: Any) -> Any:
        results = []
        for result in tree.children:
            name, value = result.children
            identifier = self._identifier(name) if name is not None else None
            results.append(syntax.Result(identifier, self.expression(value), self._tree_span(result)))
        return syntax.Return(tuple(results), self._tree_span(tree))

    def _section(self, tree: Any) -> Any:
        keyword, *entries = tree.children
        made = []
        for entry in entries:
            kind = syntax.Entry if entry.data == "entry" else syntax.Choice
            name, value = entry.children
            made.append(kind(self._identifier(name), self.expression(value), self._tree_span(entry)))
        return syntax.Section(self._identifier(keyword), tuple(made), self._tree_span(tree))

    # Expressions

    def _text(self, span: Span) -> str:
        return self.findings.source.text[span.start : span.end]

    def expression(self, tree: Tree[Token]) -> syntax.Expression:
        return getattr(self, f"_{tree.data}")(tree)  # type: ignore[no-any-return]

    def _pipe(self, tree: Any) -> Any:
        first, *rest = (self.expression(c) for c in tree.children)
        if not rest:
            return first
        stages, span = tuple(rest), self._tree_span(tree)
        for stage in stages:
            if isinstance(stage, syntax.Name | syntax.Call):
                continue
            if isinstance(stage, syntax.Chain):
                head = self._text(Span(tree.meta.start_pos, stage.first.span.end))
                tail = self._text(Span(stage.first.span.end, stage.span.end)).strip()
                short = f"({head}) {tail}" if len(head) + len(tail) <= 60 and "\n" not in head + tail else f"(x -> f) {stage.rest[0][0]} y"
                self.findings.add("E107", stage.span, "the pipe binds loosest", help=f"write {short}")
            elif not isinstance(stage, syntax.Broken):
                self.findings.add("E107", stage.span, "this is a value", help="write an operation or a block there, such as x -> dense(10)")
        sound = tuple(s for s in stages if isinstance(s, syntax.Name | syntax.Call))
        return syntax.Pipe(first, sound, span) if len(sound) == len(stages) else syntax.Broken(span)

    def _chain(self, tree: Any) -> Any:
        first = self.expression(tree.children[0])
        operators, operands = tree.children[1::2], tree.children[2::2]
        rest = tuple((str(o), self.expression(e)) for o, e in zip(operators, operands, strict=True))
        return syntax.Chain(first, rest, self._tree_span(tree))

    _sum = _product = _chain

    def _negative(self, tree: Any) -> Any:
        operand = self.expression(tree.children[1])
        if isinstance(operand, syntax.Number):
            return syntax.Number(-operand.value, self._tree_span(tree))
        return syntax.Negative(operand, self._tree_span(tree))

    def _number(self, tree: Any) -> Any:
        text = str(tree.children[0])
        span = self._tree_span(tree)
        digits = text.rstrip("%")
        if len(digits) > 40:
            self.findings.add("E108", span, "more than 40 characters", help="write it as 1.5e10", number=digits[:12] + "...")
            return syntax.Broken(span)
        value = int(digits) if digits.isdigit() else float(digits)
        if value in (float("inf"), float("-inf")):
            self.findings.add("E108", span, "larger than any float64", help="use a smaller exponent", number=digits)
            return syntax.Broken(span)
        if value == 0 and any(c in "123456789" for c in digits.lower().partition("e")[0]):
            self.findings.add("E108", span, "smaller than any float64, and not 0", help="write 0, or a larger number", number=digits)
            return syntax.Broken(span)
        return syntax.Number(value / 100 if text.endswith("%") else value, span)

    def _string(self, tree: Any) -> Any:
        token = str(tree.children[0])[1:-1]
        return syntax.Text(_unescape(token), self._tree_span(tree))

    def _boolean(self, tree: Any) -> Any:
        return syntax.Boolean(str(tree.children[0]) == "true", self._tree_span(tree))

    def _list(self, tree: Any) -> Any:
        return syntax.List(tuple(self.expression(c) for c in tree.children if c is not None), self._tree_span(tree))

    def _group(self, tree: Any) -> Any:
        return self.expression(tree.children[0])

    def _name(self, tree: Any) -> Any:
        return syntax.Name(".".join(str(c) for c in tree.children), self._tree_span(tree))

    def _call(self, tree: Any) -> Any:
        name, *arguments = tree.children
        made, seen, sound = [], False, True
        for argument in arguments:
            if argument is None:
                continue
            label, value = argument.children
            span = self._tree_span(argument)
            identifier = self._identifier(label.children[0]) if label is not None else None
            if identifier is None and seen:
                self.findings.add("E109", span, "it has no name", help="put positional arguments first, or give it its name")
                sound = False
            seen = seen or identifier is not None
            made.append(syntax.Argument(identifier, self.expression(value), span))
        return syntax.Call(self._name(name), tuple(made), self._tree_span(tree)) if sound else syntax.Broken(self._tree_span(tree))

    def _broken(self, tree: Any) -> Any:
        return syntax.Broken(self._tree_span(tree))


def _unescape(text: str) -> str:
    """Backslash escapes of strings: \\n, \\t, and any other character for itself."""
    parts, escaped = [], False
    for character in text:
        if escaped:
            parts.append({"n": "\n", "t": "\t"}.get(character, character))
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            parts.append(character)
    return "".join(parts)
