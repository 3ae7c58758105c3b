import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from densekit.evaluation.calibration import calibration_error, confidence_bins, fit_temperature
from densekit.evaluation.evaluate import evaluate
from densekit.loading import load_classifier


def logits_of(probabilities: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def sampled(temperature: float, pictures: int = 20_000, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from their softmax at a temperature."""
    random = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(pictures, classes, generator=random)
    return logits, torch.multinomial((logits / temperature).softmax(1), 1, generator=random)[:, 0]


class TestCalibrationError:
    def test_by_hand(self):
        # 5 bins; confidences .9 and .95 (one of two right), .7 (right), .6 exactly on an edge (wrong)
        logits = logits_of([[0.9, 0.1], [0.05, 0.95], [0.7, 0.3], [0.6, 0.4]])
        bins = confidence_bins(logits, torch.tensor([0, 0, 0, 1]), count=5)
        assert [b.pictures for b in bins] == [0, 0, 1, 1, 2]
        assert (bins[0].accuracy, bins[0].confidence) == (None, None)
        assert [b.accuracy for b in bins[2:]] == [0.0, 1.0, 0.5]
        assert [b.confidence for b in bins[2:]] == pytest.approx([0.6, 0.7, 0.925])
        assert calibration_error(bins) == pytest.approx((0.6 + 0.3 + 2 * 0.425) / 4)

    @pytest.mark.parametrize(("classes", "count"), [(2, 15), (10, 15), (10, 4)])
    def test_equals_the_definition(self, classes, count):
        logits, labels = sampled(2.0, pictures=500, classes=classes)
        probabilities = torch.softmax(logits.double(), 1).numpy()
        confidence, right = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
        expected = 0.0
        for i in range(count):
            inside = (confidence > i / count) & (confidence <= (i + 1) / count)
            if inside.any():
                expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        assert calibration_error(confidence_bins(logits, labels, count=count)) == pytest.approx(expected, abs=1e-12)

    def test_certainty_belongs_to_the_last_bin(self):
        bins = confidence_bins(torch.tensor([[1000.0, 0.0]]), torch.tensor([0]))
        assert (bins[-1].pictures, calibration_error(bins)) == (1, 0.0)


class TestTemperature:
    @pytest.mark.parametrize("truth", [0.5, 1.0, 2.5])
    def test_finds_the_temperature_that_made_the_labels(self, truth):
        logits, labels = sampled(truth)
        found = fit_temperature(logits, labels)
        assert found == pytest.approx(truth, rel=0.03)
        assert calibration_error(confidence_bins(logits / found, labels)) < 0.01

    @pytest.mark.parametrize("pictures", [6, 50, 2000])
    def test_is_the_minimum_of_the_loss(self, pictures):
        logits, labels = sampled(1.7, pictures=pictures)

        def loss(log_temperature: float) -> float:
            scaled = logits.double() / math.exp(log_temperature)
            return F.cross_entropy(scaled, labels, label_smoothing=1 / (pictures + 2)).item()

        expected = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
        assert math.log(fit_temperature(logits, labels)) == pytest.approx(expected.x, abs=1e-5)

    @pytest.mark.parametrize("pictures", [5, 20, 1000])
    def test_right_on_all_of_few_pictures_is_not_certain(self, pictures):
        logits = 3 * F.one_hot(torch.arange(pictures) % 4).float()
        probability = (logits / fit_temperature(logits, torch.arange(pictures) % 4)).softmax(1).max(1).values
        # Laplace's rule of succession, with the class that is not known spread over all four
        expected = 1 - 3 / 4 / (pictures + 2)
        np.testing.assert_allclose(probability, expected, rtol=1e-5)

    def test_network_that_only_guesses_stays_within_bounds(self):
        logits, labels = sampled(1.0, pictures=300)
        assert fit_temperature(-logits, labels) == pytest.approx(20)


def test_training_stores_the_temperature_of_the_validation_pictures(colour_run, tmp_path):
    classifier = load_classifier(colour_run, device="cpu")
    outcomes = evaluate(colour_run, split="val", out=tmp_path, device="cpu").outcomes
    fitted = fit_temperature(outcomes.logits * classifier.temperature, outcomes.labels)
    assert classifier.temperature == pytest.approx(fitted, rel=1e-3)
    assert abs(math.log(fitted)) > 0.01  # else nothing is shown


def test_evaluation_and_prediction_have_the_same_probabilities(colour_run, tmp_path):
    evaluation = evaluate(colour_run, out=tmp_path, device="cpu")
    names = [evaluation.pictures.name(i) for i in evaluation.outcomes.index.tolist()]
    answers = load_classifier(colour_run, device="cpu").predict(names, top=1)
    found = [answer.probability for answer in answers]
    np.testing.assert_allclose(found, evaluation.outcomes.logits.softmax(1).max(1).values, rtol=1e-5)
    chosen = evaluation.outcomes.logits.double().softmax(1).gather(1, evaluation.outcomes.labels[:, None])
    assert evaluation.metrics.loss == pytest.approx(-chosen.log().mean().item(), rel=1e-5)
    bins = confidence_bins(evaluation.outcomes.logits, evaluation.outcomes.labels)
    assert evaluation.metrics.calibration_error == calibration_error(bins)
