"""Which split every picture belonged to when a run began: folders change, and nothing learned from may be tested on."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from densekit.console import Screen
from densekit.data.duplicates import digest_files
from densekit.data.folders import SPLIT_NAMES, Entry, natural_key
from densekit.data.learned import Learned
from densekit.data.picture_set import DataSet, Split
from densekit.data.pictures import PictureHeader
from densekit.data.tables import LABEL_SEPARATOR
from densekit.errors import DataError
from densekit.files import write_csv
from densekit.units import counted, some

SPLIT_RECORD = "splits.csv"  # its name in a run folder


def write_split_record(path: Path, dataset: DataSet, screen: Screen) -> None:
    """Write a table ``path,label,split`` (or ``path,labels,split``) of a data set of files; named sets never change.

    Paths are relative to the data's folder, where they lie in it. Where pictures are of groups, ``group`` names them.
    ``digest`` is a hash of the file, by which it is known under any name. Warns of files that are in several classes.
    """
    folder, rows = _folder(Path(dataset.name)), []
    parts = [part for part in (dataset.train, dataset.val, dataset.test) if part is not None]
    columns = ("path", "labels" if dataset.multilabel else "label", "split", "digest")
    if any(part.groups is not None for part in parts):
        columns += ("group",)
    for part in parts:
        if not isinstance(part.pictures, np.ndarray):
            digests = digest_files(part.pictures, screen, f"noting the {part.split} pictures")
            groups = [None] * len(part) if part.groups is None else part.groups
            for picture, label, digest, group in zip(part.pictures, part.labels, digests, groups, strict=True):
                places = np.flatnonzero(label) if dataset.multilabel else [label]
                names = LABEL_SEPARATOR.join(dataset.classes[place] for place in places)
                cells = (_place(picture, folder), names, part.split, digest, group or "")
                rows.append(dict(zip(columns, cells, strict=False)))  # the group only where it has a column
    if rows:
        write_csv(path, columns, rows)
        _tell_contradictions(rows, columns[1], screen)


def _tell_contradictions(rows: Sequence[dict[str, str]], label: str, screen: Screen) -> None:
    """Warn of files that are there twice with different labels."""
    first: dict[str, dict[str, str]] = {}
    pairs = [(first.setdefault(row["digest"], row), row) for row in rows if row["digest"]]
    if apart := [(one, other) for one, other in pairs if one[label] != other[label]]:
        which = counted(len(apart), "picture is", "pictures are")
        one, other = apart[0]
        screen.warn(
            f"{which} there again with another label, byte for byte, first {one['path']} ({one[label]}) and "
            f"{other['path']} ({other[label]})"
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
            self.digests = {row["path"]: row.get("digest") or "" for row in rows}  # "" of those that are not known
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

        A picture that has another name now is still that picture: it keeps its split.

        Args:
            data: folder or table.
            entries: what is there now.
            headers: of each.
            limited: the run took a part of the pictures, so that others are no news.
            screen: where that goes.

        Raises:
            DataError: none of them is there.
        """
        kept, relabelled, unknown = [], [], []
        found, copies = self._find(data, [entry.path for entry in entries], screen)
        for entry, header, place in zip(entries, headers, found, strict=True):
            if place is None:
                continue
            if new := set(entry.labels) - set(self.classes):
                unknown.append(f"{place}: {some(sorted(new))}")
                continue
            kept.append((replace(entry, split=self.splits[place]), header))
            if entry.labels != self.labels[place]:
                was, now = (LABEL_SEPARATOR.join(labels) for labels in (self.labels[place], entry.labels))
                relabelled.append(f"{place} was {was!r}, is {now!r}")
        if not kept:
            raise DataError(f"{data}: none of the {len(self.splits)} pictures of {self.path} can be read there")
        if (others := found.count(None) - copies) and not limited:
            screen.say(f"{counted(others, 'picture is', 'pictures are')} newer than this run: left out")
        if relabelled:
            which = counted(len(relabelled), "picture has", "pictures have")
            labels = "other labels" if self.multilabel else "another class"
            screen.warn(f"{which} {labels} than when the run began, first {relabelled[0]}")
        if unknown:
            which = counted(len(unknown), "picture is", "pictures are")
            screen.warn(f"{which} labelled with what this run does not know, and left out, first {unknown[0]}")
        if gone := len(self.splits) - len(set(found) - {None}):
            which = counted(gone, "picture of this run is", "pictures of this run are")
            screen.warn(f"{which} gone or cannot be read")
        return [entry for entry, _ in kept], [header for _, header in kept]

    def _find(self, data: Path, paths: Sequence[Path], screen: Screen) -> tuple[list[str | None], int]:
        """Return which recorded picture each file is, None of those that are new, and how many are none but copies.

        Names tell, as long as none is missing and the pictures that were held out are what they were. Otherwise names
        may have been given anew, and contents tell.
        """
        folder = _folder(data)
        places = [_place(path, folder) for path in paths]
        named = [place if place in self.splits else None for place in places]
        held_out = [number for number, place in enumerate(named) if place and self.splits[place] != "train"]
        digests = digest_files([paths[number] for number in held_out], screen, "comparing pictures")
        same = [self.digests[places[number]] in {digest, ""} for number, digest in zip(held_out, digests, strict=True)]
        complete = len(set(named) - {None}) == len(self.splits)
        return (named, 0) if complete and all(same) else self._find_by_content(paths, named, screen)

    def _find_by_content(
        self, paths: Sequence[Path], named: Sequence[str | None], screen: Screen
    ) -> tuple[list[str | None], int]:
        """Look files up by what is in them, and tell of those that have other names or contents than then."""
        digests = digest_files(paths, screen, "comparing pictures")
        moved = {  # files that are not what was recorded under their names
            number: digest
            for number, (digest, place) in enumerate(zip(digests, named, strict=True))
            if digest and not (place and self.digests[place] in {digest, ""})
        }
        free = self.splits.keys() - {place for number, place in enumerate(named) if number not in moved}
        by_content: dict[str, list[str]] = {}
        for place in sorted(free, key=lambda place: (self.splits[place] == "train", place)):
            by_content.setdefault(self.digests[place], []).append(place)
        found: list[str | None] = [None if number in moved else place for number, place in enumerate(named)]
        learned, renamed, changed, copies = self.learned().pictures, [], [], []
        for number, digest in moved.items():
            if equal := by_content.get(digest):
                found[number] = equal.pop()  # of equal pictures one that was learned from, if any was
                renamed.append(f"{found[number]} is {paths[number]}")
        taken = set(found)
        for number, digest in moved.items():
            place = named[number]
            if found[number] is not None or place is None or place in taken:
                continue
            if digest in learned and self.splits[place] != "train":
                copies.append(f"{place} is {learned[digest]}")
            else:
                found[number] = place
                changed.append(place)
        if renamed:
            which = counted(len(renamed), "picture has another name", "pictures have other names")
            screen.say(f"{which} than when the run began, but the same split: first {renamed[0]}")
        if changed:
            which = counted(len(changed), "picture has", "pictures have")
            screen.warn(f"{which} other contents than when the run began, first {changed[0]}")
        if copies:
            which = counted(len(copies), "picture is", "pictures are")
            screen.warn(f"{which} a copy of what the run was trained on by now, and left out: {copies[0]}")
        return found, len(copies)

    def learned(self) -> Learned:
        """Return the training pictures and their groups."""
        training = {self.digests[place]: place for place, split in self.splits.items() if split == "train"}
        return Learned({digest: place for digest, place in training.items() if digest}, self._groups)


def _folder(data: Path) -> Path:
    return data.parent if data.is_file() else data


def _place(picture: Path, folder: Path) -> str:
    return (picture.relative_to(folder) if picture.is_relative_to(folder) else picture).as_posix()
