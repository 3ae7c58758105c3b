"""densekit evaluate."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from densekit.cli.options import DataRoot, Device, Precision, Quiet, Strict, Workers

Out = Annotated[
    Path | None,
    Parameter(
        help="Where to write metrics.json and its pictures. "
        "[the run folder, or RUN/evaluation-NAME for another split or other data]"
    ),
]


def evaluate(
    run: Path,
    data: str | None = None,
    /,
    *,
    split: Literal["test", "val", "train"] = "test",
    out: Out = None,
    data_root: DataRoot = None,
    batch_size: int = 128,
    device: Device = "auto",
    precision: Precision = "fp32",
    workers: Workers = "auto",
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Test a trained classifier on pictures that it was not trained on.

    Parameters
    ----------
    run
        Run folder, exported folder or hf-hub:OWNER/NAME.
    data
        Pictures other than the run's own, with the same class names.
    split
        Split of the run's own data.
    batch_size
        Pictures per batch.
    """
    from densekit.console import Screen, print_table
    from densekit.evaluation.evaluate import evaluate as run_evaluation
    from densekit.evaluation.table import metrics_table

    evaluation = run_evaluation(
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
        screen=Screen(quiet=quiet),
    )
    print_table(metrics_table(evaluation.metrics))
    drawn = "labels.png" if evaluation.classifier.multilabel else "confusion.csv, confusion.png"
    print(f"written to {evaluation.folder}: metrics.json, predictions.csv, {drawn}")
