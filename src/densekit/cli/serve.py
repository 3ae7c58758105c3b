"""densekit serve."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from densekit.cli.options import Device, Precision, Quiet


def serve(
    run: Path,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: Device = "auto",
    precision: Precision = "fp32",
    fused: Annotated[bool, Parameter(help="Dense blocks run fused where that is faster.")] = True,
    batch_size: int = 16,
    max_upload_mb: float = 32,
    quiet: Quiet = False,
) -> None:
    """Answer over HTTP until Ctrl-C: a page for people, JSON for programs.

    Parameters
    ----------
    run
        Run folder or exported folder.
    host
        Address to listen on; 0.0.0.0 is reached from other machines, without a password.
    port
        0 takes any that is free.
    batch_size
        Pictures that go through the network at a time, at most: those that came in while it computed.
    max_upload_mb
        Megabytes of a request, at most.
    """
    from densekit.console import Screen
    from densekit.serving.serve import serve as answer

    answer(
        run,
        host=host,
        port=port,
        device=device,
        precision=precision,
        fused=fused,
        batch_size=batch_size,
        max_upload_mb=max_upload_mb,
        screen=Screen(quiet=quiet),
    )
