"""The step that is measured: one of `densekit train`'s with its default optimizer, on random pictures."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from densekit.engine.swap import fuse
from densekit.errors import DensekitError, SettingsError
from densekit.profiling.subject import Size, Subject


class Steps:
    """A network on its device, ready to take steps.

    The learning rate is 0: the work is that of any other, and random pictures do not ruin the weights.

    Args:
        subject: which network.
        device: where it runs.
        precision: "fp32" or "bf16".
    """

    def __init__(self, subject: Subject, device: torch.device, precision: str):
        self.subject, self.device, self.precision = subject, device, precision
        self.network = subject.make(device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.0, momentum=0.9, nesterov=True)
        for parameter in self.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()  # the momentum is there from the first measured step on
        self.optimizer.zero_grad()
        if subject.fused:
            fuse(self.network)

    @property
    def fixed_bytes(self) -> int:
        """What parameters, buffers and optimizer take between two steps."""
        state = [value for entry in self.optimizer.state.values() for value in entry.values()]
        tensors = [*self.network.parameters(), *self.network.buffers(), *state]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))

    def pictures(self, batch: int, size: Size) -> Tensor:
        """Return random pictures, (batch, C, H, W)."""
        shape = (batch, self.subject.channels, *size)
        return torch.randn(shape, device=self.device).contiguous(memory_format=torch.channels_last)

    def train(self, pictures: Tensor) -> None:
        """Take one training step on (N, C, H, W): forward, loss, backward, update.

        Raises:
            SettingsError: the network cannot take such pictures, or memory runs out.
        """
        self.network.train()
        with _refusals(self.subject, pictures):
            labels = torch.zeros(len(pictures), dtype=torch.long, device=self.device)
            with self._autocast():
                logits = self.network(pictures)
            F.cross_entropy(logits.float(), labels).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    @torch.inference_mode()
    def infer(self, pictures: Tensor) -> None:
        """Classify pictures, (N, C, H, W)."""
        self.network.eval()
        with self._autocast():
            self.network(pictures)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


@contextmanager
def _refusals(subject: Subject, pictures: Tensor) -> Iterator[None]:
    """Turn what other libraries' networks say against an input, or an allocator against its size, into one line."""
    try:
        yield
    except DensekitError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        count, _, height, width = pictures.shape
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise SettingsError(
            f"{subject.label} cannot be trained on {count} pictures of {height}x{width}: {reason}"
        ) from error
