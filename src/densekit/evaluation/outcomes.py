"""Outcomes: what a network said about labelled pictures, and the figures that follow from it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from densekit.classifier import Classifier
from densekit.console import Bar
from densekit.data.loaders import PictureLoader
from densekit.data.pictures import Skipped
from densekit.models.answers import answered, cross_entropy, right, to_probabilities
from densekit.models.modes import evaluation_mode


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Logits float32 (N, K) of N pictures; ``index`` (N,) are their numbers in the set.

    Labels are int64 (N,), or where a picture may have any number of them float32 (N, K): then ``thresholds`` are the
    K probabilities above which they are answered, None for a half.
    """

    logits: Tensor
    labels: Tensor
    index: Tensor
    unreadable: tuple[Skipped, ...] = ()
    thresholds: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def multilabel(self) -> bool:
        """Whether a picture may have several labels, or none."""
        return self.labels.dim() == 2

    @cached_property
    def probabilities(self) -> Tensor:
        """Probability of each class, (N, K)."""
        return to_probabilities(self.logits, multilabel=self.multilabel)

    @cached_property
    def answers(self) -> Tensor:
        """Which classes are the answer, bool (N, K)."""
        return answered(self.probabilities, multilabel=self.multilabel, thresholds=self.thresholds)

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats."""
        return cross_entropy(self.logits, self.labels, multilabel=self.multilabel).item()

    @property
    def correct(self) -> Tensor:
        """Whether the likeliest class of each picture is the right one, of several labels every one, bool (N,)."""
        return right(self.logits, self.labels, self.thresholds)

    @property
    def accuracy(self) -> float:
        """Share of the pictures that are answered correctly."""
        return self.correct.double().mean().item()

    def top_accuracy(self, k: int) -> float:
        """Share of pictures whose right class is among the ``k`` likeliest."""
        best = self.logits.topk(k, dim=1).indices  # (N, k)
        return (best == self.labels[:, None]).any(1).double().mean().item()

    def as_answered_by(self, classifier: Classifier) -> "Outcomes":
        """Return logits of a classifier's network at its temperature, with its thresholds."""
        return replace(self, logits=self.logits / classifier.temperature, thresholds=classifier.thresholds)


@torch.inference_mode()
def collect_outcomes(
    network: nn.Module,
    loader: PictureLoader,
    *,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    channels_last: bool = False,
    bar: Bar | None = None,
) -> Outcomes:
    """Run a network over a loader, in evaluation mode; the mode it had is put back.

    Args:
        network: (N, C, H, W) -> logits (N, K), on ``device``.
        loader: usually an `evaluation_loader`.
        device: where to compute.
        autocast: makes the context of lower precision around the network, for each batch.
        channels_last: give the pictures in this memory layout.
        bar: moved on by each batch.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    logits, labels, index, unreadable = [], [], [], []
    with evaluation_mode(network):
        for batch in loader:
            unreadable += batch.unreadable
            if len(batch.labels):
                pictures = batch.pictures.to(device, non_blocking=True, memory_format=layout)
                with autocast():
                    logits.append(network(pictures).float().cpu())
                labels.append(batch.labels)
                index.append(batch.index)
            if bar:
                bar.advance()
    if not labels:
        nothing = torch.empty(0, dtype=torch.int64)
        return Outcomes(torch.empty(0, 0), nothing, nothing, tuple(unreadable))
    return Outcomes(torch.cat(logits), torch.cat(labels), torch.cat(index), tuple(unreadable))
