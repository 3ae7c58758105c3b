"""A whole layer of the fused dense block, forward and backward: the interface of the engine's implementations."""

from typing import NamedTuple

import torch
from torch import Tensor

from densekit.engine.norms import Norm, affine, moment_terms, norm_gradients
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

    norm: Norm
    weight: Tensor
    norm2: Norm
    weight2: Tensor


BottleneckGradients = list[Tensor | None]
"""Gradients of the first norm's scale and shift, the 1x1 weight, the second norm's scale and shift, and the 3x3 weight,
each in the type of its parameter; None for a weight whose gradient is not wanted."""


class TorchOps(TileSteps, PoolSteps):
    """The engine in plain PyTorch. Other implementations derive from it and override what they do faster.

    Attributes:
        name: the implementation's name in reports.
    """

    name = "torch"

    def layer(
        self, layer: Bottleneck, x: Tensor, out: Tensor, dtype: torch.dtype, *, trains: bool, measure: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Compute a layer, and keep what its backward pass needs.

        Args:
            layer: the parameters.
            x: (N, H, W, c), pixels may be strided.
            out: (N, H, W, k), where the new features go; pixels may be strided.
            dtype: of the convolutions.
            trains: whether the second norm uses the product's own moments instead of the stored ones.
            measure: whether the moments of the new features are wanted.

        Returns:
            The product (N, H, W, m), its moments (2, m) if the norm trains, and those of ``out`` (2, k) if wanted.
        """
        norm2 = layer.norm2
        _, scale, shift = affine(*layer.norm)
        z, seen2 = self.bnrelu_product(flat(x), scale, shift, layer.weight.to(dtype).flatten(1), measure=trains)
        _, scale2, shift2 = affine(*norm2 if seen2 is None else norm2._replace(mean=seen2[0], var=seen2[1]))
        z = z.view(*x.shape[:-1], -1)
        return z, seen2, self.bnrelu_convolve(z, scale2, shift2, layer.weight2.to(dtype), out, measure=measure)

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
        wants_weight: bool,
        wants_weight2: bool,
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
            wants_weight: whether the gradient of the 1x1 convolution's weight is wanted.
            wants_weight2: whether that of the 3x3 convolution's is.
        """
        norm, norm2, count = affine(*layer.norm), affine(*layer.norm2), dy[..., 0].numel()
        mean, mean2 = layer.norm.mean.to(norm.scale.dtype), layer.norm2.mean.to(norm2.scale.dtype)
        d = torch.empty_like(z)
        vectors, weight2 = (norm2.scale, norm2.shift, mean2), layer.weight2.to(dy.dtype)
        sums2, dweight2 = self.bnrelu_convolve_backward(dy, z, *vectors, weight2, out=d, wants_weight=wants_weight2)
        assert sums2 is not None
        dz = flat(d)
        if trains:
            self.bn_gradient(dz, flat(z), mean2, norm2.scale, moment_terms(sums2, norm2, count), out=dz)
        else:
            dz.mul_(norm2.scale)
        vectors, matrix = (norm.scale, norm.shift, mean), layer.weight.to(dy.dtype).flatten(1)
        onto = {"source": flat(source), "out": None if out is None else flat(out)}
        dmatrix, sums = self.product_backward(dz, matrix, flat(x), *vectors, **onto, wants_weight=wants_weight)
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
        _, scale, shift = affine(*layer.norm)
        _, scale2, shift2 = affine(*layer.norm2)
        weight, weight2 = layer.weight.to(dtype).flatten(1), layer.weight2.to(dtype)
        folds = dtype == scale.dtype
        matrix = weight * scale2[:, None] if folds else weight  # (m, c)
        for pictures in self.tiles(x):
            tile = x[pictures]
            activated = self.bnrelu(flat(tile), scale, shift, out=weight.new_empty(flat(tile).shape))
            if folds:
                second = multiply(activated, matrix, shift2).relu_()
            else:
                product = multiply(activated, matrix)
                second = self.bnrelu(product, scale2, shift2, out=product)
            out[pictures] = convolve(second.view(*tile.shape[:-1], -1), weight2)
