"""Which column of a table is for what, by its name; docs/training.md names them for people."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from densekit.data.folders import SPLIT_NAMES
from densekit.data.picture_set import Split
from densekit.data.pictures import PICTURE_SUFFIXES
from densekit.errors import DataError
from densekit.files import is_file

# without spaces, _ and -; where a table has several, the first here counts
KNOWN = {
    "path": (
        *("path", "filepath", "filepaths", "imagepath", "imgpath", "file", "filename", "fname", "image", "img"),
        *("imagefile", "imagename", "imgname", "imageid", "imgid", "imageindex", "picture", "idcode", "id"),
    ),
    "label": ("label", "class", "target", "category", "classname", "labelname", "diagnosis", "dx"),
    "labels": ("labels", "classes", "tags", "targets", "findinglabels"),
    "split": ("split", "set", "subset", "dataset", "partition", "phase", "fold", "isvalid", "isval", "isvalidation"),
    "group": (
        *("group", "groupid", "patient", "patientid", "subject", "subjectid", "participantid", "personid", "caseid"),
        *("lesionid", "studyid", "seriesid", "videoid"),
    ),
}
YES, NO = ("1", "1.0", "true", "yes"), ("", "0", "0.0", "false", "no")
LABEL_SEPARATOR = "|"  # of several in one cell
CLASS_PREFIX = "class:"  # of columns that hold 1 for the one class of a picture
_SPLITS: dict[str, Split] = {"": "train", **SPLIT_NAMES}
_IS_VALID: dict[str, Split] = {**dict.fromkeys(NO, "train"), **dict.fromkeys(YES, "val")}  # as fastai has it


@dataclass(frozen=True)
class Columns:
    """Places of the columns; the labels are in one of ``label`` and ``labels``, or in a column each."""

    path: int
    label: int | None = None
    labels: int | None = None
    yes_or_no: dict[str, int] = field(default_factory=dict)
    exclusive: bool = False  # one of these columns is the picture's class
    split: int | None = None
    splits: Mapping[str, Split] = field(default_factory=lambda: _SPLITS)  # what its values mean
    group: int | None = None
    width: int | None = None  # cells of the line that names the columns
    unused: tuple[str, ...] = ()

    @property
    def multilabel(self) -> bool:
        """Whether a picture may have several labels, or none."""
        return self.label is None and not self.exclusive


def find_columns(table: Path, first: list[str], rows: Sequence[list[str]]) -> Columns | None:
    """Return where the columns are if the first line of a table names them; None if it is already a picture.

    Args:
        table: for messages.
        first: cells of its first line.
        rows: cells of the others: whether a column such as ``fold`` means splits is up to its values.

    Raises:
        DataError: two labels have one name, or a name cannot be that of a label.
    """
    lowered = [re.sub(r"[\s_-]", "", cell.lower()) for cell in first]  # "Patient ID" is patientid
    known = {column: [lowered.index(name) for name in names if name in lowered] for column, names in KNOWN.items()}
    never_labels = {place for column in ("split", "group") for place in known[column]}
    known["split"] = [place for place in known["split"] if _means_splits(lowered[place], place, rows)]
    found = {column: places[0] for column, places in known.items() if places}
    if "path" not in found:
        return None
    splits = _IS_VALID if "split" in found and lowered[found["split"]].startswith("isval") else _SPLITS
    names = [unicodedata.normalize("NFC", cell) for cell in first]
    others = [place for place in range(len(first)) if place not in never_labels.union(found.values())]
    others = [place for place in others if not _is_index(names[place])]
    prefixed = [place for place in others if names[place].lower().startswith(CLASS_PREFIX)]
    label_columns: dict[str, int] = {}
    if "label" in found:
        found.pop("labels", None)
    elif "labels" not in found:
        label_columns = _label_columns(table, names, prefixed or others, len(CLASS_PREFIX) if prefixed else 0)
        if not label_columns:
            return None
    used = {*found.values(), *label_columns.values()}
    unused = tuple(cell for place, cell in enumerate(first) if place not in used and not _is_index(cell))
    exclusive = bool(label_columns and prefixed)
    return Columns(
        **found, yes_or_no=label_columns, exclusive=exclusive, splits=splits, width=len(first), unused=unused
    )


def columns_without_names(table: Path, first: list[str]) -> Columns:
    """Return where the columns are in a table that begins with a picture: path,label[,split].

    Raises:
        DataError: it does not.
    """
    if Path(first[0]).suffix.lower() not in PICTURE_SUFFIXES and not is_file(table.parent / first[0]):
        raise DataError(
            f"{table}: its first line, {','.join(first)!r}, neither begins with a picture nor names known columns: "
            "call them path and label, or path and labels if a picture has several, as in cat|dog"
        )
    unused = tuple(f"number {number}" for number in range(4, len(first) + 1))
    return Columns(0, label=1, split=2 if len(first) > 2 else None, unused=unused)


def _is_index(name: str) -> bool:
    """Whether a column is only the number of the line, as pandas writes it."""
    return not name or name.lower().startswith("unnamed:")


def _means_splits(name: str, place: int, rows: Sequence[list[str]]) -> bool:
    """Whether a column says train, val or test; ``fold`` may as well be a number, ``dataset`` where it is from."""
    if name == "split" or name.startswith("isval"):
        return True  # and another value is an error
    return any(place < len(row) and row[place].lower() in SPLIT_NAMES for row in rows)


def _label_columns(table: Path, names: Sequence[str], places: Sequence[int], skip: int) -> dict[str, int]:
    """Places of the labels' columns by the labels' names, which are those of the columns less the first ``skip``."""
    named = [(names[place][skip:].strip(), place) for place in places]
    counts = Counter(name for name, _ in named)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DataError(f"{table}: two columns are named {twice[0]!r}")
    if several := [name for name in counts if LABEL_SEPARATOR in name]:
        raise DataError(f"{table}: a column is named {several[0]!r}, but {LABEL_SEPARATOR} separates labels: rename it")
    return dict(named)
