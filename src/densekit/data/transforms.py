"""The random steps of training: on each picture, between the fixed ones, and on a batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from densekit.data.preprocessing import PictureTransform, Preprocessing
from densekit.data.seeding import seeded
from densekit.data.settings import Augmentation


def training_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> PictureTransform:
    """Preprocessing with the random steps of training in between: picture -> float32 (C, H, W).

    It draws from torch's global CPU random numbers. Mixing (mixup, CutMix) is `mix_batch`'s.
    """
    from torchvision.transforms import InterpolationMode, v2

    steps: list[Callable[..., Any]] = [preprocessing.to_bytes]
    if augmentation.random_resized_crop:
        crop = v2.RandomResizedCrop(
            preprocessing.size,
            scale=augmentation.crop_scale,
            interpolation=InterpolationMode(preprocessing.interpolation),
            antialias=True,
        )
        steps.append(crop)
    else:
        steps.append(preprocessing.to_size)
    if augmentation.crop_padding:
        steps.append(v2.RandomCrop(preprocessing.size, padding=augmentation.crop_padding))
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation.vertical_flip:
        steps.append(v2.RandomVerticalFlip())
    if augmentation.rotation:
        most = augmentation.rotation
        steps.append(v2.RandomRotation([-most, most], InterpolationMode.BILINEAR))
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
        labels: int64 (N,), or float (N, K) of pictures with any number of labels.
        num_classes: K.
        augmentation: says how; one of ``mixup`` and ``cutmix`` must be on.
        seed: with epoch, step and rank decides the draw, whatever was drawn before.
        epoch: number of the epoch.
        step: number of the batch in the epoch.
        rank: number of the process, so that processes draw differently.

    Returns:
        Mixed pictures (N, C, H, W) and the share of each class, float (N, K).
    """
    from torchvision.transforms import v2

    mixers: list[Any] = []
    if augmentation.mixup:
        mixers.append(v2.MixUp(alpha=augmentation.mixup, num_classes=num_classes))
    if augmentation.cutmix:
        mixers.append(v2.CutMix(alpha=augmentation.cutmix, num_classes=num_classes))
    with seeded(seed, epoch, step, rank):
        return mixers[int(torch.randint(len(mixers), ()))](pictures, labels)
