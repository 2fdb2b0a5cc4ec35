"""What the manifest of a bundle says, as pydantic checks it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class File(BaseModel):
    """What the manifest says of a file."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    sha256: str
    bytes: int


class Manifest(BaseModel):
    """What `open_bundle` relies on; `write_bundle` is given the rest, which says what the model was made of."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    format: int
    sha256: str
    name: str
    model: str
    files: dict[str, File]
