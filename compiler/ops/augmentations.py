"""Augmentations: random changes of training batches, drawn anew in every step. runtime/data/augment.py runs them.

Images are [channels, height, width]; what comes from outside the image is 0, values between pixels are bilinear.
"""

from typing import Literal

from pydantic import Field

from ..operation import Kind, Params, operation


class ShiftParams(Params):
    pixels: float = Field(gt=0, description="the largest shift along each axis")


@operation(Kind.AUGMENTATION, ShiftParams, facts={"image"})
def shift(p: ShiftParams) -> None:
    """Moved by whole pixels, uniform in -pixels..pixels along each axis."""


class RotateParams(Params):
    degrees: float = Field(gt=0, le=180, description="the largest angle")


@operation(Kind.AUGMENTATION, RotateParams, facts={"image"})
def rotate(p: RotateParams) -> None:
    """Turned about the centre by an angle uniform in [-degrees, degrees]."""


class ScaleParams(Params):
    low: float = Field(0.9, gt=0, description="the smallest factor")
    high: float = Field(1.1, gt=0, description="the largest factor")


@operation(Kind.AUGMENTATION, ScaleParams, facts={"image"})
def scale(p: ScaleParams) -> None:
    """Enlarged about the centre by a factor uniform in [low, high]."""


class FlipParams(Params):
    axis: Literal["horizontal", "vertical"] = Field("horizontal", description="left and right, or top and bottom, change places")
    rate: float = Field(0.5, gt=0, le=1, description="share of the images that are flipped")


@operation(Kind.AUGMENTATION, FlipParams, facts={"image"})
def flip(p: FlipParams) -> None:
    """Mirrored, with a probability."""


class ElasticParams(Params):
    strength: float = Field(1.0, gt=0, description="standard deviation of the displacement, in pixels")
    smoothness: float = Field(4.0, gt=0, description="standard deviation of the blur over the displacements, in pixels")


@operation(Kind.AUGMENTATION, ElasticParams, facts={"image"})
def elastic(p: ElasticParams) -> None:
    """Each pixel moved by a smooth random field. Source: Simard et al. 2003."""


class NoiseParams(Params):
    std: float = Field(0.1, gt=0, description="standard deviation of what is added")


@operation(Kind.AUGMENTATION, NoiseParams)
def noise(p: NoiseParams) -> None:
    """x + std * noise, noise standard normal."""


class CutoutParams(Params):
    pixels: int = Field(ge=1, description="side of the square")


@operation(Kind.AUGMENTATION, CutoutParams, facts={"image"})
def cutout(p: CutoutParams) -> None:
    """0 in a square around a random pixel. Source: DeVries and Taylor 2017, arXiv:1708.04552."""


class MixupParams(Params):
    alpha: float = Field(0.2, gt=0, description="of Beta(alpha, alpha): small values leave most batches nearly as they are, 1 mixes evenly")


@operation(Kind.AUGMENTATION, MixupParams, facts={"mixing"})
def mixup(p: MixupParams) -> None:
    """s x_i + (1 - s) x_j, one share s ~ Beta(alpha, alpha) a batch and the batch in a random order as its partners j.

    Every input of the network is mixed with the same s and j, and so is what the loss compares with: a loss of numbers sees s y_i + (1 - s) y_j, weighted
    by s w_i + (1 - s) w_j; one of classes becomes s w_i loss(y_i) + (1 - s) w_j loss(y_j), which for cross-entropy is that of the mixed distributions.
    The train loss of an epoch is of the mixed batches; every other figure is of rows as they are. Source: Zhang et al. 2018, arXiv:1710.09412.
    """
