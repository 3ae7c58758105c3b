"""The compiled steps and their arguments: addresses, strides and sizes of tensors."""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from densekit.engine.tile_steps import flat

_TYPES = {torch.float64: "float64", torch.float32: "float32", torch.bfloat16: "bfloat16"}
# The arguments of each step that come before its size, in the letters of `_declared`.
_ROW_STEPS = {
    "bnrelu": "mvvm",
    "drelu_sums": "mmvvvmmv",
    "bn_gradient": "mmvvvvm",
    "tile_moments": "mmv",
}
_PRODUCTS = {
    "bnrelu_conv1x1": "mvvvvv",
    "conv1x1_backward": "mvmvvvmmvv",
}
_CONVOLUTIONS = {
    "bnrelu_conv3x3": "mvvkmv",
    "bnrelu_conv3x3_gradient": "mmvvvkmmv",
    "conv3x3_weight_gradient": "mmvvk",
}
_POOLING = {
    "bnrelu_avg_pool": "vvvv",
    "bnrelu_avg_pool_backward": "vvvvvvv",
    "bnrelu_max_pool": "vvvvv",
    "bnrelu_max_pool_backward": "vvvvvvvv",
}
_PARAMETERS = "vvvvdvvvvvdk"  # of a layer
_LAYERS = {
    "layer": f"m{_PARAMETERS}mvvvnn",
    "layer_backward": f"mm{_PARAMETERS}vvmmvvvvvkmn",
}


class StepMemoryError(MemoryError, RuntimeError):
    """Memory ran out in a compiled step.

    It is a RuntimeError too, as PyTorch's own is, and contains the words by which `accelerate` recognises that one, so
    that training goes on with smaller parts of a batch in both cases.
    """


def find_steps(library: ctypes.CDLL) -> dict[tuple[str, torch.dtype], Callable[..., None]]:
    """Return the steps of a compiled library by name and type of their values."""
    return {
        (step, dtype): _declared(getattr(library, f"{step}_{name}"), arguments, numbers)
        for steps, numbers in ((_ROW_STEPS, 2), (_PRODUCTS, 3), (_POOLING, 4), (_CONVOLUTIONS, 5), (_LAYERS, 7))
        for step, arguments in steps.items()
        for dtype, name in _TYPES.items()
    }


def _declared(step: Any, arguments: str, numbers: int) -> Callable[..., None]:
    """Declare the types of a step's arguments to ctypes; its size and a number of threads come last.

    Args:
        step: of the library.
        arguments: a letter for each: m a matrix (of pixels), k 3x3 kernels, v contiguous values, d a float, n an
            integer.
        numbers: how many integers describe its size.
    """
    address, number = ctypes.c_void_p, ctypes.c_int64
    kinds = {
        "m": (address, number),
        "k": (address, *[number] * 4),
        "v": (address,),
        "d": (ctypes.c_double,),
        "n": (number,),
    }
    size = (*[number] * numbers, ctypes.c_int)
    step.argtypes = [*(kind for letter in arguments for kind in kinds[letter]), *size]
    step.restype = ctypes.c_int
    step.errcheck = _check_status
    return step


def _check_status(status: int, step: Any, arguments: Any) -> None:
    if status == 1:
        raise StepMemoryError(f"the fused step {step.__name__} ran out of memory.")
    if status:
        raise RuntimeError(f"the fused step {step.__name__} failed")


def matrix_of(x: Tensor | None) -> tuple[int | None, int]:
    """Return address and row stride, in values."""
    return (None, 0) if x is None else (x.data_ptr(), x.stride(0))


def pixels_of(x: Tensor | None) -> tuple[int | None, int]:
    """Return address and pixel stride of (N, H, W, c), whose pixels must be equally far apart."""
    return matrix_of(None if x is None else flat(x))


def kernels_of(weight: Tensor | None) -> tuple[int | None, ...]:
    """Return address and strides of (k, c, 3, 3)."""
    return (None, 0, 0, 0, 0) if weight is None else (weight.data_ptr(), *weight.stride())


def vector_of(x: Tensor | None) -> int | None:
    """Return the address of values without gaps.

    Raises:
        ValueError: there are gaps between them.
    """
    if x is None:
        return None
    if not x.is_contiguous():
        raise ValueError(f"a compiled step takes contiguous values, given strides {x.stride()}")
    return x.data_ptr()


def size_of(x: Tensor) -> tuple[int, int, int]:
    """Return rows, columns, and the number of threads."""
    return x.shape[0], x.shape[1], torch.get_num_threads()
