"""Write docs/reference.md from the operation table: `python docs/reference.py`. A test holds the two together."""

from __future__ import annotations

from pathlib import Path

from nnc.compiler import ops
from nnc.compiler.experiment import ExportParams, TrainParams
from nnc.compiler.fields import argument_fields, describe, marker_of, tuple_of_marked
from nnc.compiler.operation import TABLE, Kind, Operation, Params
from nnc.compiler.values import a

assert ops.__all__  # importing the families fills the table

SECTIONS = {
    Kind.LAYER: "Layers and activations",
    Kind.INITIALISER: "Initialisers",
    Kind.LOSS: "Losses",
    Kind.METRIC: "Metrics",
    Kind.PENALTY: "Penalties",
    Kind.CONSTRAINT: "Constraints",
    Kind.OPTIMISER: "Optimizers",
    Kind.SCHEDULE: "Schedules",
    Kind.CLIP: "Clipping",
    Kind.STOP: "Stopping",
    Kind.GOAL: "Goals",
    Kind.GROUP: "Groups",
    Kind.START: "Start",
    Kind.ENSEMBLE: "Ensembles",
    Kind.SOURCE: "Sources",
    Kind.COLUMN: "Column selections",
    Kind.STEP: "Data steps",
    Kind.SPLIT: "Splits",
    Kind.AUGMENTATION: "Augmentations",
    Kind.DOMAIN: "Domains of tune",
    Kind.OBJECTIVE: "Objectives of tune",
    Kind.SEARCH: "Searches of tune",
    Kind.QUANTISATION: "Quantisation",
}


def arguments(params: type[Params]) -> list[str]:
    """A line for each argument: its name, what it takes, its default, what it means."""
    lines = []
    for name, info in argument_fields(params).items():
        marker = marker_of(info)
        if marker is None:
            takes = describe(info.annotation)
        else:
            what = a(marker.kind.value) if hasattr(marker, "kind") else "a data name" if marker.to == "data" else f"the name of a {marker.to}"
            takes = f"a list, each {what}" if tuple_of_marked(info) else what
        default = "" if info.is_required() or info.default in (None, ()) else f", default {_shown(info.default)}"
        needed = ", required" if info.is_required() else ""
        lines.append(f"- `{name}`: {info.description} ({takes}{default}{needed})")
    return lines


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else f'"{value}"' if value == "" else str(value)


# What holds for every row of a kind and is said once
NOTES = {
    Kind.LAYER: "The shape is that of a sample and stays where nothing else is said. Gradients follow from the formula, second ones too; where a slope jumps "
    "the row says what is taken there. Every layer leaves in standard operators of opsets 13 to 26; dropout and noise leave nothing. Rows without a source "
    "move or combine elements.",
    Kind.LOSS: "A loss is the mean over the batch of what the formula gives for a sample.",
    Kind.METRIC: "Figures of a whole split, as scikit-learn defines them where it has them.",
    Kind.OPTIMISER: "theta is a parameter, g its gradient, eta the learning rate.",
    Kind.STEP: "Steps are part of the exported file, with what they learned.",
}


def entry(operation: Operation) -> list[str]:
    paragraphs = [" ".join(part.split()) for part in operation.doc.split("\n\n")]
    doc = [line for paragraph in paragraphs for line in (paragraph.replace("Differs: ", "*Differs:* ", 1), "")]
    return [f"### {operation.name}", "", *doc, *arguments(operation.params), *([""] if operation.params.model_fields else [])]


def reference() -> str:
    lines = ["# Reference", "", "Written by `docs/reference.py` from the operation table.", ""]
    for kind, title in SECTIONS.items():
        lines += [f"## {title}", "", *([NOTES[kind], ""] if kind in NOTES else [])]
        for (of, _), operation in sorted(TABLE.items(), key=lambda item: item[0][1]):
            if of is kind:
                lines += entry(operation)
    for title, params in (("The keys of train", TrainParams), ("The keys of export", ExportParams)):
        lines += [f"## {title}", "", *arguments(params), ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("reference.md").write_text(reference())
