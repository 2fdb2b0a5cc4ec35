"""Tokens -> lines: the spaces between tokens, where a line ends, and under what the next one starts.

Lines end where the text had them end before a `->` of a statement and behind a comma in brackets, since that is how a writer groups, and
wherever the next piece would pass WIDTH. A pipe goes on under its first arrow; what stands in brackets goes on behind the opening one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .record import record
from .tokens import CLOSING, OPENING

WIDTH = 132
ARROW = "->"
_ATOMS = frozenset(("NAME", "NUMBER"))
_PRODUCTS = ("*", "/", "//")
VALUE_ENDS = frozenset(("NAME", "NUMBER", "STRING", "TRUE", "FALSE", "RPAR", "RSQB"))


@record
class Comment:
    """From `#` to the end of its line; `alone` where nothing stands before it there."""

    text: str
    alone: bool
    after_blank: bool  # an empty line stands above it


@dataclass
class Piece:
    """A token, how it stands in the text, and the comments between it and the next one."""

    kind: str
    text: str
    start: int
    on_new_line: bool
    after_blank: bool
    comments: list[Comment] = field(default_factory=list)


@dataclass
class Line:
    text: str
    comment: str = ""


class Page:
    """Lines under construction; the last one is open until a comment closes it."""

    def __init__(self, start: str = ""):
        self.lines = [Line(start)]

    def copy(self) -> Page:
        page = Page()
        page.lines = [Line(line.text, line.comment) for line in self.lines]
        return page

    @property
    def column(self) -> int:
        return len(self.lines[-1].text)

    @property
    def closed(self) -> bool:
        return bool(self.lines[-1].comment)

    def put(self, text: str) -> None:
        self.lines[-1].text += text

    def turn(self, indent: int) -> None:
        """Begin a new line."""
        self.lines[-1].text = self.lines[-1].text.rstrip(" ")
        self.lines.append(Line(" " * indent))

    def note(self, comment: Comment, indent: int) -> None:
        """A comment behind the line, or on one of its own."""
        if comment.alone or self.closed:
            self.turn(indent)
        self.lines[-1].comment = comment.text


# Spaces


def _between(pieces: Sequence[Piece], index: int, depth: int, spaced: int) -> str:
    """What stands between a piece and the one before it; `=` has spaces in up to `spaced` brackets, where it defines a name."""
    before, piece = pieces[index - 1], pieces[index]
    tight_after = before.kind in ("LPAR", "LSQB", "DOT") or (before.text == "=" and depth > spaced)
    tight_before = piece.kind in ("RPAR", "RSQB", "DOT", "COMMA", "COLON") or (piece.text == "=" and depth > spaced)
    called = piece.kind in ("LPAR", "LSQB") and before.kind in ("NAME", "NETWORK")
    signed = before.text == "-" and _is_sign(pieces, index - 1)
    return "" if tight_after or tight_before or called or signed or _is_ratio(pieces, index) or _is_ratio(pieces, index - 1) else " "


def _is_sign(pieces: Sequence[Piece], index: int) -> bool:
    return not index or pieces[index - 1].kind not in VALUE_ENDS


def _is_ratio(pieces: Sequence[Piece], index: int) -> bool:
    """Whether a piece is the `/` of a fraction of two plain values, as in 1/255, which is written without spaces."""
    if pieces[index].text != "/" or not 0 < index < len(pieces) - 1:
        return False
    left = pieces[index - 2].text if index > 1 else ""
    right = pieces[index + 2].text if index + 2 < len(pieces) else ""
    plain = pieces[index - 1].kind in _ATOMS and pieces[index + 1].kind in _ATOMS
    return plain and left not in (*_PRODUCTS, ".") and right not in (*_PRODUCTS, ".", "(")


def flat(pieces: Sequence[Piece], spaced: int = -1) -> str:
    """All on one line."""
    text, depth = "", 0
    for index, piece in enumerate(pieces):
        depth -= piece.kind in CLOSING
        text += (_between(pieces, index, depth, spaced) if index else "") + piece.text
        depth += piece.kind in OPENING
    return text


def split(pieces: Sequence[Piece], at: str) -> list[list[Piece]]:
    """The pieces cut before each `at` outside brackets."""
    parts: list[list[Piece]] = [[]]
    depth = 0
    for piece in pieces:
        depth += (piece.kind in OPENING) - (piece.kind in CLOSING)
        if piece.text == at and depth == 0:
            parts.append([])
        parts[-1].append(piece)
    return parts


# Lines


def flow(page: Page, pieces: Sequence[Piece], indent: int, spaced: int = -1) -> None:
    """Add pieces to a page; a line that ends outside brackets goes on at `indent`."""
    columns = [indent]
    for index, piece in enumerate(pieces):
        depth = len(columns) - 1
        if page.closed:
            page.turn(columns[-1])
        elif index:
            gap = _between(pieces, index, depth - (piece.kind in CLOSING), spaced)
            if _may_turn(pieces, index, depth) and (_was_turned(pieces, index) or page.column + len(gap) + _reach(pieces, index, spaced - depth) > WIDTH):
                page.turn(columns[-1])
            else:
                page.put(gap)
        page.put(piece.text)
        if piece.kind in OPENING:
            columns.append(page.column)
        elif piece.kind in CLOSING:
            columns.pop()
        for comment in piece.comments:
            page.note(comment, columns[-1])


def _may_turn(pieces: Sequence[Piece], index: int, depth: int) -> bool:
    """Whether a line may end before a piece: behind a comma in brackets, before an operator or an inner arrow."""
    if pieces[index - 1].kind == "COMMA":
        return depth > 0
    return pieces[index].text == ARROW or (pieces[index].text in ("+", "-") and not _is_sign(pieces, index))


def _was_turned(pieces: Sequence[Piece], index: int) -> bool:
    return pieces[index - 1].kind == "COMMA" and pieces[index].on_new_line


def _reach(pieces: Sequence[Piece], index: int, spaced: int) -> int:
    """The length from a piece to where the line may end next at the same depth, or to the end of what closes there."""
    depth = 0
    for end in range(index, len(pieces)):
        if depth <= 0 and end > index and (pieces[end - 1].kind == "COMMA" or _may_turn(pieces, end, 1)):
            break
        depth += (pieces[end].kind in OPENING) - (pieces[end].kind in CLOSING)
    else:
        end = len(pieces)
    return len(flat(pieces[index:end], spaced))


def pipe(page: Page, pieces: Sequence[Piece]) -> Page:
    """The page with a value added where it stands: `head -> stage -> stage`, its lines one under another."""
    head, *stages = split(pieces, ARROW)
    start = page.column

    def laid(beside: bool) -> Page:
        """With the first arrow beside the head, and the others under it; or all of them under the head."""
        made = page.copy()
        flow(made, head, start)
        under = made.column + 1 if beside and not made.closed else start
        for index, stage in enumerate(stages):
            wanted = stage[0].on_new_line or made.column + 1 + len(flat(stage)) > WIDTH if index else not beside
            if made.closed or wanted:
                made.turn(under)
            else:
                made.put(" ")
            flow(made, stage, under)
        return made

    beside = not stages or not stages[0][0].on_new_line
    made = laid(beside)
    if stages and beside and any(len(line.text) > WIDTH for line in made.lines):
        made = laid(beside=False)
    return made
