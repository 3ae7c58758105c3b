"""Launchers of `triton_kernels`: they choose tile sizes, allocate the sums per tile, and add these up.

Block sizes are fixed: nothing is tuned at run time, so that the same input gives the same bits in every process. They
follow from counting bytes and registers, for devices of compute capability 8.0 and above. So far the kernels have run
in Triton's interpreter and been compiled for such devices, but not timed on one, for which there is
benchmarks/bench_kernels.py.

Matrices (P, c) must pass `fits`, and vectors be contiguous.
"""

from typing import Any

import torch
from torch import Tensor

from densekit.engine import triton_kernels as kernels
from densekit.engine.batch_norm import FoldedNorm, StoredNorm

Norm = StoredNorm | FoldedNorm
TYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST_ROWS = 1 << 30  # half of what the kernels' 32-bit row numbers can count
_GROUP = 128  # tiles whose moments are joined at a time: the largest possible matrix takes three rounds
_STRIPE = 1024  # rows that share one part of a weight's gradient: 128 outputs add less than a fifth to the traffic


def fits(*matrices: Tensor | None) -> bool:
    """Return whether the kernels can compute with these matrices."""
    given = [matrix for matrix in matrices if matrix is not None]
    return all(m.dtype in TYPES and m.stride(1) == 1 and 0 < len(m) < _MOST_ROWS for m in given)


def holds(gradient: Tensor, weight: Tensor) -> bool:
    """Return whether a program of `conv1x1_backward` can hold its part of the weight's gradient.

    It cannot for more than 256 outputs, nor in float32 without TF32, where compilers spill thousands of bytes a thread.
    """
    types = gradient.dtype == weight.dtype and (weight.dtype != torch.float32 or precision() == "tf32")
    return types and len(weight) <= 256


def stored(norm: StoredNorm) -> StoredNorm:
    """Return a batch norm in types and layouts that the kernels can read."""
    if all(vector.dtype in TYPES and vector.is_contiguous() for vector in norm[:4]):
        return norm
    weight, bias, mean, var = (vector.float().contiguous() for vector in norm[:4])
    return StoredNorm(weight, bias, mean, var, norm.eps)


def precision() -> str:
    """Return the precision of float32 products, that of PyTorch's convolutions: "tf32" or "ieee"."""
    convolutions: Any = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue] (made at run time)
    return "tf32" if convolutions.fp32_precision == "tf32" else "ieee"


def tile_moments(x: Tensor, out: Tensor | None) -> Tensor:
    """Return mean and biased variance of every column of ``x``, float32 (2, c); copy ``x`` to ``out`` on the way."""
    sizes = _sizes(x)
    moments = _parts(x, sizes["ROWS"], torch.float64)
    _launch(kernels.tile_moments, x.shape, *_matrix(x), *_matrix(out), moments, *x.shape, **sizes)
    return _join(moments, sizes["ROWS"], len(x))


def bnrelu(x: Tensor, norm: Norm, out: Tensor) -> Tensor:
    """As `RowSteps.bnrelu`."""
    _launch(kernels.bnrelu, x.shape, *_matrix(x), *_norm(norm), *_matrix(out), *x.shape, **_sizes(x))
    return out


def drelu_sums(gradient: Tensor, x: Tensor, norm: Norm, source: Tensor | None, out: Tensor) -> Tensor:
    """As `RowSteps.drelu_sums`."""
    sizes = _sizes(x)
    sums = _parts(x, sizes["ROWS"])
    matrices = (*_matrix(gradient), *_matrix(x), *_norm(norm), *_matrix(source), *_matrix(out))
    _launch(kernels.drelu_sums, x.shape, *matrices, sums, *x.shape, **sizes)
    return sums.sum(0)


def bn_gradient(gradient: Tensor, x: Tensor, norm: Norm, terms: Tensor | None, count: int, out: Tensor) -> None:
    """As `RowSteps.bn_gradient`; for a stored norm the terms are sums of ``count`` rows, or None to scale only."""
    scale, _, *rest = _norm(norm)
    vectors = (scale, *rest, *((None, None) if terms is None else terms), count)
    matrices = (*_matrix(gradient), *_matrix(x), *vectors, *_matrix(out))
    _launch(kernels.bn_gradient, x.shape, *matrices, *x.shape, **_sizes(x))


def norm_gradients(
    sums: Tensor, norm: StoredNorm, count: int, terms: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """As `batch_norm.norm_gradients`; the `moment_terms` of ``count`` rows are added to ``terms``, if there are any."""
    dscale = torch.empty_like(sums[0], dtype=dtype)
    operands = (sums, norm.weight, norm.var, norm.eps, dscale, *_matrix(terms), count, len(dscale))
    _launch(kernels.norm_gradient, (1, len(dscale)), *operands, ROWS=1, COLS=256)
    return dscale, sums[0].to(dtype)


def bnrelu_avg_pool(x: Tensor, size: tuple[int, int], norm: Norm, out: Tensor) -> None:
    """As `PoolSteps.bnrelu_avg_pool`, of pictures of H x W pixels."""
    operands = (*_matrix(x), *_norm(norm), *_matrix(out), *size)
    _launch(kernels.bnrelu_avg_pool, out.shape, *operands, *out.shape, **_sizes(out))


def bnrelu_avg_pool_backward(dpooled: Tensor, x: Tensor, size: tuple[int, int], norm: Norm, out: Tensor) -> Tensor:
    """As `PoolSteps.bnrelu_avg_pool_backward`; returns the sums."""
    sizes = _sizes(x)
    sums = _parts(x, sizes["ROWS"])
    operands = (dpooled, *_matrix(x), *_norm(norm), out, sums, *size)
    _launch(kernels.bnrelu_avg_pool_backward, x.shape, *operands, *x.shape, **sizes)
    return sums.sum(0)


def bnrelu_conv1x1(
    x: Tensor, norm: Norm, weight: Tensor, with_moments: bool, second: StoredNorm | None = None
) -> tuple[Tensor, Tensor | None]:
    """As `TileSteps.bnrelu_conv1x1`; the product goes through a ``second`` norm and ReLU, if there is one."""
    rows, m = 128, len(weight)
    product = weight.new_empty(len(x), m)
    moments = _parts(product, rows, torch.float64) if with_moments else None
    sizes: dict[str, Any] = {
        "ROWS": rows,
        "COLS": min(128, _power(m)),  # all of a bottleneck of growth rate 32: x is read once
        "DEPTH": 128 // x.element_size(),  # a row of a tile is one line of the cache
        "num_warps": 8,  # 64 of a thread's 255 registers hold the product
        "num_stages": 3,
    }
    norm2 = (None, None, None, None, 0.0) if second is None else second
    operands = (*_matrix(x), *_norm(norm), *_matrix(weight), *norm2, product, moments)
    _launch(kernels.bnrelu_conv1x1, product.shape, *operands, *x.shape, m, PRECISION=precision(), **sizes)
    return product, None if moments is None else _join(moments, rows, len(x))


def conv1x1_backward(
    dz: Tensor, weight: Tensor, x: Tensor, norm: Norm, source: Tensor, out: Tensor | None, needs_dweight: bool
) -> tuple[Tensor | None, Tensor]:
    """As `TileSteps.conv1x1_backward`; both products share one pass over ``x`` and ``dz``."""
    m, c = weight.shape
    sums = _parts(x, _STRIPE)
    dweight = sums.new_empty(len(sums), m, c) if needs_dweight else None
    sizes: dict[str, Any] = {
        "ROWS": _STRIPE,
        "COLS": min(64 if m <= 128 else 32, _power(c)),
        "STEP": 128 // weight.element_size(),
        "DEPTH": _power(m),
        "num_warps": 8,
        "num_stages": 2,
    }
    matrices = (*_matrix(dz), *_matrix(weight), *_matrix(x), *_norm(norm), *_matrix(source), *_matrix(out))
    operands = (*matrices, dweight, sums, *x.shape, m)
    _launch(kernels.conv1x1_backward, x.shape, *operands, PRECISION=precision(), **sizes)
    return None if dweight is None else dweight.sum(0), sums.sum(0)


def _matrix(x: Tensor | None) -> tuple[Tensor | None, int]:
    """Return the pointer and the row stride, in values."""
    return (None, 0) if x is None else (x, x.stride(0))


def _norm(norm: Norm) -> tuple[Tensor | float | None, ...]:
    """Return gamma, beta, mean, variance and epsilon; or, without a variance, scale and shift in place of the first."""
    return norm if isinstance(norm, StoredNorm) else (norm.scale, norm.shift, norm.mean, None, 0.0)


def _tiles(length: int, size: int) -> int:
    """Return how many tiles of a size there are, counting a partial last one; `triton.cdiv` takes microseconds."""
    return -(-length // size)


def _power(columns: int) -> int:
    """Return the smallest power of two that holds so many columns, at least 16, the least that a product takes."""
    return max(16, 1 << (columns - 1).bit_length())


def _sizes(x: Tensor) -> dict[str, Any]:
    """Return the tile of a step that passes over the rows: 8192 values, 32 a thread.

    A thread then has four loads of 16 bytes (of a half type) under way per matrix, and up to four matrices fit into its
    registers. 64 columns of a half type are one line of the cache; more would leave fewer rows to sum on the chip.
    """
    columns = min(64, _power(x.shape[1]))
    return {"ROWS": 8192 // columns, "COLS": columns, "num_warps": 8}


def _parts(x: Tensor, rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Allocate two values per column for every ``rows`` rows of ``x``, (tiles, 2, c)."""
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


def _launch(kernel: Any, shape: tuple[int, ...], *operands: Any, **sizes: Any) -> None:
    """Start one program per tile of a matrix of this shape, on the device of the first operand."""
    programs = _tiles(shape[0], sizes["ROWS"]) * _tiles(shape[1], sizes["COLS"])
    with torch.cuda.device_of(operands[0]):
        # explicit because Triton's default is about to change; the results are exact with either
        kernel[(programs,)](*operands, **sizes, enable_fp_fusion=True)
