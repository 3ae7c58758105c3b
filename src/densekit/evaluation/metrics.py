"""Figures of merit of a classifier on one set of pictures, as plain numbers."""

from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch

from densekit.evaluation.calibration import calibration_error, confidence_bins
from densekit.evaluation.intervals import accuracy_interval, effective_size
from densekit.evaluation.outcomes import Outcomes


@dataclass(frozen=True)
class ClassMetrics:
    """Figures of one class; a figure that would divide by zero is None."""

    name: str
    pictures: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class SplitMetrics:
    """Figures that pictures of every kind have; shares are in 0..1.

    ``unreadable`` pictures are in none of the figures. ``accuracy`` is the share of pictures that are answered
    correctly; its interval takes the pictures of one of the ``groups`` for no more than they tell together. ``groups``
    is None where every picture stands for itself.
    """

    split: str
    pictures: int
    groups: int | None
    unreadable: int
    loss: float
    accuracy: float
    accuracy_interval_95: tuple[float, float]
    calibration_error: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as they stand in metrics.json."""
        return asdict(self)


@dataclass(frozen=True)
class Metrics(SplitMetrics):
    """Figures of one split; the loss is cross-entropy in nats.

    ``calibration_error`` is the expected calibration error of the likeliest class, over 15 bins of equal width.
    ``confusion`` counts pictures, a row for each true class and a column for each predicted one. ``top5`` is None where
    there are no more than five classes, because it would say nothing; ``auroc``, the area under the ROC curve, is that
    of two classes, else None. ``balanced_accuracy`` and ``macro_f1`` are means over the classes that any picture has.
    """

    top5: float | None
    auroc: float | None
    balanced_accuracy: float
    macro_f1: float
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]

    measure = "accuracy"  # what the score is

    @property
    def score(self) -> float:
        """What variants and trials are compared by."""
        return self.accuracy


def compute_metrics(
    outcomes: Outcomes, classes: tuple[str, ...], *, split: str, groups: np.ndarray | None = None
) -> Metrics:
    """Compute all figures.

    Args:
        outcomes: at least one picture.
        classes: name of each label.
        split: what the pictures are, e.g. "test"; stands beside every figure.
        groups: number of what each picture is one of, such as a patient, int64 (N,), 0 and up.
    """
    count = len(classes)
    predicted = outcomes.logits.argmax(1)
    confusion = torch.bincount(outcomes.labels * count + predicted, minlength=count * count).view(count, count)
    columns = zip(
        classes, confusion.diagonal().tolist(), confusion.sum(0).tolist(), confusion.sum(1).tolist(), strict=True
    )
    per_class = tuple(class_metrics(*column) for column in columns)
    present = [metrics for metrics in per_class if metrics.pictures]
    return Metrics(
        **common_figures(outcomes, split, groups),
        top5=outcomes.top_accuracy(5) if count > 5 else None,
        auroc=_auroc(outcomes) if count == 2 and len(present) == 2 else None,
        balanced_accuracy=fmean(metrics.recall or 0.0 for metrics in present),
        macro_f1=fmean(metrics.f1 or 0.0 for metrics in present),
        classes=per_class,
        confusion=tuple(map(tuple, confusion.tolist())),
    )


def common_figures(outcomes: Outcomes, split: str, groups: np.ndarray | None) -> dict[str, Any]:
    """Compute the figures of `SplitMetrics`."""
    independent = len(outcomes) if groups is None else effective_size(outcomes.correct.numpy(), groups)
    return {
        "split": split,
        "pictures": len(outcomes),
        "groups": None if groups is None else len(np.unique(groups)),
        "unreadable": len(outcomes.unreadable),
        "loss": outcomes.loss,
        "accuracy": outcomes.accuracy,
        "accuracy_interval_95": accuracy_interval(outcomes.accuracy, independent),
        "calibration_error": calibration_error(confidence_bins(outcomes.logits, outcomes.labels)),
    }


def _auroc(outcomes: Outcomes) -> float:
    """Return the area under the ROC curve of two classes, both of them there; it is the same for either."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(outcomes.labels.numpy(), (outcomes.logits[:, 1] - outcomes.logits[:, 0]).numpy()))


def class_metrics(name: str, hits: int, predicted: int, pictures: int) -> ClassMetrics:
    """Compute the figures of a class from numbers of pictures: found, answered with it, and labelled with it."""
    return ClassMetrics(
        name,
        pictures,
        precision=hits / predicted if predicted else None,
        recall=hits / pictures if pictures else None,
        f1=2 * hits / (predicted + pictures) if predicted + pictures else None,
    )
