"""What logits mean: one class of several, or of a multi-label classifier a yes or no for each class.

Labels are int64 (N,), the number of the class, or float (N, K), 1 for each label of a picture and 0 for the others.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from densekit.errors import SettingsError


def to_probabilities(logits: Tensor, *, multilabel: bool) -> Tensor:
    """Return the probability of each class, (N, K): together 1, or each by itself."""
    return logits.sigmoid() if multilabel else logits.softmax(1)


def answered(probabilities: Tensor, *, multilabel: bool, thresholds: Sequence[float] | None = None) -> Tensor:
    """Return which classes are the answer, bool (N, K): the likeliest, or multi-label all above their thresholds.

    Args:
        probabilities: (N, K).
        multilabel: each class is a yes or no of its own.
        thresholds: K probabilities; None for a half: all that are likelier than not.
    """
    if not multilabel:
        return F.one_hot(probabilities.argmax(1), probabilities.shape[1]).bool()
    return probabilities > (0.5 if thresholds is None else torch.tensor(thresholds).to(probabilities))


def check_names(classes: Any) -> tuple[str, ...]:
    """Return class names as a tuple.

    Raises:
        SettingsError: there are none, one is no text, or one comes twice.
    """
    if isinstance(classes, str) or not isinstance(classes, Sequence) or not classes:
        raise SettingsError(f"classes={classes!r}: give the name of each class, such as ('cat', 'dog')")
    if unnamed := [name for name in classes if not isinstance(name, str)]:
        raise SettingsError(f"class {unnamed[0]!r} is no name: give text, such as {str(unnamed[0])!r}")
    if len(set(classes)) < len(classes):
        raise SettingsError(f"class {Counter(classes).most_common(1)[0][0]!r} is named twice")
    return tuple(classes)


def check_thresholds(thresholds: Any, labels: int) -> tuple[float, ...]:
    """Return the thresholds of a multi-label classifier as numbers.

    Args:
        thresholds: what was given as such.
        labels: how many there must be; 0 where each picture has one class of several.

    Raises:
        SettingsError: they are for one class of several, not one for each label, or not between 0 and 1.
    """
    if not labels:
        raise SettingsError("thresholds are for several labels a picture: these are classes")
    try:
        values = tuple(map(float, thresholds))
    except (TypeError, ValueError):
        values = ()
    if len(values) != labels or not all(0 < value < 1 for value in values):
        raise SettingsError(f"thresholds={thresholds}: give {labels} between 0 and 1, one for each label")
    return values


def right(logits: Tensor, labels: Tensor, thresholds: Sequence[float] | None = None) -> Tensor:
    """Return whether each picture is answered correctly, bool (N,); of several labels, every one."""
    if labels.dim() == 1:
        return logits.argmax(1) == labels
    answers = answered(to_probabilities(logits, multilabel=True), multilabel=True, thresholds=thresholds)
    return (answers == labels.bool()).all(1)


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
