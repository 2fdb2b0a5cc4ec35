"""The run directory: what `nnc train` leaves, and what eval, predict, export and --resume read.

    spec.nn              the spec as it was trained
    manifest.json        hashes of spec and data, seed, constants, environment
    metrics.jsonl        one line an epoch
    last.safetensors     the newest checkpoint: parameters, optimiser state, place in training
    best.safetensors     the checkpoint of the best epoch, where a validation split or `stop` says what is best
    rows.json            raw rows to verify an export with
    plan.txt             the step that ran
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .files import refuse, write_json, write_text
from .model import Model, load_with

Array = np.ndarray[Any, Any]
KEPT_ROWS = 256
FILES = frozenset(("spec.nn", "manifest.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "rows.json", "plan.txt"))


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

    def require_free(self) -> None:
        """E704 if the directory holds something that is no run: nothing of the user's is written over."""
        if self.path.exists() and not self.path.is_dir():
            refuse("E704", "it is a file", "give another directory with -o", path=str(self.path))
        if self.path.is_dir() and not (self.path / "manifest.json").is_file() and any(self.path.iterdir()):
            refuse("E704", "it holds files that are no run", "give another directory with -o", path=str(self.path))

    def clear(self) -> None:
        """Remove an earlier run's files, and nothing else."""
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)

    def manifest(self) -> dict[str, Any]:
        path = self.path / "manifest.json"
        if not path.is_file():
            refuse("E401", "it is no run directory: it has no manifest.json", "give what `nnc train` printed, such as runs/digits", path=str(self.path))
        try:
            content = json.loads(path.read_text())
            return dict(content)
        except (ValueError, OSError):
            refuse("E702", "manifest.json is not readable", "train again", path=str(self.path))
            raise AssertionError("unreachable") from None

    def write_history(self, history: list[dict[str, Any]]) -> None:
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history))

    def write_rows(self, raw: dict[str, Array], rows: Array) -> None:
        """Keep raw rows, evenly spaced among the given ones."""
        chosen = rows[np.linspace(0, len(rows) - 1, min(KEPT_ROWS, len(rows))).astype(int)]
        content = {name: {"dtype": str(array.dtype), "values": array[chosen].tolist()} for name, array in raw.items()}
        write_text(self.path / "rows.json", json.dumps(content))

    def rows(self) -> dict[str, Array] | None:
        path = self.path / "rows.json"
        if not path.is_file():
            return None
        content = json.loads(path.read_text())
        return {name: np.array(c["values"], object if c["dtype"] == "object" else c["dtype"]) for name, c in content.items()}

    def model(self) -> tuple[Model, dict[str, Any]]:
        """The trained model: the best epoch's where `stop` keeps it, else the last's."""
        self.manifest()
        model, about = load_with(self.last)
        if model.program.train is not None and model.program.train.stop is not None and self.best.is_file():
            model, about = load_with(self.best)
        return model, about


def begin(run: Run, model: Model, data_digest: str, splits: dict[str, int], spec_path: str, data_root: str) -> None:
    """Write what is known before the first step."""
    text = model.program.experiment.source.text
    from .machine import environment

    write_text(run.spec, text)
    write_json(
        run.path / "manifest.json",
        {
            "spec": {"name": spec_path, "sha256": hashlib.sha256(text.encode()).hexdigest()},
            "data": {"sha256": data_digest, "root": data_root, "rows": splits},
            "seed": model.seed,
            "constants": model.program.experiment.overrides,
            "environment": environment(),
        },
    )
