"""Tables of pictures: lines of path,label[,split], or with any number of labels a picture."""

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from densekit.data.folders import SPLIT_NAMES, Entry, Listing
from densekit.data.pictures import PICTURE_SUFFIXES, Skipped
from densekit.errors import DataError
from densekit.units import some

_COLUMNS = {
    "path": (
        "path",
        "filepath",
        "imagepath",
        "file",
        "filename",
        "image",
        "imagename",
        "imageid",
        "imageindex",
        "picture",
    ),
    "label": ("label", "class", "target", "category"),
    "labels": ("labels", "classes", "tags", "targets", "findinglabels"),
    "split": ("split", "set", "subset"),
    "group": ("group", "groupid", "patient", "patientid", "subject", "subjectid"),
}
LABEL_SEPARATOR = "|"  # of several in one cell
_YES, _NO = ("1", "1.0", "true", "yes"), ("", "0", "0.0", "false", "no")
NO_LABEL = "its line of the table has no label"


@dataclass(frozen=True)
class _Header:
    """Places of the columns; the labels are in one of ``label`` and ``labels``, or in a column each."""

    path: int
    label: int | None = None
    labels: int | None = None
    split: int | None = None
    group: int | None = None
    width: int | None = None  # cells of the line that names the columns
    yes_or_no: dict[str, int] = field(default_factory=dict)

    @property
    def multilabel(self) -> bool:
        return self.label is None


def read_table(table: Path) -> Listing:
    """Read a text table of pictures and their classes.

    Either ``path,label[,split]``, a class each, or any number of labels a picture: ``path,labels[,split]`` with
    ``cat|dog`` in a cell, or a column for each label that holds 1 or 0. Paths are relative to the table; a header line
    names the columns, and may be left out of the first kind. Commas, semicolons or tabs may part the columns. An empty
    split means train. A column ``group`` (or patient, subject) names what a picture is one of several of, such as a
    patient's. A line without a label is skipped in the first kind, and in the others means none of the labels.

    Raises:
        DataError: a line that cannot be understood (named by its number), or one picture under two labels or
            splits.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        if table.suffix.lower() in {".csv", ".tsv", ".txt"}:
            raise DataError(f"{table} is no text in UTF-8: save it as CSV UTF-8") from None
        kind = "picture" if table.suffix.lower() in PICTURE_SUFFIXES else "binary file, e.g. an archive to unpack"
        raise DataError(f"{table} is a {kind}: name a folder of pictures, or a table path,label[,split]") from None
    except OSError as error:
        raise DataError(f"{table}: not a readable UTF-8 table path,label[,split] ({error})") from error
    first = text.partition("\n")[0]
    reader = csv.reader(text.split("\n"), delimiter=max(",;\t", key=first.count))
    listing, seen, lines = Listing(), dict[str, Entry](), 0
    header: _Header | None = None
    for number, row in _numbered(table, reader):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if header is None:
            header = _read_header(table, cells)
            if header is not None:
                listing.multilabel = header.multilabel
                continue
            header = _without_header(table, cells)
        entry = _read_entry(f"{table}, line {number}", table.parent, cells, header)
        if not entry.labels and not header.multilabel:
            listing.skipped.append(Skipped(entry.path, NO_LABEL))
            continue
        before = seen.setdefault(os.path.normpath(entry.path), entry)
        if replace(before, path=entry.path) != entry:  # a path may be written in several ways
            raise DataError(f"{table}, line {number}: {entry.path} was already given another label, split or group")
        lines += 1
    listing.entries, listing.repeated = list(seen.values()), lines - len(seen)
    listing.doubt = _doubt(listing.entries, header) if header is not None else None
    if not listing.entries:
        raise DataError(f"{table}: no lines of path,label[,split] found")
    return listing


def _numbered(table: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of a table with their numbers; neither a path nor a label goes over several."""
    number = 0
    try:
        for number, row in enumerate(reader, start=1):
            if reader.line_num != number:
                raise csv.Error
            yield number, row
    except csv.Error:  # the field has grown too long, or to several lines
        raise DataError(f"{table}, near line {number}: a quote that is not closed takes in the next lines") from None


def _read_header(table: Path, cells: list[str]) -> _Header | None:
    """Return where the columns are if this line names them; None if it is already a picture."""
    lowered = [re.sub(r"[\s_-]", "", cell.lower()) for cell in cells]  # "Patient ID" is patientid
    known = {column: [lowered.index(name) for name in names if name in lowered] for column, names in _COLUMNS.items()}
    found = {column: places[0] for column, places in known.items() if places}  # the first name that is there counts
    if "path" not in found:
        return None
    if "label" in found or "labels" in found:
        return _Header(**{**found, "labels": None if "label" in found else found["labels"]}, width=len(cells))
    names = [unicodedata.normalize("NFC", cell) for cell in cells]
    others = {name: place for place, name in enumerate(names) if place not in found.values() and not _is_index(name)}
    if twice := [name for name, count in Counter(names).items() if count > 1 and name in others]:
        raise DataError(f"{table}: two columns are named {twice[0]!r}")
    if several := [name for name in others if LABEL_SEPARATOR in name]:
        raise DataError(f"{table}: a column is named {several[0]!r}, but {LABEL_SEPARATOR} parts labels: rename it")
    return _Header(**found, width=len(cells), yes_or_no=others) if others else None


def _is_index(name: str) -> bool:
    """Whether a column is only the number of the line, as pandas writes it."""
    return not name or name.lower().startswith("unnamed:")


def _without_header(table: Path, cells: list[str]) -> _Header:
    """Return where the columns are in a table that begins with this line."""
    if Path(cells[0]).suffix.lower() not in PICTURE_SUFFIXES and not (table.parent / cells[0]).exists():
        names = "; ".join(", ".join(_COLUMNS[column]) for column in ("path", "label", "labels", "split", "group"))
        raise DataError(
            f"{table}: its first line, {','.join(cells)!r}, neither begins with a picture nor names columns "
            f"that are known: {names}"
        )
    return _Header(0, label=1, split=2 if len(cells) > 2 else None)


def _read_entry(where: str, folder: Path, cells: list[str], header: _Header) -> Entry:
    def cell(place: int) -> str:
        return cells[place] if place < len(cells) else ""

    path = cell(header.path)
    if not path:
        raise DataError(f"{where}: expected path,label[,split], got {','.join(cells)!r}")
    if header.width is not None and any(cells[header.width :]):
        raise DataError(f"{where}: has more cells than the first line names ({','.join(cells)!r}); | parts labels")
    last = max([header.labels or 0, *header.yes_or_no.values()])
    if header.multilabel and len(cells) <= last:
        raise DataError(f"{where}: ends before its labels ({','.join(cells)!r}); an empty cell means none of them")
    split = None if header.split is None else cell(header.split).lower() or "train"
    if split is not None and split not in SPLIT_NAMES:
        raise DataError(
            f"{where}: unknown split {split!r}; use one of {', '.join(dict.fromkeys(SPLIT_NAMES.values()))}"
        )
    if header.label is not None:
        labels = [cell(header.label)]
    elif header.labels is not None:
        labels = [label.strip() for label in cell(header.labels).split(LABEL_SEPARATOR)]
    else:
        labels = [name for name, place in header.yes_or_no.items() if _is_yes(where, name, cell(place))]
    named = dict.fromkeys(unicodedata.normalize("NFC", label) for label in labels if label)
    group = None if header.group is None else cell(header.group) or None
    return Entry(folder / path, tuple(sorted(named)), None if split is None else SPLIT_NAMES[split], group)


def _doubt(entries: Sequence[Entry], header: _Header) -> str | None:
    """Return what else the labels may have been meant to be."""
    found = {label for entry in entries for label in entry.labels}
    if missing := [name for name in header.yes_or_no if name not in found]:
        return f"no picture has the label {some(missing)}: left out"
    for parts in (re.split(r"[,;]\s*", name) for name in sorted(found) if header.labels is not None):
        if len(parts) > 1 and set(parts) <= found:
            return f"{','.join(parts)!r} is taken for one label: if these are several, part them by {LABEL_SEPARATOR}"
    return None


def _is_yes(where: str, name: str, value: str) -> bool:
    if value.lower() in _YES:
        return True
    if value.lower() in _NO:
        return False
    raise DataError(
        f"{where}: {name} is {value!r}, but a column for each label holds 1 or 0; "
        "if it holds names of classes, call it label (of several a picture, parted by |, labels), and if it says "
        "which pictures belong together, group"
    )
