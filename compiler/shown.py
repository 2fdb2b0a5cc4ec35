"""Numbers and names as people read them: on the terminal and on the page of a report."""

from __future__ import annotations

import re
from typing import Any

BYTES = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}


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
    unit, size = next(((unit, size) for unit, size in BYTES.items() if number >= size), ("B", 1))
    return f"{number / size:.3g} {unit}" if number < 1000 * size else f"{number // size:,} {unit}"


def bytes_in(text: str) -> int:
    """The number of bytes that a text such as `2000000`, `500MiB` or `1.5 GiB` means, at least one; ValueError for other texts."""
    found = re.fullmatch(r"(\d+)(?:\.(\d+))? ?(\w*)", text)
    size = BYTES.get(found[3] or "B", 0) if found else 0
    number = int(found[1]) * size + int(found[2] or 0) * size // 10 ** len(found[2] or "") if found else 0
    if number < 1:
        raise ValueError(text)
    return number


def figure(value: Any) -> str:
    """A number; a figure for each class in brackets, the rows of a matrix with a semicolon between them."""
    if isinstance(value, list):
        rows = value if value and isinstance(value[0], list) else [value]
        return "[" + "; ".join(" ".join(str(v) if isinstance(v, int) else figure(v) for v in row) for row in rows) + "]"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"
