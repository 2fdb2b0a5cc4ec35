"""Tokens: where they stand, and what to say about one that does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .diagnostics import suggestion
from .record import record
from .source import Span
from .syntax import RESERVED

if TYPE_CHECKING:
    from lark import Token

OPENING = {"LPAR": ")", "LSQB": "]", "LBRACE": "}"}
CLOSING = frozenset(("RPAR", "RSQB", "RBRACE"))
ITEMS = ("let", "block", "shared block", "network", "data", "train", "tune", "export")
_SPOKEN = {
    "LPAR": "`(`", "RPAR": "`)`", "LSQB": "`[`", "RSQB": "`]`", "LBRACE": "`{`", "RBRACE": "`}`", "COMMA": "`,`",
    "EQUAL": "`=`", "COLON": "`:`", "DOT": "`.`", "PLUS": "`+`", "MINUS": "`-`", "TIMES": "`*`", "OVER": "`/`",
    "FLOOR_OVER": "`//`", "NAME": "a name", "NUMBER": "a number", "STRING": "a string", "$END": "the end",
}  # fmt: skip
_OTHER_LANGUAGES = {
    "for": "there are no loops: `x -> repeat(3, block(64))` stacks copies", "while": "there are no loops: `x -> repeat(3, block(64))` stacks copies",
    "if": "there are no conditions: a spec says what is, not when", "else": "there are no conditions: a spec says what is, not when",
    "import": "nothing is imported: every word is there already", "from": "nothing is imported: every word is there already",
    "def": "a reusable piece of network is a block: block name(x) { ... }", "class": "a reusable piece of network is a block: block name(x) { ... }",
    "const": "a constant is written let name = value", "var": "a constant is written let name = value", "model": "write network(x: float32[4]) { ... }",
}  # fmt: skip
_WHERE = {"item": "the section", "let": "the `let`", "statement": "the statement", "entry": "the entry", "value": "the value"}


@record
class Stop:
    """The token at `index` that does not fit, or the end, and what would have fitted."""

    index: int
    token: Token
    accepted: frozenset[str]


@record
class Unexpected:
    """What a diagnostic says about a token that does not fit."""

    span: Span
    what: str
    label: str
    help: str


def _spoken(terminal: str) -> str:
    return _SPOKEN.get(terminal, "`->`" if terminal.startswith("__ANON") else f"`{terminal.lower()}`")


def span_of(token: Token) -> Span:
    assert token.start_pos is not None
    return Span(token.start_pos, token.start_pos + len(str(token)))


def item_help(token: Token) -> str:
    """What to write where a section should begin."""
    if str(token) in ("/", "//"):
        return "a comment runs from `#` to the end of the line"
    if str(token) in _OTHER_LANGUAGES:
        return _OTHER_LANGUAGES[str(token)]
    close = suggestion(str(token), ITEMS)
    return f"did you mean `{close}`?" if close else f"write one of {', '.join(ITEMS)}"


def _reserved(stop: Stop, before: Token | None) -> Token | None:
    """The reserved word that stands where a name belongs, if that is what is wrong."""
    if stop.token.type != "$END" and str(stop.token) in RESERVED and "NAME" in stop.accepted:
        return stop.token
    # As the name of an argument it would be right, and it is behind it that the `=` is missed.
    return before if before is not None and str(before) in RESERVED and stop.accepted <= {"EQUAL", "DOT"} else None


def unexpected(stop: Stop, tokens: list[Token], where: str) -> Unexpected:
    """What to say about the token at which reading `tokens`, a piece of the kind `where`, stops."""
    token, end = stop.token, stop.index >= len(tokens)
    span = span_of(tokens[-1]) if end else span_of(token)
    what = f"end of {_WHERE[where]}" if end else f"`{token}`"
    before = tokens[stop.index - 1] if stop.index else None
    first, word = str(tokens[0]), _reserved(stop, before)
    if not end and token.type in CLOSING and before is not None and before.type == "COMMA":
        return Unexpected(span_of(before), "`,`", f"nothing follows but `{token}`", "leave it out")
    if not end and token.type == "COMMA" and "RBRACE" in stop.accepted:
        return Unexpected(span, what, "", "leave it out: nothing stands between statements")
    if first in _OTHER_LANGUAGES and where in ("statement", "entry") and stop.index <= 2:
        return Unexpected(span_of(tokens[0]), f"`{first}`", "", _OTHER_LANGUAGES[first])
    if word is not None and where != "item":
        quoted = any(str(t) in ("column", "columns", "except") for t in tokens[: stop.index])
        help = f'a column of this name stands in quotes: "{word}"' if quoted else f"choose another name, such as `{word}_`"
        if str(word) == "shared" and "->" in map(str, tokens[: stop.index]):
            help = "layers share weights in a block: write `shared block f(x) { return x -> dense(3) }` above the network, and f wherever they are used"
        return Unexpected(span_of(word), f"`{word}`", "this word is reserved", help)
    label, help = _wanted(stop, where, end)
    if where == "item" and tokens[0].type == "NETWORK" and (stop.index > 1 or end):
        help = "a network is written network(x: float32[4]) { ... }"
    return Unexpected(span, what, label, help)


def _wanted(stop: Stop, where: str, end: bool) -> tuple[str, str]:
    """Label and help: what would have fitted."""
    accepted = stop.accepted - {"BROKEN"}
    wanted = " or ".join(sorted({_spoken(name) for name in accepted})) if len(accepted) <= 3 else ""
    label = f"expected {wanted}" if wanted else ""
    if not end and stop.token.type == "COLON":
        return label, "write `=`"
    if {"NUMBER", "STRING", "LSQB"} <= accepted:
        return "", "a value belongs here: a number, a string, a name, a call or a list"
    if accepted == {"NAME"} or ("RETURN" in accepted and "NAME" in accepted and stop.index == 0):
        return "a name belongs here", "a name starts with a letter: name = value"
    if not end and stop.token.type == "EQUAL":
        return label, "a statement is `name = value`; a name is one word, without dots or brackets"
    if where == "item" and "$END" in accepted:
        return "a file is made of sections", f"the next one starts with one of {', '.join(ITEMS)}"
    if wanted:
        return label, f"write {wanted} here"
    if where == "item":
        return label, "a section is `name { key = value ... }`"
    return label, "join values with `->`, an operator or a comma; a statement is `name = value`"
