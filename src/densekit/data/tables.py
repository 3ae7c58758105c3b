"""Tables of pictures: lines of path,label[,split]."""

import csv
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densekit.data.folders import SPLIT_NAMES, Entry, Listing
from densekit.data.pictures import PICTURE_SUFFIXES, Skipped
from densekit.errors import DataError

_COLUMNS = {
    "path": ("path", "file", "filename", "image", "picture"),
    "label": ("label", "class", "target"),
    "split": ("split", "set", "subset"),
}
NO_LABEL = "its line of the table has no label"


def read_table(table: Path) -> Listing:
    """Read a text table ``path,label[,split]``.

    Paths are relative to the table; a header line may name the columns. Commas, semicolons or tabs
    may part the columns. An empty split means train; lines without a label are skipped.

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
    reader = csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    seen: dict[str, Entry] = {}
    unlabelled: list[Skipped] = []
    lines = 0
    columns: dict[str, int] | None = None
    for number, row in _numbered(table, reader):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if columns is None:
            columns = _header_columns(cells)
            if columns:
                continue
            if Path(cells[0]).suffix.lower() not in PICTURE_SUFFIXES and not (table.parent / cells[0]).exists():
                raise DataError(
                    f"{table}: its first line, {','.join(cells)!r}, neither begins with a picture nor names columns "
                    f"that are known: {', '.join(_COLUMNS['path'])}; {', '.join(_COLUMNS['label'])}; split"
                )
            columns = {"path": 0, "label": 1, **({"split": 2} if len(cells) > 2 else {})}
        entry = _table_entry(f"{table}, line {number}", table.parent, cells, columns)
        if not entry.label:
            unlabelled.append(Skipped(entry.path, NO_LABEL))
            continue
        before = seen.setdefault(os.path.normpath(entry.path), entry)
        if (before.label, before.split) != (entry.label, entry.split):
            raise DataError(f"{table}, line {number}: {entry.path} was already given another label or split")
        lines += 1
    listing = Listing(list(seen.values()), unlabelled, repeated=lines - len(seen))
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


def _header_columns(cells: list[str]) -> dict[str, int] | None:
    """Places of path, label and split if this line is a header; None if it is already a picture."""
    lowered = [cell.lower() for cell in cells]
    known = {column: [lowered.index(name) for name in names if name in lowered] for column, names in _COLUMNS.items()}
    found = {column: places[0] for column, places in known.items() if places}  # the first name that is there counts
    return found if {"path", "label"} <= found.keys() else None


def _table_entry(where: str, folder: Path, cells: list[str], columns: dict[str, int]) -> Entry:
    picked = {column: cells[place] if place < len(cells) else "" for column, place in columns.items()}
    if not picked["path"]:
        raise DataError(f"{where}: expected path,label[,split], got {','.join(cells)!r}")
    split = picked.get("split", "train" if "split" in columns else None)
    if split is not None and (split := split.lower() or "train") not in SPLIT_NAMES:
        raise DataError(
            f"{where}: unknown split {split!r}; use one of {', '.join(dict.fromkeys(SPLIT_NAMES.values()))}"
        )
    label = unicodedata.normalize("NFC", picked["label"])
    return Entry(folder / picked["path"], label, None if split is None else SPLIT_NAMES[split])
