"""What logits mean: one class of several, or of a multi-label classifier a yes or no for each class.

Labels are int64 (N,), the number of the class, or float (N, K), 1 for each label of a picture and 0 for the others.
"""

from torch import Tensor
from torch.nn import functional as F


def to_probabilities(logits: Tensor, *, multilabel: bool) -> Tensor:
    """Return the probability of each class, (N, K): together 1, or each by itself."""
    return logits.sigmoid() if multilabel else logits.softmax(1)


def answered(logits: Tensor, *, multilabel: bool) -> Tensor:
    """Return which classes are the answer, bool (N, K): the likeliest, or all that are likelier than not."""
    if multilabel:
        return logits > 0
    return F.one_hot(logits.argmax(1), logits.shape[1]).bool()


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether each picture is answered rightly, bool (N,); of several labels, every one."""
    if labels.dim() == 2:
        return ((logits > 0) == labels.bool()).all(1)
    return logits.argmax(1) == labels


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    multilabel: bool,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the mean cross-entropy in nats, over the pictures, or multi-label over pictures and classes.

    Args:
        logits: float32 (N, K).
        targets: labels, or shares of the classes, (N, K), where pictures are mixed.
        multilabel: each class is a yes or no of its own.
        class_weights: weight of each class, (K,); multi-label of its pictures against all others.
        label_smoothing: share of a target that is spread over all classes, or over yes and no.
    """
    if not multilabel:
        return F.cross_entropy(logits, targets, weight=class_weights, label_smoothing=label_smoothing)
    targets = targets * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=class_weights)
