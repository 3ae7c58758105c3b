"""The files and the table that show an evaluation."""

import csv
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from densekit.data.picture_set import before_pictures
from densekit.errors import CheckpointError
from densekit.evaluation.metrics import Metrics
from densekit.files import write_atomically, write_json, write_text

_MOST_LABELS = 40  # more class names than this cannot be read beside a matrix
_MOST_NUMBERS = 20


def write_evaluation(folder: Path, metrics: Metrics, about: dict[str, Any]) -> None:
    """Write metrics.json, confusion.csv and confusion.png.

    Args:
        folder: where to.
        metrics: figures of one split.
        about: further entries of metrics.json.
    """
    write_json(folder / "metrics.json", {**about, **metrics.to_dict()})
    names = [metrics_of_class.name for metrics_of_class in metrics.classes]
    write_text(folder / "confusion.csv", _confusion_csv(names, metrics.confusion))
    write_atomically(folder / "confusion.png", lambda path: draw_confusion(path, names, metrics))


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
        raise CheckpointError(f"{path} is damaged, or no JSON ({error})") from None


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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a script the font lacks is drawn as boxes
        figure.savefig(path, format="png")


def metrics_table(metrics: Metrics) -> Table:
    """Return the per-class table for a terminal, with the overall figures as its caption."""
    low, high = metrics.accuracy_interval_95
    top5 = f", top-5 {metrics.top5:.2%}" if metrics.top5 is not None else ""
    interval = f"95 % interval {low:.2%} to {high:.2%}"
    caption = (
        f"{before_pictures(metrics.split)}accuracy {metrics.accuracy:.2%} ({interval}){top5}, "
        f"loss {metrics.loss:.4f}, {metrics.pictures} pictures"
    )
    table = Table(caption=caption, caption_justify="left", box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for title in ("pictures", "precision", "recall", "F1"):
        table.add_column(title, justify="right")
    for row in metrics.classes:
        cells = ("-" if value is None else f"{value:.1%}" for value in (row.precision, row.recall, row.f1))
        table.add_row(Text(row.name), str(row.pictures), *cells)
    return table
