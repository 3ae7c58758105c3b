import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from densekit.evaluation.metrics import compute_metrics
from densekit.evaluation.outcomes import Outcomes

# number of classes, classes that occur, classes that may be predicted, pictures
CASES = {
    "two_classes": (2, [0, 1], [0, 1], 31),
    "ten_classes": (10, range(10), range(10), 200),
    "class_never_occurs": (7, [0, 1, 2, 4, 5], range(7), 60),
    "class_never_predicted": (7, range(7), [0, 2, 3, 6], 60),
    "class_in_neither": (8, [1, 2, 3], [1, 2, 4], 40),
    "one_picture": (6, [3], range(6), 1),
    "always_wrong": (3, [0], [1], 9),
}


def make_outcomes(count, occurring, predictable, pictures) -> Outcomes:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(pictures, count, generator=random)
    logits[:, [label for label in range(count) if label not in predictable]] -= 20
    chosen = torch.randint(len(occurring), (pictures,), generator=random)
    labels = torch.tensor(list(occurring))[chosen]
    return Outcomes(logits, labels, torch.arange(pictures))


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    """Outcomes, and the same as scikit-learn takes them."""
    count, *_ = request.param
    outcomes = make_outcomes(*request.param)
    found = compute_metrics(outcomes, tuple(f"class {i}" for i in range(count)), split="test")
    return found, outcomes, outcomes.labels.numpy(), outcomes.logits.argmax(1).numpy(), list(range(count))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_overall_figures_equal_scikit_learn(case):
    found, outcomes, labels, predicted, names = case
    probabilities = outcomes.logits.double().softmax(1).numpy()
    assert found.pictures == len(labels)
    assert found.accuracy == pytest.approx(reference.accuracy_score(labels, predicted), abs=1e-12)
    assert found.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(labels, predicted), abs=1e-12)
    assert found.loss == pytest.approx(reference.log_loss(labels, probabilities, labels=names), rel=1e-5)
    present = sorted(set(labels))
    macro_f1 = reference.f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(macro_f1, abs=1e-12)
    if len(names) == 2:
        assert found.auroc == pytest.approx(reference.roc_auc_score(labels, probabilities[:, 1]), abs=1e-12)
    else:
        assert found.auroc is None
    if len(names) > 5:
        top5 = reference.top_k_accuracy_score(labels, probabilities, k=5, labels=names)
        assert found.top5 == pytest.approx(top5, abs=1e-12)


def test_class_figures_equal_scikit_learn(case):
    found, _, labels, predicted, names = case
    expected = reference.precision_recall_fscore_support(labels, predicted, labels=names, zero_division=math.nan)
    rows = [(c.precision, c.recall, c.f1, c.pictures) for c in found.classes]
    np.testing.assert_allclose(np.array(rows, float).T, expected, rtol=1e-12)  # None becomes nan
    assert [c.name for c in found.classes] == [f"class {i}" for i in names]


def test_confusion_equals_scikit_learn(case):
    found, _, labels, predicted, names = case
    np.testing.assert_array_equal(found.confusion, reference.confusion_matrix(labels, predicted, labels=names))


def test_figures_that_divide_by_zero_are_none():
    outcomes = make_outcomes(*CASES["class_in_neither"])
    nowhere = compute_metrics(outcomes, tuple("abcdefgh"), split="test").classes[7]
    assert (nowhere.pictures, nowhere.precision, nowhere.recall, nowhere.f1) == (0, None, None, None)


@pytest.mark.parametrize(("count", "says"), [(4, False), (5, False), (6, True)])
def test_top5_only_where_it_says_something(count, says):
    outcomes = make_outcomes(count, range(count), range(count), 20)
    found = compute_metrics(outcomes, tuple(map(str, range(count))), split="val")
    assert (found.top5 is not None) == says


def test_no_auroc_of_a_single_class():
    assert compute_metrics(make_outcomes(2, [1], [0, 1], 9), ("a", "b"), split="test").auroc is None


def test_survives_json(case):
    found = case[0]
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["split"] == "test"
    assert again["confusion"] == [list(row) for row in found.confusion]
    assert again["classes"][0] == vars(found.classes[0])
