"""The text of a spec and places in it."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

from .record import record


@record
class Span:
    """The half-open range [start, end) of characters of a source."""

    start: int
    end: int

    def to(self, other: Span) -> Span:
        return Span(self.start, other.end)


@record
class Source:
    """A text with the name under which the user knows it."""

    name: str
    text: str

    def location(self, offset: int) -> tuple[int, int]:
        """Line and column of a character, both from 1."""
        starts = _line_starts(self.text)
        line = bisect_right(starts, offset)
        return line, offset - starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a line, counted from 1, without its end."""
        starts = _line_starts(self.text)
        end = starts[number] if number < len(starts) else len(self.text)
        return self.text[starts[number - 1] : end].rstrip("\r\n")


@lru_cache(maxsize=8)
def _line_starts(text: str) -> list[int]:
    return [0, *(position for position, character in enumerate(text, start=1) if character == "\n")]
