"""How a network ends: its last feature map, and the linear layer behind it, found by watching it compute."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from densekit.errors import SettingsError


@dataclass(frozen=True, eq=False)
class Ending:
    """The end of one forward pass.

    Args:
        features: (N, C, h, w), the last feature map with more than one position that the network read.
        logits: (N, K).
        weight: of the linear layer that made the logits, laid out as the features are: (K, C, h, w), or (K, C, 1, 1)
            behind a global average, divided by the number of positions. None where no single linear layer leads from
            the features to the logits. Else ``logits = (weight[None] * features[:, None]).sum((2, 3, 4)) + bias``.
    """

    features: Tensor
    logits: Tensor
    weight: Tensor | None


def run_to_ending(network: nn.Module, pictures: Tensor) -> Ending:
    """Run a network and watch how it ends.

    No layer is looked for by name: what the network does last with a feature map is what counts. So this works on
    any network, on fused blocks, and where ReLU writes in place, because the map is taken as the next step reads it.

    Args:
        network: (N, C, H, W) -> logits (N, K), in evaluation mode.
        pictures: (N, C, H, W), on the network's device.

    Raises:
        SettingsError: the network has no feature map with positions.
    """
    with _Watch(pictures) as seen:
        logits = network(pictures)
    if seen.features is None:
        raise SettingsError(f"{type(network).__name__} shows no feature map: use occlusion")
    return Ending(seen.features, logits, _weight_on(seen.features, seen.linear) if seen.logits is logits else None)


def embed(network: nn.Module, pictures: Tensor) -> Tensor:
    """Run a network and return what its last linear layer reads; without such a layer, its last feature map pooled.

    Args:
        network: (N, C, H, W) -> logits (N, K), in evaluation mode.
        pictures: (N, C, H, W), on the network's device.

    Returns:
        (N, D). Where the logits come from one linear layer, they are its weights times this, plus its bias.

    Raises:
        SettingsError: the network has neither.
    """
    with _Watch(pictures) as seen:
        logits = network(pictures)
    if seen.logits is not None and seen.logits.shape == logits.shape:
        return seen.linear[0]
    if seen.features is not None:
        return seen.features.mean((2, 3))
    raise SettingsError(f"{type(network).__name__} has neither a linear layer at its end nor a feature map")


# they read four dimensions of which the last two are tokens and channels
_ATTENTION = (F.scaled_dot_product_attention, torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.transpose)


class _Watch(TorchFunctionMode):
    """Remembers the last feature map of the pictures that anything read, and the last linear layer."""

    may_miss_operations = True  # what a fused block computes in C++ is not the end of a network

    def __init__(self, pictures: Tensor):
        super().__init__()
        self.size = pictures.shape
        self.features: Tensor | None = None
        self.linear: tuple[Any, ...] = ()
        self.logits: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = args[0] if args else None
        if func is F.linear:
            self.linear, self.logits = args, out
        elif isinstance(read, Tensor) and func not in _ATTENTION and self._is_map(read):
            self.features = read
        return out

    def _is_map(self, x: Tensor) -> bool:
        if isinstance(x, nn.Parameter) or x.dim() != 4 or len(x) != self.size[0]:
            return False
        if x.requires_grad != torch.is_grad_enabled():
            return False  # a gradient can only be asked for what is on the graph; inside custom functions nothing is
        return x[0, 0].numel() > 1 and _has_shape_of(self.size[2:], x.shape[2:])


def _has_shape_of(picture: torch.Size, positions: torch.Size) -> bool:
    """Whether positions are as high for their width as a picture: those of channels or tokens hardly are."""
    (height, width), (h, w) = picture, positions
    if h > height or w > width:
        return False
    stride = ((height * width) / (h * w)) ** 0.5
    by_rounding = abs(h - height / stride) <= 1 and abs(w - width / stride) <= 1
    return by_rounding or 2 / 3 <= (h * width) / (w * height) <= 3 / 2


def _weight_on(features: Tensor, linear: tuple[Any, ...]) -> Tensor | None:
    """Return the weight of a linear layer as a weight of the feature map, if that is what it multiplies."""
    if not linear:
        return None
    vector, weight = linear[:2]  # (N, D), (K, D)
    C, h, w = features.shape[1:]
    if _same(vector, features.mean((2, 3))):
        return weight[:, :, None, None] / (h * w)
    if _same(vector, features.flatten(1)):
        return weight.unflatten(1, (C, h, w))
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ by rounding only."""
    if one.shape != other.shape:
        return False
    tolerance = max(1e-5, 4 * torch.finfo(one.dtype).eps) * other.abs().max()
    return bool((one - other).abs().max() <= tolerance)
