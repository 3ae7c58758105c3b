"""What a run cost: time, pictures, arithmetic."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densekit.classifier import Classifier
from densekit.engine.swap import unfuse
from densekit.models.catalogue import count_parameters
from densekit.models.flops import count_flops


@dataclass(frozen=True)
class Costs:
    """Totals of a run; those of training are 0 where there is no history."""

    parameters: int
    macs: int  # multiply-adds of one answer
    seconds: float  # of training, without validation
    pictures: float  # seen while training, repeats counted
    flops: float  # of training, forward and backward


def count_costs(classifier: Classifier, history: Sequence[Mapping[str, Any]]) -> Costs:
    """Add up what a run cost.

    Args:
        classifier: what was trained, not exported.
        history: rows of history.csv.
    """
    shape = (classifier.preprocessing.channels, *classifier.preprocessing.size)
    network = unfuse(copy.deepcopy(classifier.network))  # fused steps would step aside to be counted, and say so
    pictures = sum(row["seconds"] * row["pictures_per_s"] for row in history)
    return Costs(
        parameters=count_parameters(classifier.network),
        macs=count_flops(network, shape) // 2,
        seconds=sum(row["seconds"] for row in history),
        pictures=pictures,
        flops=pictures * count_flops(network, shape, training=True),
    )
