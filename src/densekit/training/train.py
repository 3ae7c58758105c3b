"""train: from a folder of pictures to a classifier in a run folder."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.datasets import open_chosen
from densekit.data.downloads import NAMED_SETS
from densekit.data.memory import load_into_memory
from densekit.data.picture_set import DataSet, PictureSet
from densekit.data.pictures import Skipped
from densekit.data.preprocessing import Preprocessing
from densekit.data.seeding import kept_random_numbers, seed_from
from densekit.data.split_record import write_split_record
from densekit.errors import DataError, DivergenceError, SettingsError
from densekit.files import alone_in, refuse_used, whole_path
from densekit.hardware import choose_device, choose_precision
from densekit.loading import load_classifier
from densekit.models.catalogue import model_options
from densekit.models.pretrained import Weights, find_weights, is_published, load_weights
from densekit.training.accelerator import make_accelerator
from densekit.training.build import new_job, new_state
from densekit.training.history import measure, score
from densekit.training.job import OnEpoch
from densekit.training.learning_rate import find_learning_rate
from densekit.training.loop import run_epochs
from densekit.training.notices import (
    tell_end,
    tell_few_pictures,
    tell_learned_before,
    tell_small_splits,
    tell_start,
)
from densekit.training.reporter import Reporter
from densekit.training.resolve import new_classifier, normalise, resolve
from densekit.training.resume import load_state, open_to_resume, restart_changed_epoch
from densekit.training.run_folder import RunFolder, new_run_folder
from densekit.training.settings import TrainSettings, load_recipe, make_settings


@dataclass(frozen=True, eq=False)
class Run:
    """A finished training run; where a path is wanted, it is that of its folder."""

    folder: Path
    settings: TrainSettings
    history: list[dict[str, Any]]
    best_epoch: int

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        """One line, as a notebook shows it."""
        best = self.history[self.best_epoch - 1]
        value = score(best)
        reached = "" if value is None else f", validation {measure(best)} {value:.2%}"
        return (
            f"Run({self.folder}: {self.settings.model}, epoch {self.best_epoch} of {len(self.history)} kept{reached})"
        )

    def classifier(self) -> Classifier:
        """Load the network that was kept."""
        return load_classifier(self.folder)


def train(
    data: str | Path | None = None,
    *,
    recipe: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    screen: Screen | None = None,
    on_epoch: OnEpoch | None = None,
    **settings: Any,
) -> Run:
    """Train a classifier.

    The test split is never looked at; `densekit.evaluate` does that afterwards.

    Args:
        data: folder, CSV or name; see `densekit.data.datasets.open_data`.
        recipe: name or YAML file of settings to start from.
        out: run folder to make [runs/DATA-MODEL].
        resume: go on with the run in ``out`` instead, exactly as if it had never stopped.
        screen: where progress goes.
        on_epoch: called with the line of history.csv after each epoch, once that is saved; what it raises ends the run.
        settings: fields of `densekit.training.settings.TrainSettings`, over the recipe's.

    Returns:
        The run; its folder holds the classifier, the settings, the history and the curves.

    Raises:
        DensekitError: a setting, the data or the run folder cannot be used; the message says why.
        KeyboardInterrupt: Ctrl-C; everything is saved and ``resume`` goes on.
    """
    screen = screen or Screen()
    given = from_anywhere(data, settings, recipe)
    if resume:
        run, chosen = open_to_resume(out, given)
    else:
        if "data" not in given:
            raise SettingsError("no pictures named: give a folder, a table, or a name such as digits or cifar10")
        run, chosen = None, make_settings(**given)
        refuse_used(out, resumable=True)  # before the data is looked at, which may take minutes
        if chosen.model is not None:
            model_options(chosen.model)
    device = choose_device(chosen.device)
    chosen = chosen.model_copy(update={"precision": choose_precision(chosen.precision, device)})
    with _own_state(chosen, device):
        return _train(chosen, device, run, out, screen, on_epoch)


def _train(
    chosen: TrainSettings,
    device: torch.device,
    run: RunFolder | None,
    out: str | Path | None,
    screen: Screen,
    on_epoch: OnEpoch | None,
) -> Run:
    precision = chosen.precision
    accelerator = make_accelerator(device, precision, freezes=chosen.freeze_epochs > 0)
    screen = Screen(screen.quiet or not accelerator.is_main_process, screen.console)
    weights = _weights(chosen, accelerator, screen) if run is None else None  # else they are in its checkpoint
    record = run.splits if run is not None and run.splits.exists() else None
    dataset = open_chosen(chosen, record=record, screen=screen)
    if chosen.early_stopping and dataset.val is None:
        raise SettingsError("early_stopping needs validation pictures: give a --val-fraction above 0")
    if run is None:
        tell_small_splits(chosen, dataset, screen)
        tell_learned_before(chosen, dataset, screen)
    resolved, preprocessing = resolve(chosen, dataset, weights)
    if run is None:
        tell_few_pictures(resolved, dataset, screen)
    classifier = new_classifier(resolved, preprocessing, dataset)
    taken = weights and load_weights(classifier.network, weights, classes=dataset.classes, screen=screen)
    train_set, val_set, damaged = _load(dataset, resolved, preprocessing, screen)
    measured = replace(dataset, train=train_set)
    resolved, preprocessing = normalise(resolved, preprocessing, measured, weights, screen=screen)
    folder = run or _new_run(out, resolved, accelerator)
    with _at_work_in(folder, new=run is None) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process and run is None:
            folder.write_settings(resolved)
            write_split_record(folder.splits, dataset, screen)
        state = new_state(classifier, resolved, accelerator)
        if run is not None:
            load_state(run, state, resolved, accelerator)
            restart_changed_epoch(state.progress, len(train_set), screen)
        state.progress.train_pictures = len(train_set)
        if accelerator.num_processes > 1:  # else all would drop the same activations
            place = (accelerator.process_index, state.progress.epoch, state.progress.step)
            torch.manual_seed(seed_from(resolved.seed, *place))
        classifier = replace(classifier, network=state.result, preprocessing=preprocessing)
        state.progress.unreadable |= {str(picture.path): picture.reason for picture in damaged}
        reporter = Reporter(folder, resolved, dataset.skipped, screen, state.progress.epoch)
        job = new_job(resolved, state, classifier, train_set, val_set, accelerator, folder, reporter, screen)
        job.on_epoch = on_epoch
        tell_start(job, dataset, precision)
        if resolved.lr == "auto":
            job.settings = resolved = resolved.model_copy(update={"lr": find_learning_rate(job)})
            screen.say(f"learning rate {resolved.lr:.2g} chosen from {folder.path / 'learning_rate.png'}")
        if accelerator.is_main_process:
            folder.write_settings(resolved)
            if taken:
                folder.write_weights(taken)
        with closing(reporter), closing(job):
            run_epochs(job)
    tell_end(job, dataset)
    return Run(folder.path, resolved, state.progress.history, state.progress.best_epoch)


@contextmanager
def _at_work_in(folder: RunFolder, *, new: bool) -> Iterator[None]:
    """Be alone in a run folder, and leave none behind that nobody could go on with."""
    useless = False
    try:
        with alone_in(folder.path):
            if new and folder.settings.exists():
                raise SettingsError(f"{folder.path} exists already: choose another --out")
            try:
                yield
            except BaseException as error:
                at_once = isinstance(error, DivergenceError) and not error.epochs
                useless = new and (at_once or not folder.checkpoint.exists())
                raise
    finally:
        if useless:
            folder.discard()


def _weights(settings: TrainSettings, accelerator: Accelerator, screen: Screen) -> Weights | None:
    """Find the weights to start from; the main process downloads them for all."""
    if settings.weights is None:
        return None
    with accelerator.main_process_first():
        return find_weights(settings.weights, model=settings.model, screen=screen)


def _load(
    dataset: DataSet, settings: TrainSettings, preprocessing: Preprocessing, screen: Screen
) -> tuple[PictureSet, PictureSet | None, list[Skipped]]:
    """Decode training and validation pictures into memory, as far as they fit."""
    room = int(settings.memory_gib * 2**30)
    common: dict[str, Any] = {"strict": settings.strict, "screen": screen}
    first = None if settings.random_resized_crop else preprocessing  # which crops from the whole picture
    train_set, damaged = load_into_memory(dataset.train, preprocessing=first, max_bytes=room, **common)
    if dataset.val is None:
        return train_set, None, damaged
    room -= train_set.bytes_in_memory
    val_set, more = load_into_memory(dataset.val, preprocessing=preprocessing, max_bytes=max(room, 0), **common)
    if len(more) == len(val_set):
        raise DataError(f"none of the {len(dataset.val)} validation pictures can be read, first {more[0]}")
    return train_set, val_set, damaged + more


def _new_run(out: str | Path | None, settings: TrainSettings, accelerator: Accelerator) -> RunFolder:
    """Let the main process make the run folder, and tell the others its name."""
    made: list[Any] = [None]
    if accelerator.is_main_process:
        made = [new_run_folder(out, settings)]
    return broadcast_object_list(made)[0]


def from_anywhere(data: str | Path | None, settings: dict[str, Any], recipe: str | None = None) -> dict[str, Any]:
    """Return settings, over a recipe's, as a run remembers them: by whole paths, which are found from anywhere."""
    given = {**(load_recipe(recipe) if recipe else {}), **settings, **({} if data is None else {"data": data})}
    if given.get("data_root") is not None:
        given["data_root"] = str(Path(given["data_root"]).expanduser().resolve())
    published = {"data": lambda name: name in NAMED_SETS, "weights": is_published}
    paths = {name: str(given[name]) for name in published if given.get(name) is not None}
    return {**given, **{name: path if published[name](path) else whole_path(path) for name, path in paths.items()}}


@contextmanager
def _own_state(settings: TrainSettings, device: torch.device) -> Iterator[None]:
    """Leave the caller's random numbers, determinism and current GPU as they were."""
    current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()  # NCCL talks through that one
    with current, kept_random_numbers(device), _deterministic() if settings.deterministic else nullcontext():
        yield


@contextmanager
def _deterministic() -> Iterator[None]:
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS has no other switch
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
