"""Memory of a training step, predicted from two small ones.

At any moment of a step, what lives grows by the same for every picture more. So two small steps give a line for the
highest moment of each piece of the step, and the highest of all lines is the peak at a larger batch.
"""

import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from densekit.profiling.stages import UPDATE, Direction, marked, share_out
from densekit.profiling.step import Steps
from densekit.profiling.subject import Size

SMALL, LARGER = 2, 4  # pictures; batch norm cannot train on one value a channel


@dataclass(frozen=True)
class Prediction:
    """Memory of a network's training step at one picture size; all in bytes.

    Args:
        size: of the pictures.
        fixed: parameters, buffers and optimizer.
        lines: what lives besides in each piece of the step, at `SMALL` and at `LARGER` pictures.
        kept: what the forward pass leaves for the backward pass, by stage, for one picture.
    """

    size: Size
    fixed: int
    lines: tuple[tuple[int, int], ...]
    kept: dict[str, float]

    def peak(self, batch: int) -> int:
        """Return the most that lives at any moment of a step with ``batch`` pictures."""
        further = (batch - SMALL) / (LARGER - SMALL)
        return self.fixed + round(max(low + (high - low) * further for low, high in self.lines))

    def largest_batch(self, memory: int) -> int:
        """Return how many pictures a step may have at most to stay within ``memory``; 0: not even one."""
        low, high = 0, 1
        while self.peak(high) <= memory:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.peak(middle) <= memory else (low, middle)
        return low


class LiveBytes(TorchDispatchMode):
    """Follow the bytes of tensors that were made while it is on and still live.

    Attributes:
        live: the bytes at this moment.
        highest: the most since it was last reset.
    """

    may_miss_operations = True  # tensors are what it follows: the fused block may compute past it, in C++

    def __init__(self) -> None:
        super().__init__()
        self.live = self.highest = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count the storages that it made."""
        kwargs = kwargs or {}
        before = {_storage(leaf)._cdata for leaf in tree_iter((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **kwargs)
        for leaf in tree_iter(out):
            if isinstance(leaf, Tensor):
                storage = _storage(leaf)
                if storage._cdata not in before | self._known:
                    self._add(storage)
        return out

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.live += size
        self.highest = max(self.highest, self.live)
        weakref.finalize(storage, self._remove, key, size).atexit = False

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def predict_memory(steps: Steps, size: Size) -> Prediction:
    """Predict the memory of training steps on pictures of one size, from two steps of a few pictures.

    Counts what PyTorch allocates for tensors. What libraries take besides for their own work is not seen: some 10 MB,
    which is much beside a tiny network and little beside a usual one.

    Raises:
        SettingsError: the network cannot take such pictures, or there is too little memory for `LARGER` of them.
    """
    (low, kept_low), (high, kept_high) = (_follow(steps, batch, size) for batch in (SMALL, LARGER))
    kept = {stage: (kept_high[stage] - kept_low[stage]) / (LARGER - SMALL) for stage in kept_high}
    return Prediction(size, steps.fixed_bytes, tuple(zip(low, high, strict=True)), kept)


def _follow(steps: Steps, batch: int, size: Size) -> tuple[list[int], dict[str, float]]:
    """Return the highest level of every piece of a step, and what each stage keeps after its forward pass."""
    live, peaks = LiveBytes(), []
    marks: list[tuple[str, Direction | None, float]] = []

    def note(stage: str, direction: Direction | None, part: Any = None) -> None:
        marks.append((stage, direction, live.live))
        peaks.append(live.highest)
        live.highest = live.live

    note(UPDATE, None)
    with live, marked(steps.network, note):
        steps.train(steps.pictures(batch, size))
    note(UPDATE, None)
    forward = [mark for mark in marks if mark[1] != "backward"][:-1]
    return peaks, share_out(forward)


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()
