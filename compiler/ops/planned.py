"""Words of the language that this version knows and does not compile yet: refused by name, never ignored."""

from __future__ import annotations

from ..operation import Kind

PLANNED: dict[Kind, frozenset[str]] = {
    Kind.LAYER: frozenset(),
    Kind.SOURCE: frozenset(),
    Kind.STEP: frozenset(),
    Kind.SPLIT: frozenset(),
    Kind.AUGMENTATION: frozenset(),
    Kind.QUANTISATION: frozenset(("int8", "float16")),
}

PLANNED_KEYS: dict[str, frozenset[str]] = {
    "data": frozenset(),
    "train": frozenset(),
    "export": frozenset(("quantize",)),
}
