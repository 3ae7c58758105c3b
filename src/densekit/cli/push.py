"""densekit push."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from densekit.cli.options import Quiet


def push(
    run: Path, repository: str, /, *, private: Annotated[bool, Parameter(negative="")] = False, quiet: Quiet = False
) -> None:
    """Upload a classifier to the Hugging Face Hub, with a model card.

    Parameters
    ----------
    run
        Run folder or exported folder.
    repository
        owner/name, created if it does not exist.
    private
        Make it private, if it is created.
    """
    from densekit.console import Screen
    from densekit.export.push import push as upload

    print(upload(run, repository, private=private, screen=Screen(quiet=quiet)))
