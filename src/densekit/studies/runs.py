"""The runs of a study: what each network costs, and training those that are missing."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from densekit.console import Screen
from densekit.data.picture_set import DataSet, PictureSet
from densekit.errors import SettingsError, ShapeError, TrainingError
from densekit.evaluation.evaluate import evaluate
from densekit.models.catalogue import count_parameters, create_model
from densekit.models.flops import count_flops
from densekit.models.pretrained import find_weights
from densekit.studies.plan import Plan, PlannedRun
from densekit.studies.plots import draw_study
from densekit.studies.results import Result, read_results, summarise, write_results
from densekit.studies.study_folder import StudyFolder
from densekit.training.history import measure, score
from densekit.training.job import OnEpoch
from densekit.training.resolve import resolve_network
from densekit.training.resume import open_to_resume
from densekit.training.run_folder import RunFolder
from densekit.training.settings import TrainSettings
from densekit.training.train import Run, train


def fitting_network(settings: TrainSettings, dataset: DataSet, screen: Screen) -> TrainSettings:
    """Fill in the network that the settings, or the weights they start from, amount to on these pictures.

    Raises:
        DensekitError: there are no such weights, or they cannot be read.
    """
    weights = settings.weights and find_weights(settings.weights, model=settings.model, screen=screen)
    return resolve_network(settings, dataset, weights or None)


def compared_on(dataset: DataSet) -> PictureSet:
    """Return the validation pictures, which variants are compared on.

    Raises:
        SettingsError: there are none, or none that has a label.
    """
    if dataset.val is None:
        raise SettingsError("variants are compared on validation pictures: give a --val-fraction above 0")
    if not dataset.val.counts(len(dataset.classes)).any():
        raise SettingsError(f"variants are compared on validation pictures, and none of {dataset.name} has a label")
    return dataset.val


def network_cost(settings: TrainSettings, dataset: DataSet, screen: Screen) -> dict[str, int]:
    """Return ``parameters`` and ``macs`` (multiply-adds of one picture) of the network that the settings name.

    Raises:
        SettingsError: it cannot be built, or not for pictures of this size.
    """
    resolved = fitting_network(settings, dataset, screen)
    assert resolved.model is not None
    assert isinstance(resolved.size, tuple)
    channels = resolved.channels or dataset.channels
    try:
        with torch.device("meta"):
            network = create_model(
                resolved.model, num_classes=len(dataset.classes), in_channels=channels, **resolved.model_options
            )
        return {"parameters": count_parameters(network), "macs": count_flops(network, (channels, *resolved.size)) // 2}
    except ShapeError as error:
        raise SettingsError(str(error)) from None


def train_missing(folder: StudyFolder, plan: Plan, costs: Mapping[str, dict[str, int]], screen: Screen) -> list[Result]:
    """Do the runs that are missing; results.csv and the plot are brought up to date after each.

    Args:
        folder: where the runs go.
        plan: what to train.
        costs: `network_cost` of each variant.
        screen: where progress goes.

    Returns:
        A result for each run of the plan, in its order.
    """
    done = {(result.variant, result.seed): result for result in read_results(folder.results)}
    runs = list(plan.runs())
    for run in runs:
        if (run.variant, run.seed) in done:
            _check_unchanged(folder.run(run.name), run)
    for number, run in enumerate(runs, start=1):
        place = run.variant, run.seed
        result = done.get(place)
        if result is None:
            screen.say(f"run {number} of {len(runs)}: {run.variant}, seed {run.seed}")
            result = _train_one(folder, run, costs[run.variant], screen)
        if plan.test and result.test_score is None and not result.error:
            tested = evaluate(folder.run(run.name), device=run.settings.device, screen=screen)
            result = result.model_copy(update={"test_score": tested.metrics.score})
        if result is not done.get(place):
            done[place] = result
            write_results(folder.results, done.values())
            draw_study(folder.plot, summarise(done.values(), plan.variants))
    return [done[run.variant, run.seed] for run in runs]


def _check_unchanged(path: Path, run: PlannedRun) -> None:
    """Raise SettingsError where a finished run was trained with other settings than the plan has by now."""
    if RunFolder(path).checkpoint.exists():  # else somebody has made room; its figures stay
        try:
            open_to_resume(path, run.settings.model_dump())
        except SettingsError as error:
            told = f"variant {run.variant!r} is trained already, call the new one differently"
            raise SettingsError(f"{told}: {error}") from None


def _train_one(folder: StudyFolder, run: PlannedRun, cost: dict[str, int], screen: Screen) -> Result:
    path = folder.run(run.name)
    about: dict[str, Any] = {"variant": run.variant, "seed": run.seed, "run": f"runs/{run.name}", **cost}
    try:
        trained = train_or_resume(path, run.settings, screen)
    except TrainingError as error:
        screen.warn(str(error))
        return Result(**about, error=str(error))
    kept = trained.history[trained.best_epoch - 1]
    return Result(
        **about,
        epochs=len(trained.history),
        kept_epoch=trained.best_epoch,
        seconds=round(sum(epoch["seconds"] for epoch in trained.history), 3),
        measure=measure(kept),
        val_score=score(kept),
        val_loss=kept["val_loss"],
    )


def train_or_resume(path: Path, settings: TrainSettings, screen: Screen, on_epoch: OnEpoch | None = None) -> Run:
    """Train into a folder of the study's own, or go on with the run that was stopped there.

    Raises:
        SettingsError: a trained classifier is there that cannot be gone on with.
    """
    begun = RunFolder(path).checkpoint.exists()
    if path.exists() and not begun:
        if (path / "model.safetensors").exists():
            raise SettingsError(
                f"{path} holds a trained classifier without its checkpoint, and the study's table has no line for it: "
                "move it away, or bring the line back"
            )
        shutil.rmtree(path)  # stopped before its first checkpoint: there is nothing in it to go on with
    values = settings.model_dump()
    return train(values.pop("data"), out=path, resume=begun, screen=screen, on_epoch=on_epoch, **values)
