"""Loaders: batches of tensors that depend on seed, epoch and step, and on nothing that happened before.

Every augmentation is seeded by the picture's turn in its epoch, so the number of loader processes changes
nothing, and resuming in the middle of an epoch needs no random state.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from densekit.data.batches import OrderedBatches, Place
from densekit.data.picture_set import PictureSet
from densekit.data.pictures import Skipped
from densekit.data.preprocessing import PictureTransform
from densekit.data.seeding import seeded
from densekit.errors import PictureError, SettingsError

Workers = int | Literal["auto"]
_QUICK_BYTES = 2**28  # of decoded pictures: a second's work


class Batch(NamedTuple):
    """Pictures of one step. Where none of them could be read, ``pictures`` is empty: skip the step."""

    pictures: Tensor  # float32 (N, C, H, W)
    labels: Tensor  # int64 (N,), or float32 (N, K) of pictures with any number of labels
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]  # int64 (N,): numbers in the picture set
    unreadable: list[Skipped]  # pictures that are missing from this batch


class PictureLoader(DataLoader[Any]):
    """A DataLoader of `Batch`; with ``strict`` an unreadable picture is an error.

    It is raised here and not in the loader process, whose errors arrive as tracebacks.
    """

    strict: bool = False

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        for batch in self._batches():
            if self.strict and batch.unreadable:
                # Stop the processes here: if the garbage collector finds them it waits 5 s for each, in vain.
                self._iterator = None
                raise PictureError(str(batch.unreadable[0]))
            yield batch

    def _batches(self) -> Iterator[Batch]:
        try:
            yield from super().__iter__()
        except ConnectionError as error:  # a process has ended while it handed over a picture
            time.sleep(1)  # in the meantime PyTorch takes notice and raises what it says then
            raise RuntimeError("DataLoader worker (pid unknown) has ended") from error

    def close(self) -> None:
        """End the processes, which wait for the next epoch for as long as anything, a traceback even, knows this."""
        self._iterator = None


class _Item(NamedTuple):
    pixels: Tensor | None
    label: Any  # int64, or float32 (K,)
    number: int
    unreadable: Skipped | None = None


class _Items(Dataset[_Item]):
    """What loader processes run: read and transform one picture."""

    def __init__(self, pictures: PictureSet, transform: PictureTransform, seed: int):
        self.pictures, self.transform, self.seed = pictures, transform, seed

    def __getitem__(self, place: Place) -> _Item:
        label = self.pictures.labels[place.number]
        try:
            picture = self.pictures.read(place.number)
            with seeded(self.seed, place.epoch, place.position):
                return _Item(self.transform(picture), label, place.number)
        except PictureError as error:  # of a file, as what is in memory has been read
            path = Path(str(self.pictures.pictures[place.number]))
            return _Item(None, label, place.number, Skipped.because(path, error))


def _collate(items: list[_Item]) -> Batch:
    good = [item for item in items if item.pixels is not None]
    pixels = [item.pixels for item in good if item.pixels is not None]
    return Batch(
        torch.stack(pixels) if pixels else torch.empty(0),
        torch.from_numpy(np.array([item.label for item in good])),
        torch.tensor([item.number for item in good], dtype=torch.int64),
        [item.unreadable for item in items if item.unreadable is not None],
    )


def _ignore_interruption(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the one that trains decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def make_loader(
    pictures: PictureSet,
    transform: PictureTransform,
    batches: Sampler[list[Place]],
    *,
    seed: int = 0,
    workers: Workers = "auto",
    strict: bool = False,
    pin_memory: bool = False,
) -> PictureLoader:
    """Load batches of pictures.

    Args:
        pictures: where they come from.
        transform: picture -> float32 (C, H, W), all of one shape; may draw from torch's CPU random numbers.
        batches: which ones, e.g. `EpochBatches`; call its ``set_epoch`` before each epoch.
        seed: base of the transform's random numbers.
        workers: loader processes; 0 loads in this process; "auto" fits them to the machine and the set.
        strict: raise PictureError at an unreadable picture, instead of naming it in ``Batch.unreadable``.
        pin_memory: use page-locked memory, for copies to a GPU.
    """
    count = worker_count(workers, pictures)
    loader = PictureLoader(
        _Items(pictures, transform, seed),
        batch_sampler=batches,
        num_workers=count,
        collate_fn=_collate,
        pin_memory=pin_memory,
        persistent_workers=count > 0,
        worker_init_fn=_ignore_interruption,
    )
    loader.strict = strict
    # its own, so that beginning an epoch again draws none of the random numbers that dropout draws
    loader.generator = torch.Generator()
    return loader


def evaluation_loader(
    pictures: PictureSet,
    transform: PictureTransform,
    batch_size: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    workers: Workers = "auto",
    strict: bool = False,
    pin_memory: bool = False,
) -> PictureLoader:
    """Load every picture exactly once, in order; process ``rank`` of ``world_size`` loads its share."""
    batches = OrderedBatches(len(pictures), batch_size, rank=rank, world_size=world_size)
    return make_loader(pictures, transform, batches, workers=workers, strict=strict, pin_memory=pin_memory)


def worker_count(workers: Workers, pictures: PictureSet) -> int:
    """Loader processes to start: ``workers`` itself, or for "auto" one less than there are cores, at most 8.

    "auto" is 0 for sets that are loaded before processes would have started.
    """
    if workers != "auto":
        if workers < 0:
            raise SettingsError(f"workers={workers}: use 0 or more, or auto")
        return workers
    if len(pictures) < 5000 and (pictures.in_memory or pictures.shapes.prod(axis=1).sum() < _QUICK_BYTES):
        return 0
    if pictures.in_memory and multiprocessing.get_start_method() != "fork":
        return 0  # each process would get a copy of all of them
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun: they share the machine
    return max(0, min(8, cores // processes - 1))
