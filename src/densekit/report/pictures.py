"""The pictures of a report: which ones, and each as a small copy inside the page."""

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from densekit.console import Screen
from densekit.data.picture_set import PictureSet
from densekit.evaluation.evaluate import Evaluation

LARGE, SMALL = 192, 96  # pixels of the longer side
_PIXELS_SHOW = 64  # a picture up to this size is enlarged as squares, not as a blur


@dataclass(frozen=True)
class Shown:
    """A picture with what was said about it; probabilities are 0 to 1."""

    name: str
    label: str
    answer: str
    probability: float  # of the answer
    label_probability: float
    thumbnail: str  # data: URI
    heat_map: str | None  # data: URI of the picture with what spoke for the answer
    tiny: bool


def worst_mistakes(probabilities: Tensor, labels: Tensor, most: int) -> list[int]:
    """Return the places of wrong answers, those first that found the right class least probable."""
    of_label = probabilities.gather(1, labels[:, None])[:, 0]
    wrong = (probabilities.argmax(1) != labels).nonzero()[:, 0]
    return wrong[of_label[wrong].argsort(stable=True)[:most]].tolist()


def least_certain(probabilities: Tensor, labels: Tensor, most: int) -> list[int]:
    """Return the places of right answers, those first whose probability was lowest."""
    sure, predicted = probabilities.max(1)
    right = (predicted == labels).nonzero()[:, 0]
    return right[sure[right].argsort(stable=True)[:most]].tolist()


def show_pictures(
    evaluation: Evaluation, places: Sequence[int], *, side: int, heat_maps: bool, screen: Screen
) -> dict[int, Shown]:
    """Make small copies of pictures.

    Args:
        evaluation: where they were looked at.
        places: which, as places in its outcomes; doubles are made once.
        side: pixels of the longer side; smaller pictures stay as they are.
        heat_maps: also show what spoke for the answer.
        screen: where progress goes.
    """
    places = list(dict.fromkeys(places))
    outcomes, pictures, classes = evaluation.outcomes, evaluation.pictures, evaluation.classifier.classes
    probabilities = outcomes.logits[places].double().softmax(1)
    sure, predicted = probabilities.max(1)
    labels = outcomes.labels[places]
    of_label = probabilities.gather(1, labels[:, None])[:, 0]
    numbers = outcomes.index[places].tolist()
    names = short_names(pictures, numbers)
    shown = {}
    with ThreadPoolExecutor() as pool, screen.bar("copying pictures", len(places)) as bar:
        for i, picture in enumerate(pool.map(pictures.read, numbers)):
            shown[places[i]] = Shown(
                names[i],
                classes[labels[i]],
                classes[predicted[i]],
                sure[i].item(),
                of_label[i].item(),
                thumbnail(picture, side),
                None,
                max(picture.size) <= _PIXELS_SHOW,
            )
            bar.advance()
    return shown


def short_names(pictures: PictureSet, numbers: Sequence[int]) -> list[str]:
    """Names of pictures, less the folder that all pictures of the set are in."""
    names = [pictures.name(i) for i in numbers]
    if not isinstance(pictures.pictures, list):
        return names
    above = os.path.commonpath([path.parent for path in pictures.pictures])
    return [Path(name).relative_to(above).as_posix() for name in names]


def thumbnail(picture: Image.Image, side: int) -> str:
    """Return a picture as a data: URI, JPEG, no side longer than ``side`` pixels."""
    picture = picture.copy()
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
