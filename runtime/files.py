"""Writing files and directories so that a crash at any moment leaves the old content or the new, never a part; and reading them back checked.

Arrays are kept as safetensors. The format has no checksum, so its metadata carries the SHA-256 of the whole file, computed
with the digest's own place filled by zeros: every flipped byte is noticed.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import safetensors
import safetensors.numpy

from nnc.compiler.diagnostics import Findings
from nnc.compiler.source import Source

Array = np.ndarray[Any, Any]
_BLANK = "0" * 64
_ELSEWHERE = "free some space, or choose another place with -o"
TEMPORARY = ".nnc-*.part"  # what a file is called before it is whole
_DAMAGED = (ValueError, KeyError, TypeError, UnicodeDecodeError, safetensors.SafetensorError, RecursionError)


def refuse(code: str, label: str, help: str, **values: Any) -> NoReturn:
    """Raise one diagnostic that belongs to no place of a spec."""
    findings = Findings(Source("", ""))
    findings.add(code, None, label, help=help, **values)
    findings.stop_on_errors()
    raise AssertionError(f"{code} is no error")


@contextmanager
def replacing(path: Path, way_out: str = _ELSEWHERE) -> Iterator[Callable[[bytes], None]]:
    """A function that writes the new content of a file, which takes the old one's place when the block ends without an error.

    A temporary file beside it, fsync, rename, fsync of the directory. E701 where the system refuses one of them.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # /dev/stdout, a named pipe: nothing to replace
            with path.open("wb", buffering=0) as file:
                yield lambda data: _write_all(file.fileno(), data)
            return
        target = Path(os.path.realpath(path))  # a link stays, and its target is replaced
        make_directory(target.parent)
        temporary = _beside(target)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            try:
                with suppress(FileNotFoundError):  # a file that is replaced keeps its permissions
                    os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
                yield lambda data: _write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_directory(target.parent)
    except BrokenPipeError:
        raise  # whoever read our output has gone
    except OSError as error:
        refuse("E701", str(error.strerror or error), way_out, path=str(path))


def require_other(target: Path, source: Path) -> None:
    """E704 where what is to be written would take the place of what it is made from."""
    if target.is_file() and source.is_file() and os.path.samefile(target, source):
        refuse("E704", "it is the input", "give another file with -o", path=str(target))


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def make_directory(path: Path) -> None:
    """The directory and its parents, each entry on disk before the next."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    for directory in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(directory)
        _sync_directory(directory.parent)


def _sync_directory(path: Path) -> None:
    if os.name != "posix":  # Windows has no handle to a directory
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that do not know it, such as some network ones
            raise
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes, way_out: str = _ELSEWHERE) -> None:
    """Replace a file's content. `way_out` is what the refusal advises."""
    with replacing(path, way_out) as write:
        write(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """Make a directory of these files, by path below it, or put it in the place of the one that is there, with all that this holds.

    A temporary directory beside it, every file and directory in it on disk, then one rename; where the system cannot exchange two directories,
    the old one is moved aside before. E701 where the system refuses something: then the old one is whole and in its place.
    """
    try:
        target = Path(os.path.realpath(path))
        make_directory(target.parent)
        temporary = _beside(target)
        try:
            os.mkdir(temporary)
            for name, data in files.items():
                make_directory((temporary / name).parent)
                handle = os.open(temporary / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
                try:
                    _write_all(handle, data)
                    os.fsync(handle)
                finally:
                    os.close(handle)
            for folder in {(temporary / name).parent for name in files}:
                _sync_directory(folder)
            _put_in_place(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # what was not finished, or what was there before
        _sync_directory(target.parent)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EXDEV):
            refuse("E701", "it is the root of a file system, which cannot be replaced whole", "give a directory below it with -o", path=str(path))
        refuse("E701", str(error.strerror or error), _ELSEWHERE, path=str(path))


def remove_directory(path: Path) -> None:
    """Take a directory away whole: first its name, then its content. E701 where the system refuses."""
    try:
        aside = _beside(path)
        os.rename(path, aside)
        _sync_directory(path.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        refuse("E701", str(error.strerror or error), "remove it, or choose another place with -o", path=str(path))


def _beside(target: Path) -> Path:
    """A free name for something that is not whole yet, or no longer."""
    return target.parent / TEMPORARY.replace("*", secrets.token_hex(8))


def _put_in_place(new: Path, target: Path) -> None:
    """Give a directory the name of another, which may have the first one's name afterwards."""
    if not target.exists():
        os.rename(new, target)
    elif not _exchanged(new, target):
        aside = _beside(target)
        os.rename(target, aside)
        try:
            os.rename(new, target)
        except BaseException:
            os.rename(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchanged(a: Path, b: Path) -> bool:
    """Let two directories change places in one step, which Linux can on most file systems."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    """Arrays by name, and what is to be known about them, in one checked safetensors file."""
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    metadata = {"nnc": json.dumps({"sha256": _BLANK, "about": about})}
    data = safetensors.numpy.save(contiguous, metadata)
    mark = _BLANK.encode()
    assert mark in data, "the digest's place is in the header"
    digest = hashlib.sha256(data).hexdigest().encode()
    write_bytes(path, data.replace(mark, digest, 1))


def read_arrays(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and what is known about them; E702 if a single byte is not as it was written."""
    data = _content(path)
    try:
        known = json.loads(_metadata(data)["nnc"])
        digest, about = str(known["sha256"]), known["about"]
        sound = hashlib.sha256(data.replace(digest.encode(), _BLANK.encode(), 1)).hexdigest() == digest
        if sound and isinstance(about, dict):
            return safetensors.numpy.load(data), about
    except _DAMAGED:
        pass
    refuse("E702", "its checksum does not fit its content", "write it again: train again, or take another copy", path=str(path))


def read_any_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a safetensors file of any origin; one of ours is checked. Raises ValueError for what is none."""
    data = _content(path)
    try:
        if "nnc" in _metadata(data):
            return read_arrays(path)[0]
        return safetensors.numpy.load(data)
    except _DAMAGED as error:
        raise ValueError(f"it is no safetensors file of plain numbers ({error})") from None


def _content(path: Path) -> bytes:
    if not path.is_file():
        label = "it is a directory" if path.is_dir() else "there is no such file"
        refuse("E401", label, "give the path of a run or of a saved model", path=str(path))
    try:
        return path.read_bytes()
    except OSError as error:
        refuse("E401", str(error.strerror), "give the path of a run or of a saved model", path=str(path))


def _metadata(data: bytes) -> dict[str, Any]:
    header = dict(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))
    return dict(header.get("__metadata__", {}))
