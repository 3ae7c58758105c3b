"""What several processes that train one network tell each other; one process alone is spared it."""

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn

from densekit.data.loaders import Batch
from densekit.errors import TrainingError
from densekit.evaluation.outcomes import Outcomes


def summed(values: Tensor, accelerator: Accelerator) -> Tensor:
    """Return the sum over all processes, the same in each."""
    if accelerator.num_processes == 1:
        return values
    return accelerator.reduce(values, "sum")  # pyright: ignore[reportReturnType] (a tensor for a tensor)


def share_buffers(network: nn.Module, accelerator: Accelerator) -> None:
    """Give every process the main one's batch-norm statistics: those are saved, so those are to be validated."""
    if accelerator.num_processes > 1:
        for buffer in network.buffers():
            buffer.copy_(broadcast(buffer))  # pyright: ignore[reportArgumentType]


def joined(outcomes: Outcomes, accelerator: Accelerator) -> Outcomes:
    """Return the outcomes of all processes, each of which has looked at its share of the pictures."""
    if accelerator.num_processes == 1:
        return outcomes
    shares = gather_object([outcomes])
    some = [share for share in shares if len(share)] or shares  # one without pictures does not know the classes
    logits, labels, index = (torch.cat([getattr(s, name) for s in some]) for name in ("logits", "labels", "index"))
    return Outcomes(logits, labels, index, tuple(line for share in shares for line in share.unreadable))


def all_unreadable(unreadable: dict[str, str], accelerator: Accelerator) -> dict[str, str]:
    """Return what any process could not read: path -> reason."""
    if accelerator.num_processes == 1:
        return unreadable
    return {path: reason for share in gather_object([unreadable]) for path, reason in share.items()}


def fill_up(batch: Batch, accelerator: Accelerator) -> Batch:
    """Return a batch that batch norm can learn from, since all processes take every step together.

    Raises:
        TrainingError: none of its pictures could be read.
    """
    if accelerator.num_processes == 1 or len(batch.labels) > 1:
        return batch
    if not len(batch.labels):
        raise TrainingError(
            f"none of the pictures of a batch can be read, first {batch.unreadable[0]}: several processes "
            "cannot leave out a step; remove these files, or train in one process"
        )
    return batch._replace(pictures=batch.pictures.repeat(2, 1, 1, 1), labels=torch.cat([batch.labels, batch.labels]))
