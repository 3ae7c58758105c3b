"""A whole layer of the fused dense block, forward and backward: the interface of the engine's implementations."""

from typing import NamedTuple

import torch
from torch import Tensor

from densekit.engine.batch_norm import StoredNorm, fold_norm, moment_terms, norm_gradients
from densekit.engine.pool_steps import PoolSteps
from densekit.engine.tile_steps import TileSteps, convolve, flat, kernels_like, multiply


class Bottleneck(NamedTuple):
    """A layer's parameters as stored: BN, ReLU, 1x1 convolution, BN, ReLU, 3x3 convolution.

    Attributes:
        norm: of the features (c,).
        weight: (m, c, 1, 1).
        norm2: of the product (m,).
        weight2: (k, m, 3, 3).
    """

    norm: StoredNorm
    weight: Tensor
    norm2: StoredNorm
    weight2: Tensor


BottleneckGradients = list[Tensor | None]
"""Gradients of the first norm's gamma and beta, the 1x1 weight, the second norm's gamma and beta, and the 3x3 weight,
each in the type of its parameter; None for a weight whose gradient is not wanted."""


class TorchOps(TileSteps, PoolSteps):
    """The engine in plain PyTorch. Other implementations derive from it and override what they do faster.

    Attributes:
        name: the implementation's name in reports.
    """

    name = "torch"

    def layer(
        self, layer: Bottleneck, x: Tensor, out: Tensor, dtype: torch.dtype, *, trains: bool, with_moments: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Compute a layer, and keep what its backward pass needs.

        Args:
            layer: the parameters.
            x: (N, H, W, c), pixels may be strided.
            out: (N, H, W, k), where the new features go; pixels may be strided.
            dtype: of the convolutions.
            trains: whether the second norm uses the product's own moments instead of the stored ones.
            with_moments: whether the moments of the new features are wanted.

        Returns:
            The product (N, H, W, m), its moments (2, m) if the norm trains, and those of ``out`` (2, k) if wanted.
        """
        norm2 = layer.norm2
        weight, weight2 = layer.weight.to(dtype).flatten(1), layer.weight2.to(dtype)
        z, moments2 = self.bnrelu_conv1x1(flat(x), fold_norm(*layer.norm), weight, with_moments=trains)
        if moments2 is not None:
            norm2 = norm2._replace(mean=moments2[0], var=moments2[1])
        z = z.view(*x.shape[:-1], -1)
        moments = self.bnrelu_conv3x3(z, fold_norm(*norm2), weight2, out, with_moments=with_moments)
        return z, moments2, moments

    def layer_backward(
        self,
        layer: Bottleneck,
        dy: Tensor,
        x: Tensor,
        z: Tensor,
        *,
        trains: bool,
        source: Tensor,
        out: Tensor | None,
        terms: Tensor | None,
        needs_dweight: bool,
        needs_dweight2: bool,
    ) -> BottleneckGradients:
        """Differentiate `layer`, and add its part to the gradient of ``x``.

        Args:
            layer: the parameters; the norms with the moments that they used in the forward pass.
            dy: (N, H, W, k) gradient of the new features, in the type of the convolutions.
            x: (N, H, W, c), as in the forward pass.
            z: (N, H, W, m), the product.
            trains: whether the second norm's moments are the product's own.
            source: (N, H, W, c) gradient of ``x`` so far.
            out: (N, H, W, c), becomes the gradient with this layer's part; None if it is not wanted.
            terms: (2, c), to which the terms that stem from the moments of ``x`` are added, see `RowSteps.bn_gradient`;
                None if those are not the batch's.
            needs_dweight: whether the gradient of the 1x1 convolution's weight is wanted.
            needs_dweight2: whether that of the 3x3 convolution's is.
        """
        norm, norm2, count = fold_norm(*layer.norm), fold_norm(*layer.norm2), dy[..., 0].numel()
        d, matrix, weight2 = torch.empty_like(z), layer.weight.to(dy.dtype).flatten(1), layer.weight2.to(dy.dtype)
        sums2, dweight2 = self.bnrelu_conv3x3_backward(dy, z, norm2, weight2, out=d, needs_dweight=needs_dweight2)
        assert sums2 is not None
        dz = flat(d)
        if trains:
            self.bn_gradient(dz, flat(z), norm2, moment_terms(sums2, norm2, count), out=dz)
        else:
            dz.mul_(norm2.scale)
        onto = {"source": flat(source), "out": None if out is None else flat(out)}
        dmatrix, sums = self.conv1x1_backward(dz, matrix, flat(x), norm, **onto, needs_dweight=needs_dweight)
        if terms is not None:
            terms += moment_terms(sums, norm, count)
        return [
            *norm_gradients(sums, norm, layer.norm.weight),
            None if dmatrix is None else kernels_like(dmatrix.to(layer.weight.dtype), layer.weight),
            *norm_gradients(sums2, norm2, layer.norm2.weight),
            None if dweight2 is None else dweight2.to(layer.weight2.dtype),
        ]

    def infer_layer(self, layer: Bottleneck, x: Tensor, out: Tensor, dtype: torch.dtype) -> None:
        """Compute a layer with fixed statistics and keep nothing; the arguments are those of `layer`.

        In float32 and float64 the second scale is folded into the weight. Half types would round the weight a second
        time, so the product is scaled instead.
        """
        norm, norm2 = fold_norm(*layer.norm), fold_norm(*layer.norm2)
        weight, weight2 = layer.weight.to(dtype).flatten(1), layer.weight2.to(dtype)
        folds = dtype == norm2.scale.dtype
        matrix = weight * norm2.scale[:, None] if folds else weight  # (m, c)
        for images in self.tiles(x):
            tile = x[images]
            activated = self.bnrelu(flat(tile), norm, out=weight.new_empty(flat(tile).shape))
            if folds:
                second = multiply(activated, matrix, norm2.shift).relu_()
            else:
                product = multiply(activated, matrix)
                second = self.bnrelu(product, norm2, out=product)
            out[images] = convolve(second.view(*tile.shape[:-1], -1), weight2)
