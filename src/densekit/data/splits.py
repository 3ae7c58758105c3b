"""Seeded cuts of a data set, the same whatever was drawn before."""

import numpy as np


def stratified_split(labels: np.ndarray, fraction: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out ``fraction`` of every class: at least one picture, but never a class's last.

    Args:
        labels: class of each picture, int64 (N,).
        fraction: share to hold out, 0 <= fraction < 1; 0 holds out nothing.
        seed: the same seed and labels give the same split.

    Returns:
        The ascending indices that stay and those that are held out.

    >>> stay, out = stratified_split(np.array([0] * 10 + [1] * 5 + [2]), 0.2, seed=0)
    >>> np.array([0] * 10 + [1] * 5 + [2])[out].tolist()
    [0, 0, 1]
    """

    def held_out(count: int) -> int:
        return min(count - 1, max(1, round(fraction * count))) if fraction > 0 else 0

    out = _first_of_each_class(labels, held_out, seed=seed)
    return np.setdiff1d(np.arange(len(labels)), out), out


def limit_per_class(labels: np.ndarray, limit: int, *, seed: int) -> np.ndarray:
    """Ascending indices of the first ``limit`` pictures of each class after a seeded shuffle.

    >>> limit_per_class(np.array([0, 0, 0, 1]), 1, seed=0).size
    2
    """
    return _first_of_each_class(labels, lambda count: min(count, limit), seed=seed)


def _first_of_each_class(labels: np.ndarray, how_many, *, seed: int) -> np.ndarray:
    chosen = [np.empty(0, np.int64)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        shuffled = np.random.default_rng([seed, int(label)]).permutation(members)
        chosen.append(shuffled[: how_many(len(members))])
    return np.sort(np.concatenate(chosen))
