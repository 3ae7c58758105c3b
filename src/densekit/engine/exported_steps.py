"""The steps that a compiled library exports, as Python functions."""

import ctypes
from collections.abc import Callable
from typing import Any

import torch

from densekit.engine.step_structs import (
    Activation,
    Conv1x1Size,
    Conv3x3Size,
    Gradients,
    Kernels,
    Layer,
    Lines,
    Matrix,
    PoolSize,
    RowsSize,
)

_TYPES = {torch.float64: "float64", torch.float32: "float32", torch.bfloat16: "bfloat16"}
_V = ctypes.c_void_p
# The types of a step's arguments, whose names are those of `steps.hpp`.
_STEPS = {
    # size, x, activation, out
    "bnrelu": (RowsSize, Matrix, Activation, Matrix),
    # size, gradient, x, activation, mean, source, out, sums
    "drelu_sums": (RowsSize, Matrix, Matrix, Activation, _V, Matrix, Matrix, _V),
    # size, gradient, x, mean, scale, terms, out
    "bn_gradient": (RowsSize, Matrix, Matrix, _V, _V, Matrix, Matrix),
    # size, x, out, moments
    "tile_moments": (RowsSize, Matrix, Matrix, _V),
    # size, x, activation, out
    "bnrelu_avg_pool": (PoolSize, Lines, Activation, Lines),
    # size, dpooled, x, activation, mean, out, sums
    "bnrelu_avg_pool_backward": (PoolSize, Lines, Lines, Activation, _V, Lines, _V),
    # size, x, activation, out, indices
    "bnrelu_max_pool": (PoolSize, Lines, Activation, Lines, _V),
    # size, dpooled, indices, x, activation, mean, out, sums
    "bnrelu_max_pool_backward": (PoolSize, Lines, _V, Lines, Activation, _V, Lines, _V),
    # size, x, activation, weights, out, moments
    "bnrelu_conv1x1": (Conv1x1Size, Matrix, Activation, _V, _V, _V),
    # size, dz, weights, x, activation, mean, source, out, dweights, sums
    "conv1x1_backward": (Conv1x1Size, Matrix, _V, Matrix, Activation, _V, Matrix, Matrix, _V, _V),
    # size, x, activation, weights, out, moments
    "bnrelu_conv3x3": (Conv3x3Size, Matrix, Activation, Kernels, Matrix, _V),
    # size, dy, x, activation, mean, weights, source, out, sums
    "bnrelu_conv3x3_gradient": (Conv3x3Size, Matrix, Matrix, Activation, _V, Kernels, Matrix, Matrix, _V),
    # size, dy, x, activation, weights
    "conv3x3_weight_gradient": (Conv3x3Size, Matrix, Matrix, Activation, Kernels),
    # layer, pictures, keeps, x, out, z, moments2, moments
    "layer": (Layer, ctypes.c_int64, ctypes.c_bool, Matrix, Matrix, _V, _V, _V),
    # layer, trains2, dy, x, z, d, source, out, gradients, terms
    "layer_backward": (Layer, ctypes.c_bool, Matrix, Matrix, Matrix, Matrix, Matrix, Matrix, Gradients, Matrix),
}


class StepMemoryError(MemoryError, RuntimeError):
    """Memory ran out in a compiled step.

    It is a RuntimeError too, as PyTorch's own is, and contains the words by which `accelerate` recognises that one, so
    that training goes on with smaller parts of a batch in both cases.
    """


def find_steps(library: ctypes.CDLL) -> dict[tuple[str, torch.dtype], Callable[..., None]]:
    """Return the steps of a compiled library by name and type of their values."""
    steps: dict[tuple[str, torch.dtype], Callable[..., None]] = {}
    for step, arguments in _STEPS.items():
        prototype: Any = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)
        for dtype, name in _TYPES.items():
            pointer = ctypes.c_void_p.in_dll(library, f"{step}_{name}")
            exported = prototype(pointer.value)
            exported.errcheck = _check_status(step)
            steps[step, dtype] = exported
    return steps


def _check_status(step: str) -> Callable[[int, Any, Any], None]:
    def check(status: int, exported: Any, arguments: Any) -> None:
        if status == 1:
            raise StepMemoryError(f"the fused step {step} ran out of memory.")
        if status:
            raise RuntimeError(f"the fused step {step} failed")

    return check
