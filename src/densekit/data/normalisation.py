"""Mean and standard deviation of pictures, for networks that want them near 0 and 1."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from torch import Tensor

from densekit.console import Screen
from densekit.data.picture_set import DataSet
from densekit.data.preprocessing import Preprocessing
from densekit.errors import DataError, PictureError


class Normalisation(NamedTuple):
    """Per-channel mean and standard deviation of values in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


KNOWN_NORMALISATIONS = {
    "mnist": Normalisation((0.1307,), (0.3081,)),
    "fashion-mnist": Normalisation((0.2860,), (0.3530,)),
    "cifar10": Normalisation((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
    "cifar100": Normalisation((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def normalisation_for(
    dataset: DataSet,
    preprocessing: Preprocessing,
    *,
    sample: int = 2000,
    seed: int = 0,
    screen: Screen | None = None,
) -> Normalisation:
    """The usual mean and standard deviation of a named set, or those measured on training pictures.

    Args:
        dataset: measured on its training split only.
        preprocessing: gives channels and size; its own mean and std play no part.
        sample: most pictures to measure on.
        seed: decides which.
        screen: where progress goes.

    Returns:
        What ``preprocessing.model_copy(update=normalisation._asdict())`` takes.

    Raises:
        DataError: none of the pictures can be read.
    """
    known = KNOWN_NORMALISATIONS.get(dataset.name)
    if known is not None and len(known.mean) == preprocessing.channels:
        return known
    order = np.random.default_rng(seed).permutation(len(dataset.train))[:sample]

    def sums(i: int) -> tuple[int, Tensor, Tensor] | None:
        """Whole numbers, as sums of bytes are: nothing is rounded on the way."""
        try:
            picture = dataset.train.read(i)
        except PictureError:
            return None  # the loader names it
        pixels = preprocessing.to_size(preprocessing.to_bytes(picture)).flatten(1).long()  # (C, H * W)
        return pixels.shape[1], pixels.sum(1), pixels.square().sum(1)

    found = []
    with ThreadPoolExecutor(8) as pool, (screen or Screen()).bar("measuring colours", len(order), "pictures") as bar:
        for each in pool.map(sums, order.tolist()):
            bar.advance()
            if each is not None:
                found.append(each)
    if not found:
        raise DataError(f"{dataset.name}: none of {len(order)} training pictures can be read")
    counts, totals, squares = zip(*found, strict=True)
    count = sum(counts)
    mean = np.asarray(sum(totals)) / count
    variance = np.asarray(sum(squares)) / count - mean**2
    std = np.sqrt(np.maximum(variance, 0))
    std[std == 0] = 255  # a channel that never changes is left as it is
    return Normalisation(tuple((mean / 255).tolist()), tuple((std / 255).tolist()))
