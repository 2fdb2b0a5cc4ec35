"""The graph of an ONNX file as SVG: a box a layer, from the inputs at the top to the outputs at the bottom.

Nodes are one box where their names say that they are one layer. Where that still gives more boxes than anyone reads, names are cut to
fewer parts; then what follows each other without a branch is joined, and at last whatever stands together in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from nnc.compiler.shown import plain

from .charts import COLOURS, EDGE, GREY
from .layered import drawing
from .onnx_file import Kind, Node, OnnxFile

BOXES, ENDS = 80, 24  # at most: of layers, of inputs and of outputs
WIDEST = 44  # characters of a line
LINE, CHARACTER, MARGIN, EDGES = 16, 6.7, 12, 20
INK, PANEL = "#1f2328", "#f6f8fa"
_PASSED = ("Identity", "Constant")  # nodes that are no boxes

Groups = list[list[int]]


@dataclass(frozen=True)
class Box:
    lines: tuple[str, ...]
    learned: bool = False
    end: bool = False  # an input or an output of the file

    @property
    def size(self) -> tuple[float, float]:
        return max(map(len, self.lines)) * CHARACTER + 2 * MARGIN, len(self.lines) * LINE + MARGIN


def graph_picture(file: OnnxFile) -> str:
    """The picture of a file's outermost graph."""
    nodes = [node for node in file.nodes if not node.depth]
    groups = grouped(nodes)
    of = {node: place for place, group in enumerate(groups) for node in group}
    inputs, outputs = [*file.inputs][:ENDS], [*file.outputs][:ENDS]
    boxes = [_end(name, file.inputs[name]) for name in inputs]
    boxes += [_box(file, [nodes[i] for i in group]) for group in groups]
    boxes += [_end(name, file.outputs[name]) for name in outputs]
    boxes += [Box((f"and {more:,} more {what}",), end=True)
              for more, what in ((len(file.inputs) - ENDS, "inputs"), (len(file.outputs) - ENDS, "outputs")) if more > 0]  # fmt: skip
    made = {name: place for place, name in enumerate(inputs)}
    edges: dict[tuple[int, int], None] = {}
    for i, node in enumerate(nodes):
        sources = [made[name] for name in (*node.inputs, *node.captured) if name in made]
        if node.operator in _PASSED:
            made |= dict.fromkeys(node.outputs, sources[0]) if sources else {}
            continue
        here = len(inputs) + of[i]
        edges |= {(source, here): None for source in sources if source < here}  # a group that comes back to itself hides that way
        made |= dict.fromkeys(node.outputs, here)
    for place, name in enumerate(outputs, len(inputs) + len(groups)):
        if name in made:
            edges[made[name], place] = None
    return _svg(boxes, [*edges])


def grouped(nodes: Sequence[Node]) -> Groups:
    """Places of nodes by box, boxes in the order of their first nodes."""
    shown = [i for i, node in enumerate(nodes) if node.operator not in _PASSED]
    paths = {i: nodes[i].layer.split("/") for i in shown}
    groups: Groups = []
    for parts in range(max((len(path) for path in paths.values()), default=0), 0, -1):
        by_path: dict[tuple[str, ...], list[int]] = {}
        for i in shown:
            by_path.setdefault(tuple(paths[i][:parts]), []).append(i)
        groups = [*by_path.values()]
        if len(groups) <= BOXES:
            return groups
    groups = _joined(nodes, groups)
    together = -(-len(groups) // BOXES)
    return [[i for group in groups[start : start + together] for i in group] for start in range(0, len(groups), together)]


def _joined(nodes: Sequence[Node], groups: Groups) -> Groups:
    """Groups that follow each other without a branch, as one."""
    made = {name: place for place, group in enumerate(groups) for i in group for name in nodes[i].outputs if name}
    before: list[set[int]] = [{made[n] for i in group for n in (*nodes[i].inputs, *nodes[i].captured) if n in made} - {p} for p, group in enumerate(groups)]
    after = [0] * len(groups)
    for sources in before:
        for source in sources:
            after[source] += 1
    head = [*range(len(groups))]
    joined: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        if len(before[place]) == 1:
            (source,) = before[place]
            if source < place and after[source] == 1:
                head[place] = head[source]
        joined.setdefault(head[place], []).extend(group)
    return [*joined.values()]


def _box(file: OnnxFile, nodes: Sequence[Node]) -> Box:
    name = _common([node.layer for node in nodes])
    operators = [*dict.fromkeys(node.operator.rpartition(".")[2] for node in nodes)]
    told = ", ".join(operators[:3]) + (f" and {len(operators) - 3} more" if len(operators) > 3 else "")
    kinds = [file.kinds[output] for node in reversed(nodes) for output in node.outputs if output in file.kinds and file.kinds[output].shape is not None]
    shape = f"[{', '.join(map(str, kinds[0].shape or ()))}]" if kinds else ""
    parameters = sum(node.parameters for node in nodes)
    size = f"{parameters:,} parameters" if parameters else ""
    lines = (name or operators[0], "" if name in operators else told, " \u00b7 ".join(part for part in (shape, size) if part))
    return Box(tuple(_short(line) for line in lines if line), learned=parameters > 0)


def _end(name: str, kind: Kind) -> Box:
    return Box((_short(name), _short(str(kind))), end=True)


def _common(names: Sequence[str]) -> str:
    """The name of all, or as many of its parts as they share."""
    parts = [name.split("/") for name in dict.fromkeys(names)]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "/".join(shared) or (f"{names[0]} ... {names[-1].rpartition('/')[2]}" if len(parts) > 1 else names[0])


def _short(text: str) -> str:
    """The end of a long text, which tells more than its beginning."""
    text = plain(text)
    return text if len(text) <= WIDEST else "\u2026" + text[1 - WIDEST :]


def _svg(boxes: Sequence[Box], edges: Sequence[tuple[int, int]]) -> str:
    drawn = drawing([box.size for box in boxes], edges)
    width, height = drawn.width + 2 * EDGES, drawn.height + 2 * EDGES
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        'font-family="system-ui, DejaVu Sans, sans-serif" font-size="12" text-anchor="middle">',
        f'<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{GREY}"/>'
        "</marker></defs>",
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for way in drawn.ways.values():
        parts.append(f'<path d="{_curve(way)}" fill="none" stroke="{GREY}" marker-end="url(#a)"/>')
    for box, (x, y) in zip(boxes, drawn.places, strict=True):
        parts += _drawn(box, x + EDGES, y + EDGES)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _curve(way: Sequence[tuple[float, float]]) -> str:
    x, y = way[0]
    path = f"M{x + EDGES:.1f} {y + EDGES:.1f}"
    for to_x, to_y in way[1:]:
        middle = (y + to_y) / 2 + EDGES
        path += f"C{x + EDGES:.1f} {middle:.1f} {to_x + EDGES:.1f} {middle:.1f} {to_x + EDGES:.1f} {to_y + EDGES:.1f}"
        x, y = to_x, to_y
    return path


def _drawn(box: Box, x: float, y: float) -> Iterable[str]:
    width, height = box.size
    stroke = COLOURS[2] if box.end else COLOURS[0] if box.learned else EDGE
    yield (f'<rect x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{height / 2 if box.end else 6:.0f}" '
           f'fill="{PANEL}" stroke="{stroke}"/>')  # fmt: skip
    for row, line in enumerate(box.lines):
        look = f'font-weight="600" fill="{INK}"' if row == 0 else f'fill="{GREY}"'
        yield f'<text x="{x:.1f}" y="{y + MARGIN / 2 + LINE * row + 12:.1f}" {look}>{escape(line)}</text>'
