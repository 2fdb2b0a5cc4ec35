"""What a run has recorded of its training, read back: epochs, figures, verdicts, the export. Every file is checked: E702 names one that is not as
nnc wrote it. Of a run under way there is less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from nnc.compiler.program import Program

from .files import refuse
from .model import load_with
from .run import Run
from .verdict import Verdict

Figure = float | list[float] | list[list[int]]  # a number, one for each class, a confusion matrix
Figures = dict[str, dict[str, Figure]]
ByLayer = dict[str, float | None]
Content = TypeVar("Content")


class _Read(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)  # what a later version adds is let through


class Watched(_Read):
    """What watch.py saw at the end of an epoch."""

    rows: int
    gradient: ByLayer
    update: ByLayer = {}
    dead: ByLayer = {}
    saturated: ByLayer = {}


class Epoch(_Read):
    epoch: int
    step: int
    lr: float
    train: dict[str, Figure]
    val: dict[str, Figure] = {}
    test: dict[str, Figure] = {}
    watch: Watched | None = None
    seconds: float
    samples_per_second: float


class Agreement(_Read):
    """How far an output of the exported file was from the runtime's."""

    passed: bool
    absolute: float | None
    relative: float | None
    undecided: int
    argmax_agreement: float | None


class Verification(_Read):
    file: str
    sha256: str
    bytes: int
    opset: int
    passed: bool
    rows: int
    real_rows: int
    onnxruntime: str
    providers: list[str]
    bound: dict[str, float | str]
    outputs: dict[str, Agreement]


class Digested(_Read):
    sha256: str


class NamedSpec(Digested):
    name: str


class DataUsed(Digested):
    rows: dict[str, int]


class Manifest(_Read):
    spec: NamedSpec
    data: DataUsed
    members: int = 1
    seed: int
    constants: dict[str, Any]
    environment: dict[str, Any]


@dataclass(frozen=True)
class Training:
    """Of one network; figures and verdict are there when it has finished."""

    epochs: tuple[Epoch, ...]
    figures: Figures | None
    verdict: Verdict | None


@dataclass(frozen=True)
class Recorded:
    """`trainings` has one for each member that was begun; `figures` are of the network, or of the average."""

    program: Program
    manifest: Manifest
    trainings: tuple[Training, ...]
    figures: Figures | None
    verification: Verification | None
    finished: bool

    @property
    def several(self) -> bool:
        return self.manifest.members > 1


def recorded(run: Run) -> Recorded:
    """Everything that a report tells. E401 for no run, E702 for damaged files."""
    run.manifest()
    manifest = _needed(run.path / "manifest.json", TypeAdapter(Manifest))
    program = load_with(run.first)[0].program
    several = manifest.members > 1
    folders = [run.member(index) for index in range(1, manifest.members + 1)] if several else [run]
    trainings = tuple(_training(folder.path) for folder in folders if folder.last.is_file())
    figures = _read(run.path / "figures.json", TypeAdapter(Figures))
    finished = run.ensemble.is_file() if several else trainings[0].verdict is not None
    return Recorded(program, manifest, trainings, figures, _read(run.verification, TypeAdapter(Verification)), finished)


def _training(folder: Path) -> Training:
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines() if path.is_file() else []
    epoch = TypeAdapter(Epoch)
    figures, verdict = _read(folder / "figures.json", TypeAdapter(Figures)), _read(folder / "verdict.json", TypeAdapter(Verdict))
    return Training(tuple(_checked(path, line, epoch) for line in lines), figures, verdict)


def _read(path: Path, kind: TypeAdapter[Content]) -> Content | None:
    """The content of a file, None where there is none."""
    return _needed(path, kind) if path.is_file() else None


def _needed(path: Path, kind: TypeAdapter[Content]) -> Content:
    return _checked(path, path.read_bytes(), kind)


def _checked(path: Path, text: bytes, kind: TypeAdapter[Content]) -> Content:
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "its text"
        refuse("E702", f"{path.name} is not as nnc wrote it: {place} is not what it should be", "train again, or take another copy", path=str(path))


def curves(epochs: tuple[Epoch, ...]) -> Mapping[str, Mapping[str, list[tuple[int, float]]]]:
    """By figure and split, the points (epoch, value) of what is one number."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for epoch in epochs:
        for split, figures in (("train", epoch.train), ("validation", epoch.val), ("test", epoch.test)):
            for name, value in figures.items():
                if not isinstance(value, list):
                    found.setdefault(name, {}).setdefault(split, []).append((epoch.epoch, value))
    return found
