"""The arguments of the compiled steps: the structs of `steps.hpp`, filled with addresses and sizes of tensors."""

from ctypes import Structure, c_bool, c_double, c_int, c_int64, c_void_p

from torch import Tensor

from densekit.engine.batch_norm import FoldedNorm, StoredNorm
from densekit.engine.tile_steps import flat


class Matrix(Structure):
    """Rows of values, or pixels of channels; strides are counted in values."""

    _fields_ = (("data", c_void_p), ("stride", c_int64))


class Activation(Structure):
    """Vectors of a batch norm that is followed by a ReLU."""

    _fields_ = (("scale", c_void_p), ("shift", c_void_p))


class Lines(Structure):
    """(N, H, W, channels) without gaps."""

    _fields_ = (("data", c_void_p), ("H", c_int64), ("W", c_int64), ("channels", c_int64))


class Kernels(Structure):
    """(out, in, 3, 3) in any memory layout."""

    _fields_ = (("data", c_void_p), ("strides", c_int64 * 4))


class Norm(Structure):
    """A batch norm as it is stored."""

    _fields_ = (*((name, c_void_p) for name in ("weight", "bias", "mean", "var")), ("eps", c_double))


class RowsSize(Structure):
    """Of the steps over rows."""

    _fields_ = (("rows", c_int64), ("channels", c_int64), ("threads", c_int))


class PoolSize(Structure):
    """Of the steps over lines."""

    _fields_ = (*((name, c_int64) for name in ("N", "H", "W", "channels")), ("threads", c_int))


class Conv1x1Size(Structure):
    """Of the products; channels in and out."""

    _fields_ = (*((name, c_int64) for name in ("rows", "in", "out")), ("threads", c_int))


class Conv3x3Size(Structure):
    """Of the convolutions; channels in and out."""

    _fields_ = (*((name, c_int64) for name in ("N", "H", "W", "in", "out")), ("threads", c_int))


class Layer(Structure):
    """A layer's parameters and the sizes of its steps; ``wide`` weights are of the accumulation type."""

    _fields_ = (
        *((name, c_int64) for name in ("N", "H", "W", "in", "middle", "out")),
        ("norm", Norm),
        ("norm2", Norm),
        ("matrix", c_void_p),
        ("kernels", c_void_p),
        ("strides", c_int64 * 4),
        ("wide", c_bool),
        ("threads", c_int),
    )


class Gradients(Structure):
    """Where the gradients of a layer's parameters go."""

    _fields_ = (*((name, c_void_p) for name in ("weight", "bias", "matrix", "weight2", "bias2")), ("kernels", Kernels))


def matrix_of(x: Tensor | None) -> Matrix:
    """(P, c), whose rows may be strided."""
    return Matrix(None, 0) if x is None else Matrix(x.data_ptr(), x.stride(0))


def pixels_of(x: Tensor | None) -> Matrix:
    """(N, H, W, c), whose pixels must be equally far apart."""
    return matrix_of(None if x is None else flat(x))


def lines_of(x: Tensor) -> Lines:
    """(N, H, W, c) without gaps; else ValueError."""
    return Lines(vector_of(x), *x.shape[1:])


def kernels_of(weight: Tensor | None) -> Kernels:
    """(k, c, 3, 3)."""
    return Kernels() if weight is None else Kernels(weight.data_ptr(), weight.stride())


def activation_of(norm: FoldedNorm) -> Activation:
    """Vectors without gaps; else ValueError."""
    return Activation(vector_of(norm.scale), vector_of(norm.shift))


def norm_of(norm: StoredNorm) -> Norm:
    """Vectors that are known to have no gaps: each layer takes two norms, and asking again would take longer."""
    weight, bias, mean, var, eps = norm
    return Norm(weight.data_ptr(), bias.data_ptr(), mean.data_ptr(), var.data_ptr(), eps)


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
