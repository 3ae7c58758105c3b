"""One step of the optimizer, in as many parts as memory asks for."""

import math
from contextlib import nullcontext
from itertools import pairwise

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from densekit.data.loaders import Batch
from densekit.data.transforms import mix_batch
from densekit.errors import TrainingError
from densekit.models.answers import cross_entropy, right
from densekit.training.job import Job


def train_step(job: Job, batch: Batch) -> Tensor:
    """Take one step of the optimizer; returns loss sum, right answers and pictures, (3,), on the device.

    Runs out of memory? Then the batch is worked through in twice as many parts, from there on. Several processes,
    which would have to do so together, stop with that advice instead.
    """
    progress = job.state.progress
    while True:
        try:
            return _step_in_parts(job, batch, progress.accumulate)
        except RuntimeError as error:
            smaller = math.ceil(len(batch.labels) / (2 * progress.accumulate))
            if not should_reduce_batch_size(error) or smaller < 2:
                raise
            if job.accelerator.num_processes > 1:
                raise TrainingError(
                    f"out of memory with {2 * smaller} pictures at once: go on with --resume "
                    f"--accumulate {2 * progress.accumulate}"
                ) from error
        job.state.optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        progress.accumulate *= 2
        job.screen.warn(
            f"out of memory with {2 * smaller} pictures at once: every batch now goes through in "
            f"{progress.accumulate} parts of {smaller}"
        )


def _step_in_parts(job: Job, batch: Batch, parts: int) -> Tensor:
    settings, state = job.settings, job.state
    device = job.accelerator.device
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    pictures = batch.pictures.to(device, non_blocking=True, memory_format=layout)
    labels = batch.labels.to(device, non_blocking=True)
    targets = labels
    weights = None
    if job.class_weights is not None and not job.classifier.multilabel:  # then the loss is a weighted mean
        weights = job.class_weights[labels]  # (N,)
    if settings.mixes:
        place = {"epoch": state.progress.epoch, "step": state.progress.step}
        rank = job.accelerator.process_index
        pictures, targets = mix_batch(
            pictures, labels, job.num_classes, settings, seed=settings.seed, rank=rank, **place
        )
    totals = torch.zeros(3, device=device)
    parts = max(1, min(parts, len(labels) // 2))  # batch norm cannot learn from one picture
    for begin, end in pairwise(len(labels) * number // parts for number in range(parts + 1)):
        part = slice(begin, end)
        last = end == len(labels)  # when gradients are exchanged, once a step, however many parts there are
        with nullcontext() if last else job.accelerator.no_sync(job.forward), job.accelerator.autocast():
            logits = job.forward(pictures[part])
        logits = logits.float()
        loss = cross_entropy(
            logits,
            targets[part],
            multilabel=job.classifier.multilabel,
            class_weights=job.class_weights,
            label_smoothing=settings.label_smoothing,
        )
        count = len(logits)
        share = count / len(labels) if weights is None else weights[part].sum() / weights.sum()
        job.accelerator.backward(loss * share)
        with torch.no_grad():
            correct = right(logits, labels[part]).sum()
            totals += torch.stack([loss.detach() * share * len(labels), correct, torch.full_like(loss, count)])
    if settings.clip is not None:
        job.accelerator.clip_grad_norm_(state.network.parameters(), settings.clip)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        state.average.update_parameters(state.network)
    return totals


def set_learning_rate(job: Job, epochs_done: float) -> None:
    """Set the learning rate for the step about to be taken, from its position alone."""
    lr = job.settings.lr
    assert isinstance(lr, float)
    # the middle of the step: a warm-up then does not begin, nor a decay end, with a wasted step at rate 0
    factor = job.schedule(epochs_done + 0.5 / job.batches.steps)
    for group in job.state.optimizer.param_groups:
        group["lr"] = lr * factor * group["lr_share"]
