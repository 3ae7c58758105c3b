"""Files from the net: whole and with the right checksum, or not at all."""

import hashlib
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from densekit.console import Bar, Screen
from densekit.files import write_atomically


def download(url: str, path: Path, screen: Screen, *, checksum: str | None = None) -> None:
    """Download one file.

    Args:
        url: what to download.
        path: where to put it; nothing is left there if something goes wrong.
        screen: where progress goes.
        checksum: as `check_file` takes it; None checks nothing.

    Raises:
        OSError: it cannot be downloaded, or is not what the checksum says.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "densekit"})

    def fetch(temporary: Path) -> None:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                size = answer.headers.get("Content-Length")
                with screen.bar(f"downloading {path.name}", int(size) if size else None, "bytes") as bar:
                    _copy(answer, temporary, bar)
        except HTTPException as error:
            raise OSError(f"the server did not send a valid answer ({error!r})") from None
        if size and temporary.stat().st_size != int(size):
            raise OSError(f"cut short: {temporary.stat().st_size} of {size} bytes came")
        if checksum is not None:
            check_file(temporary, checksum)

    write_atomically(path, fetch)


def check_file(path: Path, checksum: str) -> None:
    """Compare a file with a checksum.

    Args:
        path: the file.
        checksum: kind and value, or the beginning of the value, e.g. ``"sha256:a639ec97"``.

    Raises:
        OSError: they differ, or the file cannot be read.
    """
    kind, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    if not found.startswith(expected):
        raise OSError(f"wrong checksum {found}, expected {expected}")


def _copy(answer: BinaryIO, path: Path, bar: Bar) -> None:
    with path.open("wb") as out:
        while block := answer.read(1 << 18):
            out.write(block)
            bar.advance(len(block))
