"""The engine on a CPU, compiled: products, convolutions and whole layers."""

from typing import Any

import torch
from torch import Tensor

from densekit.engine.batch_norm import FoldedNorm, StoredNorm, accumulation_dtype
from densekit.engine.ops import Bottleneck, BottleneckGradients, TorchOps
from densekit.engine.step_structs import (
    Conv1x1Size,
    Conv3x3Size,
    Gradients,
    Layer,
    activation_of,
    kernels_of,
    matrix_of,
    norm_of,
    pixels_of,
    vector_of,
)
from densekit.engine.steps_cpu import CompiledPoolSteps


class CompiledOps(CompiledPoolSteps, TorchOps):
    """The compiled steps. What the library lacks (float16, mixed types) runs as in `TorchOps`."""

    name = "cpu"
    tile_values = 1 << 20  # float32: 4 MiB, so that a tile's data stays in the last-level cache

    def bnrelu_conv1x1(
        self, x: Tensor, norm: FoldedNorm, weight: Tensor, *, with_moments: bool
    ) -> tuple[Tensor, Tensor | None]:
        """As `TileSteps.bnrelu_conv1x1`."""
        matrix = weight.contiguous()
        step = self._find("bnrelu_conv1x1", x, matrix)
        if step is None:
            return super().bnrelu_conv1x1(x, norm, weight, with_moments=with_moments)
        product = x.new_empty(len(x), len(matrix))
        moments = torch.empty(2, len(matrix), dtype=torch.float64, device="cpu") if with_moments else None
        size = Conv1x1Size(*x.shape, len(matrix), torch.get_num_threads())
        step(size, matrix_of(x), activation_of(norm), *map(vector_of, (matrix, product, moments)))
        return product, moments if moments is None else moments.to(norm.scale.dtype)

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
        matrix = weight.contiguous()
        step = self._find("conv1x1_backward", dz, matrix, x, source, out)
        if step is None:
            onto = {"source": source, "out": out}
            return super().conv1x1_backward(dz, weight, x, norm, **onto, needs_dweight=needs_dweight)
        dweight, sums = norm.mean.new_empty(matrix.shape) if needs_dweight else None, norm.mean.new_empty(2, x.shape[1])
        size = Conv1x1Size(*x.shape, len(matrix), torch.get_num_threads())
        forward = (vector_of(matrix), matrix_of(x), activation_of(norm), vector_of(norm.mean))
        step(size, matrix_of(dz), *forward, matrix_of(source), matrix_of(out), vector_of(dweight), vector_of(sums))
        return dweight, sums

    def bnrelu_conv3x3(
        self, x: Tensor, norm: FoldedNorm, weight: Tensor, out: Tensor, *, with_moments: bool
    ) -> Tensor | None:
        """As `TileSteps.bnrelu_conv3x3`."""
        step = self._find("bnrelu_conv3x3", x, out)
        if step is None or weight.dtype != x.dtype:
            return super().bnrelu_conv3x3(x, norm, weight, out, with_moments=with_moments)
        moments = torch.empty(2, out.shape[-1], dtype=torch.float64, device="cpu") if with_moments else None
        size = Conv3x3Size(*x.shape, len(weight), torch.get_num_threads())
        step(size, pixels_of(x), activation_of(norm), kernels_of(weight), pixels_of(out), vector_of(moments))
        return moments if moments is None else moments.to(norm.scale.dtype)

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
        """As `TileSteps.bnrelu_conv3x3_backward`."""
        step = self._find("bnrelu_conv3x3_gradient", dy, x, source, out)
        if step is None or weight.dtype != x.dtype:
            onto = {"source": source, "out": out}
            return super().bnrelu_conv3x3_backward(dy, x, norm, weight, **onto, needs_dweight=needs_dweight)
        size = Conv3x3Size(*x.shape, len(weight), torch.get_num_threads())
        forward = (pixels_of(dy), pixels_of(x), activation_of(norm))
        sums = dweight = None
        if needs_dweight:
            dweight = norm.mean.new_empty(weight.shape)
            self._steps["conv3x3_weight_gradient", dy.dtype](size, *forward, kernels_of(dweight))
        if out is not None:
            sums = norm.mean.new_empty(2, len(norm.mean))
            onto = (pixels_of(source), pixels_of(out))
            step(size, *forward, vector_of(norm.mean), kernels_of(weight), *onto, vector_of(sums))
        return sums, dweight

    def layer(
        self, layer: Bottleneck, x: Tensor, out: Tensor, dtype: torch.dtype, *, trains: bool, with_moments: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As `TorchOps.layer`."""
        step = self._find("layer", x, out)
        if step is None or x.dtype != dtype:
            return super().layer(layer, x, out, dtype, trains=trains, with_moments=with_moments)
        wide, m, k = accumulation_dtype(dtype), len(layer.weight), len(layer.weight2)
        z = torch.empty(*x.shape[:3], m, dtype=dtype, device="cpu")
        moments2 = torch.empty(2, m, dtype=wide, device="cpu") if trains else None
        moments = torch.empty(2, k, dtype=wide, device="cpu") if with_moments else None
        pictures = len(x) if trains or with_moments else self._pictures(x)
        stored = _stored(layer, dtype)
        results = (pixels_of(out), *map(vector_of, (z, moments2, moments)))
        step(_layer_of(stored, x), pictures, True, pixels_of(x), *results)
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
        """As `TorchOps.layer_backward`."""
        step = self._find("layer_backward", dy, x, z, source, out)
        if step is None:
            more: dict[str, Any] = {"source": source, "out": out, "terms": terms}
            more |= {"needs_dweight": needs_dweight, "needs_dweight2": needs_dweight2}
            return super().layer_backward(layer, dy, x, z, trains=trains, **more)
        wide, d, stored = accumulation_dtype(dy.dtype), torch.empty_like(z), _stored(layer, dy.dtype)
        wants = (True, True, needs_dweight, True, True, needs_dweight2)
        gradients = [
            torch.empty_like(tensor, dtype=wide) if wanted else None
            for tensor, wanted in zip(_tensors(stored), wants, strict=True)
        ]
        results = Gradients(*map(vector_of, gradients[:5]), kernels_of(gradients[5]))
        pixels = map(pixels_of, (dy, x, z, d, source, out))
        step(_layer_of(stored, x), trains, *pixels, results, matrix_of(terms))
        return [None if g is None else g.to(p.dtype) for g, p in zip(gradients, _tensors(layer), strict=True)]

    def infer_layer(self, layer: Bottleneck, x: Tensor, out: Tensor, dtype: torch.dtype) -> None:
        """As `TorchOps.infer_layer`."""
        step = self._find("layer", x, out)
        if step is None or x.dtype != dtype:
            super().infer_layer(layer, x, out, dtype)
            return
        stored, pictures = _stored(layer, dtype), self._pictures(x)
        z = torch.empty(pictures, *x.shape[1:3], len(layer.weight), dtype=dtype, device="cpu")
        step(_layer_of(stored, x), pictures, False, pixels_of(x), pixels_of(out), vector_of(z), None, None)

    def _pictures(self, x: Tensor) -> int:
        """Return how many pictures stay in the cache together."""
        return min(len(x), max(1, self.tile_values * len(x) // x.numel()))


def _stored(layer: Bottleneck, dtype: torch.dtype) -> Bottleneck:
    """Return the parameters contiguous and in the accumulation type; weights of another type in ``dtype``."""
    wide = accumulation_dtype(dtype)
    norm, norm2 = (_vectors(norm, wide) for norm in (layer.norm, layer.norm2))
    weight, weight2 = layer.weight, layer.weight2
    if weight.dtype != wide or weight2.dtype != wide:
        weight, weight2 = weight.to(dtype), weight2.to(dtype)
    if not weight2.is_contiguous(memory_format=torch.channels_last):
        weight2 = weight2.contiguous()  # either way there are no gaps
    return Bottleneck(norm, weight.contiguous(), norm2, weight2)


def _vectors(norm: StoredNorm, dtype: torch.dtype) -> StoredNorm:
    if all(vector.dtype == dtype and vector.is_contiguous() for vector in norm[:4]):
        return norm  # for one small picture, calls that change nothing would take longer than a layer
    weight, bias, mean, var = (vector.to(dtype).contiguous() for vector in norm[:4])
    return StoredNorm(weight, bias, mean, var, norm.eps)


def _tensors(layer: Bottleneck) -> tuple[Tensor, ...]:
    """Return a layer's trainable tensors in the order of `BottleneckGradients`."""
    return *layer.norm[:2], layer.weight, *layer.norm2[:2], layer.weight2


def _layer_of(layer: Bottleneck, x: Tensor) -> Layer:
    """A layer that is `_stored`, applied to ``x``."""
    sizes, wide = (*x.shape, len(layer.weight), len(layer.weight2)), layer.weight.dtype != x.dtype
    weights = (vector_of(layer.weight), layer.weight2.data_ptr(), layer.weight2.stride())
    return Layer(*sizes, norm_of(layer.norm), norm_of(layer.norm2), *weights, wide, torch.get_num_threads())
