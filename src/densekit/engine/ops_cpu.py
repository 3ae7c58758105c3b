"""The steps of the fused dense block on a CPU: the memory-bound ones from steps.cpp, products by PyTorch."""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from densekit.engine.ops import TorchOps, flat

_TYPES = {torch.float64: "float64", torch.float32: "float32", torch.bfloat16: "bfloat16"}
_ARGUMENTS = {
    "bnrelu": "mvvm",
    "drelu_sums": "mmvvvmmv",
    "bn_gradient": "mmvvvvm",
    "tile_moments": "mmv",
    "neighbours": "vvii",
}
"""Of each step, before its size: m is a matrix, v a vector, i a number."""


class CompiledOps(TorchOps):
    """Steps that pass over the rows once; float16 and mixed types run as in `TorchOps`.

    Args:
        library: steps.cpp, compiled.
    """

    name = "cpu"
    tile_values = 1 << 20  # float32: 4 MiB, so that what a tile needs stays in the last-level cache

    def __init__(self, library: ctypes.CDLL):
        self._steps = {
            (step, dtype): _declared(getattr(library, f"{step}_{name}"), arguments)
            for step, arguments in _ARGUMENTS.items()
            for dtype, name in _TYPES.items()
        }

    def _find(self, step: str, *matrices: Tensor | None) -> Callable[..., None] | None:
        """Return the compiled step for these matrices, or None where it has to be PyTorch's."""
        given = [matrix for matrix in matrices if matrix is not None]
        dtype = given[0].dtype
        if dtype not in _TYPES or any(m.dtype != dtype or m.stride(1) != 1 for m in given):
            return None
        return self._steps[step, dtype]

    def tile_moments(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """As `RowSteps.tile_moments`."""
        step = self._find("tile_moments", x, out)
        if step is None:
            return super().tile_moments(x, out)
        moments = torch.empty(2, x.shape[1], dtype=torch.float64)
        step(*_matrix(x), *_matrix(out), _vector(moments), *_size(x))
        return moments

    def bnrelu(self, x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
        """As `RowSteps.bnrelu`."""
        step = self._find("bnrelu", x, out)
        if step is None:
            return super().bnrelu(x, scale, shift, out)
        step(*_matrix(x), _vector(scale), _vector(shift), *_matrix(out), *_size(x))
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
        step = self._find("drelu_sums", gradient, x, source, out)
        if step is None:
            return super().drelu_sums(gradient, x, scale, shift, mean, source=source, out=out)
        sums = torch.empty(2, len(mean), dtype=mean.dtype)
        vectors = (_vector(scale), _vector(shift), _vector(mean))
        step(*_matrix(gradient), *_matrix(x), *vectors, *_matrix(source), *_matrix(out), _vector(sums), *_size(x))
        return sums

    def bn_gradient(
        self, gradient: Tensor, x: Tensor, mean: Tensor, scale: Tensor, terms: Tensor, out: Tensor
    ) -> Tensor:
        """As `RowSteps.bn_gradient`."""
        step = self._find("bn_gradient", gradient, x, out)
        if step is None:
            return super().bn_gradient(gradient, x, mean, scale, terms, out)
        vectors = (_vector(mean), _vector(scale), _vector(terms[0]), _vector(terms[1]))
        step(*_matrix(gradient), *_matrix(x), *vectors, *_matrix(out), *_size(x))
        return out

    def convolve_backward(
        self, dy: Tensor, x: Tensor, weight: Tensor, wants_x: bool, wants_weight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """As `TorchOps.convolve_backward`, but the weight's gradient as one product, twice as fast in float32.

        With the nine neighbours' gradients of each pixel beside each other it is (P, 9k)^T @ (P, c).
        """
        step = self._find("neighbours", flat(dy)) if dy.dtype != torch.bfloat16 else None  # which oneDNN is good at
        if step is None or not wants_weight:
            return super().convolve_backward(dy, x, weight, wants_x, wants_weight)
        N, H, W, k = dy.shape
        dy = dy.contiguous()
        nine = dy.new_empty(N * H * W, 9 * k)
        step(_vector(dy), _vector(nine), *dy.shape, torch.get_num_threads())
        dweight = (nine.t() @ flat(x)).view(3, 3, k, -1).permute(2, 3, 0, 1)
        dx = super().convolve_backward(dy, x, weight, True, False)[0] if wants_x else None
        return dx, dweight


def _declared(step: Any, arguments: str) -> Callable[..., None]:
    """Tell ctypes the types of a step's arguments, so that it takes plain numbers."""
    kinds = {"m": (ctypes.c_void_p, ctypes.c_int64), "v": (ctypes.c_void_p,), "i": (ctypes.c_int64,)}
    size = (ctypes.c_int64, ctypes.c_int64, ctypes.c_int)  # see `_size`
    step.argtypes = [*(kind for letter in arguments for kind in kinds[letter]), *size]
    step.restype = None
    return step


def _matrix(x: Tensor | None) -> tuple[int | None, int]:
    """Return address and row stride, in values."""
    return (None, 0) if x is None else (x.data_ptr(), x.stride(0))


def _vector(x: Tensor) -> int:
    assert x.is_contiguous()
    return x.data_ptr()


def _size(x: Tensor) -> tuple[int, int, int]:
    """Return rows, columns, and threads to share them."""
    return x.shape[0], x.shape[1], torch.get_num_threads()
