"""The run folder: what a training run leaves behind, and never anything of somebody else's overwritten."""

import csv
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densekit.data.pictures import Skipped
from densekit.data.split_record import SPLIT_RECORD
from densekit.errors import CheckpointError, SettingsError
from densekit.files import alone_in, new_folder, write_csv, write_text
from densekit.models.transfer import Transfer
from densekit.training.history import COLUMNS
from densekit.training.settings import TrainSettings, read_settings


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run.

    ``model.json`` and ``model.safetensors`` alone are the complete classifier.

    Args:
        path: the folder.
        made: whether it was made for this run, and was not there before.
    """

    path: Path
    made: bool = False

    @property
    def settings(self) -> Path:
        """Every setting, as YAML."""
        return self.path / "settings.yaml"

    @property
    def splits(self) -> Path:
        """Which split every picture is in, where the data are files."""
        return self.path / SPLIT_RECORD

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

    @property
    def _history(self) -> Path:
        return self.path / "history.csv"

    @property
    def _skipped(self) -> Path:
        return self.path / "skipped.csv"

    def discard(self) -> None:
        """Remove all that is in the folder, and the folder itself where the run has made it."""
        if self.made:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        for path in self.path.iterdir():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def write_settings(self, settings: TrainSettings) -> None:
        """Write settings.yaml."""
        write_text(self.settings, settings.to_yaml())

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write history.csv, a line for each epoch; accuracies are shares, times are seconds."""
        write_csv(self._history, history[0] if history else COLUMNS, history)

    def read_history(self) -> list[dict[str, Any]]:
        """Read history.csv; a figure that was not measured is None. Empty where there is no history.

        Raises:
            CheckpointError: the file holds something else.
        """
        try:
            rows = _rows(self._history)
            names = dict.fromkeys([*COLUMNS, *(rows[0] if rows else ())])  # several labels have a figure more
            return [{name: float(row[name]) if row[name] else None for name in names} for row in rows]
        except (KeyError, ValueError):
            raise CheckpointError(f"{self._history} does not hold the history of a run") from None

    def write_weights(self, taken: Transfer) -> None:
        """Write weights.csv, what became of every tensor of the weights that training started from."""
        write_csv(self.path / "weights.csv", ("tensor", "became", "why"), taken.rows())

    def write_skipped(self, skipped: Iterable[Skipped]) -> None:
        """Write skipped.csv, the pictures left out and why, if there are any."""
        rows = [{"path": str(picture.path), "reason": picture.reason} for picture in skipped]
        if rows:
            write_csv(self._skipped, ("path", "reason"), rows)

    def read_skipped(self) -> list[Skipped]:
        """Read skipped.csv; empty where nothing was left out.

        Raises:
            CheckpointError: the file holds something else.
        """
        try:
            return [Skipped(Path(row["path"]), row["reason"]) for row in _rows(self._skipped)]
        except (KeyError, ValueError):
            raise CheckpointError(f"{self._skipped} does not hold what a run left out") from None


def new_run_folder(out: str | Path | None, settings: TrainSettings) -> RunFolder:
    """Make the folder of a new run.

    Args:
        out: the folder, which must be new or empty; None makes runs/DATA-MODEL, numbered if that exists.
        settings: name the default folder.

    Raises:
        SettingsError: there is something in the folder already.
    """
    data = Path(settings.data)
    name = re.sub(r"[^\w.-]+", "_", f"{data.stem or data.resolve().name}-{settings.model}")
    while True:
        path = new_folder(out, Path("runs") / name, resumable=True)
        made = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=out is not None)
        except OSError as error:
            if out is None and isinstance(error, FileExistsError):
                continue  # another process has made it just now
            raise SettingsError(f"cannot make the run folder {path}: {error.strerror}") from None
        return RunFolder(path, made)


def open_run_folder(path: str | Path) -> tuple[RunFolder, TrainSettings]:
    """Open the folder of a run that was begun before.

    Raises:
        CheckpointError: the folder holds no run, or the run has not reached its first checkpoint.
        SettingsError: another process is about to write that.
    """
    run = RunFolder(Path(path).expanduser())
    if not run.settings.exists():
        why = f"there is no {run.settings.name} in it" if run.path.exists() else "nothing has been saved there yet"
        raise CheckpointError(f"{run.path} is not a run folder: {why}")
    if not run.checkpoint.exists():
        with alone_in(run.path):  # else somebody may be about to write it
            raise CheckpointError(f"{run.path} has no checkpoint yet: delete the folder and start it again")
    return run, read_settings(run.settings)


def _rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a table that a run wrote, none where there is no such file; ValueError if it is damaged."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if any(None in row.values() for row in rows):
        raise ValueError(f"{path}: a line is cut")
    return rows
