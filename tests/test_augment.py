"""Augmentations change training batches alone, repeat with the seed and the step, and do to an image what they say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import nnc
import nnc.compiler.ops
from nnc.compiler.operation import Kind, names
from nnc.runtime.data.augment import AUGMENTATIONS

IMAGE = np.arange(1.0, 50.0).reshape(1, 1, 7, 7)


def changed(word: str, images: np.ndarray, seed: int = 0, **arguments: Any) -> np.ndarray:
    return AUGMENTATIONS[word](images, np.random.default_rng(seed), SimpleNamespace(**arguments))


def test_every_augmentation_of_the_language_is_run() -> None:
    assert set(AUGMENTATIONS) == set(names(Kind.AUGMENTATION))


def test_a_shift_moves_whole_pixels_and_fills_with_zeros() -> None:
    batch = np.repeat(IMAGE, 200, axis=0)
    seen = set()
    for image in changed("shift", batch, pixels=2)[:, 0]:
        moves = [(r, c) for r in range(-2, 3) for c in range(-2, 3) if np.array_equal(image, np.roll(np.pad(IMAGE[0, 0], 2), (r, c), (0, 1))[2:-2, 2:-2])]
        assert len(moves) == 1
        seen.add(moves[0])
    assert len(seen) == 25


def test_a_quarter_turn_is_a_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    turned = AUGMENTATIONS["rotate"](IMAGE, SimpleNamespace(uniform=lambda low, high, size: np.full(size, 90.0)), SimpleNamespace(degrees=180))
    np.testing.assert_allclose(turned[0, 0], np.rot90(IMAGE[0, 0], k=-1), atol=1e-9)
    small = changed("rotate", np.repeat(IMAGE, 50, axis=0), degrees=5)
    np.testing.assert_allclose(small[:, 0, 3, 3], 25.0, err_msg="the centre stays")


def test_scaling_by_two_reads_between_pixels() -> None:
    doubled = changed("scale", IMAGE, low=2.0, high=2.0 + 1e-12)
    assert doubled[0, 0, 3, 3] == pytest.approx(25.0)
    assert doubled[0, 0, 3, 5] == pytest.approx(26.0)
    assert doubled[0, 0, 3, 4] == pytest.approx(25.5)


@pytest.mark.parametrize(("axis", "along"), [("horizontal", 3), ("vertical", 2)])
def test_a_flip_mirrors_a_share_of_the_images(axis: str, along: int) -> None:
    batch = np.repeat(IMAGE, 2000, axis=0)
    result = changed("flip", batch, axis=axis, rate=0.25)
    mirrored = (result == np.flip(batch, along)).all((1, 2, 3))
    assert (mirrored | (result == batch).all((1, 2, 3))).all()
    assert mirrored.mean() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("pixels", [1, 2, 3])
def test_a_cutout_is_a_square_of_zeros(pixels: int) -> None:
    for image in changed("cutout", np.ones((100, 2, 9, 9)), pixels=pixels):
        rows, columns = np.nonzero(image[0] == 0)
        assert 1 <= len(rows) <= pixels * pixels
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1), "a rectangle, cut at the edge"
        np.testing.assert_array_equal(image[0], image[1])


def test_noise_and_elastic_have_the_strength_they_say() -> None:
    noisy = changed("noise", np.zeros((40, 1, 20, 20)), std=0.3)
    assert noisy.std() == pytest.approx(0.3, rel=0.05)
    ramp = np.broadcast_to(np.arange(40.0), (8, 1, 40, 40)).copy()
    moved = changed("elastic", ramp, strength=1.5, smoothness=3.0) - ramp
    assert moved[:, :, 8:-8, 8:-8].std() == pytest.approx(1.5, rel=0.3)


SPEC = """
network(image: float32[1, 4, 4]) { return y = image -> flatten -> dense(1) }
data {
  source  = npz("images.npz")
  image   = column(image)
  t       = column(t)
  split   = random(train=50%, validation=50%)
  augment = [image -> shift(1) -> noise(0.5)]
}
train { loss = mse(y, t)  optimizer = sgd(lr=0.01)  batch = 4  epochs = 3 }
"""


def test_training_is_augmented_and_repeats_and_evaluation_is_not(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", image=random.standard_normal((32, 1, 4, 4)).astype(np.float32), t=random.standard_normal((32, 1)).astype(np.float32))
    found = {}
    for name, text in (("a", SPEC), ("b", SPEC), ("plain", SPEC.replace("augment = [image -> shift(1) -> noise(0.5)]", ""))):
        (tmp_path / f"{name}.nn").write_text(text)
        result = nnc.train(tmp_path / f"{name}.nn", out=tmp_path / name)
        found[name] = result.model.parameters["y/dense/weight"].copy()
        x, t = (result.data.arrays[n][result.data.splits["validation"]] for n in ("image", "t"))
        assert result.figures["validation"]["loss"] == pytest.approx(float(np.mean((result.model.predict({"image": x})["y"] - t) ** 2)), rel=1e-5)
    np.testing.assert_array_equal(found["a"], found["b"])
    assert not np.allclose(found["a"], found["plain"], atol=1e-3)


PLATEAU = """
network(x: float32[1]) { return y = x -> dense(1, init=zeros, bias=false) }
data { source = table(x=[1, 1, 1, 1], t=[0, 0, 0, 0])  x = column(x)  t = column(t) }
train { loss = mse(y, t)  optimizer = sgd(lr=0.1)  schedule = reduce_on_plateau(factor=0.5, patience=2, least=0.02)  batch = full  epochs = 12 }
"""


def test_a_plateau_halves_the_rate_after_more_than_patience_epochs(tmp_path: Path) -> None:
    """The loss is 0 throughout: the first epoch is the best, every third one after it reduces, down to the least."""
    (tmp_path / "flat.nn").write_text(PLATEAU)
    result = nnc.train(tmp_path / "flat.nn", out=tmp_path / "run")
    assert [r["lr"] for r in result.history] == pytest.approx([0.1] * 4 + [0.05] * 3 + [0.025] * 3 + [0.02] * 2)


def test_a_plateau_counts_relative_improvements(tmp_path: Path) -> None:
    """The loss falls from 10,000 by some hundreds an epoch, but never by half of its best."""
    text = PLATEAU.replace("t=[0, 0, 0, 0]", "t=[100, 100, 100, 100]").replace("lr=0.1", "lr=0.01")
    (tmp_path / "slow.nn").write_text(text.replace("patience=2, least=0.02", "patience=1, min_delta=0.5").replace("epochs = 12", "epochs = 9"))
    result = nnc.train(tmp_path / "slow.nn", out=tmp_path / "run")
    assert [r["lr"] for r in result.history] == pytest.approx([0.01] * 3 + [0.005] * 2 + [0.0025] * 2 + [0.00125] * 2)
    losses = [r["train"]["loss"] for r in result.history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] > 5000
