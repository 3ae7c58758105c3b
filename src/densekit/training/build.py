"""The parts of a run, built from its settings: state, optimizer, batches, loaders."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.batches import EpochBatches, class_weights, sampling_weights
from densekit.data.loaders import evaluation_loader, make_loader
from densekit.data.picture_set import PictureSet
from densekit.data.transforms import training_transform
from densekit.engine.swap import fuse_where_faster
from densekit.training.checkpoint import Progress, TrainingState
from densekit.training.freezing import parameter_groups
from densekit.training.job import Job
from densekit.training.reporter import Reporter
from densekit.training.run_folder import RunFolder
from densekit.training.schedules import make_schedule
from densekit.training.settings import TrainSettings


def new_state(classifier: Classifier, settings: TrainSettings, accelerator: Accelerator) -> TrainingState:
    """Put the network on its device and give it an optimizer and, if wanted, an average of its weights."""
    network = classifier.network
    if settings.channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    network.to(accelerator.device)
    if settings.fused and not settings.compile:  # the compiler fuses stock modules in its own way
        fuse_where_faster(network)
    average = None
    if settings.ema is not None:
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True)
    optimizer: Any = accelerator.prepare_optimizer(_new_optimizer(network, settings))
    progress = Progress(accumulate=settings.accumulate, processes=accelerator.num_processes)
    return TrainingState(network, optimizer, average, progress)


def _new_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    assert isinstance(settings.weight_decay, float)
    groups = parameter_groups(network, settings)
    common: dict[str, Any] = {"lr": 0.0, "weight_decay": settings.weight_decay}  # the loop sets the rate, every step
    if settings.optimizer == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        return torch.optim.SGD(groups, momentum=settings.momentum, nesterov=nesterov, **common)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, **common)


def new_job(
    settings: TrainSettings,
    state: TrainingState,
    classifier: Classifier,
    train_set: PictureSet,
    val_set: PictureSet | None,
    accelerator: Accelerator,
    run: RunFolder,
    reporter: Reporter,
    screen: Screen,
) -> Job:
    """Put everything together that a run needs while it trains."""
    rank, world_size = accelerator.process_index, accelerator.num_processes
    on_gpu = accelerator.device.type == "cuda"
    common: dict[str, Any] = {"workers": settings.workers, "strict": settings.strict, "pin_memory": on_gpu}
    balance, labels = settings.class_balance, train_set.labels
    batches = EpochBatches(
        len(train_set),
        settings.batch_size,
        seed=settings.seed,
        rank=rank,
        world_size=world_size,
        weights=sampling_weights(labels) if balance == "sampler" else None,
    )
    transform = training_transform(classifier.preprocessing, settings)
    loader = make_loader(train_set, transform, batches, seed=settings.seed, **common)
    val_loader = None
    if val_set is not None:
        size = 2 * settings.batch_size
        val_loader = evaluation_loader(
            val_set, classifier.preprocessing, size, rank=rank, world_size=world_size, **common
        )
    forward = accelerator.prepare_model(state.network) if world_size > 1 else state.network
    weights = class_weights(labels, len(classifier.classes)).to(accelerator.device) if balance == "loss" else None
    return Job(
        settings=settings,
        state=state,
        forward=torch.compile(forward) if settings.compile else forward,
        batches=batches,
        loader=loader,
        val_loader=val_loader,
        schedule=make_schedule(settings),
        class_weights=weights,
        accelerator=accelerator,
        classifier=classifier,
        run=run,
        reporter=reporter,
        screen=screen,
    )
