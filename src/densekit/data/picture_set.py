"""PictureSet and DataSet: labelled pictures, on disk or in memory, and the splits of a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from densekit.data.pictures import Skipped, read_picture
from densekit.errors import PictureError

Split = Literal["train", "val", "test", "all"]  # all: pictures of data that names no splits


def before_pictures(split: str) -> str:
    """Return the name of a split to be written before a word; nothing for pictures of no split.

    >>> f"{before_pictures('test')}accuracy", f"{before_pictures('all')}accuracy"
    ('test accuracy', 'accuracy')
    """
    return "" if split == "all" else f"{split} "


@dataclass(frozen=True, eq=False)
class PackedPictures:
    """Decoded pictures of any sizes in one flat array, which forked loader processes share.

    Those that are damaged keep their places, so that an epoch is the same one in memory and from the disk.
    """

    flat: np.ndarray  # uint8 (total bytes,)
    starts: np.ndarray  # int64 (N,): where each picture begins in flat
    shapes: np.ndarray  # int64 (N, 3): height, width, channels
    damaged: Mapping[int, str] = field(default_factory=dict)  # place -> what is wrong with which file

    def read(self, i: int) -> Image.Image:
        """Picture ``i`` in mode "L" or "RGB"; PictureError where it is damaged."""
        if i in self.damaged:
            raise PictureError(self.damaged[i])
        return Image.fromarray(self[i])

    def select(self, chosen: np.ndarray) -> "PackedPictures":
        """The pictures at the places ``chosen``, int64, in that order."""
        damaged = {new: self.damaged[old] for new, old in enumerate(chosen.tolist()) if old in self.damaged}
        return PackedPictures(self.flat, self.starts[chosen], self.shapes[chosen], damaged)

    def __getitem__(self, i: int) -> np.ndarray:
        """Picture ``i`` as a view, uint8 (H, W) or (H, W, 3)."""
        height, width, channels = map(int, self.shapes[i])
        start = int(self.starts[i])
        view = self.flat[start : start + height * width * channels]
        return view.reshape((height, width) if channels == 1 else (height, width, channels))


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Labelled pictures of one split.

    Args:
        pictures: paths, or all pictures as uint8 (N, H, W) grey or (N, H, W, 3) RGB.
        labels: class of each picture, int64 (N,), or where pictures have any number of labels, 1 for each that it has
            and else 0, float32 (N, K).
        split: which part of the data set this is.
        shapes: height, width and channels of each picture, int64 (N, 3); worked out from an array by itself.
        decoded: the pictures of ``pictures`` when those are paths and have been read into memory.
        skipped: files that were left out, of a set that is no part of a `DataSet`, and why.
        groups: name of what each picture is one of, such as a patient, or None where it stands for itself, object
            (N,); None where all do.
    """

    pictures: Sequence[Path] | np.ndarray
    labels: np.ndarray
    split: Split
    shapes: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.int64))
    decoded: PackedPictures | None = None
    skipped: tuple[Skipped, ...] = ()
    groups: np.ndarray | None = None

    def __post_init__(self):
        if isinstance(self.pictures, np.ndarray):
            height, width, *channels = self.pictures.shape[1:]
            shapes = np.tile(np.array([height, width, *(channels or [1])], np.int64), (len(self.pictures), 1))
            object.__setattr__(self, "shapes", shapes)
        if not len(self.pictures) == len(self.labels) == len(self.shapes):
            raise ValueError(
                f"{len(self.pictures)} pictures, {len(self.labels)} labels and {len(self.shapes)} shapes: "
                "a PictureSet needs one of each for every picture"
            )

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def in_memory(self) -> bool:
        """Whether `read` works without the disk."""
        return self.decoded is not None or isinstance(self.pictures, np.ndarray)

    @property
    def bytes_in_memory(self) -> int:
        """What its decoded pictures take."""
        pixels = self.pictures if self.decoded is None else self.decoded.flat
        return pixels.nbytes if isinstance(pixels, np.ndarray) else 0

    def read(self, i: int) -> Image.Image:
        """Picture ``i`` in mode "L" or "RGB"; PictureError where its file cannot be read."""
        if self.decoded is not None:
            return self.decoded.read(i)
        picture = self.pictures[i]
        return Image.fromarray(picture) if isinstance(picture, np.ndarray) else read_picture(picture)

    def name(self, i: int) -> str:
        """The path of picture ``i``, or split and number where there are no files."""
        return f"{self.split}/{i}" if isinstance(self.pictures, np.ndarray) else str(self.pictures[i])

    def select(self, indices: Sequence[int] | np.ndarray, split: Split | None = None) -> "PictureSet":
        """The pictures at ``indices`` (integers), in that order; renamed to ``split`` where given."""
        chosen = np.asarray(indices, np.int64)
        pictures = self.pictures
        return PictureSet(
            pictures[chosen] if isinstance(pictures, np.ndarray) else [pictures[i] for i in chosen],
            self.labels[chosen],
            split or self.split,
            self.shapes[chosen],
            self.decoded and self.decoded.select(chosen),
            groups=None if self.groups is None else self.groups[chosen],
        )

    @property
    def multilabel(self) -> bool:
        """Whether a picture may have several labels, or none."""
        return self.labels.ndim == 2

    def counts(self, num_classes: int) -> np.ndarray:
        """Number of pictures of each class, int64 (num_classes,)."""
        if self.multilabel:
            return self.labels.sum(0).astype(np.int64)
        return np.bincount(self.labels, minlength=num_classes)


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set, cut into its splits.

    Args:
        name: the named set, or the path of the folder or table.
        classes: class names; a label is a place in this tuple.
        train: what is learned from.
        val: what epochs are compared on; None where there is none.
        test: what is reported at the end; None where there is none.
        skipped: files that were left out, and why.
    """

    name: str
    classes: tuple[str, ...]
    train: PictureSet
    val: PictureSet | None = None
    test: PictureSet | None = None
    skipped: tuple[Skipped, ...] = ()

    @property
    def multilabel(self) -> bool:
        """Whether a picture may have several labels, or none."""
        return self.train.multilabel

    @property
    def channels(self) -> Literal[1, 3]:
        """1 where every picture of every split is grey, else 3."""
        parts = [part.shapes[:, 2] for part in (self.train, self.val, self.test) if part is not None]
        return 1 if (np.concatenate(parts) == 1).all() else 3

    @property
    def size(self) -> tuple[int, int]:
        """Typical picture size: the median height and the median width of the training pictures."""
        height, width = np.median(self.train.shapes[:, :2], axis=0)
        return round(height), round(width)
