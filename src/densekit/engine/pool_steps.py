"""The steps of transitions and stems: batch norm, ReLU and pooling, and their gradients, in plain PyTorch.

Pictures (N, H, W, C) with 2x2 or 3x3 pixels stand for volumes (N, D, H, W, C) too, which have one more axis.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from densekit.engine.batch_norm import FoldedNorm
from densekit.engine.row_steps import RowSteps
from densekit.engine.tile_steps import flat


class PoolSteps(RowSteps):
    """The steps in plain PyTorch, over tiles of pictures that stay in the processor's cache."""

    def bnrelu_avg_pool(self, x: Tensor, norm: FoldedNorm, dtype: torch.dtype) -> Tensor:
        """Return the 2x2 means of ``relu(norm(x))``, (N, H // 2, W // 2, C), without an odd last line.

        Args:
            x: (N, H, W, C).
            norm: of (C,).
            dtype: of the result.
        """
        N, *size, C = x.shape
        pooled = torch.empty(N, *(side // 2 for side in size), C, dtype=dtype, device=x.device)
        average = F.avg_pool2d if x.dim() == 4 else F.avg_pool3d
        # PyTorch has no average pooling of volumes in half types on a CPU
        through = norm.scale.dtype if x.dim() == 5 and x.device.type == "cpu" else dtype
        for pictures in self.tiles(x):
            tile = x[pictures]
            out = pooled.new_empty(flat(tile).shape, dtype=through)
            activated = self.bnrelu(flat(tile), norm, out=out).view(tile.shape)
            pooled[pictures] = average(activated.movedim(-1, 1), 2).movedim(1, -1)
        return pooled

    def bnrelu_avg_pool_backward(self, dpooled: Tensor, x: Tensor, norm: FoldedNorm) -> tuple[Tensor, Tensor]:
        """Differentiate `bnrelu_avg_pool` up to batch norm.

        Args:
            dpooled: (N, H // 2, W // 2, C) gradient of the pooled features.
            x: (N, H, W, C), as in the forward pass.
            norm: likewise.

        Returns:
            The masked gradient (N, H, W, C), and its sums as of `drelu_sums`.
        """
        halves = dpooled.shape[1:-1]
        gradient = dpooled.new_empty(x.shape)
        for axis, half in enumerate(halves, start=1):
            gradient.narrow(axis, 2 * half, x.shape[axis] - 2 * half).zero_()
        sums = norm.mean.new_zeros(2, len(norm.mean))
        for pictures in self.tiles(x):
            inner, spread = gradient[pictures], dpooled[pictures] / 2 ** len(halves)
            for axis, half in reversed(list(enumerate(halves, start=1))):
                inner = inner.narrow(axis, 0, 2 * half).unflatten(axis, (half, 2))
                spread = spread.unsqueeze(axis + 1)
            inner.copy_(spread)  # (n, h, 2, w, 2, C) from (n, h, 1, w, 1, C)
            tile = flat(gradient[pictures])
            sums += self.drelu_sums(tile, flat(x[pictures]), norm, out=tile)
        return gradient, sums

    def bnrelu_max_pool(self, x: Tensor, norm: FoldedNorm, out: Tensor, *, return_indices: bool) -> Tensor | None:
        """Write the largest of 3x3 pixels of ``relu(norm(x))`` to ``out``, every second pixel.

        Args:
            x: (N, H, W, C).
            norm: of (C,).
            out: (N, h, w, C), half of the lines and columns, rounded up.
            return_indices: whether the indices are wanted.

        Returns:
            The place of each maximum, 0 to 8 in reading order, uint8 (N, h, w, C), if wanted.
        """
        indices = torch.empty(out.shape, dtype=torch.uint8, device=x.device) if return_indices else None
        largest_of = F.max_pool2d if x.dim() == 4 else F.max_pool3d
        for pictures in self.tiles(x):
            tile = x[pictures]
            activated = self.bnrelu(flat(tile), norm, out=out.new_empty(flat(tile).shape)).view(tile.shape)
            largest, pixels = largest_of(activated.movedim(-1, 1), 3, 2, 1, return_indices=True)
            out[pictures] = largest.movedim(1, -1)
            if indices is not None:
                indices[pictures] = _places(pixels.movedim(1, -1), x.shape[1:-1])
        return indices

    def bnrelu_max_pool_backward(
        self, dpooled: Tensor, indices: Tensor, x: Tensor, norm: FoldedNorm
    ) -> tuple[Tensor, Tensor]:
        """Differentiate `bnrelu_max_pool` up to batch norm.

        Args:
            dpooled: (N, h, w, C) gradient of the pooled features.
            indices: (N, h, w, C), of the maxima.
            x: (N, H, W, C), as in the forward pass.
            norm: likewise.

        Returns:
            The masked gradient (N, H, W, C), and its sums as of `drelu_sums`.
        """
        gradient, sums = dpooled.new_empty(x.shape), norm.mean.new_zeros(2, len(norm.mean))
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        if x.dim() > 4:
            backward = torch.ops.aten.max_pool3d_with_indices_backward
        window = *([number] * (x.dim() - 2) for number in (3, 2, 1, 1)), False
        for pictures in self.tiles(x):
            pixels = _pixels(indices[pictures], x.shape[1:-1])
            incoming, tile, pixels = (t.movedim(-1, 1) for t in (dpooled[pictures], gradient[pictures], pixels))
            tile.copy_(backward(incoming, tile, *window, pixels))
            rows = flat(gradient[pictures])
            sums += self.drelu_sums(rows, flat(x[pictures]), norm, out=rows)
        return gradient, sums


def _places(pixels: Tensor, size: Sequence[int]) -> Tensor:
    """Turn pixel numbers, in reading order within a picture of a size, into indices within the 3x3 windows."""
    indices = torch.zeros_like(pixels)
    for axis in reversed(range(len(size))):
        indices += 3 ** (len(size) - 1 - axis) * (pixels % size[axis] - _corners(pixels, axis))
        pixels = pixels // size[axis]
    return indices


def _pixels(indices: Tensor, size: Sequence[int]) -> Tensor:
    """Undo `_places`."""
    indices, step = indices.long(), 1
    pixels = torch.zeros_like(indices)
    for axis in reversed(range(len(size))):
        pixels += step * (indices % 3 + _corners(indices, axis))
        indices, step = indices // 3, step * size[axis]
    return pixels


def _corners(pooled: Tensor, axis: int) -> Tensor:
    """Return the first pixel of each 3x3 window along an axis of (N, h, w, C), to be broadcast."""
    first = 2 * torch.arange(pooled.shape[1 + axis], device=pooled.device) - 1
    return first.view(-1, *[1] * (pooled.dim() - 2 - axis))
