"""What a person can choose about data, as typed settings; torch is not needed to read or check them."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]


class DataSettings(BaseModel):
    """Which pictures, and how they are divided into training, validation and test."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)

    data: str = Field(
        "digits",
        description="folder (train/CLASS/*, val/CLASS/*, test/CLASS/*, or CLASS/*), CSV of path,label[,split][,group] "
        "or path,labels with cat|dog, or a name: digits, mnist, fashion-mnist, cifar10, cifar100",
    )
    data_root: str | None = Field(None, description="where named data sets are kept [platform's cache folder]")
    val_fraction: Part = Field(
        0.1, description="share of the training pictures to validate on, if there is no val split; 0: none"
    )
    test_fraction: Part = Field(0.1, description="share to test on, if the data names no splits at all")
    fold: str | None = Field(
        None,
        description="test on part N of M equal parts of the training pictures, e.g. 2/5, and not on other test "
        "pictures; `densekit cross-validate` does so with every part",
    )
    limit_per_class: int | None = Field(
        None,
        ge=1,
        description="use at most this many training pictures per class (several labels: until each has as many)",
    )
    limit_test_per_class: int | None = Field(None, ge=1, description="use at most this many test pictures per class")
    strict: bool = Field(False, description="a picture that cannot be read is an error, not left out")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of splits, weights, order and augmentation")

    @field_validator("fold")
    @classmethod
    def _part_of_parts(cls, value: str | None) -> str | None:
        if value is not None:
            read_fold(value)
        return value


def read_fold(text: str) -> tuple[int, int]:
    """Return the number of a part and how many there are.

    Raises:
        ValueError: it is not one of two parts or more.

    >>> read_fold("2/5")
    (2, 5)
    """
    number, _, parts = text.partition("/")
    if not (text.isascii() and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts) >= 2):
        raise ValueError("give a part and the number of parts, such as 2/5")
    return int(number), int(parts)


class Augmentation(BaseModel):
    """Random changes to training pictures; all are off by default."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)

    crop_padding: int = Field(
        0, ge=0, le=4096, description="pad each side with this many black pixels, then crop the size at random"
    )
    flip: bool = Field(False, description="mirror left to right, half of the time")
    vertical_flip: bool = Field(False, description="mirror top to bottom, half of the time")
    rotation: float = Field(0.0, ge=0, le=180, description="rotate by up to so many degrees, corners become black")
    random_resized_crop: bool = Field(False, description="crop a random part and resize it (Inception, timm)")
    crop_scale: tuple[Share, Share] = Field((0.08, 1.0), description="share of the area that this part may cover")
    trivial_augment: bool = Field(False, description="one random operation of random strength (arXiv:2103.10158)")
    random_erasing: Share = Field(0.0, description="probability of blanking a rectangle (arXiv:1708.04896)")
    mixup: float = Field(0.0, ge=0, description="alpha of mixup (arXiv:1710.09412); 0 is off")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix (arXiv:1905.04899); 0 is off")

    @model_validator(mode="after")
    def _one_crop(self) -> Self:
        if self.crop_padding and self.random_resized_crop:
            raise ValueError("crop_padding and random_resized_crop are both on; use one of the two")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1]:
            raise ValueError(f"crop_scale={self.crop_scale}: give the smallest share above 0, then the largest")
        return self

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed, so that labels become class shares."""
        return self.mixup > 0 or self.cutmix > 0
