"""Text -> AST. The only importer of lark.

The tokens of a file are cut into its items (a keyword outside all brackets starts one) and every item is parsed by
itself, so that a mistake in one section hides none in another. Nesting is bounded on the tokens, before anything
recursive sees them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedToken

from .. import grammar
from . import syntax
from .diagnostics import Findings, did_you_mean
from .source import Source, Span

MAX_BYTES = 1_000_000
MAX_NESTING = 60
MAX_LEXICAL_ERRORS = 20
RESERVED = frozenset(("let", "data", "train", "tune", "export", "network", "block", "shared", "return", "in", "true", "false"))

_OPENING = {"LPAR": ")", "LSQB": "]", "LBRACE": "}"}
_CLOSING = frozenset(("RPAR", "RSQB", "RBRACE"))
_ITEM_WORDS = {"LET", "BLOCK", "NETWORK", "SHARED", "DATA", "TRAIN", "TUNE", "EXPORT"}
_SPOKEN = {
    "LPAR": "`(`", "RPAR": "`)`", "LSQB": "`[`", "RSQB": "`]`", "LBRACE": "`{`", "RBRACE": "`}`", "COMMA": "`,`",
    "EQUAL": "`=`", "COLON": "`:`", "DOT": "`.`", "PLUS": "`+`", "MINUS": "`-`", "TIMES": "`*`", "OVER": "`/`",
    "FLOOR_OVER": "`//`", "NAME": "a name", "NUMBER": "a number", "STRING": "a string", "$END": "the end",
}  # fmt: skip


@cache
def _lark() -> Lark:
    text = Path(grammar.__file__).with_name("nn.lark").read_text("utf-8")
    return Lark(text, parser="lalr", lexer="basic", start=["item", "pipe"], propagate_positions=True)


def parse(source: Source, findings: Findings) -> syntax.File:
    """The AST of a file; what could not be read is in the findings and missing from the AST."""
    if len(source.text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        findings.add("E105", Span(0, 1), f"the limit is {MAX_BYTES:,} bytes", help="move data into a file of its own")
        return syntax.File((), (), (), ())
    items: list[object] = []
    for tokens in _items(_tokens(source, findings), findings):
        tree = _feed("item", tokens, findings)
        if tree is not None:
            items.append(_Builder(findings).item(tree))

    def of(kind: type) -> tuple:  # type: ignore[type-arg]
        return tuple(item for item in items if isinstance(item, kind))

    return syntax.File(of(syntax.Let), of(syntax.Block), of(syntax.Network), of(syntax.Section))


def parse_expression(source: Source, findings: Findings) -> syntax.Expression | None:
    """The AST of a single value, as `--set name=value` gives it."""
    tokens = list(_tokens(source, findings))
    for group in _balanced(tokens, findings):
        tree = _feed("pipe", group, findings)
        if tree is not None:
            return _Builder(findings).expression(tree)
    if not tokens and not findings.errors:
        findings.add("E102", Span(0, 1), "expected a value", what="the end", help="write a number, a word or a string")
    return None


def _tokens(source: Source, findings: Findings) -> list[Token]:
    """The tokens, with what is no token blanked out and reported."""
    text = source.text
    for _ in range(MAX_LEXICAL_ERRORS):
        try:
            return list(_lark().lex(text))
        except UnexpectedCharacters as stop:
            position = stop.pos_in_stream
            character = text[position]
            if character == '"':
                end = text.find("\n", position)
                end = len(text) if end < 0 else end
                findings.add("E106", Span(position, end), "a string ends on its line", help='close it with `"`')
            else:
                end = position + 1
                shown = character if character.isprintable() else f"U+{ord(character):04X}"
                help = "strings are written with double quotes" if character == "'" else "remove it"
                findings.add("E101", Span(position, end), help=help, character=shown)
            text = text[:position] + " " * (end - position) + text[end:]
    return []


def _items(tokens: list[Token], findings: Findings) -> Iterator[list[Token]]:
    """Cut balanced tokens at the keywords that start an item."""
    for group in _balanced(tokens, findings):
        if group and group[0].type not in _ITEM_WORDS:
            word = str(group[0])
            help = did_you_mean(word, ["let", "block", "shared block", "network", "data", "train", "tune", "export"])
            findings.add("E102", _span(group[0]), "a file is made of sections", what=f"`{word}`", help=help)
            continue
        yield group


def _balanced(tokens: list[Token], findings: Findings) -> Iterator[list[Token]]:
    """Groups of tokens with matching brackets, one for each item; unbalanced ones are reported and left out."""
    group: list[Token] = []
    opened: list[Token] = []
    sound = True
    for token in tokens:
        starts = token.type in _ITEM_WORDS and not (token.type == "BLOCK" and group and group[-1].type == "SHARED")
        # A keyword in a position where only an item can start also ends an item whose brace was forgotten.
        forgotten = (
            len(opened) == 1 and opened[0].type == "LBRACE" and starts and token.column == 1 and group[-1].type != "LBRACE"
        )
        if starts and (not opened or forgotten):
            if opened:
                _unclosed(opened[-1], findings)
                sound = False
            if group and sound:
                yield group
            group, opened, sound = [], [], True
        group.append(token)
        if token.type in _OPENING:
            opened.append(token)
            if len(opened) > MAX_NESTING:
                findings.add("E104", _span(token), f"more than {MAX_NESTING} brackets are open here", help="name the parts")
                return
        elif token.type in _CLOSING:
            if not opened:
                if sound:
                    findings.add("E103", _span(token), "nothing is open here", bracket=str(token), help="remove it")
                sound = False
            elif _OPENING[opened[-1].type] != str(token):
                if sound:
                    findings.add(
                        "E103", _span(token), f"`{opened[-1]}` of line {opened[-1].line} is still open",
                        bracket=str(token), help=f"write `{_OPENING[opened[-1].type]}` first",
                    )  # fmt: skip
                sound = False
                opened.pop()
            else:
                opened.pop()
    if opened and sound:
        _unclosed(opened[-1], findings)
    elif group and sound:
        yield group


def _unclosed(bracket: Token, findings: Findings) -> None:
    close = _OPENING[bracket.type]
    findings.add("E103", _span(bracket), "opened here, never closed", bracket=str(bracket), help=f"add `{close}`")


def _feed(start: str, tokens: list[Token], findings: Findings) -> Tree[Token] | None:
    parser = _lark().parse_interactive(start=start)
    try:
        for token in tokens:
            parser.feed_token(token)
        tree: Tree[Token] = parser.feed_eof(tokens[-1])
        return tree
    except UnexpectedToken as stop:
        token = stop.token
        expected = sorted({_spoken(name) for name in stop.accepts or stop.expected})
        label = f"expected {', '.join(expected)}" if len(expected) <= 4 else ""
        at_end = token.type == "$END"
        span = _span(tokens[-1]) if at_end else _span(token)
        what = "the end" if at_end else f"`{token}`"
        help = "a section is `name { key = value ... }`"
        if str(token) in RESERVED and "a name" in expected:
            label, help = "this word is reserved", f"choose another name, such as `{token}_`"
        elif len(expected) <= 4:
            help = f"write {expected[0]} here" if len(expected) == 1 else "write one of these here"
        elif token.type == "EQUAL":
            help = "a statement is `name = value`; a name is one word, without dots or brackets"
        else:
            help = "a value belongs here: a number, a string, a name, a call or a list"
        findings.add("E102", span, label, what=what, help=help)
        return None


def _spoken(terminal: str) -> str:
    return _SPOKEN.get(terminal, "`->`" if terminal.startswith("__ANON") else f"`{terminal.lower()}`")


def _span(token: Token) -> Span:
    assert token.start_pos is not None
    return Span(token.start_pos, token.start_pos + len(str(token)))


class _Builder:
    """Tree -> AST, one method for each rule; recursion is bounded by MAX_NESTING."""

    def __init__(self, findings: Findings):
        self.findings = findings

    def item(self, tree: Tree[Token]) -> object:
        child = tree.children[0]
        assert isinstance(child, Tree)
        return getattr(self, f"_{child.data}")(child)

    @staticmethod
    def _tree_span(tree: Tree[Token]) -> Span:
        return Span(tree.meta.start_pos, tree.meta.end_pos)

    @staticmethod
    def _identifier(token: Token) -> syntax.Identifier:
        return syntax.Identifier(str(token), _span(token))

    def _let(self, tree):  # type: ignore[no-untyped-def]
        name, value = tree.children
        return syntax.Let(self._identifier(name), self.expression(value), self._tree_span(tree))

    def _block(self, tree):  # type: ignore[no-untyped-def]
        shared, name, *parameters, body = tree.children
        given = tuple(
            syntax.Parameter(self._identifier(p.children[0]), self.expression(p.children[1]) if p.children[1] else None)
            for p in parameters
            if p is not None
        )
        return syntax.Block(self._identifier(name), shared is not None, given, self._body(body), self._tree_span(tree))

    def _network(self, tree):  # type: ignore[no-untyped-def]
        name, *inputs, body = tree.children
        given = tuple(self._input(i) for i in inputs if i is not None)
        identifier = self._identifier(name) if name is not None else None
        return syntax.Network(identifier, given, self._body(body), self._tree_span(tree))

    def _input(self, tree):  # type: ignore[no-untyped-def]
        name, type_tree = tree.children
        dtype, *dims = type_tree.children
        values = tuple(self.expression(d) for d in dims if d is not None)
        span = self._tree_span(type_tree)
        return syntax.Input(self._identifier(name), syntax.Type(self._identifier(dtype), values, span))

    def _body(self, tree):  # type: ignore[no-untyped-def]
        return tuple(self._assignment(s) if s.data == "assignment" else self._return(s) for s in tree.children)

    def _assignment(self, tree):  # type: ignore[no-untyped-def]
        *names, value = tree.children
        identifiers = tuple(self._identifier(n) for n in names)
        return syntax.Assignment(identifiers, self.expression(value), self._tree_span(tree))

    def _return(self, tree):  # type: ignore[no-untyped-def]
        results = []
        for result in tree.children:
            name, value = result.children
            identifier = self._identifier(name) if name is not None else None
            results.append(syntax.Result(identifier, self.expression(value), self._tree_span(result)))
        return syntax.Return(tuple(results), self._tree_span(tree))

    def _section(self, tree):  # type: ignore[no-untyped-def]
        keyword, *entries = tree.children
        made = []
        for entry in entries:
            kind = syntax.Entry if entry.data == "entry" else syntax.Choice
            name, value = entry.children
            made.append(kind(self._identifier(name), self.expression(value), self._tree_span(entry)))
        return syntax.Section(self._identifier(keyword), tuple(made), self._tree_span(tree))

    # Expressions

    def expression(self, tree: Tree[Token]) -> syntax.Expression:
        return getattr(self, f"_{tree.data}")(tree)  # type: ignore[no-any-return]

    def _pipe(self, tree):  # type: ignore[no-untyped-def]
        first, *stages = (self.expression(c) for c in tree.children)
        if not stages:
            return first
        sound = []
        for stage in stages:
            if isinstance(stage, syntax.Name | syntax.Call):
                sound.append(stage)
                continue
            help = "right of `->` stands an operation"
            if isinstance(stage, syntax.Chain):
                operator = stage.rest[0][0]
                help = f"write `(x -> f) {operator} y`: the pipe binds loosest"
            self.findings.add("E107", stage.span, help=help)
        return syntax.Pipe(first, tuple(sound), self._tree_span(tree))

    def _chain(self, tree):  # type: ignore[no-untyped-def]
        first = self.expression(tree.children[0])
        operators, operands = tree.children[1::2], tree.children[2::2]
        rest = tuple((str(o), self.expression(e)) for o, e in zip(operators, operands, strict=True))
        return syntax.Chain(first, rest, self._tree_span(tree))

    _sum = _product = _chain

    def _negative(self, tree):  # type: ignore[no-untyped-def]
        operand = self.expression(tree.children[1])
        if isinstance(operand, syntax.Number):
            return syntax.Number(-operand.value, self._tree_span(tree))
        return syntax.Negative(operand, self._tree_span(tree))

    def _number(self, tree):  # type: ignore[no-untyped-def]
        text = str(tree.children[0])
        span = self._tree_span(tree)
        digits = text.rstrip("%")
        if len(digits) > 40:
            self.findings.add("E108", span, "more than 40 characters", help="write it as 1.5e10", number=digits[:12] + "...")
            return syntax.Number(0, span)
        value = int(digits) if digits.isdigit() else float(digits)
        if value in (float("inf"), float("-inf")):
            self.findings.add("E108", span, "larger than any float64", help="use a smaller exponent", number=digits)
            return syntax.Number(0, span)
        return syntax.Number(value / 100 if text.endswith("%") else value, span)

    def _string(self, tree):  # type: ignore[no-untyped-def]
        token = str(tree.children[0])[1:-1]
        return syntax.Text(_unescape(token), self._tree_span(tree))

    def _boolean(self, tree):  # type: ignore[no-untyped-def]
        return syntax.Boolean(str(tree.children[0]) == "true", self._tree_span(tree))

    def _list(self, tree):  # type: ignore[no-untyped-def]
        return syntax.List(tuple(self.expression(c) for c in tree.children if c is not None), self._tree_span(tree))

    def _group(self, tree):  # type: ignore[no-untyped-def]
        return self.expression(tree.children[0])

    def _name(self, tree):  # type: ignore[no-untyped-def]
        return syntax.Name(".".join(str(c) for c in tree.children), self._tree_span(tree))

    def _call(self, tree):  # type: ignore[no-untyped-def]
        name, *arguments = tree.children
        made, seen = [], False
        for argument in arguments:
            if argument is None:
                continue
            label, value = argument.children
            span = self._tree_span(argument)
            identifier = self._identifier(label.children[0]) if label is not None else None
            if identifier is None and seen:
                self.findings.add("E109", span, "positional", help="put positional arguments first")
            seen = seen or identifier is not None
            made.append(syntax.Argument(identifier, self.expression(value), span))
        return syntax.Call(self._name(name), tuple(made), self._tree_span(tree))


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
