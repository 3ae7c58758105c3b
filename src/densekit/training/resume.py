"""How a run goes on where it stopped: its settings, its state, and an epoch whose pictures have changed."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from densekit.console import Screen
from densekit.errors import SettingsError
from densekit.training.checkpoint import Progress, TrainingState, load_checkpoint
from densekit.training.run_folder import RunFolder, open_run_folder
from densekit.training.settings import TrainSettings, make_settings, read_settings
from densekit.units import counted

_MAY_CHANGE = ("data_root", "device", "workers", "memory_gib", "log_every", "tensorboard", "accumulate")


def open_to_resume(out: str | Path | None, given: dict[str, Any]) -> tuple[RunFolder, TrainSettings]:
    """Open a run to go on with.

    Args:
        out: its folder.
        given: settings that are asked for; None and "auto" ask for nothing.

    Returns:
        The run, and its settings with what may change as it is asked for.

    Raises:
        CheckpointError: there is no run to go on with.
        SettingsError: a setting that would make another run of it.
    """
    if out is None:
        raise SettingsError("resume needs the run folder: --out RUN --resume")
    run, stored = open_run_folder(out)
    asked = {name: value for name, value in given.items() if name in _MAY_CHANGE or value not in (None, "auto")}
    if "model_options" in asked:  # others may have come with the weights
        asked["model_options"] = {**stored.model_options, **asked["model_options"]}
    wanted = make_settings(**{**stored.model_dump(), **asked})  # without what was left open, and is decided by now
    for name in asked:
        before, now = getattr(stored, name), getattr(wanted, name)
        same = before == now or (name == "size" and before == (now, now))
        moved = name == "data" and run.splits.exists() and not Path(stored.data).exists()
        if name not in _MAY_CHANGE and not same and not moved:
            further = f" from it, --weights {run.path}" if name == "epochs" else ""
            raise SettingsError(
                f"resume goes on with {name}={before!r} of {run.settings}, not {now!r}: "
                f"leave it out, or start a new run{further}"
            )
    return run, wanted


def load_state(run: RunFolder, state: TrainingState, settings: TrainSettings, accelerator: Accelerator) -> None:
    """Bring ``state`` to where the run stopped."""
    load_checkpoint(run.checkpoint, state)
    progress = state.progress
    if progress.processes != accelerator.num_processes:
        raise SettingsError(
            f"{run.path} was begun by {counted(progress.processes, 'process', 'processes')}, and its steps are counted "
            f"so: resume it with as many, not {accelerator.num_processes}"
        )
    if settings.accumulate != read_settings(run.settings).accumulate:  # asked for now; else what memory allowed
        progress.accumulate = settings.accumulate
    if accelerator.scaler is not None and progress.scaler:
        accelerator.scaler.load_state_dict(progress.scaler)


def restart_changed_epoch(progress: Progress, train_pictures: int, screen: Screen) -> None:
    """Begin the current epoch anew, and say so, if a run goes on with other training pictures than it stopped with.

    Their order is another one: what is left of the old would miss some and repeat others.
    """
    if progress.train_pictures == train_pictures:
        return
    again = f": epoch {progress.epoch + 1} begins anew" if progress.step else ""
    screen.warn(
        f"there are {train_pictures} training pictures now, {progress.train_pictures} when the run stopped{again}; "
        "it ends with another network than it would have"
    )
    progress.begin_epoch()
