"""From a picture to what a network takes: the fixed steps of every use, and the random ones of training."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from densekit.data.seeding import seeded
from densekit.data.settings import Augmentation
from densekit.errors import PictureError

PictureTransform = Callable[[Image.Image], Tensor]  # picture -> float32 (C, H, W)
Positive = Annotated[float, Field(gt=0)]


class Preprocessing(BaseModel):
    """What every picture goes through, in training and in use alike; travels with the model as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: Literal[1, 3] = Field(default=3, description="1: pictures become grey; 3: they become RGB")
    size: tuple[PositiveInt, PositiveInt] = Field(description="height and width in pixels")
    resize: Literal["squash", "crop"] = Field(
        default="squash", description="squash: stretch to size; crop: keep proportions and cut out the centre"
    )
    crop_fraction: float = Field(default=1.0, gt=0, le=1, description="crop: share of the short side that is kept")
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = Field(
        default=(0.0,), description="subtracted from values in 0..1, per channel or one for all"
    )
    std: tuple[Positive, ...] = Field(default=(1.0,), description="divided by after that, per channel or one for all")

    in_network: bool = Field(
        default=False, description="an exported network does all this itself: it takes each picture as bytes, as it is"
    )

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, self.channels}:
                raise ValueError(f"{name}={values}: give one value, or one for each of the {self.channels} channels")
        return self

    def to_bytes(self, picture: Image.Image) -> Tensor:
        """The picture as uint8 (C, H, W) in its own size, grey or RGB as ``channels`` says."""
        return F.pil_to_tensor(picture.convert("L" if self.channels == 1 else "RGB"))

    def to_size(self, pixels: Tensor) -> Tensor:
        """Bring uint8 (C, h, w) to (C, H, W); nothing is resampled where the size fits already.

        Raises:
            PictureError: it is so narrow that all of it, enlarged for the crop, would pass Pillow's limit of pixels.
        """
        height, width = self.size
        if self.resize == "crop":
            tall, wide = self._covering(*pixels.shape[-2:])
            if Image.MAX_IMAGE_PIXELS is not None and tall * wide > Image.MAX_IMAGE_PIXELS:
                own = "x".join(map(str, pixels.shape[-2:]))
                raise PictureError(
                    f"{own} pixels are too narrow: enlarged to {tall}x{wide} for a cut of {height}x{width}"
                )
            return F.center_crop(self._resample(pixels, [tall, wide]), [height, width])
        return self._resample(pixels, [height, width])

    def seen_part(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of a picture of that size that is left after `to_size`: left, top, right, bottom as shares.

        >>> Preprocessing(size=(32, 32), resize="crop").seen_part(32, 64)
        (0.25, 0.0, 0.75, 1.0)
        """
        if self.resize == "squash":
            return 0.0, 0.0, 1.0, 1.0
        (tall, wide), (H, W) = self._covering(height, width), self.size
        top, left = round((tall - H) / 2), round((wide - W) / 2)  # as center_crop rounds
        return left / wide, top / tall, (left + W) / wide, (top + H) / tall

    def _covering(self, height: int, width: int) -> list[int]:
        """The size that a picture is scaled to before its centre is cut out: the smallest that covers the crop."""
        tall, wide = self.covered_size
        return [max(tall, height * wide // width), max(wide, width * tall // height)]

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (C, H, W) to float32, (value / 255 - mean) / std."""
        return F.normalize(F.to_dtype(pixels, torch.float32, scale=True), list(self.mean), list(self.std))

    def transform(self) -> PictureTransform:
        """The deterministic steps as one callable, picture -> float32 (C, H, W); it can be pickled.

        With ``in_network`` it is picture -> uint8 (h, w, C), in its own size.
        """
        if self.in_network:
            return v2.Compose([self.to_bytes, _channels_last])
        return v2.Compose([self.to_bytes, self.to_size, self.normalise])

    @property
    def covered_size(self) -> tuple[int, int]:
        """Height and width that "crop" scales a picture to, at the least, before it cuts the size out."""
        return round(self.size[0] / self.crop_fraction), round(self.size[1] / self.crop_fraction)

    @property
    def interpolation_mode(self) -> InterpolationMode:
        """The interpolation as torchvision names it."""
        return InterpolationMode(self.interpolation)

    def _resample(self, pixels: Tensor, size: list[int]) -> Tensor:
        return F.resize(pixels, size, interpolation=self.interpolation_mode, antialias=True)


def _channels_last(pixels: Tensor) -> Tensor:
    return pixels.permute(1, 2, 0)


def training_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> PictureTransform:
    """Preprocessing with the random steps of training in between: picture -> float32 (C, H, W).

    It draws from torch's global CPU random numbers. Mixing (mixup, CutMix) is `mix_batch`'s.
    """
    steps: list[Callable[..., Any]] = [preprocessing.to_bytes]
    if augmentation.random_resized_crop:
        crop = v2.RandomResizedCrop(
            preprocessing.size,
            scale=augmentation.crop_scale,
            interpolation=preprocessing.interpolation_mode,
            antialias=True,
        )
        steps.append(crop)
    else:
        steps.append(preprocessing.to_size)
    if augmentation.crop_padding:
        steps.append(v2.RandomCrop(preprocessing.size, padding=augmentation.crop_padding))
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation.trivial_augment:
        steps.append(v2.TrivialAugmentWide())
    steps.append(preprocessing.normalise)
    if augmentation.random_erasing:
        steps.append(v2.RandomErasing(p=augmentation.random_erasing))
    return v2.Compose(steps)


def mix_batch(
    pictures: Tensor,
    labels: Tensor,
    num_classes: int,
    augmentation: Augmentation,
    *,
    seed: int,
    epoch: int,
    step: int,
    rank: int = 0,
) -> tuple[Tensor, Tensor]:
    """Mix the pictures of a batch with each other (mixup or CutMix, by turns at random where both are on).

    Args:
        pictures: float (N, C, H, W), on any device.
        labels: int64 (N,).
        num_classes: K.
        augmentation: says how; one of ``mixup`` and ``cutmix`` must be on.
        seed: with epoch, step and rank decides the draw, whatever was drawn before.
        epoch: number of the epoch.
        step: number of the batch in the epoch.
        rank: number of the process, so that processes draw differently.

    Returns:
        Mixed pictures (N, C, H, W) and the share of each class, float (N, K).
    """
    mixers: list[Any] = []
    if augmentation.mixup:
        mixers.append(v2.MixUp(alpha=augmentation.mixup, num_classes=num_classes))
    if augmentation.cutmix:
        mixers.append(v2.CutMix(alpha=augmentation.cutmix, num_classes=num_classes))
    with seeded(seed, epoch, step, rank):
        return mixers[int(torch.randint(len(mixers), ()))](pictures, labels)
