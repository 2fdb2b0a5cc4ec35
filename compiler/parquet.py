"""Parquet files: what their footer says, and their columns as plain tables. The only importer of pyarrow in the compiler.

Integers, floats, decimals and booleans are numbers, text is text, and a null is a missing value. Other types, such as lists, have a
name and cannot be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .diagnostics import Refusal
from .schema import MAX_CATEGORIES, WHOLE_BYTES, ColumnSchema, Schema


def arrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet; E707 where they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise Refusal("E707", package="pyarrow", label="it reads parquet files", help="pip install 'nnc-lang[parquet]'") from None
    return pyarrow, pyarrow.parquet


def opened(path: Path) -> Any:
    """The file with its footer read; E410 where it has none."""
    pa, parquet = arrow()
    try:
        return parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise Refusal("E410", label=first_line(error), path=path.name, help="write the file again") from None


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["it is no parquet file"])[0]


class Distinct(Mapping[str, tuple[Any, ...]]):
    """The distinct known values of columns, each read when it is first asked for."""

    def __init__(self, names: list[str], read: Callable[[str], tuple[Any, ...]]):
        self._names, self._read = names, read
        self._known: dict[str, tuple[Any, ...]] = {}

    def __getitem__(self, name: str) -> tuple[Any, ...]:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _kind(pa: Any, kind: Any) -> str | None:
    """How a type of parquet is read: as numbers, as text, or not at all."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        return "string"
    numbers = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    return "float" if any(is_number(kind) for is_number in numbers) else None


def parquet_schema(path: Path) -> Schema:
    """Names and types from the footer; distinct values of columns up to WHOLE_BYTES are read when a step wants them."""
    pa, _ = arrow()
    with opened(path) as file:
        fields, meta = file.schema_arrow, file.metadata
        if len(set(fields.names)) < len(fields.names):
            twice = next(n for n in fields.names if fields.names.count(n) > 1)
            raise Refusal("E410", label=f"it has `{twice}` twice", path=path.name, help="give every column a name of its own")
        kinds = {field.name: _kind(pa, field.type) for field in fields}
        sizes: dict[str, int] = {}
        for group in range(meta.num_row_groups):
            for place in range(meta.num_columns):
                chunk = meta.row_group(group).column(place)
                sizes[chunk.path_in_schema] = sizes.get(chunk.path_in_schema, 0) + chunk.total_uncompressed_size
        columns = {n: ColumnSchema("string") if k == "string" else ColumnSchema("float", (1,)) for n, k in kinds.items() if k is not None}
        small = [name for name in columns if sizes.get(name, 0) <= WHOLE_BYTES and meta.num_rows <= WHOLE_BYTES]
        other = {field.name: str(field.type) for field in fields if kinds[field.name] is None}
        return Schema(columns, meta.num_rows, Distinct(small, lambda name: _distinct(path, name)), other)


def _distinct(path: Path, name: str) -> tuple[Any, ...]:
    """The distinct values of a column, sorted, without missing ones."""
    seen: dict[Any, None] = {}
    for batch in batches(path, [name]):
        seen |= dict.fromkeys(plain(batch.column(0)).unique().to_pylist())
        if len(seen) > MAX_CATEGORIES:
            break
    return tuple(sorted(value for value in seen if value is not None and value != "" and value == value))


def batches(path: Path, columns: list[str]) -> Iterator[Any]:
    """Some rows of the named columns at a time."""
    pa, _ = arrow()
    with opened(path) as file:
        try:
            yield from file.iter_batches(batch_size=1 << 16, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise Refusal("E410", label=first_line(error), path=path.name, help="write the file again") from None


def plain(column: Any) -> Any:
    """A column as float64 or as strings. Raises pyarrow.ArrowInvalid for an integer that a float64 does not hold."""
    pa, _ = arrow()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string() if _kind(pa, column.type) == "string" else pa.float64())
