"""The steps over rows and over pooled pixels on a CPU, compiled."""

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from densekit.engine.batch_norm import FoldedNorm
from densekit.engine.exported_steps import find_steps
from densekit.engine.pool_steps import PoolSteps
from densekit.engine.row_steps import RowSteps
from densekit.engine.step_structs import PoolSize, RowsSize, activation_of, lines_of, matrix_of, vector_of


class CompiledRowSteps(RowSteps):
    """The row steps, each one pass over the rows. What the library lacks (float16, mixed types) runs as in `RowSteps`.

    Args:
        library: the C++ files, compiled.
    """

    def __init__(self, library: ctypes.CDLL):
        self._steps = find_steps(library)

    def _find(self, step: str, *matrices: Tensor | None) -> Callable[..., None] | None:
        """Return the compiled step for these matrices, or None where it has to be PyTorch's."""
        given = [matrix for matrix in matrices if matrix is not None]
        dtype = given[0].dtype
        if any(m.dtype != dtype or m.stride(-1) != 1 or m.dim() > 4 for m in given):
            return None
        return self._steps.get((step, dtype))

    def tile_moments(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """As `RowSteps.tile_moments`."""
        step = self._find("tile_moments", x, out)
        if step is None:
            return super().tile_moments(x, out)
        moments = torch.empty(2, x.shape[1], dtype=torch.float64, device="cpu")
        step(_rows_size(x), matrix_of(x), matrix_of(out), vector_of(moments))
        return moments

    def bnrelu(self, x: Tensor, norm: FoldedNorm, out: Tensor) -> Tensor:
        """As `RowSteps.bnrelu`."""
        step = self._find("bnrelu", x, out)
        if step is None:
            return super().bnrelu(x, norm, out)
        step(_rows_size(x), matrix_of(x), activation_of(norm), matrix_of(out))
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
        """As `RowSteps.drelu_sums`."""
        step = self._find("drelu_sums", gradient, x, source, out)
        if step is None:
            return super().drelu_sums(gradient, x, norm, source=source, out=out)
        sums = norm.mean.new_empty(2, len(norm.mean))
        forward = (matrix_of(x), activation_of(norm), vector_of(norm.mean))
        step(_rows_size(x), matrix_of(gradient), *forward, matrix_of(source), matrix_of(out), vector_of(sums))
        return sums

    def bn_gradient(self, gradient: Tensor, x: Tensor, norm: FoldedNorm, terms: Tensor, out: Tensor) -> Tensor:
        """As `RowSteps.bn_gradient`."""
        step = self._find("bn_gradient", gradient, x, out)
        if step is None:
            return super().bn_gradient(gradient, x, norm, terms, out)
        vectors = (vector_of(norm.mean), vector_of(norm.scale), matrix_of(terms))
        step(_rows_size(x), matrix_of(gradient), matrix_of(x), *vectors, matrix_of(out))
        return out


class CompiledPoolSteps(CompiledRowSteps, PoolSteps):
    """The pooling steps, each one pass over the lines of pictures."""

    def bnrelu_avg_pool(self, x: Tensor, norm: FoldedNorm, dtype: torch.dtype) -> Tensor:
        """As `PoolSteps.bnrelu_avg_pool`; volumes go slice by slice, which rounds half types once more."""
        if x.dim() == 5 and dtype == x.dtype:
            slices = self.bnrelu_avg_pool(x.flatten(0, 1), norm, dtype).unflatten(0, x.shape[:2])
            pairs = slices[:, : x.shape[1] // 2 * 2]  # (N, 2 d, h, w, C)
            return (pairs[:, ::2] / 2).add_(pairs[:, 1::2], alpha=0.5)
        step = self._find("bnrelu_avg_pool", x)
        if step is None or dtype != x.dtype:
            return super().bnrelu_avg_pool(x, norm, dtype)
        N, H, W, C = x.shape
        pooled = x.new_empty(N, H // 2, W // 2, C)
        step(_pool_size(x), lines_of(x), activation_of(norm), lines_of(pooled))
        return pooled

    def bnrelu_avg_pool_backward(self, dpooled: Tensor, x: Tensor, norm: FoldedNorm) -> tuple[Tensor, Tensor]:
        """As `PoolSteps.bnrelu_avg_pool_backward`."""
        if x.dim() == 5 and dpooled.dtype == x.dtype:
            dslices = dpooled.new_zeros(*x.shape[:2], *dpooled.shape[2:])  # an odd last slice gets no gradient
            dslices[:, : x.shape[1] // 2 * 2].unflatten(1, (-1, 2)).copy_(dpooled[:, :, None] / 2)
            gradient, sums = self.bnrelu_avg_pool_backward(dslices.flatten(0, 1), x.flatten(0, 1), norm)
            return gradient.view_as(x), sums
        step = self._find("bnrelu_avg_pool_backward", x, dpooled)
        if step is None:
            return super().bnrelu_avg_pool_backward(dpooled, x, norm)
        gradient, sums = torch.empty_like(x), norm.mean.new_empty(2, len(norm.mean))
        forward = (lines_of(x), activation_of(norm), vector_of(norm.mean))
        step(_pool_size(x), lines_of(dpooled), *forward, lines_of(gradient), vector_of(sums))
        return gradient, sums

    def bnrelu_max_pool(self, x: Tensor, norm: FoldedNorm, out: Tensor, *, return_indices: bool) -> Tensor | None:
        """As `PoolSteps.bnrelu_max_pool`."""
        step = self._find("bnrelu_max_pool", x, out)
        if step is None:
            return super().bnrelu_max_pool(x, norm, out, return_indices=return_indices)
        indices = torch.empty(out.shape, dtype=torch.uint8, device="cpu") if return_indices else None
        step(_pool_size(x), lines_of(x), activation_of(norm), lines_of(out), vector_of(indices))
        return indices

    def bnrelu_max_pool_backward(
        self, dpooled: Tensor, indices: Tensor, x: Tensor, norm: FoldedNorm
    ) -> tuple[Tensor, Tensor]:
        """As `PoolSteps.bnrelu_max_pool_backward`."""
        step = self._find("bnrelu_max_pool_backward", x, dpooled)
        if step is None:
            return super().bnrelu_max_pool_backward(dpooled, indices, x, norm)
        gradient, sums = torch.empty_like(x), norm.mean.new_empty(2, len(norm.mean))
        forward = (lines_of(x), activation_of(norm), vector_of(norm.mean))
        step(_pool_size(x), lines_of(dpooled), vector_of(indices), *forward, lines_of(gradient), vector_of(sums))
        return gradient, sums


def _rows_size(x: Tensor) -> RowsSize:
    return RowsSize(*x.shape, torch.get_num_threads())


def _pool_size(x: Tensor) -> PoolSize:
    return PoolSize(*x.shape, torch.get_num_threads())
