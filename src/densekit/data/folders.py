"""Folders of pictures: which files, of which class and split, and which can be opened."""

import os
import re
import time
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from densekit.console import Screen
from densekit.data.picture_set import Split
from densekit.data.pictures import PICTURE_SUFFIXES, PictureHeader, Skipped, picture_header
from densekit.errors import DataError, PictureError
from densekit.units import some

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
# files that are in a folder together where that is a run, a classifier or a study
_OURS = ({"settings.yaml", "checkpoints"}, {"model.json", "model.safetensors"}, {"study.yaml", "runs"})
_LAYOUTS = "expected train/CLASS/*.jpg (val/ and test/ beside it if you like), or CLASS/*.jpg"
_TRIED, _SLOW = 64, 1e-3  # so many pictures tell whether one takes longer than that, in seconds: then it is the disk
NO_SPLIT = "not a split folder (train, val, test)"
_IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclass(frozen=True)
class Entry:
    """One candidate picture file: with one label, or where the listing is multi-label with any number.

    ``split`` is None where the layout does not tell, ``group`` where it is alone.
    """

    path: Path
    labels: tuple[str, ...]
    split: Split | None
    group: str | None = None


@dataclass
class Listing:
    """What a folder or table holds, in an order that does not depend on the file system."""

    entries: list[Entry] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    multilabel: bool = False  # pictures have any number of labels, none too
    repeated: int = 0  # lines of a table that name a picture again
    doubt: str | None = None  # what else may have been meant
    folders: dict[str, Path] = field(default_factory=dict)  # of classes, by where they really are


def natural_key(text: str) -> tuple:
    """Sort key that counts: ``a2`` comes before ``a10``.

    >>> sorted(["b", "a10", "a2"], key=natural_key)
    ['a2', 'a10', 'b']
    """
    parts = re.split(r"(\d+)", text.lower())
    return ([int(part) if part.isdecimal() else part for part in parts], text)


def scan_folder(root: Path) -> Listing:
    """List ``root/SPLIT/CLASS/**``, ``root/CLASS/SPLIT/**``, or ``root/CLASS/**``.

    Splits go by the names of `SPLIT_NAMES`. Hidden files and folders are passed over; other files that are no pictures
    by their names are recorded as skipped. A class may be called "train" too: splits are meant if the training folder
    holds folders, or if all folders have names of splits; below the classes, if all folders there have.

    Raises:
        DataError: two folders mean the same split, or there is nothing to find.
    """
    listing = Listing()
    tops = {path.name: path for path in _children(root, listing) if path.is_dir()}
    splits = {name: path for name, path in tops.items() if name.lower() in SPLIT_NAMES}
    train = next((path for name, path in splits.items() if SPLIT_NAMES[name.lower()] == "train"), None)
    if (train and any(path.is_dir() for path in _visible(train))) or (splits and len(splits) == len(tops)):
        seen: dict[Split, str] = {}
        for name, path in splits.items():
            split = SPLIT_NAMES[name.lower()]
            if split in seen:
                raise DataError(f"{root}: both {seen[split]}/ and {name}/ are the {split} split; keep one")
            seen[split] = name
            for folder in (child for child in _children(path, listing) if child.is_dir()):
                _scan_class(folder, folder.name, split, listing)
        others = (path for name, path in tops.items() if name not in splits)
        listing.skipped += [Skipped(path, NO_SPLIT) for path in others]
    else:
        _scan_classes(tops, listing)
    if not listing.entries:
        others = [skipped for skipped in listing.skipped if skipped.path.is_file()]
        there = f"; it holds {others[0].path.relative_to(root)}: {others[0].reason}" if others else ""
        raise DataError(f"{root}: no pictures found; {_LAYOUTS}{there}")
    return listing


def _scan_classes(tops: dict[str, Path], listing: Listing) -> None:
    """List ``CLASS/SPLIT/**`` where all folders in the classes are splits, else ``CLASS/**``."""
    below = {name: _folder_names(top) for name, top in tops.items()}
    if all(inner and {name.lower() for name in inner} <= SPLIT_NAMES.keys() for inner in below.values()):
        for name, inner in below.items():
            files = (path for path in _visible(tops[name]) if not path.is_dir())
            listing.skipped += [Skipped(path, "not in a split folder") for path in files]
            for split in inner:
                _scan_class(tops[name] / split, name, SPLIT_NAMES[split.lower()], listing)
        return
    for name, top in tops.items():
        _scan_class(top, name, None, listing)
    first, *others = below.values() or [[]]
    if others and len(first) > 1 and all(inner == first for inner in others):
        listing.doubt = (
            f"{some(tops)} are taken for classes, and each holds {some(first)}: if they are splits, name them train, "
            "val and test"
        )


def check_headers(
    listing: Listing, *, strict: bool, screen: Screen
) -> tuple[list[Entry], list[PictureHeader], list[Skipped]]:
    """Open every listed file just far enough to know its size: those that work, their headers, the others.

    Raises:
        PictureError: the first file that cannot be opened, if ``strict``.
    """
    good, headers, bad = [], [], []
    total = len(listing.entries)
    with ThreadPoolExecutor(8) as pool, screen.bar("checking pictures", total) as bar:
        for entry, header in zip(listing.entries, _headers(listing.entries, pool), strict=True):
            bar.advance()
            if isinstance(header, PictureHeader):
                good.append(entry)
                headers.append(header)
            elif strict:
                pool.shutdown(wait=False, cancel_futures=True)
                raise header
            else:
                bad.append(Skipped.because(entry.path, header))
    return good, headers, bad


def _headers(entries: Sequence[Entry], pool: Executor) -> Iterator[PictureHeader | PictureError]:
    """Open pictures one after the other, because threads of one Python are slower; from a slow place, together."""
    started = time.perf_counter()
    yield from map(_try_header, entries[:_TRIED])
    slow = time.perf_counter() - started > _TRIED * _SLOW
    yield from (pool.map if slow else map)(_try_header, entries[_TRIED:])


def _try_header(entry: Entry) -> PictureHeader | PictureError:
    try:
        return picture_header(entry.path)
    except PictureError as error:
        return error


def _visible(folder: Path) -> list[Path]:
    try:
        children = list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
    return sorted((path for path in children if _is_visible(path.name)), key=lambda path: natural_key(path.name))


def _folder_names(folder: Path) -> list[str]:
    """Names of the visible folders in a folder, without a look at each of its files."""
    try:
        with os.scandir(folder) as children:
            names = [child.name for child in children if child.is_dir()]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
    return sorted((name for name in names if _is_visible(name)), key=natural_key)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _IGNORED


def _children(folder: Path, listing: Listing) -> list[Path]:
    """Visible children of a folder whose files belong to no class, which is recorded."""
    children = _visible(folder)
    listing.skipped += [Skipped(path, "not in a class folder") for path in children if not path.is_dir()]
    return children


def _scan_class(folder: Path, name: str, split: Split | None, listing: Listing) -> None:
    other = listing.folders.setdefault(os.path.realpath(folder), folder)
    if other != folder:
        raise DataError(f"{folder} and {other} are the same folder: a picture has one class and one split")
    # a link from a class to the folder of all classes would make every picture one of that class
    above = frozenset(os.path.realpath(parent) for parent in [folder.parent, *folder.parent.parents])
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):  # control signs, halves of some
        raise DataError(f"{folder}: no class can have the name {name!r}, rename the folder (names are UTF-8)")
    label = unicodedata.normalize("NFC", name)  # a Mac writes "é" as two characters, others as one
    files = list(files_below(folder, above))
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    listing.entries += [Entry(path, (label,), split) for path in pictures]
    others = (path for path in files if path.suffix.lower() not in PICTURE_SUFFIXES)
    listing.skipped += [Skipped(path, "not a picture file name") for path in others]
    if not pictures:
        listing.skipped.append(Skipped(folder, "class folder without pictures"))


def files_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield the files in a folder and its folders, in natural order; hidden ones are passed over.

    Linked folders are followed, but never to one of ``above`` or in circles. A folder that holds a run or a classifier
    is passed over: its curves are no pictures of a class.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    children = _visible(folder)
    names = {path.name for path in children}
    if any(ours <= names for ours in _OURS):
        return
    for path in children:
        if path.is_dir():
            yield from files_below(path, above | {real})
        else:
            yield path
