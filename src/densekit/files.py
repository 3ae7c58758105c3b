"""Files: written whole or not at all, and never over what is there."""

import csv
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densekit.errors import SettingsError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there in one step.

    A reader, or a run that is killed, sees the old file or the new one, never half of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as written:  # Windows flushes only what may be written
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files private; these are meant to be shared
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically; a tensor under two names, which the format does not have, is written twice.

    Raises:
        OSError: it cannot be written, e.g. because the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    seen: set[int] = set()
    own = {}
    for key, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        own[key] = tensor.clone() if place in seen else tensor
        seen.add(place)
    try:
        write_atomically(path, lambda temporary: save_file(own, temporary, metadata=metadata))
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from None


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure of matplotlib atomically, in the format of the path's suffix."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a script that the font lacks is drawn as boxes
        write_atomically(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:].lower()))


def check_writable(folder: Path) -> None:
    """Make a folder for results; where nothing can be written there, raise SettingsError now and not after the work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingsError(f"cannot write into {folder} ({error.strerror}): choose another --out") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8, but for names of files that are none) atomically."""
    # what file systems take for a name, but is no UTF-8, Python reads and writes in this way
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented for people."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def is_file(path: Path) -> bool:
    """Whether there is a file, and not what `Path.is_file` does where the name is too long to be one: raise."""
    return os.path.isfile(path)  # noqa: PTH113


def is_dir(path: Path) -> bool:
    """Whether there is a folder; likewise."""
    return os.path.isdir(path)  # noqa: PTH112 (as is_file)


def free_path(path: Path) -> Path:
    """Return ``path``, or, where that exists, the first of path-2, path-3, ... that does not."""
    names = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return path if not path.exists() else next(name for name in names if not name.exists())


def refuse_used(out: str | Path | None, *, resumable: bool = False) -> None:
    """Raise SettingsError if there is something already where results shall go; None names no place.

    Args:
        out: the folder.
        resumable: the message also offers to go on with what is there.
    """
    if out is None:
        return
    folder = Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        begun = any((folder / name).exists() for name in ("settings.yaml", "study.yaml"))
        hint = ", or go on with --resume" if resumable and begun else ""
        raise SettingsError(f"{folder} exists already: choose another --out{hint}")


def new_folder(out: str | Path | None, default: Path, *, resumable: bool = False) -> Path:
    """Return a folder for results that is new or empty; it is not made yet.

    Args:
        out: where somebody wants it.
        default: taken where ``out`` is None, numbered if it exists.
        resumable: as `refuse_used` takes it.

    Raises:
        SettingsError: there is something in ``out`` already.
    """
    refuse_used(out, resumable=resumable)
    return free_path(default) if out is None else Path(out).expanduser()


def whole_path(name: str) -> str:
    """Return the whole path of a file or folder, or ``name`` as it is where there is none."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from the work in a folder while this one is at it.

    Raises:
        SettingsError: another process is at it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise SettingsError(f"another process is using {folder}: wait for it, or choose another --out") from None
    try:
        yield
    finally:
        lock.release()


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
