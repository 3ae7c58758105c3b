"""Classifier: a network together with what it needs to answer, the class names and the preprocessing."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from densekit.console import Bar
from densekit.data.find_pictures import find_pictures
from densekit.data.images import Picture
from densekit.data.prepared import PreparedBatch, prepare_files, prepare_images
from densekit.data.preprocessing import Preprocessing
from densekit.errors import CheckpointError, PictureError, SettingsError, UnknownNameError
from densekit.hardware import PRECISIONS, autocast, choose_device
from densekit.models.answers import answered, check_names, check_thresholds, to_probabilities
from densekit.models.ending import embed
from densekit.models.modes import evaluation_mode
from densekit.models.weights import save_model, save_record
from densekit.prediction import Embeddings, Prediction
from densekit.runtimes.exported import ExportedNetwork


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network that answers with class names.

    Args:
        network: (N, C, H, W) -> logits (N, len(classes)).
        classes: name of each logit.
        preprocessing: what a picture goes through first.
        record: what else model.json says, e.g. how it was trained.
        temperature: what logits are divided by before they become probabilities, so that 80 % sure is right 8 times in
            10; training fits it to the validation pictures. It changes no answer's class.
        precision: what the network answers in: "fp32", "bf16" or "fp16"; "own" where it is exported. It is not saved.
        multilabel: a picture may have several of the classes, or none: each has a probability of its own.
        thresholds: the probability above which each class of a multi-label classifier is answered; None for a half.
    """

    network: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    record: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    precision: str = "fp32"
    multilabel: bool = False
    thresholds: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Raise SettingsError where a value is none that can answer."""
        object.__setattr__(self, "classes", check_names(self.classes))
        if not 0 < self.temperature < math.inf:
            raise SettingsError(f"temperature={self.temperature}: it must be above 0")
        known = [name for name in (*PRECISIONS, "own") if name != "auto"]
        if self.precision not in known:
            raise UnknownNameError("precision", self.precision, known)
        if self.thresholds is not None:
            labels = len(self.classes) if self.multilabel else 0
            object.__setattr__(self, "thresholds", check_thresholds(self.thresholds, labels))

    def __repr__(self) -> str:
        """One line, as a notebook shows it."""
        channels, (height, width) = self.preprocessing.channels, self.preprocessing.size
        kind = "labels" if self.multilabel else "classes"
        what = f"{len(self.classes)} {kind}, pictures {channels}x{height}x{width}, {self.device} {self.precision}"
        return f"Classifier({self.model}: {what})"

    def save(self, folder: str | Path) -> None:
        """Write model.json and model.safetensors, which together are the whole classifier."""
        save_model(Path(folder), self.network, **self._entries())

    def save_record(self, folder: str | Path, **further: Any) -> None:
        """Write model.json alone, for a network that is exported in another form, with ``further`` entries."""
        save_record(Path(folder), self.network, **self._entries(), **further)

    def _entries(self) -> dict[str, Any]:
        preprocessing = self.preprocessing.model_dump(mode="json")
        own = {"classes": list(self.classes), "preprocessing": preprocessing, "temperature": self.temperature}
        several: dict[str, Any] = {"multilabel": True} if self.multilabel else {}
        if self.thresholds is not None:
            several["thresholds"] = list(self.thresholds)
        return {**self.record, **own, **several}

    @property
    def model(self) -> str:
        """Name of the network, as it was trained under."""
        return self.record.get("trained", {}).get("model", type(self.network).__name__)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        parameter = next(self.network.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device  # exported: a runtime on the CPU

    def to(self, device: str | torch.device) -> "Classifier":
        """Move the network to a device by name (or "auto"); returns this classifier."""
        exported = isinstance(self.network, ExportedNetwork)
        self.network.to(choose_device("cpu" if exported and device == "auto" else device))
        return self

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the network computes in this classifier's precision."""
        return autocast(self.device, self.precision)

    def batch_size(self, wanted: int) -> int:
        """How many pictures can go through at a time: one, where the network takes each in its own size."""
        return 1 if self.preprocessing.in_network else wanted

    def class_number(self, name: str) -> int:
        """Return the place of a class among the logits.

        Raises:
            UnknownNameError: there is no such class.
        """
        if name not in self.classes:
            raise UnknownNameError("class", name, list(self.classes))
        return self.classes.index(name)

    def check_logits(self, logits: Tensor) -> None:
        """Raise CheckpointError where the network's answers, (N, K), are no numbers, or are not about the classes."""
        if len(logits) and logits.shape[1:] != (len(self.classes),):
            raise CheckpointError(
                f"{self.model} answers {tuple(logits.shape)}, but there are {len(self.classes)} classes"
            )
        if not logits.isfinite().all():
            whole = self.precision == "fp32"
            why = "its weights are damaged" if whole else f"they may be more than {self.precision} can hold"
            raise CheckpointError(f"{self.model} answers with values that are not finite: {why}")

    @torch.no_grad()
    def probabilities(self, pictures: Tensor) -> Tensor:
        """Class probabilities at this classifier's temperature, float32 (N, K), of preprocessed (N, C, H, W)."""
        with evaluation_mode(self.network), self.autocast():
            logits = self.network(pictures.to(self.device)).float()
        self.check_logits(logits)
        return to_probabilities(logits / self.temperature, multilabel=self.multilabel).cpu()

    @torch.no_grad()
    def embeddings(self, pictures: Tensor) -> Tensor:
        """What the last layer reads of preprocessed (N, C, H, W), float32 (N, D): alike for pictures that look alike.

        Raises:
            SettingsError: the network is exported, so that only its answers are to be had.
        """
        if isinstance(self.network, ExportedNetwork):
            raise SettingsError("an exported network gives its answers and nothing else: embed pictures with its run")
        with evaluation_mode(self.network), self.autocast():
            return embed(self.network, pictures.to(self.device)).float().cpu()

    def predict(
        self, pictures: str | Path | Iterable[str | Path], *, top: int = 5, batch_size: int = 32
    ) -> list[Prediction]:
        """Answer for picture files, folders and patterns, in order.

        Args:
            pictures: files, folders (searched for pictures) and patterns such as ``photos/*.jpg``.
            top: how many classes to name; multi-label at least all that are answered.
            batch_size: pictures at a time.

        Returns:
            One prediction a file; one that could not be read carries its ``error``.

        Raises:
            DataError: a folder or pattern that matches no picture.
            TypeError: no name of a file.
        """
        return list(self.predict_each(find_pictures(pictures), top=top, batch_size=batch_size))

    def predict_images(
        self, images: Picture | Iterable[Picture], *, top: int = 5, batch_size: int = 32
    ) -> list[Prediction]:
        """Answer for pictures in memory, such as uploads.

        Args:
            images: one picture or several: PIL pictures, uint8 arrays (H, W), (H, W, C) or (N, H, W, C), uint8 tensors
                (C, H, W) or (N, C, H, W); C is 1 (grey), 3 (RGB) or 4 (RGBA).
            top: how many classes to name; multi-label at least all that are answered.
            batch_size: pictures at a time.

        Returns:
            One prediction a picture; its ``path`` is the picture's number, from "0" on. One that is damaged carries its
            ``error``.

        Raises:
            TypeError: something else, or an array of another type or shape.
        """
        _check_positive(top, batch_size)
        batches = prepare_images(images, self.preprocessing, self.batch_size(batch_size))
        return [answer for batch in batches for answer in self._predict_batch(*batch, top)]

    def embed_images(self, images: Picture | Iterable[Picture], *, batch_size: int = 32) -> Embeddings:
        """Embed pictures in memory, see `embeddings`.

        Args:
            images: as `predict_images` takes them; their ``paths`` are their numbers, from "0" on.
            batch_size: pictures at a time.

        Raises:
            SettingsError: the network is exported, so that only its answers are to be had.
            TypeError: something else, or an array of another type or shape.
        """
        _check_positive(1, batch_size)
        return self._embed(prepare_images(images, self.preprocessing, self.batch_size(batch_size)))

    def predict_each(self, files: Iterable[Path], *, top: int = 5, batch_size: int = 32) -> Iterator[Prediction]:
        """Like `predict`, for files only, and as an iterator that keeps no more than two batches in memory."""
        _check_positive(top, batch_size)
        for batch in prepare_files(files, self.preprocessing, self.batch_size(batch_size)):
            yield from self._predict_batch(*batch, top)

    def embed(
        self, pictures: str | Path | Iterable[str | Path], *, batch_size: int = 32, bar: Bar | None = None
    ) -> Embeddings:
        """Embed picture files, folders and patterns, see `embeddings`: to find similar ones, to cluster, to plot.

        Args:
            pictures: as `predict` takes them.
            batch_size: pictures at a time.
            bar: moved on by each picture.

        Raises:
            DataError: a folder or pattern that matches no picture.
            SettingsError: the network is exported, so that only its answers are to be had.
            TypeError: no name of a file.
        """
        _check_positive(1, batch_size)
        batches = prepare_files(find_pictures(pictures), self.preprocessing, self.batch_size(batch_size))
        return self._embed(batches, bar)

    def _embed(self, batches: Iterable[PreparedBatch], bar: Bar | None = None) -> Embeddings:
        paths, vectors, unreadable = [], [], {}
        for files, pixels in batches:
            for path, item in zip(files, pixels, strict=True):
                if isinstance(item, PictureError):
                    unreadable[str(path)] = str(item).removeprefix(f"{path}: ")
                else:
                    paths.append(str(path))
            if good := [item for item in pixels if isinstance(item, Tensor)]:
                vectors.append(self.embeddings(torch.stack(good)))
            if bar:
                bar.advance(len(files))
        return Embeddings(tuple(paths), torch.cat(vectors) if vectors else torch.empty(0, 0), unreadable)

    def _predict_batch(
        self, files: list[Path], pixels: Sequence[Tensor | PictureError], top: int
    ) -> Iterator[Prediction]:
        good = [item for item in pixels if isinstance(item, Tensor)]
        rows = iter(self.probabilities(torch.stack(good)) if good else ())
        for path, item in zip(files, pixels, strict=True):
            if isinstance(item, PictureError):
                yield Prediction(str(path), error=str(item).removeprefix(f"{path}: "))
                continue
            yield self.name_likeliest(str(path), next(rows), top)

    def name_likeliest(self, path: str, probabilities: Tensor, top: int) -> Prediction:
        """Return the answer for one picture from its probabilities (K,)."""
        values, places = probabilities.sort(descending=True, stable=True)
        named = zip(places.tolist(), values.tolist(), strict=True)
        ranked = tuple((self.classes[place], value) for place, value in named)
        if not self.multilabel:
            return Prediction(path, ranked[:top])
        found = answered(probabilities[None], multilabel=True, thresholds=self.thresholds)[0, places]
        ranks: list[int] = found.nonzero()[:, 0].tolist()
        count = max([top, *(rank + 1 for rank in ranks)])
        return Prediction(path, ranked[:count], labels=tuple(ranked[rank][0] for rank in ranks))


def _check_positive(top: int, batch_size: int) -> None:
    if top < 1 or batch_size < 1:
        raise SettingsError(f"top={top}, batch_size={batch_size}: both must be at least 1")
