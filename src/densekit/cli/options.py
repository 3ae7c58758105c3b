"""Command-line options that several verbs share."""

from typing import Annotated

from cyclopts import Parameter

Quiet = Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", help="No progress, results only.")]
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1, mps.")]
