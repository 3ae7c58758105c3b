"""Where the pictures of a table are: at their paths, or elsewhere below it by their names."""

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

from densekit.console import Screen
from densekit.data.folders import files_below
from densekit.data.pictures import PICTURE_SUFFIXES
from densekit.errors import DataError
from densekit.files import is_dir, is_file
from densekit.units import counted, some

_THREADS = 8  # that ask whether files exist: on a network disk each answer takes its time


def locate_pictures(table: Path, paths: Sequence[Path], screen: Screen) -> list[Path]:
    """Return where the pictures of a table are; those that are nowhere stay as they are written.

    What is not there is looked up among all pictures below the table's folder, by its name, or if that has no
    picture's suffix by its stem. Of several, the one counts whose folders agree best. A file with a suffix that is
    missing from a folder that is there is missing, and nothing is looked through for it.

    Raises:
        DataError: two files have the name, and the folders do not tell which is meant.
    """
    root = table.parent
    paths = [_with_slashes(path, root) for path in paths]
    lost = [path for path in _missing(paths) if _may_be_elsewhere(path, root)]
    if not lost:
        return paths
    by_name: dict[str, list[Path]] = defaultdict(list)
    with screen.bar("looking for the pictures of the table", None, "files") as bar:
        for file in files_below(root):
            bar.advance()
            if file.suffix.lower() in PICTURE_SUFFIXES:
                by_name[file.name].append(file)
                by_name[file.stem].append(file)
    found = {path: file for path in lost if (file := _best(table, path, by_name.get(path.name, [])))}
    if found:
        folders = dict.fromkeys(str(file.parent) for file in found.values())
        which = counted(len(found), "picture is", "pictures are")
        screen.say(f"{which} not at the path in the table: found by name in {some(folders)}")
    return [found.get(path, path) for path in paths]


def _with_slashes(path: Path, root: Path) -> Path:
    """Return a path that Windows has written as it is written here; a name here may hold a backslash, though."""
    if os.sep == "\\" or "\\" not in str(path) or is_file(path):
        return path
    return root / path.relative_to(root).as_posix().replace("\\", "/") if path.is_relative_to(root) else path


def _missing(paths: Sequence[Path]) -> list[Path]:
    """Those paths at which there is no file, each once."""
    parts = [paths[start::_THREADS] for start in range(_THREADS)]
    with ThreadPoolExecutor(_THREADS) as pool:
        missing = pool.map(lambda part: [path for path in part if not is_file(path)], parts)
    return list(dict.fromkeys(path for part in missing for path in part))


def _may_be_elsewhere(path: Path, root: Path) -> bool:
    return path.suffix.lower() not in PICTURE_SUFFIXES or path.parent == root or not is_dir(path.parent)


def _best(table: Path, path: Path, files: Sequence[Path]) -> Path | None:
    """Return the file that is meant by a path at which there is none; None where that is nowhere."""
    if path.parent != table.parent and is_dir(path.parent):
        files = [file for file in files if file.parent == path.parent]

    def agreeing(file: Path) -> int:
        pairs = zip(reversed(path.parent.parts), reversed(file.parent.parts), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    if len(files) > 1:
        most = max(map(agreeing, files))
        files = [file for file in files if agreeing(file) == most]
        if len({os.path.realpath(file) for file in files}) > 1:
            raise DataError(
                f"{table}: {path.name} may be {files[0]} or {files[1]}: write its folder too, or put the table beside "
                "the right ones"
            )
    return files[0] if files else None
