"""The fixed steps of every use, from a picture to what a network takes."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationInfo, field_validator, model_validator
from torch import Tensor
from torch.nn import functional as F

from densekit.errors import PictureError

PictureTransform = Callable[[Image.Image], Tensor]  # picture -> float32 (C, H, W)
Positive = Annotated[float, Field(gt=0)]


class Preprocessing(BaseModel):
    """What every picture goes through, in training and in use alike; travels with the model as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: Literal[1, 3] = Field(default=3, description="1: pictures become grey; 3: they become RGB")
    size: tuple[PositiveInt, PositiveInt] = Field(description="height and width in pixels, or one number for both")
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

    @field_validator("size", "mean", "std", mode="before")
    @classmethod
    def _one_for_all(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, int | float):
            return value
        return (value, value) if info.field_name == "size" else (value,)

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, self.channels}:
                raise ValueError(f"{name}={values}: give one value, or one for each of the {self.channels} channels")
        return self

    def __call__(self, picture: Image.Image) -> Tensor:
        """The picture as float32 (C, H, W); with ``in_network`` as uint8 (h, w, C), in its own size."""
        if self.in_network:
            return self.to_bytes(picture).permute(1, 2, 0)
        return self.normalise(self.to_size(self.to_bytes(picture)))

    def to_bytes(self, picture: Image.Image) -> Tensor:
        """The picture as uint8 (C, H, W) in its own size, grey or RGB as ``channels`` says."""
        mode = "L" if self.channels == 1 else "RGB"
        pixels = np.array(picture if picture.mode == mode else picture.convert(mode))
        return torch.from_numpy(pixels.reshape(picture.height, picture.width, self.channels)).permute(2, 0, 1)

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
            top, left = _centred(tall, wide, self.size)
            return self._resample(pixels, (tall, wide))[:, top : top + height, left : left + width]
        return self._resample(pixels, self.size)

    def resized(self, picture: Image.Image) -> np.ndarray:
        """The picture as `normalise` takes it, but as pictures are kept: uint8 (H, W), or (H, W, 3)."""
        pixels = self.to_size(self.to_bytes(picture))
        return (pixels[0] if self.channels == 1 else pixels.permute(1, 2, 0)).numpy()

    def seen_part(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of a picture of that size that is left after `to_size`: left, top, right, bottom as shares.

        >>> Preprocessing(size=(32, 32), resize="crop").seen_part(32, 64)
        (0.25, 0.0, 0.75, 1.0)
        """
        if self.resize == "squash":
            return 0.0, 0.0, 1.0, 1.0
        (tall, wide), (H, W) = self._covering(height, width), self.size
        top, left = _centred(tall, wide, self.size)
        return left / wide, top / tall, (left + W) / wide, (top + H) / tall

    def _covering(self, height: int, width: int) -> tuple[int, int]:
        """The size that a picture is scaled to before its centre is cut out: the smallest that covers the crop."""
        tall, wide = self.covered_size
        return max(tall, height * wide // width), max(wide, width * tall // height)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (C, H, W) to float32, (value / 255 - mean) / std."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return pixels.to(torch.float32).mul_(1 / 255).sub_(mean).div_(std)

    @property
    def covered_size(self) -> tuple[int, int]:
        """Height and width that "crop" scales a picture to, at the least, before it cuts the size out."""
        return round(self.size[0] / self.crop_fraction), round(self.size[1] / self.crop_fraction)

    def _resample(self, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        if pixels.shape[-2:] == size:
            return pixels
        return F.interpolate(pixels[None], size, mode=self.interpolation, antialias=True)[0]


def _centred(tall: int, wide: int, size: tuple[int, int]) -> tuple[int, int]:
    """Top and left of a window of that size in the middle of a picture."""
    return round((tall - size[0]) / 2), round((wide - size[1]) / 2)
