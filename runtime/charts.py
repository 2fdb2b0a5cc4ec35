"""Line charts as inline SVG: no script, no font, no file beside it. Lines carry a colour, and a class by which a page may give them another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import ceil, floor, isfinite, log10

Points = Sequence[tuple[float, float | None]]
COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#1b7c83", "#57606a")  # classes c0, c1, ...; further lines are dashed
GREY, EDGE = "#59636e", "#d1d9e0"
WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 40


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / most
    power = 10.0 ** floor(log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def decades(low: float, high: float, most: int = 6) -> list[float]:
    """Exponents of ten around the logarithms of two numbers."""
    first, last = floor(low), max(ceil(high), floor(low) + 1)
    step = -(-(last - first) // most)
    return [float(i) for i in range(first, last + step, step)]


def _label(value: float, log: bool) -> str:
    return f"{10.0**value:.0e}".replace("e-0", "e-").replace("e+0", "e+") if log else f"{value:.6g}"


def line_chart(title: str, lines: Mapping[str, Points], *, log: bool = False, of: str = "epoch") -> str:
    """A figure with its legend; points that are no finite number, or not positive on a logarithmic axis, part a line."""
    drawn = {name: [_point(x, y, log) for x, y in points] for name, points in lines.items()}
    known = [point for points in drawn.values() for point in points if point is not None]
    if not known:
        return ""
    xs = [x for x, _ in known]
    left, right = min(xs), max(max(xs), min(xs) + 1)
    marks = (decades if log else ticks)(min(y for _, y in known), max(y for _, y in known))

    def across(x: float) -> float:
        return LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (y - marks[0]) / (marks[-1] - marks[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" font-size="11" fill="{GREY}">']
    for mark in marks:
        parts.append(f'<path class="grid" stroke="{EDGE}" d="M{LEFT} {up(mark):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up(mark) + 4:.1f}" text-anchor="end">{_label(mark, log)}</text>')
    for mark in (m for m in ticks(left, right) if left <= m <= right and m == round(m)):
        parts.append(f'<text x="{across(mark):.1f}" y="{HEIGHT - 24}" text-anchor="middle">{mark:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(of)}</text>')
    for index, points in enumerate(drawn.values()):
        for run in _runs(points):
            places = [f"{across(x):.1f} {up(y):.1f}" for x, y in run]
            if len(places) == 1:
                x, y = places[0].split()
                parts.append(f'<circle {_look(index)} cx="{x}" cy="{y}" r="3"/>')
            else:
                parts.append(f'<path {_look(index)} d="M{"L".join(places)}"/>')
    parts.append("</svg>")
    sample = '<svg viewBox="0 0 24 8" aria-hidden="true"><path {} d="M0 4H24"/></svg>'
    legend = "".join(f"<li>{sample.format(_look(index))}{escape(name)}</li>" for index, name in enumerate(drawn))
    return f"<figure><figcaption>{escape(title)}</figcaption>{''.join(parts)}<ul class=\"legend\">{legend}</ul></figure>"


def _look(index: int) -> str:
    """The attributes of a line and of its points."""
    number = index % len(COLOURS)
    dashes = ' stroke-dasharray="5 3"' if index >= len(COLOURS) else ""
    return f'class="line c{number}" fill="none" stroke="{COLOURS[number]}"{dashes}'


def _point(x: float, y: float | None, log: bool) -> tuple[float, float] | None:
    if y is None or not isfinite(y) or (log and y <= 0):
        return None
    return x, log10(y) if log else y


def _runs(points: Iterable[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    """Points as far as none is missing between them."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]
