"""The pictures that an export is compared, and where needed calibrated, on."""

from pathlib import Path

import numpy as np
from torch import Tensor

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.datasets import open_labelled
from densekit.data.picture_set import PictureSet
from densekit.errors import DataError, PictureError
from densekit.evaluation.own_data import open_own_data, own_data

_COMPARED, _MEASURED = 100, 300  # pictures, at most


def real_pictures(
    run: Path,
    classifier: Classifier,
    data: str | Path | None,
    data_root: str | None,
    screen: Screen,
    *,
    calibrate: bool,
) -> tuple[PictureSet, PictureSet]:
    """Draw pictures to compare an export on, and others to calibrate it on.

    Args:
        run: the folder that is exported.
        classifier: what is in it.
        data: where the pictures are from; None takes the run's validation pictures, or without any the training ones.
        data_root: where named data sets are kept.
        screen: where progress goes.
        calibrate: leave pictures for calibration, where there are two or more.

    Raises:
        DataError: there are none.
    """
    if data is not None:
        names, multilabel = classifier.classes, classifier.multilabel
        pictures = open_labelled(data, classes=names, multilabel=multilabel, data_root=data_root, screen=screen)
    elif own := own_data(run):
        opened = open_own_data(own, classifier, data_root=data_root, screen=screen)
        pictures = opened.val or opened.train
    else:
        raise DataError(f"{run} does not say what it was trained with: name pictures to compare on, --data FOLDER")
    order = np.random.default_rng(0).permutation(len(pictures))
    count = min(_COMPARED, (len(order) + 1) // 2 if calibrate else len(order))
    rest = order[count : count + _MEASURED] if len(order) > 1 else order
    return pictures.select(np.sort(order[:count]), pictures.split), pictures.select(np.sort(rest), pictures.split)


def samples(pictures: PictureSet, classifier: Classifier) -> list[Tensor]:
    """Return pictures as a classifier's network takes them, one at a time, (1, C, H, W).

    Raises:
        DataError: none of them can be read.
    """
    found = []
    for number in range(len(pictures)):
        try:
            found.append(classifier.preprocessing(pictures.read(number))[None])
        except PictureError:
            continue  # comparing and evaluating leave it out too
    if not found:
        raise DataError(f"none of the {len(pictures)} pictures to calibrate on can be read")
    return found
