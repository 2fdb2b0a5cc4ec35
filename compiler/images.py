"""Folders of images: which files they hold, and what the headers of these say. The only importer of pillow in the compiler."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from .diagnostics import Refusal
from .record import record
from .schema import ColumnSchema, Schema

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
CHANNELS = {"L": 1, "RGB": 3}
MOST_HEADERS = 1000  # `nnc check` opens these many images, evenly spaced


def pillow() -> Any:
    """PIL.Image; E707 where it is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise Refusal("E707", package="pillow", label="it reads images", help="pip install 'nnc-lang[images]'") from None
    return Image


@record
class Images:
    """The images below a folder, sorted by name, and the places of their classes among the names of the folders."""

    paths: tuple[Path, ...]
    classes: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()


def _files(folder: Path, root: Path) -> tuple[Path, ...]:
    """The images below a folder; what is hidden is left out, anything else is refused."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() not in SUFFIXES:
            raise Refusal("E410", label=f"`{name}` is no image: {' '.join(SUFFIXES)}", path=folder.name, help="move it elsewhere")
        if root not in path.resolve().parents:
            raise Refusal("E409", label=f"the data root is {root}", path=name, help="copy the image below the root")
        found.append(path)
    if not found:
        raise Refusal("E410", label="it holds no image", path=folder.name, help="give a folder with images")
    return tuple(found)


def unlabelled(folder: Path) -> Images:
    """All images below a folder."""
    return Images(_files(folder, folder.resolve()))


def labelled(folder: Path, root: Path) -> Images:
    """The images in the folders of a folder, whose names are the classes, sorted."""
    paths = _files(folder, root.resolve())
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    names = [path.relative_to(folder).parts[0] for path in paths]
    for path, name in zip(paths, names, strict=True):
        if name not in classes:
            raise Refusal("E410", label=f"`{path.name}` stands in no folder of a class", path=folder.name, help="put it into a folder with its class's name")
    return Images(paths, classes, tuple(classes.index(name) for name in names))


def read_header(path: Path) -> tuple[int, int, int]:
    """Channels, height and width of an image; E410 for what is neither greyscale nor RGB, or no image."""
    image = opened(path)
    with image:
        if image.mode not in CHANNELS:
            raise Refusal("E410", label=f"its mode is {image.mode}", path=path.name, help="save it as greyscale (L) or RGB")
        return CHANNELS[image.mode], int(image.height), int(image.width)


def opened(path: Path) -> Any:
    """The image with its header read."""
    library = pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", library.DecompressionBombWarning)
            return library.open(path)
    except (OSError, ValueError, SyntaxError, library.DecompressionBombError, library.DecompressionBombWarning) as error:
        raise Refusal("E410", label=str(error), path=path.name, help="save the image again") from None


def require_shape(path: Path, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """All images have one shape: E410 names the first that has another."""
    if found != wanted:
        spoken = [f"{w}x{h} {'RGB' if c == 3 else 'greyscale'}" for c, h, w in (found, wanted)]
        raise Refusal("E410", label=f"it is {spoken[0]}, the first image is {spoken[1]}", path=f"{path.parent.name}/{path.name}",
                      help="bring all images to one size and mode")  # fmt: skip


def image_schema(folder: Path, root: Path) -> Schema:
    """`image` and `label` of a folder, from the headers of its images."""
    images = labelled(folder, root)
    shape = read_header(images.paths[0])
    step = max(1, len(images.paths) // MOST_HEADERS)
    for path in images.paths[::step]:
        require_shape(path, read_header(path), shape)
    columns = {"image": ColumnSchema("uint8", shape), "label": ColumnSchema("int64", (), images.classes)}
    return Schema(columns, len(images.paths))
