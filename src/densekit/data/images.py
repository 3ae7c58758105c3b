"""Pictures in memory: of Pillow, as NumPy arrays (channels last), as tensors (channels first)."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

Picture = Image.Image | np.ndarray | Tensor
_CHANNELS = {1, 3, 4}  # grey, RGB, RGBA


def each_image(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """Return the pictures of one array or tensor of several; of one picture only that; others as they are.

    Raises:
        TypeError: an array that may hold several pictures or the channels of one.
    """
    if isinstance(images, Image.Image):
        return [images]
    if not isinstance(images, np.ndarray | Tensor):
        return images
    shape = tuple(images.shape)
    if len(shape) < 3 or _is_one(images):
        return [images]
    if isinstance(images, np.ndarray) and len(shape) == 3 and shape[0] in _CHANNELS:
        raise TypeError(f"an array {shape} may have its channels first: give (H, W, C), or a tensor (C, H, W)")
    return images


def to_picture(image: Any) -> Image.Image:
    """Return a picture in memory as Pillow's.

    Args:
        image: Pillow's; uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); uint8 tensor (H, W), (1, H, W),
            (3, H, W) or (4, H, W), as torchvision's ``read_image`` makes it.

    Raises:
        TypeError: something else.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray | Tensor) and str(image.dtype).endswith("uint8") and _is_one(image):
        values = image if isinstance(image, np.ndarray) else image.numpy(force=True)
        if isinstance(image, Tensor) and values.ndim == 3:
            values = np.ascontiguousarray(values.transpose(1, 2, 0))
        if values.size:
            return Image.fromarray(values[..., 0] if values.shape[2:] == (1,) else values)
    described = isinstance(image, np.ndarray | Tensor)
    kind = f"{type(image).__name__} {image.dtype} {tuple(image.shape)}" if described else type(image).__name__
    raise TypeError(
        f"{kind}: give PIL pictures, uint8 arrays (H, W) or (H, W, C), or uint8 tensors (C, H, W); "
        "predict and embed take files"
    )


def _is_one(image: np.ndarray | Tensor) -> bool:
    """Whether an array or tensor has the shape of one picture."""
    if image.ndim == 2:
        return True
    return image.ndim == 3 and image.shape[-1 if isinstance(image, np.ndarray) else 0] in _CHANNELS
