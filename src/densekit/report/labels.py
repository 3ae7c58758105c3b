"""The mistakes of a multi-label classifier as the report shows them: labels that were missed, or wrongly found."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from densekit.console import Screen
from densekit.evaluation.evaluate import Evaluation
from densekit.report.pictures import LARGE, Shown, add_heat_maps, show_pictures
from densekit.runtimes.exported import ExportedNetwork

MOST_WRONG = 12  # pictures of each kind


class WrongLabel(NamedTuple):
    """A label that is wrongly in an answer, or missing from it; probabilities are 0 to 1."""

    label: str
    probability: float
    picture: Shown


def wrong_labels(evaluation: Evaluation, screen: Screen) -> dict[str, Any]:
    """Return what was ``missed`` and what ``wrongly_found``, the surest mistakes first, each picture once in either.

    Args:
        evaluation: of a multi-label classifier.
        screen: where progress goes.
    """
    return {
        "missed": _worst(evaluation, screen, missed=True),
        "wrongly_found": _worst(evaluation, screen, missed=False),
        "learned": evaluation.metrics.split == "train",
    }


def surest_mistakes(sureness: Tensor, wrong: Tensor, most: int) -> list[tuple[int, int]]:
    """Return (picture, label) of the surest mistakes, each picture once.

    Args:
        sureness: (N, K), of the answer, a yes or a no; any measure that grows with it.
        wrong: bool (N, K), whether it is wrong.
        most: how many.
    """
    worst, label = sureness.where(wrong, -torch.inf).max(1)
    order = worst.argsort(descending=True, stable=True)[:most]
    return [(place, int(label[place])) for place in order.tolist() if wrong[place].any()]


def _worst(evaluation: Evaluation, screen: Screen, *, missed: bool) -> list[WrongLabel]:
    outcomes = evaluation.outcomes
    probabilities, labels, answers = outcomes.probabilities, outcomes.labels.bool(), outcomes.answers
    # log-odds: comparable between labels that are answered above thresholds of their own
    beyond = (
        outcomes.logits if outcomes.thresholds is None else outcomes.logits - torch.tensor(outcomes.thresholds).logit()
    )
    sureness, wrong = (-beyond, labels & ~answers) if missed else (beyond, answers & ~labels)
    mistakes = surest_mistakes(sureness, wrong, MOST_WRONG)
    shown = show_pictures(evaluation, [place for place, _ in mistakes], side=LARGE, screen=screen)
    if not isinstance(evaluation.classifier.network, ExportedNetwork):
        numbers = torch.tensor([label for _, label in mistakes])
        shown = add_heat_maps(evaluation, shown, numbers, side=LARGE, screen=screen)
    return [
        WrongLabel(evaluation.classifier.classes[label], probabilities[place, label].item(), shown[place])
        for place, label in mistakes
    ]
