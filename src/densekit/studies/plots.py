"""What a study found, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densekit.files import save_figure
from densekit.studies.results import Spread, Summary, measure_of

_LONGEST = 28  # characters of a variant's name


def draw_study(path: Path, summaries: Sequence[Summary]) -> None:
    """Draw the validation score of each variant, and against parameters, multiply-adds and training time.

    Circles are runs, bars reach one standard deviation from the mean; a colour is a variant in all four parts.

    Args:
        path: PNG file.
        summaries: one or more.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    height = max(6.2, 2.6 + 0.5 * len(summaries))
    figure = Figure(figsize=(10, height), layout="constrained", dpi=100)
    grid = figure.subplots(2, 2)
    places = [i / max(len(summaries) - 1, 1) * 0.88 for i in range(len(summaries))]  # the end of the map is too pale
    colours = [colormaps["viridis"](place) for place in places]
    _draw_variants(grid[0, 0], summaries, colours)
    against = (
        (grid[0, 1], "parameters", [summary.parameters for summary in summaries]),
        (grid[1, 0], "multiply-adds of one picture", [summary.macs for summary in summaries]),
        (grid[1, 1], "training, seconds", [s.seconds.mean if s.seconds else None for s in summaries]),
    )
    for axes, title, values in against:
        for value, summary, colour in zip(values, summaries, colours, strict=True):
            if value is not None and summary.val_score is not None:
                _draw_spread(axes, value, summary.val_score, colour)
        _scale(axes, [value for value in values if value])
        axes.set(xlabel=title, ylabel=f"validation {measure_of(summaries)}")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.25)
    save_figure(figure, path)


def _draw_variants(axes: Any, summaries: Sequence[Summary], colours: Sequence[Any]) -> None:
    from matplotlib.ticker import PercentFormatter

    for place, (summary, colour) in enumerate(zip(summaries, colours, strict=True)):
        scores = [result.val_score for result in summary.results if result.val_score is not None]
        axes.scatter(scores, [place] * len(scores), facecolors="none", edgecolors=[colour], s=28)
        if summary.val_score is not None:
            error = summary.val_score.deviation
            axes.errorbar(summary.val_score.mean, place, xerr=error, fmt="|", color=colour, ms=14, mew=2, capsize=4)
    names = [s.variant if len(s.variant) <= _LONGEST else f"{s.variant[: _LONGEST - 1]}…" for s in summaries]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)  # as in the table: the first above
    axes.set(xlabel=f"validation {measure_of(summaries)}")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.25, axis="x")


def _scale(axes: Any, values: Sequence[float]) -> None:
    """From 0, or logarithmic where the largest value is many times the smallest."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    if values and max(values) > 10 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, 1.08 * max(values, default=1))
        axes.xaxis.set_major_locator(MaxNLocator(5))
    if max(values, default=0) > 1000:
        axes.xaxis.set_major_formatter(EngFormatter())


def _draw_spread(axes: Any, x: float, score: Spread, colour: Any) -> None:
    axes.errorbar(x, score.mean, yerr=score.deviation, fmt="o", color=colour, ms=6, capsize=4)
