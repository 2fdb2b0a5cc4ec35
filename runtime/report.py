"""One page about a run: HTML that needs no network, no script and no other file. The same run gives the same bytes.

Every text that comes from a spec, from data or from a file of the run goes through `escape`; the page also forbids scripts and everything from
elsewhere by its content security policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from nnc.compiler.cost import cost
from nnc.compiler.ir import dims
from nnc.compiler.objective import pairs
from nnc.compiler.program import Program
from nnc.compiler.shown import bytes_of, count, figure

from .charts import line_chart
from .members import spread
from .page import STYLE
from .recorded import Epoch, Figures, Recorded, Training, curves
from .verdict import Verdict

MOST_CLASSES = 20  # named in the data's table
NOTHING_YET = "No epoch has ended yet."


def page(run: Recorded) -> str:
    """The report of a run, finished or not."""
    name = run.manifest.spec.name.replace("\\", "/").rpartition("/")[2]
    sections = [
        ("Verdict", _verdicts(run)),
        ("Figures", _figures(run)),
        ("Learning curves", _curves(run)),
        ("What was watched", _watched(run)),
        ("Network", _network(run)),
        ("Data", _data(run)),
        ("Export", _export(run)),
        ("Spec", f"<pre>{escape(run.program.experiment.source.text)}</pre>"),
        ("Environment", _environment(run)),
    ]
    body = "\n".join(f"<section><h2>{title}</h2>\n{content}\n</section>" for title, content in sections if content)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(name)}</h1>\n<p class=\"status\">{escape(_status(run))}</p>\n{body}\n</body>\n</html>\n"
    )


def _status(run: Recorded) -> str:
    """In a line: how far the training came."""
    train = run.program.train
    assert train is not None
    seconds = sum(epoch.seconds for training in run.trainings for epoch in training.epochs)
    if run.several:
        ended = sum(training.verdict is not None for training in run.trainings)
        done = f"{ended} of {run.manifest.members} members"
    else:
        done = f"{len(run.trainings[0].epochs)} of at most {train.epochs} epochs"
    text = f"{done}, {seconds:.1f} s of training"
    return text if run.finished else f"Not finished: {text}. This page shows what there is so far; nnc train --resume goes on."


# Parts of a page


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table; the columns behind the first `words` hold numbers."""

    def row(cells: Sequence[str], tag: str) -> str:
        inner = (f"<{tag}>{escape(cell)}</{tag}>" if i < words else f'<{tag} class="n">{escape(cell)}</{tag}>' for i, cell in enumerate(cells))
        return f"<tr>{''.join(inner)}</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return f'<div class="wide"><table>\n<thead>{row(header, "th")}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _charts(charts: Iterable[str]) -> str:
    drawn = "\n".join(chart for chart in charts if chart)
    return f'<div class="charts">\n{drawn}\n</div>' if drawn else ""


def _title(text: str) -> str:
    return f"<h3>{escape(text)}</h3>\n"


def _by_member(run: Recorded, parts: Iterable[str]) -> str:
    """The part of the only network; of an ensemble those of all members, each folded away."""
    if not run.several:
        return "".join(parts)
    return "\n".join(f"<details><summary>Member {i}</summary>\n{part}\n</details>" for i, part in enumerate(parts, 1) if part)


# Verdict and figures


def _verdicts(run: Recorded) -> str:
    if run.several:
        rows = [[str(i), t.verdict.name, t.verdict.because, "; ".join(t.verdict.next)] for i, t in enumerate(run.trainings, 1) if t.verdict is not None]
        return _table(["member", "verdict", "because", "what to try next"], rows, 4) if rows else ""
    found = run.trainings[0].verdict
    return _verdict(found) if found is not None else ""


def _verdict(found: Verdict) -> str:
    tries = "\n".join(f"<li>{escape(text)}</li>" for text in found.next)
    return f'<p class="verdict"><strong>{escape(found.name)}</strong>: {escape(found.because)}.</p>\n<p>What to try next:</p>\n<ul>\n{tries}\n</ul>'


def _figures(run: Recorded) -> str:
    parts = []
    if run.figures is not None:
        parts.append(_by_split(run.figures, run.program))
    ended = [training.figures for training in run.trainings if training.figures is not None]
    if run.several and len(ended) > 1:
        rows = spread(ended)
        names = list(dict.fromkeys(name for found in rows.values() for name in found))
        cells = [[split, *(f"{figure(f[n].mean)} ± {figure(f[n].std)}" if n in f else "" for n in names)] for split, f in rows.items()]
        parts.append(_title(f"Mean and standard deviation over {len(ended)} members") + _table(["split", *names], cells))
    if run.several:
        parts.append(_members(run.trainings))
    return "\n".join(parts)


def _by_split(figures: Figures, program: Program) -> str:
    """A row a split, and the confusion matrices below."""
    matrices = [(split, name, v) for split, found in figures.items() for name, v in found.items() if isinstance(v, list) and v and isinstance(v[0], list)]
    large = {name for _, name, _ in matrices}
    names = [name for name in dict.fromkeys(n for found in figures.values() for n in found) if name not in large]
    rows = [[split, *(figure(found[n]) if n in found else "" for n in names)] for split, found in figures.items()]
    parts = [_table(["split", *names], rows)]
    parts += [_title(f"{name} on {split}") + _matrix(matrix, _classes(program, name, len(matrix))) for split, name, matrix in matrices]
    return "\n".join(parts)


def _matrix(matrix: Sequence[Any], classes: Sequence[str]) -> str:
    """Rows are targets, columns decisions; the darker a cell, the larger its share of its row."""
    head = "".join(f'<th class="n">{escape(name)}</th>' for name in classes)
    rows = []
    for name, row in zip(classes, matrix, strict=True):
        total = sum(row) or 1
        cells = "".join(f'<td class="n heat{round(10 * n / total)}">{n:,}</td>' for n in row)
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    body = "\n".join(rows)
    return f'<div class="wide"><table class="matrix">\n<thead><tr><th>is \\ decided</th>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _classes(program: Program, metric: str, size: int) -> list[str]:
    """What the rows of a matrix are called: the classes of the target that it is about, else their numbers."""
    assert program.train is not None
    named = metric.rpartition(".")[0]
    for prediction, target in pairs(program.train):
        known = program.prepared.get(target)
        if known is not None and known.column.classes is not None and len(known.column.classes) == size and named in ("", prediction):
            return [str(name) for name in known.column.classes]
    return [str(i) for i in range(size)]


def _members(trainings: Sequence[Training]) -> str:
    """A row a member: its epochs and the figures of one split."""
    ended = [(i, t) for i, t in enumerate(trainings, 1) if t.figures]
    if not ended:
        return ""
    splits = {split for _, t in ended for split in t.figures or ()}
    split = next(s for s in ("validation", "test", "train") if s in splits)
    names = [name for name, value in (ended[0][1].figures or {})[split].items() if not isinstance(value, list)]
    rows = [[str(i), str(len(t.epochs)), *(figure((t.figures or {})[split][n]) for n in names)] for i, t in ended]
    return _title(f"Members on {split}") + _table(["member", "epochs", *names], rows)


# Training


def _curves(run: Recorded) -> str:
    if not any(training.epochs for training in run.trainings):
        return f"<p>{NOTHING_YET}</p>"
    whole = ""
    if run.several:
        losses = [curves(training.epochs)["loss"] for training in run.trainings if training.epochs]
        names = [split for split in ("train", "validation", "test") if any(split in found for found in losses)]
        whole = _charts(line_chart(f"loss, {s}", {f"member {i}": found.get(s, []) for i, found in enumerate(losses, 1)}) for s in names)
    return whole + _by_member(run, (_curves_of(training.epochs) for training in run.trainings))


def _curves_of(epochs: Sequence[Epoch]) -> str:
    charts = [line_chart(name, lines) for name, lines in curves(tuple(epochs)).items()]
    return _charts([*charts, line_chart("learning rate", {"lr": [(epoch.epoch, epoch.lr) for epoch in epochs]})])


def _watched(run: Recorded) -> str:
    parts = _by_member(run, (_watched_of(training.epochs) for training in run.trainings))
    rows = next((epoch.watch.rows for training in run.trainings for epoch in training.epochs if epoch.watch is not None), None)
    return f"<p>At the end of each epoch, on {rows:,} training rows that stay the same.</p>\n{parts}" if parts and rows is not None else ""


def _watched_of(epochs: Sequence[Epoch]) -> str:
    titles = {"gradient": "norm of the gradient, by layer", "update": "last update over the parameters' norm, by layer (1e-3 is usual)",
              "dead": "share of dead units, by layer", "saturated": "share of saturated activations, by layer"}  # fmt: skip
    charts = []
    for kind, title in titles.items():
        lines: dict[str, list[tuple[int, float | None]]] = {}
        for epoch in epochs:
            for layer, value in (getattr(epoch.watch, kind) if epoch.watch is not None else {}).items():
                lines.setdefault(layer, []).append((epoch.epoch, value))
        charts.append(line_chart(title, lines, log=kind in ("gradient", "update")))
    return _charts(charts)


# The model


def _network(run: Recorded) -> str:
    found = cost(run.program)
    declared = run.program.experiment.network.inputs
    rows = [[i.name, "input", str(list(i.shape)) if i.shape else "scalar", "", ""] for i in declared]
    rows += [[c.path, c.operation, c.output, f"{c.parameters:,}" if c.parameters else "", count(c.flops) if c.flops else ""] for c in found.layers]
    samples = run.manifest.data.rows.get("train", 0)
    text = f"{found.parameters:,} parameters ({bytes_of(found.parameter_bytes)})"
    if samples:
        text += f" and {samples:,} training rows: {found.parameters / samples:.3g} parameters for each"
    text += f". {count(found.flops)} operations a row, forward."
    if found.members > 1:
        text += f" The ensemble has {found.members} such networks."
    return _table(["layer", "operation", "output", "parameters", "flops"], rows, 3) + f"\n<p>{escape(text)}</p>"


def _data(run: Recorded) -> str:
    program = run.program
    data, train = program.experiment.data, program.train
    assert data is not None
    assert train is not None
    targets = {target for _, target in pairs(train)}
    inputs = {declared.name for declared in program.experiment.network.inputs}
    rows = []
    for name, declared in data.names.items():
        role = ", ".join(word for word, names in (("input", inputs), ("target", targets)) if name in names)
        known = program.prepared.get(name)
        kind, classes = "", ""
        if known is not None:
            shape = known.column.value.shape[1:]
            kind = known.column.value.dtype + (dims(shape) if shape else "")
            classes = _some([str(c) for c in known.column.classes or ()])
        steps = " -> ".join(step.bound.name for step in declared.steps)
        rows.append([name, role, _some(list(declared.columns)), steps, kind, classes])
    whole = sum(run.manifest.data.rows.values())
    splits = [[split, f"{n:,}", f"{n / whole:.1%}" if whole else ""] for split, n in run.manifest.data.rows.items()]
    source = f"<p>Source: <code>{escape(data.source.name)}</code>.</p>\n"
    return source + _table(["split", "rows", "share"], splits) + "\n" + _table(["name", "role", "columns", "steps", "type", "classes"], rows, 6)


def _some(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > MOST_CLASSES else ""
    return ", ".join(names[:MOST_CLASSES]) + more


def _export(run: Recorded) -> str:
    found = run.verification
    if found is None:
        return "<p>Nothing was exported yet: <code>nnc export</code> does, and verifies it.</p>" if run.finished else ""
    within = f"{found.bound['absolute']:.0e} + {found.bound['relative']:.0e} of the value" if {"absolute", "relative"} <= found.bound.keys() else "the bound"
    text = (f"{found.file}, {bytes_of(found.bytes)}, opset {found.opset}: {'verified' if found.passed else 'not verified'} with onnxruntime "
            f"{found.onnxruntime} ({', '.join(found.providers)}) on {found.rows:,} rows, {found.real_rows:,} of them kept from the data, "
            f"within {within}.")  # fmt: skip
    rows = [[name, "yes" if o.passed else "no", _tiny(o.absolute), _tiny(o.relative), f"{o.argmax_agreement:.2%}" if o.argmax_agreement is not None else "",
             f"{o.undecided:,}"] for name, o in found.outputs.items()]  # fmt: skip
    return f"<p>{escape(text)}</p>\n" + _table(["output", "agrees", "largest difference", "relative", "same decision", "undecided"], rows)


def _tiny(value: float | None) -> str:
    return f"{value:.1e}" if value is not None else "infinite"


def _environment(run: Recorded) -> str:
    about = run.manifest
    rows = [["seed", str(about.seed)], *(["--set " + name, str(value)] for name, value in about.constants.items()),
            ["spec, SHA-256", about.spec.sha256], ["data, SHA-256", about.data.sha256]]  # fmt: skip
    if run.verification is not None:
        rows.append([f"{run.verification.file}, SHA-256", run.verification.sha256])
    return _table(["", ""], [*rows, *_leaves(about.environment)], 2)


def _leaves(content: Mapping[str, Any], above: str = "") -> Iterator[list[str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name} ")
        else:
            yield [above + name, str(value)]
