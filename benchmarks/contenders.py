"""The same DenseNet as its users have it: densekit's, fused and stock, torchvision's and timm's; of volumes MONAI's."""

from collections.abc import Callable

import timm
import torch
import torchvision
from torch import nn

import densekit as dk
from densekit.engine.choose_ops import choose_ops
from densekit.errors import SettingsError

CIFAR = {"block_config": (16, 16, 16), "growth_rate": 12, "num_init_features": 24, "num_classes": 10}
NETWORKS = {"densenet121": 224, "densenet201": 224, "densenet_bc100_k12_cifar": 32, "densenet121_3d": 96}
"""Name in densekit's catalogue, and pixels of a side; one is that of volumes with one channel."""


def of_volumes(network: str) -> bool:
    """Whether a network takes (N, 1, D, H, W)."""
    return network.endswith("_3d")


def densekits(name: str) -> nn.Module:
    if of_volumes(name):
        return dk.create_model(name.removesuffix("_3d"), num_classes=10, in_channels=1, spatial_dims=3)
    return dk.create_model(name, num_classes=10)


def monais(name: str) -> nn.Module:
    from monai.networks import nets

    kind = getattr(nets, name.removesuffix("_3d").replace("densenet", "DenseNet"))
    return kind(spatial_dims=3, in_channels=1, out_channels=10)


def torchvisions(name: str, **options: bool) -> nn.Module:
    if name != "densenet_bc100_k12_cifar":
        return getattr(torchvision.models, name)(num_classes=10, **options)
    model = torchvision.models.DenseNet(**CIFAR, **options)
    model.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    model.features.norm0 = model.features.relu0 = model.features.pool0 = nn.Identity()
    return model


def timms(name: str) -> nn.Module:
    return timm.create_model(name, num_classes=10)


CONTENDERS: dict[str, Callable[[str], nn.Module]] = {
    "densekit fused": densekits,
    "densekit fused, triton": densekits,
    "densekit stock": densekits,
    "torchvision eager": torchvisions,
    "torchvision memory_efficient": lambda name: torchvisions(name, memory_efficient=True),
    "timm eager": timms,
    "monai eager": monais,
    "torchvision compiled": torchvisions,
    "monai compiled": monais,
}


ENGINES = {"densekit fused": "auto", "densekit fused, triton": "triton"}
"""Of the contenders that are fused; "auto" is plain PyTorch on a GPU."""


def build(contender: str, network: str, device: str) -> nn.Module:
    """Build a contender in channels-last memory, which is the faster layout for all of them."""
    torch.manual_seed(0)
    layout = torch.channels_last_3d if of_volumes(network) else torch.channels_last
    model = CONTENDERS[contender](network).to(device, memory_format=layout)
    if contender in ENGINES:
        dk.fuse(model, ENGINES[contender])
    return torch.compile(model) if "compiled" in contender else model


def contenders_of(network: str, device: str, *, training: bool, compiled: bool) -> list[str]:
    """Return the contenders that make sense for a network, and can run on a device."""
    others = ("torchvision", "timm") if of_volumes(network) else ("monai",)
    left_out = {name for name in CONTENDERS if name.startswith(others) or ("compiled" in name and not compiled)}
    try:
        choose_ops("triton", torch.device(device).type)
    except SettingsError:
        left_out.add("densekit fused, triton")
    if network == "densenet_bc100_k12_cifar":
        left_out.add("timm eager")  # which has no stem for small pictures
    if not training:
        left_out.add("torchvision memory_efficient")
    return [name for name in CONTENDERS if name not in left_out]
