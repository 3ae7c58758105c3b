"""Which pictures make up which batch: decided by seed and epoch alone."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from densekit.data.seeding import seed_from
from densekit.errors import SettingsError


class Place(NamedTuple):
    """One picture's turn in an epoch; its augmentation is seeded by it."""

    epoch: int
    position: int  # in the order of the epoch
    number: int  # in the picture set


class EpochBatches(Sampler[list[Place]]):
    """Batches of one epoch: a permutation that depends only on ``seed`` and ``epoch``.

    Each step takes the next ``batch_size * world_size`` pictures and deals them to the processes in
    turn: all have equally many, and a step sees the same pictures on one GPU or on four. Pictures that cannot
    be dealt evenly at the end of an epoch are left out of it, as is a last batch of one picture (batch norm
    cannot train on it).

    Args:
        length: number of pictures.
        batch_size: pictures a step and process.
        seed: base of all random numbers.
        epoch: which epoch; see `set_epoch`.
        rank: number of this process, and
        world_size: number of all.
        start_step: first step to give out, to resume in the middle of an epoch.
        weights: chance of each picture (N,), not negative; pictures are then drawn with replacement.
        drop_last: leave out a last batch that is not full.

    Raises:
        SettingsError: numbers that cannot make a batch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        weights: np.ndarray | Tensor | None = None,
        drop_last: bool = False,
    ):
        _check_share(length, batch_size, rank, world_size)
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.weights = None if weights is None else np.asarray(weights, np.float64)
        if self.weights is not None and (
            self.weights.shape != (length,) or self.weights.min() < 0 or self.weights.sum() <= 0
        ):
            raise SettingsError(f"weights {self.weights.shape}: give {length} numbers of 0 or more, not all 0")
        full, rest = divmod(length, batch_size * world_size)
        rest //= world_size  # pictures of the last step for each process
        self.steps = full + (rest > 0 and not drop_last and (rest > 1 or full == 0))
        if self.steps == 0:
            raise SettingsError(
                f"{length} pictures make no batch of {batch_size} for {world_size} processes; "
                "use a smaller batch or more pictures"
            )
        self.set_epoch(epoch, start_step)

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Go to an epoch (and a step in it); loader processes that are already running stay."""
        if epoch < 0 or not 0 <= start_step <= self.steps:
            raise SettingsError(f"epoch {epoch}, step {start_step}: an epoch has the steps 0 to {self.steps}")
        self.epoch, self.start_step = epoch, start_step

    def order(self) -> np.ndarray:
        """Picture numbers in the order of this epoch, int64 (length,)."""
        random = np.random.default_rng(seed_from(self.seed, self.epoch))
        if self.weights is None:
            return random.permutation(self.length)
        return random.choice(self.length, self.length, p=self.weights / self.weights.sum())

    def __len__(self) -> int:
        return self.steps - self.start_step

    def __iter__(self) -> Iterator[list[Place]]:
        order, epoch = self.order(), self.epoch
        size = self.batch_size * self.world_size
        for step in range(self.start_step, self.steps):
            end = min((step + 1) * size, self.length // self.world_size * self.world_size)
            yield [Place(epoch, i, int(order[i])) for i in range(step * size + self.rank, end, self.world_size)]


class OrderedBatches(Sampler[list[Place]]):
    """Every picture once, in order; process ``rank`` of ``world_size`` takes every ``world_size``-th."""

    def __init__(self, length: int, batch_size: int, *, rank: int = 0, world_size: int = 1):
        _check_share(length, batch_size, rank, world_size)
        self.mine = range(rank, length, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.mine) / self.batch_size)

    def __iter__(self) -> Iterator[list[Place]]:
        for start in range(0, len(self.mine), self.batch_size):
            yield [Place(0, i, i) for i in self.mine[start : start + self.batch_size]]


def class_weights(labels: np.ndarray, num_classes: int) -> Tensor:
    """Weight of each class in a loss, inverse to its count, 1 on the average picture: float32 (num_classes,).

    The rule "balanced" of scikit-learn; a class without pictures weighs 0. Of pictures with any number of labels,
    (N, K), it is the weight of a label's pictures against all others: how many more of those there are, or 1 where
    there are none.

    >>> class_weights(np.array([0, 0, 0, 1]), 2)
    tensor([0.6667, 2.0000])
    """
    if labels.ndim == 2:
        with_label = labels.sum(0)
        others = len(labels) - with_label
        return torch.tensor(np.where(others, others / np.maximum(with_label, 1), 1), dtype=torch.float32)
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (num_classes * np.maximum(counts, 1)) * (counts > 0)
    return torch.tensor(weights, dtype=torch.float32)


def sampling_weights(labels: np.ndarray) -> np.ndarray:
    """Chance of each picture that makes all classes equally frequent, float64 (N,), summing to 1.

    >>> sampling_weights(np.array([0, 0, 1])).tolist()
    [0.25, 0.25, 0.5]
    """
    counts = np.bincount(labels)
    return 1 / (np.count_nonzero(counts) * counts[labels])


def _check_share(length: int, batch_size: int, rank: int, world_size: int) -> None:
    if length < 0 or batch_size < 1 or not 0 <= rank < world_size:
        raise SettingsError(
            f"length {length}, batch size {batch_size}, process {rank} of {world_size}: "
            "use a batch size of at least 1 and a process number below the number of processes"
        )
