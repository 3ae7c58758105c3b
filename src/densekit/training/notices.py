"""What a run says before it trains, and when it is done."""

from densekit.console import Screen
from densekit.data.learned import digest_pictures, tell_learned_groups
from densekit.data.picture_set import DataSet
from densekit.evaluation.own_data import learned_before
from densekit.models.catalogue import count_parameters
from densekit.models.pretrained import IMAGENET
from densekit.models.published import published_names
from densekit.models.timm_networks import is_timm
from densekit.training.history import measure, score
from densekit.training.job import Job
from densekit.training.settings import TrainSettings
from densekit.units import counted, in_shell, some

_FEW_PICTURES = 5000


def tell_small_splits(settings: TrainSettings, dataset: DataSet, screen: Screen) -> None:
    """Warn where there is nothing to choose an epoch by, or to say how good the network is at a class."""
    if dataset.val is None and settings.val_fraction > 0:
        screen.warn(
            "no pictures to validate on are left: the last epoch will be kept, and its probabilities not fitted"
        )
    for part in filter(None, (dataset.val, dataset.test)):
        counts = part.counts(len(dataset.classes))
        if without := [name for name, count in zip(dataset.classes, counts, strict=True) if not count]:
            screen.warn(f"no {part.split} pictures of {some(without)}: their figures say nothing about these")


def tell_learned_before(settings: TrainSettings, dataset: DataSet, screen: Screen) -> None:
    """Warn where the weights to start from have learned from pictures to validate or test on."""
    learned = learned_before(settings.weights)
    for part in filter(None, (dataset.val, dataset.test)):
        if learned.pictures and (again := learned.among(digest_pictures(part, screen))):
            screen.warn(
                f"{len(again)} of the {len(part)} {part.split} pictures are among those that {settings.weights} "
                "was trained on, which flatters their figures: take its --seed, limits and fold, or other pictures"
            )
        tell_learned_groups(str(settings.weights), learned.groups, part, screen)


def tell_few_pictures(settings: TrainSettings, dataset: DataSet, screen: Screen) -> None:
    """Say that there are weights to start from, where a network has too few pictures to learn all by itself."""
    published = is_timm(settings.model or "") or IMAGENET in published_names(settings.model or "")
    if settings.weights is None and published and len(dataset.train) < _FEW_PICTURES:
        model = "" if settings.model == "densenet121" else f" --model {settings.model}"
        screen.say(
            f"{len(dataset.train)} pictures are few to train {settings.model} from scratch: "
            f"--recipe finetune{model} starts from ImageNet's weights"
        )


def tell_start(job: Job, dataset: DataSet, precision: str) -> None:
    """Say what is trained on what, and from where it goes on."""
    settings, progress = job.settings, job.state.progress
    validation = f"{len(dataset.val)} to validate" if dataset.val is not None else "none to validate"
    kind = "labels" if dataset.multilabel else "classes"
    if progress.epoch >= settings.epochs:
        job.screen.say(f"{job.run.path} is finished already")
    elif progress.epoch or progress.step:
        job.screen.say(f"going on after epoch {progress.epoch}, step {progress.step}")
    job.screen.say(
        f"{settings.model}, {count_parameters(job.state.network):,} parameters, on {len(dataset.train)} pictures of "
        f"{len(dataset.classes)} {kind} ({validation}), {job.accelerator.device} {precision}, into {job.run.path}"
    )


def tell_end(job: Job, dataset: DataSet) -> None:
    """Say which epoch was kept, what was left out, and what to do next."""
    progress = job.state.progress
    if job.val_loader is not None:
        best = progress.history[progress.best_epoch - 1]
        value = score(best)
        reached = "- (no picture has a label)" if value is None else f"{value:.2%}"
        job.screen.say(
            f"kept epoch {progress.best_epoch}: validation {measure(best)} {reached} on "
            f"{len(dataset.val or ())} pictures"
        )
    if left_out := len(job.reporter.skipped) + len(progress.unreadable):
        which = counted(left_out, "file was", "files were")
        job.screen.say(f"{which} left out: {job.run.path / 'skipped.csv'}")
    run = in_shell(job.run.path)
    hint = f"densekit evaluate {run}" if dataset.test is not None else f"densekit predict {run} IMAGE"
    job.screen.say(f"curves: {job.run.curves}   next: {hint}")
