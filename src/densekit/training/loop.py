"""The training loop: epochs of steps, validation after each, and a checkpoint after each."""

import math
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from densekit.console import Bar
from densekit.data.loaders import PictureLoader
from densekit.data.pictures import Skipped
from densekit.errors import DivergenceError, TrainingError
from densekit.evaluation.calibration import fit_temperature, fit_thresholds
from densekit.evaluation.multilabel import mean_average_precision
from densekit.evaluation.outcomes import Outcomes, collect_outcomes
from densekit.training.checkpoint import save_checkpoint
from densekit.training.freezing import begin_epoch
from densekit.training.history import MEAN_PRECISION, measure
from densekit.training.interruption import Interruption
from densekit.training.job import Job
from densekit.training.processes import all_unreadable, fill_up, joined, share_buffers, summed
from densekit.training.settings import TrainSettings
from densekit.training.step import set_learning_rate, train_step
from densekit.units import counted, in_shell

_CHECKPOINT_SECONDS = 600  # most work that a power cut can cost, even in a very long epoch


def run_epochs(job: Job) -> None:
    """Train from where ``job.state`` is to the last epoch, or until early stopping or Ctrl-C.

    Raises:
        KeyboardInterrupt: Ctrl-C, after everything was saved.
        DivergenceError: the loss is no longer a number; the last checkpoint is from before.
    """
    settings, progress = job.settings, job.state.progress
    job.reporter.begin()
    if not progress.epoch and not progress.step:
        _checkpoint(job)  # whatever happens in the first epoch, there is something to resume from
    with Interruption() as interruption:
        while progress.epoch < settings.epochs and not _stopped_improving(job):
            train_epoch(job, interruption)
            if interruption.asked:
                _checkpoint(job)
                raise KeyboardInterrupt(f"go on with {_resume(job)}")
            finish_epoch(job)
            if job.on_epoch is not None:
                job.on_epoch(progress.history[-1])
        if interruption.asked:  # in the last validation
            raise KeyboardInterrupt(f"go on with {_resume(job)}")


def train_epoch(job: Job, interruption: Interruption) -> None:
    """Take the remaining steps of the current epoch."""
    settings, progress = job.settings, job.state.progress
    job.batches.set_epoch(progress.epoch, progress.step)
    begin_epoch(job.state.network, settings, progress.epoch)
    # reading a result makes a GPU wait, so there it is done every tenth step only
    read_every = 1 if job.accelerator.device.type == "cpu" else 10
    totals = torch.zeros(3, device=job.accelerator.device)  # loss, right answers, pictures
    started, saved = time.monotonic() - progress.seconds, time.monotonic()
    with job.screen.bar(f"epoch {progress.epoch + 1}/{settings.epochs}", job.batches.steps, lines=False) as bar:
        bar.advance(progress.step)
        for batch in job.loader:
            _note_unreadable(job, batch.unreadable)
            set_learning_rate(job, progress.epoch + progress.step / job.batches.steps)
            batch = fill_up(batch, job.accelerator)
            if len(batch.labels) > 1:  # batch norm cannot learn from one picture
                totals += train_step(job, batch)
            progress.step += 1
            progress.seconds = time.monotonic() - started
            last = progress.step == job.batches.steps
            bar.advance()
            if progress.step % read_every and not last:
                continue
            if _read_totals(job, totals, interruption.asked, bar):
                interruption.asked = True  # here, or in another process
                return
            if time.monotonic() - saved > _CHECKPOINT_SECONDS and not last:
                _checkpoint(job)
                saved = time.monotonic()
    if not progress.pictures:
        raise TrainingError(f"no picture could be used in epoch {progress.epoch + 1}: {_first_lost(job)}")


def finish_epoch(job: Job) -> None:
    """Validate, report, keep the network if it is the best, and write a checkpoint."""
    progress, settings = job.state.progress, job.settings
    outcomes = None if job.val_loader is None else _validate(job, job.val_loader)
    progress.unreadable = all_unreadable(progress.unreadable, job.accelerator)
    row = {
        "epoch": progress.epoch + 1,
        "train_loss": progress.loss_sum / max(progress.pictures, 1),
        "train_accuracy": progress.correct / max(progress.pictures, 1),
        "val_loss": None if outcomes is None else outcomes.loss,
        "val_accuracy": None if outcomes is None else outcomes.accuracy,
        **({MEAN_PRECISION: mean_average_precision(outcomes)} if outcomes and outcomes.multilabel else {}),
        "lr": job.state.optimizer.param_groups[-1]["lr"],  # of the head
        "seconds": round(progress.seconds, 3),
        "pictures_per_s": round(progress.pictures / max(progress.seconds, 1e-9), 1),
    }
    keep = progress.finish_epoch(row)
    if job.accelerator.is_main_process:
        if keep:
            job.classifier.record["trained"] |= {"epoch": progress.epoch, "epochs": settings.epochs}
            figures = {name: row[name] for name in ("val_accuracy", MEAN_PRECISION) if name in row}
            job.classifier.record["trained"] |= figures
            classifier = replace(job.classifier, **_fitted(outcomes, settings)) if outcomes else job.classifier
            classifier.save(job.run.path)
        job.reporter.report_epoch(row)
    _checkpoint(job)


def _fitted(outcomes: Outcomes, settings: TrainSettings) -> dict[str, Any]:
    """Return what of a classifier is fitted to the validation pictures."""
    temperature = fit_temperature(outcomes.logits, outcomes.labels)
    if settings.thresholds == "half":
        return {"temperature": temperature}
    answered = replace(outcomes, logits=outcomes.logits / temperature)
    return {"temperature": temperature, "thresholds": fit_thresholds(answered.probabilities, answered.labels)}


def _validate(job: Job, loader: PictureLoader) -> Outcomes:
    share_buffers(job.state.result, job.accelerator)
    with job.screen.bar("validating", len(loader)) as bar:
        outcomes = collect_outcomes(
            job.state.result,
            loader,
            device=job.accelerator.device,
            autocast=lambda: job.accelerator.autocast(),
            channels_last=job.settings.channels_last,
            bar=bar,
        )
    outcomes = joined(outcomes, job.accelerator)
    _note_unreadable(job, outcomes.unreadable)
    if not len(outcomes):
        raise TrainingError(f"no validation picture can be read any more: {_first_lost(job)}")
    if not math.isfinite(outcomes.loss):
        raise _diverged(job, f"the validation loss is {outcomes.loss} after epoch {job.state.progress.epoch + 1}")
    return outcomes


def _first_lost(job: Job) -> str:
    first = next((f"{path}: {reason}; " for path, reason in job.state.progress.unreadable.items()), "")
    return f"{first}when they are back, go on with {_resume(job)}"


def _resume(job: Job) -> str:
    return f"densekit train --out {in_shell(job.run.path)} --resume"


def _diverged(job: Job, what: str) -> DivergenceError:
    epoch = job.state.progress.epoch
    kept = f"; the state before epoch {epoch + 1} is kept in {job.run.path}" if epoch else ""
    return DivergenceError(f"{what}: try a lower --lr than {job.settings.lr}, or --clip 1{kept}", epoch)


def _read_totals(job: Job, totals: Tensor, asked: bool, bar: Bar) -> bool:
    """Add the sums on the device to the progress, and stop at a loss that is no number.

    Returns:
        Whether to stop: ``asked``, of this process or of any that trains with it.
    """
    progress = job.state.progress
    everyone = summed(torch.cat([totals, totals.new_tensor([asked])]), job.accelerator)
    loss, correct, pictures, asks = everyone.tolist()
    totals.zero_()
    if not math.isfinite(loss):
        where = f"epoch {progress.epoch + 1}, step {progress.step}"
        raise _diverged(job, f"the loss is {loss / max(pictures, 1)} in {where}")
    progress.loss_sum += loss
    progress.correct += correct
    progress.pictures += int(pictures)
    job.reporter.report_step(progress, job.batches.steps, bar)
    return asks > 0


def _note_unreadable(job: Job, unreadable: Iterable[Skipped]) -> None:
    noted = job.state.progress.unreadable
    for skipped in unreadable:
        if str(skipped.path) not in noted:
            noted[str(skipped.path)] = skipped.reason
            job.screen.warn(f"{skipped.path} is left out: {skipped.reason}")


def _stopped_improving(job: Job) -> bool:
    patience, progress = job.settings.early_stopping, job.state.progress
    if patience is None or progress.epoch - progress.best_epoch < patience:
        return False
    epochs = counted(patience, "epoch", "epochs")
    job.screen.say(
        f"no better validation {measure(progress.history[-1])} in {epochs}: stopped early after epoch {progress.epoch}"
    )
    return True


def _checkpoint(job: Job) -> None:
    scaler = job.accelerator.scaler
    if scaler is not None:
        job.state.progress.scaler = scaler.state_dict()
    if job.accelerator.is_main_process:
        save_checkpoint(job.run.checkpoint, job.state)
        job.reporter.write_files(job.state.progress)
