"""The verdict on a learning curve: what it shows, the numbers that it rests on, and what to try next.

The gap between training and new rows is judged by the weights that were kept, in inference mode on both: the training loss of
an epoch is measured under dropout and while the weights still move. Without a goal, losses are judged by their share of what a
prediction that ignores its inputs would lose (baseline.py); with one, by how far each split is from it. The curves themselves
say whether training still improved when it ended, and whether it fell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from statistics import fmean, median
from typing import Any

from nnc.compiler.objective import SPLITS
from nnc.compiler.operation import Bound

from .baseline import constant_figures
from .data.dataset import Dataset
from .metrics import Evaluator
from .model import Model

Figures = Mapping[str, Mapping[str, float]]

LITTLE = 0.75  # of the constant prediction's loss: who loses more has learned little
GAP, WORSE = 0.1, 1.25  # new rows lose so much more, in shares, and so many times as much
IMPROVING, WORTHWHILE = 0.03, 0.01  # fall of the loss in the last epochs, relative to itself, and in shares
RISING, FAR = 1.5, 0.1  # the training loss at its end over its lowest, and their distance in shares
NO_BETTER = 0.02  # of what remains above the most frequent class's share


@dataclass(frozen=True)
class Goal:
    """A figure of a split, and what it should reach; `name` is how the spec calls it."""

    name: str
    split: str
    figure: str
    value: float
    higher: bool

    def reached(self, value: float) -> bool:
        return value >= self.value if self.higher else value <= self.value

    def missing(self, value: float) -> float:
        """How much is missing; below 0 where the goal is surpassed."""
        return self.value - value if self.higher else value - self.value

    def __str__(self) -> str:
        return f"{self.name} {'>=' if self.higher else '<='} {self.value:g}"


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on. `train` and `held` are loss curves, `held` empty where no split was watched; `kept` and `constant` are
    figures of the weights kept, and of a prediction that ignores its inputs, by split.
    """

    train: Sequence[float]
    held: Sequence[float]
    kept: Figures
    constant: Figures
    goal: Goal | None = None
    stopped_early: bool = False
    majority: Sequence[str] = ()  # figures that the most frequent class alone can make high
    has: frozenset[str] = frozenset()  # what the spec does already: dropout, penalty, stop, augment, clip


@dataclass(frozen=True)
class Verdict:
    """`name` in two words, `because` in a sentence with its numbers, `next` what to try, most promising first."""

    name: str
    because: str
    next: tuple[str, ...]
    numbers: dict[str, Any] = field(default_factory=dict)


def verdict(model: Model, evaluator: Evaluator, data: Dataset, history: Sequence[Mapping[str, Any]], kept: Figures, stopped_early: bool) -> Verdict:
    """The verdict on a finished training; `kept` are the figures of the weights that were kept."""
    program = model.program
    train = program.train
    assert train is not None
    constant = constant_figures(model, data)
    evidence = Evidence(
        [record["train"]["loss"] for record in history],
        [record["val"]["loss"] for record in history if "val" in record],
        kept,
        constant,
        _goal(train.goal),
        stopped_early,
        [metric.key for metric in evaluator.evaluation.metrics if "majority" in metric.facts],
        _measures(model),
    )
    found = judge(evidence)
    return replace(found, numbers={name: number for name, number in found.numbers.items() if isfinite(number)})


def _goal(bound: Bound | None) -> Goal | None:
    if bound is None:
        return None
    part, _, figure = bound.params.monitor.name.partition(".")
    return Goal(bound.params.monitor.name, SPLITS[part], figure, bound.params.value, "higher" in bound.operation.facts)


def _measures(model: Model) -> frozenset[str]:
    """What the spec does already against overfitting and divergence."""
    program = model.program
    train, data = program.train, program.experiment.data
    assert train is not None
    facts = {fact for application in program.experiment.network.applications for fact in application.bound.operation.facts}
    penalties = train.penalty or train.optimizer.params.weight_decay or any(p.penalty for p in program.inference.trainable)
    measures = {"dropout": "dropout" in facts, "penalty": penalties, "stop": train.stop, "clip": train.clip, "augment": data is not None and data.augment}
    return frozenset(name for name, there in measures.items() if there)


def judge(e: Evidence) -> Verdict:
    """What a learning curve shows."""
    new = next((split for split in ("validation", "test") if split in e.kept), None)
    train, held = _share(e, "train"), _share(e, new) if new is not None else None
    numbers: dict[str, Any] = {"epochs": len(e.train), "train.loss": e.kept["train"]["loss"], "constant.loss": e.constant["train"]["loss"]}
    if new is not None:
        numbers[f"{new}.loss"] = e.kept[new]["loss"]
    improving = not e.stopped_early and _improving(e.held or e.train, e.constant["train"]["loss"])
    if _diverging(e):
        lowest, last = min(e.train), e.train[-1]
        course = f"was {lowest:.4g} and is {last:.4g}" if lowest < last else f"is {last:.4g} and hardly falls"
        return Verdict("diverging", f"the training loss {course}; a prediction that ignores its inputs has {e.constant['train']['loss']:.4g}",
                       _calm(e), numbers)  # fmt: skip
    if e.goal is not None and e.goal.figure in e.kept.get(e.goal.split, {}):
        return _by_goal(e, e.goal, improving, numbers)
    for figure in e.majority:
        if new is not None and _no_better(e, new, figure) and _no_better(e, "train", figure):
            share = e.constant[new][figure]
            return Verdict("underfitting", f"{figure} on {new} is {e.kept[new][figure]:.1%}, and always giving the most frequent class has {share:.1%}",
                           ("class_weights in the loss, so that rare classes count", "f1 or auc in the metrics: they see what accuracy does not", *_more(e)),
                           numbers | {f"constant.{figure}": share})  # fmt: skip
    losses = f"the loss is {e.kept['train']['loss']:.4g} on training rows"
    if held is not None and new is not None:
        losses += f" and {e.kept[new]['loss']:.4g} on {new}"
        if held - train > GAP and held > WORSE * train:
            best = f"; {new} was best in epoch {e.held.index(min(e.held)) + 1} of {len(e.held)}" if e.held else ""
            return Verdict("overfitting", f"{losses}{best}", _less(e), numbers)
    if improving:
        return Verdict("still improving", f"{losses}, and it was still falling when training ended", _longer(e), numbers)
    if train > LITTLE:
        return Verdict("underfitting", f"{losses}, and {e.constant['train']['loss']:.4g} where the inputs are ignored", _more(e), numbers)
    if new is None:
        return Verdict("fits its rows", f"{losses}; nothing says how it does on new ones", ("split = random(train=80%, validation=20%) in the data section",),
                       numbers)  # fmt: skip
    return Verdict("good fit", f"{losses}: close together", ("a goal, at_least or at_most of a figure: it says whether this is enough",
                   "a smaller network: it may do as well"), numbers)  # fmt: skip


def _by_goal(e: Evidence, goal: Goal, improving: bool, numbers: dict[str, Any]) -> Verdict:
    """Training rows that miss the goal say underfitting, new rows that lag behind them say overfitting; the larger distance decides."""
    reached, trained = e.kept[goal.split][goal.figure], e.kept["train"][goal.figure]
    numbers = numbers | {"goal": goal.value, f"{goal.split}.{goal.figure}": reached, f"train.{goal.figure}": trained}
    shown = f"{goal} was the goal: {reached:.4g}" + (f", and {trained:.4g} on training rows" if goal.split != "train" else "")
    if goal.reached(reached):
        return Verdict("good fit", f"{shown}; it is reached", ("a smaller network, or fewer epochs: they may do as well",), numbers)
    gap = goal.missing(reached) - goal.missing(trained)
    if gap > max(0.0, goal.missing(trained)):
        return Verdict("overfitting", f"{shown}; new rows lag behind", _less(e), numbers)
    if improving:
        return Verdict("still improving", f"{shown}; the loss was still falling when training ended", _longer(e), numbers)
    return Verdict("underfitting", f"{shown}; even those miss it" if goal.split != "train" else f"{shown}; it is missed", _more(e), numbers)


# What the numbers show


def _share(e: Evidence, split: str) -> float:
    """The loss as a share of the constant prediction's; 0 where that has none, or where losses may be negative."""
    loss, scale = e.kept[split]["loss"], e.constant[split]["loss"]
    return loss / scale if scale > 0 and loss >= 0 else 0.0


def _tail(curve: Sequence[float]) -> int:
    """How many epochs are the last ones."""
    return max(1, len(curve) // 5)


def _improving(curve: Sequence[float], scale: float) -> bool:
    """Whether the last fifth of a curve lies clearly below the fifth before it."""
    k = _tail(curve)
    if len(curve) < 2 * k or len(curve) < 2:
        return False
    before, last = fmean(curve[-2 * k : -k]), fmean(curve[-k:])
    return before - last > max(IMPROVING * abs(before), WORTHWHILE * abs(scale))


def _diverging(e: Evidence) -> bool:
    """Whether the training loss rose far above its lowest, or stayed above that of a constant prediction without falling."""
    scale = abs(e.constant["train"]["loss"])
    last, lowest = min(median(e.train[-3:]), e.train[-1]), min(e.train)  # neither one high epoch is a rise, nor a steep fall
    if lowest >= 0 and last > RISING * lowest and last - lowest > FAR * scale:
        return True
    k = _tail(e.train)
    stuck = len(e.train) > 2 and fmean(e.train[-k:]) > 0.95 * fmean(e.train[:k])
    return stuck and _share(e, "train") > RISING


def _no_better(e: Evidence, split: str, figure: str) -> bool:
    """Whether a figure is no better than the most frequent class makes it."""
    alone = e.constant[split][figure]
    return e.kept[split][figure] <= alone + NO_BETTER * (1 - alone)


# What to try


def _less(e: Evidence) -> tuple[str, ...]:
    """Against overfitting: what the spec does not do yet comes first."""
    known = {"stop": "stop = early_stopping(monitor=val.loss), which keeps the best epoch", "augment": "more rows, or augment where the inputs are images",
             "dropout": "dropout(0.2) to dropout(0.5) behind the widest layers", "penalty": "penalty = l2(1e-4), or adamw with weight_decay"}  # fmt: skip
    passed = bool(e.held) and min(e.held) < e.held[-1]  # the best epoch was not the last: stopping there gains
    fresh = [text for word, text in known.items() if word not in e.has and (word != "stop" or passed)]
    stronger = ["stronger dropout or decay than now"] if e.has & {"dropout", "penalty"} else []
    return (*fresh, *stronger, "fewer units or layers")


def _more(e: Evidence) -> tuple[str, ...]:
    """Against underfitting."""
    relieved = ["less dropout, a smaller penalty"] if e.has & {"dropout", "penalty"} else []
    return ("more units, or a layer more", "a learning rate three times higher, then three times lower", *relieved,
            "inputs that say more about the target, scaled with standardize")  # fmt: skip


def _longer(e: Evidence) -> tuple[str, ...]:
    return (f"epochs = {2 * len(e.train)}", "a higher learning rate, which gets there sooner")


def _calm(e: Evidence) -> tuple[str, ...]:
    clip = [] if "clip" in e.has else ["clip = global_norm(1.0)"]
    return ("a learning rate of a tenth", *clip, "standardize or min_max on the inputs, and on a numeric target")
