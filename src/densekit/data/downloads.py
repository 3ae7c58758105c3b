"""Named data sets: found on this machine, or downloaded once, with checksums."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from densekit.console import Screen
from densekit.data.archives import Arrays, read_cifar, read_mnist
from densekit.data.splits import stratified_split
from densekit.download import download
from densekit.errors import DataError, UnknownNameError

NAMED_SETS = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100")
SYSTEM_ROOT = Path("/usr/share/datasets")  # Debian's dataset packages


@dataclass(frozen=True)
class Source:
    """Files of a named set: their MD5 sums by name, and the addresses of the folders that hold them."""

    md5: Mapping[str, str]
    mirrors: Sequence[str]


def load_named(
    name: str,
    *,
    data_root: str | Path | None = None,
    system_root: Path = SYSTEM_ROOT,
    source: Source | None = None,
    screen: Screen | None = None,
) -> Arrays:
    """Load a named set as arrays.

    Files are looked for in ``data_root/name``, then in ``system_root/name``; missing ones are downloaded to
    the former.

    Args:
        name: digits, mnist, fashion-mnist, cifar10 or cifar100.
        data_root: folder of named sets; the platform's cache folder by default.
        system_root: folder of sets that the system's packages have installed.
        source: where to download from, instead of the set's publisher.
        screen: where progress goes.

    Raises:
        UnknownNameError: no such set.
        DataError: the files cannot be downloaded (the message says what to put where), or are damaged.
    """
    if name not in NAMED_SETS:
        raise UnknownNameError("data set", name, list(NAMED_SETS))
    screen = screen or Screen()
    if (folder := Path(name)).is_dir() and (data_root is None or folder.resolve().parent != Path(data_root).resolve()):
        screen.say(f"{name} means the published data set; the folder of this name is ./{name}")
    if name == "digits":
        return _load_digits()
    root = user_cache_path("densekit") if data_root is None else Path(data_root).expanduser()
    folders = [root / name, system_root / name]
    files = _find_or_download(name, source or published_source(name), folders, screen)
    if name in {"mnist", "fashion-mnist"}:
        return read_mnist(files, _mnist_classes(name))
    return read_cifar(*files.values())


def published_source(name: str) -> Source:
    """Where a named set is published, and the MD5 sums of its files."""
    if name in {"mnist", "fashion-mnist"}:
        from torchvision.datasets import MNIST, FashionMNIST

        table = MNIST if name == "mnist" else FashionMNIST
        return Source(dict(table.resources), table.mirrors)
    # The binary versions: unlike the better known ones they are no pickles, which could run code.
    files = {
        "cifar10": {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        "cifar100": {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
    }
    return Source(files[name], ["https://www.cs.toronto.edu/~kriz/"])


def _mnist_classes(name: str) -> tuple[str, ...]:
    from torchvision.datasets import FashionMNIST

    return tuple(FashionMNIST.classes) if name == "fashion-mnist" else tuple(map(str, range(10)))


def _find_or_download(name: str, source: Source, folders: list[Path], screen: Screen) -> dict[str, Path]:
    """Where each file of a set lies; missing ones are first downloaded into ``folders[0]``."""
    found: dict[str, Path] = {}
    for file in source.md5:
        unpacked = file if file.endswith(".tar.gz") else file.removesuffix(".gz")
        places = [folder / kind for folder in folders for kind in (file, unpacked)]
        if place := next((place for place in places if place.is_file()), None):
            found[file] = place
    missing = [file for file in source.md5 if file not in found]
    for file in missing:
        try:
            found[file] = _download(file, source, folders[0], screen)
        except OSError as error:
            raise DataError(
                f"cannot download {name} ({error}); put {', '.join(missing)} from {source.mirrors[0]} into {folders[0]}"
            ) from error
    return found


def _download(file: str, source: Source, folder: Path, screen: Screen) -> Path:
    """Download one file from the first mirror that has it whole; OSError says what went wrong at each."""
    failures = []
    for mirror in source.mirrors:
        url = f"{mirror.rstrip('/')}/{file}"
        try:
            download(url, folder / file, screen, checksum=f"md5:{source.md5[file]}")
            return folder / file
        except OSError as error:
            failures.append(f"{url}: {error}")
    raise OSError("; ".join(failures))


def _load_digits() -> Arrays:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, grey levels 0..16 scaled to 0..255.

    The same fifth is always for testing, as with the sets that are published so.
    """
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    pictures = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    labels = digits.target.astype(np.int64)
    train, test = stratified_split(labels, 0.2, seed=0)
    return Arrays(tuple(map(str, range(10))), pictures[train], labels[train], pictures[test], labels[test])
