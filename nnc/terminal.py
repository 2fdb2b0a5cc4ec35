"""What the commands print: tables, figures, and the progress of training."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from .compiler.diagnostics import render_text
from .compiler.shown import bytes_of, figure, plain

if TYPE_CHECKING:
    from .runtime.onnx_file import OnnxFile
    from .runtime.train import Progress
    from .runtime.verdict import Verdict


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[int] = ()) -> str:
    """Columns aligned; those in `right` to the right."""
    cells = [list(header), *([str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    to_right = set(right)
    lines = []
    for row in cells:
        shown = [c.rjust(w) if i in to_right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(shown).rstrip())
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def figures(by_split: Mapping[str, Mapping[str, Any]]) -> str:
    """Loss and metrics, a row a split; matrices below, which no cell holds."""
    names = list(dict.fromkeys(name for found in by_split.values() for name, value in found.items() if not _is_matrix(value)))
    rows = [[split, *(figure(found[n]) if n in found else "" for n in names)] for split, found in by_split.items()]
    matrices = [_matrix(f"{name} on {split}", value) for split, found in by_split.items() for name, value in found.items() if _is_matrix(value)]
    return "\n\n".join([table(["split", *names], rows, range(1, len(names) + 1)), *matrices])


def quantisation(report: Mapping[str, Any]) -> str:
    """A file in fewer bits beside the one before."""
    before, after = report["before"], report["after"]
    rows = [["size", bytes_of(before["bytes"]), bytes_of(after["bytes"])]]
    rows += [[name, figure(value), figure(after["figures"][name])] for name, value in before["figures"].items() if not _is_matrix(value)]
    rows += [[f"time of {size} row{'s' if size != '1' else ''}", f"{spent:.3g} ms", f"{after['milliseconds'][size]:.3g} ms"]
             for size, spent in before["milliseconds"].items()]  # fmt: skip
    said = f"figures on the {report['split']} split, {report['rows']:,} rows; {report['figure']} may get worse by {100 * report['most']:.3g}%"
    return table(["", "float32", report["form"]], rows, (1, 2)) + "\n" + said


def _is_matrix(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], list)


def _matrix(name: str, value: Sequence[Sequence[int]]) -> str:
    """A row a class, a column a decision, by their indices."""
    columns = range(len(value))
    return f"{name}: a row is a class, a column a decision\n" + table(["", *map(str, columns)], [[str(i), *row] for i, row in enumerate(value)],
                                                                      range(len(value) + 1))  # fmt: skip


def verdict(found: Verdict) -> str:
    """What a learning curve shows, and what to try next."""
    return "\n".join([f"verdict: {found.name}", f"  {found.because}", *(f"  try {text}" for text in found.next)])


def verdicts(found: Sequence[Verdict]) -> str:
    """What the members of an ensemble show: each verdict once, the most frequent first, with the numbers of the first member that has it."""
    names = [one.name for one in found]
    paragraphs = []
    for name in sorted(dict.fromkeys(names), key=names.count, reverse=True):
        first = names.index(name)
        told = verdict(found[first]).splitlines()
        told[0] += f", {names.count(name)} of {len(names)} members"
        told[1] = f"  member {first + 1}: {told[1].lstrip()}"
        paragraphs.append("\n".join(told))
    return "\n".join(paragraphs)


def spread(by_split: Mapping[str, Mapping[str, Any]]) -> str:
    """Mean and standard deviation of each figure over the members of an ensemble, a row a split."""
    names = list(dict.fromkeys(name for found in by_split.values() for name in found))
    rows = [[split, *(f"{figure(found[n].mean)} \u00b1 {figure(found[n].std)}" for n in names)] for split, found in by_split.items()]
    return table(["members", *names], rows, range(1, len(names) + 1))


def _cell(text: str, most: int = 60) -> str:
    """A name as far as it fits."""
    text = plain(text)
    return text if len(text) <= most else f"{text[: most // 2 - 2]}...{text[-most // 2 + 1 :]}"


def onnx_file(file: OnnxFile) -> str:
    """What an ONNX file holds: its versions, inputs, outputs, nodes in their order, sizes."""
    about = [("bytes", f"{file.bytes:,}"), ("IR version", str(file.ir_version)), *((f"opset of {d}", str(v)) for d, v in file.opsets.items())]
    about += [("written by", file.producer)] if file.producer else []
    about += [*file.metadata.items()]
    about += [("input", f"{_cell(name)}  {_cell(str(kind))}") for name, kind in file.inputs.items()]
    about += [("output", f"{_cell(name)}  {_cell(str(kind))}") for name, kind in file.outputs.items()]
    rows = []
    for node in file.nodes:
        shapes = [" ".join(_shape(file, name) for name in names if name) for names in (node.inputs, node.outputs)]
        size = [f"{node.parameters:,}" if node.parameters else "", f"{node.bytes:,}" if node.bytes else ""]
        rows.append(["  " * node.depth + _cell(node.layer), _cell(node.operator, 40), *map(_cell, shapes), *size])
    width = max(len(_cell(name, 24)) for name, _ in about)
    total = [f"parameters  {file.parameters:,}", f"arrays      {len(file.arrays):,}, {bytes_of(file.array_bytes)}"]
    if file.external:
        outside = sum(array.bytes for array in file.arrays.values() if array.external)
        total.append(f"elsewhere   {bytes_of(outside)} of them in {_cell(', '.join(file.external))}, which was not opened")
    return "\n".join([*(f"{_cell(name, 24).ljust(width)}  {_cell(value, 100)}" for name, value in about), "",
                      table(["node", "operator", "inputs", "outputs", "parameters", "bytes"], rows, (4, 5)), "", *total])  # fmt: skip


def _shape(file: OnnxFile, name: str) -> str:
    """The shape of a value, its dtype where nothing else is known."""
    kind = file.kinds.get(name)
    return "?" if kind is None else kind.dtype if kind.shape is None else f"[{', '.join(map(str, kind.shape))}]"


def _left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class Line:
    """A line that is drawn over on a terminal, and others above it."""

    INTERVAL = 0.1  # seconds between two drawings

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream if stream is not None else sys.stderr
        self.live = self.stream is not None and self.stream.isatty()
        self.drawn = 0.0
        self.begun = time.monotonic()
        self.width = 0

    def due(self) -> bool:
        """Whether the last drawing is long enough ago."""
        now = time.monotonic()
        if now - self.drawn < self.INTERVAL:
            return False
        self.drawn = now
        return True

    def show(self, text: str) -> None:
        shown = text[: shutil.get_terminal_size().columns - 1]
        self._write("\r" + shown.ljust(self.width))
        self.width = len(shown)

    def note(self, text: str) -> None:
        """A line of its own; the line that is drawn over goes on below it."""
        self._write(("\r" + " " * self.width + "\r" if self.width else "") + text + "\n")
        self.width = 0

    def close(self) -> None:
        """Leave the last drawing as it is."""
        if self.width:
            self._write("\n")
            self.width = 0

    def _write(self, text: str) -> None:
        """Work outlives its terminal: an output that takes nothing more is left alone."""
        if self.stream is None:
            return
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            self.stream, self.live = None, False


class Rows(Line):
    """How many rows are done, and how fast; nothing elsewhere than on a terminal."""

    def __init__(self, stream: TextIO | None = None):
        super().__init__(stream)
        self.rows = 0

    def __call__(self, more: int) -> None:
        self.rows += more
        if self.live and self.due():
            self.show(f"{self.rows:,} rows  {self.rows / (time.monotonic() - self.begun + 1e-9):,.0f} rows/s")


class Lines(Line):
    """Training's progress: one line that is drawn over on a terminal, one plain line an epoch elsewhere."""

    def __init__(self, stream: TextIO | None = None):
        super().__init__(stream)
        self.epochs = 0
        self.first = 0.0  # epochs that were done before this process began
        self.known = ""  # the figures of the last epoch
        self.advised = False
        self.member = ""  # which of an ensemble's members is trained

    def observe(self) -> Progress:
        from .runtime.train import Progress

        return Progress(self.start, self.step if self.live else Progress.on_step, self.epoch, self.of_member, self.note)

    def of_member(self, index: int, count: int) -> None:
        self.member = f"member {index}/{count}  "
        self.known = ""

    def start(self, model: Any, data: Any, train: Any, epoch: int) -> None:
        self.epochs, self.first = train.epochs, epoch
        self.begun = time.monotonic()
        rows = ", ".join(f"{name} {len(rows):,}" for name, rows in data.splits.items())
        parameters = sum(a.size for a in model.parameters.values())
        for diagnostic in model.program.findings.advice if not self.advised else ():
            self.note(render_text(diagnostic))
        self.advised = True
        resumed = f", from epoch {epoch + 1}" if epoch else ""
        self.note(f"{self.member}training {parameters:,} parameters on {rows} rows{resumed}")

    def step(self, epoch: int, done: int, rows: int, loss: float, speed: float) -> None:
        if self.due():
            self._draw(f"{self.member}epoch {epoch + 1}/{self.epochs}  {done / rows:4.0%}  loss {figure(loss)}{self.known}", epoch + done / rows, speed)

    def epoch(self, record: Mapping[str, Any]) -> None:
        figures = [f"{split}.{name} {figure(value)}" for split in ("train", "val", "test") for name, value in record.get(split, {}).items()
                   if not _is_matrix(value)]  # fmt: skip
        if self.live:
            self.known = "".join(f"  {f}" for f in figures if not f.startswith("train.loss"))
            self._draw(f"{self.member}epoch {record['epoch']}/{self.epochs}  100%  loss {figure(record['train']['loss'])}{self.known}",
                       record["epoch"], record["samples_per_second"])  # fmt: skip
        else:
            self._write("  ".join([f"{self.member}epoch {record['epoch']}/{self.epochs}", *figures, f"{record['samples_per_second']:,.0f} samples/s"]) + "\n")

    def _draw(self, text: str, epochs: float, speed: float) -> None:
        done = (epochs - self.first) / max(1e-9, self.epochs - self.first)
        left = (time.monotonic() - self.begun) / done * (1 - done) if done > 0 else 0.0
        self.show(f"{text}  {speed:,.0f} samples/s  {_left(left)} left")
