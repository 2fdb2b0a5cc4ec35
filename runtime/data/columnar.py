"""Parquet files and folders of images as arrays; what they promise stands in compiler/parquet.py and compiler/images.py."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnc.compiler import images, parquet
from nnc.compiler.diagnostics import Refusal

Array = np.ndarray[Any, Any]


def parquet_batches(path: Path, columns: Collection[str]) -> Iterator[dict[str, Array]]:
    """Some rows at a time: floats [rows, 1] with NaN, texts with "" for missing values."""
    pa, _ = parquet.arrow()
    names, row = list(columns), 0
    for batch in parquet.batches(path, names):
        found = {}
        for name in names:
            try:
                column = parquet.plain(batch.column(name))
            except pa.ArrowInvalid as error:
                raise Refusal("E404", step=name, label=f"after row {row}: {parquet.first_line(error)}",
                              help="write identifiers as text: a float holds whole numbers up to 2^53") from None  # fmt: skip
            found[name] = _texts(column) if pa.types.is_string(column.type) else column.to_numpy(zero_copy_only=False).reshape(-1, 1)
        yield found
        row += batch.num_rows


def _texts(column: Any) -> Array:
    """Equal texts are one object."""
    coded = column.fill_null("").dictionary_encode()
    known: Array = np.array([*coded.dictionary.to_pylist(), ""], object)
    texts: Array = known[coded.indices.to_numpy(zero_copy_only=False)]
    return texts


def pixels(paths: Sequence[Path], shape: tuple[int, ...]) -> Array:
    """Images of one shape [channels, height, width], as uint8; E410 names one that has another."""
    found = np.empty((len(paths), *shape), np.uint8)
    for place, path in enumerate(paths):
        images.require_shape(path, images.read_header(path), shape)
        with images.opened(path) as image:
            try:
                rows = np.asarray(image)
            except (OSError, ValueError, SyntaxError) as error:
                raise Refusal("E410", label=str(error), path=f"{path.parent.name}/{path.name}", help="save the image again") from None
        found[place] = rows if rows.ndim == 2 else rows.transpose(2, 0, 1)
    return found
