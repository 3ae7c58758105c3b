"""Read the norms and convolutions of a stock dense block, transition or stem, or say why the fused path cannot run it.

Only known computations are accepted: exactly the classes below, not subclasses of them, and no inner module with hooks,
parametrisations or a replaced ``forward``.
"""

from functools import cache
from types import NoneType
from typing import Any, NamedTuple

from torch import Tensor, nn

from densekit.engine.batch_norm import StoredNorm
from densekit.engine.fallback import Fallback

BLOCKS = {
    "densekit.models.dense_block.DenseBlock",
    "torchvision.models.densenet._DenseBlock",
    "timm.models.densenet.DenseBlock",
    "monai.networks.nets.densenet._DenseBlock",
}
TRANSITIONS = {
    "densekit.models.dense_block.Transition",
    "torchvision.models.densenet._Transition",
    "timm.models.densenet.DenseTransition",
    "monai.networks.nets.densenet._Transition",
}
STEMS = {"torch.nn.modules.container.Sequential"}  # with the modules that `stem_names` looks for
_LAYERS = {
    "densekit.models.dense_block.DenseLayer",
    "torchvision.models.densenet._DenseLayer",
    "timm.models.densenet.DenseLayer",
    "monai.networks.nets.densenet._DenseLayer",
}
_NORM_AND_ACT = "timm.layers.norm_act.BatchNormAct2d"
_DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)
# of a Sequential, which calls them one after the other
_ORDER = ("norm", "relu", "conv", "pool", "norm1", "relu1", "conv1", "norm2", "relu2", "conv2", "dropout")
# of layers and their parts: each must be the one that its class defines
_METHODS = frozenset({"forward", "_conv_forward", "_first_convolution", "bn_function", "bottleneck_fn"})


class UnsupportedModule(Fallback):
    """The fused path cannot compute what the module computes, whatever the call."""


class NormState(NamedTuple):
    """A batch norm that a ReLU follows, as it is at the time of the call.

    Its attributes are read once a call: looking one up in a module is slow, and a network has hundreds.
    """

    module: nn.BatchNorm2d | nn.BatchNorm3d
    trains: bool
    stored: StoredNorm

    @property
    def parameters(self) -> tuple[Tensor, Tensor]:
        """Its gamma and beta."""
        return self.stored.weight, self.stored.bias


class Pair(NamedTuple):
    """A batch norm and the convolution behind its ReLU."""

    norm: NormState
    weight: Tensor  # of the convolution

    @property
    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gamma and beta of the norm, weight of the convolution."""
        return *self.norm.parameters, self.weight


Layer = tuple[Pair, ...]
"""A dense layer: with a bottleneck a pair with a 1x1 and a pair with a 3x3 convolution, otherwise the latter alone."""


def qualified_name(thing: object) -> str:
    """Return where a module's or tensor's class is defined, e.g. ``"torch.nn.modules.linear.Linear"``."""
    return _name(type(thing))


@cache
def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def read_block(block: nn.Module) -> list[Layer]:
    """Return the layers of a dense block.

    Raises:
        Fallback: it contains something that the fused block does not compute.
    """
    layers = [_read_layer(layer) for layer in block.children()]
    if not layers:
        raise UnsupportedModule("the block has no layers")
    check_classes(block, *block.children())
    return layers


def check_classes(*modules: nn.Module) -> None:
    """Raise Fallback where a method of a module's class was replaced."""
    for kind in {type(module) for module in modules}:
        if _is_patched(kind):
            raise Fallback(f"a method of {kind.__name__} was replaced")


def _is_patched(kind: type) -> bool:
    """Whether a method of a class was defined in another Python module than the class, so somebody replaced it."""
    owners = ((name, base) for name in _METHODS for base in kind.__mro__ if name in base.__dict__)
    return any(base.__dict__[name].__module__ != base.__module__ for name, base in owners)


def _read_layer(layer: nn.Module) -> Layer:
    if qualified_name(layer) not in _LAYERS:
        raise UnsupportedModule(f"{type(layer).__name__} is not a known dense layer")
    _check_untouched(layer)
    children = _children(layer)
    if "layers" in children:  # MONAI keeps a layer's modules in a Sequential
        inner = _take(children, "layers", nn.Sequential)
        if children:
            raise UnsupportedModule(f"a dense layer with {', '.join(children)}")
        children = _children_in_order(inner)
    drop_rate: Any = getattr(layer, "drop_rate", 0.0)
    # MONAI's layers have a module for it, the others a rate
    dropout = _take(children, "dropout", *_DROPOUTS, NoneType, otherwise="another module in the place of dropout")
    if (layer.training and drop_rate > 0) or (dropout is not None and dropout.training):
        raise Fallback("dropout while training")
    _take(children, "se", nn.Identity, NoneType, otherwise="squeeze-and-excitation")
    if "norm2" in children:
        pairs = (_read_pair(children, "1", size=1), _read_pair(children, "2", size=3))
    else:
        pairs = (_read_pair(children, "1", size=3),)
    if children:
        raise UnsupportedModule(f"a dense layer with {', '.join(children)}")
    return pairs


def read_transition(transition: nn.Module) -> Pair:
    """Return the norm and the 1x1 convolution of a transition that averages 2x2 pixels.

    Raises:
        Fallback: it contains something that the fused transition does not compute.
    """
    check_classes(transition)
    children = _children_in_order(transition) if isinstance(transition, nn.Sequential) else _children(transition)
    pair = _read_pair(children, "", size=1)
    kind = nn.AvgPool2d if pair.weight.dim() == 4 else nn.AvgPool3d
    other = "a transition that does not end in plain average pooling"
    pool = _take(children, "pool", kind, otherwise=other)
    if children:
        raise UnsupportedModule(other)
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, pool.divisor_override)
    if settings != (2, 2, 0, False, None):
        raise UnsupportedModule("average pooling of other than 2x2 pixels")
    return pair


def stem_names(features: nn.Module) -> list[str]:
    """Return the names of the modules from the first norm to the max-pooling of a DenseNet's `features`; maybe none."""
    names = list(features._modules)
    if "norm0" not in names or "pool0" not in names:
        return []
    return names[names.index("norm0") : names.index("pool0") + 1]


def read_stem(features: nn.Module) -> NormState:
    """Return the norm of a stem that ends in norm, ReLU and max-pooling of 3x3 pixels with stride 2.

    Raises:
        Fallback: it contains something that the fused stem does not compute.
    """
    children = {name: features.get_submodule(name) for name in stem_names(features)}
    norm = _read_norm(children, "0")
    kind = nn.MaxPool2d if dimensions(norm) == 4 else nn.MaxPool3d
    other = "a stem other than norm, ReLU and max-pooling"
    pool = _take(children, "pool0", kind, otherwise=other)
    if children:
        raise UnsupportedModule(other)
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, pool.return_indices)
    if settings != (3, 2, 1, 1, False, False):
        raise UnsupportedModule("max-pooling other than of 3x3 pixels with stride 2")
    return norm


def _read_pair(children: dict[str, nn.Module], number: str, *, size: int) -> Pair:
    """Take norm, activation and convolution out of ``children``."""
    norm, conv = _read_norm(children, number), _take(children, f"conv{number}", nn.Conv2d, nn.Conv3d)
    _check_convolution(conv, size)
    return Pair(norm, conv.weight)


def _read_norm(children: dict[str, nn.Module], number: str) -> NormState:
    """Take norm and activation out of ``children``."""
    kinds, inner, act = (nn.BatchNorm2d, nn.BatchNorm3d), children, f"relu{number}"
    found = children.get(f"norm{number}")
    if act not in children and found is not None and qualified_name(found) == _NORM_AND_ACT:
        check_classes(found)
        kinds, inner, act = (type(found),), _children(found), "act"  # its activation is inside
        _take(inner, "drop", nn.Identity, otherwise="a norm with dropout")
    norm = _take(children, f"norm{number}", *kinds)
    _take(inner, act, nn.ReLU)
    mean, var = norm.running_mean, norm.running_var
    if not norm.affine or mean is None or var is None:
        raise UnsupportedModule("a batch norm without gamma and beta, or without running statistics")
    if norm.eps <= 0:
        raise Fallback(f"a batch norm with eps {norm.eps}")
    return NormState(norm, norm.training, StoredNorm(norm.weight, norm.bias, mean, var, norm.eps))


def _take(children: dict[str, nn.Module], name: str, *kinds: type, otherwise: str | None = None) -> Any:
    """Remove a module from ``children`` and return it, if it is of one of these classes and unchanged.

    Raises:
        Fallback: it is not. ``otherwise`` is the reason given for another class.
    """
    module = children.pop(name, None)
    if type(module) not in kinds:
        found, names = type(module).__name__, [kind.__name__ for kind in kinds]
        if found in names:  # another library's class of that name
            found = qualified_name(module)
        raise UnsupportedModule(otherwise or f"{found} in the place of {' or '.join(names)}")
    if module is not None:
        _check_untouched(module)
    return module


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """Return the children of a module by name; a child with two names appears under both."""
    return {name: child for name, child in module._modules.items() if child is not None}


def _children_in_order(sequential: nn.Sequential) -> dict[str, nn.Module]:
    """Return the children of a Sequential by name, if those that are known come in their usual order."""
    children = _children(sequential)
    known = [_ORDER.index(name) for name in children if name in _ORDER]
    if known != sorted(known):
        raise UnsupportedModule("modules in another order")
    return children


def _check_untouched(module: nn.Module) -> None:
    own = module.__dict__
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        raise Fallback("hooks on its inner modules")
    if not _METHODS.isdisjoint(own):
        raise Fallback("an inner module whose forward was replaced")


def _check_convolution(conv: nn.Conv2d | nn.Conv3d, size: int) -> None:
    if conv.groups != 1:
        raise UnsupportedModule("grouped convolutions")
    settings = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.padding_mode, conv.bias)
    dimensions = len(conv.kernel_size)
    expected = (*((number,) * dimensions for number in (size, 1, size // 2, 1)), "zeros", None)
    if settings != expected:
        raise UnsupportedModule(f"a {size}x{size} convolution with bias, stride, dilation or other padding")
    if conv.weight.shape[2:] != conv.kernel_size:
        raise Fallback(f"a weight of shape {tuple(conv.weight.shape)} in a {size}x{size} convolution")


def dimensions(norm: NormState) -> int:
    """Return how many dimensions a norm's input has: 4 for pictures, 5 for volumes."""
    return 5 if isinstance(norm.module, nn.BatchNorm3d) else 4
