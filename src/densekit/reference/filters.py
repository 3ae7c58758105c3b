"""Image filters: convolutions whose kernels are chosen by hand instead of learned."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from densekit.errors import SettingsError, ShapeError
from densekit.reference.convolution import check_square, convolve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAPLACIAN = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]])
"""How much a pixel differs from its eight neighbours: finds edges, sums to 0."""

GAUSSIAN_3 = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
"""A weighted mean of 3x3 pixels: blurs, sums to 1."""

GAUSSIAN_5 = np.array([[1, 2, 3, 2, 1], [2, 5, 6, 5, 2], [3, 6, 8, 6, 3], [2, 5, 6, 5, 2], [1, 2, 3, 2, 1]]) / 84
"""A weighted mean of 5x5 pixels: blurs more, sums to 1."""


def apply_filter(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve a picture with one kernel, each colour by itself.

    Args:
        picture: (H, W) grey or (H, W, 3) colour.
        kernel: (k, k) with k odd, so that it has a centre.

    Returns:
        A float array of the picture's shape, in the picture's units and not clipped: a Laplacian has negative
        values. Beyond the border the outermost pixels are repeated; zeros would draw a dark frame.
    """
    check_square(kernel, "(k, k)")
    if len(kernel) % 2 == 0:
        raise SettingsError(f"a {len(kernel)}x{len(kernel)} filter has no centre: use an odd size")
    _check_picture(picture)
    planes = picture[None] if picture.ndim == 2 else np.moveaxis(picture, -1, 0)  # (C, H, W)
    around = len(kernel) // 2
    padded = np.pad(planes.astype(float), ((0, 0), (around, around), (around, around)), mode="edge")
    # The colours go through as a batch of one-channel pictures, (C, 1, H, W).
    filtered = convolve(padded[:, None], kernel[None, None])[:, 0]
    return filtered[0] if picture.ndim == 2 else np.moveaxis(filtered, 0, -1)


def side_by_side(pictures: Mapping[str, np.ndarray], *, columns: int = 4) -> "Figure":
    """Draw pictures beside each other under their titles; ``figure.savefig(path)`` saves the result.

    Args:
        pictures: title -> (H, W) grey or (H, W, 3) colour, values 0..255; values outside are clipped.
        columns: pictures in a row.
    """
    from matplotlib.figure import Figure

    for picture in pictures.values():
        _check_picture(picture)
    if not pictures or columns < 1:
        raise SettingsError(f"{len(pictures)} pictures in {columns} columns: both start at 1")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = next(iter(pictures.values())).shape[:2]
    tile = 3.2  # inches
    size = (tile * columns, (tile * height / width + 0.35) * rows)  # 0.35 inches for a title
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (title, picture) in zip(axes, pictures.items(), strict=False):
        axis.imshow(np.clip(picture, 0, 255).astype(np.uint8), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(title)
    return figure


def _check_picture(picture: np.ndarray) -> None:
    if picture.ndim != 2 and (picture.ndim != 3 or picture.shape[2] != 3):
        raise ShapeError(f"picture of shape {picture.shape}: expected (H, W) grey or (H, W, 3) colour")
