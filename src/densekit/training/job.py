"""Job: what one training run is made of, put together before it starts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.batches import EpochBatches
from densekit.data.loaders import PictureLoader
from densekit.training.checkpoint import TrainingState
from densekit.training.reporter import Reporter
from densekit.training.run_folder import RunFolder
from densekit.training.schedules import Schedule
from densekit.training.settings import TrainSettings

OnEpoch = Callable[[dict[str, Any]], object]
"""Called with the figures of each finished epoch, a line of history.csv; what it raises ends the run."""


@dataclass
class Job:
    """What stays the same while one run trains."""

    settings: TrainSettings
    state: TrainingState
    forward: Callable[[Tensor], Tensor]  # the network, possibly compiled or distributed
    batches: EpochBatches
    loader: PictureLoader
    val_loader: PictureLoader | None
    schedule: Schedule
    class_weights: Tensor | None  # (K,) of the loss
    accelerator: Accelerator
    classifier: Classifier  # of the network to keep
    run: RunFolder
    reporter: Reporter
    screen: Screen
    on_epoch: OnEpoch | None = None

    def close(self) -> None:
        """End the processes that load pictures."""
        for loader in filter(None, (self.loader, self.val_loader)):
            loader.close()

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return len(self.classifier.classes)
