"""The picture files that somebody names: files, folders and patterns."""

import glob
import os
from collections.abc import Iterable
from io import IOBase
from pathlib import Path
from typing import Any

from densekit.data.folders import files_below
from densekit.data.pictures import PICTURE_SUFFIXES
from densekit.errors import DataError
from densekit.files import is_dir, is_file


def find_pictures(sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the picture files that files, folders and patterns name, one or several, in order and each once.

    A file named by itself is taken whatever its name; folders and patterns give files with a picture's suffix.

    Raises:
        DataError: nothing matches a folder or pattern.
        TypeError: what is no name of a file.
    """
    found: dict[Path, None] = {}
    for source in _each(sources):
        if not isinstance(source, str | os.PathLike):
            raise TypeError(f"{type(source).__name__} is not a file name; predict_images, embed_images take pictures")
        if "://" in str(source):
            raise DataError(f"{source}: addresses are not downloaded: download the picture, and name the file")
        if not str(source):
            raise DataError("a picture or folder with an empty name: no pictures found")
        path = Path(source).expanduser()
        if is_dir(path):
            matches = [file for file in files_below(path) if _is_picture(file)]
        elif is_file(path) or not glob.has_magic(str(source)):
            matches = [path]  # if it does not exist, its prediction says so
        else:
            matched = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute patterns)
            matches = sorted(filter(_is_picture, map(Path, matched)))
        if not matches:
            raise DataError(f"{source}: no pictures found")
        found.update(dict.fromkeys(matches))
    return list(found)


def _each(sources: Any) -> Iterable[Any]:
    """Return the sources; what is one by itself, or is none at all, as the only one."""
    several = isinstance(sources, Iterable) and not isinstance(sources, str | bytes | os.PathLike | IOBase)
    return sources if several else [sources]


def _is_picture(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
