"""Random numbers that depend on what they are for, not on what was drawn before."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch


def seed_from(*numbers: int) -> int:
    """Mix non-negative numbers, such as (seed, epoch, step), into one 63-bit seed.

    >>> seed_from(0, 1) == seed_from(0, 1)
    True
    >>> seed_from(0, 1) == seed_from(1, 0)
    False
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def kept_random_numbers(device: torch.device) -> AbstractContextManager[None]:
    """Put torch's random numbers, of the CPU and of the device, back to where they were behind the block."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed torch's CPU random numbers with ``numbers`` inside the block; put their state back behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_from(*numbers))  # torch.manual_seed would seed the GPUs too
        yield
