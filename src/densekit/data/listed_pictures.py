"""Pictures of a folder or table that can be opened, with their labels, splits and groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densekit.console import Screen
from densekit.data.downloads import NAMED_SETS
from densekit.data.folders import NO_SPLIT, Entry, Listing, check_headers, scan_folder
from densekit.data.picture_set import PictureSet, Split
from densekit.data.pictures import PictureHeader, Skipped
from densekit.data.tables import NO_LABEL, read_table
from densekit.errors import DataError
from densekit.units import counted, some


@dataclass(frozen=True)
class ListedPictures:
    """Pictures that can be opened, each with its header, and the files that were left out."""

    entries: list[Entry]
    headers: list[PictureHeader]
    skipped: list[Skipped]
    multilabel: bool

    @property
    def labels(self) -> set[str]:
        """Names of all labels."""
        return {label for entry in self.entries for label in entry.labels}

    @property
    def without_splits(self) -> bool:
        """Whether nothing says which picture is for what."""
        return all(entry.split is None for entry in self.entries)

    def parts(self, classes: tuple[str, ...]) -> dict[Split, PictureSet]:
        """Return the pictures of each split there is; without splits all are for training."""
        number = {name: label for label, name in enumerate(classes)}
        labels = [[number[name] for name in entry.labels] for entry in self.entries]
        if self.multilabel:
            values = np.zeros((len(labels), len(classes)), np.float32)
            for row, places in zip(values, labels, strict=True):
                row[places] = 1
        else:
            values = np.array(labels, np.int64)[:, 0]
        paths = [entry.path for entry in self.entries]
        splits = np.array([entry.split or "train" for entry in self.entries])
        shapes = np.array(self.headers, np.int64).reshape(-1, 3)
        groups = np.array([entry.group for entry in self.entries], object)
        alone = all(name is None for name in groups)
        everything = PictureSet(paths, values, "train", shapes, groups=None if alone else groups)
        found: list[Split] = ["train", "val", "test"]
        return {split: everything.select(np.flatnonzero(splits == split), split) for split in found if split in splits}


def open_listed(path: Path, strict: bool, screen: Screen) -> ListedPictures:
    """List a folder or table and open every picture just far enough to know its size; tell what is left out.

    Raises:
        DataError: there is no such folder or table, or nothing in it can be used.
        PictureError: a picture that cannot be opened, if ``strict``.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder or table, and no data set's name ({', '.join(NAMED_SETS)})")
    listing = scan_folder(path) if path.is_dir() else read_table(path, screen)
    entries, headers, unreadable = check_headers(listing, strict=strict, screen=screen)
    _tell_skipped(listing, unreadable, screen)
    if not entries:
        raise DataError(f"{path}: none of the pictures can be read")
    return ListedPictures(entries, headers, listing.skipped + unreadable, listing.multilabel)


def _tell_skipped(listing: Listing, unreadable: Sequence[Skipped], screen: Screen) -> None:
    unlisted = listing.skipped
    if listing.repeated:
        screen.warn(f"{counted(listing.repeated, 'line names', 'lines name')} a picture again: counted once")
    empty = [skipped.path.name for skipped in unlisted if skipped.reason.startswith("class folder")]
    if empty:
        screen.warn(f"class folders without pictures: {some(empty)}")
    others = [skipped.path.name for skipped in unlisted if skipped.reason == NO_SPLIT]
    if others:
        screen.warn(f"left out, because they are neither train, val nor test: {some(others)}")
    unlabelled = [skipped.path.name for skipped in unlisted if skipped.reason == NO_LABEL]
    if unlabelled:
        screen.warn(f"left out, because the table has no label for them: {some(unlabelled)}")
    if rest := len(unlisted) - len(empty) - len(others) - len(unlabelled):
        which = counted(rest, "file is left out: not a picture", "files are left out: not pictures")
        screen.say(f"{which} of a class")
    if listing.doubt:
        screen.warn(listing.doubt)
    if unreadable:
        first = unreadable[0]
        which = counted(len(unreadable), "picture cannot be read and is", "pictures cannot be read and are")
        screen.warn(f"{which} left out, first {first.path}: {first.reason}")


def tell_cut_groups(entries: Sequence[Entry], screen: Screen) -> None:
    """Warn where pictures of one group are in several splits, as the table has it."""
    splits: dict[str, set[str | None]] = {}
    for entry in entries:
        if entry.group is not None:
            splits.setdefault(entry.group, set()).add(entry.split)
    if several := [group for group, found in splits.items() if len(found) > 1]:
        which = counted(len(several), "group has", "groups have")
        screen.warn(
            f"{which} pictures in more than one split, which flatters the figures: {some(several)}; leave out the "
            "splits, and groups stay whole"
        )
