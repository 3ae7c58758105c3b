import pytest
import torch
from torch.nn import functional as F

from densekit.models.answers import answered, cross_entropy, right, to_probabilities

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, -0.1, -2.0], [0.1, 0.2, 0.3]])
SEVERAL = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]])


def test_one_class_is_the_likeliest():
    assert answered(LOGITS.softmax(1), multilabel=False).int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert right(LOGITS, torch.tensor([0, 2, 2])).tolist() == [True, False, True]
    torch.testing.assert_close(to_probabilities(LOGITS, multilabel=False), LOGITS.exp() / LOGITS.exp().sum(1, True))


def test_several_are_all_that_are_likelier_than_not():
    probabilities = to_probabilities(LOGITS, multilabel=True)
    torch.testing.assert_close(probabilities, 1 / (1 + (-LOGITS).exp()))
    assert torch.equal(answered(probabilities, multilabel=True), LOGITS > 0)
    assert right(LOGITS, SEVERAL).tolist() == [True, True, False]


def test_several_are_all_above_thresholds_of_their_own():
    probabilities = to_probabilities(LOGITS, multilabel=True)
    thresholds = (0.6, 0.4, 0.6)  # logits of 0.405 and -0.405
    expected = [[1, 0, 1], [0, 1, 0], [0, 1, 0]]
    assert answered(probabilities, multilabel=True, thresholds=thresholds).int().tolist() == expected
    assert right(LOGITS, SEVERAL, thresholds).tolist() == [True, False, False]
    assert right(LOGITS, torch.tensor(expected).float(), thresholds).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5])])
def test_loss_is_the_definition(smoothing, weights):
    p, w = to_probabilities(LOGITS, multilabel=True), torch.ones(3) if weights is None else weights
    targets = SEVERAL * (1 - smoothing) + smoothing / 2
    expected = -(w * targets * p.log() + (1 - targets) * (1 - p).log()).mean()
    found = cross_entropy(LOGITS, SEVERAL, multilabel=True, class_weights=weights, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)
    labels = torch.tensor([0, 1, 1])
    torch.testing.assert_close(
        cross_entropy(LOGITS, labels, multilabel=False, class_weights=weights, label_smoothing=smoothing),
        F.cross_entropy(LOGITS, labels, weight=weights, label_smoothing=smoothing),
    )


def test_several_labels_are_several_choices_of_two():
    """Each label by itself is a softmax over (no, yes)."""
    pairs = torch.stack([torch.zeros_like(LOGITS), LOGITS], -1).reshape(-1, 2)
    torch.testing.assert_close(
        cross_entropy(LOGITS, SEVERAL, multilabel=True), F.cross_entropy(pairs, SEVERAL.flatten().long())
    )
