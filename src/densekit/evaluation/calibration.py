"""Calibration: whether 80 % sure is right 8 times in 10, the temperature that makes it so, and thresholds."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from densekit.models.answers import to_probabilities

_HOTTEST = 20.0  # also of a network that only guesses, whose best temperature would be infinite


@dataclass(frozen=True)
class ConfidenceBin:
    """Pictures whose likeliest class has a probability in (low, high]; of several labels, yes-or-no answers.

    ``confidence`` is the mean of those probabilities and ``accuracy`` the share of right answers; both are None where
    there is no picture.
    """

    low: float
    high: float
    pictures: int
    confidence: float | None
    accuracy: float | None


def confidence_bins(logits: Tensor, labels: Tensor, *, count: int = 15) -> tuple[ConfidenceBin, ...]:
    """Group pictures by how sure the answer is, in ``count`` bins of equal width.

    Args:
        logits: (N, K).
        labels: int64 (N,), or of any number of labels float (N, K): then every yes or no counts as a picture.
        count: number of bins; 15 is what the field reports (Guo et al., On calibration of modern neural networks,
            2017, arXiv:1706.04599).
    """
    if labels.dim() == 2:
        # yes or no is a choice of two classes
        logits, labels = torch.stack([-logits.flatten(), logits.flatten()], 1) / 2, labels.flatten().long()
    confidence, predicted = logits.double().softmax(1).max(1)
    edges = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    place = torch.bucketize(confidence, edges[1:-1])  # (N,) bin of each picture
    pictures = torch.bincount(place, minlength=count).tolist()
    sure = torch.bincount(place, confidence, minlength=count).tolist()
    right = torch.bincount(place, (predicted == labels).double(), minlength=count).tolist()
    limits = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    return tuple(
        ConfidenceBin(low, high, n, sure[i] / n if n else None, right[i] / n if n else None)
        for i, ((low, high), n) in enumerate(zip(limits, pictures, strict=True))
    )


def calibration_error(bins: tuple[ConfidenceBin, ...]) -> float:
    """Expected calibration error: mean distance of accuracy and confidence over the pictures, 0 to 1.

    The bins must hold a picture at least. Of few pictures it is above 0 even where every probability is true.
    """
    gaps = (
        (b.pictures, b.accuracy - b.confidence) for b in bins if b.accuracy is not None and b.confidence is not None
    )
    return sum(n * abs(gap) for n, gap in gaps) / sum(b.pictures for b in bins)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T for which softmax(logits / T) is most likely to have given the labels (arXiv:1706.04599).

    Of any number of labels a picture, the same with the sigmoid.

    The labels count as right with the certainty that so many pictures allow (Platt, Probabilistic outputs for support
    vector machines, 1999): without it, a network that is right on all of 20 pictures would be told to be certain.

    Args:
        logits: (N, K) of pictures that were not learned from.
        labels: int64 (N,), or float (N, K).

    Returns:
        T, between 1/20 and 20; above 1 where the network is too sure of itself.
    """
    z = logits.double()
    doubt = 1 / (len(labels) + 2)
    multilabel = labels.dim() == 2
    if multilabel:
        targets = (1 - doubt) * labels + doubt / 2
    else:
        targets = (1 - doubt) * F.one_hot(labels, z.shape[1]) + doubt / z.shape[1]
    wanted = (targets * z).sum()
    # The derivative of the loss by 1/T is the expected logit less the wanted one, and the former falls as T grows.
    low, high = -math.log(_HOTTEST), math.log(_HOTTEST)
    for _ in range(40):
        middle = (low + high) / 2
        expected = (to_probabilities(z / math.exp(middle), multilabel=multilabel) * z).sum()
        low, high = (middle, high) if expected > wanted else (low, middle)
    return math.exp((low + high) / 2)


def fit_thresholds(probabilities: Tensor, labels: Tensor) -> tuple[float, ...]:
    """Return the probability above which each label is best answered: with the highest F1 on these pictures.

    That is half of the F1 reached where probabilities are true (Lipton et al., Optimal thresholding of classifiers to
    maximize F1 measure, 2014, arXiv:1402.1892), so below a half, far below it for a label that is hard to tell.

    Args:
        probabilities: float32 (N, K) of pictures that were not learned from, as they are answered.
        labels: float (N, K).

    Returns:
        K probabilities, each in the middle between two pictures; a half for a label that no picture has.
    """
    return tuple(map(_best_threshold, probabilities.T, labels.T))


def _best_threshold(probabilities: Tensor, has: Tensor) -> float:
    if not has.any():
        return 0.5
    ranked, order = probabilities.sort(descending=True)
    below = torch.cat([ranked[1:], ranked.new_zeros(1)])
    f1 = 2 * has[order].cumsum(0) / (torch.arange(1, len(order) + 1) + has.sum())
    best = int(f1.where(ranked > below, 0.0).argmax())  # pictures that are as likely are answered alike
    middle = (ranked[best] + below[best]) / 2
    threshold = middle if middle < ranked[best] else below[best]  # where they are neighbours in float32
    return max(threshold.item(), torch.finfo(torch.float32).tiny)
