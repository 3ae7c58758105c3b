"""The history of a run: a line of figures for each epoch, and what epochs, variants and trials are compared by."""

from collections.abc import Mapping, Sequence
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


def drawn(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which figures can be drawn as curves: those that any epoch has, of any split."""
    kinds = ("loss", "accuracy", "mean_average_precision")
    known = {name for row in history for name, value in row.items() if value is not None}
    return [kind for kind in kinds if {f"train_{kind}", f"val_{kind}"} & known]


def title(kind: str, history: Sequence[Mapping[str, Any]]) -> str:
    """Return what stands above the curves of such a figure."""
    several = any(MEAN_PRECISION in row for row in history)
    return "every label right" if several and kind == "accuracy" else kind.replace("_", " ")
