"""The picture files that somebody names: files, folders and patterns."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from densekit.data.folders import files_below
from densekit.data.pictures import PICTURE_SUFFIXES
from densekit.errors import DataError


def find_pictures(sources: Iterable[str | Path]) -> list[Path]:
    """Return the picture files that files, folders and patterns name, in order and each once.

    A file named by itself is taken whatever its name; folders and patterns give files with a picture's suffix.

    Raises:
        DataError: nothing matches a folder or pattern.
    """
    found: dict[Path, None] = {}
    for source in sources:
        if not isinstance(source, str | os.PathLike):
            raise TypeError(f"{type(source).__name__} is no name of a file; predict_images takes pictures in memory")
        if not str(source):
            raise DataError("a picture or folder with an empty name: no pictures found")
        path = Path(source).expanduser()
        if path.is_dir():
            matches = [file for file in files_below(path) if _is_picture(file)]
        elif path.exists() or not glob.has_magic(str(source)):
            matches = [path]  # if it does not exist, its prediction says so
        else:
            matched = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute patterns)
            matches = sorted(filter(_is_picture, map(Path, matched)))
        if not matches:
            raise DataError(f"{source}: no pictures found")
        found.update(dict.fromkeys(matches))
    return list(found)


def _is_picture(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
