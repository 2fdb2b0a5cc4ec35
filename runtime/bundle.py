"""The deployment bundle: a directory of files, and manifest.json with the SHA-256 of each and of all that the model was made of.

The manifest carries a digest of its own, computed with the digest's place filled by zeros. `open_bundle` checks everything: every byte of
every listed file is as it was written, or the bundle is refused with the name of the file that is not. What else lies in the directory is
not part of the bundle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from .files import TEMPORARY, digest_of, refuse, remove_directory, write_directory

FORMAT = 1
MANIFEST = "manifest.json"
_BLANK = "0" * 64
_AGAIN = "export it again, or take another copy"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file is as it was written. `manifest` is manifest.json."""

    path: Path
    manifest: dict[str, Any]
    content: dict[str, bytes]  # by path below the bundle; without copies of the model

    @property
    def model(self) -> bytes:
        """The ONNX file."""
        return self.content[self.manifest["model"]]

    @property
    def spec(self) -> str:
        """The spec as it was trained."""
        return self.content["spec.nn"].decode()

    @property
    def signature(self) -> dict[str, Any]:
        """Inputs, outputs, and an example of both."""
        return dict(json.loads(self.content["signature.json"]))

    @property
    def verification(self) -> dict[str, Any]:
        """How far onnxruntime was from the runtime."""
        return dict(json.loads(self.content["verification.json"]))


def write_bundle(path: Path, name: str, model: str, files: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
    """Write the files and their manifest, or nothing. `model` is the ONNX file among them, `about` what it was made of.

    A bundle that is there is replaced; E704 where something else is.
    """
    require_replaceable(path)
    listed = {key: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for key, data in sorted(files.items())}
    content = {"format": FORMAT, "sha256": _BLANK, "name": name, "model": model, "files": listed, **about}
    blank = _text(content)
    manifest = _text(content | {"sha256": hashlib.sha256(blank).hexdigest()})
    write_directory(path, {**files, MANIFEST: manifest})


def open_bundle(path: Path) -> Bundle:
    """The bundle of a directory. E401 where there is none; E703 names what is missing, truncated, changed or swapped."""
    if not (path / MANIFEST).is_file():
        refuse("E401", f"it is no bundle: it has no {MANIFEST}", "give the directory that `nnc export` wrote", path=str(path))
    manifest = _manifest(path)
    if manifest is None:
        _refuse(path, f"{MANIFEST} is not as nnc wrote it")
    content: dict[str, bytes] = {}
    for name, entry in sorted(manifest["files"].items(), key=lambda listed: listed[0] != manifest["model"]):  # the model before copies of it
        wrong = _wrong(path / name, name, entry, manifest["files"])
        if wrong:
            _refuse(path, wrong)
        if not any(manifest["files"][other]["sha256"] == entry["sha256"] for other in content):
            content[name] = (path / name).read_bytes()
            if hashlib.sha256(content[name]).hexdigest() != entry["sha256"]:
                _refuse(path, f"{name} changes while it is read")
    return Bundle(path, manifest, content)


def require_replaceable(path: Path) -> None:
    """E704 where a directory holds anything but a bundle as it was written, so that nothing of the user's is lost."""
    if not path.exists():
        return
    if not path.is_dir():
        refuse("E704", "it is a file", "give another directory with -o", path=str(path))
    found = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_symlink() or not p.is_dir())
    if all(PurePosixPath(name).match(TEMPORARY) for name in found):
        return
    manifest = _manifest(path)
    if manifest is None:
        refuse("E704", "it holds files that are no bundle", "give another directory with -o", path=str(path))
    listed = manifest["files"]
    others = [name for name in found if name not in listed and name != MANIFEST]
    if others:
        refuse("E704", f"{others[0]} is not part of the bundle that is there", "move it elsewhere, or give another directory with -o", path=str(path))
    for name in found:
        wrong = _wrong(path / name, name, listed[name], listed) if name != MANIFEST else ""
        if wrong:
            refuse("E704", f"{wrong}, and would be lost", "move it elsewhere, or give another directory with -o", path=str(path))


def discard(path: Path) -> None:
    """Remove a bundle that `require_replaceable` would let be replaced."""
    if path.exists():
        require_replaceable(path)
        remove_directory(path)


def _text(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of a bundle; None for what is none, or not as it was written."""
    from .manifest import Manifest

    try:
        data = (path / MANIFEST).read_bytes()
        content = Manifest.model_validate_json(data)
        known: dict[str, Any] = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return None
    sound = hashlib.sha256(data.replace(content.sha256.encode(), _BLANK.encode(), 1)).hexdigest() == content.sha256
    inside = all(_below(name) for name in content.files) and content.model in content.files
    return known if sound and inside and content.format == FORMAT else None


def _below(name: str) -> bool:
    """Whether a name stays in the directory."""
    path = Path(name)
    return bool(path.parts) and not path.anchor and ".." not in path.parts and "\0" not in name and name != MANIFEST


def _wrong(path: Path, name: str, entry: Mapping[str, Any], listed: Mapping[str, Mapping[str, Any]]) -> str:
    """What is wrong with a file, or nothing."""
    if not path.is_file():
        return f"{name} is {'not a file' if path.exists() else 'missing'}"
    try:
        size, wanted = path.stat().st_size, entry["bytes"]
        found = digest_of(path) if any(known["bytes"] == size for known in listed.values()) else ""
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    if found == entry["sha256"]:
        return ""
    for other, known in listed.items():
        if known["sha256"] == found:
            return f"{name} holds what belongs to {other}"
    return f"{name} was cut short: {size:,} of {wanted:,} bytes" if size < wanted else f"{name} was changed"


def _refuse(path: Path, label: str) -> NoReturn:
    refuse("E703", label, _AGAIN, path=str(path))
