"""The interval of an accuracy, against SciPy's and a bootstrap over groups."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, bootstrap

from densekit.evaluation.evaluate import evaluate
from densekit.evaluation.intervals import accuracy_interval, effective_size
from densekit.evaluation.metrics import compute_metrics
from densekit.evaluation.outcomes import Outcomes
from densekit.evaluation.table import metrics_table


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (1, 2), (6, 6), (33, 40), (9912, 10000)])
def test_equals_scipys(correct, total):
    expected = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(accuracy_interval(correct / total, total), expected, rtol=1e-12, atol=1e-12)


class TestEffectiveSize:
    def test_is_the_number_of_pictures_where_each_stands_for_itself(self):
        correct = np.random.default_rng(0).random(50) < 0.7
        assert effective_size(correct, np.arange(50)) == pytest.approx(50)

    def test_is_the_number_of_groups_where_each_is_answered_alike(self):
        correct = np.random.default_rng(0).random(30) < 0.7
        assert effective_size(np.repeat(correct, 8), np.repeat(np.arange(30), 8)) == pytest.approx(30)

    @pytest.mark.parametrize("answer", [True, False])
    def test_is_the_number_of_groups_where_all_answers_are_alike(self, answer):
        assert effective_size(np.full(12, answer), np.repeat([0, 1, 5], 4)) == 3

    def test_is_never_more_than_the_pictures(self):
        assert effective_size(np.tile([True, False], 9), np.repeat(np.arange(9), 2)) == 18

    def test_gives_the_interval_of_a_bootstrap_over_groups(self):
        """Groups of different sizes and difficulty."""
        random = np.random.default_rng(0)
        sizes, ease = random.integers(2, 12, 200), random.beta(2, 1, 200)
        groups = np.repeat(np.arange(200), sizes)
        correct = random.random(len(groups)) < ease[groups]
        low, high = accuracy_interval(correct.mean(), effective_size(correct, groups))
        right = np.bincount(groups, weights=correct)

        def share(right, sizes, axis):
            return right.sum(axis) / sizes.sum(axis)

        found = bootstrap((right, sizes), share, paired=True, n_resamples=4000, rng=random).confidence_interval
        np.testing.assert_allclose((low, high), found, atol=0.004)
        narrow = accuracy_interval(correct.mean(), len(groups))
        assert high - low > 1.2 * (narrow[1] - narrow[0])


def test_metrics_count_groups():
    logits = torch.tensor([[2.0, 0.0]] * 4 + [[0.0, 2.0]] * 4)
    outcomes = Outcomes(logits, torch.zeros(8, dtype=torch.int64), torch.arange(8))
    found = compute_metrics(outcomes, ("a", "b"), split="test", groups=np.repeat([0, 3], 4))
    assert found.groups == 2
    assert found.accuracy_interval_95 == accuracy_interval(0.5, 2)
    alone = compute_metrics(outcomes, ("a", "b"), split="test")
    assert alone.groups is None
    assert alone.accuracy_interval_95 == accuracy_interval(0.5, 8)


def test_pictures_of_a_patient_count_for_what_they_tell_together(colour_run, colours, tmp_path):
    lines = [f"{path},{path.parent.name},{path.parent.name}" for path in sorted((colours / "test").rglob("*.png"))]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,patient", *lines]), encoding="utf-8")
    found = evaluate(colour_run, tmp_path / "t.csv", out=tmp_path / "out").metrics
    assert (found.pictures, found.groups, found.accuracy) == (25, 3, 24 / 25)
    right = np.repeat([True, False], [24, 1])
    groups = np.repeat([0, 1, 2], [8, 8, 9])  # the wrong answer is about a picture of the largest
    assert found.accuracy_interval_95 == pytest.approx(accuracy_interval(24 / 25, effective_size(right, groups)))
    assert str(metrics_table(found).caption).endswith("25 pictures of 3 groups")
    written = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert written["groups"] == 3
