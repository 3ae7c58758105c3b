"""Put fused modules in the place of a network's stock ones, and back."""

import logging
from collections import Counter
from collections.abc import Callable

from torch import nn

from densekit.engine.choose_ops import choose_ops, log_once
from densekit.engine.fused_block import Fused, FusedDenseBlock, FusedTransition
from densekit.engine.parts import (
    BLOCKS,
    TRANSITIONS,
    StepAside,
    Unsupported,
    qualified_name,
    read_block,
    read_transition,
)
from densekit.errors import SettingsError

_FASTER = ("cpu",)


def fuse(model: nn.Module, engine: str = "auto") -> nn.Module:
    """Let the dense blocks and transitions of a DenseNet run fused: same numbers, faster, in less memory.

    Works on 2-D DenseNets of densekit, torchvision, timm and MONAI, in place. The fused modules hold the very same
    layers, so that parameters, buffers, state-dict keys and optimizers built before stay what they are; `unfuse`
    undoes it. In training and with a gradient each step is the stock one's up to rounding; running statistics are
    updated at the end of a block's forward pass, or not at all if that fails. In evaluation without gradients nothing
    is kept, and a layer is a single step.
    A call that the fused path cannot compute (hooks inside a block, dropout while training, `torch.compile`, ...)
    runs the stock modules; ``repr(model)`` and the log "densekit.engine" say so. TorchScript needs `unfuse` first.

    Args:
        model: the network; calling this again changes nothing but the engine.
        engine: "auto" takes the fastest implementation that is proven on the device, and runs the stock modules where
            it cannot compute a call. One asked for by name raises there instead: "cpu" compiles the steps for this
            processor on first use (needs a C++ compiler); "triton" are kernels for CUDA devices, so far proven in
            Triton's interpreter only, for a network that is on the device already; "torch" is plain PyTorch, which
            keeps as little memory but is slower than stock on a CPU and untimed on a GPU, where "auto" takes it.

    Returns:
        ``model``, or where that itself is a dense block or transition, the module to use in its place.

    Raises:
        SettingsError: there is nothing to fuse, or no such engine.

    >>> from densekit.models.catalogue import create_model
    >>> fuse(create_model("densenet_bc100_k12_cifar")).features.denseblock1.engine
    'auto'
    """
    if not isinstance(model, nn.Module):
        raise SettingsError(f"nothing to fuse in {model!r}: it is no torch.nn.Module")
    choice = choose_ops(engine, _device(model))
    refused: list[str] = []

    def replace(module: nn.Module) -> nn.Module:
        if isinstance(module, Fused):
            module.engine = engine
            return module
        try:
            return _fused(module, engine)
        except Unsupported as reason:
            refused.append(str(reason))
            return module

    model = _replace_everywhere(model, replace)
    count = Counter(type(module).__name__ for module in model.modules() if isinstance(module, Fused))
    if not count:
        why = refused[0] if refused else "it has no dense block of densekit, torchvision, timm or MONAI"
        raise SettingsError(f"nothing to fuse in this {type(model).__name__}: {why}")
    parts = ", ".join(f"{number} {name}" for name, number in sorted(count.items()))
    log_once(logging.INFO, f"{type(model).__name__}: {parts} run {choice.name!r} ({choice.reason})")
    return model


def fuse_where_faster(model: nn.Module) -> bool:
    """`fuse` a network if it has what can be fused, and an implementation runs that was measured to be faster.

    Returns:
        Whether it is fused.
    """
    if choose_ops("auto", _device(model)).name not in _FASTER:
        return False
    try:
        fuse(model)
    except SettingsError:
        return False
    return True


def _device(model: nn.Module) -> str:
    return next((parameter.device.type for parameter in model.parameters()), "cpu")


def unfuse(model: nn.Module) -> nn.Module:
    """Put the original modules back, in place, with the weights and modes that they have by now.

    A model that is not fused stays as it is.

    Returns:
        ``model``, or the original of it where that itself is a fused module.
    """
    return _replace_everywhere(model, lambda module: module.restore() if isinstance(module, Fused) else module)


def _fused(module: nn.Module, engine: str) -> nn.Module:
    """Return what takes the place of a module: itself, if it is neither dense block nor transition."""
    name = qualified_name(module)
    for known, read, fused in ((BLOCKS, read_block, FusedDenseBlock), (TRANSITIONS, read_transition, FusedTransition)):
        if name in known and "forward" not in module.__dict__:
            try:
                read(module)
            except Unsupported:
                raise
            except StepAside:
                pass  # it may end: a hook can be removed, dropout stops with training
            return fused(module, engine)
    return module


def _replace_everywhere(model: nn.Module, replace: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Replace modules all the way down, one that stands in several places by the same one everywhere."""
    done: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module not in done:
            done[module] = replace(module)
        if done[module] is module:
            continue
        if not name:
            return done[module]
        model.set_submodule(name, done[module])
    return model
