"""The checked model: what a file says, with every name resolved and every argument validated.

Shapes are not known yet; lower.py finds them. References between layers are indices, so that walking needs no names.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from .operation import Bound, Kind, Of, Params, Reference, Refers, Weighted
from .record import record
from .schema import Schema
from .source import Source, Span


@record
class Ref:
    """A tensor: output `output` of application `application`, or the input of that index where `application` is -1."""

    application: int
    output: int = 0


@record
class InputTensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    span: Span


@record
class Application:
    """One use of a layer. `path` names its parameters; `calls` are the places of the blocks that led here."""

    bound: Bound
    operands: tuple[Ref | float, ...]
    path: str
    span: Span
    calls: tuple[Span, ...] = ()


@record
class Output:
    name: str
    ref: Ref
    span: Span


@record
class Network:
    name: str
    inputs: tuple[InputTensor, ...]
    applications: tuple[Application, ...]
    outputs: tuple[Output, ...]
    failed: frozenset[str] | None = frozenset()  # names of outputs that were refused; None where even the names are unknown

    def output(self, name: str) -> Output | None:
        return next((o for o in self.outputs if o.name == name), None)


@record
class DataStep:
    """One step of a data name; `path` names what it learns."""

    bound: Bound
    path: str


@record
class DataName:
    """Columns of the source through steps."""

    name: str
    columns: tuple[str, ...]
    single: bool  # column(...): one column as it is; columns(...): several stacked
    steps: tuple[DataStep, ...]
    span: Span
    column_span: Span

    @property
    def window(self) -> Any | None:
        """The parameters of its window, if its samples are windows of rows."""
        return next((s.bound.params for s in self.steps if "window" in s.bound.operation.facts), None)


@record
class Augmentation:
    """`name -> step -> step`: what is done to a data name in training batches."""

    name: str
    steps: tuple[Bound, ...]
    span: Span


@record
class Data:
    source: Bound
    names: dict[str, DataName]
    split: Bound | None
    schema: Schema
    augment: tuple[Augmentation, ...] = ()
    further: dict[str, Schema] = field(default_factory=dict)  # of the sources that a split names, by part

    @property
    def balanced(self) -> DataName | None:
        """The data name whose classes are drawn equally often in training."""
        return next((d for d in self.names.values() if any("balance" in s.bound.operation.facts for s in d.steps)), None)


class TrainParams(Params):
    """The keys of a train section."""

    loss: Annotated[tuple[Weighted, ...], Of(Kind.LOSS, many=True)] = Field(description="what training minimises; terms may be weighted and added")
    optimizer: Annotated[Bound, Of(Kind.OPTIMISER)] = Field(description="how gradients change the parameters")
    batch: int | Literal["full"] = Field(description="samples in a step, or `full`")
    epochs: int = Field(ge=1, description="passes over the training split")
    schedule: Annotated[tuple[Bound, ...], Of(Kind.SCHEDULE, chain=True)] = Field((), description="how the learning rate changes")
    penalty: Annotated[tuple[Weighted, ...], Of(Kind.PENALTY, many=True)] = Field((), description="added to the loss, on weights")
    clip: Annotated[Bound | None, Of(Kind.CLIP)] = Field(None, description="limits the gradients")
    stop: Annotated[Bound | None, Of(Kind.STOP)] = Field(None, description="when to stop before the last epoch")
    metrics: tuple[Annotated[Bound, Of(Kind.METRIC)], ...] = Field((), description="figures reported beside the loss")
    seed: int = Field(0, ge=0, lt=2**63, description="of initial parameters, order and dropout")
    precision: Literal["float32", "float64", "fast"] = Field(
        "float32",
        description="what everything is computed in; fast: float32, and in training steps on the fast engine rounding may leave an error of 3e-5 of "
        "the largest value in each result of a convolution or of its gradients, in place of 1e-6",
    )
    shuffle: bool = Field(True, description="whether each epoch has an order of its own")
    goal: Annotated[Bound | None, Of(Kind.GOAL)] = Field(None, description="the figure that would be good enough")
    start: Annotated[Bound | None, Of(Kind.START)] = Field(None, description="weights to start from")
    groups: tuple[Annotated[Bound, Of(Kind.GROUP)], ...] = Field((), description="rates per part, and frozen parts")
    ensemble: Annotated[Bound | None, Of(Kind.ENSEMBLE)] = Field(None, description="several networks whose outputs are averaged")

    @property
    def dtype(self) -> str:
        return "float32" if self.precision == "fast" else self.precision

    @property
    def error(self) -> float:
        """What rounding may leave in a convolution of a step, of the largest value of its result; 0 where it is to be as small as the dtype lets it."""
        return 3e-5 if self.precision == "fast" else 0.0

    def step_size(self, rows: int | None) -> int:
        """Samples in a step where so many rows train: never more than there are; 1 where a batch is all of them and nobody knows how many."""
        if self.batch == "full":
            return rows or 1
        return self.batch if rows is None else min(self.batch, rows)

    def sample_weights(self) -> list[Reference]:
        """The data names that weight samples, as the loss terms name them."""
        return [term.term.params.weights for term in self.loss if term.term.params.weights is not None]


OPSETS = range(13, 27)


class ExportParams(Params):
    """The keys of an export section."""

    file: str = Field("model.onnx", min_length=1, description="name of the exported file")
    opset: int = Field(18, ge=OPSETS[0], le=OPSETS[-1], description="version of the ONNX operators")
    outputs: tuple[Annotated[Reference, Refers("output")], ...] = Field((), description="outputs and decisions to export; all outputs when not given")
    quantize: Annotated[Bound | None, Of(Kind.QUANTISATION)] = Field(None, description="fewer bits for the file that `nnc export` and `nnc run` write")


@record
class Section:
    """The validated keys of a section and their places."""

    params: Any
    spans: dict[str, Span]
    span: Span
    failed: frozenset[str] = frozenset()  # keys that were refused; their values here are placeholders

    def at(self, key: str) -> Span:
        return self.spans.get(key, self.span)


@record
class Outline:
    """What a data section says before its source is opened: its names, those that were refused, those that others start from."""

    names: frozenset[str]
    failed: frozenset[str]
    bases: frozenset[str]
    split: Bound | None
    sound: bool  # whether nothing in the section was refused


@record
class Experiment:
    """A whole file. `train` holds TrainParams, `export` ExportParams. `data` is None without a data section, and where its
    source is not open; `outline` is there wherever the section is.
    """

    source: Source
    network: Network
    data: Data | None
    train: Section | None
    export: Section
    outline: Outline | None
    overrides: dict[str, Any] = field(default_factory=dict)  # constants that --set or Python replaced

    @property
    def folds(self) -> Bound | None:
        """The split, where it makes an ensemble."""
        split = self.outline.split if self.outline is not None else None
        return split if split is not None and "folds" in split.operation.facts else None

    @property
    def members(self) -> int:
        """How many networks a training makes; more than one are an ensemble."""
        if self.train is None:
            return 1
        if self.folds is not None:
            return int(self.folds.params.folds)
        ensemble: Bound | None = self.train.params.ensemble
        return 1 if ensemble is None else int(ensemble.params.members)
