"""densekit explain."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from densekit.cli.options import Device, Quiet, Several
from densekit.cli.predict import write_predictions

Method = Annotated[
    Literal["cam", "gradcam", "occlusion", "integrated-gradients"] | None,
    Parameter(
        help='The last two need pip install "densekit[explain]". '
        "[cam, which is exact, if the network ends in global pooling and a linear layer, else gradcam; "
        "occlusion for an exported network]"
    ),
]


Classes = Annotated[
    list[str] | None,
    Several,
    Parameter(help="Classes to explain, whatever the answer is. [the likeliest]"),
]


def explain(
    run: Path,
    /,
    *images: str,
    method: Method = None,
    top: int = 3,
    classes: Classes = None,
    feature_reuse: Annotated[bool, Parameter(negative="")] = False,
    out: Path | None = None,
    batch_size: int = 8,
    device: Device = "auto",
    quiet: Quiet = False,
) -> int:
    """Show where in pictures the evidence for a class lies. Exit status 2 only if none of them could be read.

    Parameters
    ----------
    run
        Run folder, exported folder or hf-hub:OWNER/NAME.
    images
        Picture files, folders and patterns.
    top
        How many of the likeliest classes to name and to explain.
    feature_reuse
        Also draw which earlier features the layers of a DenseNet use; needs no pictures.
    out
        Folder to create. [RUN/explained, numbered if it exists]
    batch_size
        Pictures per batch.
    """
    from densekit.console import Screen
    from densekit.errors import DataError
    from densekit.explain.explain_pictures import explain_pictures
    from densekit.explain.feature_reuse import feature_reuse as measure_reuse
    from densekit.explain.feature_reuse import write_feature_reuse
    from densekit.files import new_folder
    from densekit.loading import load_classifier, results_folder

    if not images and not feature_reuse:
        raise DataError("no pictures named: densekit explain RUN IMAGE... takes files, folders and patterns")
    screen = Screen(quiet=quiet)
    classifier = load_classifier(run, device=device, screen=screen)
    blocks = measure_reuse(classifier.network) if feature_reuse else []
    folder = new_folder(out, results_folder(run) / "explained")
    answers = ()
    if images:
        options = {"method": method, "top": top, "out": folder, "batch_size": batch_size, "screen": screen}
        answers = explain_pictures(classifier, images, classes=classes, **options).predictions
        write_predictions(list(answers), "table", sys.stdout)
    if blocks:
        write_feature_reuse(folder, blocks)
    failed = sum(answer.error is not None for answer in answers)
    if failed:
        screen.warn(f"{failed} of {len(answers)} pictures could not be read")
    if blocks or failed < len(answers):
        print(f"written to {folder}")
    return 2 if answers and failed == len(answers) else 0
