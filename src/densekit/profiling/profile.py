"""profile: what networks cost, before they are trained."""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from densekit.console import Screen
from densekit.errors import SettingsError
from densekit.hardware import choose_device, choose_precision, free_memory
from densekit.models.catalogue import count_parameters
from densekit.profiling.memory import Prediction, predict_memory
from densekit.profiling.process import Usage, measure_memory
from densekit.profiling.stages import UPDATE, Direction, marked, share_out
from densekit.profiling.step import Steps
from densekit.profiling.subject import Size, Subject, can_fuse, find_subject
from densekit.profiling.timing import time_inference, time_training

MARGIN = 0.15
"""What a prediction of memory may be wrong by: so much is left free by `Profile.largest_batch`."""
_ROUNDS = (3, 25)  # at least and at most


@dataclass(frozen=True)
class Timing:
    """Seconds of every round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the rounds were quicker."""
        return median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """First and third quartile."""
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True)
class Profile:
    """What one network costs on one device.

    Args:
        subject: which network.
        device: where it was measured.
        precision: "fp32" or "bf16".
        batch: pictures in a measured step.
        parameters: of each stage (see `densekit.profiling.stages`).
        macs: multiply-adds of each stage for one picture.
        predictions: of memory, for each picture size; the first size is the one that was measured.
        measured: memory of a training step; None where the platform does not tell.
        training: of one step, forward, backward and update.
        inference: of one batch.
        stage_seconds: of one training step.
    """

    subject: Subject
    device: str
    precision: str
    batch: int
    parameters: dict[str, int]
    macs: dict[str, float]
    predictions: tuple[Prediction, ...]
    measured: Usage | None
    training: Timing
    inference: Timing
    stage_seconds: dict[str, float]

    @property
    def size(self) -> Size:
        """Height and width of the measured pictures."""
        return self.predictions[0].size

    def largest_batch(self, memory: int, prediction: Prediction) -> int:
        """Return the largest batch whose training process stays within ``memory`` bytes, with `MARGIN` to spare."""
        idle = self.measured.idle if self.measured else 0
        return prediction.largest_batch(int((memory - idle) / (1 + MARGIN)))


def profile(
    models: str | os.PathLike[str] | nn.Module | Iterable[str | os.PathLike[str] | nn.Module],
    *,
    batch: int = 16,
    sizes: Sequence[int | Size] = (),
    fused: bool = False,
    seconds: float = 10.0,
    device: str | torch.device = "auto",
    precision: str = "auto",
    screen: Screen | None = None,
) -> list[Profile]:
    """Measure what networks cost: parameters, multiply-adds, memory and time, as a whole and by stage.

    Args:
        models: one or several: names of the catalogue, run folders, ``timm:NAME``, ``torchvision:NAME``, and networks,
            whose memory is predicted but not measured.
        batch: pictures in a measured step.
        sizes: of the pictures, each one number of pixels or (height, width). The first is measured; memory is
            predicted for all. [what each network was made for]
        fused: also measure each DenseNet with `densekit.fuse`.
        seconds: to spend on timing each network; three rounds are timed even if they take longer, and 25 at most.
        device: where, see `choose_device`.
        precision: "auto", "fp32" or "bf16".
        screen: where progress is shown.

    Returns:
        One profile for each network, in order, a fused one behind its stock one.

    Raises:
        UnknownNameError: no such network.
        SettingsError: a network cannot take such pictures, or there is too little memory for the batch.
    """
    screen, device = screen or Screen(), choose_device(device)
    precision = choose_precision(precision, device)
    if precision == "fp16":
        raise SettingsError("precision 'fp16': profile measures fp32 and bf16")
    chosen = [(size, size) if isinstance(size, int) else size for size in sizes]
    if batch < 2 or any(min(size) < 1 for size in chosen):
        raise SettingsError(
            f"batch={batch}, sizes={list(sizes)}: training needs 2 pictures or more, of 1 pixel or more"
        )
    one = isinstance(models, str | os.PathLike | nn.Module)
    subjects = [find_subject(each) for each in ([models] if one else models)]
    if not subjects:
        raise SettingsError("no networks named: give names of `densekit models`, or run folders")
    if fused:
        twins = [[subject, replace(subject, fused=True)] if can_fuse(subject) else [subject] for subject in subjects]
        subjects = [subject for pair in twins for subject in pair]
    screen.say(f"profiling {', '.join(subject.label for subject in subjects)} on {device}, {precision}")
    results = []
    with screen.bar("memory", len(subjects)) as bar:
        for subject in subjects:
            bar.advance(0, subject.label)
            results.append(_measure_memory(subject, batch, chosen or [subject.size], device, precision))
            bar.advance()
    runners = [Steps(subject, device, precision) for subject in subjects]
    times = _take_turns(runners, [(batch, result["predictions"][0].size) for result in results], seconds, screen)
    common = {"device": str(device), "precision": precision, "batch": batch}
    return [
        Profile(subject, **common, **result, **timing)
        for subject, result, timing in zip(subjects, results, times, strict=True)
    ]


def _measure_memory(
    subject: Subject, batch: int, sizes: Sequence[Size], device: torch.device, precision: str
) -> dict[str, Any]:
    """Return what a profile says besides times: first the cheap predictions, so that a batch too large is refused."""
    steps = Steps(subject, device, precision)
    predictions = tuple(predict_memory(steps, size) for size in sizes)
    needed, free = predictions[0].peak(batch), free_memory(device)
    if free is not None and needed > free:
        height, width = sizes[0]
        fits = predictions[0].largest_batch(free)
        raise SettingsError(
            f"{subject.label}: a step with {batch} pictures of {height}x{width} needs {needed / 1e9:.1f} GB of memory, "
            f"and {free / 1e9:.1f} GB are free: a batch of {fits} would fit"
        )
    parameters, macs = count_by_stage(subject, sizes[0])
    measured = measure_memory(subject, batch, sizes[0], device, precision)
    return {"parameters": parameters, "macs": macs, "predictions": predictions, "measured": measured}


def count_by_stage(subject: Subject, size: Size) -> tuple[dict[str, int], dict[str, float]]:
    """Return parameters, and multiply-adds for one picture, of each stage of the stock network."""
    network = subject.make(torch.device("cpu")).eval()
    parameters: dict[str, int] = {}
    marks: list[tuple[str, Direction | None, float]] = [(UPDATE, None, 0)]

    def note(stage: str, direction: Direction, part: nn.Module) -> None:
        parameters[stage] = parameters.get(stage, 0) + count_parameters(part)
        marks.append((stage, direction, counter.get_total_flops() / 2))

    with FlopCounterMode(display=False) as counter, marked(network, note), torch.no_grad():
        network(torch.randn(1, subject.channels, *size))
    return parameters, share_out(marks)


def _take_turns(
    runners: list[Steps], shapes: list[tuple[int, Size]], seconds: float, screen: Screen
) -> list[dict[str, Any]]:
    """Time every network in turn, round after round, so that whatever else the machine does falls on all of them."""
    pictures = [steps.pictures(*shape) for steps, shape in zip(runners, shapes, strict=True)]
    begin = time.perf_counter()
    with screen.bar("warming up", len(runners)) as bar:  # the first step chooses kernels and grows the heap
        for steps, batch in zip(runners, pictures, strict=True):
            bar.advance(0, steps.subject.label)
            time_training(steps, batch)
            time_inference(steps, batch)
            bar.advance()
    one_round = time.perf_counter() - begin
    rounds = min(max(int(seconds * len(runners) / one_round), _ROUNDS[0]), _ROUNDS[1])
    training: list[list[dict[str, float]]] = [[] for _ in runners]
    inference: list[list[float]] = [[] for _ in runners]
    with screen.bar("time", rounds * len(runners)) as bar:
        for _ in range(rounds):
            for i, (steps, batch) in enumerate(zip(runners, pictures, strict=True)):
                bar.advance(0, steps.subject.label)
                training[i].append(time_training(steps, batch))
                inference[i].append(time_inference(steps, batch))
                bar.advance()
    return [_summarise(*samples) for samples in zip(training, inference, strict=True)]


def _summarise(training: list[dict[str, float]], inference: list[float]) -> dict[str, Any]:
    return {
        "training": Timing(tuple(sum(stages.values()) for stages in training)),
        "inference": Timing(tuple(inference)),
        "stage_seconds": {stage: median(stages[stage] for stages in training) for stage in training[0]},
    }
