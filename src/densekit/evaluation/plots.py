"""The pictures of an evaluation: the confusion matrix, or of several labels a picture how well each is found."""

from pathlib import Path
from typing import Any

import numpy as np

from densekit.data.picture_set import before_pictures
from densekit.evaluation.metrics import Metrics
from densekit.evaluation.multilabel import MultilabelMetrics
from densekit.files import save_figure
from densekit.units import percent, shorten

_MOST_LABELS = 40  # more class names than this cannot be read beside a matrix
_MOST_NUMBERS = 20


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
    save_figure(figure, path)


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
    mean = percent(metrics.mean_average_precision)
    axes.set_title(f"mean average precision {mean} on {pictures}{left_out}", fontsize="medium")
    figure.legend(loc="outside lower right", frameon=False)
    save_figure(figure, path)
