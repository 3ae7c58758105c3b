"""The engine on a CPU, compiled: products, convolutions and whole layers."""

from typing import Any

import torch
from torch import Tensor

from densekit.engine.batch_norm import StoredNorm
from densekit.engine.ops import Bottleneck, BottleneckGradients, TorchOps
from densekit.engine.row_steps import accumulation_dtype
from densekit.engine.step_arguments import kernels_of, matrix_of, pixels_of, vector_of
from densekit.engine.steps_cpu import CompiledPoolSteps


class CompiledOps(CompiledPoolSteps, TorchOps):
    """The compiled steps. What the library lacks (float16, mixed types) runs as in `TorchOps`."""

    name = "cpu"
    tile_values = 1 << 20  # float32: 4 MiB, so that a tile's data stays in the last-level cache

    def bnrelu_conv1x1(
        self, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, *, with_moments: bool
    ) -> tuple[Tensor, Tensor | None]:
        """As `TileSteps.bnrelu_conv1x1`."""
        matrix = weight.contiguous()
        step = self._find("bnrelu_conv1x1", x, matrix)
        if step is None:
            return super().bnrelu_conv1x1(x, scale, shift, weight, with_moments=with_moments)
        product = x.new_empty(len(x), len(matrix))
        moments = torch.empty(2, len(matrix), dtype=torch.float64, device="cpu") if with_moments else None
        vectors = map(vector_of, (scale, shift, matrix, product, moments))
        step(*matrix_of(x), *vectors, *x.shape, len(matrix), torch.get_num_threads())
        return product, moments if moments is None else moments.to(scale.dtype)

    def conv1x1_backward(
        self,
        dz: Tensor,
        weight: Tensor,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        mean: Tensor,
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
            return super().conv1x1_backward(dz, weight, x, scale, shift, mean, **onto, needs_dweight=needs_dweight)
        dweight, sums = mean.new_empty(matrix.shape) if needs_dweight else None, mean.new_empty(2, len(mean))
        vectors, onto = map(vector_of, (scale, shift, mean)), (*matrix_of(source), *matrix_of(out))
        results = (vector_of(dweight), vector_of(sums), *x.shape, len(matrix), torch.get_num_threads())
        step(*matrix_of(dz), vector_of(matrix), *matrix_of(x), *vectors, *onto, *results)
        return dweight, sums

    def bnrelu_conv3x3(
        self, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, out: Tensor, *, with_moments: bool
    ) -> Tensor | None:
        """As `TileSteps.bnrelu_conv3x3`."""
        step = self._find("bnrelu_conv3x3", x, out)
        if step is None or weight.dtype != x.dtype:
            return super().bnrelu_conv3x3(x, scale, shift, weight, out, with_moments=with_moments)
        moments = torch.empty(2, out.shape[-1], dtype=torch.float64, device="cpu") if with_moments else None
        vectors, size = (vector_of(scale), vector_of(shift)), (*x.shape, len(weight), torch.get_num_threads())
        step(*pixels_of(x), *vectors, *kernels_of(weight), *pixels_of(out), vector_of(moments), *size)
        return moments if moments is None else moments.to(scale.dtype)

    def bnrelu_conv3x3_backward(
        self,
        dy: Tensor,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        mean: Tensor,
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
            return super().bnrelu_conv3x3_backward(
                dy, x, scale, shift, mean, weight, **onto, needs_dweight=needs_dweight
            )
        vectors, size = (vector_of(scale), vector_of(shift)), (*x.shape, len(weight), torch.get_num_threads())
        sums = dweight = None
        if needs_dweight:
            dweight = mean.new_empty(weight.shape)
            self._steps["conv3x3_weight_gradient", dy.dtype](
                *pixels_of(dy), *pixels_of(x), *vectors, *kernels_of(dweight), *size
            )
        if out is not None:
            sums = torch.empty(2, len(mean), dtype=mean.dtype, device="cpu")
            arguments = (
                *vectors,
                vector_of(mean),
                *kernels_of(weight),
                *pixels_of(source),
                *pixels_of(out),
                vector_of(sums),
            )
            step(*pixels_of(dy), *pixels_of(x), *arguments, *size)
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
        results = (*pixels_of(out), *map(vector_of, (z, moments2, moments)), pictures, True)
        step(*pixels_of(x), *_parameters(stored), *results, *_layer_size(stored, x))
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
        results = (*map(vector_of, gradients[:5]), *kernels_of(gradients[5]), *matrix_of(terms), trains)
        buffers = (vector_of(z), vector_of(d), *pixels_of(source), *pixels_of(out))
        step(*pixels_of(dy), *pixels_of(x), *_parameters(stored), *buffers, *results, *_layer_size(stored, x))
        return [None if g is None else g.to(p.dtype) for g, p in zip(gradients, _tensors(layer), strict=True)]

    def infer_layer(self, layer: Bottleneck, x: Tensor, out: Tensor, dtype: torch.dtype) -> None:
        """As `TorchOps.infer_layer`."""
        step = self._find("layer", x, out)
        if step is None or x.dtype != dtype:
            super().infer_layer(layer, x, out, dtype)
            return
        stored, pictures = _stored(layer, dtype), self._pictures(x)
        z = torch.empty(pictures, *x.shape[1:3], len(layer.weight), dtype=dtype, device="cpu")
        results = (*pixels_of(out), vector_of(z), None, None, pictures, False)
        step(*pixels_of(x), *_parameters(stored), *results, *_layer_size(stored, x))

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


def _parameters(layer: Bottleneck) -> tuple[Any, ...]:
    (*first, eps), (*second, eps2) = layer.norm, layer.norm2
    kernels = kernels_of(layer.weight2)
    return (*map(vector_of, first), eps, vector_of(layer.weight), *map(vector_of, second), eps2, *kernels)


def _layer_size(layer: Bottleneck, x: Tensor) -> tuple[int, ...]:
    """Return whether the weights' type is wider than that of ``x``, the sizes, and the number of threads."""
    m, k = len(layer.weight), len(layer.weight2)
    return layer.weight.dtype != x.dtype, *x.shape, m, k, torch.get_num_threads()
