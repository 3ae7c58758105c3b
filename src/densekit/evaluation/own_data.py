"""The data that a run was trained with, opened again from its settings."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from densekit.console import Screen
from densekit.data.datasets import open_chosen
from densekit.data.picture_set import DataSet
from densekit.data.settings import DataSettings
from densekit.errors import CheckpointError


def own_data(run: Path) -> DataSettings | None:
    """Return the data a run was trained with; None for a classifier that travelled without its settings.

    An export in RUN/exports/NAME has those of its run.

    Raises:
        CheckpointError: settings.yaml is damaged.
    """
    candidates = [run / "settings.yaml"]
    if run.resolve().parent.name == "exports":
        candidates.append(run.resolve().parents[1] / "settings.yaml")
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        return None
    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return DataSettings(**{name: values[name] for name in DataSettings.model_fields})
    except (yaml.YAMLError, TypeError, KeyError, ValidationError):
        raise CheckpointError(f"{path} does not hold the settings of a run") from None


def open_own_data(
    own: DataSettings, *, data_root: str | None = None, strict: bool = False, screen: Screen | None = None
) -> DataSet:
    """Open a run's data with the same cuts as in training.

    Raises:
        DataError: it is not there any more.
    """
    here = {"strict": own.strict or strict, "data_root": own.data_root if data_root is None else data_root}
    return open_chosen(own.model_copy(update=here), screen=screen)
