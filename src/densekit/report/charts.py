"""Charts as geometry; templates/charts.html draws them as SVG, in whatever colours the reader has chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from densekit.evaluation.calibration import ConfidenceBin
from densekit.training.history import title


class Plot(NamedTuple):
    """Where the plot is in a drawing, whose units are pixels on a phone."""

    width: int = 360
    height: int = 230
    left: int = 44
    right: int = 340
    top: int = 12
    bottom: int = 190


PLOT = Plot()


class Tick(NamedTuple):
    """A number beside an axis."""

    place: float
    text: str


class Line(NamedTuple):
    """A named course; ``points`` are in the units of the drawing."""

    name: str
    kind: str  # train or val
    points: list[tuple[float, float]]


class Bar(NamedTuple):
    """One bin of the reliability diagram, in the units of the drawing."""

    x: float
    width: float
    y: float  # top of the bar
    expected: float  # where its top would be if every probability were true
    opacity: float
    text: str


@dataclass(frozen=True)
class Curves:
    """Courses over the epochs."""

    title: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    kept: float | None  # place of the epoch whose network was kept


def training_curves(history: Sequence[Mapping[str, Any]], kind: str, best_epoch: int | None) -> Curves:
    """Lay out a figure of every epoch.

    Args:
        history: rows of history.csv, one or more.
        kind: one of `densekit.training.history.drawn`.
        best_epoch: the epoch whose network was kept.
    """
    names = {"train": "training", "val": "validation"}
    values = {split: [row.get(f"{split}_{kind}") for row in history] for split in names}
    known = [value for column in values.values() for value in column if value is not None]
    y_values = _ticks(min(known + [0.0] * (kind == "loss")), max(known))
    first, last = history[0]["epoch"], history[-1]["epoch"]

    def x(epoch: float) -> float:
        return _scale(epoch, first, last, PLOT.left, PLOT.right)

    def y(value: float) -> float:
        return _scale(value, y_values[0], y_values[-1], PLOT.bottom, PLOT.top)

    lines = [
        Line(
            name,
            split,
            [
                (x(row["epoch"]), y(value))
                for row, value in zip(history, values[split], strict=True)
                if value is not None
            ],
        )
        for split, name in names.items()
    ]
    return Curves(
        title=title(kind, history),
        lines=[line for line in lines if line.points],
        x_ticks=[Tick(x(epoch), f"{epoch:g}") for epoch in _ticks(first, last, whole=True) if first <= epoch <= last],
        y_ticks=[Tick(y(value), f"{value:g}" if kind == "loss" else f"{100 * value:.4g}%") for value in y_values],
        kept=None if best_epoch is None else x(best_epoch),
    )


def reliability_bars(bins: Sequence[ConfidenceBin]) -> list[Bar]:
    """Lay out a reliability diagram: accuracy against confidence, the fuller a bin the darker."""
    fullest = max(b.pictures for b in bins)
    bars = []
    for b in bins:
        if b.accuracy is None or b.confidence is None:
            continue
        left, right = (_scale(value, 0, 1, PLOT.left, PLOT.right) for value in (b.low, b.high))
        top, expected = (_scale(value, 0, 1, PLOT.bottom, PLOT.top) for value in (b.accuracy, b.confidence))
        text = f"{b.pictures} pictures {b.low:.0%} to {b.high:.0%} sure: {b.accuracy:.1%} right"
        bars.append(Bar(left, right - left, top, expected, 0.25 + 0.75 * b.pictures / fullest, text))
    return bars


def share_ticks() -> tuple[list[Tick], list[Tick]]:
    """Return ticks of 0 to 100 % along and up."""
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    along = [Tick(_scale(share, 0, 1, PLOT.left, PLOT.right), f"{share:.0%}") for share in shares]
    return along, [Tick(_scale(share, 0, 1, PLOT.bottom, PLOT.top), f"{share:.0%}") for share in shares]


def _scale(value: float, low: float, high: float, begin: float, end: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return round(begin + share * (end - begin), 1)


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers that enclose low..high."""
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(nbins=5, integer=whole, steps=[1, 2, 5, 10]).tick_values(low, high)]
