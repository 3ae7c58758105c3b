"""densekit report."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from densekit.cli.options import DataRoot, Device, Precision, Quiet, Strict, Workers

Out = Annotated[
    Path | None,
    Parameter(
        help="Where to write report.html and the files of `densekit evaluate`. "
        "[the run folder, or RUN/evaluation-NAME for another split or other data]"
    ),
]


def report(
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
    """Write one HTML page that shows how good a trained classifier is, and where it fails.

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
    from densekit.console import Screen
    from densekit.report.write import write_report

    page = write_report(
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
    print(page)
