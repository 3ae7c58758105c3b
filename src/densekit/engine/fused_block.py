"""Modules that compute a stock dense block or transition with the fused steps."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from densekit.engine.block_function import dense_block
from densekit.engine.calls import Call, growth, update_running_statistics
from densekit.engine.choose_ops import choose_ops, log_once
from densekit.engine.parts import (
    Layer,
    OtherInput,
    StepAside,
    check_call,
    check_pair,
    compute_dtype,
    read_block,
    read_transition,
)
from densekit.engine.transition_function import transition
from densekit.errors import SettingsError


class Fused(nn.Module):
    """Stand in for a stock module: the same children, parameters, buffers and hooks, under the same names.

    Args:
        original: the module to stand in for. Where the fused path cannot compute a call, its ``forward`` does.
        engine: which implementation of the fused steps, see `choose_ops`.

    Attributes:
        original: that module, no child of this one.
        engine: may be changed at any time.
        ran: what computed the last call: the implementation's name, or ``"stock: "`` and the reason.
    """

    original: nn.Module

    def __init__(self, original: nn.Module, engine: str):
        super().__init__()
        # not copies: the very dictionaries, so that a child, a parameter or a hook set on one is set on both
        self.__dict__.update(original.__dict__)
        self.__dict__["original"] = original  # past nn.Module, which would list its parameters a second time
        self.engine = engine
        self.ran: str | None = None

    def restore(self) -> nn.Module:
        """Return the original module, with the training mode and other attributes that this one has by now."""
        taken = self.original.__dict__.keys() & self.__dict__.keys()
        self.original.__dict__.update({name: self.__dict__[name] for name in taken})
        return self.original

    def extra_repr(self) -> str:
        """Say what it stands in for, and what runs."""
        stock = type(self.original)
        return f"of {stock.__module__.partition('.')[0]} {stock.__name__}, engine={self.engine}, ran={self.ran}"

    def forward(self, input: Tensor) -> Tensor:
        """Return what the original module would return, in channels-last memory where the fused path ran."""
        if torch.compiler.is_compiling():  # the compiler fuses the stock modules in its own way
            return self.original.forward(input)
        try:
            check_call(input)
            choice = choose_ops(self.engine, input.device.type)
            call = Call(choice.ops, self.read(input), compute_dtype(input))
        except StepAside as reason:
            if self.engine != "auto" and not isinstance(reason, OtherInput):
                raise SettingsError(f"engine {self.engine!r} cannot compute this: {reason}; try auto") from None
            self.ran = f"stock: {reason}"
            log_once(logging.WARNING, f"a fused {type(self.original).__name__} runs as stock modules: {reason}")
            return self.original.forward(input)
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


class FusedDenseBlock(Fused, nn.ModuleDict):
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


class FusedTransition(Fused, nn.Sequential):
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
