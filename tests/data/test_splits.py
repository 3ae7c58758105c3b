"""Cuts of pictures with any number of labels; those of one class each are tested with the data sets."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from densekit.data.splits import assign_folds, limit_per_class, stratified_split


def several(pictures: int, shares: tuple[float, ...], seed: int = 0) -> np.ndarray:
    """Labels (N, K) that come together as they like; a picture may have none."""
    random = np.random.default_rng(seed)
    return (random.random((pictures, len(shares))) < shares).astype(np.float32)


CASES = {
    "balanced": (several(400, (0.5, 0.5, 0.5)), 0.2),
    "rare": (several(600, (0.6, 0.02, 0.1, 0.01)), 0.1),
    "mostly_none": (several(500, (0.03, 0.02)), 0.25),
    "always_together": (np.repeat(several(200, (0.3,)), 3, axis=1), 0.1),
    "one_label": (several(100, (0.4,)), 0.3),
}


@pytest.mark.parametrize(("labels", "fraction"), CASES.values(), ids=CASES)
def test_every_label_is_held_out_in_its_share(labels, fraction):
    stay, out = stratified_split(labels, fraction, seed=3)
    assert np.sort(np.concatenate([stay, out])).tolist() == list(range(len(labels)))
    for column in [*labels.T, ~labels.any(1)]:
        count, held = int(column.sum()), int(column[out].sum())
        if count > 1:
            assert 1 <= held < count
            # labels that come together cannot all be met; a random cut strays further, as the next test shows
            assert abs(held - fraction * count) <= max(2.0, 0.1 * fraction * count), (count, held)


def test_it_is_closer_than_a_random_cut():
    labels = several(1000, (0.5, 0.01, 0.02, 0.03, 0.3, 0.05))
    wanted = 0.1 * labels.sum(0)

    def strays(out):
        return np.abs(labels[out].sum(0) - wanted).sum()

    random = [strays(np.random.default_rng(seed).permutation(1000)[:100]) for seed in range(100)]
    assert max(strays(stratified_split(labels, 0.1, seed=seed)[1]) for seed in range(10)) < np.median(random) / 2


def test_the_rarest_label_comes_first_and_is_met():
    labels = several(1000, (0.5, 0.02, 0.4, 0.5))
    count = int(labels[:, 1].sum())
    for seed in range(10):
        assert labels[stratified_split(labels, 0.3, seed=seed)[1], 1].sum() == round(0.3 * count)


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.7, 0.9])
def test_no_label_loses_its_last_picture_to_others(fraction):
    for seed in range(200):
        labels = several(3 + seed % 6, (0.5,) * (2 + seed % 3), seed)
        stay, _ = stratified_split(labels, fraction, seed=seed)
        assert labels[stay].any(0).tolist() == labels.any(0).tolist()


def numbered(pictures: int, groups: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(groups, size=pictures)


GROUPED = {
    "one_class": (numbered(600, 3, 1), numbered(600, 90), 0.2),
    "several_labels": (several(600, (0.5, 0.1, 0.3)), numbered(600, 90), 0.2),
    "groups_of_one_class": (np.arange(400) // 100, np.arange(400) // 10, 0.1),
    "most_are_alone": (numbered(300, 2, 1), np.where(np.arange(300) < 250, np.arange(300), 250), 0.1),
}


@pytest.mark.parametrize(("labels", "groups", "fraction"), GROUPED.values(), ids=GROUPED)
def test_groups_stay_whole_and_classes_get_their_share(labels, groups, fraction):
    stay, out = stratified_split(labels, fraction, seed=0, groups=groups)
    assert np.sort(np.concatenate([stay, out])).tolist() == list(range(len(labels)))
    assert not set(groups[stay]) & set(groups[out])
    largest = np.bincount(groups).max()
    columns = labels if labels.ndim == 2 else np.eye(labels.max() + 1)[labels]
    for column in columns.T:
        assert abs(column[out].sum() - fraction * column.sum()) <= largest


def test_a_group_is_held_out_where_that_comes_closer():
    labels, groups = np.repeat([0, 1], 51), np.arange(102) // 3
    _, out = stratified_split(labels, 0.1, seed=0, groups=groups)
    assert np.bincount(labels[out]).tolist() == [6, 6]  # 5 are wanted


def test_where_all_groups_are_large_the_smallest_is_held_out():
    labels = np.repeat([0, 1], 30)
    groups = np.concatenate([np.repeat([0, 1, 2], [8, 9, 13]), np.repeat([3, 4, 5], [14, 7, 9])])
    _, out = stratified_split(labels, 0.1, seed=0, groups=groups)
    assert set(groups[out]) == {0, 4}


def test_a_class_of_one_group_is_learned_from():
    labels, groups = np.repeat([0, 1], 20), np.concatenate([np.zeros(20, np.int64), 1 + np.arange(20)])
    stay, out = stratified_split(labels, 0.2, seed=0, groups=groups)
    assert 0 not in groups[out]
    assert 0 in groups[stay]
    assert len(out) == 4


def test_seeds_and_nothing_to_hold_out():
    labels = several(200, (0.5, 0.1))
    first, again, other = (stratified_split(labels, 0.2, seed=seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert stratified_split(labels, 0.0, seed=0)[1].size == 0


def test_the_last_picture_of_a_label_stays():
    labels = np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 1, 2, 2]]
    stay, out = stratified_split(labels, 0.5, seed=0)
    assert labels[out].sum(0).tolist() == [2, 0, 1]
    assert labels[stay].any(0).all()


@pytest.mark.parametrize("limit", [1, 5, 50, 10_000])
def test_pictures_are_kept_until_each_label_has_its_limit(limit):
    labels = np.column_stack([several(300, (0.5, 0.05, 0.2)), np.ones(300, np.float32)])  # the last is on all
    kept = limit_per_class(labels, limit, seed=0)
    counts, there = labels[kept].sum(0), labels.sum(0)
    assert (counts >= np.minimum(there, limit)).all()
    assert len(kept) == 300 if limit == 10_000 else len(kept) <= 4 * limit
    left_out = np.setdiff1d(np.arange(300), kept)
    for picture in left_out:  # all of its labels had enough
        assert (counts[labels[picture] > 0] >= limit).all()


def test_pictures_without_labels_are_limited_too():
    labels = np.zeros((50, 2), np.float32)
    labels[:5] = 1
    assert len(limit_per_class(labels, 3, seed=0)) == 6


FOLDED = {
    "one_class_each": (np.repeat([0, 1, 2], [103, 40, 5]), None),
    "classes_of_seven": (np.repeat(np.arange(8), 7), None),
    "classes_smaller_than_folds": (np.repeat(np.arange(30), 4), None),
    "several_labels": (several(300, (0.5, 0.1, 0.3)), None),
    "groups": (numbered(600, 3, 1), numbered(600, 90)),
    "groups_of_many_sizes": (numbered(600, 3, 1), numbered(600, 30) ** 2 // 30),
}


@pytest.mark.parametrize("folds", [2, 5])
@pytest.mark.parametrize(("labels", "groups"), FOLDED.values(), ids=FOLDED)
def test_folds_are_equal_parts(labels, groups, folds):
    numbers = assign_folds(labels, folds, seed=1, groups=groups)
    sizes = np.bincount(numbers, minlength=folds + 1)
    assert sizes[0] == 0
    near = 1 if groups is None else 2 * np.bincount(groups).max()
    if labels.ndim == 2:
        near = 3  # labels that come together cannot all be met
    assert np.ptp(sizes[1:]) <= near
    held = labels[:, None] == np.unique(labels) if labels.ndim == 1 else labels > 0
    for column in held.T:
        apart = np.ptp(np.bincount(numbers[column], minlength=folds + 1)[1:])
        assert apart <= near
    if groups is not None:
        assert all(len(np.unique(numbers[groups == group])) == 1 for group in np.unique(groups))


def test_folds_are_as_equal_as_scikit_learns():
    labels = np.random.default_rng(0).integers(7, size=200) ** 2 // 7
    ours = assign_folds(labels, 5, seed=0)
    theirs = [labels[test] for _, test in StratifiedKFold(5).split(labels, labels)]
    for fold, other in enumerate(theirs, start=1):
        apart = np.bincount(labels[ours == fold], minlength=6) - np.bincount(other, minlength=6)
        assert np.abs(apart).max() <= 1


def test_folds_depend_on_the_seed():
    labels = np.repeat([0, 1], 20)
    assert assign_folds(labels, 4, seed=1).tolist() == assign_folds(labels, 4, seed=1).tolist()
    assert assign_folds(labels, 4, seed=1).tolist() != assign_folds(labels, 4, seed=2).tolist()
