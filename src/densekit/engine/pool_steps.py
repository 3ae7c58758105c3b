"""The steps of transitions and stems: batch norm, ReLU and pooling, and their gradients, in plain PyTorch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from densekit.engine.row_steps import RowSteps
from densekit.engine.tile_steps import flat


class PoolSteps(RowSteps):
    """The steps in plain PyTorch, over tiles of pictures that stay in the processor's cache."""

    def bnrelu_avg_pool(self, x: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the 2x2 means of ``relu(x * scale + shift)``, (N, H // 2, W // 2, C); an odd last line is left out.

        Args:
            x: (N, H, W, C).
            scale: (C,).
            shift: (C,).
            dtype: of the result.
        """
        N, H, W, C = x.shape
        pooled = torch.empty(N, H // 2, W // 2, C, dtype=dtype, device=x.device)
        for pictures in self.tiles(x):
            tile = x[pictures]
            activated = self.bnrelu(flat(tile), scale, shift, out=pooled.new_empty(flat(tile).shape)).view(tile.shape)
            pooled[pictures] = F.avg_pool2d(activated.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        return pooled

    def bnrelu_avg_pool_backward(
        self, dpooled: Tensor, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Differentiate `bnrelu_avg_pool` up to batch norm.

        Args:
            dpooled: (N, H // 2, W // 2, C) gradient of the pooled features.
            x: (N, H, W, C), as in the forward pass.
            scale: (C,), likewise.
            shift: (C,), likewise.
            mean: (C,), what batch norm subtracted.

        Returns:
            The masked gradient (N, H, W, C), and its sums as of `drelu_sums`.
        """
        _, H, W, C = x.shape
        h, w = H // 2, W // 2
        gradient = dpooled.new_empty(x.shape)
        gradient[:, 2 * h :] = 0
        gradient[:, :, 2 * w :] = 0
        sums = torch.zeros(2, C, dtype=mean.dtype, device=mean.device)
        for pictures in self.tiles(x):
            inner = gradient[pictures, : 2 * h, : 2 * w].unflatten(2, (w, 2)).unflatten(1, (h, 2))
            inner.copy_((dpooled[pictures] / 4)[:, :, None, :, None])  # (n, h, 2, w, 2, C)
            tile = flat(gradient[pictures])
            sums += self.drelu_sums(tile, flat(x[pictures]), scale, shift, mean, out=tile)
        return gradient, sums

    def bnrelu_max_pool(self, x: Tensor, scale: Tensor, shift: Tensor, out: Tensor, *, locate: bool) -> Tensor | None:
        """Write the largest of 3x3 pixels of ``relu(x * scale + shift)`` to ``out``, every second pixel.

        Args:
            x: (N, H, W, C).
            scale: (C,).
            shift: (C,).
            out: (N, h, w, C), half of the lines and columns, rounded up.
            locate: whether the places are wanted.

        Returns:
            Where each of them was, 0 to 8 in reading order, uint8 (N, h, w, C); if it is wanted.
        """
        places = torch.empty(out.shape, dtype=torch.uint8, device=x.device) if locate else None
        top, left = _corners(out)
        for pictures in self.tiles(x):
            tile = x[pictures]
            activated = self.bnrelu(flat(tile), scale, shift, out=out.new_empty(flat(tile).shape)).view(tile.shape)
            largest, pixels = F.max_pool2d(activated.permute(0, 3, 1, 2), 3, 2, 1, return_indices=True)
            out[pictures] = largest.permute(0, 2, 3, 1)
            if places is not None:
                pixels = pixels.permute(0, 2, 3, 1)
                width = x.shape[2]
                places[pictures] = (pixels // width - top) * 3 + (pixels % width - left)
        return places

    def bnrelu_max_pool_backward(
        self, dpooled: Tensor, places: Tensor, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Differentiate `bnrelu_max_pool` up to batch norm.

        Args:
            dpooled: (N, h, w, C) gradient of the pooled features.
            places: (N, h, w, C), where they come from.
            x: (N, H, W, C), as in the forward pass.
            scale: (C,), likewise.
            shift: (C,), likewise.
            mean: (C,), what batch norm subtracted.

        Returns:
            The masked gradient (N, H, W, C), and its sums as of `drelu_sums`.
        """
        gradient = dpooled.new_empty(x.shape)
        sums = torch.zeros(2, x.shape[-1], dtype=mean.dtype, device=mean.device)
        top, left = _corners(dpooled)
        window = [3, 3], [2, 2], [1, 1], [1, 1], False
        for pictures in self.tiles(x):
            place = places[pictures].long()
            pixels = (top + place // 3) * x.shape[2] + left + place % 3
            incoming, tile, pixels = (t.permute(0, 3, 1, 2) for t in (dpooled[pictures], gradient[pictures], pixels))
            tile.copy_(torch.ops.aten.max_pool2d_with_indices_backward(incoming, tile, *window, pixels))
            rows = flat(gradient[pictures])
            sums += self.drelu_sums(rows, flat(x[pictures]), scale, shift, mean, out=rows)
        return gradient, sums


def _corners(pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first line and the first column of the 3x3 pixels behind each of (N, h, w, C), to be broadcast."""
    lines, columns = (2 * torch.arange(pooled.shape[axis], device=pooled.device) - 1 for axis in (1, 2))
    return lines[:, None, None], columns[:, None]
