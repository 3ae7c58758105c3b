"""The steps of the fused dense block on a CUDA device: kernels of `triton_kernels`, but for 3x3 convolutions and stems.

Block sizes are fixed: nothing is tuned at run time, so that the same input gives the same bits in every process. They
follow from counting bytes and registers, for devices of compute capability 8.0 and above. So far the kernels have run
in Triton's interpreter and been compiled for such devices, but not been timed on one: benchmarks/bench_kernels.py does.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from densekit.engine import triton_kernels as kernels
from densekit.engine.norms import Norm
from densekit.engine.ops import Bottleneck, BottleneckGradients, TorchOps
from densekit.engine.tile_steps import convolve, flat, kernels_like

_Vectors = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, float] | Norm
"""A batch norm for the kernels: as it is stored; or scale, shift and mean, where they are needed, and no variance."""
_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST_ROWS = 1 << 30  # of which the kernels' row numbers, of 32 bits, are sure to hold twice as many
_GROUP = 128  # tiles whose moments are joined at a time: the largest matrix there is takes three rounds
_STRIPE = 1024  # rows that share one part of a weight's gradient: 128 outputs add less than a fifth to the traffic


class TritonOps(TorchOps):
    """Steps that pass over the rows once, without waiting for the device; float64 runs as in `TorchOps`.

    Matrices of a half type and of float32 may be mixed. Products of float32 are computed as PyTorch computes the 1x1
    convolutions that they replace: in TF32, unless ``torch.backends.cudnn.conv.fp32_precision`` says otherwise.
    """

    name = "triton"

    def tiles(self, x: Tensor) -> Iterator[slice]:
        """Yield everything at once, on a CPU too: Triton's interpreter computes there what a device would."""
        yield slice(0, len(x))

    def tile_moments(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """As `RowSteps.tile_moments`."""
        if not _fits(x, out):
            return super().tile_moments(x, out)
        sizes = _sizes(x)
        moments = _parts(x, sizes["ROWS"], torch.float64)
        _launch(kernels.tile_moments, x.shape, *_matrix(x), *_matrix(out), moments, *x.shape, **sizes)
        return _join(moments, sizes["ROWS"], len(x))

    def bnrelu(self, x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
        """As `RowSteps.bnrelu`."""
        if not _fits(x, out):
            return super().bnrelu(x, scale, shift, out)
        return self._bnrelu(x, (scale, shift, None, None, 0.0), out)

    def _bnrelu(self, x: Tensor, norm: _Vectors, out: Tensor) -> Tensor:
        _launch(kernels.bnrelu, x.shape, *_matrix(x), *norm, *_matrix(out), *x.shape, **_sizes(x))
        return out

    def drelu_sums(
        self,
        gradient: Tensor,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        mean: Tensor,
        *,
        source: Tensor | None = None,
        out: Tensor,
    ) -> Tensor:
        """As `RowSteps.drelu_sums`."""
        if not _fits(gradient, x, source, out):
            return super().drelu_sums(gradient, x, scale, shift, mean, source=source, out=out)
        return self._drelu_sums(gradient, x, (scale, shift, mean, None, 0.0), source, out)

    def _drelu_sums(self, gradient: Tensor, x: Tensor, norm: _Vectors, source: Tensor | None, out: Tensor) -> Tensor:
        sizes = _sizes(x)
        sums = _parts(x, sizes["ROWS"])
        matrices = (*_matrix(gradient), *_matrix(x), *norm, *_matrix(source), *_matrix(out))
        _launch(kernels.drelu_sums, x.shape, *matrices, sums, *x.shape, **sizes)
        return sums.sum(0)

    def bn_gradient(
        self, gradient: Tensor, x: Tensor, mean: Tensor, scale: Tensor, terms: Tensor, out: Tensor
    ) -> Tensor:
        """As `RowSteps.bn_gradient`."""
        if not _fits(gradient, x, out):
            return super().bn_gradient(gradient, x, mean, scale, terms, out)
        self._bn_gradient(gradient, x, (scale, None, mean, None, 0.0), terms, 1, out)
        return out

    def _bn_gradient(
        self, gradient: Tensor, x: Tensor, norm: _Vectors, terms: Tensor | None, count: int, out: Tensor
    ) -> None:
        scale, _, *rest = norm
        vectors = (scale, *rest, *((None, None) if terms is None else terms), count)
        _launch(
            kernels.bn_gradient,
            x.shape,
            *_matrix(gradient),
            *_matrix(x),
            *vectors,
            *_matrix(out),
            *x.shape,
            **_sizes(x),
        )

    def bnrelu_product(
        self, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, *, measure: bool
    ) -> tuple[Tensor, Tensor | None]:
        """As `TileSteps.bnrelu_product`; activations stay on the chip, the product is measured while it is there."""
        if not _fits(x, weight):
            return super().bnrelu_product(x, scale, shift, weight, measure=measure)
        return self._bnrelu_product(x, (scale, shift, None, None, 0.0), weight, measure)

    def _bnrelu_product(
        self, x: Tensor, norm: _Vectors, weight: Tensor, measure: bool, second: Norm | None = None
    ) -> tuple[Tensor, Tensor | None]:
        rows, m = 128, len(weight)
        product = weight.new_empty(len(x), m)
        moments = _parts(product, rows, torch.float64) if measure else None
        sizes: dict[str, Any] = {
            "ROWS": rows,
            "COLS": min(128, _power(m)),  # all of a bottleneck of growth rate 32: x is read once
            "DEPTH": 128 // x.element_size(),  # a row of a tile is one line of the cache
            "num_warps": 8,  # 64 of a thread's 255 registers hold the product
            "num_stages": 3,
        }
        norm2 = (None, None, None, None, 0.0) if second is None else second
        operands = (*_matrix(x), *norm, *_matrix(weight), *norm2, product, moments)
        _launch(kernels.bnrelu_product, product.shape, *operands, *x.shape, m, PRECISION=_precision(), **sizes)
        return product, None if moments is None else _join(moments, rows, len(x))

    def product_backward(
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
        wants_weight: bool,
    ) -> tuple[Tensor | None, Tensor]:
        """As `TileSteps.product_backward`; both products share one pass over ``x`` and ``dz``."""
        if not (_holds(dz, weight) and _fits(dz, weight, x, source, out)):
            onto = {"source": source, "out": out}
            return super().product_backward(dz, weight, x, scale, shift, mean, **onto, wants_weight=wants_weight)
        return self._product_backward(dz, weight, x, (scale, shift, mean, None, 0.0), source, out, wants_weight)

    def _product_backward(
        self,
        dz: Tensor,
        weight: Tensor,
        x: Tensor,
        norm: _Vectors,
        source: Tensor,
        out: Tensor | None,
        wants_weight: bool,
    ) -> tuple[Tensor | None, Tensor]:
        m, c = weight.shape
        sums = _parts(x, _STRIPE)
        dweight = sums.new_empty(len(sums), m, c) if wants_weight else None
        sizes: dict[str, Any] = {
            "ROWS": _STRIPE,
            "COLS": min(64 if m <= 128 else 32, _power(c)),
            "STEP": 128 // weight.element_size(),
            "DEPTH": _power(m),
            "num_warps": 8,
            "num_stages": 2,
        }
        matrices = (*_matrix(dz), *_matrix(weight), *_matrix(x), *norm, *_matrix(source), *_matrix(out))
        _launch(
            kernels.product_backward, x.shape, *matrices, dweight, sums, *x.shape, m, PRECISION=_precision(), **sizes
        )
        return None if dweight is None else dweight.sum(0), sums.sum(0)

    def bnrelu_avg_pool(self, x: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
        """As `PoolSteps.bnrelu_avg_pool`; the mean is taken before anything is rounded."""
        if dtype not in _TYPES or not _fits(flat(x)) or x.dim() > 4:
            return super().bnrelu_avg_pool(x, scale, shift, dtype)
        N, H, W, C = x.shape
        pooled = x.new_empty(N, H // 2, W // 2, C, dtype=dtype)
        out, matrix = flat(pooled), flat(x)
        operands = (*_matrix(matrix), scale, shift, None, None, 0.0, *_matrix(out))
        _launch(kernels.bnrelu_avg_pool, out.shape, *operands, H, W, *out.shape, **_sizes(out))
        return pooled

    def bnrelu_avg_pool_backward(
        self, dpooled: Tensor, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `PoolSteps.bnrelu_avg_pool_backward`."""
        matrix = flat(x)
        if not (_fits(matrix, flat(dpooled)) and dpooled.is_contiguous()) or x.dim() > 4:
            return super().bnrelu_avg_pool_backward(dpooled, x, scale, shift, mean)
        gradient = torch.empty(x.shape, dtype=dpooled.dtype, device=x.device)
        sizes = _sizes(matrix)
        sums = _parts(matrix, sizes["ROWS"])
        operands = (dpooled, *_matrix(matrix), scale, shift, mean, None, 0.0, gradient, sums)
        _launch(kernels.bnrelu_avg_pool_backward, matrix.shape, *operands, *x.shape[1:3], *matrix.shape, **sizes)
        return gradient, sums.sum(0)

    def layer(
        self, layer: Bottleneck, x: Tensor, out: Tensor, dtype: torch.dtype, *, trains: bool, measure: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As `TorchOps.layer`; no kernel is started for vectors alone, of which there would be dozens in a layer."""
        weight = layer.weight.to(dtype).flatten(1)
        if not _fits(flat(x), weight, flat(out)):
            return super().layer(layer, x, out, dtype, trains=trains, measure=measure)
        norm, norm2 = _stored(layer.norm), _stored(layer.norm2)
        product, seen2 = self._bnrelu_product(flat(x), norm, weight, trains)
        if seen2 is not None:
            norm2 = norm2._replace(mean=seen2[0], var=seen2[1])
        z = product.view(*x.shape[:-1], -1)
        activated = self._bnrelu(product, norm2, torch.empty_like(product)).view_as(z)
        result = convolve(activated, layer.weight2.to(dtype))
        if measure:
            return z, seen2, self.tile_moments(flat(result).to(out.dtype), flat(out))
        out.copy_(result)
        return z, seen2, None

    def infer_layer(self, layer: Bottleneck, x: Tensor, out: Tensor, dtype: torch.dtype) -> None:
        """As `TorchOps.infer_layer`; what the 3x3 convolution reads is all that leaves the chip."""
        weight = layer.weight.to(dtype).flatten(1)
        if not _fits(flat(x), weight, flat(out)):
            super().infer_layer(layer, x, out, dtype)
            return
        activated, _ = self._bnrelu_product(flat(x), _stored(layer.norm), weight, False, _stored(layer.norm2))
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
        wants_weight: bool,
        wants_weight2: bool,
    ) -> BottleneckGradients:
        """As `TorchOps.layer_backward`, likewise."""
        matrix, rows = layer.weight.to(dy.dtype).flatten(1), flat(z)
        onto = flat(source), None if out is None else flat(out)
        if not (_holds(dy, matrix) and _fits(flat(x), rows, matrix, *onto)):
            more: dict[str, Any] = {"source": source, "out": out, "terms": terms}
            more |= {"wants_weight": wants_weight, "wants_weight2": wants_weight2}
            return super().layer_backward(layer, dy, x, z, trains=trains, **more)
        norm, norm2 = _stored(layer.norm), _stored(layer.norm2)
        activated, count = self._bnrelu(rows, norm2, torch.empty_like(rows)).view_as(z), len(rows)
        dactivated, dweight2 = self.convolve_backward(dy, activated, layer.weight2.to(dy.dtype), True, wants_weight2)
        assert dactivated is not None
        dz = flat(dactivated)
        sums2 = self._drelu_sums(dz, rows, norm2, None, dz)
        self._bn_gradient(dz, rows, norm2, sums2 if trains else None, count, dz)
        dmatrix, sums = self._product_backward(dz, matrix, flat(x), norm, *onto, wants_weight)
        return [
            *_norm_gradients(sums, norm, count, terms, layer.norm.weight.dtype),
            None if dmatrix is None else kernels_like(dmatrix.to(layer.weight.dtype), layer.weight),
            *_norm_gradients(sums2, norm2, count, None, layer.norm2.weight.dtype),
            None if dweight2 is None else dweight2.to(layer.weight2.dtype),
        ]


def _norm_gradients(
    sums: Tensor, norm: Norm, count: int, terms: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """As `norms.norm_gradients`; `norms.moment_terms` are added to ``terms``."""
    dscale = torch.empty_like(sums[0], dtype=dtype)
    operands = (sums, norm.weight, norm.var, norm.eps, dscale, *_matrix(terms), count, len(dscale))
    _launch(kernels.norm_gradient, (1, len(dscale)), *operands, ROWS=1, COLS=256)
    return dscale, sums[0].to(dtype)


def _holds(gradient: Tensor, weight: Tensor) -> bool:
    """Whether a program can hold its part of the gradient of a product's weight; else PyTorch multiplies.

    It cannot of more than 256 outputs, and in float32 without TF32, for which compilers need thousands of bytes a
    thread beyond registers.
    """
    types = gradient.dtype == weight.dtype and (weight.dtype != torch.float32 or _precision() == "tf32")
    return types and len(weight) <= 256


def _fits(*matrices: Tensor | None) -> bool:
    """Whether the kernels can compute with these matrices."""
    given = [matrix for matrix in matrices if matrix is not None]
    return all(m.dtype in _TYPES and m.stride(1) == 1 and 0 < len(m) < _MOST_ROWS for m in given)


def _stored(norm: Norm) -> Norm:
    """Return a batch norm as the kernels can read it."""
    if all(vector.dtype in _TYPES and vector.is_contiguous() for vector in norm[:4]):
        return norm
    weight, bias, mean, var = (vector.float().contiguous() for vector in norm[:4])
    return Norm(weight, bias, mean, var, norm.eps)


def _matrix(x: Tensor | None) -> tuple[Tensor | None, int]:
    """Return the pointer and the row stride, in values."""
    return (None, 0) if x is None else (x, x.stride(0))


def _tiles(length: int, size: int) -> int:
    """Return how many tiles of a size there are, the last maybe cut off; Triton's own takes microseconds for it."""
    return -(-length // size)


def _power(columns: int) -> int:
    """Return the power of two from 16 on, the least that a product takes, that holds so many columns."""
    return max(16, 1 << (columns - 1).bit_length())


def _sizes(x: Tensor) -> dict[str, Any]:
    """Return the tile of a step that passes over the rows: of 8192 values, 32 a thread.

    A thread then has four loads of 16 bytes (of a half type) under way per matrix, and up to four matrices fit into its
    registers. 64 columns of a half type are one line of the cache; more would leave fewer rows to sum on the chip.
    """
    columns = min(64, _power(x.shape[1]))
    return {"ROWS": 8192 // columns, "COLS": columns, "num_warps": 8}


def _parts(x: Tensor, rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return room for two values per column of every ``rows`` rows of ``x``, (tiles, 2, c)."""
    return torch.empty(_tiles(len(x), rows), 2, x.shape[1], dtype=dtype, device=x.device)


def _join(moments: Tensor, rows: int, P: int) -> Tensor:
    """Join the moments (tiles, 2, c) of tiles of ``rows`` rows, the last of fewer, to those of all P rows, (2, c).

    The result is of float32, the type of sums.
    """
    tiles, _, c = moments.shape
    while moments.dtype == torch.float64:
        dtype = torch.float32 if tiles <= _GROUP else torch.float64
        joined = torch.empty(_tiles(tiles, _GROUP), 2, c, dtype=dtype, device=moments.device)
        sizes = {"ROWS": _GROUP, "COLS": min(32, _power(c))}
        _launch(kernels.join_moments, (tiles, c), moments, joined, tiles, rows, P, c, **sizes)
        moments, rows, tiles = joined, rows * _GROUP, len(joined)
    return moments[0]


def _precision() -> str:
    convolutions: Any = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue] (made at run time)
    return "tf32" if convolutions.fp32_precision == "tf32" else "ieee"


def _launch(kernel: Any, shape: tuple[int, ...], *operands: Any, **sizes: Any) -> None:
    """Start one program per tile of a matrix of this shape, on the device of the first operand."""
    programs = _tiles(shape[0], sizes["ROWS"]) * _tiles(shape[1], sizes["COLS"])
    with torch.cuda.device_of(operands[0]):
        # said here because Triton is about to change what it does when nothing is said; exactness needs neither
        kernel[(programs,)](*operands, **sizes, enable_fp_fusion=True)
