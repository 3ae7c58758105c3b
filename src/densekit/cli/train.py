"""densekit train."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import BaseModel, create_model

from densekit.cli.options import Quiet
from densekit.data.settings import Augmentation, DataSettings
from densekit.training.settings import TrainSettings

_GROUPS = {"Augmentation": Augmentation.model_fields, "Data": DataSettings.model_fields}


def _flag(name: str) -> Any:
    """The type of one setting, with the heading it stands under in the help."""
    group = next((title for title, fields in _GROUPS.items() if name in fields), "Training")
    field = TrainSettings.model_fields[name]
    kind = str | None if name == "size" else field.rebuild_annotation()  # HEIGHTxWIDTH is one word
    return Annotated[kind, Parameter(group=group)], field


# every setting is a flag, but for the data, which is the argument
Flags: type[BaseModel] = create_model(
    "Flags", **{name: _flag(name) for name in TrainSettings.model_fields if name != "data"}
)


def train(
    data: str | None = None,
    /,
    *,
    recipe: str | None = None,
    out: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    quiet: Quiet = False,
    settings: Annotated[Flags | None, Parameter(name="*")] = None,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Train a classifier on a folder of labelled pictures, a CSV or a named set.

    Parameters
    ----------
    data
        Folder (train/CLASS/*, val/CLASS/*, test/CLASS/*, or CLASS/*), CSV of path,label[,split], or a name:
        digits, mnist, fashion-mnist, cifar10, cifar100. [the recipe's, or digits]
    recipe
        Settings to start from: a name (see `densekit recipes`) or a YAML file.
    out
        Run folder to make. [runs/DATA-MODEL]
    resume
        Go on with the run in --out, exactly as if it had never stopped.
    """
    from densekit.console import Screen
    from densekit.training.train import train as run_training

    given = {} if settings is None else settings.model_dump(include=settings.model_fields_set)
    run = run_training(data, recipe=recipe, out=out, resume=resume, screen=Screen(quiet=quiet), **given)
    print(run.folder)
