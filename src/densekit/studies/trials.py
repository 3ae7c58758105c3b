"""What a search found: a line for each trial, a table and a picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from densekit.files import save_figure, write_csv

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_SHOWN = 10  # trials in the table
_COLUMNS = ("trial", "state", "measure", "val_score", "epochs", "seconds", "run", "error")


def score_of(trial: "FrozenTrial") -> float | None:
    """Validation score of a finished trial; of one that was pruned, the best up to there."""
    return trial.value if trial.state.name == "COMPLETE" else max(trial.intermediate_values.values(), default=None)


def measure_of(trials: "Sequence[FrozenTrial]") -> str:
    """Return what the scores are, see `densekit.training.history`."""
    return next((trial.user_attrs["measure"] for trial in trials if "measure" in trial.user_attrs), "accuracy")


def ranked(trials: "Sequence[FrozenTrial]") -> "list[FrozenTrial]":
    """Trials that ran to their end, best first."""
    complete = (trial for trial in trials if trial.state.name == "COMPLETE")
    return sorted(complete, key=lambda trial: trial.value or 0.0, reverse=True)


def write_trials(path: Path, trials: "Sequence[FrozenTrial]") -> None:
    """Write results.csv: scores are shares, times are seconds; behind them what was tried."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    rows = [
        {
            "trial": trial.number,
            "state": _state(trial, trials),
            "measure": trial.user_attrs.get("measure"),
            "val_score": score_of(trial),
            "epochs": max(trial.intermediate_values, default=0),
            "seconds": None if trial.duration is None else round(trial.duration.total_seconds(), 1),
            **{name: trial.user_attrs.get(name) for name in ("run", "error")},
            **{name: _rounded(value) for name, value in trial.params.items()},
        }
        for trial in trials
    ]
    write_csv(path, [*_COLUMNS, *names], rows)


def _state(trial: "FrozenTrial", trials: "Sequence[FrozenTrial]") -> str:
    """Say how a trial ended: complete, pruned, fail; or interrupted, where a later one went on with its run."""
    run = trial.user_attrs.get("run")
    later = [other for other in trials if other.number > trial.number and other.user_attrs.get("run") == run]
    return "interrupted" if trial.state.name == "FAIL" and run and later else trial.state.name.lower()


def trials_table(trials: "Sequence[FrozenTrial]", caption: str) -> Table:
    """Return the table for a terminal: the best trials, best first."""
    best = ranked(trials)[:_SHOWN]
    names = list(dict.fromkeys(name for trial in best for name in trial.params))
    table = Table(caption=caption, caption_justify="left", box=None, pad_edge=False)
    for title in ("trial", f"val {measure_of(trials)}", *names):
        table.add_column(title, justify="right")
    for trial in best:
        values = (str(_rounded(trial.params.get(name, ""), 3)) for name in names)
        table.add_row(str(trial.number), f"{trial.value:.2%}", *values)
    return table


def _rounded(value: Any, digits: int = 6) -> Any:
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def draw_trials(path: Path, trials: "Sequence[FrozenTrial]") -> None:
    """Draw the validation score of the trials in their order, and against each setting.

    Full circles ran to their end, hollow ones were pruned; the line is the best so far.

    Args:
        path: PNG file.
        trials: finished ones; nothing is drawn of those without a score.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    trials = [trial for trial in trials if score_of(trial) is not None]
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    columns = math.ceil(math.sqrt(len(names) + 1))
    lines = -(-(len(names) + 1) // columns)
    figure = Figure(figsize=(3.5 * columns, 2.9 * lines), layout="constrained", dpi=100)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, [None, *names], strict=False):
        drawn = [trial for trial in trials if name is None or name in trial.params]
        _draw_circles(axes, drawn, [trial.number if name is None else trial.params[name] for trial in drawn])
        axes.set(xlabel=name or "trial")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.25)
        if name is not None and getattr(drawn[0].distributions[name], "log", False):
            axes.set_xscale("log")
    for axes in grid.flat[len(names) + 1 :]:
        axes.remove()
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    so_far = [max(score_of(t) or 0 for t in complete[: i + 1]) for i in range(len(complete))]
    grid[0, 0].plot([trial.number for trial in complete], so_far, color="#d1603d", drawstyle="steps-post", zorder=0)
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for line in grid:
        line[0].set(ylabel=f"validation {measure_of(trials)}")
    save_figure(figure, path)


def _draw_circles(axes: Any, trials: "Sequence[FrozenTrial]", values: Sequence[Any]) -> None:
    places: Sequence[Any] = values
    if any(isinstance(value, str | bool) for value in values):
        names = sorted({str(value) for value in values})
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        places = [names.index(str(value)) for value in values]
    fills = ["#5b7fb5" if trial.state.name == "COMPLETE" else "none" for trial in trials]
    axes.scatter(places, [score_of(trial) for trial in trials], s=22, facecolors=fills, edgecolors="#5b7fb5")
