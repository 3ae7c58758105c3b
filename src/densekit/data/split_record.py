"""Which split every picture belonged to when a run began: folders change, and nothing learned from may be tested on."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from densekit.console import Screen
from densekit.data.folders import SPLIT_NAMES, Entry, natural_key
from densekit.data.picture_set import DataSet, Split
from densekit.data.pictures import PictureHeader
from densekit.errors import DataError
from densekit.files import write_csv
from densekit.units import counted

SPLIT_RECORD = "splits.csv"  # its name in a run folder
_COLUMNS = ("path", "label", "split")


def write_split_record(path: Path, dataset: DataSet) -> None:
    """Write a table ``path,label,split`` of a data set of files; named sets never change and need none.

    Paths are relative to the data's folder, where they lie in it.
    """
    folder, rows = _folder(Path(dataset.name)), []
    for part in (dataset.train, dataset.val, dataset.test):
        if part is not None and not isinstance(part.pictures, np.ndarray):
            for picture, label in zip(part.pictures, part.labels, strict=True):
                cells = (_place(picture, folder), dataset.classes[label], part.split)
                rows.append(dict(zip(_COLUMNS, cells, strict=True)))
    if rows:
        write_csv(path, _COLUMNS, rows)


class SplitRecord:
    """What `write_split_record` wrote.

    Args:
        path: of the table.

    Raises:
        DataError: it is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                rows = list(csv.DictReader(file))
            self.splits: dict[str, Split] = {row["path"]: SPLIT_NAMES[row["split"]] for row in rows}
            self.labels = {row["path"]: row["label"] for row in rows}
            self.classes = tuple(sorted(set(self.labels.values()), key=natural_key))
        except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
            raise DataError(f"{path} does not hold the splits of a run ({error})") from None

    def apply(
        self, data: Path, entries: Sequence[Entry], headers: Sequence[PictureHeader], *, limited: bool, screen: Screen
    ) -> tuple[list[Entry], list[PictureHeader]]:
        """Return the pictures that were there, each in its split of then; tell how many are new, gone or relabelled.

        Args:
            data: folder or table.
            entries: what is there now.
            headers: of each.
            limited: the run took a part of the pictures, so that others are no news.
            screen: where that goes.

        Raises:
            DataError: none of them is there.
        """
        folder, kept, relabelled = _folder(data), [], []
        for entry, header in zip(entries, headers, strict=True):
            place = _place(entry.path, folder)
            split = self.splits.get(place)
            if split is not None and entry.label in self.classes:
                kept.append((replace(entry, split=split), header))
                if entry.label != self.labels[place]:
                    relabelled.append(f"{place} was {self.labels[place]!r}, is {entry.label!r}")
        if not kept:
            raise DataError(f"{data}: none of the {len(self.splits)} pictures of {self.path} can be read there")
        if (others := len(entries) - len(kept)) and not limited:
            screen.say(f"{counted(others, 'picture is', 'pictures are')} newer than this run: left out")
        if relabelled:
            which = counted(len(relabelled), "picture has", "pictures have")
            screen.warn(f"{which} another class than when the run began, first {relabelled[0]}")
        if gone := len(self.splits) - len(kept):
            which = counted(gone, "picture of this run is", "pictures of this run are")
            screen.warn(f"{which} gone or cannot be read")
        return [entry for entry, _ in kept], [header for _, header in kept]

    def learned(self, data: Path) -> list[Path]:
        """Return where the training pictures are if they lie in ``data``; they need not be there."""
        return [_folder(data) / place for place, split in self.splits.items() if split == "train"]


def _folder(data: Path) -> Path:
    return data.parent if data.is_file() else data


def _place(picture: Path, folder: Path) -> str:
    return (picture.relative_to(folder) if picture.is_relative_to(folder) else picture).as_posix()
