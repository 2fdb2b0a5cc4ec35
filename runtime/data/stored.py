"""Arrays that stay in their file: their rows are read, or made from what is read, when they are asked for.

They are read, not mapped into memory: what was read is given back at once, and a file that becomes shorter meanwhile is a refusal, where a
map of it would end the process.
"""

from __future__ import annotations

import struct
import threading
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nnc.runtime.files import refuse

Array = np.ndarray[Any, Any]
PART = 1 << 23  # bytes that are looked at together


@dataclass(frozen=True)
class Stored:
    """Rows of one shape and dtype. `rows` gives those of the numbers it is given, which may have any shape."""

    rows: Callable[[Array], Array]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, chosen: Any) -> Array:
        """Rows by number, or a slice of them; a single row without the axis of samples."""
        if isinstance(chosen, slice):
            return self.rows(np.arange(*chosen.indices(len(self))))
        return self.rows(np.asarray(chosen))

    def take(self, chosen: Array, axis: int, out: Array, mode: str) -> None:
        """As an array's, along its rows."""
        assert axis == 0
        out[...] = self.rows(chosen)

    def astype(self, dtype: Any, copy: bool = False) -> Stored:
        return self if self.dtype == dtype else Stored(lambda chosen: self.rows(chosen).astype(dtype), self.shape, np.dtype(dtype))

    def through(self, function: Callable[[Array], Array]) -> Stored:
        """What a function makes of some rows, whichever they are."""
        one = function(self.rows(np.arange(min(1, len(self)))))
        return Stored(lambda chosen: function(self.rows(chosen)), (len(self), *one.shape[1:]), one.dtype)


Column = Array | Stored


def parts(column: Column, rows: Array | None = None) -> Iterator[tuple[int, Array]]:
    """The array, or some of its rows, a part at a time, each with the place where it begins."""
    count = len(column) if rows is None else len(rows)
    width = max(1, column.size // max(1, len(column)))
    step = max(1, PART // (8 * width))
    for start in range(0, count, step):
        yield start, column[start : start + step] if rows is None else column[rows[start : start + step]]


def beside(columns: Sequence[Column], dtype: str) -> Column:
    """Columns of numbers as one, [rows, columns]."""

    def joined(parts: Sequence[Array]) -> Array:
        return np.concatenate([part.reshape(-1, 1).astype(dtype) for part in parts], axis=1)

    arrays = [column for column in columns if not isinstance(column, Stored)]
    if len(arrays) == len(columns):
        return joined(arrays)
    return Stored(lambda chosen: joined([column[chosen] for column in columns]), (len(columns[0]), len(columns)), np.dtype(dtype))


def chained(columns: Sequence[Column]) -> Column:
    """The rows of several arrays one after another."""
    arrays = [column for column in columns if not isinstance(column, Stored)]
    if len(arrays) == len(columns):
        return np.concatenate(arrays)
    ends = np.cumsum([len(column) for column in columns])
    dtype, shape = np.result_type(*(column.dtype for column in columns)), columns[0].shape[1:]

    def rows(chosen: Array) -> Array:
        found = np.empty((*chosen.shape, *shape), dtype)
        which = np.searchsorted(ends, chosen, "right")
        for place, column in enumerate(columns):
            mine = which == place
            if mine.any():
                found[mine] = column[chosen[mine] - (ends[place] - len(column))]
        return found

    return Stored(rows, (int(ends[-1]), *shape), dtype)


class _Open:
    """A file that is open as long as someone has this, so that what is read stays one version of it."""

    def __init__(self, path: Path):
        self.io, self.lock = path.open("rb", buffering=0), threading.Lock()

    def __del__(self) -> None:
        self.io.close()


def in_file(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Stored:
    """The array whose elements stand from a byte of a file on, row after row."""
    file = _Open(path)
    width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize

    def rows(chosen: Array) -> Array:
        found = np.empty((*chosen.shape, *shape[1:]), dtype)
        numbers, bytes_of = chosen.reshape(-1), found.reshape(-1).view(np.uint8).data
        edges = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
        with file.lock:
            for begin, end in pairwise(edges):
                if begin == end:
                    continue
                file.io.seek(offset + int(numbers[begin]) * width)
                place, stop = begin * width, end * width
                while place < stop:
                    got = file.io.readinto(bytes_of[place:stop])
                    if not got:
                        refuse("E410", f"it ends before row {int(numbers[begin]) + 1}: it was changed while it was read",
                               "write the file again", path=path.name)  # fmt: skip
                    place += got
        return found

    return Stored(rows, shape, dtype)


def in_npy(path: Path, begin: int) -> Stored | None:
    """The array of a .npy that begins at a byte of a file and has been looked at; None where its rows do not lie one after another."""
    with path.open("rb") as file:
        file.seek(begin)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, turned, dtype = read(file)
        return None if turned and len(shape) > 1 else in_file(path, file.tell(), shape, dtype)


def large_members(path: Path, names: Collection[str]) -> dict[str, Stored]:
    """Those arrays of an .npz that are not packed, once their checksums have been compared."""
    found = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name not in names or info.compress_type != zipfile.ZIP_STORED:
                continue
            with archive.open(info) as member:
                while member.read(1 << 20):
                    pass
            file.seek(info.header_offset + 26)
            stored = in_npy(path, info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))))
            if stored is not None:
                found[name] = stored
    return found


def too_large(size: int) -> bool:
    """Whether arrays of so many elements should stay in their file: read, prepared as floats and looked through, they take sixteen bytes for each."""
    free = _free()
    return free is not None and 16 * size > free


def _free() -> int | None:
    """Bytes of memory that this process may still take, as far as the system tells."""
    known = [limit for limit in (_available(), _below_limit()) if limit is not None]
    return min(known, default=None)


def _available() -> int | None:
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _below_limit() -> int | None:
    """What a limit on the address space leaves (`ulimit -v`), or one on the memory of this process's group."""
    found = []
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    held = Path("/proc/self/statm")
    if limit != resource.RLIM_INFINITY and held.is_file():
        found.append(limit - int(held.read_text().split()[0]) * resource.getpagesize())
    most, current = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if most.is_file() and current.is_file() and most.read_text().strip().isdigit():
        found.append(int(most.read_text()) - int(current.read_text()))
    return min(found, default=None)
