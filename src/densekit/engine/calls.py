"""What the fused modules share: a call, its statistics, shapes."""

from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from densekit.engine.ops import TorchOps
from densekit.engine.parts import Layer, NormState

Parts = TypeVar("Parts")


@dataclass(frozen=True)
class Call(Generic[Parts]):
    """One call of a fused module.

    Args:
        ops: the implementation of the fused steps.
        parts: what it computes: the layers of a block, the pair of a transition, the norm of a stem.
        dtype: in which convolutions run.
        trained: the norms that train, with the mean and the variance that they saw. Filled
            by the forward pass; running statistics are updated from it when all else has succeeded.
    """

    ops: TorchOps
    parts: Parts
    dtype: torch.dtype
    trained: list[tuple[nn.BatchNorm2d | nn.BatchNorm3d, Tensor, Tensor]] = field(default_factory=list)


def statistics(call: Call[Any], norm: NormState, moments: Tensor | None, *, keep: bool) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance that a norm subtracts and divides by: the batch's, (2, c), if it trains.

    Stored ones may change before a backward pass, so those to ``keep`` for it are copies.
    """
    if not norm.trains:
        mean, var = norm.stored.mean, norm.stored.var
        return (mean.clone(), var.clone()) if keep else (mean, var)
    assert moments is not None
    mean, var = moments
    if norm.module.track_running_stats:
        call.trained.append((norm.module, mean, var))
    return mean, var


@torch.no_grad()
def update_running_statistics(call: Call[Any], count: int) -> None:
    """Count the batch in the running statistics of every norm that trained, as `nn.BatchNorm2d` does.

    Args:
        call: after its forward pass.
        count: number of values per channel.
    """
    times: Counter[nn.Module] = Counter()  # how often a norm has come up: layers may share one
    rounds: dict[tuple[int, float], list[tuple[Tensor, Tensor]]] = {}
    for norm, mean, var in call.trained:
        momentum = norm.momentum
        if momentum is None and norm.num_batches_tracked is not None:
            momentum = 1 / float(norm.num_batches_tracked + times[norm] + 1)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        # .data hides the change from autograd, as PyTorch's batch norm does: another graph may have saved the buffers
        pairs = (norm.running_mean.data, mean), (norm.running_var.data, var * (count / (count - 1)))
        rounds.setdefault((times[norm], momentum or 0.0), []).extend(pairs)
        times[norm] += 1
    buffers: list[Tensor] = []
    updated: dict[int, Tensor] = {}  # by address; nothing is written while memory may still run out
    for (_, momentum), pairs in rounds.items():  # in one call: there are two buffers for every norm of a block
        running, seen = zip(*pairs, strict=True)
        places = [buffer.data_ptr() for buffer in running]
        old = [updated.get(place, buffer).to(new.dtype) for place, (buffer, new) in zip(places, pairs, strict=True)]
        new = torch._foreach_lerp(old, seen, momentum)  # pyright: ignore[reportPrivateImportUsage]
        updated.update(zip(places, new, strict=True))
        buffers += running
    if buffers:
        new = [updated[buffer.data_ptr()] for buffer in buffers]
        torch._foreach_copy_(buffers, new)  # pyright: ignore[reportPrivateImportUsage]
    for norm, _, _ in call.trained:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)


def growth(layer: Layer) -> int:
    """Return the number of channels that a dense layer adds."""
    return layer[-1].weight.shape[0]


def pixels(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C), contiguous: a view where the memory is channels last. Likewise in 3-D."""
    return images.movedim(1, -1).contiguous()


def channels_last(images: Tensor) -> torch.memory_format:
    """Return the layout in which the channels of a pixel, or of a volume's voxel, lie side by side."""
    return torch.channels_last if images.dim() == 4 else torch.channels_last_3d


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Let every operation run in the types it is given: the fused steps choose theirs themselves."""
    return torch.autocast(x.device.type, enabled=False)
