"""Pictures that are the same, byte for byte, under whatever names."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from densekit.console import Screen

_TOGETHER = 256  # files that are hashed at a time
Pictures = Sequence[Path] | np.ndarray


def find_duplicates(one: Pictures, other: Pictures) -> list[tuple[int, int]]:
    """Return (place in ``one``, place in ``other``) of every picture of ``other`` that is in ``one`` too.

    Files are compared by their bytes, and only those of one length are read; a file that is gone is no double.
    """
    if not len(one):  # then no file of the other need be looked at
        return []
    lengths = {length for length, _ in _lengths(one)} & {length for length, _ in _lengths(other)}
    first: dict[bytes, int] = {}
    for place, digest in _digests(one, lengths):
        first.setdefault(digest, place)
    return [(first[digest], place) for place, digest in _digests(other, lengths) if digest in first]


def digest_files(paths: Sequence[Path], screen: Screen, title: str) -> list[str]:
    """Return a hash of the bytes of each file, "" of one that cannot be read; ``title`` stands before the bar."""
    digests: list[str] = []
    with ThreadPoolExecutor(8) as pool, screen.bar(title, len(paths)) as bar:
        for start in range(0, len(paths), _TOGETHER):  # the pool would keep a note of every file
            digests += pool.map(_digest, paths[start : start + _TOGETHER])
            bar.advance(len(digests) - start)
    return digests


def _digest(picture: Path) -> str:
    content = _content(picture)
    return "" if content is None else _hash(content).hex()


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _lengths(pictures: Pictures) -> Iterator[tuple[int, int]]:
    """Yield the length in bytes and the place of every picture."""
    if isinstance(pictures, np.ndarray):
        yield from ((pictures[0].nbytes, place) for place in range(len(pictures)))
        return
    for place, path in enumerate(pictures):
        try:
            yield path.stat().st_size, place
        except OSError:
            continue


def _digests(pictures: Pictures, lengths: set[int]) -> Iterator[tuple[int, bytes]]:
    """Yield place and digest of every picture of one of these lengths."""
    for length, place in _lengths(pictures):
        if length in lengths and (content := _content(pictures[place])) is not None:
            yield place, _hash(content)


def _content(picture: Path | np.ndarray) -> bytes | None:
    if isinstance(picture, np.ndarray):
        return picture.tobytes()
    try:
        return picture.read_bytes()
    except OSError:
        return None
