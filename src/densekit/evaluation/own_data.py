"""The data that a run was trained with, opened again from its settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.datasets import open_chosen
from densekit.data.learned import Learned
from densekit.data.picture_set import DataSet
from densekit.data.settings import DataSettings
from densekit.data.split_record import SPLIT_RECORD, SplitRecord
from densekit.errors import CheckpointError, DataError
from densekit.units import in_shell


@dataclass(frozen=True)
class OwnData:
    """The data a run was trained with, and the table of its splits; named sets have none."""

    settings: DataSettings
    record: Path | None
    weights: str | None  # that training started from
    unfinished: str | None = None  # what to say if training was stopped

    @property
    def name(self) -> str:
        """The folder, table or named set."""
        return self.settings.data


def own_data(run: Path) -> OwnData | None:
    """Find the data a run was trained with; None for a classifier that travelled without its settings.

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
        settings = DataSettings(**{name: values[name] for name in DataSettings.model_fields})
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, ValidationError):
        raise CheckpointError(f"{path} does not hold the settings of a run") from None
    record = path.with_name(SPLIT_RECORD)
    unfinished = _unfinished(path.parent, values)
    return OwnData(settings, record if record.exists() else None, values.get("weights"), unfinished)


def _unfinished(run: Path, settings: dict[str, Any]) -> str | None:
    """Say how far training came if it was stopped, and how it goes on."""
    history = run / "history.csv"
    if settings.get("early_stopping") is not None or not history.exists() or not (run / "checkpoints").exists():
        return None
    done = len(history.read_text(encoding="utf-8").splitlines()) - 1
    if done >= settings.get("epochs", 0):
        return None
    go_on = f"densekit train --out {in_shell(run)} --resume goes on"
    return f"training was stopped after {done} of {settings['epochs']} epochs: {go_on}"


def learned_before(weights: str | None) -> Learned:
    """Return what trained weights, and those before them, have learned from, as far as runs tell.

    Args:
        weights: as settings name them. Published ones tell nothing, nor do folders whose tables are damaged.
    """
    learned = Learned()
    known: set[str] = set()
    while weights is not None and weights not in known:
        known.add(weights)
        folder = Path(weights).parent if Path(weights).name == "model.safetensors" else Path(weights)
        try:
            own = own_data(folder)
            if own is not None and own.record is not None:
                learned += SplitRecord(own.record).learned()
        except (CheckpointError, DataError):
            break
        weights = None if own is None else own.weights
    return learned


def open_own_data(
    own: OwnData,
    classifier: Classifier,
    *,
    data_root: str | None = None,
    strict: bool = False,
    screen: Screen | None = None,
) -> DataSet:
    """Open a run's data with the same cuts as in training.

    Raises:
        DataError: it is not there any more, or has other classes than the classifier.
    """
    settings = own.settings
    if own.record is not None and not Path(own.name).exists():
        raise DataError(
            f"{own.name} is gone; if it has moved, "
            f"densekit train NEW_PLACE --out {in_shell(own.record.parent)} --resume updates the run"
        )
    here = {"strict": settings.strict or strict, "data_root": settings.data_root if data_root is None else data_root}
    dataset = open_chosen(settings.model_copy(update=here), record=own.record, screen=screen)
    if (dataset.classes, dataset.multilabel) != (classifier.classes, classifier.multilabel):
        raise DataError(f"{own.name} has other classes than the run was trained with: name pictures, evaluate RUN DATA")
    return dataset
