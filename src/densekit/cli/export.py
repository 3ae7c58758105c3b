"""densekit export."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from densekit.cli.options import Quiet


def export(
    run: Path,
    /,
    *,
    to: str,
    out: Path | None = None,
    int8: Annotated[bool, Parameter(negative="")] = False,
    bake_preprocessing: Annotated[bool, Parameter(negative="")] = False,
    data: str | None = None,
    data_root: str | None = None,
    quiet: Quiet = False,
) -> None:
    """Export a trained classifier to another runtime, and compare it with the original.

    Parameters
    ----------
    run
        Run folder.
    to
        onnx, openvino or torch; DenseNets also keras, mxnet and timm.
    out
        Folder to create, new or empty. [RUN/exports/TARGET, numbered if it exists]
    int8
        Quantise to 8-bit integers, calibrated on validation pictures (openvino).
    bake_preprocessing
        The file takes uint8 pictures of any size, and resizes and normalises by itself (onnx, openvino, torch).
    data
        Labelled pictures to compare and calibrate on. [the run's validation pictures, or its training pictures]
    data_root
        Where named data sets are kept.
    """
    from densekit.console import Screen
    from densekit.export.export import export_run

    exported = export_run(
        run,
        to=to,
        out=out,
        int8=int8,
        bake_preprocessing=bake_preprocessing,
        data=data,
        data_root=data_root,
        screen=Screen(quiet=quiet),
    )
    print(exported.folder)
