"""Stock dense blocks and transitions that compute with the fused steps."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function

from densekit.engine.block_function import dense_block
from densekit.engine.calls import Call, growth, update_running_statistics
from densekit.engine.choose_ops import choose_ops, log_once
from densekit.engine.parts import Layer, check_pair, compute_dtype, qualified_name, read_block, read_transition
from densekit.engine.step_aside import OtherInput, StepAside, check_call
from densekit.engine.transition_function import transition
from densekit.errors import SettingsError

# Tensors that only carry along what they show and where it comes from, as MONAI's and fastai's loaders make them.
_LABELLED = {
    "monai.data.meta_tensor.MetaTensor",
    "fastai.torch_core.TensorImage",
    "fastai.torch_core.TensorImageBW",
}


class Fused(nn.Module):
    """What a stock module becomes: the same object, of a class derived from this one and from its own.

    So it stays all that others know it by: children, parameters and hooks, and an instance of its stock class.

    Attributes:
        stock: the class that it had before. Where the fused path cannot compute a call, its ``forward`` does.
        engine: which implementation of the fused steps, see `choose_ops`; may be changed at any time.
        ran: what computed the last call: the implementation's name, or ``"stock: "`` and the reason.
    """

    stock: ClassVar[type[nn.Module]]
    engine: str
    ran: str | None

    @classmethod
    def take_over(cls, module: nn.Module, engine: str) -> None:
        """Let a stock module compute with the fused steps."""
        module.__class__ = _fused_class(cls, type(module))
        module.__dict__.update(engine=engine, ran=None)

    def restore(self) -> None:
        """Give the module its own class back.

        Raises:
            SettingsError: something else has changed its class since.
        """
        if "stock" not in type(self).__dict__:
            raise SettingsError(f"{type(self).__name__} was made of a fused module: unfuse the network before that")
        del self.engine, self.ran
        self.__class__ = self.stock  # pyright: ignore[reportAttributeAccessIssue] (once it was nothing else)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the two classes that its own is made of."""
        (kind,) = (base for base in type(self).__bases__ if issubclass(base, Fused))
        return _new, (kind, self.stock), self.__getstate__()

    def __prepare_scriptable__(self) -> nn.Module:
        """Return what TorchScript compiles in the place of this module: the same as a stock one."""
        module = self.stock.__new__(self.stock)
        module.__dict__.update({name: value for name, value in self.__dict__.items() if name not in ("engine", "ran")})
        return module

    def extra_repr(self) -> str:
        """Say what it is a fused one of, and what runs."""
        origin = f"{self.stock.__module__.partition('.')[0]} {self.stock.__name__}"
        return f"of {origin}, engine={self.engine}, ran={self.ran}"

    def forward(self, input: Tensor) -> Tensor:
        """Return what the stock module would return, in channels-last memory where the fused path ran."""
        if torch.compiler.is_compiling():  # the compiler fuses the stock modules in its own way
            return super().forward(input)
        if type(input) is not Tensor and qualified_name(input) in _LABELLED:
            return handle_torch_function(_without_label, (input,), self, input)
        try:
            check_call(input)
            choice = choose_ops(self.engine, input.device.type)
            call = Call(choice.ops, self.read(input), compute_dtype(input))
        except StepAside as reason:
            if self.engine != "auto" and not isinstance(reason, OtherInput):
                raise SettingsError(f"engine {self.engine!r} cannot compute this: {reason}; try auto") from None
            self.ran = f"stock: {reason}"
            log_once(logging.WARNING, f"a fused {self.stock.__name__} runs as stock modules: {reason}")
            return super().forward(input)
        out = self.compute(call, input)
        update_running_statistics(call, input.numel() // input.shape[1])
        self.ran = choice.name
        return out

    def read(self, x: Tensor) -> Sequence[Layer]:
        """Return the layers, or raise `StepAside` where the fused path cannot compute them for ``x``."""
        raise NotImplementedError

    def compute(self, call: Call, x: Tensor) -> Tensor:
        """Return the output."""
        raise NotImplementedError


@cache
def _fused_class(kind: type[Fused], stock: type[nn.Module]) -> type[Fused]:
    return type(f"Fused{stock.__name__.lstrip('_')}", (kind, stock), {"stock": stock})


def _new(kind: type[Fused], stock: type[nn.Module]) -> Fused:
    made = _fused_class(kind, stock)
    return made.__new__(made)


def _without_label(module: Fused, x: Tensor) -> Tensor:
    """What the label's own class calls, before it labels the result."""
    return module.forward(x.as_subclass(Tensor))


class FusedDenseBlock(Fused):
    """A dense block over one buffer: (N, C, H, W) -> (N, C + layers * growth_rate, H, W).

    Keeps for the backward pass what each layer made, once, instead of what each layer read; and reads each feature
    map a few times in all instead of several times a layer.
    """

    def read(self, x: Tensor) -> Sequence[Layer]:
        """Return the layers, checked against ``x`` and against each other."""
        layers = read_block(self)
        compute = compute_dtype(x)
        stored, channels = torch.promote_types(x.dtype, compute), x.shape[1]
        for layer in layers:
            made, dtype = channels, stored
            for pair in layer:
                made, dtype = check_pair(pair, x, made, dtype), compute
            channels += growth(layer)
        return layers

    def compute(self, call: Call, x: Tensor) -> Tensor:
        """Return the output."""
        return dense_block(call, x)


class FusedTransition(Fused):
    """A transition that averages before it multiplies: (N, C, H, W) -> (N, D, H // 2, W // 2)."""

    def read(self, x: Tensor) -> Sequence[Layer]:
        """Return the one pair as a layer, checked against ``x``."""
        pair = read_transition(self)
        check_pair(pair, x, x.shape[1], x.dtype)
        if min(x.shape[2:]) < 2:
            raise OtherInput("less than 2x2 pixels")
        return [(pair,)]

    def compute(self, call: Call, x: Tensor) -> Tensor:
        """Return the output."""
        return transition(call, x)
