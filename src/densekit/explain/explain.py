"""explain_run: why a classifier said what it said, as heat maps over the pictures."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from densekit.classifier import Classifier, Prediction, find_pictures, load_classifier
from densekit.console import Screen
from densekit.data.pictures import Skipped, read_picture
from densekit.errors import DataError, PictureError, SettingsError
from densekit.explain.feature_reuse import write_feature_reuse
from densekit.explain.heat_maps import Method, choose_method, heat_maps
from densekit.explain.overlay import overlay
from densekit.explain.sheet import Panel, draw_sheet, fit
from densekit.files import new_folder, write_atomically

_SIDE = 448  # pixels of a panel; a multiple of 28, 32, 64 and 224 keeps every pixel of small pictures a square
_ROWS = 25  # of a contact sheet


@dataclass(frozen=True)
class Explanations:
    """What `explain_run` wrote.

    ``predictions`` hold a picture each, in order; those that could not be read carry their ``error``. ``method`` is
    None where there was no picture to explain.
    """

    folder: Path
    method: Method | None
    predictions: tuple[Prediction, ...]


def explain_run(
    run: str | Path,
    pictures: str | Path | Iterable[str | Path] = (),
    *,
    method: Method | None = None,
    top: int = 3,
    feature_reuse: bool = False,
    out: str | Path | None = None,
    batch_size: int = 8,
    device: str | torch.device = "auto",
    screen: Screen | None = None,
) -> Explanations:
    """Draw heat maps over pictures for their likeliest classes: a PNG file for each picture, and contact sheets.

    Args:
        run: run folder, or any folder with model.json and model.safetensors.
        pictures: files, folders (searched for pictures) and patterns such as ``photos/*.jpg``.
        method: "cam" (exact), "gradcam", "occlusion" or "integrated-gradients" [cam where the network ends in
            global pooling and a linear layer, else gradcam].
        top: how many classes to explain.
        feature_reuse: also draw which features the layers of a DenseNet use, see `feature_reuse`.
        out: where to write; must be new or empty [RUN/explained, numbered if it exists].
        batch_size: pictures at a time.
        device: where to compute.
        screen: where progress goes.

    Raises:
        CheckpointError: the run cannot be read.
        DataError: nothing to explain.
        SettingsError: a method that cannot explain this network, or an ``out`` that is in use.
        MissingPartError: the method needs captum, which is not installed.
    """
    screen = screen or Screen()
    files = find_pictures([pictures] if isinstance(pictures, str | Path) else pictures)
    if not files and not feature_reuse:
        raise DataError("no pictures named: explain takes picture files, folders and patterns")
    if top < 1 or batch_size < 1:
        raise SettingsError(f"top={top}, batch_size={batch_size}: both must be at least 1")
    classifier = load_classifier(run, device=device)
    folder = new_folder(out, Path(run).expanduser() / "explained")
    if feature_reuse:
        write_feature_reuse(folder, classifier.network)
    drawing = _Drawing(classifier, method, min(top, len(classifier.classes)), folder)
    with screen.bar("explaining", len(files), "pictures") as bar:
        for start in range(0, len(files), batch_size):
            drawing.explain(files[start : start + batch_size])
            bar.advance(len(files[start : start + batch_size]))
    drawing.finish()
    return Explanations(folder, drawing.method, tuple(drawing.predictions))


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

    def __init__(self, classifier: Classifier, method: Method | None, top: int, folder: Path):
        self.classifier, self.top, self.folder = classifier, top, folder
        self.method: Method | None = method
        self.predictions: list[Prediction] = []
        self.rows: list[list[Panel]] = []
        self.sheets = self.drawn = 0

    def explain(self, files: list[Path]) -> None:
        with ThreadPoolExecutor() as pool:
            pictures = list(pool.map(self._open, files))
        panels = self._panels([picture for picture in pictures if isinstance(picture, _Opened)])
        for path, picture in zip(files, pictures, strict=True):
            if isinstance(picture, _Opened):
                self._draw(picture, *next(panels))
            else:
                self.predictions.append(Prediction(str(path), error=Skipped.because(path, picture).reason))

    def _open(self, path: Path) -> _Opened | PictureError:
        try:
            picture = read_picture(path)
        except PictureError as error:
            return error
        preprocessing = self.classifier.preprocessing
        return _Opened(
            path,
            note=f"{picture.width} x {picture.height}",
            shown=fit(picture, _SIDE),
            seen=preprocessing.seen_part(picture.height, picture.width),
            pixels=preprocessing.transform()(picture),
        )

    def _panels(self, pictures: list[_Opened]) -> Iterator[tuple[Prediction, list[Panel]]]:
        """Yield the prediction and the panels of each picture."""
        if not pictures:
            return
        pixels = torch.stack([picture.pixels for picture in pictures])
        values, places = self.classifier.probabilities(pixels).topk(self.top)
        self.method = self.method or choose_method(self.classifier, pixels)
        repeated = pixels.repeat_interleave(self.top, 0)
        maps = heat_maps(self.classifier, repeated, places.flatten(), method=self.method).split(self.top)
        for picture, shares, named, heats in zip(pictures, values.tolist(), places.tolist(), maps, strict=True):
            top = [(self.classifier.classes[place], share) for place, share in zip(named, shares, strict=True)]
            panels = [Panel(picture.shown, picture.path.name, picture.note)]
            for (label, share), heat in zip(top, heats, strict=True):
                panels.append(Panel(overlay(picture.shown, heat, picture.seen), label, f"{share:.1%}"))
            yield Prediction(str(picture.path), tuple(top)), panels

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
