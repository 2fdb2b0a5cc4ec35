"""Text -> AST. The only importer of lark.

A mistake must not hide another one. The tokens of a file are cut into its items (a keyword outside all brackets starts one),
and an item that does not parse into its statements, each of which is then read by itself. What cannot be read is reported once
and takes part as a `BROKEN` token, a value that nobody complains about again. Nesting is bounded on the tokens, before
anything recursive sees them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import lark
from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedToken

from .. import grammar
from . import syntax
from .build import Builder
from .diagnostics import Findings, Note
from .source import Source, Span
from .syntax import RESERVED as RESERVED
from .tokens import CLOSING, OPENING, Stop, item_help, span_of, unexpected

MAX_BYTES = 100_000
MAX_NESTING = 60
MAX_LEXICAL_ERRORS = 20
_ITEM_WORDS = frozenset(("LET", "BLOCK", "NETWORK", "SHARED", "DATA", "TRAIN", "TUNE", "EXPORT"))
_VALUE_ENDS = frozenset(("NAME", "NUMBER", "STRING", "TRUE", "FALSE", "BROKEN", "RPAR", "RSQB", "RBRACE"))
_OTHER_ARROWS = ("=>", "|>")


@cache
def _lark() -> Lark:
    text = grammar.TEXT.read_text("utf-8")
    tables = grammar.tables(text, lark.__version__)
    if tables is not None:
        ready: Lark = Lark.load(tables)
        return ready
    return Lark(text, parser="lalr", lexer="basic", start=list(grammar.START), propagate_positions=True)


def parse(source: Source, findings: Findings) -> syntax.File:
    """The AST of a file; what could not be read is in the findings, and missing from the AST or broken in it."""
    if len(source.text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        findings.add("E105", Span(0, 1), f"the limit is {MAX_BYTES:,} bytes", help="write data into a file of its own")
        return syntax.File((), (), (), ())
    reader = _Reader(findings)
    tokens = reader.tokens(source.text)
    items: list[object] = []
    for group in reader.groups(tokens):
        tree = reader.item(group)
        if tree is not None:
            items.append(Builder(findings).item(tree))

    def of(kind: type) -> tuple:  # type: ignore[type-arg]
        return tuple(item for item in items if isinstance(item, kind))

    mentions = Counter(str(token) for token in tokens if token.type == "NAME")
    return syntax.File(of(syntax.Let), of(syntax.Block), of(syntax.Network), of(syntax.Section), mentions, frozenset(reader.broken))


def parse_expression(source: Source, findings: Findings) -> syntax.Expression | None:
    """The AST of a single value, as `--set name=value` gives it."""
    reader = _Reader(findings)
    tokens = reader.tokens(source.text)
    if not tokens:
        if not findings.errors:
            findings.add("E102", Span(0, 1), "expected a value", what="end", help="write a number, a word or a string")
        return None
    if not reader.balanced(tokens):
        return None
    tree, stop = _feed("pipe", tokens)
    if stop is not None and not reader.bad:
        reader.unexpected(stop, tokens, "value")
    return Builder(findings).expression(tree) if tree is not None else None


def tokens_of(text: str) -> Iterator[tuple[str, str, int]]:
    """Kind, text and place of each token of a text that parses."""
    for token in _lark().lex(text):
        yield token.type, str(token), span_of(token).start


def _feed(start: str, tokens: list[Token], one_from: int | None = None) -> tuple[Tree[Token] | None, Stop | None]:
    """The tree, or where reading stops. From `one_from` on there is one statement: a second one is what does not fit."""
    parser = _lark().parse_interactive(start=start)
    index = 0
    try:
        for index, token in enumerate(tokens):
            if one_from is not None and index > one_from and token.type == "NAME":
                accepted = frozenset(parser.accepts())
                if "RBRACE" in accepted:
                    return None, Stop(index, token, accepted)
            parser.feed_token(token)
        index = len(tokens)
        return parser.feed_eof(tokens[-1]), None
    except UnexpectedToken as stop:
        return None, Stop(index, stop.token, frozenset(parser.accepts()))


class _Reader:
    """The tokens of one text, cut into pieces that are read by themselves."""

    def __init__(self, findings: Findings):
        self.findings = findings
        self.bad: list[int] = []  # where the text was no token: what goes wrong around it was said already
        self.broken: set[str] = set()  # names of items that could not be read

    def tokens(self, text: str) -> list[Token]:
        """The tokens, with what is no token reported and replaced by something of the same length."""
        strings: set[int] = set()
        words: set[str] = set()
        original = text
        while True:
            try:
                return [token.update(type="BROKEN") if token.start_pos in strings else token for token in _lark().lex(text)]
            except UnexpectedCharacters as stop:
                at = stop.pos_in_stream
                assert at is not None, "lark gives a place"
            if len(self.bad) >= MAX_LEXICAL_ERRORS:
                return []
            character, end, filler = text[at], at + 1, " "
            if character == '"':
                end = self._unclosed_string(text, at)
                if end - at > 1:
                    strings.add(at)
                    filler = '"'
            elif character.isalpha():
                filler, word = "_", self._word(original, at)
                if word not in words:
                    words.add(word)
                    self.findings.add("E101", Span(at, end), "names are made of a-z, A-Z, 0-9 and _", character=character,
                                      help="write the word with these letters")  # fmt: skip
            elif text[at - 1 : at + 1] in _OTHER_ARROWS or text[at : at + 2] in _OTHER_ARROWS:
                at -= text[at - 1 : at + 1] in _OTHER_ARROWS
                end = at + 2
                self.findings.add("E101", Span(at, end), "the pipe is written `->`", help="write `->`", character=text[at:end])
                self.bad.append(at)
                text = f"{text[:at]}->{text[end:]}"
                continue
            elif character == "'":
                quoted = text.find("'", at + 1, text.find("\n", at) % (len(text) + 1))
                end, help = (quoted + 1, f'write "{text[at + 1 : quoted]}"') if quoted > 0 else (end, 'write "..."')
                if end - at > 1:
                    strings.add(at)
                    filler = '"'
                self.findings.add("E101", Span(at, end), "strings stand in double quotes", help=help, character="'")
            else:
                shown = character if character.isprintable() else f"U+{ord(character):04X}"
                help = {";": "leave it out: a statement ends where the next begins", "%": "write it behind a number: 80%"}.get(character, "leave it out")
                self.findings.add("E101", Span(at, end), help=help, character=shown)
            self.bad.append(at)
            text = text[:at] + filler + " " * (end - at - 2) + (filler if end - at > 1 else "") + text[end:]

    def _unclosed_string(self, text: str, at: int) -> int:
        """Where an unclosed string ends as far as can be told: before closing brackets, a comma or a comment."""
        line_end = text.find("\n", at)
        end = at + 1
        while end < (len(text) if line_end < 0 else line_end) and text[end] not in ")]},#":
            end += 1
        self.findings.add("E106", Span(at, end), "a string ends on its line", help='close it with `"`')
        return end

    @staticmethod
    def _word(text: str, at: int) -> str:
        start, end = at, at
        while start and (text[start - 1].isalnum() or text[start - 1] == "_"):
            start -= 1
        while end < len(text) and (text[end].isalnum() or text[end] == "_"):
            end += 1
        return text[start:end]

    # Brackets and items

    def groups(self, tokens: list[Token]) -> Iterator[list[Token]]:
        """The tokens of each item. Items whose brackets do not match are reported, and left out as broken."""
        starts = []
        opened: list[Token] = []
        for index, token in enumerate(tokens):
            before = tokens[index - 1] if index else None
            starts_item = token.type in _ITEM_WORDS and not (token.type == "BLOCK" and before is not None and before.type == "SHARED")
            # A keyword at the start of a line, where only a statement could stand, ends an item whose bracket was forgotten.
            follows = tokens[index + 1].type if index + 1 < len(tokens) else ""
            forgotten = opened and token.column == 1 and before is not None and before.type not in ("COMMA", "LPAR") and follows != "EQUAL"
            if not index or (starts_item and follows != "DOT" and (not opened or forgotten)):
                starts.append(index)
                opened = []
            if token.type in OPENING:
                opened.append(token)
                if len(opened) > MAX_NESTING:
                    self.findings.add("E104", span_of(token), f"more than {MAX_NESTING} brackets are open here", help="name the parts")
                    self.broken.update(str(t) for t in tokens if t.type == "NAME")
                    tokens = tokens[: starts[-1]]
                    starts.pop()
                    break
            elif token.type in CLOSING:
                while opened and OPENING[opened[-1].type] != str(token):
                    opened.pop()
                if opened:
                    opened.pop()
        for start, end in pairwise([*starts, len(tokens)]):
            group = tokens[start:end]
            if group[0].type not in _ITEM_WORDS:
                self._no_item(group)
            elif self.balanced(group):
                yield group
            else:
                self._break(group)

    def _no_item(self, group: list[Token]) -> None:
        token = group[0]
        self._break(group)
        if not self._was_bad(span_of(token)):
            assigned = len(group) > 1 and token.type == "NAME" and group[1].type == "EQUAL"
            help = f"write let {token} = ..." if assigned else item_help(token)
            self.findings.add("E102", span_of(token), "a file is made of sections", what=f"`{token}`", help=help)

    def _break(self, group: list[Token]) -> None:
        """Remember the keyword and the name of an item that cannot be used."""
        self.broken.add(str(group[0]))
        self.broken.update(str(t) for t in group[:3] if t.type == "NAME")

    def balanced(self, group: list[Token]) -> bool:
        """Whether brackets match; the first that does not is reported."""
        opened: list[Token] = []
        for token in group:
            if token.type in OPENING:
                opened.append(token)
            elif token.type in CLOSING:
                if all(OPENING[bracket.type] != str(token) for bracket in opened):
                    self.findings.add("E103", span_of(token), "no bracket for it is open here", bracket=str(token), help="leave it out")
                    return False
                if OPENING[opened[-1].type] != str(token):
                    bracket = opened[-1]
                    if not self._was_bad(Span(span_of(bracket).start, span_of(token).end)):
                        self.findings.add("E103", span_of(token), f"`{bracket}` of line {bracket.line} is still open", bracket=str(token),
                                          notes=(Note(span_of(bracket), "opened here"),), help=f"write `{OPENING[bracket.type]}` first")  # fmt: skip
                    return False
                opened.pop()
        if opened:
            if not self._was_bad(Span(span_of(opened[-1]).start, span_of(group[-1]).end)):
                close = OPENING[opened[-1].type]
                self.findings.add("E103", span_of(opened[-1]), "opened here, never closed", bracket=str(opened[-1]), help=f"add `{close}`")
            return False
        return True

    def _was_bad(self, span: Span) -> bool:
        return any(span.start <= at <= span.end for at in self.bad)

    # Items and statements

    def item(self, group: list[Token]) -> Tree[Token] | None:
        """The tree of an item; statements that cannot be read are broken in it."""
        tree, stop = _feed("item", group)
        if stop is None:
            return tree
        repaired = self._repaired(group, stop)
        if repaired:
            tree, stop = _feed("item", repaired)
            if stop is None:
                return tree
        self._break(group)
        return None

    def _repaired(self, group: list[Token], stop: Stop) -> list[Token]:
        """The tokens with every unreadable statement reported and replaced; none where the item cannot be used."""
        if group[0].type == "LET":
            if "$END" in stop.accepted and stop.index:
                self._stray(group[stop.index], stop, group)
                return group[: stop.index]
            self.unexpected(stop, group, "let")
            named = len(group) > 2 and group[1].type == "NAME" and group[2].type == "EQUAL" and stop.index > 2
            return [*group[:3], _broken(group[2])] if named else []
        opening = next((i for i, token in enumerate(group) if token.type == "LBRACE"), None)
        if opening is None:
            self.unexpected(stop, group, "item")
            return []
        depth, closing = 0, opening
        for closing in range(opening, len(group)):
            depth += {"LBRACE": 1, "RBRACE": -1}.get(group[closing].type, 0)
            if depth == 0:
                break
        brace = group[closing]
        if closing + 1 < len(group):
            self._stray(group[closing + 1], stop, group)
        header = group[: opening + 1]
        _, problem = _feed("item", [*header, brace])
        if problem is not None:
            self.unexpected(problem, header, "item")
        statements = group[0].type in ("NETWORK", "BLOCK", "SHARED")
        generic = [Token("NETWORK", ""), Token("LPAR", ""), Token("RPAR", "")] if statements else [Token("DATA", "")]
        generic.append(Token("LBRACE", ""))
        body = group[opening + 1 : closing]
        kept: list[Token] = []
        cuts = [0, *_statements(body, statements), len(body)]
        for start, end in pairwise(dict.fromkeys(cuts)):
            until = span_of(body[end]).start if end < len(body) else span_of(brace).start
            kept += self._statement(generic, body[start:end], brace, until, statements)
        return [*header, *kept, brace] if problem is None else []

    def _statement(self, header: list[Token], chunk: list[Token], brace: Token, until: int, network: bool) -> list[Token]:
        """One statement, or what stands for it after a report."""
        _, stop = _feed("item", [*header, *chunk, brace], one_from=len(header))
        if stop is None:
            return chunk
        index = stop.index - len(header)
        place = Stop(index, stop.token, stop.accepted)
        if not self._was_bad(Span(span_of(chunk[0]).start, until)):
            self.unexpected(place, chunk, "statement" if network else "entry")
        if stop.token.type == "COMMA" and index == len(chunk) - 1 and "RBRACE" in stop.accepted:
            return chunk[:-1]
        if "RBRACE" in stop.accepted and 0 < index < len(chunk) and chunk[index].line != chunk[index - 1].line:
            return chunk[:index]
        target, first = _target(chunk, 0, network), chunk[0]
        if target:
            return [*target, _broken(target[-1])]
        if first.type == "NAME" and len(chunk) > 1:  # `h x -> f`: a name that lacks its `=`
            return [first, Token.new_borrow_pos("EQUAL", "=", first), _broken(first)]
        return []

    def _stray(self, token: Token, stop: Stop, group: list[Token]) -> None:
        """Something between two items."""
        if self._was_bad(span_of(token)):
            return
        if token.type == "NAME" or "$END" in stop.accepted:
            self.findings.add("E102", span_of(token), "a file is made of sections", what=f"`{token}`", help=item_help(token))
        else:
            self.unexpected(Stop(group.index(token), token, stop.accepted), group, "item")

    def unexpected(self, stop: Stop, tokens: list[Token], where: str) -> None:
        """Report the token that does not fit, unless what stands there was reported before."""
        said = unexpected(stop, tokens, where)
        if where in ("let", "item") and self._was_bad(Span(span_of(tokens[0]).start, said.span.end)):
            return
        self.findings.add("E102", said.span, said.label, what=said.what, help=said.help)


def _statements(body: list[Token], network: bool) -> list[int]:
    """Where statements start in a body, outside brackets: at `return`, `a, b =`, `name in`, and at a name that stands first on its
    line behind a complete value.
    """
    starts, depth = [], 0
    for index, token in enumerate(body):
        depth += (token.type in OPENING) - (token.type in CLOSING)
        before = body[index - 1] if index else None
        inside = before is not None and before.type in (("COMMA", "RETURN", "DOT") if network else ("DOT",))
        first = before is not None and before.type in _VALUE_ENDS and token.type == "NAME" and token.line != before.line
        again = before is not None and before.type == "RETURN"
        if depth == 0 and not again and (token.type == "RETURN" or first or (not inside and _target(body, index, network))):
            starts.append(index)
    return starts


def _target(tokens: list[Token], start: int, network: bool) -> list[Token]:
    """The `a, b =` or `return` of a statement, or the `name in` of an entry, that begins at `start`; empty where there is none."""
    if start < len(tokens) and tokens[start].type == "RETURN":
        return tokens[start : start + 1]
    index = start
    while index + 1 < len(tokens) and tokens[index].type == "NAME":
        following = tokens[index + 1].type
        if following == "EQUAL" or (following == "IN" and not network):
            return tokens[start : index + 2]
        if following != "COMMA":
            break
        index += 2
    return []


def _broken(at: Token) -> Token:
    return Token.new_borrow_pos("BROKEN", "?", at)
