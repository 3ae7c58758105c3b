"""Loss and accuracy over the epochs, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from densekit.files import save_figure
from densekit.training.history import drawn, title


def draw_curves(path: Path, history: Sequence[Mapping[str, Any]], best_epoch: int) -> None:
    """Draw training and validation curves.

    Args:
        path: PNG file.
        history: rows of history.csv, one or more.
        best_epoch: the epoch whose network is kept.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    kinds = drawn(history)
    figure = Figure(figsize=(4.5 * len(kinds), 3.6), layout="constrained", dpi=110)
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) <= 30 else None
    for axes, kind in zip(figure.subplots(1, len(kinds)), kinds, strict=True):
        for split, colour in (("train", "#5b7fb5"), ("val", "#d1603d")):
            values = [row.get(f"{split}_{kind}") for row in history]
            if values[-1] is not None:
                label = "training" if split == "train" else "validation"
                axes.plot(epochs, values, color=colour, marker=marker, markersize=3, label=label)
        axes.axvline(best_epoch, color="0.6", linewidth=1, linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set(xlabel="epoch", title=title(kind, history))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
        # "best" would try every place, and warn on a slow machine
        axes.legend(frameon=False, loc="upper right" if kind == "loss" else "lower right")
        if kind != "loss":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    save_figure(figure, path)
