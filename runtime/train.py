"""Training: epochs over the training split, evaluation, early stopping, checkpoints, resumption bit for bit.

Everything that an update depends on is a function of the seed and of counters (the order of an epoch, dropout masks, the
rate), so a checkpoint is the arrays and the counters, and a resumed run continues as if nothing had happened.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from nnc.compiler import pipeline, plan, training
from nnc.compiler.diagnostics import Findings
from nnc.compiler.experiment import TrainParams
from nnc.compiler.lower import MAX_BYTES
from nnc.compiler.source import Source

from . import machine_code
from .data.ahead import Batches
from .data.balance import by_class, draw, size
from .data.dataset import Dataset, Opened, open_data
from .engine import Engine, choose, using
from .ensemble import Ensemble
from .files import refuse, write_text
from .kernels import generator
from .machine import environment
from .members import Figures, Spread, figures_of, parts, rows_of, seeds, spread
from .metrics import Evaluator
from .model import Model, TrainingFailure, load_with
from .run import Run, begin
from .start import start_from
from .steps import Filled, steps_on
from .verdict import Verdict, verdict
from .watch import Watch

Array = np.ndarray[Any, Any]
CHECKPOINT_SECONDS = 60.0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM arrived; everything is saved and `--resume` continues."""


@dataclass
class Progress:
    """What an observer of training is told; the command line draws it."""

    on_start: Callable[[Model, Dataset, TrainParams, int], None] = lambda model, data, train, epoch: None
    on_step: Callable[[int, int, int, float, float], None] = lambda epoch, done, rows, loss, speed: None
    on_epoch: Callable[[dict[str, Any]], None] = lambda record: None
    on_member: Callable[[int, int], None] = lambda index, count: None
    on_note: Callable[[str], None] = lambda text: None


@dataclass
class Place:
    """Where training stands, between two steps. `loss_sum` and `seen` are of the epoch under way."""

    epoch: int = 0
    position: int = 0  # rows of the epoch that are done
    loss_sum: float = 0.0
    best: float | None = None
    best_epoch: int = -1
    waited: int = 0
    finished: bool = False
    stopped_early: bool = False
    reductions: int = 0  # of the rate, by reduce_on_plateau
    plateau_best: float | None = None
    plateau_waited: int = 0


@dataclass
class Result:
    """A finished training. `figures` are loss and metrics by split, of the weights that were kept."""

    model: Model
    figures: Figures
    run: Path
    history: list[dict[str, Any]]
    seconds: float
    stopped_early: bool
    best_epoch: int | None
    verdict: Verdict
    data: Dataset = field(repr=False)


@dataclass(frozen=True)
class Member:
    """What is known of a member when it has finished: its figures, its epochs, the rows of its splits, and what its curve shows."""

    figures: Figures
    history: list[dict[str, Any]]
    splits: dict[str, Array]
    verdict: Verdict


@dataclass
class EnsembleResult:
    """A finished ensemble. `figures` are the average's, by split and on held-out rows."""

    model: Ensemble
    figures: Figures
    members: list[Member]
    run: Path
    seconds: float

    @property
    def spread(self) -> dict[str, dict[str, Spread]]:
        """Mean and standard deviation of each figure over the members."""
        return spread([member.figures for member in self.members])


class Trainer:
    def __init__(self, model: Model, data: Dataset, run: Run, progress: Progress, engine: Engine):
        train = model.program.train
        assert train is not None
        self.model, self.data, self.run, self.progress, self.train, self.engine = model, data, run, progress, train, engine
        self.rows = data.splits["train"]
        experiment = model.program.experiment
        balanced = experiment.data.balanced if experiment.data is not None else None
        self.groups = by_class(self.rows, data.arrays[balanced.name]) if balanced is not None else []
        self.drawn = size(self.groups) if self.groups else len(self.rows)  # rows of an epoch
        self.batch = train.step_size(self.drawn)
        self.steps_per_epoch = -(-self.drawn // self.batch)
        self.steps = steps_on(engine, model, self.batch)
        self.plateau = next((bound.params for bound in train.schedule if "plateau" in bound.operation.facts), None)
        self.scheduled = training.rates(train, self.steps_per_epoch)
        model.rate = self.rate
        self.evaluator = Evaluator.of(model)
        self.watch = Watch(model, data)
        self.place = Place()
        self.history: list[dict[str, Any]] = []
        self.lines: list[str] = []  # the history as it is written, each record encoded once
        self.interrupted = False
        self.saved_at = time.monotonic()
        self.usual = "val.loss" if "validation" in data.splits else ""
        self.monitor = train.stop.params.monitor.name if train.stop else self.usual
        watched = self.plateau.monitor.name if self.plateau and self.plateau.monitor else self.usual or "train.loss"
        self.watched = watched if self.plateau else ""

    # One epoch

    def order(self, epoch: int) -> Array:
        """The rows of an epoch, in the order that the seed and the epoch's number give."""
        rows = np.sort(draw(self.groups, self.model.seed, epoch)) if self.groups else self.rows
        if not self.train.shuffle:
            return rows
        return rows[generator(self.model.seed, "order", epoch).permutation(len(rows))]

    def epoch(self) -> None:
        """The steps of the current epoch from the current position on."""
        place, model = self.place, self.model
        order = self.order(place.epoch)
        data = model.program.experiment.data
        augmented = data.augment if data is not None else ()
        programs: dict[int, Filled] = {}
        begun, seen = time.perf_counter(), 0
        with self.steps.running(), np.errstate(all="ignore"), Batches(self.data.arrays, augmented, model.seed, order, self.batch) as batches:
            for start in range(place.position, len(order), self.batch):
                n = min(self.batch, len(order) - start)
                if n not in programs:
                    programs[n] = self.steps.at(n)
                    batches.attach(programs[n])
                program = programs[n]
                batches.fill(program.inputs, start, model.step_count)
                last = start + n == len(order)
                if last:
                    self.steps.settle()
                    self.watch.remember()
                program.advance()
                place.loss_sum += float(program.outputs["loss"]) * n
                place.position = start + n
                seen += n
                now = time.perf_counter()
                self.progress.on_step(place.epoch, place.position, len(order), place.loss_sum / place.position, seen / (now - begun))
                if not last and (self.interrupted or time.monotonic() - self.saved_at > CHECKPOINT_SECONDS):  # the end of an epoch saves by itself
                    self.checkpoint()
                    if self.interrupted:
                        raise Interrupted
        self.close_epoch(time.perf_counter() - begun, seen)

    def close_epoch(self, seconds: float, seen: int) -> None:
        """Evaluate, record, decide whether this is the best epoch and whether to go on."""
        self.require_finite()
        place = self.place
        record: dict[str, Any] = {
            "epoch": place.epoch + 1,
            "step": self.model.step_count,
            "lr": self.model.rate(self.model.step_count - 1),
            "train": {"loss": place.loss_sum / self.drawn},
        }
        if "validation" in self.data.splits:
            record["val"] = self.figures("validation")
        for split, _, figure in (name.partition(".") for name in {self.monitor, self.watched}):
            if split == "train" and figure != "loss":
                record["train"] |= {k: v for k, v in self.figures("train").items() if k != "loss"}
            elif split == "test":
                record["test"] = self.figures("test")
        record["watch"] = self.watch.look()
        record |= {"seconds": round(seconds, 6), "samples_per_second": round(seen / seconds, 1) if seconds else 0.0}
        self.history.append(record)
        self.lines.append(json.dumps(record))
        place.epoch, place.position, place.loss_sum = place.epoch + 1, 0, 0.0
        improved = self._judge(record)
        self._watch_plateau(record)
        place.finished = place.epoch >= self.train.epochs or place.stopped_early
        if improved:
            self.model.save(self.run.best, {"trainer": asdict(place)})
        self.run.write_history(self.lines)
        self.checkpoint()
        self.progress.on_epoch(record)
        for concern in self.watch.concerns(self.history):
            self.progress.on_note(concern)

    def _judge(self, record: Mapping[str, Any]) -> bool:
        """Whether the monitored figure is the best so far; without one there is no best."""
        if not self.monitor:
            return False
        value = self._cost(self.monitor, record)
        place, stop = self.place, self.train.stop
        least = stop.params.min_delta if stop else 0.0
        improved = isfinite(value) and (place.best is None or value < place.best - least)
        if improved:
            place.best, place.best_epoch, place.waited = value, place.epoch, 0
        else:
            place.waited += 1
            if stop is not None and place.waited >= stop.params.patience:
                place.stopped_early = True
        return improved

    def _cost(self, name: str, record: Mapping[str, Any]) -> float:
        """A figure of the epoch, negative where higher is better."""
        split, _, figure = name.partition(".")
        value: float = record[split][figure]
        return -value if self.evaluator.better(figure) == "higher" else value

    def rate(self, step: int) -> float:
        """The learning rate: the schedule's, times the reductions that a plateau has brought."""
        scheduled = self.scheduled(step)
        if self.plateau is None:
            return scheduled
        least, factor = float(self.plateau.least), float(self.plateau.factor)
        return max(min(scheduled, least), scheduled * factor**self.place.reductions)

    def _watch_plateau(self, record: Mapping[str, Any]) -> None:
        """Count epochs without a better value; reduce the rate when there have been more than `patience`."""
        if self.plateau is None:
            return
        place, value = self.place, self._cost(self.watched, record)
        if isfinite(value) and (place.plateau_best is None or value < place.plateau_best - abs(place.plateau_best) * self.plateau.min_delta):
            place.plateau_best, place.plateau_waited = value, 0
            return
        place.plateau_waited += 1
        if place.plateau_waited > self.plateau.patience:
            place.reductions, place.plateau_waited = place.reductions + 1, 0

    def figures(self, split: str) -> dict[str, float]:
        return self.evaluator.figures(self.data.batches(split, self.evaluator.batch))

    def require_finite(self) -> None:
        """E510 if the update made something infinite or NaN: such a state is never saved over a good one."""
        self.steps.settle()
        for name, array in self.model.state().items():
            if not np.isfinite(array).all():
                findings = Findings(Source("", ""))
                findings.add("E510", None, "in the update", what=f"`{name}`", step=self.model.step_count,
                             help="lower the learning rate, add clip = global_norm(1.0), or scale the data")  # fmt: skip
                raise TrainingFailure(findings.found)

    def checkpoint(self) -> None:
        """Save everything that the next step depends on."""
        self.require_finite()
        self.model.save(self.run.last, {"trainer": asdict(self.place), "history": self.lines, "environment": environment(self.engine.described)})
        self.saved_at = time.monotonic()

    # The whole

    def train_all(self) -> None:
        self.progress.on_start(self.model, self.data, self.train, self.place.epoch)
        with _signals(self):
            while not self.place.finished:
                self.epoch()
                if self.interrupted and not self.place.finished:
                    raise Interrupted

    def resume(self, digest: str) -> None:
        """Continue from the run's checkpoint, made with data of this digest; E511 where it is of another spec, other data or other constants."""
        saved, about = load_with(self.run.last)
        mine, other = json.loads(json.dumps(self.model.about())), saved.about()
        for key, what in (("spec", "the spec has changed"), ("overrides", "the constants given with --set differ"), ("seed", "it is another member's")):
            if mine[key] != other[key]:
                refuse("E511", f"since {self.run.last.name} was written", "train again without --resume, or undo the change", problem=what)
        if digest != self.data.digest:
            refuse("E511", "its raw columns have another SHA-256", "restore the data, or train again without --resume", problem="the data has changed")
        try:
            before, place, lines = about["environment"], Place(**about["trainer"]), list(about["history"])
            history = [json.loads(line) for line in lines]
        except (KeyError, TypeError, ValueError):
            refuse("E702", "it is no checkpoint of a training", "train again without --resume", path=str(self.run.last))
        now = environment(self.engine.described)
        if before != now:
            changed = [key for key in now if before.get(key) != now[key]]
            self.progress.on_note(f"the environment differs ({', '.join(changed)}): the run goes on, but not bit for bit as before")
        self.model.slots()
        self.model.restore(saved.state(), saved.step_count)
        self.place, self.history, self.lines = place, history, lines
        self.run.write_history(self.lines)


    def begin(self) -> None:
        """Write the step that will run, and the checkpoint before the first."""
        write_text(self.run.path / "plan.txt", plan.show(plan.plan(self.model.stepper().graph, self.batch)) + "\n")
        self.checkpoint()

    def result(self, seconds: float) -> Result:
        """What came out: the weights of the best epoch where `stop` keeps them, else the last, and their figures."""
        if self.train.stop is not None and self.run.best.is_file():
            best, _ = load_with(self.run.best)
            self.model.restore(best.state(), best.step_count)
        figures = {split: self.figures(split) for split in self.data.splits}
        place = self.place
        judged = verdict(self.model, self.evaluator, self.data, self.history, figures, place.stopped_early)
        self.run.write_figures(figures)
        self.run.write_verdict(asdict(judged))
        best_epoch = place.best_epoch if place.best_epoch >= 0 else None
        return Result(self.model, figures, self.run.path, self.history, seconds, place.stopped_early, best_epoch, judged, self.data)


class _signals:
    """Ctrl-C, SIGTERM and a closed terminal ask for a checkpoint at the end of the step under way."""

    ASKED = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in self.ASKED:
                if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                    self.before[number] = signal.signal(number, self.ask)

    def ask(self, number: int, frame: FrameType | None) -> None:
        self.trainer.interrupted = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def train(
    source: Source,
    root: Path,
    out: Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    max_bytes: int = MAX_BYTES,
    engine: str | None = None,
    device: str | None = None,
) -> Result | EnsembleResult:
    """Train a spec into a run directory. Raises SpecError where it is refused, TrainingFailure where a value is not finite."""
    run, observer, chosen = Run(out), progress or Progress(), choose(engine, device)
    if chosen.name == "onnxruntime" and device is None:
        observer.on_note("onnxruntime runs the steps on the CPU; --device cuda asks for a GPU")
    if chosen.instead:
        observer.on_note(f"NumPy runs the steps, for the fast engine cannot: {chosen.instead}")
    compiling = f"compiling the loops of the fast engine; they are kept in {machine_code.folder()}"
    with machine_code.announcing(lambda: observer.on_note(compiling)), using(chosen):
        if resume:
            if not run.first.is_file():
                refuse("E511", f"{run.path} holds no checkpoint", "train without --resume", problem="there is nothing to resume")
            overrides = overrides or load_with(run.first)[0].program.experiment.overrides
        else:
            run.require_free()
        opened = _read(source, root, overrides, max_bytes)
        experiment = opened.program.experiment
        several = experiment.members > 1
        if resume and several == run.last.is_file():
            refuse("E511", f"since {run.first.name} was written", "train again without --resume, or undo the change", problem="the spec has changed")
        made = parts(opened)
        first = next(made)  # what the data is refused for is said before there is a directory
        begun = time.perf_counter()
        finished: list[Member] = []
        with run.alone():
            run.tidy()
            digest = run.manifest()["data"]["sha256"] if resume else first[1].digest
            for index, ((program, data), seed) in enumerate(zip(chain((first,), made), seeds(experiment), strict=True), 1):
                if several:
                    observer.on_member(index, experiment.members)
                model = Model(program, seed, data.learned.arrays, data.rows("train"), root, fast=chosen.name == "fast")
                trainer = Trainer(model, data, run.member(index) if several else run, observer, chosen)
                if resume and trainer.run.last.is_file():
                    trainer.resume(digest)
                else:
                    start_from(model, root)
                    if index == 1 and not resume:
                        run.clear()
                        begin(run, program, data, root, chosen.described)
                    trainer.begin()
                try:
                    trainer.train_all()
                    if several and trainer.interrupted:  # in the last step of a member: there is more to do
                        raise Interrupted
                    result = trainer.result(time.perf_counter() - begun)
                except KeyboardInterrupt as stop:  # where steps do not run, too, there is a checkpoint by now
                    raise Interrupted from stop
                if not several:
                    return result
                finished.append(Member(result.figures, result.history, data.splits, result.verdict))
            ensemble = Ensemble([run.member(index).network() for index in range(1, experiment.members + 1)])
            ensemble.save(run.ensemble)
            figures = figures_of(ensemble, data.raw, rows_of(experiment, data.pool, [member.splits for member in finished]))
            run.write_figures(figures)
        return EnsembleResult(ensemble, figures, finished, run.path, time.perf_counter() - begun)


def _read(source: Source, root: Path, overrides: Mapping[str, Any] | None, max_bytes: int) -> Opened:
    """The checked program and its data's source; E514 where the spec is not complete for training."""
    program = pipeline.analyse(source, root=root, overrides=overrides, max_bytes=max_bytes)
    experiment = program.experiment
    if experiment.train is None or experiment.data is None:
        missing = "train" if experiment.train is None else "data"
        findings = Findings(source)
        help = f"write {missing} {{ ... }}; `nnc explain E514` shows one"
        findings.add("E514", None, f"{source.name} has no `{missing}` section", help=help, missing=missing)
        findings.stop_on_errors()
    return open_data(program, root, max_bytes)
