"""The pictures of a report: which ones, and each as a small copy inside the page."""

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from densekit.console import Screen
from densekit.evaluation.evaluate import Evaluation
from densekit.explain.heat_maps import heat_maps
from densekit.explain.overlay import overlay

LARGE, SMALL = 192, 96  # pixels of the longer side
_PIXELS_SHOW = 64  # a picture up to this size is enlarged as squares, not as a blur


@dataclass(frozen=True)
class Shown:
    """A picture with what was said about it; of several labels, ``label`` and ``answer`` name all of them."""

    name: str
    label: str
    answer: str
    thumbnail: str  # data: URI
    tiny: bool  # so small that its pixels are to be seen
    probability: float | None = None  # 0 to 1, of the answer where that is one class
    label_probability: float | None = None
    heat_map: str | None = None  # data: URI of the picture with what spoke for a class


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


def show_pictures(evaluation: Evaluation, places: Sequence[int], *, side: int, screen: Screen) -> dict[int, Shown]:
    """Make small copies of pictures.

    Args:
        evaluation: where they were looked at.
        places: which, as places in its outcomes; a repeated one is made once.
        side: pixels of the longer side; smaller pictures stay as they are.
        screen: where progress goes.
    """
    places = list(dict.fromkeys(places))
    names = _short_names(evaluation, places)
    shown = {}
    with ThreadPoolExecutor() as pool, screen.bar("copying pictures", len(places)) as bar:
        for place, copy in zip(places, pool.map(partial(_show, evaluation, side), places, names), strict=True):
            shown[place] = copy
            bar.advance()
    return shown


def _show(evaluation: Evaluation, side: int, place: int, name: str) -> Shown:
    picture = evaluation.pictures.read(int(evaluation.outcomes.index[place]))
    said = _say_labels(evaluation, place) if evaluation.outcomes.multilabel else _say_class(evaluation, place)
    return Shown(name=name, thumbnail=_data_uri(_shrink(picture, side)), tiny=max(picture.size) <= _PIXELS_SHOW, **said)


def _say_class(evaluation: Evaluation, place: int) -> dict[str, Any]:
    outcomes, classes = evaluation.outcomes, evaluation.classifier.classes
    probabilities = outcomes.logits[place].double().softmax(0)
    label, answer = int(outcomes.labels[place]), int(probabilities.argmax())
    shares = {"probability": probabilities[answer].item(), "label_probability": probabilities[label].item()}
    return {"label": classes[label], "answer": classes[answer], **shares}


def _say_labels(evaluation: Evaluation, place: int) -> dict[str, Any]:
    def name(chosen: Tensor) -> str:
        return ", ".join(evaluation.classifier.classes[number] for number in chosen.nonzero()[:, 0]) or "none"

    outcomes = evaluation.outcomes
    return {"label": name(outcomes.labels[place]), "answer": name(outcomes.answers[place])}


def add_heat_maps(
    evaluation: Evaluation, shown: dict[int, Shown], classes: Tensor, *, side: int, screen: Screen
) -> dict[int, Shown]:
    """Add to pictures of `show_pictures`, by their places, what spoke for a class of each, int64 (len(shown),)."""
    if not shown:
        return shown
    preprocessing, outcomes = evaluation.classifier.preprocessing, evaluation.outcomes
    places = list(shown)
    small, seen, prepared = [], [], []
    for number in outcomes.index[places].tolist():
        picture = evaluation.pictures.read(number)
        small.append(_enlarge(_shrink(picture, side), side))
        seen.append(preprocessing.seen_part(picture.height, picture.width))
        prepared.append(preprocessing(picture))
    with screen.bar("drawing heat maps", len(places)) as bar:
        maps = heat_maps(evaluation.classifier, torch.stack(prepared), classes, bar=bar)
    laid = map(overlay, small, maps, seen)
    return {
        place: replace(shown[place], heat_map=_data_uri(picture)) for place, picture in zip(places, laid, strict=True)
    }


def _short_names(evaluation: Evaluation, places: Sequence[int]) -> list[str]:
    """Names of pictures, less the folder that all pictures of the set are in."""
    pictures = evaluation.pictures
    names = [pictures.name(number) for number in evaluation.outcomes.index[places].tolist()]
    if isinstance(pictures.pictures, np.ndarray):
        return names
    whole = [Path(name).absolute() for name in names]
    try:
        above = os.path.commonpath([path.absolute().parent for path in pictures.pictures])
    except ValueError:  # on several drives
        return [path.as_posix() for path in whole]
    return [path.relative_to(above).as_posix() for path in whole]


def _shrink(picture: Image.Image, side: int) -> Image.Image:
    picture = picture.copy()
    picture.thumbnail((side, side))
    return picture


def _enlarge(picture: Image.Image, side: int) -> Image.Image:
    """Whole pixels become squares, so that a smooth heat map can be laid over them."""
    times = max(1, side // max(picture.size))
    return picture.resize((times * picture.width, times * picture.height), Image.Resampling.NEAREST)


def _data_uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
