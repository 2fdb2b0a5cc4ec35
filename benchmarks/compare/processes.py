"""Measured processes: each prints one line of JSON, and all contestants take turns."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from conditions import environment

LONGEST = 900.0  # seconds of a process, compilation included
Contestant = TypeVar("Contestant")


def line(command: Sequence[str], caches: Path, **variables: str) -> dict[str, Any]:
    """What a measured process printed; `error` where it failed. `variables` are put into its environment."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST, env=environment(caches) | variables)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {LONGEST:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def interleaved(contestants: Sequence[Contestant], processes: int) -> Iterator[Contestant]:
    """Every contestant once, then again; each round begins with another one, so that none has a fixed place."""
    for number in range(processes):
        start = number % max(len(contestants), 1)
        yield from (*contestants[start:], *contestants[:start])


def outrun(name: str, lines: Sequence[dict[str, Any]], times: float) -> bool:
    """Whether a contestant's best epoch takes so many times as long as the best of all: after two processes, one with empty caches and one without,
    it is known that its median will not be the fastest."""
    mine = [line["epoch"] for line in lines if line["contestant"] == name]
    return len(mine) >= 2 and min(mine) > times * min(line["epoch"] for line in lines)
