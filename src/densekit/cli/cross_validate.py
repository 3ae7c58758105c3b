"""densekit cross-validate."""

from pathlib import Path
from typing import Annotated, Unpack

from cyclopts import Parameter

from densekit.cli.options import Quiet, Recipe
from densekit.cli.train import Data, Flags


def cross_validate(
    data: Data = None,
    /,
    *,
    folds: int | None = None,
    recipe: Recipe = None,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    quiet: Quiet = False,
    **settings: Unpack[Flags],
) -> None:
    """Test every picture with a network that was trained without it.

    Parameters
    ----------
    folds
        Equal parts into which the training pictures are cut; a network is trained for each of them. [5]
    out
        Folder to create. [studies/DATA-cross-validation]
    resume
        Continue the cross-validation in --out.
    """
    from densekit.console import Screen, print_table
    from densekit.evaluation.table import metrics_table
    from densekit.studies.cross_validation import cross_validate as run_cross_validation

    found = run_cross_validation(
        data, folds=folds, recipe=recipe, out=out, resume=resume, screen=Screen(quiet=quiet), **settings
    )
    print_table(metrics_table(found.metrics))
    scores = ", ".join(f"{fold.metrics.score:.1%}" for fold in found.folds)
    drawn = "labels.png" if found.folds[0].classifier.multilabel else "confusion.csv, confusion.png"
    print(f"{len(found.folds)} folds: {found.metrics.measure} {scores}; mean {found.spread} (standard deviation)")
    print(f"written to {found.folder}: metrics.json, predictions.csv, {drawn}, runs")
