"""Rows from outside: raw columns of a file, for `nnc eval --data` and `nnc predict`, a chunk at a time.

A file has the columns of the spec's source. An .npz may instead hold the raw inputs by data name, with the sample first. Where samples
are windows they are cut from the file's rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler.diagnostics import Findings, Refusal
from nnc.compiler.experiment import Experiment
from nnc.compiler.ir import TensorType
from nnc.compiler.prepare import raw_type
from nnc.compiler.source import Source
from nnc.runtime.ensemble import Ensemble
from nnc.runtime.kernels import Array
from nnc.runtime.model import Model

from .dataset import Learned, not_finite, prepare_all, prepared_column
from .dataset import windows as windows_of
from .row_files import CHUNK, Chunk, read
from .splits import starts_of

Kinds = Mapping[str, TensorType]


def raw_chunks(experiment: Experiment, path: Path, kinds: Kinds) -> Iterator[Chunk]:
    """The raw inputs of the given types. Raises SpecError for a file that does not fit."""
    data = experiment.data
    windows = {name: data.names[name].window for name in kinds if data is not None and name in data.names and data.names[name].window is not None}
    try:
        if windows:
            yield from _cut(read(experiment, path, list(kinds)), windows, kinds, path)
            return
        for chunk in read(experiment, path, list(kinds)):
            yield replace(chunk, raw={name: _shaped(name, array, kinds[name]) for name, array in chunk.raw.items()})
    except Refusal as refusal:
        findings = Findings(Source(str(path), ""))
        findings.add_refusal(refusal, None)
        findings.stop_on_errors()


def _cut(chunks: Iterator[Chunk], windows: Mapping[str, Any], kinds: Kinds, path: Path) -> Iterator[Chunk]:
    """Samples that are windows of a file's rows, cut as for training; or the windows that an .npz holds ready.

    A sample comes for every window of the given names that the file holds: without targets also those whose targets lie beyond its
    end. Windows do not cross from one run of a `grouped` split's column to another. The label `row` is the last row that a sample sees,
    from 1.
    """
    parts = [*chunks]
    if not parts:
        return
    row_kinds = {name: TensorType(kind.dtype, (kind.shape[0], *kind.shape[2:])) for name, kind in kinds.items()}
    if path.suffix == ".npz" and all(parts[0].raw[name][0].size == row_kinds[name].size(1) * w.length for name, w in windows.items()) \
            and any(w.length > 1 for w in windows.values()):  # fmt: skip
        for chunk in parts:
            yield replace(chunk, raw={name: _shaped(name, array, kinds[name]) for name, array in chunk.raw.items()})
        return
    raw = {name: np.concatenate([_shaped(name, chunk.raw[name], row_kinds[name]) for chunk in parts]) for name in windows}
    sizes = np.cumsum([len(next(iter(chunk.raw.values()))) for chunk in parts]).tolist()
    series = np.concatenate([chunk.series.reshape(-1) for chunk in parts if chunk.series is not None]) if parts[0].series is not None else None

    def row_name(row: int) -> str:
        place = bisect_right(sizes, row)
        return parts[place].row_name(row - (sizes[place - 1] if place else 0))

    every = [*windows.values()]
    starts = starts_of(every, sizes[-1], None if series is None else np.unique(series, return_inverse=True)[1])
    reach = max(w.offset + w.length for w in every)
    if not len(starts):
        raise Refusal("E410", path=path.name, label=f"{sizes[-1]} rows, and a sample takes {reach} of one series", help="give more rows")
    for start in range(0, len(starts), CHUNK):
        chosen = starts[start : start + CHUNK]
        name_of = lambda sample, chosen=chosen: row_name(int(chosen[sample]))  # noqa: E731
        yield Chunk({name: windows_of(raw[name], w, chosen) for name, w in windows.items()}, name_of, None, {"row": (chosen + reach).tolist()})


def served(experiment: Experiment, path: Path, kinds: Kinds, dtype: str, preparations: Sequence[Learned]) -> Iterator[Chunk]:
    """Raw inputs for the serving graph; E405 where the network, for one of the preparations, would get what is no number."""
    data = experiment.data
    for chunk in raw_chunks(experiment, path, kinds):
        findings = Findings(Source(str(path), ""))
        for name, raw in chunk.raw.items():
            if raw.dtype.kind != "f" or np.isfinite(raw).all():
                continue
            entry = data.names[name] if data is not None else None
            for learned in preparations:
                array = raw if data is None or entry is None else prepared_column(data, entry, raw.astype(dtype), dtype, learned)
                found = not_finite(array, entry.columns if entry is not None else (name,), chunk.row_name) if array.dtype.kind == "f" else None
                if found is not None:
                    findings.add("E405", None, found.label, name=name, what=found.what, help="the spec does not `impute` it: remove the row, or give a number")
                    break
        findings.stop_on_errors()
        yield chunk


def labelled(model: Model | Ensemble, path: Path) -> Iterator[dict[str, Array]]:
    """Every data name of a file of labelled rows, prepared with what training learned; for an ensemble raw, once each member has taken it."""
    data = model.program.experiment.data
    findings = Findings(Source(str(path), ""))
    if data is None:
        findings.add("E514", None, "it does not say how labelled rows are read", help="train a spec with a data section", missing="data")
        findings.stop_on_errors()
    assert data is not None
    kinds = {name: raw_type(data, entry, model.program.dtype) for name, entry in data.names.items()}
    empty = True
    for chunk in raw_chunks(model.program.experiment, path, kinds):
        empty = False
        for learned in preparations(model):
            prepared = prepare_all(model.program.experiment, data, model.program.dtype, chunk.raw, chunk.row_name, learned, findings)
        yield {name: array[:] for name, array in prepared.items()} if len(model.members) == 1 else chunk.raw
    if empty:
        findings.add("E410", None, "it has no rows", path=str(path), help="give a file with labelled rows")
        findings.stop_on_errors()


def preparations(model: Model | Ensemble) -> list[Learned]:
    """What data steps have learned, each time that it differs."""
    members = model.members[:1] if isinstance(model, Ensemble) and model.alike else model.members
    return [Learned(m.learned, dict(m.program.learned or {})) for m in members]


def _shaped(name: str, array: Array, kind: TensorType) -> Array:
    """The array in the dtype and shape of a raw input."""
    shape = (len(array), *(d for d in kind.shape[1:] if isinstance(d, int)))
    if array.size != np.prod(shape, dtype=np.int64):
        raise Refusal("E407", name=f"`{name}`", label=f"samples of shape {list(array.shape[1:])}, wanted is {list(shape[1:])}",
                      help="give rows like those that trained; an .npz may hold windows ready cut")  # fmt: skip
    if kind.dtype == "string":
        return array.reshape(shape)
    if kind.dtype in ("int64", "uint8", "bool"):
        cast = _whole(name, array, np.dtype(kind.dtype))
        return cast.reshape(shape)
    return array.astype(kind.dtype).reshape(shape)


def _whole(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Numbers as integers, refused where that would change one."""
    with np.errstate(invalid="ignore"):
        cast = array.astype(dtype)
    wrong = (cast != array).reshape(len(array), -1)
    if wrong.any():
        row = int(np.argmax(wrong.any(axis=1)))
        value = array.reshape(len(array), -1)[row][int(np.argmax(wrong[row]))]
        raise Refusal("E407", name=f"`{name}`", label=f"row {row + 1} holds {float(value):g}, {dtype} is wanted", help="give whole numbers in range")
    return cast
