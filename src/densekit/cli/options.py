"""Command-line options that several verbs share, and how defaults are shown.

Help of more than one line stands beside the type, because line breaks of a docstring would show in the help page.
"""

from typing import Annotated, Any, Literal

from cyclopts import Parameter

Quiet = Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", help="No progress, results only.")]
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16", "auto"], Parameter(help="auto: bf16 where the hardware computes in it.")
]
DataRoot = Annotated[str | None, Parameter(help="Where named data sets are kept. [the platform's cache folder]")]
Recipe = Annotated[
    str | None, Parameter(help="Settings to start from: a name (see `densekit recipes`) or a YAML file.")
]
Workers = Annotated[int | Literal["auto"], Parameter(help="Processes that load pictures; 0: this process loads them.")]
Strict = Annotated[bool, Parameter(negative="", help="A picture that cannot be read is an error.")]
Several = Parameter(consume_multiple=True)


def shown_default(value: Any) -> str | None:
    """Return how the help shows a default; nothing of flags that are off and of values that need none."""
    return None if value in (None, {}) or value is False else str(value)
