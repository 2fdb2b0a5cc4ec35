"""Small experiments and the command line, for the tests of runs, data and commands."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from nnc.cli import main
from nnc.runtime.files import TEMPORARY, read_arrays
from nnc.runtime.train import Progress

Array = np.ndarray[Any, Any]

# Everything whose state must survive an interruption: dropout, batch norm, adam, a schedule, early stopping, a shuffled order.
DIGITS = """
let epochs = 6
network(image: float32[64]) {
  hidden = image -> dense(16, bias=false) -> batch_norm -> relu -> dropout(0.2)
  return probabilities = hidden -> dense(10) -> softmax
}
data {
  source = digits()
  image  = column(pixels) -> standardize
  label  = column(digit)
  split  = random(train=60%, validation=20%, test=20%, stratify=label, seed=1)
}
train {
  loss      = cross_entropy(probabilities, label)
  optimizer = adam(lr=0.003)
  schedule  = warmup(epochs=1) -> cosine(to=1e-5)
  penalty   = l2(1e-4)
  batch     = 32
  epochs    = epochs
  stop      = early_stopping(monitor=val.loss, patience=3)
  metrics   = [accuracy]
  seed      = 5
}
"""
STEPS = 34  # in an epoch: 1,078 rows in batches of 32

# A training of a few milliseconds.
TINY = """
network(x: float32[1]) {
  return y = x -> dense(2) -> tanh -> dense(1)
}
data {
  source = table(x=[0, 1, 2, 3, 4, 5, 6, 7], t=[1, 3, 5, 7, 9, 11, 13, 15])
  x = column(x) -> standardize
  t = column(t) -> standardize
  split = ordered(train=75%, validation=25%)
}
train {
  loss = mse(y, t)
  optimizer = adam(lr=0.05)
  batch = 2
  epochs = 2
  stop = early_stopping(monitor=val.loss, patience=5)
  metrics = [mae]
}
"""


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str

    def errors(self) -> list[str]:
        """The codes of the errors it printed."""
        return [line[6:10] for line in self.err.splitlines() if line.startswith("error[")]


def nnc(*arguments: str | Path) -> Said:
    """The command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse
            status = int(stop.code or 0)
    return Said(status, out.getvalue(), err.getvalue())


def command(*arguments: str | Path) -> list[str]:
    """The command line of a process of its own."""
    return [sys.executable, "-P", "-m", "nnc", *map(str, arguments)]


def process(*arguments: str | Path, **given: Any) -> Said:
    """The command, in a process of its own."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, check=False, **given)
    return Said(done.returncode, done.stdout, done.stderr)


def refused(said: Said, code: str, *words: str, status: int = 1) -> str:
    """What a refusal says: exactly one error, of this code, with these words, and no traceback."""
    assert said.status == status, said
    assert said.errors() == [code], said.err
    assert "Traceback" not in said.err
    for word in words:
        assert word in said.err, f"{word!r} is not in:\n{said.err}"
    return said.err


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def at_step(step: int, stop: Callable[[], object]) -> Progress:
    """An observer of a training that stops it in this step."""
    seen = count(1)

    def on_step(*_: Any) -> None:
        if next(seen) == step:
            stop()

    return Progress(on_step=on_step)


def interrupt() -> None:
    """Ctrl-C, as the terminal gives it."""
    os.kill(os.getpid(), signal.SIGINT)


def raising(error: type[BaseException]) -> Callable[[], object]:
    def stop() -> None:
        raise error

    return stop


def digest(arrays: Mapping[str, Array]) -> str:
    """SHA-256 over names, types and bytes of all arrays."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def history(run: Path) -> list[dict[str, Any]]:
    """The epochs of a run, without the times that they took."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{k: v for k, v in record.items() if k not in ("seconds", "samples_per_second")} for record in records]


def outcome(run: Path) -> tuple[str, str, list[dict[str, Any]]]:
    """What must be equal of two runs, bit for bit."""
    return digest(read_arrays(run / "last.safetensors")[0]), digest(read_arrays(run / "best.safetensors")[0]), history(run)


def leftovers(folder: Path) -> list[Path]:
    """Files that were not finished."""
    return sorted(folder.rglob(TEMPORARY))
