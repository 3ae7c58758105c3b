"""Stock dense blocks, transitions and stems that compute with the fused steps."""

import copyreg
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function

from densekit.engine.autograd_function import Passes, run_passes
from densekit.engine.block_function import DENSE_BLOCK
from densekit.engine.calls import Call, growth, update_running_statistics
from densekit.engine.check_parts import check_norm, check_pair, compute_dtype
from densekit.engine.choose_ops import Choice, choose_ops, log_once
from densekit.engine.fallback import Fallback, UnsupportedInput, check_call
from densekit.engine.parts import (
    Layer,
    NormState,
    Pair,
    qualified_name,
    read_block,
    read_stem,
    read_transition,
    stem_names,
)
from densekit.engine.pooled_functions import STEM, TRANSITION
from densekit.errors import SettingsError

# Tensor subclasses of MONAI's and fastai's loaders that only carry information about the picture.
_LABELLED = {
    "monai.data.meta_tensor.MetaTensor",
    "fastai.torch_core.TensorImage",
    "fastai.torch_core.TensorImageBW",
}


class Fused(nn.Module):
    """What a stock module becomes: the same object, of a class derived from this one and from its own.

    It keeps its children, parameters and hooks, and stays an instance of its stock class.

    Attributes:
        stock: the class that it had before. Where the fused path cannot compute a call, its ``forward`` does.
        engine: which implementation of the fused steps, see `choose_ops`; may be changed at any time.
        passes: what the fused path computes.
        ran: what computed the last call: the implementation's name, or ``"stock: "`` and the reason.
    """

    stock: ClassVar[type[nn.Module]]
    passes: ClassVar[Passes]
    engine: str
    ran: str | None

    @classmethod
    def convert(cls, module: nn.Module, engine: str) -> None:
        """Let a stock module compute with the fused steps; of a fused one, change the engine."""
        if not isinstance(module, Fused):
            module.__class__ = _fused_class(cls, type(module))
            module.__dict__["ran"] = None
        module.__dict__["engine"] = engine

    @classmethod
    def is_own_class(cls) -> bool:
        """Whether this class was made here, and is not derived from such a class by others."""
        return "stock" in cls.__dict__

    def restore(self) -> None:
        """Give the module its stock class back; its present class must have been made here."""
        del self.engine, self.ran
        self.__class__ = self.stock  # pyright: ignore[reportAttributeAccessIssue] (once it was nothing else)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the two base classes, as the class is made at run time; derived classes by themselves."""
        if not self.is_own_class():
            return copyreg.__newobj__, (type(self),), self.__getstate__()  # pyright: ignore[reportAttributeAccessIssue]
        (kind,) = (base for base in type(self).__bases__ if issubclass(base, Fused))
        return _new, (kind, self.stock), self.__getstate__()

    def __prepare_scriptable__(self) -> nn.Module:
        """Return the stock module that TorchScript compiles in place of this one."""
        module = self.stock.__new__(self.stock)
        module.__dict__.update({name: value for name, value in self.__dict__.items() if name not in ("engine", "ran")})
        return module

    def extra_repr(self) -> str:
        """Name the stock class, and what runs."""
        origin = f"{self.stock.__module__.partition('.')[0]} {self.stock.__name__}"
        return f"of {origin}, engine={self.engine}, ran={self.ran}"

    def forward(self, input: Tensor) -> Tensor:
        """Return what the stock module would return, in channels-last memory where the fused path ran."""
        if not isinstance(self, Fused):  # it was unfused, but a wrapper of this method is still in place
            return type(self).forward(self, input)
        return self.run(input)

    def run(self, x: Tensor) -> Tensor:
        """Compute the part of the module that is fused; except for stems that is all of it."""
        if torch.compiler.is_compiling():  # the compiler fuses the stock modules in its own way
            return self.run_stock(x)
        if type(x) is not Tensor and qualified_name(x) in _LABELLED:
            return handle_torch_function(_without_label, (x,), self, x)
        try:
            check_call(x)
            choice = choose_ops(self.engine, x.device.type)
            parts, parameters = self.read(x)
        except Fallback as reason:
            if self.engine != "auto" and not isinstance(reason, UnsupportedInput):
                raise SettingsError(f"engine {self.engine!r} cannot compute this: {reason}; try auto") from None
            self.ran = f"stock: {reason}"
            log_once(logging.WARNING, f"a fused {self.stock.__name__} runs as stock modules: {reason}")
        else:
            return self._run_fused(x, choice, parts, parameters)
        return self.run_stock(x)  # outside the handler, so that its errors are not chained to the reason

    def _run_fused(self, x: Tensor, choice: Choice, parts: Any, parameters: Sequence[Tensor]) -> Tensor:
        call = Call(choice.ops, parts, compute_dtype(x))
        out = run_passes(self.passes, call, x, parameters)
        update_running_statistics(call, x.numel() // x.shape[1])
        self.ran = choice.name
        return out

    def run_stock(self, x: Tensor) -> Tensor:
        """Compute the same with the stock modules."""
        return super().forward(x)

    def read(self, x: Tensor) -> tuple[Any, Sequence[Tensor]]:
        """Return the parts that `passes` take and their parameters, checked against ``x`` and each other.

        Raises:
            Fallback: the fused path cannot compute them for ``x``.
        """
        raise NotImplementedError


def _of_x(self: Fused, x: Tensor) -> Tensor:
    return Fused.forward(self, x)


def _of_init_features(self: Fused, init_features: Tensor) -> Tensor:
    return Fused.forward(self, init_features)


# `forward` by the stock class's name for the input, which keyword calls and exporters use.
_NAMED = {"x": _of_x, "init_features": _of_init_features}


@cache
def _fused_class(kind: type[Fused], stock: type[nn.Module]) -> type[Fused]:
    name = list(signature(stock.forward).parameters)[1]
    return type(kind.__name__, (kind, stock), {"stock": stock, "forward": _NAMED.get(name, kind.forward)})


def _new(kind: type[Fused], stock: type[nn.Module]) -> Fused:
    made = _fused_class(kind, stock)
    return made.__new__(made)


def _without_label(module: Fused, x: Tensor) -> Tensor:
    """Compute on the plain tensor; the subclass then wraps the result."""
    return module.run(x.as_subclass(Tensor))


class FusedDenseBlock(Fused):
    """A dense block over one buffer: (N, C, H, W) -> (N, C + layers * growth_rate, H, W), or of volumes.

    Keeps for the backward pass what each layer made, once, instead of what each layer read; and reads each feature
    map a few times in all instead of several times a layer.
    """

    passes = DENSE_BLOCK

    def read(self, x: Tensor) -> tuple[Sequence[Layer], Sequence[Tensor]]:
        """Return the layers."""
        layers = read_block(self)
        compute = compute_dtype(x)
        stored, channels = torch.promote_types(x.dtype, compute), x.shape[1]
        for layer in layers:
            made, dtype = channels, stored
            for pair in layer:
                made, dtype = check_pair(pair, x, made, dtype), compute
            channels += growth(layer)
        return layers, [tensor for layer in layers for pair in layer for tensor in pair.parameters]


class FusedTransition(Fused):
    """A transition that averages before it multiplies: (N, C, H, W) -> (N, D, H // 2, W // 2)."""

    passes = TRANSITION

    def read(self, x: Tensor) -> tuple[Pair, Sequence[Tensor]]:
        """Return the norm and the convolution."""
        pair = read_transition(self)
        check_pair(pair, x, x.shape[1], x.dtype)
        if min(x.shape[2:]) < 2:
            raise UnsupportedInput("less than 2x2 pixels")
        return pair, pair.parameters


class FusedStem(Fused, nn.Sequential):
    """The features of a network, with the norm, ReLU and max-pooling after the first convolution fused.

    Keeps the convolution's output and a byte per pooled value for the backward pass.
    """

    passes = STEM

    def forward(self, input: Tensor) -> Tensor:
        """Return what the stock modules would return one after the other."""
        if not isinstance(self, Fused):
            return type(self).forward(self, input)
        x = input
        for _, step in self.steps():
            x = step(x)
        return x

    def steps(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """Yield the modules in order by name, with the stem as a single step."""
        stem = stem_names(self)
        for name, module in self._modules.items():
            if name not in stem:
                yield name, module
            elif name == stem[0]:
                yield name, self.run

    def run_stock(self, x: Tensor) -> Tensor:
        """Compute norm, ReLU and pooling with the stock modules."""
        for name in stem_names(self):
            x = self.get_submodule(name)(x)
        return x

    def read(self, x: Tensor) -> tuple[NormState, Sequence[Tensor]]:
        """Return the norm."""
        norm = read_stem(self)
        check_norm(norm, x, x.shape[1], x.dtype)
        return norm, norm.parameters

    def __getitem__(self, index: Any) -> Any:
        """Return one of the modules, or a stock Sequential of a slice of them, which may cut the stem in two."""
        if isinstance(index, slice):
            return self.stock(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)
