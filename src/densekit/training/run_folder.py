"""The run folder: what a training run leaves behind, and never anything of somebody else's overwritten."""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densekit.data.pictures import Skipped
from densekit.errors import CheckpointError, SettingsError
from densekit.files import free_path, write_text
from densekit.training.settings import TrainSettings, read_settings

HISTORY = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "lr",
    "seconds",
    "pictures_per_s",
)


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run.

    ``model.json`` and ``model.safetensors`` alone are the complete classifier.
    """

    path: Path

    @property
    def settings(self) -> Path:
        """Every setting, as YAML."""
        return self.path / "settings.yaml"

    @property
    def checkpoint(self) -> Path:
        """All that `--resume` needs to go on exactly."""
        return self.path / "checkpoints" / "last.safetensors"

    @property
    def curves(self) -> Path:
        """Loss and accuracy as a picture."""
        return self.path / "curves.png"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's folder."""
        return self.path / "tensorboard"

    def write_settings(self, settings: TrainSettings) -> None:
        """Write settings.yaml."""
        write_text(self.settings, settings.to_yaml())

    def write_history(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Write history.csv, a line for each epoch; accuracies are shares, times are seconds."""
        write_text(self.path / "history.csv", _csv(HISTORY, history))

    def write_skipped(self, skipped: Iterable[Skipped]) -> None:
        """Write skipped.csv, the pictures left out and why, if there are any."""
        rows = [{"path": str(picture.path), "reason": picture.reason} for picture in skipped]
        if rows:
            write_text(self.path / "skipped.csv", _csv(("path", "reason"), rows))


def refuse_used(out: str | Path | None) -> None:
    """Raise SettingsError if there is something already where a new run shall go."""
    if out is None:
        return
    path = Path(out).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SettingsError(f"{path} exists already: choose another --out, or go on with --resume")


def new_run_folder(out: str | Path | None, settings: TrainSettings) -> RunFolder:
    """Make the folder of a new run.

    Args:
        out: the folder, which must be new or empty; None makes runs/DATA-MODEL, numbered if that exists.
        settings: name the default folder.

    Raises:
        SettingsError: there is something in the folder already.
    """
    refuse_used(out)
    if out is not None:
        path = Path(out).expanduser()
    else:
        data = Path(settings.data)
        base = re.sub(r"[^\w.-]+", "_", f"{data.stem or data.resolve().name}-{settings.model}")
        path = free_path(Path("runs") / base)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot make the run folder {path}: {error.strerror}") from None
    return RunFolder(path)


def open_run_folder(path: str | Path) -> tuple[RunFolder, TrainSettings]:
    """Open the folder of a run that was begun before.

    Raises:
        CheckpointError: the folder holds no run, or the run has not reached its first checkpoint.
    """
    run = RunFolder(Path(path).expanduser())
    if not run.settings.exists():
        raise CheckpointError(f"{run.path} holds no run: there is no {run.settings.name} in it")
    if not run.checkpoint.exists():
        raise CheckpointError(f"{run.path} has no checkpoint yet: delete the folder and start it again")
    return run, read_settings(run.settings)


def _csv(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
