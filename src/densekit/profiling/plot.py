"""Profiles as a picture: where the parameters are, and where arithmetic, time and memory go."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from densekit.errors import SettingsError
from densekit.files import save_figure
from densekit.profiling.profile import Profile
from densekit.profiling.report import count, seconds, size, stages

_COLOURS = ("#5b7fb5", "#d1603d", "#6a9a5b", "#8d6cab", "#c9a227", "#5f6b76", "#c26d97", "#3f9aa3")
FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raise SettingsError unless a picture can be written there, before anything is measured for it."""
    if path.suffix.lower() not in FORMATS:
        raise SettingsError(f"{path}: a picture needs a name that ends in {', '.join(FORMATS)}")
    if path.exists():
        raise SettingsError(f"{path} exists already: choose another --plot")


def draw_profiles(path: Path, profiles: Sequence[Profile]) -> None:
    """Draw four panels with a group of bars for each stage and a bar in it for each network.

    Args:
        path: a file of one of `FORMATS`.
        profiles: one or more.
    """
    from matplotlib.figure import Figure

    rows = stages(profiles)
    height = 1.6 + 0.3 * len(profiles) + len(rows) * (0.5 + 0.2 * len(profiles))
    figure = Figure(figsize=(11, min(height, 18)), layout="constrained", dpi=110)
    batch = profiles[0].batch
    panels: list[tuple[str, list[Mapping[str, float]], Any]] = [
        ("parameters", [found.parameters for found in profiles], count),
        ("multiply-adds of a picture", [found.macs for found in profiles], count),
        (f"time of a training step of {batch} pictures", [found.stage_seconds for found in profiles], seconds),
        ("kept for the backward pass, of a picture", [found.predictions[0].kept for found in profiles], size),
    ]
    axes = figure.subplots(2, 2, sharey=True)
    for panel, (title, values, write) in zip(axes.flat, panels, strict=True):
        _draw_panel(panel, rows, values, write)
        panel.set_title(title, fontsize="medium")
    axes[0, 0].invert_yaxis()  # shared: the largest feature maps stand on top in all
    names = [_legend(found) for found in profiles]
    legend = figure.legend(axes[0, 0].containers, names, loc="outside upper left", frameon=False, ncols=1)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a folder's name may hold dollar signs
    save_figure(figure, path)


def _draw_panel(panel: Any, rows: list[str], values: list[Mapping[str, float]], write: Any) -> None:
    thick = 0.8 / len(values)
    for i, of_stages in enumerate(values):
        places = [row + (i - (len(values) - 1) / 2) * thick for row in range(len(rows))]
        lengths = [max(of_stages.get(stage, 0), 0) for stage in rows]
        bars = panel.barh(places, lengths, height=0.9 * thick, color=_COLOURS[i % len(_COLOURS)])
        labels = [write(length) if length else "" for length in lengths]
        panel.bar_label(bars, labels, padding=3, fontsize=7, color="0.35")
    panel.set_yticks(range(len(rows)), rows)
    panel.set_xticks([])
    panel.margins(x=0.14)
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.tick_params(left=False)


def _legend(found: Profile) -> str:
    kept = sum(found.predictions[0].kept.values())
    return (
        f"{found.subject.label}: {count(sum(found.parameters.values()))} parameters, "
        f"{count(sum(found.macs.values()))} multiply-adds, "
        f"{seconds(found.training.median)} a step, {size(kept)} kept a picture"
    )
