"""Constants: numbers, lists and their arithmetic, computed by the compiler."""

from __future__ import annotations

from typing import Any

from . import syntax
from .diagnostics import Findings
from .source import Span
from .values import UNKNOWN, Deferred, Quoted, Scope, Tensors, Unknown, shown

LARGEST = 1e300


class Constants:
    """Evaluates constants, collecting what is wrong. A word or a call stays deferred."""

    def __init__(self, findings: Findings):
        self.findings = findings

    def evaluate(self, expression: syntax.Expression, scope: Scope) -> Any:
        """A constant, a tensor that a name stands for, or a Deferred."""
        match expression:
            case syntax.Broken():
                return UNKNOWN
            case syntax.Number(value=value) | syntax.Boolean(value=value):
                return value
            case syntax.Text(value=value):
                return Quoted(value)
            case syntax.List(items=items):
                return self._list(items, scope)
            case syntax.Name(text=text):
                found = scope.find(text)
                return Deferred(expression, scope) if found is None else found
            case syntax.Negative(operand=operand):
                value = self.evaluate(operand, scope)
                if isinstance(value, bool | str | tuple | Tensors):
                    return self._no_number(operand, value)
                if isinstance(value, Deferred):
                    return Deferred(expression, scope)
                return value if isinstance(value, Unknown) else -value
            case syntax.Chain():
                return self._arithmetic(expression, scope)
        return Deferred(expression, scope)

    def _list(self, items: tuple[syntax.Expression, ...], scope: Scope) -> Any:
        values = []
        for item in items:
            value = self.evaluate(item, scope)
            if isinstance(value, tuple):
                self.findings.add("E206", item.span, "this is a list", argument="an item of a list", expected="a single value",
                                  help="write one flat list: [a, b, c]")  # fmt: skip
                value = UNKNOWN
            values.append(value)
        return UNKNOWN if any(v is UNKNOWN for v in values) else tuple(values)

    def _arithmetic(self, chain: syntax.Chain, scope: Scope) -> Any:
        total = self.evaluate(chain.first, scope)
        values = [(op, node, self.evaluate(node, scope)) for op, node in chain.rest]
        everything = [(chain.first, total), *((node, value) for _, node, value in values)]
        if any(v is UNKNOWN for _, v in everything):
            return UNKNOWN
        if any(isinstance(v, Deferred | Tensors) for _, v in everything):
            return Deferred(chain, scope)
        for node, value in everything:
            if isinstance(value, bool | str | tuple):
                return self._no_number(node, value)
        for op, node, value in values:
            total = self.combine(op, total, value, node.span, chain.span)
            if total is UNKNOWN:
                return UNKNOWN
        return total

    def combine(self, op: str, left: Any, right: Any, divisor: Span, whole: Span) -> Any:
        """`left op right` of two numbers; UNKNOWN after a report."""
        if op in ("/", "//") and right == 0:
            self.findings.add("E219", divisor, "this is 0", help="divide by another number")
            return UNKNOWN
        try:
            result = {"+": lambda: left + right, "-": lambda: left - right, "*": lambda: left * right,
                      "/": lambda: left / right, "//": lambda: left // right}[op]()  # fmt: skip
        except OverflowError:
            result = float("inf")
        if abs(result) > LARGEST:
            self.findings.add("E219", whole, f"larger than {LARGEST:g}", help="use smaller numbers")
            return UNKNOWN
        return result

    def _no_number(self, node: syntax.Expression, value: Any) -> Unknown:
        self.findings.add("E218", node.span, f"this is {shown(value)}", help="arithmetic is for numbers and for tensors")
        return UNKNOWN
