"""The steps of the fused dense block: products and convolutions of normalised features, and their gradients.

They work on tiles of rows or pictures that stay in the processor's cache from one operation to the next.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from densekit.engine.batch_norm import FoldedNorm, accumulation_dtype
from densekit.engine.row_steps import RowSteps


class TileSteps(RowSteps):
    """The steps in plain PyTorch."""

    def batch_moments(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return mean and biased variance of every column of ``x`` (P, c) as (2, c); ``out`` becomes a copy."""
        moments = _Moments()
        for rows in self.tiles(x):
            moments.add(self.tile_moments(x[rows], None if out is None else out[rows]), len(x[rows]))
        return moments.joined(accumulation_dtype(x.dtype))

    def bnrelu_conv1x1(
        self, x: Tensor, norm: FoldedNorm, weight: Tensor, *, with_moments: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Compute ``relu(norm(x)) @ weight.T``, a 1x1 convolution of normalised features.

        Args:
            x: (P, c), rows may be strided.
            norm: of (c,).
            weight: (m, c), in the type of the product.
            with_moments: whether the moments of the product are wanted.

        Returns:
            The product (P, m), and its `batch_moments` if they are wanted.
        """
        product, moments = weight.new_empty(len(x), len(weight)), _Moments()
        for rows in self.tiles(x):
            activated = self.bnrelu(x[rows], norm, out=weight.new_empty(x[rows].shape))
            multiply(activated, weight, out=product[rows])
            if with_moments:
                moments.add(self.tile_moments(product[rows]), len(activated))
        return product, moments.joined(norm.scale.dtype) if with_moments else None

    def conv1x1_backward(
        self,
        dz: Tensor,
        weight: Tensor,
        x: Tensor,
        norm: FoldedNorm,
        *,
        source: Tensor,
        out: Tensor | None,
        needs_dweight: bool,
    ) -> tuple[Tensor | None, Tensor]:
        """Differentiate `bnrelu_conv1x1`, and add its part to the gradient of ``x``.

        Args:
            dz: (P, m) gradient of the product.
            weight: (m, c).
            x: (P, c), as in the forward pass.
            norm: likewise.
            source: (P, c) gradient of ``x`` so far.
            out: (P, c), becomes ``source + scale * D``; may be ``source``; None if it is not wanted.
            needs_dweight: whether the weight's gradient is wanted.

        Returns:
            The weight's gradient (m, c), of the accumulation type, if it is wanted, and the sums of `drelu_sums`.
        """
        dweight, sums = norm.mean.new_zeros(weight.shape), norm.mean.new_zeros(2, len(norm.mean))
        for rows in self.tiles(x):
            tile = weight.new_empty(x[rows].shape)
            if needs_dweight:
                self.bnrelu(x[rows], norm, out=tile)
            gradient, more = multiply_backward(dz[rows], tile, weight, needs_dweight=needs_dweight)
            if more is not None:
                dweight += more
            onto = {"out": gradient} if out is None else {"source": source[rows], "out": out[rows]}
            sums += self.drelu_sums(gradient, x[rows], norm, **onto)
        return dweight if needs_dweight else None, sums

    def bnrelu_conv3x3(
        self, x: Tensor, norm: FoldedNorm, weight: Tensor, out: Tensor, *, with_moments: bool
    ) -> Tensor | None:
        """Write the 3x3 convolution of ``relu(norm(x))`` to ``out``.

        Args:
            x: (N, H, W, c), pixels may be strided.
            norm: of (c,).
            weight: (k, c, 3, 3), in the type of the convolution.
            out: (N, H, W, k), pixels may be strided.
            with_moments: whether the moments of the result are wanted.

        Returns:
            The `batch_moments` of the result, if they are wanted.
        """
        moments = _Moments()
        for pictures in self.tiles(x):
            tile = x[pictures]
            activated = self.bnrelu(flat(tile), norm, out=weight.new_empty(flat(tile).shape))
            self._write(convolve(activated.view(tile.shape), weight), out[pictures], moments if with_moments else None)
        return moments.joined(norm.scale.dtype) if with_moments else None

    def bnrelu_conv3x3_backward(
        self,
        dy: Tensor,
        x: Tensor,
        norm: FoldedNorm,
        weight: Tensor,
        *,
        source: Tensor | None = None,
        out: Tensor | None,
        needs_dweight: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Differentiate `bnrelu_conv3x3` up to batch norm.

        Args:
            dy: (N, H, W, k), in the type of the convolution.
            x: (N, H, W, c), as in the forward pass.
            norm: likewise.
            weight: (k, c, 3, 3), likewise.
            source: (N, H, W, c), see `drelu_sums`.
            out: (N, H, W, c), likewise; None if neither the gradient of ``x`` nor the sums are wanted.
            needs_dweight: whether the weight's gradient is wanted.

        Returns:
            The sums of `drelu_sums` and the weight's gradient, of the accumulation type, each if it is wanted.
        """
        dweight, sums = norm.mean.new_zeros(weight.shape), norm.mean.new_zeros(2, len(norm.mean))
        for pictures in self.tiles(x):
            tile = x[pictures]
            activated = self.bnrelu(flat(tile), norm, out=dy.new_empty(flat(tile).shape)).view(tile.shape)
            dactivated, more = self.convolve_backward(dy[pictures], activated, weight, out is not None, needs_dweight)
            if more is not None:
                dweight += more
            if dactivated is not None and out is not None:
                onto = None if source is None else flat(source[pictures])
                sums += self.drelu_sums(flat(dactivated), flat(tile), norm, source=onto, out=flat(out[pictures]))
        return None if out is None else sums, dweight if needs_dweight else None

    def convolve_backward(
        self, dy: Tensor, x: Tensor, weight: Tensor, wants_x: bool, needs_dweight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of a 3x3 convolution's input (N, H, W, c) and weight (k, c, 3, 3), each if wanted."""
        if needs_dweight and x.dim() == 5 and x.shape[1] == 2 and (x.device.type, x.dtype) == ("cpu", torch.bfloat16):
            # for two slices PyTorch's gradient of the weight contains uninitialised memory
            _, dweight = self.convolve_backward(dy.float(), x.float(), weight.float(), False, True)
            return self.convolve_backward(dy, x, weight, wants_x, False)[0], dweight
        one, mask = [1] * (weight.dim() - 2), [wants_x, needs_dweight, False]
        dx, dweight, _ = torch.ops.aten.convolution_backward(
            dy.movedim(-1, 1), x.movedim(-1, 1), weight, None, one, one, one, False, [0] * len(one), 1, mask
        )
        return None if dx is None else dx.movedim(1, -1).contiguous(), dweight

    def _write(self, result: Tensor, out: Tensor, moments: "_Moments | None") -> None:
        """Copy (N, H, W, k) to ``out``, and with_moments it if its moments are wanted."""
        if moments is None:
            out.copy_(result)
        else:
            result = flat(result).to(out.dtype)
            moments.add(self.tile_moments(result, flat(out)), len(result))


class _Moments:
    """Means and variances of tiles, joined by Chan's rule in float64.

    Source: Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, 1983, equation 2.1.
    """

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._counts: list[int] = []

    def add(self, moments: Tensor, count: int) -> None:
        """Take note of the moments (2, c) of ``count`` rows."""
        self._parts.append(moments)
        self._counts.append(count)

    def joined(self, dtype: torch.dtype) -> Tensor:
        """Return the moments of all rows, (2, c)."""
        if len(self._parts) == 1:
            return self._parts[0].to(dtype)
        means, variances = torch.stack(self._parts).unbind(1)  # (tiles, c)
        shares = torch.tensor(self._counts, dtype=means.dtype, device=means.device)[:, None] / sum(self._counts)
        mean = (shares * means).sum(0)
        return torch.stack([mean, (shares * (variances + (means - mean).square())).sum(0)]).to(dtype)


def flat(x: Tensor) -> Tensor:
    """(N, H, W, c) -> (P, c), a view."""
    return x.view(-1, x.shape[-1])


def kernels_like(matrix: Tensor, weight: Tensor) -> Tensor:
    """(m, c) -> (m, c, 1, 1), a view with the strides of ``weight``, which gradients that processes share must have."""
    kernels = matrix.contiguous().view_as(weight)
    return kernels.as_strided(weight.shape, weight.stride()) if weight.is_contiguous() else kernels


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """3x3 convolution that keeps the size: (N, H, W, c) -> (N, H, W, k); or 3x3x3, of volumes."""
    convolution = F.conv2d if x.dim() == 4 else F.conv3d
    return convolution(x.movedim(-1, 1), weight, padding=1).movedim(1, -1).contiguous()


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias`` of rows (P, c) and a weight (m, c), in ``out`` (P, m) if it is given.

    On a GPU it is computed as the 1x1 convolution that it is in the stock network, because PyTorch allows TF32 for
    convolutions and products separately. On a CPU the product is the faster of the two.
    """
    if not x.is_cuda:
        return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)
    product = flat(F.conv2d(_as_picture(x), _as_kernels(weight), bias).movedim(1, -1))
    return product if out is None else out.copy_(product)


def multiply_backward(dy: Tensor, x: Tensor, weight: Tensor, *, needs_dweight: bool) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of the rows (P, c) and, if wanted, of the weight (m, c) of `multiply`."""
    if not dy.is_cuda:
        return dy @ weight, dy.t() @ x if needs_dweight else None
    mask = [True, needs_dweight, False]
    dx, dweight, _ = torch.ops.aten.convolution_backward(
        _as_picture(dy), _as_picture(x), _as_kernels(weight), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, mask
    )
    return flat(dx.movedim(1, -1)), None if dweight is None else dweight.flatten(1)


def _as_picture(rows: Tensor) -> Tensor:
    """(P, c) -> (1, c, P, 1), a view in channels-last memory."""
    return rows[None, :, None].movedim(-1, 1)


def _as_kernels(matrix: Tensor) -> Tensor:
    """(m, c) -> (m, c, 1, 1), a view."""
    return matrix[:, :, None, None]
