"""timm: a folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` opens."""

from pathlib import Path
from typing import Any

from densekit.classifier import Classifier
from densekit.data.preprocessing import Preprocessing
from densekit.errors import SettingsError
from densekit.export.densenet_options import densenet_options
from densekit.export.targets import Options
from densekit.files import write_json
from densekit.models.timm_networks import PREFIX, is_timm

_NAMED = ("densenet121", "densenet161", "densenet169", "densenet201")
_FIXED = {"stem": "imagenet", "compression": 0.5, "groups": 1, "se_reduction": None, "pooling": "avg"}


def write_timm(classifier: Classifier, folder: Path, options: Options) -> Path:
    """Write model.safetensors, whose keys are timm's, and config.json with class names and preprocessing.

    Raises:
        SettingsError: timm has no such network; says which option it lacks.
    """
    name, arguments, parts = _own(classifier) or _densenet(classifier)
    classifier.save(folder)
    config = {
        "architecture": name,
        "num_classes": len(classifier.classes),
        "label_names": list(classifier.classes),
        "model_args": arguments,
        "pretrained_cfg": _pretrained_cfg(classifier.preprocessing, len(classifier.classes)) | parts,
    }
    write_json(folder / "config.json", config)
    return folder / "model.safetensors"


_Network = tuple[str, dict[str, Any], dict[str, Any]]
"""timm's name of a network, the arguments that make it, and what its parts are called."""


def _own(classifier: Classifier) -> _Network | None:
    """Describe a network that is timm's own; None for any other."""
    network: Any = getattr(classifier.network, "_orig_mod", classifier.network)  # torch.compile's wrapper
    architecture = getattr(network, "architecture", {"name": ""})
    if not is_timm(architecture["name"]):
        return None
    options = dict(architecture["options"])
    del options["num_classes"]
    options["in_chans"] = options.pop("in_channels")
    known = ("first_conv", "classifier", "fixed_input_size", "pool_size")
    name = architecture["name"].removeprefix(PREFIX).partition(".")[0]  # the tag is of the weights it began with
    return name, options, {key: network.pretrained_cfg.get(key) for key in known}


def _densenet(classifier: Classifier) -> _Network:
    """Describe one of densekit's DenseNets as timm's."""
    name, chosen = densenet_options(classifier, "timm")
    _check(chosen)
    arguments = {
        "block_config": chosen["block_config"],
        "growth_rate": chosen["growth_rate"],
        "bn_size": chosen["bn_size"],
        "act_layer": chosen["activation"],
        "proj_drop_rate": chosen["drop_rate"],
        "in_chans": chosen["in_channels"],
    }
    parts = {"first_conv": "features.conv0", "classifier": "classifier", "fixed_input_size": False, "pool_size": None}
    return name if name in _NAMED else "densenet121", arguments, parts  # the others by their arguments


def _check(options: dict[str, Any]) -> None:
    """Raise unless timm's DenseNet can have these options."""
    lacking = [f"{option}={options[option]!r}" for option, value in _FIXED.items() if options[option] != value]
    k = options["growth_rate"]
    if not isinstance(k, int):
        lacking.append("a growth rate for each block")
    elif options["num_init_features"] != 2 * k:
        lacking.append(f"num_init_features={options['num_init_features']} (growth_rate={k} makes it {2 * k})")
    if options["bn_size"] is None:
        lacking.append("plain layers (bn_size=None)")
    if options["activation"] == "prelu":
        lacking.append("activation='prelu' with PyTorch's keys")
    if lacking:
        raise SettingsError(f"timm's DenseNet does not have {', '.join(lacking)}: export it to another target")


def _crop_pct(preprocessing: Preprocessing) -> float:
    """Return the share of which timm, which rounds down, makes the size that pictures are scaled to here."""
    share = min(size / covered for size, covered in zip(preprocessing.size, preprocessing.covered_size, strict=True))
    return share * (1 - 1e-9)


def _pretrained_cfg(preprocessing: Preprocessing, num_classes: int) -> dict[str, Any]:
    channels = preprocessing.channels
    return {
        "input_size": [channels, *preprocessing.size],
        "interpolation": preprocessing.interpolation,
        "crop_pct": _crop_pct(preprocessing) if preprocessing.resize == "crop" else 1.0,
        "crop_mode": "center" if preprocessing.resize == "crop" else "squash",
        "mean": list(preprocessing.mean) * (channels // len(preprocessing.mean)),
        "std": list(preprocessing.std) * (channels // len(preprocessing.std)),
        "num_classes": num_classes,
    }
