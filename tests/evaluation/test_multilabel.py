"""Figures of pictures with any number of labels, against their definitions."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torch.nn import functional as F

from densekit.evaluation.calibration import calibration_error, confidence_bins, fit_temperature, fit_thresholds
from densekit.evaluation.evaluate import evaluate
from densekit.evaluation.multilabel import MultilabelMetrics, compute_multilabel_metrics, mean_average_precision
from densekit.evaluation.outcomes import Outcomes
from densekit.evaluation.plots import draw_labels
from densekit.evaluation.table import metrics_table
from densekit.loading import load_classifier

NAMES = ("cat", "dög", "$rare$", "all", "never")


def make_outcomes(pictures: int = 120) -> Outcomes:
    """Answers that are better than guessing; the fourth label is on every picture, the last on none."""
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(pictures, 5, generator=random) < torch.tensor([0.5, 0.3, 0.05, 1.0, 0.0])).float()
    logits = 2 * labels - 1.5 + torch.randn(pictures, 5, generator=random)
    return Outcomes(logits, labels, torch.arange(pictures))


@pytest.fixture(scope="module")
def outcomes():
    return make_outcomes()


@pytest.fixture(scope="module")
def metrics(outcomes):
    return compute_multilabel_metrics(outcomes, NAMES, split="test")


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean, over the pictures with the label, of the precision down to that picture's rank."""
    ranked = labels[np.argsort(-scores)]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return precision[ranked].mean()


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Share of pairs of a picture with the label and one without in which the first is ranked higher."""
    return (scores[labels][:, None] > scores[~labels][None]).mean()


def test_figures_of_a_label_are_their_definitions(outcomes, metrics):
    labels, scores = outcomes.labels.bool().numpy(), outcomes.logits.numpy()
    for place, row in enumerate(metrics.classes):
        has, score = labels[:, place], scores[:, place]
        assert (row.name, row.pictures) == (NAMES[place], has.sum())
        assert row.average_precision == (pytest.approx(average_precision(has, score)) if has.any() else None)
        assert row.auroc == (pytest.approx(auroc(has, score)) if has.any() and not has.all() else None)
        found = score > 0
        assert row.precision == pytest.approx(has[found].mean())
        assert row.recall == (pytest.approx(found[has].mean()) if has.any() else None)
        assert row.f1 == pytest.approx(reference.f1_score(has, found))


def test_overall_figures(outcomes, metrics):
    labels, found = outcomes.labels.bool().numpy(), (outcomes.logits > 0).numpy()
    precisions = [average_precision(labels[:, i], outcomes.logits[:, i].numpy()) for i in range(4)]
    assert metrics.mean_average_precision == pytest.approx(np.mean(precisions))
    assert mean_average_precision(outcomes) == metrics.mean_average_precision
    assert metrics.mean_auroc == pytest.approx(np.mean([row.auroc for row in metrics.classes[:3]]))
    assert metrics.macro_f1 == pytest.approx(reference.f1_score(labels[:, :4], found[:, :4], average="macro"))
    assert metrics.micro_f1 == pytest.approx(reference.f1_score(labels, found, average="micro"))
    assert metrics.accuracy == pytest.approx(reference.accuracy_score(labels, found))  # every label right
    low, high = metrics.accuracy_interval_95
    assert low < metrics.accuracy < high
    expected = reference.log_loss(labels.ravel(), outcomes.logits.double().sigmoid().numpy().ravel())
    assert metrics.loss == pytest.approx(expected)


def test_pictures_without_any_label():
    nothing = Outcomes(torch.tensor([[-1.0, -2.0], [1.0, -3.0]]), torch.zeros(2, 2), torch.arange(2))
    metrics = compute_multilabel_metrics(nothing, ("a", "b"), split="test")
    assert (metrics.mean_average_precision, metrics.mean_auroc, metrics.macro_f1) == (None, None, None)
    assert metrics.accuracy == 0.5
    assert [row.f1 for row in metrics.classes] == [0.0, None]
    assert "test mean average precision -, AUROC -" in str(metrics_table(metrics).caption)


def test_calibration_is_of_every_yes_and_no():
    logits = torch.tensor([[0.85, 0.05], [0.35, 0.55]]).logit()
    labels = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    bins = [b for b in confidence_bins(logits, labels, count=10) if b.pictures]
    # 0.85 sure and right, 0.95 and wrong, 0.65 and right, 0.55 and wrong
    assert sum(b.pictures for b in bins) == 4
    assert calibration_error(tuple(bins)) == pytest.approx((0.15 + 0.95 + 0.35 + 0.55) / 4)


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(truth):
    random = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(20_000, 4, generator=random)
    labels = (torch.rand(20_000, 4, generator=random) < (logits / truth).sigmoid()).float()
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(truth, rel=0.03)
    losses = [F.binary_cross_entropy_with_logits(logits / (found * by), labels) for by in (0.95, 1.0, 1.05)]
    assert losses[1] < min(losses[0], losses[2])


def test_right_on_all_of_few_pictures_is_not_certain():
    logits = torch.tensor([[4.0, -4.0]] * 5)
    found = fit_temperature(logits, (logits > 0).float())
    assert 0.5 < (4 / found) < 10


class TestThresholds:
    def test_no_other_answers_have_a_better_f1(self, outcomes):
        thresholds = fit_thresholds(outcomes.probabilities, outcomes.labels)
        labels, probabilities = outcomes.labels.bool().numpy(), outcomes.probabilities.numpy()
        for has, sure, chosen in zip(labels.T[:4], probabilities.T, thresholds, strict=False):
            reached = reference.f1_score(has, sure > chosen)
            assert reached == max(reference.f1_score(has, sure > other) for other in [0.0, *sure])

    def test_it_lies_in_the_middle_and_ties_are_not_torn_apart(self):
        probabilities = torch.tensor([[0.9, 0.9, 0.1], [0.6, 0.3, 0.2], [0.2, 0.3, 0.3], [0.1, 0.1, 0.4]])
        labels = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
        # of 0.9 alone F1 is 1/2 in the second column, of 0.9 and both of 0.3 2/3, of all 6/7
        assert fit_thresholds(probabilities, labels) == pytest.approx((0.4, 0.05, 0.05))

    def test_of_a_label_without_pictures_it_is_a_half(self):
        assert fit_thresholds(torch.tensor([[0.3], [0.7]]), torch.zeros(2, 1)) == (0.5,)

    @pytest.mark.parametrize(
        "logits",
        [[10.0, 9.999999, -3.0], [25.0, 16.0, -3.0], [-14.5, -18.0, -19.0], [0.0, -1e-7, -1.0], [-80.0, -85.0, -90.0]],
        ids=["neighbours", "certain", "rare", "half", "impossible"],
    )
    def test_answers_are_those_that_it_was_chosen_for(self, logits):
        """As probabilities lie in float32."""
        outcomes = Outcomes(torch.tensor(logits)[:, None], torch.tensor([[1.0], [0.0], [0.0]]), torch.arange(3))
        probabilities = outcomes.probabilities
        (threshold,) = fit_thresholds(probabilities, outcomes.labels)
        assert 0 < threshold < 1
        found = replace(outcomes, thresholds=(threshold,)).answers[:, 0]
        assert torch.equal(found, probabilities[:, 0] == probabilities.max())

    def test_between_neighbours_in_float32_there_is_nothing(self):
        """Their mean is rounded to the larger one, which would then not be answered."""
        half = torch.tensor(0.5)
        probabilities = torch.stack([half, torch.nextafter(half, torch.tensor(0.0))])[:, None]
        (threshold,) = fit_thresholds(probabilities, torch.tensor([[1.0], [0.0]]))
        assert (probabilities[:, 0] > torch.tensor(threshold)).tolist() == [True, False]

    def test_of_impossible_pictures_it_is_above_0(self):
        assert fit_thresholds(torch.zeros(2, 1), torch.ones(2, 1))[0] > 0

    def test_figures_are_those_of_the_answers(self, outcomes):
        thresholds = (0.3, 0.1, 0.02, 0.9, 0.5)
        metrics = compute_multilabel_metrics(replace(outcomes, thresholds=thresholds), NAMES, split="test")
        labels, found = outcomes.labels.bool().numpy(), outcomes.probabilities.numpy() > np.float32(thresholds)
        assert metrics.accuracy == pytest.approx(reference.accuracy_score(labels, found))
        assert metrics.micro_f1 == pytest.approx(reference.f1_score(labels, found, average="micro"))
        for place, row in enumerate(metrics.classes):
            assert row.threshold == thresholds[place]
            assert row.f1 == pytest.approx(reference.f1_score(labels[:, place], found[:, place]))
        plain = compute_multilabel_metrics(outcomes, NAMES, split="test")
        assert {row.threshold for row in plain.classes} == {0.5}
        titles = [[column.header for column in metrics_table(each).columns] for each in (metrics, plain)]
        assert [each.count("threshold") for each in titles] == [1, 0]  # a half need not be told
        assert metrics.mean_average_precision == plain.mean_average_precision
        assert metrics.loss == plain.loss


def test_a_run_is_tested(label_run):
    figures = json.loads((label_run / "metrics.json").read_text())
    assert figures["pictures"] == 40
    assert figures["mean_average_precision"] > 0.95
    assert figures["accuracy"] > 0.8
    assert [row["name"] for row in figures["classes"]] == ["deep blue", "grün", "red"]
    assert (label_run / "labels.png").stat().st_size > 5000
    assert not (label_run / "confusion.png").exists()


def test_several_labels_are_joined_in_predictions_csv(label_run):
    with (label_run / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    answers = load_classifier(label_run, device="cpu").predict([row["path"] for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        assert set(row["answer"].split("|")) - {""} == set(answer.labels)
        assert row["correct"] == str(int(set(row["label"].split("|")) == set(row["answer"].split("|"))))
        assert float(row[f"p({answer.top[0][0]})"]) == pytest.approx(answer.top[0][1], abs=2e-6)
    assert len(rows) == 40
    assert any("|" in row["label"] for row in rows)
    assert any(not row["label"] for row in rows)


def test_other_pictures_are_tested_with_a_table(label_run, halves, tmp_path):
    few = [line.rpartition(",")[0] for line in halves.read_text(encoding="utf-8").splitlines()[:9]]
    table = tmp_path / "few.csv"
    table.write_text("\n".join([few[0], *(f"{halves.parent}/{line}" for line in few[1:])]), encoding="utf-8")
    evaluation = evaluate(label_run, table, out=tmp_path / "figures", device="cpu")
    assert isinstance(evaluation.metrics, MultilabelMetrics)
    assert (evaluation.metrics.split, evaluation.metrics.pictures) == ("all", 8)
    assert evaluation.outcomes.labels.shape == (8, 3)


def test_any_number_of_labels_can_be_drawn(tmp_path):
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(90, 300, generator=random) < 0.2).float()
    outcomes = Outcomes(torch.randn(90, 300, generator=random), labels, torch.arange(90))
    names = tuple(f"Label number {i} of a rather long name" for i in range(300))
    draw_labels(tmp_path / "many.png", compute_multilabel_metrics(outcomes, names, split="val"))
    draw_labels(tmp_path / "odd.png", compute_multilabel_metrics(make_outcomes(), NAMES, split="all"))
    assert (tmp_path / "many.png").stat().st_size > 20_000
