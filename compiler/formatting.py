"""The one layout of a spec: what `nnc fmt` writes.

Only white space changes. Tokens and comments stay as they are and in their order, which is asserted on every text that is returned, so a
layout can never change what a spec means. Names and their `=` stand in columns, and so do comments behind lines, as far as no empty
line parts them. An item or a body that was written on one line and fits stays on one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import TypeVar

from .diagnostics import Findings
from .parse import parse, tokens_of
from .source import Source
from .tokens import CLOSING, OPENING
from .wrapping import ARROW, VALUE_ENDS, WIDTH, Comment, Line, Page, Piece, flat, flow, pipe, split

INDENT = 2
MOST_PADDING = 12  # of first arrows that are put under each other
_COMMENT = re.compile(r"#[^\n]*")
_DEFINES = ("=", "in")
_ITEM_WORDS = frozenset(("LET", "BLOCK", "SHARED", "NETWORK", "DATA", "TRAIN", "TUNE", "EXPORT"))


@dataclass
class Statement:
    """`names = value`, `name in domain`, `let name = value`, or `return ...`, whose target is empty."""

    word: str  # `let`, `return`, or nothing
    target: list[Piece]
    sign: str
    value: list[Piece]
    after_blank: bool
    behind: str = ""

    @property
    def name(self) -> str:
        return " ".join(part for part in (self.word, flat(self.target)) if part)


@dataclass
class Body:
    """`header { ... }`"""

    header: list[Piece]
    brace: Piece
    rows: list[Statement | Comment]
    after_blank: bool
    one_line: bool
    behind: str = ""


Row = Statement | Body | Comment
AnyRow = TypeVar("AnyRow", bound=Row)


def formatted(source: Source) -> str:
    """The text in the one layout; raises SpecError where it does not parse."""
    findings = Findings(source)
    parse(source, findings)
    findings.stop_on_errors()
    pieces, first = _pieces(source.text)
    text = "".join(f"{line}\n" for line in _file([*first, *_items(pieces)]))
    assert _content(text) == _content(source.text), "only white space changes"
    return text


def _content(text: str) -> tuple[list[str], list[str]]:
    pieces, first = _pieces(text)
    return [p.text for p in pieces], [c.text for c in (*first, *(c for p in pieces for c in p.comments))]


# Text -> pieces


def _pieces(text: str) -> tuple[list[Piece], list[Comment]]:
    """The tokens of a text that parses, each with the comments behind it; and the comments before the first."""
    pieces: list[Piece] = []
    first: list[Comment] = []
    end = 0
    for kind, word, start in (*tokens_of(text), ("", "", len(text))):
        lines, ends = 0 if pieces else 1, end
        for found in _COMMENT.finditer(text, end, start):
            skipped = text.count("\n", ends, found.start())
            comment = Comment(found.group().rstrip(), lines + skipped > 0, skipped > 1)
            (pieces[-1].comments if pieces else first).append(comment)
            lines, ends = lines + skipped, found.end()
        skipped = text.count("\n", ends, start)
        if word:
            pieces.append(Piece(kind, word, start, lines + skipped > 0, skipped > 1))
        end = start + len(word)
    return pieces, first


def _take(piece: Piece) -> tuple[str, list[Comment]]:
    """The comment behind the last piece of something, and those on lines of their own below it, which are its no more."""
    comments, piece.comments = piece.comments, []
    if comments and not comments[0].alone:
        return comments[0].text, comments[1:]
    return "", comments


# Pieces -> items


def _items(pieces: Sequence[Piece]) -> Iterator[Row]:
    """The items of a file in turn, and the comments between them."""
    starts = [*_item_starts(pieces), len(pieces)]
    for start, end in pairwise(starts):
        item = list(pieces[start:end])
        if item[0].kind == "LET":
            yield from _statement(item)
        else:
            opening = next(i for i, piece in enumerate(item) if piece.kind == "LBRACE")
            yield from _body(item[:opening], item[opening], item[opening + 1 :])


def _item_starts(pieces: Sequence[Piece]) -> Iterator[int]:
    """Where items start: at the word of one outside brackets, unless it is the `block` of a `shared block` or the `train` of `train.loss`."""
    depth = 0
    for index, piece in enumerate(pieces):
        follows = pieces[index + 1].text if index + 1 < len(pieces) else ""
        shared = index > 0 and pieces[index - 1].kind == "SHARED"
        if depth == 0 and piece.kind in _ITEM_WORDS and follows != "." and not shared:
            yield index
        depth += (piece.kind in OPENING) - (piece.kind in CLOSING)


def _body(header: list[Piece], brace: Piece, inside: list[Piece]) -> list[Body | Comment]:
    """A body, and the comments below it."""
    closing = inside[-1]
    after_brace, below_brace = _take(brace)
    rows: list[Statement | Comment] = [*below_brace]
    brace.comments = [Comment(after_brace, False, False)] if after_brace else []
    starts = _starts(inside[:-1])
    for start, end in zip(starts, [*starts[1:], len(inside) - 1], strict=True):
        rows += _statement(inside[start:end])
    behind, below = _take(closing)
    noted = any(isinstance(row, Comment) or row.behind for row in rows) or any(p.comments for p in (brace, *inside))
    turned = any(p.on_new_line for p in inside[:-1])
    return [Body(header, brace, rows, header[0].after_blank, not (noted or turned), behind), *below]


def _starts(body: Sequence[Piece]) -> list[int]:
    """Where statements start: at `return`, and behind a whole value at `a, b =` or `name in`."""
    starts, depth = [], 0
    for index, piece in enumerate(body):
        free = depth == 0 and (not index or body[index - 1].kind in VALUE_ENDS)
        if free and (piece.kind == "RETURN" or (piece.kind == "NAME" and _is_target(body, index))):
            starts.append(index)
        depth += (piece.kind in OPENING) - (piece.kind in CLOSING)
    return starts


def _is_target(body: Sequence[Piece], start: int) -> bool:
    """Whether `a, b =` or `name in` begins at a piece."""
    end = start + 1
    while end + 1 < len(body) and body[end].kind == "COMMA" and body[end + 1].kind == "NAME":
        end += 2
    return end < len(body) and body[end].text in _DEFINES


def _statement(pieces: list[Piece]) -> list[Statement | Comment]:
    """A statement, and the comments below it; those inside its target move above it."""
    behind, below = _take(pieces[-1])
    word = pieces[0].text if pieces[0].kind in ("LET", "RETURN") else ""
    named = pieces[1:] if word else pieces
    sign = 0 if word == "return" else next(i for i, p in enumerate(named) if p.text in _DEFINES) + 1
    target, value = named[: max(0, sign - 1)], named[sign:]
    above: list[Comment] = []
    for piece in pieces[: len(pieces) - len(value)]:
        above += [Comment(c.text, True, pieces[0].after_blank and not above) for c in piece.comments]
        piece.comments = []
    return [*above, Statement(word, target, named[sign - 1].text if sign else "", value, pieces[0].after_blank and not above, behind), *below]


# Items -> lines


def _file(rows: list[Row]) -> Iterator[str]:
    _part(rows)
    for index, paragraph in enumerate(_paragraphs(rows)):
        if index:
            yield ""
        plain: list[Statement | Comment] = []
        for row in paragraph:
            if isinstance(row, Body):
                yield from _with_comments(_lines(plain, 0))
                plain = []
                yield from _body_lines(row)
            else:
                plain.append(row)
        yield from _with_comments(_lines(plain, 0))


def _part(rows: list[Row]) -> None:
    """Put an empty line between items, above the comments that belong to the lower one; not between two `let`s."""
    above: int | None = None
    for index, row in enumerate(rows):
        if isinstance(row, Comment):
            continue
        if above is not None and not (isinstance(row, Statement) and isinstance(rows[above], Statement)):
            between = rows[above + 1 : index + 1]
            if not any(r.after_blank for r in between):
                rows[above + 1] = replace(between[0], after_blank=True)
        above = index


def _paragraphs(rows: Sequence[AnyRow]) -> Iterator[list[AnyRow]]:
    """Rows as far as no empty line parts them."""
    paragraph: list[AnyRow] = []
    for row in rows:
        if paragraph and row.after_blank:
            yield paragraph
            paragraph = []
        paragraph.append(row)
    if paragraph:
        yield paragraph


def _with_comments(lines: Sequence[Line]) -> Iterator[str]:
    """Lines with their comments in one column."""
    column = max((len(line.text) for line in lines if line.comment), default=0)
    for line in lines:
        if line.comment and line.text.strip():
            yield f"{line.text:<{column}}  {line.comment}"
        else:
            yield line.text + line.comment


def _body_lines(body: Body) -> Iterator[str]:
    page = Page()
    flow(page, body.header, 0, spaced=1)
    if page.closed:
        page.turn(0)
    else:
        page.put(" ")
    page.put("{")
    if body.one_line and len(page.lines) == 1:
        inside = "  ".join(_flat(row) for row in body.rows if isinstance(row, Statement))
        line = f"{page.lines[0].text} {inside} }}" if inside else f"{page.lines[0].text}}}"
        if len(line) <= WIDTH:
            yield from _with_comments([Line(line, body.behind)])
            return
    for comment in body.brace.comments:
        page.note(comment, 0)
    yield from _with_comments(page.lines)
    for index, paragraph in enumerate(_paragraphs(body.rows)):
        if index:
            yield ""
        yield from _with_comments(_lines(paragraph, INDENT))
    yield from _with_comments([Line("}", body.behind)])


def _flat(statement: Statement) -> str:
    value = flat(statement.value, 0 if statement.word == "return" else -1)
    return " ".join(part for part in (statement.name, statement.sign, value) if part)


def _lines(rows: Sequence[Statement | Comment], indent: int) -> list[Line]:
    """The rows of a paragraph, names and first arrows in columns."""
    width = max((len(row.name) for row in rows if isinstance(row, Statement) and row.sign), default=0)
    lines: list[Line] = []
    for key, group in groupby(_heads(rows, indent, width), lambda head: head.key):
        heads = list(group)
        padding = _padding(heads) if key else 0
        for head in heads:
            if padding:
                head.lines[-1].text = f"{head.start}{head.text:<{padding}}{head.rest}"
            lines += head.lines
    return lines


@dataclass
class _Head:
    """A row as it stands by itself; for a pipe on one line, what it begins with, and `key`, equal for those that are built alike."""

    lines: list[Line]
    key: str = ""
    start: str = ""
    text: str = ""
    rest: str = ""


def _heads(rows: Sequence[Statement | Comment], indent: int, width: int) -> Iterator[_Head]:
    for row in rows:
        if isinstance(row, Comment):
            yield _Head([Line(" " * indent, row.text)])
            continue
        start = f"{' ' * indent}{row.name:<{width}} {row.sign} " if row.sign else f"{' ' * indent}{row.name} "
        page = pipe(Page(start), row.value) if row.sign else _results(Page(start), row.value)
        page.lines[-1].comment = row.behind
        head, *stages = split(row.value, ARROW)
        found = _Head(page.lines)
        if row.sign and stages and len(page.lines) == 1:
            text = flat(head)
            found = _Head(page.lines, _key(head, stages[0]), start, text, page.lines[0].text[len(start) + len(text) :])
        yield found


def _key(head: Sequence[Piece], stage: Sequence[Piece]) -> str:
    """Equal for calls of one word, and for plain names that go into the same operation; nothing for others."""
    if all(p.kind in ("NAME", "DOT") for p in head):
        return f"-> {stage[1].text}"
    closed, depth = [], 0
    for index, piece in enumerate(head):
        depth += (piece.kind in OPENING) - (piece.kind in CLOSING)
        closed += [index] if depth == 0 else []
    return f"{head[0].text}()" if closed == [0, len(head) - 1] and head[1].kind == "LPAR" else ""


def _padding(heads: Sequence[_Head]) -> int:
    """The length that heads are brought to, 0 where they differ too much or a line would grow too long."""
    lengths = [len(head.text) for head in heads]
    fits = all(len(head.start) + max(lengths) + len(head.rest) <= WIDTH for head in heads)
    return max(lengths) if fits and max(lengths) - min(lengths) <= MOST_PADDING else 0


def _results(page: Page, pieces: Sequence[Piece]) -> Page:
    """The page with what a `return` gives: values with or without a name, each further one beside the last or under the first."""
    column = page.column
    begun = 1
    for index, result in enumerate(split(pieces, ",")):
        if index:
            comma, *result = result
            flow(page, [comma], column)
            turned = result[0].on_new_line or len(page.lines) > begun or page.column + 1 + len(flat(result, 0)) > WIDTH
            if page.closed or turned:
                page.turn(column)
            else:
                page.put(" ")
        begun = len(page.lines)
        named = len(result) > 1 and result[1].text == "="
        if named:
            flow(page, result[:2], column, spaced=0)
            page.put("" if page.closed else " ")
        page = pipe(page, result[2:] if named else result)
    return page
