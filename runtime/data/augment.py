"""Augmentations of a training batch. What is drawn depends on the seed, the data name, the step's place in the list and the training step,
so that a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnc.compiler.experiment import Augmentation
from nnc.compiler.objective import PARTNER, SHARE
from nnc.runtime.kernels import generator

Array = np.ndarray[Any, Any]
MIXING = "augment/mixup"  # one stream for all inputs


def _sampled(images: Array, rows: Array, columns: Array) -> Array:
    """Bilinear values at places [n, h, w] of images [n, c, h, w]; 0 outside."""
    n, _, h, w = images.shape
    padded = np.zeros((*images.shape[:2], h + 2, w + 2), images.dtype)
    padded[:, :, 1:-1, 1:-1] = images
    r, c = np.clip(rows + 1, 0, h + 1), np.clip(columns + 1, 0, w + 1)
    top, left = np.minimum(r.astype(np.int64), h), np.minimum(c.astype(np.int64), w)
    down, right = ((r - top)[:, None]).astype(images.dtype), ((c - left)[:, None]).astype(images.dtype)
    which = np.arange(n)[:, None, None]
    corner = [np.moveaxis(padded[which, :, top + i, left + j], -1, 1) for i in (0, 1) for j in (0, 1)]
    upper, lower = corner[0] + right * (corner[1] - corner[0]), corner[2] + right * (corner[3] - corner[2])
    found: Array = upper + down * (lower - upper)
    return found


def _mapped(images: Array, matrices: Array) -> Array:
    """Each image seen through a linear map [n, 2, 2] about its centre, from places of the result to places of the image."""
    _, _, h, w = images.shape
    middle = np.array([(h - 1) / 2, (w - 1) / 2])
    grid = np.stack(np.meshgrid(np.arange(h) - middle[0], np.arange(w) - middle[1], indexing="ij"))
    places = np.einsum("nij,jhw->nihw", matrices, grid) + middle[None, :, None, None]
    return _sampled(images, places[:, 0], places[:, 1])


def _shift(images: Array, random: np.random.Generator, p: Any) -> Array:
    n, _, h, w = images.shape
    most = int(p.pixels)
    moves = random.integers(-most, most + 1, (2, n))
    rows = np.arange(h)[None, :, None] - moves[0][:, None, None] + np.zeros((1, 1, w))
    columns = np.arange(w)[None, None, :] - moves[1][:, None, None] + np.zeros((1, h, 1))
    return _sampled(images, rows, columns)


def _rotate(images: Array, random: np.random.Generator, p: Any) -> Array:
    angles = np.deg2rad(random.uniform(-p.degrees, p.degrees, len(images)))
    cos, sin = np.cos(angles), np.sin(angles)
    return _mapped(images, np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2))


def _scale(images: Array, random: np.random.Generator, p: Any) -> Array:
    factors = random.uniform(p.low, p.high, len(images))
    return _mapped(images, np.eye(2) / factors[:, None, None])


def _flip(images: Array, random: np.random.Generator, p: Any) -> Array:
    mirrored = images[..., ::-1] if p.axis == "horizontal" else images[..., ::-1, :]
    chosen = random.random(len(images)) < p.rate
    return np.where(chosen[:, None, None, None], mirrored, images)


def _blurred(field: Array, deviation: float) -> Array:
    """A Gaussian blur along the last two axes, reaching three deviations."""
    reach = max(1, int(3 * deviation))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    weights /= weights.sum()
    for axis in (-1, -2):
        padded = np.pad(field, [(0, 0)] * (field.ndim + axis) + [(reach, reach)] + [(0, 0)] * (-axis - 1), mode="edge")
        length = field.shape[axis]
        field = np.add.reduce([w * padded.take(range(i, i + length), axis) for i, w in enumerate(weights)])
    return field


def _elastic(images: Array, random: np.random.Generator, p: Any) -> Array:
    n, _, h, w = images.shape
    field = _blurred(random.standard_normal((2, n, h, w)), p.smoothness)
    field *= p.strength / max(float(field.std()), 1e-12)
    return _sampled(images, np.arange(h)[None, :, None] + field[0], np.arange(w)[None, None, :] + field[1])


def _noise(values: Array, random: np.random.Generator, p: Any) -> Array:
    found: Array = values + (p.std * random.standard_normal(values.shape)).astype(values.dtype)
    return found


def _cutout(images: Array, random: np.random.Generator, p: Any) -> Array:
    n, _, h, w = images.shape
    centres = random.integers(0, (h, w), (n, 2))
    rows = np.abs(np.arange(h)[None] - centres[:, :1] + 0.5 * (1 - p.pixels % 2)) <= (p.pixels - 1) / 2
    columns = np.abs(np.arange(w)[None] - centres[:, 1:] + 0.5 * (1 - p.pixels % 2)) <= (p.pixels - 1) / 2
    return np.where((rows[:, :, None] & columns[:, None, :])[:, None], 0, images).astype(images.dtype)


def _share(random: np.random.Generator, samples: int, p: Any) -> tuple[float, Array]:
    """How much of each sample is its own, and who its partner is."""
    return float(random.beta(p.alpha, p.alpha)), random.permutation(samples)


def _mixup(values: Array, random: np.random.Generator, p: Any) -> Array:
    share, partners = _share(random, len(values), p)
    found: Array = share * values + (1 - share) * values[partners]
    return found


AUGMENTATIONS: dict[str, Callable[[Array, np.random.Generator, Any], Array]] = {
    "shift": _shift,
    "rotate": _rotate,
    "scale": _scale,
    "flip": _flip,
    "elastic": _elastic,
    "noise": _noise,
    "cutout": _cutout,
    "mixup": _mixup,
}


def augment(batch: dict[str, Array], items: Sequence[Augmentation], seed: int, step: int) -> None:
    """Change the arrays of a batch in place, items in turn. What mixes does it alike for all inputs, and fills what the step asks of partners."""
    for place, item in enumerate(items):
        array = batch.get(item.name)
        if array is None:
            continue
        changed = array
        for i, bound in enumerate(item.steps):
            mixing = "mixing" in bound.operation.facts
            stream = MIXING if mixing else f"augment/{place}/{i}"
            changed = AUGMENTATIONS[bound.name](changed, generator(seed, stream, step), bound.params)
            if mixing:
                _pair(batch, *_share(generator(seed, stream, step), len(array), bound.params))
        array[...] = changed


def _pair(batch: dict[str, Array], share: float, partners: Array) -> None:
    """What a step that mixes takes beside the mixed inputs."""
    for name, array in batch.items():
        if name == SHARE:
            array.fill(share)
        elif name.startswith(PARTNER):
            batch[name.removeprefix(PARTNER)].take(partners, 0, array, "clip")
