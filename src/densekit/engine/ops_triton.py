"""The steps of the fused dense block on a CUDA device: Triton kernels, except for 3x3 convolutions and stems."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from densekit.engine import triton_launchers as launch
from densekit.engine.batch_norm import FoldedNorm
from densekit.engine.ops import Bottleneck, BottleneckGradients, TorchOps
from densekit.engine.tile_steps import convolve, flat, kernels_like


class TritonOps(TorchOps):
    """Steps that pass over the rows once, without waiting for the device; float64 runs as in `TorchOps`.

    Matrices of a half type and of float32 may be mixed. Products of float32 have the precision of the 1x1 convolutions
    that they replace: TF32, unless ``torch.backends.cudnn.conv.fp32_precision`` says otherwise.
    """

    name = "triton"

    def tiles(self, x: Tensor) -> Iterator[slice]:
        """Yield everything at once, on a CPU too: Triton's interpreter computes there what a device would."""
        yield slice(0, len(x))

    def tile_moments(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """As `RowSteps.tile_moments`, in float32: there is one tile, whose parts are joined in float64."""
        return launch.tile_moments(x, out) if launch.fits(x, out) else super().tile_moments(x, out)

    def bnrelu(self, x: Tensor, norm: FoldedNorm, out: Tensor) -> Tensor:
        """As `RowSteps.bnrelu`."""
        return launch.bnrelu(x, norm, out) if launch.fits(x, out) else super().bnrelu(x, norm, out)

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
        if not launch.fits(gradient, x, source, out):
            return super().drelu_sums(gradient, x, norm, source=source, out=out)
        return launch.drelu_sums(gradient, x, norm, source, out)

    def bn_gradient(self, gradient: Tensor, x: Tensor, norm: FoldedNorm, terms: Tensor, out: Tensor) -> Tensor:
        """As `RowSteps.bn_gradient`."""
        if not launch.fits(gradient, x, out):
            return super().bn_gradient(gradient, x, norm, terms, out)
        launch.bn_gradient(gradient, x, norm, terms, 1, out)
        return out

    def bnrelu_conv1x1(
        self, x: Tensor, norm: FoldedNorm, weight: Tensor, *, with_moments: bool
    ) -> tuple[Tensor, Tensor | None]:
        """As `TileSteps.bnrelu_conv1x1`; activations stay on the chip, the product is measured while it is there."""
        if not launch.fits(x, weight):
            return super().bnrelu_conv1x1(x, norm, weight, with_moments=with_moments)
        return launch.bnrelu_conv1x1(x, norm, weight, with_moments)

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
        """As `TileSteps.conv1x1_backward`."""
        if not (launch.holds(dz, weight) and launch.fits(dz, weight, x, source, out)):
            onto = {"source": source, "out": out}
            return super().conv1x1_backward(dz, weight, x, norm, **onto, needs_dweight=needs_dweight)
        return launch.conv1x1_backward(dz, weight, x, norm, source, out, needs_dweight)

    def bnrelu_avg_pool(self, x: Tensor, norm: FoldedNorm, dtype: torch.dtype) -> Tensor:
        """As `PoolSteps.bnrelu_avg_pool`; the mean is taken before anything is rounded."""
        if dtype not in launch.TYPES or not launch.fits(flat(x)) or x.dim() > 4:
            return super().bnrelu_avg_pool(x, norm, dtype)
        N, H, W, C = x.shape
        pooled = x.new_empty(N, H // 2, W // 2, C, dtype=dtype)
        launch.bnrelu_avg_pool(flat(x), (H, W), norm, flat(pooled))
        return pooled

    def bnrelu_avg_pool_backward(self, dpooled: Tensor, x: Tensor, norm: FoldedNorm) -> tuple[Tensor, Tensor]:
        """As `PoolSteps.bnrelu_avg_pool_backward`."""
        if not (launch.fits(flat(x), flat(dpooled)) and dpooled.is_contiguous()) or x.dim() > 4:
            return super().bnrelu_avg_pool_backward(dpooled, x, norm)
        gradient, (_, H, W, _) = torch.empty(x.shape, dtype=dpooled.dtype, device=x.device), x.shape
        return gradient, launch.bnrelu_avg_pool_backward(dpooled, flat(x), (H, W), norm, gradient)

    def layer(
        self, layer: Bottleneck, x: Tensor, out: Tensor, dtype: torch.dtype, *, trains: bool, with_moments: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As `TorchOps.layer`, without the dozens of launches that vectors would take."""
        weight = layer.weight.to(dtype).flatten(1)
        if not launch.fits(flat(x), weight, flat(out)):
            return super().layer(layer, x, out, dtype, trains=trains, with_moments=with_moments)
        norm, norm2 = launch.stored(layer.norm), launch.stored(layer.norm2)
        product, moments2 = launch.bnrelu_conv1x1(flat(x), norm, weight, trains)
        if moments2 is not None:
            norm2 = norm2._replace(mean=moments2[0], var=moments2[1])
        z = product.view(*x.shape[:-1], -1)
        activated = launch.bnrelu(product, norm2, torch.empty_like(product)).view_as(z)
        result = convolve(activated, layer.weight2.to(dtype))
        if with_moments:
            return z, moments2, launch.tile_moments(flat(result).to(out.dtype), flat(out))
        out.copy_(result)
        return z, moments2, None

    def infer_layer(self, layer: Bottleneck, x: Tensor, out: Tensor, dtype: torch.dtype) -> None:
        """As `TorchOps.infer_layer`; only the input of the 3x3 convolution is written to memory."""
        weight = layer.weight.to(dtype).flatten(1)
        if not launch.fits(flat(x), weight, flat(out)):
            super().infer_layer(layer, x, out, dtype)
            return
        norm, norm2 = launch.stored(layer.norm), launch.stored(layer.norm2)
        activated, _ = launch.bnrelu_conv1x1(flat(x), norm, weight, False, norm2)
        out.copy_(convolve(activated.view(*x.shape[:-1], -1), layer.weight2.to(dtype)))

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
        """As `TorchOps.layer_backward`; of vectors only the gradients take launches of their own."""
        matrix, rows = layer.weight.to(dy.dtype).flatten(1), flat(z)
        onto = flat(source), None if out is None else flat(out)
        if not (launch.holds(dy, matrix) and launch.fits(flat(x), rows, matrix, *onto)):
            more: dict[str, Any] = {"source": source, "out": out, "terms": terms}
            more |= {"needs_dweight": needs_dweight, "needs_dweight2": needs_dweight2}
            return super().layer_backward(layer, dy, x, z, trains=trains, **more)
        norm, norm2, count = launch.stored(layer.norm), launch.stored(layer.norm2), len(rows)
        activated = launch.bnrelu(rows, norm2, torch.empty_like(rows)).view_as(z)
        dactivated, dweight2 = self.convolve_backward(dy, activated, layer.weight2.to(dy.dtype), True, needs_dweight2)
        assert dactivated is not None
        dz = flat(dactivated)
        sums2 = launch.drelu_sums(dz, rows, norm2, None, dz)
        launch.bn_gradient(dz, rows, norm2, sums2 if trains else None, count, dz)
        dmatrix, sums = launch.conv1x1_backward(dz, matrix, flat(x), norm, *onto, needs_dweight)
        return [
            *launch.norm_gradients(sums, norm, count, terms, layer.norm.weight.dtype),
            None if dmatrix is None else kernels_like(dmatrix.to(layer.weight.dtype), layer.weight),
            *launch.norm_gradients(sums2, norm2, count, None, layer.norm2.weight.dtype),
            None if dweight2 is None else dweight2.to(layer.weight2.dtype),
        ]
