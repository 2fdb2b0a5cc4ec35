"""Draw docs/picture.svg: specs/digits.nn beside what `nnc run` prints for it. `python docs/picture.py` runs it and draws it anew."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINE, CHARACTER, MARGIN, GAP = 17, 7.25, 18, 28
COLOURS = {"comment": "#6e7781", "keyword": "#cf222e", "string": "#0a3069", "number": "#0550ae", "operation": "#8250df", "plain": "#1f2328"}
TOKENS = re.compile(
    r'(?P<comment>#.*)|(?P<string>"[^"]*")|(?P<keyword>\b(?:let|network|data|train|export|return)\b(?!=))'
    r"|(?P<number>\b\d[\d.e%-]*%?)|(?P<operation>\b[a-z_0-9]+(?=\()|(?<=-> )[a-z_0-9]+)|(?P<plain>.)"
)


def coloured(line: str) -> str:
    """The tokens of a spec's line as tspans."""
    parts: list[tuple[str, str]] = []
    for match in TOKENS.finditer(line):
        kind = match.lastgroup or "plain"
        if parts and parts[-1][0] == kind:
            parts[-1] = (kind, parts[-1][1] + match.group())
        else:
            parts.append((kind, match.group()))
    return "".join(f'<tspan fill="{COLOURS[kind]}">{escape(text)}</tspan>' for kind, text in parts)


def panel(x: float, width: float, height: float, title: str, lines: list[str], dark: bool) -> str:
    ground, ink = ("#0d1117", "#e6edf3") if dark else ("#ffffff", "#1f2328")
    rows = [f'<rect x="{x}" y="8" width="{width}" height="{height}" rx="8" fill="{ground}" stroke="#d0d7de"/>',
            f'<text x="{x + MARGIN}" y="30" fill="#6e7781">{escape(title)}</text>']  # fmt: skip
    for i, line in enumerate(lines):
        text = escape(line) if dark else coloured(line)
        rows.append(f'<text x="{x + MARGIN}" y="{54 + i * LINE}" fill="{ink}" xml:space="preserve">{text}</text>')
    return "\n".join(rows)


def picture(spec: list[str], output: list[str]) -> str:
    widths = [max(map(len, lines)) * CHARACTER + 2 * MARGIN for lines in (spec, output)]
    height = 54 + max(len(spec), len(output)) * LINE
    total = sum(widths) + GAP
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total:.0f} {height + 16}" '
        f'font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="12">',
        panel(1, widths[0], height, "digits.nn", spec, dark=False),
        panel(widths[0] + GAP - 1, widths[1], height, "a terminal", output, dark=True),
        "</svg>",
    ]) + "\n"  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "digits.nn"
        spec.write_text((ROOT / "specs" / "digits.nn").read_text())
        done = subprocess.run([sys.executable, "-m", "nnc", "run", "digits.nn"], cwd=folder, capture_output=True, text=True, check=True)
    epochs = [line for line in done.stderr.splitlines() if line.startswith(("training", "epoch"))]
    shown = ["$ nnc run digits.nn", *epochs[:3], "...", *epochs[-2:], *done.stdout.splitlines()]
    text = (ROOT / "specs" / "digits.nn").read_text().rstrip().splitlines()
    Path(__file__).with_name("picture.svg").write_text(picture(text, shown))


if __name__ == "__main__":
    main()
