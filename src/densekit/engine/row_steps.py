"""The memory-bound steps of the fused dense block, over the rows of matrices, in plain PyTorch: their definition.

A matrix (P, c) has one row per pixel of the batch and one column per channel; rows may be strided, so that the features
of all layers so far are the first columns of one wide matrix. Vectors of one value per channel (means, scales, sums)
are of the accumulation type: float64 for float64, otherwise float32. Every sum runs in a fixed order: the same input
gives the same bits, on the same number of threads.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from densekit.engine.batch_norm import FoldedNorm, accumulation_dtype


class RowSteps:
    """The steps in plain PyTorch.

    Attributes:
        tile_values: how many values of a matrix a CPU processes at a time, so that they stay in its cache.
    """

    tile_values = 1 << 18  # float32: 1 MiB, half of a usual second-level cache

    def tiles(self, x: Tensor) -> Iterator[slice]:
        """Yield slices of the first axis: cache-sized on a CPU, everything at once elsewhere.

        A tile of volumes has at least two if there are two: PyTorch's convolution of a single one is slow.
        """
        length = max(1, self.tile_values * len(x) // max(1, x.numel())) if x.device.type == "cpu" else len(x)
        if x.dim() == 5:
            parts = max(1, len(x) // max(2, length))
            bounds = [len(x) * part // parts for part in range(parts + 1)]
        else:
            bounds = [*range(0, len(x), length), len(x)]
        yield from map(slice, bounds, bounds[1:])

    def tile_moments(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return mean and biased variance of every column of ``x`` as float64 (2, c); copy ``x`` to ``out`` on the way.

        Two passes over differences from a pivot: no large numbers are subtracted from each other, so the variance keeps
        its digits however far the mean is from zero.
        """
        if out is not None:
            out.copy_(x)
        dtype = accumulation_dtype(x.dtype)
        pivot = x.mean(0, dtype=dtype)
        centred = x.to(dtype) - pivot
        rest = centred.mean(0)
        return torch.stack([pivot.double() + rest, centred.sub_(rest).square_().mean(0).double()])

    def bnrelu(self, x: Tensor, norm: FoldedNorm, out: Tensor) -> Tensor:
        """Write ``relu(norm(x))`` to ``out``, which may be ``x``; both (P, c)."""
        for rows in self.tiles(x):
            tile = x[rows].to(norm.scale.dtype)
            out[rows] = torch.addcmul(norm.shift, tile, norm.scale).relu_()  # NaN stays NaN, as in stock
        return out

    def drelu_sums(
        self,
        gradient: Tensor,
        x: Tensor,
        norm: FoldedNorm,
        *,
        source: Tensor | None = None,
        out: Tensor,
    ) -> Tensor:
        """Differentiate `bnrelu` up to batch norm: D is ``gradient`` where the ReLU was on, and zero elsewhere.

        Args:
            gradient: (P, c).
            x: (P, c), as in the forward pass; where it is NaN the gradient passes.
            norm: likewise.
            source: (P, c), to be added to.
            out: (P, c), becomes D; or, where there is a ``source``, ``source + scale * D``. May be one of the others.

        Returns:
            The column sums ``sum D`` and ``sum D (x - mean)``, (2, c): the gradient of the shift, and of the scale
            over ``1/std``.
        """
        mean, _, scale, shift = norm
        sums = mean.new_zeros(2, len(mean))
        for rows in self.tiles(x):
            tile = x[rows].to(mean.dtype)
            before_relu = torch.addcmul(shift, tile, scale)
            masked = torch.ops.aten.threshold_backward(gradient[rows].to(mean.dtype), before_relu, 0)
            sums[0] += masked.sum(0)
            sums[1] += (tile - mean).mul_(masked).sum(0)
            out[rows] = masked if source is None else torch.addcmul(source[rows].to(mean.dtype), masked, scale)
        return sums

    def bn_gradient(self, gradient: Tensor, x: Tensor, norm: FoldedNorm, terms: Tensor, out: Tensor) -> Tensor:
        """Write ``scale * gradient - terms[0] - (x - mean) * terms[1]``: the terms stem from the batch's own moments.

        Args:
            gradient: (P, c).
            x: (P, c), values before batch norm.
            norm: whose mean and scale these are.
            terms: (2, c), see `batch_norm.moment_terms`.
            out: (P, c), may be ``gradient``.
        """
        dtype = norm.scale.dtype
        for rows in self.tiles(x):
            part = torch.addcmul(-terms[0], gradient[rows].to(dtype), norm.scale)
            out[rows] = part.addcmul_(x[rows].to(dtype) - norm.mean, terms[1], value=-1)
        return out
