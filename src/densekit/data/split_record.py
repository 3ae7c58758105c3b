"""Which split every picture belonged to when a run began: folders change, and nothing learned from may be tested on."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from densekit.console import Screen
from densekit.data.folders import SPLIT_NAMES, Entry, natural_key
from densekit.data.picture_set import DataSet, PictureSet, Split, before_pictures
from densekit.data.pictures import PictureHeader
from densekit.data.tables import LABEL_SEPARATOR
from densekit.errors import DataError
from densekit.files import write_csv
from densekit.units import counted, some

SPLIT_RECORD = "splits.csv"  # its name in a run folder


def write_split_record(path: Path, dataset: DataSet) -> None:
    """Write a table ``path,label,split`` (or ``path,labels,split``) of a data set of files; named sets never change.

    Paths are relative to the data's folder, where they lie in it. Where pictures are of groups, ``group`` names them.
    """
    folder, rows = _folder(Path(dataset.name)), []
    parts = [part for part in (dataset.train, dataset.val, dataset.test) if part is not None]
    columns = ("path", "labels" if dataset.multilabel else "label", "split")
    if any(part.groups is not None for part in parts):
        columns += ("group",)
    for part in parts:
        if not isinstance(part.pictures, np.ndarray):
            groups = [None] * len(part) if part.groups is None else part.groups
            for picture, label, group in zip(part.pictures, part.labels, groups, strict=True):
                places = np.flatnonzero(label) if dataset.multilabel else [label]
                names = LABEL_SEPARATOR.join(dataset.classes[place] for place in places)
                cells = (_place(picture, folder), names, part.split, group or "")
                rows.append(dict(zip(columns, cells, strict=False)))  # the group only where it has a column
    if rows:
        write_csv(path, columns, rows)


@dataclass(frozen=True)
class Learned:
    """What has been learned from: where these pictures are, and the names of the groups that they are of."""

    pictures: list[Path] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)

    def __add__(self, other: "Learned") -> "Learned":
        return Learned(self.pictures + other.pictures, self.groups | other.groups)


def tell_learned_groups(learner: str, groups: set[str], tested: PictureSet, screen: Screen) -> None:
    """Warn where pictures to validate or test on are of groups, such as patients, that were learned from."""
    names = [] if tested.groups is None else tested.groups.tolist()
    if both := groups & set(names):
        which = counted(sum(name in both for name in names), "picture is", "pictures are")
        screen.warn(
            f"{which} of groups (by their names) that {learner} was trained on too, which flatters the figures of the "
            f"{before_pictures(tested.split)}pictures: {some(sorted(both, key=natural_key))}"
        )


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
                reader = csv.DictReader(file)
                rows, self.multilabel = list(reader), "labels" in (reader.fieldnames or ())
            self.splits: dict[str, Split] = {row["path"]: SPLIT_NAMES[row["split"]] for row in rows}
            self._groups = {row["group"] for row in rows if row.get("group") and self.splits[row["path"]] == "train"}
            self.labels = {row["path"]: self._labels(row) for row in rows}
            self.classes = tuple(sorted(set(chain.from_iterable(self.labels.values())), key=natural_key))
        except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
            raise DataError(f"{path} does not hold the splits of a run ({error})") from None

    def _labels(self, row: dict[str, str]) -> tuple[str, ...]:
        if not self.multilabel:
            return (row["label"],)
        return tuple(sorted(filter(None, row["labels"].split(LABEL_SEPARATOR))))

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
        folder, kept, relabelled, unknown = _folder(data), [], [], []
        for entry, header in zip(entries, headers, strict=True):
            place = _place(entry.path, folder)
            split = self.splits.get(place)
            if split is not None and (new := set(entry.labels) - set(self.classes)):
                unknown.append(f"{place}: {some(sorted(new))}")
            elif split is not None:
                kept.append((replace(entry, split=split), header))
                if entry.labels != self.labels[place]:
                    was, now = (LABEL_SEPARATOR.join(labels) for labels in (self.labels[place], entry.labels))
                    relabelled.append(f"{place} was {was!r}, is {now!r}")
        if not kept:
            raise DataError(f"{data}: none of the {len(self.splits)} pictures of {self.path} can be read there")
        if (others := len(entries) - len(kept) - len(unknown)) and not limited:
            screen.say(f"{counted(others, 'picture is', 'pictures are')} newer than this run: left out")
        if relabelled:
            which = counted(len(relabelled), "picture has", "pictures have")
            labels = "other labels" if self.multilabel else "another class"
            screen.warn(f"{which} {labels} than when the run began, first {relabelled[0]}")
        if unknown:
            which = counted(len(unknown), "picture is", "pictures are")
            screen.warn(f"{which} labelled with what this run does not know, and left out, first {unknown[0]}")
        if gone := len(self.splits) - len(kept) - len(unknown):
            which = counted(gone, "picture of this run is", "pictures of this run are")
            screen.warn(f"{which} gone or cannot be read")
        return [entry for entry, _ in kept], [header for _, header in kept]

    def learned(self, data: Path) -> Learned:
        """Return the training pictures, and where they are if they lie in ``data``; they need not be there."""
        places = [_folder(data) / place for place, split in self.splits.items() if split == "train"]
        return Learned(places, self._groups)


def _folder(data: Path) -> Path:
    return data.parent if data.is_file() else data


def _place(picture: Path, folder: Path) -> str:
    return (picture.relative_to(folder) if picture.is_relative_to(folder) else picture).as_posix()
