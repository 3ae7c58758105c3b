"""Weights that others have published for densekit's networks: what there is, and how it gets onto this machine."""

import re
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path

from densekit.console import Screen
from densekit.download import check_file, download
from densekit.errors import CheckpointError

# densekit's name -> timm's name and its tags: https://huggingface.co/timm
_TIMM = {
    "densenet121": ("densenet121", "ra_in1k tv_in1k"),
    "densenet161": ("densenet161", "tv_in1k"),
    "densenet169": ("densenet169", "tv_in1k"),
    "densenet201": ("densenet201", "tv_in1k"),
    "resnet18": ("resnet18", "a1_in1k a2_in1k a3_in1k fb_ssl_yfcc100m_ft_in1k fb_swsl_ig1b_ft_in1k gluon_in1k tv_in1k"),
    "resnet34": ("resnet34", "a1_in1k a2_in1k a3_in1k bt_in1k gluon_in1k ra4_e3600_r224_in1k tv_in1k"),
    "resnet50": (
        "resnet50",
        "a1_in1k a1h_in1k a2_in1k a3_in1k am_in1k b1k_in1k b2k_in1k bt_in1k c1_in1k c2_in1k d_in1k "
        "fb_ssl_yfcc100m_ft_in1k fb_swsl_ig1b_ft_in1k gluon_in1k ra_in1k ram_in1k tv2_in1k tv_in1k",
    ),
    "resnet101": ("resnet101", "a1_in1k a1h_in1k a2_in1k a3_in1k gluon_in1k tv2_in1k tv_in1k"),
    "resnet152": ("resnet152", "a1_in1k a1h_in1k a2_in1k a3_in1k gluon_in1k tv2_in1k tv_in1k"),
    "se_resnet50": ("seresnet50", "a1_in1k a2_in1k a3_in1k ra2_in1k"),
}
_HASH = re.compile(r"-([0-9a-f]{8,})\.")  # how the names of torchvision's files carry the beginning of their SHA-256
_TORCHVISION = ("densenet", "resnet")  # families whose networks of the same name are the same


def timm_names(model: str) -> list[str]:
    """Return the names of timm's published weights for one of densekit's networks.

    >>> timm_names("densenet121")
    ['densenet121.ra_in1k', 'densenet121.tv_in1k']
    """
    theirs, tags = _TIMM.get(model, ("", ""))
    return [f"{theirs}.{tag}" for tag in tags.split()]


def model_of(timm_name: str) -> str | None:
    """Return densekit's name of a network that timm knows, with or without a tag.

    >>> model_of("seresnet50.ra2_in1k")
    'se_resnet50'
    """
    return next((ours for ours, (theirs, _) in _TIMM.items() if theirs == timm_name.partition(".")[0]), None)


def torchvision_weights(model: str) -> Any:
    """Return torchvision's entry of its best weights for a network; None where it has none."""
    from torchvision.models import get_model_weights, list_models

    known = model.startswith(_TORCHVISION) and model in list_models()
    return get_model_weights(model).DEFAULT if known else None  # pyright: ignore[reportAttributeAccessIssue]


def published_names(model: str) -> list[str]:
    """Return the names of all published weights for one of densekit's networks, for ``weights=``.

    >>> published_names("densenet161")
    ['imagenet', 'densenet161.tv_in1k']
    """
    return [*(["imagenet"] if torchvision_weights(model) else []), *timm_names(model)]


def fetch_torchvision(model: str, screen: Screen) -> Path:
    """Return the file of torchvision's best weights; downloaded, unless densekit or torch has done so before.

    Raises:
        CheckpointError: it cannot be downloaded (the message says what to put where), or is damaged.
    """
    base, _, file = torchvision_weights(model).url.rpartition("/")
    folder = user_cache_path("densekit") / "weights"
    checksum = f"sha256:{_HASH.findall(file)[-1]}"
    places = [folder / file, Path(torch.hub.get_dir(), "checkpoints", file)]
    for path in places:
        if path.is_file():
            try:
                check_file(path, checksum)
            except OSError as error:
                raise CheckpointError(f"{path} is damaged ({error}): delete it") from None
            return path
    try:
        download(f"{base}/{file}", folder / file, screen, checksum=checksum)
    except OSError as error:
        raise CheckpointError(f"cannot download {file} ({error}): put {file} from {base} into {folder}") from None
    return folder / file
