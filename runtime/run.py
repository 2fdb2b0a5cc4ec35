"""The run directory: what `nnc train` leaves, and what eval, predict, export and --resume read.

    manifest.json        hashes of spec and data, rows by split, parameters by layer, seed, constants, environment; it makes the directory a run
    spec.nn              the spec as it was trained
    metrics.jsonl        one line an epoch
    last.safetensors     the newest checkpoint: parameters, optimiser state, place in training
    best.safetensors     the checkpoint of the best epoch, where a validation split or `stop` says what is best
    rows.json            raw rows to verify an export with
    plan.txt             the step that ran
    figures.json         loss and metrics by split of the weights that were kept, once training has ended
    verdict.json         what the learning curve shows, once training has ended
    report.html          the page that `nnc report` writes
    export               the deployment bundle that `nnc export` writes (bundle.py)

The run of an ensemble holds a folder for each member, members/1, members/2, ..., with the files that are a member's own: metrics.jsonl,
last.safetensors, best.safetensors, plan.txt, figures.json, verdict.json. ensemble.safetensors is written when the last has finished.

A run is begun when its first checkpoint is there. The manifest is written first and removed last, so that a directory with a
part of a run in it is always known as nnc's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nnc.compiler.program import Program
from nnc.compiler.watching import by_layer

from .bundle import discard, require_replaceable
from .data.dataset import Dataset
from .data.stored import Column
from .ensemble import Ensemble, load
from .files import TEMPORARY, make_directory, refuse, write_json, write_text
from .initial import weight_files
from .machine import environment
from .model import Model, load_with

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Array = np.ndarray[Any, Any]
KEPT_ROWS = 256
MEMBER_FILES = ("last.safetensors", "best.safetensors", "figures.json", "verdict.json", "metrics.jsonl", "plan.txt")
FILES = (*MEMBER_FILES, "report.html", "rows.json", "spec.nn", "manifest.json")


@dataclass(frozen=True)
class Run:
    path: Path

    @property
    def spec(self) -> Path:
        return self.path / "spec.nn"

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def ensemble(self) -> Path:
        return self.path / "ensemble.safetensors"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def export(self) -> Path:
        """The bundle that `nnc export` writes, where it was not given another place."""
        return self.path / "export"

    @property
    def verification(self) -> Path:
        """What `nnc export` found."""
        return self.export / "verification.json"

    def member(self, index: int) -> Run:
        """Where a member of an ensemble, counted from 1, is trained."""
        return Run(self.path / "members" / str(index))

    @property
    def first(self) -> Path:
        """The checkpoint that shows what was begun here: the network's, or the first member's."""
        return self.last if self.last.is_file() else self.member(1).last

    def _members(self) -> list[Run]:
        """The folders of members that there are."""
        found = sorted(p for p in (self.path / "members").glob("*") if p.name.isdecimal() and p.is_dir())
        return [Run(path) for path in found]

    def require_free(self) -> None:
        """E704 if the directory holds something that is no run: nothing of the user's is written over."""
        if self.path.exists() and not self.path.is_dir():
            refuse("E704", "it is a file", "give another directory with -o", path=str(self.path))
        with _writing(self.path):
            taken = self.path.is_dir() and any(not p.match(TEMPORARY) for p in self.path.iterdir())
        if taken and _manifest(self.path / "manifest.json") is None:
            refuse("E704", "it holds files that are no run", "give another directory with -o", path=str(self.path))
        with _writing(self.export):
            require_replaceable(self.export)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the directory, so that no second training writes into it. The system lets go of it however the process ends."""
        try:
            make_directory(self.path)
            handle = os.open(self.path, os.O_RDONLY) if fcntl is not None else -1
        except OSError as error:
            refuse("E701", str(error.strerror), "choose another place with -o", path=str(self.path))
        try:
            if fcntl is not None:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    refuse("E704", "another nnc is training there", "wait for it, or give another directory with -o", path=str(self.path))
                except OSError:
                    pass  # a file system without locks
            yield
        finally:
            if handle >= 0:
                with suppress(OSError):
                    os.close(handle)

    def tidy(self) -> None:
        """Remove what a killed process left half-written."""
        with _writing(self.path):
            for folder in (self, *self._members()):
                for path in folder.path.glob(TEMPORARY):
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove an earlier run's files, and nothing else; the checkpoint first, the manifest last."""
        with _writing(self.path):
            self.ensemble.unlink(missing_ok=True)
            discard(self.export)  # it is another model's
            for member in self._members():
                for name in MEMBER_FILES:
                    (member.path / name).unlink(missing_ok=True)
                _remove_empty(member.path)
            _remove_empty(self.path / "members")
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)

    def manifest(self) -> dict[str, Any]:
        path = self.path / "manifest.json"
        if not path.is_file():
            refuse("E401", "it is no run directory: it has no manifest.json", "give what `nnc train` printed, such as runs/digits", path=str(self.path))
        content = _manifest(path)
        if content is None:
            refuse("E702", "manifest.json is not as nnc wrote it", "train again", path=str(self.path))
        return content

    def write_history(self, lines: list[str]) -> None:
        write_text(self.path / "metrics.jsonl", "".join(line + "\n" for line in lines))

    def write_figures(self, content: dict[str, Any]) -> None:
        write_json(self.path / "figures.json", content)

    def write_verdict(self, content: dict[str, Any]) -> None:
        write_json(self.path / "verdict.json", content)

    def figures(self) -> dict[str, Any] | None:
        """Loss and metrics by split, None before training has ended; E702 where they are not as they were written."""
        path = self.path / "figures.json"
        try:
            return dict(json.loads(path.read_bytes())) if path.is_file() else None
        except (ValueError, TypeError):
            refuse("E702", "figures.json is not as nnc wrote it", "train again, or take another copy", path=str(self.path))

    def rows(self) -> dict[str, Array] | None:
        """The raw rows that were kept, None where there are none; E702 where they are not as they were kept."""
        path = self.path / "rows.json"
        if not path.is_file():
            return None
        text = path.read_bytes()
        if hashlib.sha256(text).hexdigest() != self.manifest()["rows"]:
            refuse("E702", "rows.json is not as nnc wrote it", "train again, or delete it to verify exports on made-up rows", path=str(self.path))
        return {name: np.array(c["values"], object if c["dtype"] == "object" else c["dtype"]) for name, c in json.loads(text).items()}

    def model(self) -> Model | Ensemble:
        """What was trained: the network, or the average of all members. E521 where members are missing."""
        manifest = self.manifest()
        if self.ensemble.is_file():
            return load(self.ensemble)
        if manifest.get("members", 1) != 1:
            refuse("E521", f"{len(self._members())} of {manifest['members']} members were begun", "finish it: nnc train ... --resume", path=str(self.path))
        return self.network()

    def network(self) -> Model:
        """The trained network: the best epoch's where `stop` keeps it, else the last's."""
        model, _ = load_with(self.last)
        if model.program.train is not None and model.program.train.stop is not None and self.best.is_file():
            model, _ = load_with(self.best)
        return model


def is_run(path: Path) -> bool:
    """Whether something was trained in a directory; its files may have been damaged since."""
    return Run(path).first.is_file() or Run(path).ensemble.is_file() or _manifest(path / "manifest.json") is not None


def _manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a run; None for what is none, such as another program's manifest.json."""
    try:
        content = json.loads(path.read_text("utf-8"))
        texts = content["spec"]["sha256"], content["data"]["sha256"], content["data"]["root"], content["rows"]
    except (ValueError, OSError, KeyError, TypeError, RecursionError):
        return None
    whole = {"split", "weights", "members", "seed", "constants", "environment"} <= content.keys()
    return dict(content) if whole and all(isinstance(text, str) for text in texts) else None


def begin(run: Run, program: Program, data: Dataset, data_root: Path, engine: str) -> None:
    """Write what is known before the first step. Program and data are the first member's, of an ensemble."""
    experiment = program.experiment
    assert experiment.train is not None
    text = experiment.source.text
    rows = json.dumps(_kept(data.raw, data.splits.get("test", data.splits["train"])))
    about = {
        "spec": {"name": experiment.source.name, "sha256": hashlib.sha256(text.encode()).hexdigest()},
        "data": {"sha256": data.digest, "root": str(data_root.resolve()), "rows": {name: len(rows) for name, rows in data.splits.items()}},
        "split": {"sha256": split_digest(data.splits)},
        "weights": weight_files(program, data_root),
        "rows": hashlib.sha256(rows.encode()).hexdigest(),
        "parameters": {layer: sum(prod(p.shape) for p in found) for layer, found in by_layer(program.inference.trainable).items()},
        "members": experiment.members,
        "seed": experiment.train.params.seed,
        "constants": experiment.overrides,
        "environment": environment(engine),
    }
    write_json(run.path / "manifest.json", about)
    write_text(run.spec, text)
    write_text(run.path / "rows.json", rows)


def _kept(raw: Mapping[str, Column], rows: Array) -> dict[str, Any]:
    """Raw rows evenly spaced among the given ones."""
    chosen = rows[np.linspace(0, len(rows) - 1, min(KEPT_ROWS, len(rows))).astype(int)]
    return {name: {"dtype": str(array.dtype), "values": array[chosen].tolist()} for name, array in raw.items()}


def split_digest(splits: Mapping[str, Array]) -> str:
    """SHA-256 over which rows each split holds, in what order."""
    digest = hashlib.sha256()
    for name in sorted(splits):
        digest.update(f"{name}:{len(splits[name])}\n".encode() + splits[name].astype("<i8").tobytes())
    return digest.hexdigest()


def _remove_empty(folder: Path) -> None:
    """Remove a folder that holds nothing of the user's."""
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        refuse("E701", str(error.strerror), "choose another place with -o", path=str(path))
