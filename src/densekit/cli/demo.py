"""densekit demo."""

from pathlib import Path

from densekit.cli.evaluate import evaluate
from densekit.cli.options import Quiet
from densekit.cli.train import train


def demo(*, out: Path = Path("demo-run"), quiet: Quiet = False) -> None:
    """Train on the embedded digits, test, and show where the results are.

    Parameters
    ----------
    out
        Run folder to create; numbered if it exists.
    """
    from densekit.files import free_path
    from densekit.units import in_shell

    folder = free_path(out)
    train(recipe="digits", out=folder, quiet=quiet)
    evaluate(folder, quiet=quiet)
    print(f"next: densekit report {in_shell(folder)}")
