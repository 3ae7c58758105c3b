"""Let the stock modules of a network compute with the fused steps, and undo it."""

import logging
from collections import Counter

from torch import nn

from densekit.engine.choose_ops import choose_ops_anew, log_once
from densekit.engine.fallback import Fallback
from densekit.engine.fused_block import Fused, FusedDenseBlock, FusedStem, FusedTransition
from densekit.engine.parts import (
    BLOCKS,
    STEMS,
    TRANSITIONS,
    UnsupportedModule,
    qualified_name,
    read_block,
    read_stem,
    read_transition,
    stem_names,
)
from densekit.errors import SettingsError

_FASTER = ("cpu",)
_KINDS = (
    (BLOCKS, read_block, FusedDenseBlock),
    (TRANSITIONS, read_transition, FusedTransition),
    (STEMS, read_stem, FusedStem),
)


def fuse(model: nn.Module, engine: str = "auto") -> nn.Module:
    """Make the stem, dense blocks and transitions of a DenseNet run fused: the same numbers, faster, in less memory.

    Works in place on the 2-D and 3-D DenseNets of densekit, torchvision, timm and MONAI. Every module stays the same
    object and an instance of its class, so parameters, buffers, hooks, state-dict keys and existing optimizers remain
    valid. `unfuse` undoes it.

    Every training step equals the stock one up to rounding. Running statistics are updated at the end of a block's
    forward pass, or not at all if it fails. A batch counts once in them with ``memory_efficient`` too, where
    torchvision's and timm's layers count it twice. In `torch.utils.checkpoint` it counts twice, as with stock modules,
    except in the last fused module of a non-reentrant checkpoint. In evaluation without gradients nothing is kept, and
    a layer is a single step.

    Some things differ. Outputs are channels-last (use ``reshape`` instead of ``view``), so dropout behind them draws
    other values from the same seed. A block's output is kept for the backward pass and must not be changed in place
    before it, as ``F.relu(features, inplace=True)`` right behind a block would. On a CPU without AMX, bfloat16
    activations that are more than ten thousand times smaller than their neighbours lose digits, and pictures with
    infinity in them take several times as long. docs/performance.md, "What is fused", has the whole list.

    Calls that the fused path does not support (hooks inside a block, dropout in training, `torch.compile`, ...) run the
    stock modules; ``repr(model)`` and the log "densekit.engine" say so (except for compiled calls). Derivatives of
    gradients, and batched gradients, use PyTorch's own operations.

    Args:
        model: the network. Fusing it again only changes the engine.
        engine: "auto" chooses the fastest implementation that is proven on the device, and runs the stock modules for
            calls that it does not support; one chosen by name raises an error for those. "cpu" compiles the steps for
            this processor on first use (needs a C++ compiler). "triton" uses kernels for CUDA devices, so far proven
            in Triton's interpreter only; the network must already be on the device. "torch" is plain PyTorch: as lean,
            but slower than stock on a CPU; on a GPU, where "auto" chooses it, it has not been timed.

    Returns:
        ``model``.

    Raises:
        SettingsError: there is nothing to fuse, or no such engine.

    >>> from densekit.models.catalogue import create_model
    >>> fuse(create_model("densenet_bc100_k12_cifar")).features.denseblock1.engine
    'auto'
    """
    if not isinstance(model, nn.Module):
        raise SettingsError(f"nothing to fuse in {model!r}: it is not a torch.nn.Module")
    found, refused = _find(model)
    if not found:  # before a choice is made, for which a compiler may run
        why = refused[0] if refused else "it has no dense block of densekit, torchvision, timm or MONAI"
        raise SettingsError(f"nothing to fuse in this {type(model).__name__}: {why}")
    choice = choose_ops_anew(engine, _device(model))
    for module, kind in found.items():
        kind.convert(module, engine)
    count = Counter(type(module).__name__ for module in found)
    parts = ", ".join(f"{number} {name}" for name, number in sorted(count.items()))
    message = f"{type(model).__name__}: {parts} run {choice.name!r} ({choice.reason})"
    if engine == "auto" and choice.name not in _FASTER:
        log_once(logging.WARNING, f"{message}: in less memory, but not known to be faster than the stock modules")
    else:
        log_once(logging.INFO, message)
    return model


def fuse_where_faster(model: nn.Module) -> bool:
    """`fuse` a network if it has what can be fused, and an implementation runs that was measured to be faster.

    Returns:
        Whether it is fused.
    """
    found, _ = _find(model)
    if not found or choose_ops_anew("auto", _device(model)).name not in _FASTER:
        return False
    fuse(model)
    return True


def _device(model: nn.Module) -> str:
    return next((parameter.device.type for parameter in model.parameters()), "cpu")


def unfuse(model: nn.Module) -> nn.Module:
    """Make fused modules the stock ones that they were, in place, with the weights and modes that they have by now.

    A model that is not fused stays as it is.

    Returns:
        ``model``.

    Raises:
        SettingsError: something else has changed the class of a fused module since; then all stay fused.
    """
    fused = [module for module in model.modules() if isinstance(module, Fused)]
    for kind in map(type, fused):
        if not kind.is_own_class():
            raise SettingsError(f"{kind.__name__} was made of a fused module: unfuse the network before that")
    for module in fused:
        module.restore()
    return model


def _find(model: nn.Module) -> tuple[dict[nn.Module, type[Fused]], list[str]]:
    """Return what can be fused of a network, or is, with the class that does it; and why other blocks cannot be."""
    found: dict[nn.Module, type[Fused]] = {}
    refused: list[str] = []
    for module in model.modules():
        try:
            kind = type(module) if isinstance(module, Fused) else _fused_kind(module)
        except UnsupportedModule as reason:
            refused.append(str(reason))
        else:
            if kind is not None:
                found[module] = kind
    return found, refused


def _fused_kind(module: nn.Module) -> type[Fused] | None:
    """Return what a module is fused to if it is a dense block, a transition or the features of a network with a stem.

    Raises:
        UnsupportedModule: it is one of which the fused path cannot compute what it computes.
    """
    name = qualified_name(module)
    for known, read, fused in _KINDS:
        if name in known and "forward" not in module.__dict__ and (known is not STEMS or stem_names(module)):
            try:
                read(module)
            except UnsupportedModule:
                raise
            except Fallback:
                pass  # it may end: a hook can be removed, dropout stops with training
            return fused
    return None
