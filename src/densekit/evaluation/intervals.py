"""How far an accuracy can be trusted: its 95 % interval, also where pictures belong together."""

import math

import numpy as np


def accuracy_interval(share: float, total: float) -> tuple[float, float]:
    """95 % interval of an accuracy (Wilson, Probable inference, the law of succession, ..., 1927).

    A bootstrap would say "exactly 100 %" of six right answers in six; this does not.

    Args:
        share: of the pictures that are answered correctly.
        total: how many independent pictures there are, see `effective_size`.

    >>> low, high = accuracy_interval(1.0, 6)
    >>> round(low, 2), round(high, 2)
    (0.61, 1.0)
    """
    z = 1.959963984540054  # of the normal distribution, two-sided 5 %
    shrink = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / shrink
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / shrink
    return max(0.0, middle - half), min(1.0, middle + half)


def effective_size(correct: np.ndarray, groups: np.ndarray) -> float:
    """How many independent pictures say as much about an accuracy as these, of which some belong together.

    It is their number over the design effect (Kish, Survey Sampling, 1965), with the variance of a ratio over groups:
    as many as there are groups where all of a group are answered alike, and all pictures where groups do not matter.

    Args:
        correct: whether each picture is answered correctly, bool (N,).
        groups: number of each picture's group, int64 (N,), 0 and up.

    >>> effective_size(np.array([1, 1, 1, 0, 0, 0], bool), np.array([0, 0, 0, 1, 1, 1]))
    2.0
    """
    count, share = len(correct), float(correct.mean())
    if share in {0.0, 1.0}:  # nothing varies to estimate a variance from
        return float(len(np.unique(groups)))
    sums = np.bincount(groups, weights=correct - share)
    return min(float(count), count**2 * share * (1 - share) / max(float(np.square(sums).sum()), 1e-9))
