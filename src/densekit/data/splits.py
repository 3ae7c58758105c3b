"""Seeded cuts of a data set, the same whatever was drawn before."""

from collections.abc import Callable

import numpy as np

Count = Callable[[int], int]


def stratified_split(
    labels: np.ndarray, fraction: float, *, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out ``fraction`` of every class: at least one picture, but never a class's last.

    Args:
        labels: class of each picture, int64 (N,), or 1 for each label that it has and else 0, (N, K): then held out as
            closely as labels that come together allow.
        fraction: share to hold out, 0 <= fraction < 1; 0 holds out nothing.
        seed: the same seed and labels give the same split.
        groups: name of each picture's group, or None where it stands alone, (N,): groups stay whole, so that of large
            ones the share held out may be far from ``fraction``.

    Returns:
        The ascending indices that stay and those that are held out.

    >>> stay, out = stratified_split(np.array([0] * 10 + [1] * 5 + [2]), 0.2, seed=0)
    >>> np.array([0] * 10 + [1] * 5 + [2])[out].tolist()
    [0, 0, 1]
    """

    def held_out(count: int) -> int:
        return min(count - 1, max(1, round(fraction * count))) if fraction > 0 else 0

    if labels.ndim == 1 and groups is None:
        out = _some_of_each_class(labels, held_out, seed=seed)
    else:
        out = _some_of_each_label(labels, held_out, groups, seed=seed)
    return np.setdiff1d(np.arange(len(labels)), out), out


def assign_folds(labels: np.ndarray, folds: int, *, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Cut pictures into parts of equal size with equally many of each label, as far as they can be met together.

    Iterative stratification: the rarest of the labels left is dealt first, each of its groups, large ones before small
    ones, to the part that lacks most of it, and of those to the one that lacks most pictures.

    Args:
        labels: as of `stratified_split`.
        folds: how many parts, 2 and up.
        seed: the same seed and labels give the same parts.
        groups: as of `stratified_split`.

    Returns:
        The part that each picture is in, 1 and up, int64 (N,). Some are empty where there are fewer groups than parts.

    Source: Sechidis, Tsoumakas and Vlahavas, On the stratification of multi-label data, 2011.

    >>> np.bincount(assign_folds(np.array([0, 0, 0, 1, 1, 1]), 3, seed=0)).tolist()
    [0, 2, 2, 2]
    """
    sizes, group = _label_counts(labels, groups)
    pictures = np.bincount(group)
    lacking = np.tile(sizes.sum(0) / folds, (folds, 1))  # of each label, in each part
    lacking_pictures = np.full(folds, len(labels) / folds)
    part = np.zeros(len(sizes), np.int64)  # of each group, 0 while it is undecided
    while (part == 0).any():
        left = sizes[part == 0].sum(0)
        label = int(np.argmin(np.where(left > 0, left, len(labels) + 1)))
        members = np.random.default_rng([seed, label]).permutation(np.flatnonzero((part == 0) & (sizes[:, label] > 0)))
        for member in sorted(members.tolist(), key=lambda member: -pictures[member]):
            chosen = max(range(folds), key=lambda fold: (round(lacking[fold, label], 6), lacking_pictures[fold]))
            part[member] = chosen + 1
            lacking[chosen] -= sizes[member]
            lacking_pictures[chosen] -= pictures[member]
    return part[group]


def limit_per_class(labels: np.ndarray, limit: int, *, seed: int) -> np.ndarray:
    """Ascending indices of the first ``limit`` pictures of each class after a seeded shuffle.

    Pictures with several labels are kept while one of their labels has not so many yet; common ones get more.

    >>> limit_per_class(np.array([0, 0, 0, 1]), 1, seed=0).size
    2
    """
    if labels.ndim == 2:
        return _until_each_has(_with_none(labels), limit, seed)
    return _some_of_each_class(labels, lambda count: min(count, limit), seed=seed)


def _some_of_each_class(labels: np.ndarray, how_many: Count, *, seed: int) -> np.ndarray:
    chosen = [np.empty(0, np.int64)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        shuffled = np.random.default_rng([seed, int(label)]).permutation(members)
        chosen.append(shuffled[: how_many(len(members))])
    return np.sort(np.concatenate(chosen))


def _some_of_each_label(labels: np.ndarray, how_many: Count, groups: np.ndarray | None, *, seed: int) -> np.ndarray:
    """Choose groups of pictures with several labels, those with the rarest of the labels left first.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, On the stratification of multi-label data, 2011).
    """
    sizes, group = _label_counts(labels, groups)
    total = sizes.sum(0)
    wanted = np.array([how_many(count) if count else 0 for count in total.tolist()])
    taken, chosen = np.zeros_like(total), []
    undecided = np.ones(len(sizes), bool)

    def may_go(member: int) -> bool:  # the last picture of a label stays
        return bool((taken + sizes[member] < total)[sizes[member] > 0].all())

    def go(member: int) -> None:
        chosen.append(member)
        taken[:] += sizes[member]

    while undecided.any():
        left = sizes[undecided].sum(0)
        label = int(np.argmin(np.where(left > 0, left, len(labels) + 1)))
        members = np.flatnonzero(undecided & (sizes[:, label] > 0))
        shuffled = np.random.default_rng([seed, label]).permutation(members)
        for member in shuffled:
            if sizes[member, label] < 2 * (wanted[label] - taken[label]) and may_go(member):  # comes closer
                go(member)
        if wanted[label] and not taken[label]:  # all groups are larger than that
            for member in sorted(filter(may_go, shuffled), key=lambda member: sizes[member].sum())[:1]:
                go(member)
        undecided[members] = False
    return np.flatnonzero(np.isin(group, chosen))


def _label_counts(labels: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return how many pictures of each group have each label, int64 (G, L), and the group of each picture, (N,)."""
    has = labels[:, None] == np.unique(labels) if labels.ndim == 1 else _with_none(labels)  # (N, L)
    group = np.arange(len(labels)) if groups is None else number_groups(groups)
    sizes = np.zeros((group.max() + 1, has.shape[1]), np.int64)
    np.add.at(sizes, group, has)
    return sizes, group


def number_groups(groups: np.ndarray) -> np.ndarray:
    """Number groups by their names, int64 (N,); a picture of no group is one by itself."""
    keys = [(place, None) if name is None else (-1, name) for place, name in enumerate(groups)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)


def _until_each_has(has: np.ndarray, limit: int, seed: int) -> np.ndarray:
    counts, chosen = np.zeros(has.shape[1], np.int64), []
    for picture in np.random.default_rng(seed).permutation(len(has)):
        if (counts[has[picture]] < limit).any():
            chosen.append(picture)
            counts[has[picture]] += 1
    return np.sort(np.array(chosen, np.int64))


def _with_none(labels: np.ndarray) -> np.ndarray:
    """Return which picture has which label, bool (N, K + 1); the last column is that of pictures without any."""
    return np.column_stack([labels > 0, ~labels.any(1)])
