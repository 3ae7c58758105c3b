"""Readers of the formats of the named data sets: idx (MNIST) and CIFAR's binary records."""

import gzip
import math
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from densekit.errors import DataError


class Arrays(NamedTuple):
    """A data set as it was published."""

    classes: tuple[str, ...]
    train_pictures: np.ndarray  # uint8 (N, H, W) or (N, H, W, 3)
    train_labels: np.ndarray  # int64 (N,)
    test_pictures: np.ndarray
    test_labels: np.ndarray


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of bytes, gzipped or not: uint8 of the shape that its header tells.

    Raises:
        DataError: it is no such file, or is cut short.
    """
    with _damage_is_data_error(path):
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        if len(raw) < 4 or raw[:3] != b"\0\0\x08":  # two zeros, 8 for unsigned bytes, number of axes
            raise DataError(f"{path}: not an idx file of bytes (it begins with {raw[:4].hex()}, not 000008)")
        shape = np.frombuffer(raw, ">u4", raw[3], 4).tolist()
        values = np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape))
        if values.size != math.prod(shape):
            raise DataError(f"{path}: {values.size} bytes of data where its header {shape} means {math.prod(shape)}")
        return values.reshape(shape)


def read_mnist(files: dict[str, Path], classes: tuple[str, ...]) -> Arrays:
    """Read the four files of MNIST or a set shaped like it; DataError where they do not fit together."""
    arrays = [
        read_idx(files[f"{part}-{kind}-ubyte.gz"])
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    result = Arrays(classes, arrays[0], arrays[1].astype(np.int64), arrays[2], arrays[3].astype(np.int64))
    where = files["train-images-idx3-ubyte.gz"].parent
    _check(where, result.classes, result.train_pictures, result.train_labels)
    _check(where, result.classes, result.test_pictures, result.test_labels)
    return result


def read_cifar(archive: Path) -> Arrays:
    """Read the binary version of CIFAR-10 or CIFAR-100 (fine labels) out of its archive.

    A record is one label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100), then the 3,072 bytes of a
    picture of 3x32x32.
    """
    with _damage_is_data_error(archive), tarfile.open(archive) as tar:
        files = {
            member.name.rpartition("/")[2]: handle.read()
            for member in tar
            if member.name.endswith((".bin", ".txt")) and (handle := tar.extractfile(member)) is not None
        }
        names = {name: raw.decode().split() for name, raw in files.items() if name.endswith(".txt")}
    meta, label_bytes = ("fine_label_names.txt", 2) if "fine_label_names.txt" in files else ("batches.meta.txt", 1)
    train = b"".join(files[name] for name in sorted(files) if name.endswith(".bin") and "test" not in name)
    test = b"".join(files[name] for name in sorted(files) if name.endswith(".bin") and "test" in name)
    if meta not in files or not train or not test:
        raise DataError(
            f"{archive}: not the binary version of CIFAR (it holds {', '.join(sorted(files)) or 'nothing'})"
        )
    classes = tuple(names[meta])
    result = Arrays(classes, *_records(archive, train, label_bytes), *_records(archive, test, label_bytes))
    _check(archive, classes, result.train_pictures, result.train_labels)
    _check(archive, classes, result.test_pictures, result.test_labels)
    return result


def _records(archive: Path, raw: bytes, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    size = label_bytes + 3072
    if len(raw) % size:
        raise DataError(f"{archive}: {len(raw)} bytes of records are not a multiple of {size}")
    records = np.frombuffer(raw, np.uint8).reshape(-1, size)
    pictures = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
    return np.ascontiguousarray(pictures), records[:, label_bytes - 1].astype(np.int64)


def _check(where: Path, classes: tuple[str, ...], pictures: np.ndarray, labels: np.ndarray) -> None:
    if pictures.ndim not in {3, 4} or labels.shape != (len(pictures),) or not labels.size:
        raise DataError(f"{where}: pictures {pictures.shape} and labels {labels.shape} do not fit together")
    if labels.max() >= len(classes):
        raise DataError(f"{where}: label {labels.max()} where there are {len(classes)} classes")


@contextmanager
def _damage_is_data_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: damaged or unreadable ({error}); delete it to download it again") from error
