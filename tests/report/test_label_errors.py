import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from densekit.report.label_errors import find_label_errors


def by_definition(probabilities: np.ndarray, labels: np.ndarray) -> list[int]:
    """Off the diagonal of the confident joint (equations 1 and 2 of the paper), and contradicted by the answer."""
    count = probabilities.shape[1]
    thresholds = [probabilities[labels == j, j].mean() if (labels == j).any() else np.inf for j in range(count)]
    found = []
    for i, label in enumerate(labels):
        passed = [j for j in range(count) if probabilities[i, j] >= thresholds[j]]
        if passed and probabilities[i].argmax() != label:
            likely = max(passed, key=lambda j: probabilities[i, j])
            if likely != label:
                found.append((probabilities[i, label] - probabilities[i, likely], i))
    return [i for _, i in sorted(found)]


def make(pictures: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes - 1, (pictures,), generator=random)  # the last class has no picture
    logits = torch.randn(pictures, classes, generator=random, dtype=torch.float64)
    logits[torch.arange(pictures), labels] += 1.5
    return logits.softmax(1), labels


def test_equals_the_definition():
    for seed in range(5):
        probabilities, labels = make(200, 6, seed)
        expected = by_definition(probabilities.numpy(), labels.numpy())
        assert len(expected) > 10
        assert find_label_errors(probabilities, labels) == expected


def test_finds_digits_whose_labels_were_exchanged():
    pictures, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    exchanged = random.choice(len(labels), 60, replace=False)
    given = labels.copy()
    given[exchanged] = (labels[exchanged] + random.integers(1, 10, 60)) % 10
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    probabilities = cross_val_predict(model, pictures, given, cv=3, method="predict_proba")
    found = find_label_errors(torch.from_numpy(probabilities), torch.from_numpy(given))
    # cleanlab 2.9.0, find_label_issues(filter_by="confident_learning"), gives the same 61, 40 of them exchanged
    assert len(set(found) & set(exchanged)) >= 36
    assert len(found) < 70
    assert len(set(found[:20]) & set(exchanged)) >= 18  # the most suspicious come first


def test_none_where_every_answer_is_right():
    probabilities, _ = make(50, 4, 0)
    assert find_label_errors(probabilities, probabilities.argmax(1)) == []
