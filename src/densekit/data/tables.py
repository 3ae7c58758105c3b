"""Tables of pictures: lines of path,label[,split], or with any number of labels a picture."""

import ast
import csv
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from densekit.console import Screen
from densekit.data.columns import (
    CLASS_PREFIX,
    LABEL_SEPARATOR,
    NO,
    YES,
    Columns,
    columns_without_names,
    find_columns,
)
from densekit.data.folders import Entry, Listing
from densekit.data.pictures import PICTURE_SUFFIXES, Skipped
from densekit.data.table_paths import locate_pictures
from densekit.errors import DataError
from densekit.units import some

NO_LABEL = "its line of the table has no label"
_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[\d.]+)"""
_LIST = re.compile(rf"\[\s*(?:{_ITEM}(?:[\s,]+{_ITEM})*,?\s*)?\]")  # as Python, JSON and NumPy write them


def read_table(table: Path, screen: Screen | None = None) -> Listing:
    """Read a text table of pictures and their classes.

    Either ``path,label[,split]``, a class each, or any number of labels a picture: ``path,labels[,split]`` with
    ``cat|dog`` or ``['cat', 'dog']`` in a cell, or a column for each label that holds 1 or 0. If the names of these
    columns begin with ``class:``, they are classes, of which a picture has one. Paths are relative to the table;
    pictures that are not there are looked up by name below its folder. A header line names the columns (see
    `densekit.data.columns.KNOWN`), and may be left out of the first kind. Commas, semicolons or tabs may part the
    columns. An empty split means train. A column ``group`` (or patient, subject) names what a picture is one of
    several of, such as a patient's. A line without a label is skipped where a picture has one class, and else means
    none of the labels.

    Args:
        table: its file.
        screen: where it goes what is not used, or may have been meant otherwise.

    Raises:
        DataError: a line that cannot be understood (named by its number), one picture under two labels or splits, or
            a name that two pictures have.
    """
    screen = screen or Screen()
    lines = _read_lines(table)
    if not lines:
        raise DataError(f"{table}: no lines of path,label[,split] found")
    (_, first), *others = lines
    columns = find_columns(table, first, [cells for _, cells in others])
    if columns is None:
        columns = columns_without_names(table, first)
        others = lines
    listing, labelled = Listing(multilabel=columns.multilabel), list[tuple[int, Entry]]()
    for number, cells in others:
        entry = _read_entry(f"{table}, line {number}", table.parent, cells, columns)
        if entry.labels or columns.multilabel:
            labelled.append((number, entry))
        else:
            listing.skipped.append(Skipped(entry.path, NO_LABEL))
    if not labelled:
        raise DataError(f"{table}: no lines of path,label[,split] found")
    if columns.unused:
        screen.say(f"columns not used: {', '.join(columns.unused)}")
    located = locate_pictures(table, [entry.path for _, entry in labelled], screen)
    seen = dict[str, Entry]()
    for (number, entry), path in zip(labelled, located, strict=True):
        moved = entry if path == entry.path else replace(entry, path=path)
        before = seen.setdefault(os.path.normpath(path), moved)
        if before is not moved and replace(before, path=path) != moved:  # a path may be written in several ways
            raise DataError(f"{table}, line {number}: {path} was already given another label, split or group")
    listing.entries, listing.repeated = list(seen.values()), len(labelled) - len(seen)
    for doubt in _doubts(listing.entries, columns):
        screen.warn(doubt)
    return listing


def _read_lines(table: Path) -> list[tuple[int, list[str]]]:
    """Return the cells of each line that is not empty, with its number."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        if table.suffix.lower() in {".csv", ".tsv", ".txt"}:
            raise DataError(f"{table} is not UTF-8 text: save it as CSV UTF-8") from None
        kind = "picture" if table.suffix.lower() in PICTURE_SUFFIXES else "binary file, e.g. an archive to unpack"
        raise DataError(f"{table} is a {kind}: name a folder of pictures, or a table path,label[,split]") from None
    except OSError as error:
        raise DataError(f"{table}: not a readable UTF-8 table path,label[,split] ({error})") from error
    first = text.partition("\n")[0]
    reader = csv.reader(text.split("\n"), delimiter=max(",;\t", key=first.count))
    lines = ((number, [cell.strip() for cell in row]) for number, row in _numbered(table, reader))
    return [(number, cells) for number, cells in lines if any(cells)]


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


def _read_entry(where: str, folder: Path, cells: list[str], columns: Columns) -> Entry:
    def cell(place: int) -> str:
        return cells[place] if place < len(cells) else ""

    path = cell(columns.path)
    if not path:
        raise DataError(f"{where}: expected path,label[,split], got {','.join(cells)!r}")
    if columns.width is not None and any(cells[columns.width :]):
        raise DataError(f"{where}: has more cells than the first line names ({','.join(cells)!r}); | separates labels")
    last = max([columns.labels or 0, *columns.yes_or_no.values()])
    if columns.label is None and len(cells) <= last:
        raise DataError(f"{where}: ends before its labels ({','.join(cells)!r}); an empty cell means none of them")
    split = None if columns.split is None else cell(columns.split).lower()
    if split is not None and split not in columns.splits:
        known = dict.fromkeys(columns.splits.values())
        words = "true, false, 1 or 0" if "true" in columns.splits else f"one of {', '.join(known)}"
        raise DataError(f"{where}: unknown split {split!r}; use {words}")
    if columns.label is not None:
        labels = [cell(columns.label)]
    elif columns.labels is not None:
        labels = _separated(where, cell(columns.labels))
    else:
        labels = [name for name, place in columns.yes_or_no.items() if _is_yes(where, name, cell(place))]
    if columns.exclusive and len(labels) > 1:
        raise DataError(
            f"{where}: has the classes {some(labels)}, but only one is possible; if they are labels, name the columns "
            f"without {CLASS_PREFIX}"
        )
    named = dict.fromkeys(unicodedata.normalize("NFC", label) for label in labels if label)
    group = None if columns.group is None else cell(columns.group) or None
    return Entry(folder / path, tuple(sorted(named)), None if split is None else columns.splits[split], group)


def _separated(where: str, cell: str) -> list[str]:
    """Return the labels of one cell: separated by |, or a list as pandas writes it."""
    if _LIST.fullmatch(cell):
        items = re.findall(_ITEM, cell)
        labels = [str(ast.literal_eval(item)) if item[0] in "'\"" else item for item in items]
        if joined := next((label for label in labels if LABEL_SEPARATOR in label), None):
            raise DataError(f"{where}: a label is {joined!r}, but {LABEL_SEPARATOR} separates labels: rename it")
        return labels
    if cell.startswith("[") and cell.endswith("]"):
        raise DataError(f"{where}: {cell} is not a list of quoted names: write ['cat', 'dog'], or cat|dog")
    return [label.strip() for label in cell.split(LABEL_SEPARATOR)]


def _doubts(entries: Sequence[Entry], columns: Columns) -> Iterator[str]:
    """Yield what else the labels may have been meant to be."""
    found = {label for entry in entries for label in entry.labels}
    if missing := [name for name in columns.yes_or_no if name not in found]:
        kind = "class" if columns.exclusive else "label"
        yield f"no picture has the {kind} {some(missing)}: left out"
    if columns.yes_or_no:
        several = None
    elif columns.labels is not None:
        single = all(len(entry.labels) <= 1 for entry in entries)
        several = _several_in_one(found, r"\s*[,;]\s*", single) or (single and _several_in_one(found, r"\s+", True))
        if several:
            yield f"{several!r} is taken for one label: if these are several, separate them with {LABEL_SEPARATOR}"
    else:
        several = next((name for name in sorted(found) if _LIST.fullmatch(name)), None)
        several = several or _several_in_one(found, r"\s*[\s|,;]\s*", False)
        if several:
            yield f"{several!r} is taken for one class: if these are several labels, call the column labels"
    if columns.multilabel and not several and len(found) > 1 and all(len(entry.labels) == 1 for entry in entries):
        if columns.labels is not None:
            yield "each picture has exactly one label: if these are classes, call the column label"
        else:
            name = next(iter(columns.yes_or_no))
            yield (
                f"each picture has exactly one label: if these are classes, write {CLASS_PREFIX} before the names of "
                f"their columns, such as {CLASS_PREFIX}{name}"
            )


def _several_in_one(names: set[str], separator: str, single: bool) -> str | None:
    """Return a name that may be several: its parts are names too, or, of single labels, few parts make many names.

    >>> _several_in_one({"hot tea", "hot milk", "hot rice", "cold tea", "cold milk", "cold rice"}, " ", True)
    'cold milk'
    """
    parts = {name: set(re.split(separator, name)) for name in sorted(names)}
    joined = [name for name in parts if len(parts[name]) > 1]
    if single and joined and len(set().union(*parts.values())) < len(names):
        return joined[0]
    return next((name for name in joined if parts[name] <= names), None)


def _is_yes(where: str, name: str, value: str) -> bool:
    if value.lower() in YES:
        return True
    if value.lower() in NO:
        return False
    raise DataError(
        f"{where}: {name} is {value!r}, but a column for each label holds 1 or 0; "
        "call a column of class names label (labels, if they are several per picture, as in cat|dog), one that says "
        "which pictures belong together group, and leave out what is neither"
    )
