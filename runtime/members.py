"""The members of an ensemble: the rows that each trains on, and what they and their average are worth.

`held out` are rows judged by those members alone that have not trained on them: out of bag, or out of fold. Weights of 0 and 1 in the
average give these figures in one pass over the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnc.compiler import pipeline
from nnc.compiler.ensemble import weight_input
from nnc.compiler.experiment import Experiment

from .data.dataset import Dataset, Opened
from .data.splits import bootstrap
from .data.stored import Column
from .ensemble import Ensemble
from .files import refuse
from .kernels import generator
from .metrics import Evaluator
from .model import Model

Array = np.ndarray[Any, Any]
Figures = dict[str, dict[str, Any]]  # loss and metrics, by split


def seeds(experiment: Experiment) -> list[int]:
    """The seed of each network: of its initial weights, its bootstrap sample, the order of its epochs, dropout."""
    seed: int = experiment.train.params.seed if experiment.train is not None else 0
    if experiment.members == 1:
        return [seed]
    return [int(generator(seed, "member", index).integers(2**63)) for index in range(1, experiment.members + 1)]


def parts(opened: Opened) -> Iterator[tuple[pipeline.Program, Dataset]]:
    """The program and the data of each member in turn; of the only one, where there is no ensemble."""
    experiment = opened.program.experiment
    if experiment.members == 1:
        yield opened.dataset()
        return
    if experiment.folds is not None:
        yield from (opened.dataset(fold) for fold in range(experiment.members))
        return
    program, data = opened.dataset()
    for seed in seeds(experiment):
        yield program, replace(data, splits=data.splits | {"train": bootstrap(data.splits["train"], seed)})


# Figures


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of a figure over members."""

    mean: float
    std: float


def spread(figures: Sequence[Figures]) -> dict[str, dict[str, Spread]]:
    """Over the members, of every figure that is a number."""

    def over_members(split: str, name: str) -> Spread:
        values = [f[split][name] for f in figures]
        return Spread(float(np.mean(values)), float(np.std(values, ddof=1)))

    return {split: {name: over_members(split, name) for name, v in first.items() if isinstance(v, int | float)} for split, first in figures[0].items()}


@dataclass(frozen=True)
class Rows:
    """Which samples are whose: `splits` of the whole ensemble, the samples that members train on, and what each of them has seen."""

    splits: dict[str, Array]
    pool: Array
    seen: tuple[Array, ...]
    held_out: str  # "" where samples share rows, so that none is really held out


def rows_of(experiment: Experiment, pool: Array, splits: Sequence[Mapping[str, Array]]) -> Rows:
    """From the splits of each member."""
    first = splits[0]
    seen = tuple(s["train"] for s in splits)
    if experiment.folds is not None:
        return Rows({name: rows for name, rows in first.items() if name == "test"}, pool, seen, "out_of_fold")
    assert experiment.data is not None
    cuts = [name.window for name in experiment.data.names.values() if name.window is not None]
    overlapping = bool(cuts) and cuts[0].stride < max(cut.length for cut in cuts)
    return Rows({"train": pool} | {name: rows for name, rows in first.items() if name != "train"}, pool, seen, "" if overlapping else "out_of_bag")


def figures_of(ensemble: Ensemble, raws: Mapping[str, Column], rows: Rows) -> Figures:
    """Loss and metrics of the average on the ensemble's splits, and on held-out rows."""
    found = {}
    whole = Evaluator.of(ensemble)
    for name, chosen in rows.splits.items():
        found[name] = whole.figures(whole.cut(raws, chosen))
    if rows.held_out:
        weights = {weight_input(i): ~np.isin(rows.pool, seen) for i, seen in enumerate(rows.seen, 1)}
        judged = np.any([*weights.values()], axis=0)
        if judged.any():
            held = Evaluator(ensemble.evaluation(weighted=True), ensemble.known, ensemble.arena)
            unseen = held.cut({name: rows_unseen[judged] for name, rows_unseen in weights.items()})
            samples = held.cut(raws, rows.pool[judged])
            found[rows.held_out] = held.figures({**raw, **weight} for raw, weight in zip(samples, unseen, strict=True))
    return found


def require_same(data: Dataset, digest: str) -> None:
    """E511 for data of another digest."""
    if data.digest != digest:
        refuse("E511", "its raw columns have another SHA-256 than at training", "restore the data, or name a file with --data",
               problem="the data has changed")  # fmt: skip


def judged(model: Model | Ensemble, opened: Opened, digest: str) -> tuple[Figures, list[Figures]]:
    """The figures of what was trained on data of this digest, and those of each member of an ensemble; E511 for other data."""
    members: list[Figures] = []
    splits = []
    for member, (_, data) in zip(model.members, parts(opened), strict=True):
        require_same(data, digest)
        evaluator = Evaluator.of(member)
        members.append({split: evaluator.figures(data.batches(split, evaluator.batch)) for split in data.splits})
        splits.append(data.splits)
        raws, pool = data.raw, data.pool
    if not isinstance(model, Ensemble):
        return members[0], []
    return figures_of(model, raws, rows_of(model.program.experiment, pool, splits)), members
