"""explain_pictures: why a classifier said what it said, as heat maps over the pictures."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from densekit.classifier import Classifier
from densekit.console import Bar, Screen
from densekit.data.find_pictures import find_pictures
from densekit.data.pictures import Skipped, read_picture
from densekit.errors import PictureError, SettingsError
from densekit.explain.heat_maps import Method, check_explainable, choose_method, heat_maps
from densekit.explain.overlay import overlay
from densekit.explain.sheet import Panel, draw_sheet, fit
from densekit.files import new_folder, write_atomically
from densekit.loading import load_classifier, results_folder
from densekit.models.answers import answered
from densekit.prediction import Prediction

_SIDE = 448  # pixels of a panel; a multiple of 28, 32, 64 and 224 keeps every pixel of small pictures a square
_ROWS = 25  # of a contact sheet


@dataclass(frozen=True)
class Explanations:
    """What `explain_pictures` wrote.

    ``predictions`` hold a picture each, in order; those that could not be read carry their ``error``.
    """

    folder: Path
    predictions: tuple[Prediction, ...]


def explain_pictures(
    classifier: Classifier | str | os.PathLike[str],
    pictures: str | Path | Iterable[str | Path],
    *,
    method: Method | None = None,
    top: int = 3,
    classes: Sequence[str] | None = None,
    out: str | Path | None = None,
    batch_size: int = 8,
    screen: Screen | None = None,
) -> Explanations:
    """Draw heat maps over pictures, for their likeliest classes or given ones: a PNG file for each, and contact sheets.

    Args:
        classifier: any, or a run folder; for a network from elsewhere, make one of it with its class names and
            preprocessing.
        pictures: files, folders (searched for pictures) and patterns such as ``photos/*.jpg``.
        method: "cam" (exact), "gradcam", "occlusion" or "integrated-gradients" [cam where the network ends in
            global pooling and a linear layer, else gradcam; occlusion for an exported network].
        top: how many of the likeliest classes to name, and to explain; the answer's first.
        classes: names of the classes to explain instead, whatever the classifier says.
        out: where to write; must be new or empty [RUN/explained, of a classifier "explained"; numbered if it exists].
        batch_size: pictures at a time.
        screen: where progress goes.

    Raises:
        CheckpointError: the run cannot be read.
        DataError: a folder or pattern that matches no picture.
        UnknownNameError: a class that it does not know.
        SettingsError: a method that cannot explain this network, or an ``out`` that is in use.
        MissingPartError: the method needs captum, which is not installed.
    """
    default = Path("explained")
    if not isinstance(classifier, Classifier):
        default = results_folder(classifier) / default
        classifier = load_classifier(classifier, screen=screen)
    check_explainable(classifier, method)
    files = find_pictures(pictures)
    if top < 1 or batch_size < 1:
        raise SettingsError(f"top={top}, batch_size={batch_size}: both must be at least 1")
    asked = _places(classifier, classes)
    drawing = _Drawing(classifier, method, top, asked, batch_size, new_folder(out, default))
    with (screen or Screen()).bar("explaining", len(files) * drawing.maps, "heat maps") as bar:
        for start in range(0, len(files), batch_size):
            drawing.explain(files[start : start + batch_size], bar)
    drawing.finish()
    return Explanations(drawing.folder, tuple(drawing.predictions))


def _places(classifier: Classifier, classes: Sequence[str] | None) -> Tensor | None:
    """Return the numbers of classes, int64 (k,)."""
    return torch.tensor(list(map(classifier.class_number, dict.fromkeys(classes)))) if classes else None


@dataclass(frozen=True)
class _Opened:
    """A picture as it is shown, and as the network takes it."""

    path: Path
    note: str
    shown: Image.Image
    seen: tuple[float, float, float, float]
    pixels: Tensor


class _Drawing:
    """Explains pictures batch by batch and keeps no more of them than the rows of one contact sheet."""

    def __init__(
        self,
        classifier: Classifier,
        method: Method | None,
        top: int,
        asked: Tensor | None,
        batch_size: int,
        folder: Path,
    ):
        self.classifier, self.asked, self.batch_size, self.folder = classifier, asked, batch_size, folder
        self.method: Method | None = method
        self.top = min(top, len(classifier.classes))
        self.maps = self.top if asked is None else len(asked)  # of each picture
        self.predictions: list[Prediction] = []
        self.rows: list[list[Panel]] = []
        self.sheets = self.drawn = 0

    def explain(self, files: list[Path], bar: Bar) -> None:
        with ThreadPoolExecutor() as pool:
            pictures = list(pool.map(self._open, files))
        panels = self._panels([picture for picture in pictures if isinstance(picture, _Opened)], bar)
        for path, picture in zip(files, pictures, strict=True):
            if isinstance(picture, _Opened):
                self._draw(picture, *next(panels))
            else:
                self.predictions.append(Prediction(str(path), error=Skipped.because(path, picture).reason))
                bar.advance(self.maps)

    def _open(self, path: Path) -> _Opened | PictureError:
        preprocessing = self.classifier.preprocessing
        try:
            picture = read_picture(path)
            return _Opened(
                path,
                note=f"{picture.width} x {picture.height}",
                shown=fit(picture, _SIDE),
                seen=preprocessing.seen_part(picture.height, picture.width),
                pixels=preprocessing(picture),
            )
        except PictureError as error:
            return error

    def _panels(self, pictures: list[_Opened], bar: Bar) -> Iterator[tuple[Prediction, list[Panel]]]:
        """Yield the prediction and the panels of each picture."""
        if not pictures:
            return
        pixels = torch.stack([picture.pixels for picture in pictures])
        probabilities = self.classifier.probabilities(pixels)
        several, thresholds = self.classifier.multilabel, self.classifier.thresholds
        answers = answered(probabilities, multilabel=several, thresholds=thresholds)
        likeliest = (probabilities + answers).topk(self.top).indices  # what is answered first
        explained = likeliest if self.asked is None else self.asked.expand(len(pixels), -1)
        self.method = self.method or choose_method(self.classifier, pixels)
        repeated = pixels.repeat_interleave(self.maps, 0)
        choices = {"method": self.method, "batch_size": self.batch_size, "bar": bar}
        maps = heat_maps(self.classifier, repeated, explained.flatten(), **choices).split(self.maps)
        for picture, shares, shown, heats in zip(pictures, probabilities, explained.tolist(), maps, strict=True):
            panels = [Panel(picture.shown, picture.path.name, picture.note)]
            for place, heat in zip(shown, heats, strict=True):
                heated = overlay(picture.shown, heat, picture.seen)
                panels.append(Panel(heated, self.classifier.classes[place], f"{shares[place].item():.1%}"))
            yield self.classifier.name_likeliest(str(picture.path), shares, self.top), panels

    def _draw(self, picture: _Opened, prediction: Prediction, panels: list[Panel]) -> None:
        self.predictions.append(prediction)
        self.drawn += 1
        pairs = [panels[i : i + 2] for i in range(0, len(panels), 2)]  # a phone is two panels wide
        # numbered, because pictures of different folders share names; cut, because names have a longest length
        self._save(f"{self.drawn:03}-{picture.path.stem[:50]}.png", pairs, _SIDE)
        self.rows.append([panel._replace(picture=panel.picture.reduce(2)) for panel in panels])
        if len(self.rows) == _ROWS:
            self._draw_contact_sheet()

    def finish(self) -> None:
        if self.rows and self.drawn > 1:
            self._draw_contact_sheet()

    def _draw_contact_sheet(self) -> None:
        self.sheets += 1
        self._save(f"contact-sheet-{self.sheets}.png", self.rows, _SIDE // 2)
        self.rows = []

    def _save(self, name: str, rows: list[list[Panel]], side: int) -> None:
        sheet = draw_sheet(rows, side=side, foot=f"{self.method}: dark says nothing, yellow speaks most for the class")
        write_atomically(self.folder / name, lambda path: sheet.save(path, format="PNG"))
