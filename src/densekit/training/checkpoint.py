"""Checkpoints: one safetensors file with all that changes while training, written whole or not at all."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from densekit.errors import CheckpointError
from densekit.files import write_tensors
from densekit.training.history import score


@dataclass
class Progress:
    """How far a run has come; plain numbers only."""

    epoch: int = 0  # epochs finished
    step: int = 0  # steps done in the current epoch
    loss_sum: float = 0.0  # of the current epoch, over pictures
    correct: float = 0.0
    pictures: int = 0
    seconds: float = 0.0  # spent on the current epoch
    accumulate: int = 1
    processes: int = 1  # that train together; a step takes a batch of each
    train_pictures: int = 0  # of the whole training set
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)  # path -> reason
    scaler: dict[str, Any] = field(default_factory=dict)  # of fp16 gradients

    def finish_epoch(self, row: dict[str, Any]) -> bool:
        """Add the figures of an epoch to the history, and return whether it is the best so far.

        The best has the highest validation accuracy, or mean average precision where a picture may have several labels,
        and of equals the lowest loss; without validation it is the last.
        """
        best = self.history[self.best_epoch - 1] if self.best_epoch else None
        self.history.append(row)
        keep = best is None or row["val_loss"] is None or _rank(row) > _rank(best)
        if keep:
            self.best_epoch = row["epoch"]
        self.epoch = row["epoch"]
        self.begin_epoch()
        return keep

    def begin_epoch(self) -> None:
        """Forget the steps of the current epoch."""
        self.step, self.seconds = 0, 0.0
        self.loss_sum, self.correct, self.pictures = 0.0, 0.0, 0


def _rank(row: dict[str, Any]) -> tuple[float, float]:
    return score(row) or 0.0, -row["val_loss"]


@dataclass
class TrainingState:
    """All that changes while training: network, average of the weights, optimizer, progress."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    progress: Progress

    @property
    def result(self) -> nn.Module:
        """The network to validate and keep: the average where there is one."""
        return self.network if self.average is None else self.average.module


def save_checkpoint(path: Path, state: TrainingState) -> None:
    """Write a checkpoint, with the state of torch's random numbers."""
    tensors = {f"network.{key}": value for key, value in state.network.state_dict().items()}
    if state.average is not None:
        tensors |= {f"average.{key}": value for key, value in state.average.state_dict().items()}
    for number, slots in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": v for name, v in slots.items() if isinstance(v, Tensor)}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    # safetensors takes neither strided tensors nor two names for one memory
    plain = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    metadata = {"progress": json.dumps(vars(state.progress))}
    write_tensors(path, plain, metadata)


def load_checkpoint(path: Path, state: TrainingState) -> None:
    """Bring ``state`` and torch's random numbers to where the checkpoint was written.

    Raises:
        CheckpointError: the file is missing, damaged, or of a run with other settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            state.progress = Progress(**json.loads(file.metadata()["progress"]))
        state.network.load_state_dict(_under("network.", tensors))
        if state.average is not None:
            state.average.load_state_dict(_under("average.", tensors))
        _load_optimizer(state.optimizer, _under("optimizer.", tensors))
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"cannot resume from {path}: {reason}") from None
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        slots.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
