"""Writing files so that a crash at any moment leaves the old content or the new, never a part; and reading them back checked.

Arrays are kept as safetensors. The format has no checksum, so its metadata carries the SHA-256 of the whole file, computed
with the digest's own place filled by zeros: every flipped byte is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from nnc.compiler.diagnostics import Findings
from nnc.compiler.source import Source

Array = np.ndarray[Any, Any]
_BLANK = "0" * 64


def refuse(code: str, label: str, help: str, **values: object) -> None:
    """Raise one diagnostic that belongs to no place of a spec."""
    findings = Findings(Source("", ""))
    findings.add(code, None, label, help=help, **values)
    findings.stop_on_errors()


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file: a temporary one beside it, fsync, rename, fsync of the directory. E701 where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        refuse("E701", str(error.strerror or error), "free some space, or choose another directory with -o", path=str(path))


def _sync_directory(path: Path) -> None:
    if os.name == "posix":  # Windows has no handle to a directory
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    """Arrays by name, and what is to be known about them, in one checked safetensors file."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {"nnc": json.dumps({"sha256": _BLANK, "about": about})}
    data = safetensors.numpy.save(contiguous, metadata)
    mark = _BLANK.encode()
    assert data.count(mark) >= 1
    digest = hashlib.sha256(data).hexdigest().encode()
    write_bytes(path, data.replace(mark, digest, 1))


def read_arrays(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and what is known about them; E702 if a single byte is not as it was written."""
    try:
        data = path.read_bytes()
    except OSError as error:
        refuse("E401", str(error.strerror), "give the path of a run or of a saved model", path=str(path))
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        known = json.loads(header["__metadata__"]["nnc"])
        digest, about = known["sha256"], known["about"]
        sound = hashlib.sha256(data.replace(str(digest).encode(), _BLANK.encode(), 1)).hexdigest() == digest
        if sound:
            return safetensors.numpy.load(data), about
    except (ValueError, KeyError, TypeError, UnicodeDecodeError, safetensors.SafetensorError, RecursionError):
        pass
    refuse("E702", "its checksum does not fit its content", "write it again: train again, or take another copy", path=str(path))
    raise AssertionError("unreachable")
