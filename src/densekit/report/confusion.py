"""The confusion matrix as the report shows it: which classes, and which pictures stand behind each cell."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Cell(NamedTuple):
    """Pictures of one class that got one answer; both are numbers of classes."""

    true: int
    predicted: int
    pictures: int
    share: float  # of the pictures of the true class


def confusion_cells(confusion: Sequence[Sequence[int]]) -> list[Cell]:
    """Return the cells that hold a picture: mistakes first, and of those the most frequent ones."""
    cells = [
        Cell(true, predicted, count, count / sum(row))
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count
    ]
    return sorted(cells, key=lambda cell: (cell.true == cell.predicted, -cell.pictures))


def most_confused(confusion: Sequence[Sequence[int]], most: int) -> list[int]:
    """Return the ``most`` classes with the most mistakes, given or got, in their own order."""
    counts = torch.tensor(confusion)
    wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    return sorted(wrong.argsort(descending=True, stable=True)[:most].tolist())


def places_behind(
    cells: Sequence[Cell], probabilities: Tensor, labels: Tensor, *, most_a_cell: int, most: int
) -> dict[Cell, list[int]]:
    """Choose the pictures to show behind cells, the surest answers first.

    Args:
        cells: the cells, the most important ones first.
        probabilities: (N, K).
        labels: int64 (N,).
        most_a_cell: pictures to show of one cell.
        most: pictures to show altogether; every cell gets its first before any gets its second.

    Returns:
        Places in 0..N-1 for each cell that gets any.
    """
    sure, predicted = probabilities.max(1)
    by_sureness = sure.argsort(descending=True, stable=True)
    queues: dict[tuple[int, int], list[int]] = {}
    for place, true, answer in zip(
        by_sureness.tolist(), labels[by_sureness].tolist(), predicted[by_sureness].tolist(), strict=True
    ):
        queues.setdefault((true, answer), []).append(place)
    chosen: dict[Cell, list[int]] = {}
    turns = ((cell, turn) for turn in range(most_a_cell) for cell in cells if turn < cell.pictures)
    for cell, turn in list(turns)[:most]:
        chosen.setdefault(cell, []).append(queues[cell.true, cell.predicted][turn])
    return chosen
