"""Numbers and names as people read them: on the terminal and on the page of a report."""

from __future__ import annotations

from typing import Any


def plain(text: str) -> str:
    """The text with whatever could move a cursor, turn the direction of writing or begin a new line made visible."""
    return "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in text)


def count(number: float) -> str:
    """A large number with its thousands, millions ..."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g}"


def bytes_of(number: int) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"


def figure(value: Any) -> str:
    """A number; a figure for each class in brackets, the rows of a matrix with a semicolon between them."""
    if isinstance(value, list):
        rows = value if value and isinstance(value[0], list) else [value]
        return "[" + "; ".join(" ".join(str(v) if isinstance(v, int) else figure(v) for v in row) for row in rows) + "]"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"
