"""Figures of merit of a multi-label classifier on one set of pictures, as plain numbers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from densekit.evaluation.metrics import ClassMetrics, SplitMetrics, class_metrics, common_figures
from densekit.evaluation.outcomes import Outcomes


@dataclass(frozen=True)
class LabelMetrics(ClassMetrics):
    """Figures of one label; None where nothing defines them.

    Precision, recall and F1 are those of the answers, which have the label where its probability is above
    ``threshold``. Average precision and the area under the ROC curve (AUROC) look at the order of the pictures alone.
    Guessing has an average precision of the label's share of the pictures, and an AUROC of 1/2.
    """

    threshold: float
    average_precision: float | None
    auroc: float | None


@dataclass(frozen=True)
class MultilabelMetrics(SplitMetrics):
    """Figures of one split; the loss is binary cross-entropy in nats, over pictures and labels.

    ``accuracy`` is the share of pictures with every label right. Means are over the labels that any picture has;
    ``micro_f1`` counts all yes-or-no answers together. ``calibration_error`` is their expected calibration error, over
    15 bins of equal width.
    """

    mean_average_precision: float | None
    mean_auroc: float | None
    macro_f1: float | None
    micro_f1: float | None
    classes: tuple[LabelMetrics, ...]

    measure = "mean average precision"  # what the score is

    @property
    def score(self) -> float | None:
        """What variants and trials are compared by."""
        return self.mean_average_precision


def compute_multilabel_metrics(
    outcomes: Outcomes, classes: tuple[str, ...], *, split: str, groups: np.ndarray | None = None
) -> MultilabelMetrics:
    """Compute all figures.

    Args:
        outcomes: at least one picture, with labels (N, K).
        classes: name of each label.
        split: what the pictures are, e.g. "test"; stands beside every figure.
        groups: number of what each picture is one of, such as a patient, int64 (N,), 0 and up.
    """
    labels, answered = outcomes.labels.bool(), outcomes.answers
    counts = ((labels & answered).sum(0), answered.sum(0), labels.sum(0))  # (K,) each
    basics = map(class_metrics, classes, *(count.tolist() for count in counts))
    thresholds = outcomes.thresholds or (0.5,) * len(classes)
    columns = zip(basics, thresholds, average_precisions(outcomes), _aurocs(outcomes), strict=True)
    per_class = tuple(
        LabelMetrics(**vars(basic), threshold=t, average_precision=p, auroc=a) for basic, t, p, a in columns
    )
    return MultilabelMetrics(
        **common_figures(outcomes, split, groups),
        mean_average_precision=_mean(row.average_precision for row in per_class),
        mean_auroc=_mean(row.auroc for row in per_class),
        macro_f1=_mean(row.f1 for row in per_class if row.pictures),
        micro_f1=class_metrics("", *(int(count.sum()) for count in counts)).f1,
        classes=per_class,
    )


def average_precisions(outcomes: Outcomes) -> list[float | None]:
    """Return the average precision of each label, None for one that no picture has."""
    from sklearn.metrics import average_precision_score

    return [
        float(average_precision_score(labels, logits)) if labels.any() else None for labels, logits in _each(outcomes)
    ]


def mean_average_precision(outcomes: Outcomes) -> float | None:
    """Return the mean of `average_precisions`, None where no picture has a label."""
    return _mean(average_precisions(outcomes))


def _aurocs(outcomes: Outcomes) -> list[float | None]:
    from sklearn.metrics import roc_auc_score

    return [
        float(roc_auc_score(labels, logits)) if labels.any() and not labels.all() else None
        for labels, logits in _each(outcomes)
    ]


def _each(outcomes: Outcomes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield labels, bool (N,), and logits (N,) of each class."""
    return zip(outcomes.labels.bool().numpy().T, outcomes.logits.numpy().T, strict=True)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
