"""write_report: all there is to know about a trained classifier, on one page."""

import os
from pathlib import Path

import torch

from densekit.console import Screen
from densekit.data.loaders import Workers
from densekit.errors import SettingsError
from densekit.evaluation.evaluate import evaluate
from densekit.files import write_text
from densekit.loading import classifier_folder
from densekit.report.page import render_page
from densekit.training.run_folder import RunFolder


def write_report(
    run: str | os.PathLike[str],
    data: str | Path | None = None,
    *,
    split: str = "test",
    out: str | Path | None = None,
    data_root: str | None = None,
    batch_size: int = 128,
    device: str | torch.device = "auto",
    precision: str = "fp32",
    workers: Workers = "auto",
    strict: bool = False,
    screen: Screen | None = None,
) -> Path:
    """Evaluate a classifier as `densekit.evaluate` does, and also write report.html.

    The page holds its pictures itself and loads nothing: it can be opened from disk, mailed and printed.

    Args:
        run: run folder, or any folder with model.json and model.safetensors.
        data: other pictures than those the run was trained with.
        split: of the run's own data: "test", or "val" or "train" to look closer.
        out: where to write [the run folder; RUN/evaluation-NAME for another split or other data].
        data_root: where named data sets are kept [as in training].
        batch_size: pictures at a time.
        device: where to compute.
        precision: what to compute in, as `densekit.evaluate` takes it.
        workers: processes that load pictures.
        strict: a picture that cannot be read is an error.
        screen: where progress goes.

    Returns:
        The page.

    Raises:
        CheckpointError: a file of the run cannot be read.
        DataError: there are no such pictures, or a class that the classifier does not know.
        SettingsError: a split was named for other data than the run's own, or ``out`` cannot be written.
    """
    screen = screen or Screen()
    if out is not None and Path(out).suffix == ".html":
        raise SettingsError(f"out={out}: name a folder, into which report.html goes")
    folder = classifier_folder(run, screen)  # first: evaluate would take a classifier in memory, which has none
    evaluation = evaluate(
        run,
        data,
        split=split,
        out=out,
        data_root=data_root,
        batch_size=batch_size,
        device=device,
        precision=precision,
        workers=workers,
        strict=strict,
        screen=screen,
    )
    path = evaluation.folder / "report.html"
    write_text(path, render_page(evaluation, RunFolder(folder), screen))
    return path
