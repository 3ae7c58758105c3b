"""The history of a run: a line of figures for each epoch, and what epochs, variants and trials are compared by."""

from collections.abc import Mapping
from typing import Any

COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "lr",
    "seconds",
    "pictures_per_s",
)
MEAN_PRECISION = "val_mean_average_precision"  # a column more where a picture may have several labels


def measure(row: Mapping[str, Any]) -> str:
    """Return what epochs like this are compared by: accuracy, or mean average precision of several labels a picture."""
    return "mean average precision" if MEAN_PRECISION in row else "accuracy"


def score(row: Mapping[str, Any]) -> float | None:
    """Return that figure, of the validation pictures; None where there are none (with a label)."""
    return row.get(MEAN_PRECISION, row["val_accuracy"])
