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
    fused: Annotated[bool, Parameter(help="Run dense blocks fused where that is faster.")] = True,
    batch_size: int = 16,
    max_upload_mb: float = 32,
    quiet: Quiet = False,
) -> None:
    """Answer over HTTP until Ctrl-C: a page for people, JSON for programs.

    Parameters
    ----------
    run
        Run folder, exported folder or hf-hub:OWNER/NAME.
    host
        Address to listen on; 0.0.0.0 can be reached from other machines, without a password.
    port
        Port to listen on; 0 chooses a free one.
    batch_size
        Most pictures per batch, which is made of whatever arrived while the last one was computed.
    max_upload_mb
        Largest request, in megabytes.
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
