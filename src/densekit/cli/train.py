"""densekit train."""

import os
from pathlib import Path
from typing import Annotated, Any, TypedDict, Unpack, get_type_hints

from cyclopts import Parameter

from densekit.cli.options import Quiet, Recipe, Several, shown_default
from densekit.data.settings import Augmentation, DataSettings
from densekit.training.settings import TrainSettings

_TYPES = get_type_hints(TrainSettings)  # plain: what is possible is checked with the recipe's settings
_GROUPS = {"Augmentation": Augmentation.model_fields, "Data": DataSettings.model_fields}


def _flag(name: str) -> Any:
    """The type of one setting, with what the help says of it."""
    group = next((title for title, fields in _GROUPS.items() if name in fields), "Training")
    field = TrainSettings.model_fields[name]
    kind = str | None if name == "size" else _TYPES[name]  # HEIGHTxWIDTH is one word
    shown = shown_default(field.get_default(call_default_factory=True))
    return Annotated[kind, Several, Parameter(help=field.description, show_default=shown, group=group)]


# every setting is a flag, but for the data, which is the argument
_FLAGS = {name: _flag(name) for name in TrainSettings.model_fields if name != "data"}
Flags = TypedDict("Flags", _FLAGS, total=False)  # pyright: ignore[reportArgumentType]

_DATA = TrainSettings.model_fields["data"].description
Data = Annotated[str | None, Parameter(help=f"{_DATA} [the recipe's]")]


def train(
    data: Data = None,
    /,
    *,
    recipe: Recipe = None,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    quiet: Quiet = False,
    **settings: Unpack[Flags],
) -> None:
    """Train a classifier on a folder of labelled pictures, a CSV or a named set.

    Parameters
    ----------
    out
        Run folder to create. [runs/DATA-MODEL]
    resume
        Continue the run in --out, exactly as if it had never stopped.
    """
    from densekit.console import Screen
    from densekit.training.train import train as run_training

    run = run_training(data, recipe=recipe, out=out, resume=resume, screen=Screen(quiet=quiet), **settings)
    if os.environ.get("RANK", "0") == "0":  # under torchrun, one line for all processes
        print(run.folder)
