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
from math import isfinite
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from nnc.compiler import pipeline, plan, training
from nnc.compiler.diagnostics import Findings, Refusal
from nnc.compiler.experiment import TrainParams
from nnc.compiler.lower import MAX_BYTES
from nnc.compiler.schema import Files
from nnc.compiler.source import Source

from .data.augment import augment
from .data.dataset import Dataset, load
from .executor import Program
from .files import read_any_arrays, refuse, write_text
from .kernels import generator
from .machine import environment
from .metrics import Evaluator
from .model import Model, TrainingFailure, load_with
from .run import Run, begin
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
    figures: dict[str, dict[str, float]]
    run: Path
    history: list[dict[str, Any]]
    seconds: float
    stopped_early: bool
    best_epoch: int | None
    verdict: Verdict
    data: Dataset = field(repr=False)


class Trainer:
    def __init__(self, model: Model, data: Dataset, run: Run, progress: Progress):
        train = model.program.train
        assert train is not None
        self.model, self.data, self.run, self.progress, self.train = model, data, run, progress, train
        self.rows = data.splits["train"]
        self.batch = len(self.rows) if train.batch == "full" else min(int(train.batch), len(self.rows))
        self.steps_per_epoch = -(-len(self.rows) // self.batch)
        self.plateau = next((bound.params for bound in train.schedule if "plateau" in bound.operation.facts), None)
        self.scheduled = training.rates(train, self.steps_per_epoch)
        model.rate = self.rate
        self.evaluator = Evaluator(model)
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
        if not self.train.shuffle:
            return self.rows
        return self.rows[generator(self.model.seed, "order", epoch).permutation(len(self.rows))]

    def epoch(self) -> None:
        """The steps of the current epoch from the current position on."""
        place, model = self.place, self.model
        order = self.order(place.epoch)
        data = model.program.experiment.data
        augmented = data.augment if data is not None else ()
        programs: dict[int, tuple[Program, list[tuple[Array, Array]]]] = {}
        begun, seen = time.perf_counter(), 0
        with np.errstate(all="ignore"):
            for start in range(place.position, len(order), self.batch):
                chosen = order[start : start + self.batch]
                n = len(chosen)
                if n not in programs:
                    program = model.step_program(n)
                    programs[n] = program, [(self.data.arrays[name], array) for name, array in program.inputs.items()]
                program, feeds = programs[n]
                for source, target in feeds:
                    source.take(chosen, 0, target, "clip")
                if augmented:
                    augment(program.inputs, augmented, model.seed, model.step_count)
                last = start + n == len(order)
                if last:
                    self.watch.remember()
                model.advance(program)
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
            "train": {"loss": place.loss_sum / len(self.rows)},
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
        for name, array in self.model.state().items():
            if not np.isfinite(array).all():
                findings = Findings(Source("", ""))
                findings.add("E510", None, "in the update", what=f"`{name}`", step=self.model.step_count,
                             help="lower the learning rate, add clip = global_norm(1.0), or scale the data")  # fmt: skip
                raise TrainingFailure(findings.found)

    def checkpoint(self) -> None:
        """Save everything that the next step depends on."""
        self.require_finite()
        self.model.save(self.run.last, {"trainer": asdict(self.place), "history": self.lines, "environment": environment()})
        self.saved_at = time.monotonic()

    # The whole

    def train_all(self) -> None:
        self.progress.on_start(self.model, self.data, self.train, self.place.epoch)
        with _signals(self):
            while not self.place.finished:
                self.epoch()
                if self.interrupted and not self.place.finished:
                    raise Interrupted

    def resume(self, saved: Model, about: Mapping[str, Any]) -> None:
        """Continue from a checkpoint; E511 where it is of another spec, other data or other constants."""
        mine, other = json.loads(json.dumps(self.model.about())), saved.about()
        for key, what in (("spec", "the spec has changed"), ("overrides", "the constants given with --set differ")):
            if mine[key] != other[key]:
                refuse("E511", f"since {self.run.last.name} was written", "train again without --resume, or undo the change", problem=what)
        if self.run.manifest()["data"]["sha256"] != self.data.digest:
            refuse("E511", "its raw columns have another SHA-256", "restore the data, or train again without --resume", problem="the data has changed")
        try:
            before, place, lines = about["environment"], Place(**about["trainer"]), list(about["history"])
            history = [json.loads(line) for line in lines]
        except (KeyError, TypeError, ValueError):
            refuse("E702", "it is no checkpoint of a training", "train again without --resume", path=str(self.run.last))
        now = environment()
        if before != now:
            changed = [key for key in now if before.get(key) != now[key]]
            self.progress.on_note(f"the environment differs ({', '.join(changed)}): the run goes on, but not bit for bit as before")
        self.model.slots()
        self.model.restore(saved.state(), saved.step_count)
        self.place, self.history, self.lines = place, history, lines
        self.run.write_history(self.lines)


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
) -> Result:
    """Train a spec into a run directory. Raises SpecError where it is refused, TrainingFailure where a value is not finite."""
    run, observer = Run(out), progress or Progress()
    checkpoint: tuple[Model, dict[str, Any]] | None = None
    if resume:
        if not run.last.is_file():
            refuse("E511", f"{run.path} holds no checkpoint", "train without --resume", problem="there is nothing to resume")
        checkpoint = load_with(run.last)
        overrides = overrides or checkpoint[0].program.experiment.overrides
    else:
        run.require_free()
    program, data = _read(source, root, overrides, max_bytes)
    assert program.train is not None
    model = Model(program, program.train.seed, data.learned.arrays, data.rows("train"), root)
    begun = time.perf_counter()
    with run.alone():
        run.tidy()
        trainer = Trainer(model, data, run, observer)
        if checkpoint is not None:
            trainer.resume(*checkpoint)
        else:
            if program.train.start is not None:
                start_from(model, program.train.start, Files(root))
            run.clear()
            begin(run, model, data, source.name, root)
            write_text(run.path / "plan.txt", plan.show(plan.plan(model.stepper().graph, trainer.batch)) + "\n")
            trainer.checkpoint()
        trainer.train_all()
        seconds = time.perf_counter() - begun
        if program.train.stop is not None and run.best.is_file():
            best, _ = load_with(run.best)
            model.restore(best.state(), best.step_count)
        figures = {split: trainer.figures(split) for split in data.splits}
        place = trainer.place
        judged = verdict(model, trainer.evaluator, data, trainer.history, figures, place.stopped_early)
        run.write_verdict(asdict(judged))
    best_epoch = place.best_epoch if place.best_epoch >= 0 else None
    return Result(model, figures, run.path, trainer.history, seconds, place.stopped_early, best_epoch, judged, data)


def _read(source: Source, root: Path, overrides: Mapping[str, Any] | None, max_bytes: int) -> tuple[pipeline.Program, Dataset]:
    """The checked program and its data, made ready; E514 where the spec is not complete for training."""
    program = pipeline.analyse(source, root=root, overrides=overrides, max_bytes=max_bytes)
    experiment = program.experiment
    if experiment.train is None or experiment.data is None:
        missing = "train" if experiment.train is None else "data"
        findings = Findings(source)
        help = f"write {missing} {{ ... }}; `nnc explain E514` shows one"
        findings.add("E514", None, f"{source.name} has no `{missing}` section", help=help, missing=missing)
        findings.stop_on_errors()
    return load(program, root, max_bytes)


def start_from(model: Model, start: Any, files: Files) -> None:
    """Copy parameters of the same names from a safetensors file; E512 names what does not fit."""
    p = start.params
    findings = Findings(model.program.experiment.source)
    place = start.spans.get("file", start.span)
    arrays: dict[str, Array] = {}
    try:
        arrays = read_any_arrays(files.path(p.file))
    except Refusal as refusal:
        findings.add_refusal(refusal, place)
    except ValueError as error:
        findings.add("E512", place, str(error), file=p.file, help="give a safetensors file, such as Model.save writes")
    findings.stop_on_errors()
    parts = [reference.name for reference in p.only]
    taken = 0
    for name in model.parameters:
        wanted = not parts or any(name == part or name.startswith(part + "/") for part in parts)
        if not wanted:
            continue
        if name not in arrays:
            if parts:
                findings.add("E512", place, f"it has no `{name}`", file=p.file, help="take only parts that the file holds")
            continue
        if arrays[name].shape != model.parameters[name].shape:
            findings.add("E512", place, f"`{name}` is {list(arrays[name].shape)} there, {list(model.parameters[name].shape)} here",
                         file=p.file, help="name the parts that fit with only=[...]")  # fmt: skip
            continue
        try:
            model.parameters[name] = arrays[name]
        except ValueError as error:
            findings.add("E512", place, str(error), file=p.file, help="take a file with finite numbers")
        taken += 1
    if not taken and not findings.errors:
        findings.add("E512", place, "no parameter of the network is in it", file=p.file, help="its arrays must have the network's parameter names")
    findings.stop_on_errors()
