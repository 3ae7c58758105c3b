"""The steps of the fused dense block in plain PyTorch: their definition, and the last fallback.

Feature maps are matrices here: one row per pixel of the batch, one column per channel, so that the features of all
layers so far are the first columns of one wide matrix. ``P`` is the number of rows. Vectors of one value per channel
(means, scales, sums) are of the accumulation type: float64 for float64, otherwise float32.

Work goes through in tiles of rows that stay in the processor's cache from one step to the next. Every sum runs in a
fixed order: the same input gives the same bits.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

_TILE_VALUES = 1 << 18  # float32 values: 1 MiB, half of a usual second-level cache


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which statistics and sums over values of ``dtype`` are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _tiles(x: Tensor) -> Iterator[slice]:
    """Yield slices of the first axis: cache-sized on a CPU, everything at once elsewhere."""
    length = max(1, _TILE_VALUES * len(x) // max(1, x.numel())) if x.device.type == "cpu" else len(x)
    for start in range(0, len(x), length):
        yield slice(start, start + length)


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the biased variance of every column of ``x`` (P, c), whose rows may be strided.

    Two passes inside a tile, and Chan's rule to join tiles, all as differences from a pivot: no large numbers are
    ever subtracted from each other, so the variance keeps its digits however far the mean is from zero.

    Source: Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, 1983, equation 2.1.
    """
    dtype = accumulation_dtype(x.dtype)
    pivot = x[next(_tiles(x))].mean(0, dtype=dtype)
    shares, means, squares = [], [], []
    for rows in _tiles(x):
        centred = x[rows].to(dtype) - pivot
        shares.append(len(centred) / len(x))
        means.append(centred.mean(0))
        squares.append(centred.sub_(means[-1]).square_().sum(0))
    mean = torch.stack([share * own for share, own in zip(shares, means, strict=True)]).sum(0)
    between = [share * (own - mean).square() for share, own in zip(shares, means, strict=True)]
    var = torch.stack(between).sum(0) + torch.stack(squares).sum(0) / len(x)
    return pivot + mean, var


def _bnrelu(tile: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    # relu_ lets NaN pass, as batch norm and ReLU do one after the other
    return torch.addcmul(shift, tile.to(scale.dtype), scale).relu_().to(dtype)


def bnrelu(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """Write ``relu(x * scale + shift)`` to ``out``, which may be ``x``; all (P, c)."""
    for rows in _tiles(x):
        torch.addcmul(shift, x[rows].to(scale.dtype), scale, out=out[rows]).relu_()
    return out


def bnrelu_product(x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> Tensor:
    """Return ``relu(x * scale + shift) @ weight.T``, a 1x1 convolution of normalised features, (P, m).

    Args:
        x: (P, c), rows may be strided.
        scale: (c,).
        shift: (c,).
        weight: (m, c), of the type to multiply in.
    """
    product = weight.new_empty(len(x), len(weight))
    for rows in _tiles(x):
        torch.mm(_bnrelu(x[rows], scale, shift, weight.dtype), weight.t(), out=product[rows])
    return product


def bnrelu_product_bnrelu(
    x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, scale2: Tensor, shift2: Tensor
) -> Tensor:
    """Return ``relu(bnrelu_product(...) * scale2 + shift2)``, (P, m), without keeping the product: for inference.

    In float32 and float64 the second scale is folded into the weight. Half types would round the weight a second
    time, so there the product is scaled instead.
    """
    if weight.dtype != scale.dtype:
        product = bnrelu_product(x, scale, shift, weight)
        return bnrelu(product, scale2, shift2, out=product)
    folded = (weight * scale2[:, None]).t()  # (c, m)
    result = weight.new_empty(len(x), len(weight))
    for rows in _tiles(x):
        torch.addmm(shift2, _bnrelu(x[rows], scale, shift, weight.dtype), folded, out=result[rows]).relu_()
    return result


def drelu_sums(gradient: Tensor, activated: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Zero ``gradient``, in place, where the ReLU was off; return its column sums, plain and weighted.

    Args:
        gradient: (P, c) gradient of ``activated``.
        activated: (P, c) output of the ReLU; where it is NaN the gradient passes.
        x: (P, c) values before batch norm.
        mean: (c,) what batch norm subtracted.

    Returns:
        ``sum D`` and ``sum D (x - mean)``, each (c,): the gradient of the shift, and of the scale over ``1/std``.
    """
    total, weighted = torch.zeros_like(mean), torch.zeros_like(mean)
    for rows in _tiles(x):
        torch.ops.aten.threshold_backward.grad_input(gradient[rows], activated[rows], 0, grad_input=gradient[rows])
        masked = gradient[rows].to(mean.dtype)
        total += masked.sum(0)
        weighted += (x[rows].to(mean.dtype) - mean).mul_(masked).sum(0)
    return total, weighted


def bn_gradient(
    gradient: Tensor, x: Tensor, mean: Tensor, c1: Tensor, c2: Tensor, out: Tensor, scale: Tensor | None = None
) -> Tensor:
    """Write ``scale * gradient - c1 - (x - mean) * c2`` to ``out``: what the batch's own moments take back.

    Args:
        gradient: (P, c).
        x: (P, c), values before batch norm.
        mean: (c,), what batch norm subtracted.
        c1: (c,).
        c2: (c,).
        out: (P, c), may be ``gradient``.
        scale: (c,), or None where ``gradient`` is already scaled.
    """
    for rows in _tiles(x):
        part = gradient[rows].to(mean.dtype)
        part = torch.sub(part, c1) if scale is None else torch.addcmul(-c1, part, scale)
        out[rows] = part.addcmul_(x[rows].to(mean.dtype) - mean, c2, value=-1)
    return out


def add_scaled(source: Tensor, gradient: Tensor, scale: Tensor, out: Tensor) -> None:
    """Write ``source + scale * gradient`` to ``out``, which may be ``source``; all (P, c)."""
    for rows in _tiles(gradient):
        torch.addcmul(source[rows].to(scale.dtype), gradient[rows].to(scale.dtype), scale, out=out[rows])


def product_backward(
    dz: Tensor,
    weight: Tensor,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    source: Tensor,
    out: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate `bnrelu_product`: weight gradient and sums, and the gradient of ``x`` added to what is there.

    Args:
        dz: (P, m) gradient of the product.
        weight: (m, c).
        x: (P, c), as in the forward pass.
        scale: (c,), likewise.
        shift: (c,), likewise.
        mean: (c,), what batch norm subtracted.
        source: (P, c) gradient of ``x`` so far.
        out: (P, c), becomes ``source + scale * D``; may be ``source``; None where nobody wants it.

    Returns:
        The weight's gradient (m, c) and the sums of `drelu_sums`, all of the accumulation type.
    """
    dweight = torch.zeros(weight.shape, dtype=mean.dtype, device=mean.device)
    total, weighted = torch.zeros_like(mean), torch.zeros_like(mean)
    for rows in _tiles(x):
        activated = _bnrelu(x[rows], scale, shift, weight.dtype)
        dweight += dz[rows].t() @ activated
        gradient = dz[rows] @ weight
        sums = drelu_sums(gradient, activated, x[rows], mean)
        total, weighted = total + sums[0], weighted + sums[1]
        if out is not None:
            add_scaled(source[rows], gradient, scale, out=out[rows])
    return dweight, total, weighted


def bnrelu_pool(x: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the 2x2 means of ``relu(x * scale + shift)``, (N, H // 2, W // 2, C); an odd last line is left out.

    Args:
        x: (N, H, W, C).
        scale: (C,).
        shift: (C,).
        dtype: of the result.
    """
    N, H, W, C = x.shape
    pooled = torch.empty(N, H // 2, W // 2, C, dtype=dtype, device=x.device)
    for images in _tiles(x):
        pooled[images] = _mean2x2(_bnrelu(x[images], scale, shift, dtype))
    return pooled


def _mean2x2(x: Tensor) -> Tensor:
    return F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def bnrelu_pool_backward(
    dpooled: Tensor, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Differentiate `bnrelu_pool` up to the ReLU.

    Args:
        dpooled: (N, H // 2, W // 2, C) gradient of the pooled features.
        x: (N, H, W, C), as in the forward pass.
        scale: (C,), likewise.
        shift: (C,), likewise.
        mean: (C,), what batch norm subtracted.

    Returns:
        The masked gradient (N, H, W, C), its two sums as of `drelu_sums`, and the pooled features once more.
    """
    _, H, W, C = x.shape
    h, w = H // 2, W // 2
    gradient = torch.zeros(x.shape, dtype=dpooled.dtype, device=x.device)
    pooled = torch.empty_like(dpooled)
    total, weighted = torch.zeros_like(mean), torch.zeros_like(mean)
    for images in _tiles(x):
        activated = _bnrelu(x[images], scale, shift, dpooled.dtype)
        pooled[images] = _mean2x2(activated)
        inner = gradient[images, : 2 * h, : 2 * w].unflatten(2, (w, 2)).unflatten(1, (h, 2))
        inner.copy_((dpooled[images] / 4)[:, :, None, :, None])  # (n, h, 2, w, 2, C)
        tile = gradient[images].view(-1, C)
        sums = drelu_sums(tile, activated.reshape(-1, C), x[images].reshape(-1, C), mean)
        total, weighted = total + sums[0], weighted + sums[1]
    return gradient, total, weighted, pooled
