"""What a run tells while it goes on: lines, bar, history.csv, curves.png, TensorBoard."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densekit.console import Bar, Screen
from densekit.data.pictures import Skipped
from densekit.training.checkpoint import Progress
from densekit.training.curves import draw_curves
from densekit.training.history import MEAN_PRECISION
from densekit.training.run_folder import RunFolder
from densekit.training.settings import TrainSettings
from densekit.units import duration


class Reporter:
    """Tells people and files how a run goes.

    Args:
        run: where the files go.
        settings: say how often, and whether TensorBoard files are written.
        skipped: pictures left out before training.
        screen: where the lines go.
        epoch: epochs finished already, when a run is resumed.
    """

    def __init__(self, run: RunFolder, settings: TrainSettings, skipped: Sequence[Skipped], screen: Screen, epoch: int):
        self.run, self.settings, self.skipped, self.screen = run, settings, skipped, screen
        self._steps_told = 0  # a GPU's results are looked at every few steps only
        self._began, self._epochs = 0.0, 0
        self._purged = epoch + 1 if epoch else None  # what an interrupted run wrote of later epochs
        self._writer: Any = None

    def begin(self) -> None:
        """Begin to count the time that epochs take, with all that belongs to them."""
        self._began = time.monotonic()

    def report_step(self, progress: Progress, steps: int, bar: Bar) -> None:
        """Tell how the current epoch goes: in the bar, or every ``log_every`` steps as a line."""
        speed = progress.pictures / max(progress.seconds, 1e-9)
        pictures = max(progress.pictures, 1)
        figures = (
            f"loss {progress.loss_sum / pictures:.3f}  acc {progress.correct / pictures:.1%}  {speed:.0f} pictures/s"
        )
        bar.advance(0, figures)
        told, every = self._steps_told, self.settings.log_every
        if not self.screen.draws_bars and progress.step // every != told // every and progress.step < steps:
            self._steps_told = progress.step
            left = (steps - progress.step) * progress.seconds / max(progress.step, 1)
            epochs = f"{progress.epoch + 1}/{self.settings.epochs}"
            self.screen.say(f"epoch {epochs}  step {progress.step}/{steps}  {figures}  {left:.0f} s left in this epoch")

    def report_epoch(self, row: dict[str, Any]) -> None:
        """Tell one finished epoch."""
        val = ""
        if row["val_loss"] is not None:
            val = f"  val loss {row['val_loss']:.4f} acc {row['val_accuracy']:6.2%}"
            if row.get(MEAN_PRECISION) is not None:
                val += f" mAP {row[MEAN_PRECISION]:6.2%}"
        self._steps_told = 0
        self._epochs += 1
        left = (self.settings.epochs - row["epoch"]) * (time.monotonic() - self._began) / self._epochs
        self.screen.say(
            f"epoch {row['epoch']:>{len(str(self.settings.epochs))}}/{self.settings.epochs}"
            f"  train loss {row['train_loss']:.4f} acc {row['train_accuracy']:6.2%}{val}"
            f"  {row['seconds']:.1f} s  {row['pictures_per_s']:.0f} pictures/s  {duration(left)} left"
        )
        if self.settings.tensorboard:
            self._write_tensorboard(row)

    def _write_tensorboard(self, row: dict[str, Any]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(self.run.tensorboard, purge_step=self._purged)
        for name, value in row.items():
            if name != "epoch" and value is not None:
                self._writer.add_scalar(name.replace("_", "/", 1), value, row["epoch"])
        self._writer.flush()

    def write_files(self, progress: Progress) -> None:
        """Write history.csv, curves.png and skipped.csv as they stand."""
        self.run.write_history(progress.history)
        if progress.history:
            draw_curves(self.run.curves, progress.history, progress.best_epoch)
        self.run.write_skipped(
            [*self.skipped, *(Skipped(Path(path), reason) for path, reason in progress.unreadable.items())]
        )

    def close(self) -> None:
        """Finish the TensorBoard files."""
        if self._writer is not None:
            self._writer.close()
