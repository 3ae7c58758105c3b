"""The files and the table that show an evaluation."""

import csv
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from densekit.data.columns import LABEL_SEPARATOR
from densekit.data.picture_set import PictureSet, before_pictures
from densekit.errors import CheckpointError
from densekit.evaluation.metrics import Metrics
from densekit.evaluation.multilabel import MultilabelMetrics
from densekit.evaluation.outcomes import Outcomes
from densekit.files import write_atomically, write_csv, write_json, write_text
from densekit.units import counted

_MOST_LABELS = 40  # more class names than this cannot be read beside a matrix
_MOST_NUMBERS = 20
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
        write_atomically(folder / "labels.png", lambda path: draw_labels(path, metrics))
        return
    names = [metrics_of_class.name for metrics_of_class in metrics.classes]
    write_text(folder / "confusion.csv", _confusion_csv(names, metrics.confusion))
    write_atomically(folder / "confusion.png", lambda path: draw_confusion(path, names, metrics))


def write_predictions(path: Path, outcomes: Outcomes, pictures: PictureSet, classes: Sequence[str]) -> None:
    """Write predictions.csv, a line for each picture: its label, the answer, whether that is correct, probabilities.

    Several labels of a picture, or none, are joined by "|". Probabilities are left out of more than 100 classes.

    Args:
        path: where to.
        outcomes: of the pictures, at the classifier's temperature and with its thresholds.
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
    write_csv(path, columns, (dict(zip(columns, row, strict=True)) for row in rows))


def _named(classes: Sequence[str], *rows: Tensor) -> list[str]:
    places: list[list[int]] = [row.nonzero()[:, 0].tolist() for row in rows]
    return [LABEL_SEPARATOR.join(classes[place] for place in found) for found in places]


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """Return the test figures of a run folder, or None if it was not tested.

    Raises:
        CheckpointError: metrics.json is damaged.
    """
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        return metrics if metrics.get("split") == "test" else None
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError) as error:  # no JSON, or no object
        raise CheckpointError(f"{path} is damaged, or not JSON ({error})") from None


def _confusion_csv(names: list[str], confusion: tuple[tuple[int, ...], ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *names])
    writer.writerows([name, *row] for name, row in zip(names, confusion, strict=True))
    return text.getvalue()


def shorten(name: str) -> str:
    """Cut the middle out of a long name: beginning and end tell names apart.

    >>> shorten("a photograph of a cat")
    'a photogr…of a cat'
    """
    return name if len(name) <= 18 else f"{name[:9]}…{name[-8:]}"


def draw_confusion(path: Path, names: list[str], metrics: Metrics) -> None:
    """Draw the confusion matrix: colour is the share of the true class, numbers are pictures."""
    from matplotlib.figure import Figure

    counts = np.array(metrics.confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(4.5 + 0.35 * len(names), 16.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained", dpi=110)
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    if len(names) <= _MOST_LABELS:
        short = list(map(shorten, names))
        plain: Any = {"parse_math": False}  # a name may hold dollar signs
        axes.set_xticks(range(len(names)), short, rotation=45, ha="right", rotation_mode="anchor", **plain)
        axes.set_yticks(range(len(names)), short, **plain)
    if len(names) <= _MOST_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    what = "" if len(names) <= _MOST_LABELS else " (row number in confusion.csv)"
    axes.set(xlabel=f"predicted{what}", ylabel=f"true{what}")
    pictures = f"{metrics.pictures} {before_pictures(metrics.split)}pictures"
    axes.set_title(f"accuracy {metrics.accuracy:.1%} on {pictures}", fontsize="medium")
    _save(figure, path)


def draw_labels(path: Path, metrics: MultilabelMetrics) -> None:
    """Draw the average precision of each label, best first, beside what guessing would reach."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    rows = sorted((row for row in metrics.classes if row.pictures), key=lambda row: row.average_precision or 0.0)
    left_out = f"\nthe {_MOST_LABELS} lowest of {len(rows)} labels with pictures" if len(rows) > _MOST_LABELS else ""
    rows = rows[:_MOST_LABELS]
    figure = Figure(figsize=(6.5, 1.6 + 0.28 * len(rows)), layout="constrained", dpi=110)
    axes = figure.subplots()
    places = range(len(rows))
    axes.barh(places, [row.average_precision or 0.0 for row in rows], color="#5b7fb5")
    shares = [row.pictures / metrics.pictures for row in rows]
    axes.plot(shares, places, "|", color="#d1603d", markersize=13, markeredgewidth=2, label="guessing")
    plain: Any = {"parse_math": False}  # a name may hold dollar signs
    axes.set_yticks(places, [f"{shorten(row.name)}  {row.pictures}" for row in rows], **plain)
    axes.set(xlim=(0, 1), ylim=(-0.6, len(rows) - 0.4), xlabel="average precision", ylabel="label and its pictures")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    pictures = f"{metrics.pictures} {before_pictures(metrics.split)}pictures"
    mean = _percent(metrics.mean_average_precision)
    axes.set_title(f"mean average precision {mean} on {pictures}{left_out}", fontsize="medium")
    figure.legend(loc="outside lower right", frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a script the font lacks is drawn as boxes
        figure.savefig(path, format="png")


def metrics_table(metrics: Metrics | MultilabelMetrics) -> Table:
    """Return the per-class table for a terminal, with the overall figures as its caption."""
    low, high = metrics.accuracy_interval_95
    accuracy = f"{metrics.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%})"
    of, rest = before_pictures(metrics.split), f"loss {metrics.loss:.4f}, {metrics.pictures} pictures"
    rest += "" if metrics.groups is None else f" of {counted(metrics.groups, 'group', 'groups')}"
    columns = {"precision": "precision", "recall": "recall", "F1": "f1"}
    if isinstance(metrics, MultilabelMetrics):
        if any(row.threshold != 0.5 for row in metrics.classes):
            columns = {"threshold": "threshold", **columns}
        columns |= {"avg. precision": "average_precision", "AUROC": "auroc"}
        means = f"AUROC {_percent(metrics.mean_auroc)}, F1 {_percent(metrics.macro_f1)} (means of the labels)"
        caption = (
            f"{of}mean average precision {_percent(metrics.mean_average_precision, 2)}, {means}, "
            f"every label right on {accuracy}, {rest}"
        )
    else:
        more = f", top-5 {metrics.top5:.2%}" if metrics.top5 is not None else ""
        more += f", AUROC {metrics.auroc:.1%}" if metrics.auroc is not None else ""
        caption = f"{of}accuracy {accuracy}{more}, {rest}"
    table = Table(caption=caption, caption_justify="left", box=None, pad_edge=False)
    table.add_column("label" if isinstance(metrics, MultilabelMetrics) else "class", overflow="fold")
    for title in ("pictures", *columns):
        table.add_column(title, justify="right")
    for row in metrics.classes:
        cells = (_percent(getattr(row, name)) for name in columns.values())
        table.add_row(Text(row.name), str(row.pictures), *cells)
    return table


def _percent(share: float | None, digits: int = 1) -> str:
    return "-" if share is None else f"{share:.{digits}%}"
