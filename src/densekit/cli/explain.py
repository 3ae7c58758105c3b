"""densekit explain."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from densekit.cli.options import Device, Quiet
from densekit.cli.predict import write_predictions


def explain(
    run: Path,
    /,
    *images: str,
    method: Literal["cam", "gradcam", "occlusion", "integrated-gradients"] | None = None,
    top: int = 3,
    feature_reuse: Annotated[bool, Parameter(negative="")] = False,
    out: Path | None = None,
    batch_size: int = 8,
    device: Device = "auto",
    quiet: Quiet = False,
) -> int:
    """Show where on pictures the evidence for a class lies. Exit status 2 only if none of them could be read.

    Parameters
    ----------
    run
        Run folder.
    images
        Picture files, folders and patterns.
    method
        How to find it; the last two need pip install "densekit[explain]". [cam, which is exact, where the network
        ends in global pooling and a linear layer, else gradcam]
    top
        How many of the likeliest classes to explain.
    feature_reuse
        Also draw which earlier features the layers of a DenseNet use; needs no pictures.
    out
        Folder to make. [RUN/explained, numbered if it exists]
    batch_size
        Pictures at a time.
    """
    from densekit.console import Screen
    from densekit.explain.explain import explain_run

    screen = Screen(quiet=quiet)
    done = explain_run(
        run,
        images,
        method=method,
        top=top,
        feature_reuse=feature_reuse,
        out=out,
        batch_size=batch_size,
        device=device,
        screen=screen,
    )
    if done.predictions:
        write_predictions(list(done.predictions), "table", sys.stdout)
    failed = sum(prediction.error is not None for prediction in done.predictions)
    if failed:
        screen.warn(f"{failed} of {len(done.predictions)} pictures could not be read")
        if failed == len(done.predictions) and not feature_reuse:
            return 2
    print(f"written to {done.folder}")
    return 0
