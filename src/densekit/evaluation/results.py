"""The files of an evaluation: metrics.json, predictions.csv, confusion.csv and the pictures beside them."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from densekit.console import Screen
from densekit.data.columns import LABEL_SEPARATOR
from densekit.data.picture_set import PictureSet
from densekit.errors import CheckpointError
from densekit.evaluation.metrics import Metrics
from densekit.evaluation.multilabel import MultilabelMetrics
from densekit.evaluation.outcomes import Outcomes
from densekit.evaluation.plots import draw_confusion, draw_labels
from densekit.files import write_csv, write_json, write_text
from densekit.loading import fingerprint
from densekit.units import in_shell

_MOST_COLUMNS = 100  # of probabilities in predictions.csv, which a thousand classes would make gigabytes


def write_evaluation(folder: Path, metrics: Metrics | MultilabelMetrics, about: dict[str, Any]) -> None:
    """Write metrics.json, and confusion.csv and confusion.png or, of several labels a picture, labels.png.

    Args:
        folder: where to.
        metrics: figures of one split.
        about: further entries of metrics.json.
    """
    write_json(folder / "metrics.json", {**about, **metrics.to_dict()})
    if isinstance(metrics, MultilabelMetrics):
        draw_labels(folder / "labels.png", metrics)
        return
    names = [metrics_of_class.name for metrics_of_class in metrics.classes]
    write_text(folder / "confusion.csv", _confusion_csv(names, metrics.confusion))
    draw_confusion(folder / "confusion.png", names, metrics)


def write_predictions(path: Path, outcomes: Outcomes, pictures: PictureSet, classes: Sequence[str]) -> None:
    """Write predictions.csv, a line for each picture, see `prediction_rows`."""
    rows = prediction_rows(outcomes, pictures, classes)
    write_csv(path, rows[0], rows)


def prediction_rows(outcomes: Outcomes, pictures: PictureSet, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return, for each picture, its path, its label, the answer, whether that is correct, and probabilities, by column.

    Several labels of a picture, or none, are joined by "|". Probabilities are left out of more than 100 classes.

    Args:
        outcomes: of at least one picture, at the classifier's temperature and with its thresholds.
        pictures: the set they are of.
        classes: name of each label.
    """
    answers, truths = outcomes.answers, outcomes.labels
    if not outcomes.multilabel:
        truths = torch.nn.functional.one_hot(truths, len(classes))
    truths = truths.bool()
    correct = outcomes.correct.int().tolist()
    shown = classes if len(classes) <= _MOST_COLUMNS else ()
    probabilities = outcomes.probabilities[:, : len(shown)].tolist()
    columns = ["path", "label", "answer", "correct", *(f"p({name})" for name in shown)]
    rows = (
        [pictures.name(number), *_named(classes, truth, answer), right, *(f"{value:.6f}" for value in values)]
        for number, truth, answer, right, values in zip(
            outcomes.index.tolist(), truths, answers, correct, probabilities, strict=True
        )
    )
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _named(classes: Sequence[str], *rows: Tensor) -> list[str]:
    places: list[list[int]] = [row.nonzero()[:, 0].tolist() for row in rows]
    return [LABEL_SEPARATOR.join(classes[place] for place in found) for found in places]


def read_metrics(folder: Path, screen: Screen) -> dict[str, Any] | None:
    """Return the test figures of the classifier in a folder, or None if it was not tested.

    Figures of another one, as of a run that was tested before it went on, are none; a warning says so.

    Raises:
        CheckpointError: metrics.json is damaged.
    """
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        if metrics.get("split") != "test":
            return None
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError) as error:  # no JSON, or no object
        raise CheckpointError(f"{path} is damaged, or not JSON ({error})") from None
    if metrics.get("classifier") != fingerprint(folder):
        again = f"densekit evaluate {in_shell(folder)}"
        screen.warn(f"{path} is not of the classifier that is there now, and left out: {again} tests that")
        return None
    return metrics


def _confusion_csv(names: list[str], confusion: tuple[tuple[int, ...], ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *names])
    writer.writerows([name, *row] for name, row in zip(names, confusion, strict=True))
    return text.getvalue()
