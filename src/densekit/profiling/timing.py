"""Time of a step and of its stages."""

import time
from typing import Any

import torch
from torch import Tensor

from densekit.profiling.stages import UPDATE, Direction, marked, share_out
from densekit.profiling.step import Steps


def time_training(steps: Steps, pictures: Tensor) -> dict[str, float]:
    """Take a training step on (N, C, H, W) and return the seconds of each stage, forward and backward together."""
    marks: list[tuple[str, Direction | None, Any]] = []

    def note(stage: str, direction: Direction | None, part: Any = None) -> None:
        marks.append((stage, direction, _stamp(steps.device)))

    update = steps.optimizer.register_step_pre_hook(lambda *_: note(UPDATE, None))
    with marked(steps.network, note):
        _wait(steps.device)
        note(UPDATE, None)
        steps.train(pictures)
        note(UPDATE, None)
    update.remove()
    seconds = _seconds([stamp for *_, stamp in marks], steps.device)
    return share_out([(stage, way, at) for (stage, way, _), at in zip(marks, seconds, strict=True)])


def time_inference(steps: Steps, pictures: Tensor) -> float:
    """Classify (N, C, H, W) and return the seconds it took."""
    _wait(steps.device)
    begin = _stamp(steps.device)
    steps.infer(pictures)
    return _seconds([begin, _stamp(steps.device)], steps.device)[-1]


def _stamp(device: torch.device) -> Any:
    """Return the time, or on a GPU, which works behind the program, an event that will know it."""
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.Event(device, enable_timing=True)
    event.record()
    return event


def _seconds(stamps: list[Any], device: torch.device) -> list[float]:
    """Return when each stamp was made, in seconds after the first."""
    if device.type == "cpu":
        return [stamp - stamps[0] for stamp in stamps]
    _wait(device)
    return [0.0, *(stamps[0].elapsed_time(stamp) / 1e3 for stamp in stamps[1:])]


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
