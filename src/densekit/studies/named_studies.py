"""Studies that need no more than a name: a setting with values that are worth comparing."""

from collections.abc import Sequence
from typing import Any

import torch

from densekit.errors import SettingsError, UnknownNameError
from densekit.models.catalogue import create_model, model_options
from densekit.models.dense_block import ACTIVATIONS
from densekit.training.settings import TrainSettings, make_settings

NAMED_STUDIES = ("growth-rate", "learning-rate", "depth", "activation", "pooling", "optimizer")


def named_study(name: str, base: TrainSettings) -> dict[str, Sequence[Any]]:
    """Return what a named study varies, as `densekit.studies.plan.vary` takes it.

    - growth-rate: 8, 12, 16 and 24 features a layer.
    - learning-rate: from a tenth of the optimizer's usual rate to three times it.
    - depth: half the layers of each block, all, and twice as many.
    - activation: ReLU, leaky ReLU, PReLU, sigmoid, tanh.
    - pooling: average or maximum in the transitions.
    - optimizer: SGD, Adam and AdamW, each with its usual learning rate and weight decay unless they are given.

    Args:
        name: one of `NAMED_STUDIES`.
        base: settings with the model and the optimizer named.

    Raises:
        UnknownNameError: no such study.
        SettingsError: the network has no blocks to deepen.

    >>> named_study("learning-rate", TrainSettings(optimizer="adam"))
    {'lr': [0.0001, 0.0003, 0.001, 0.003]}
    """
    match name:
        case "growth-rate":
            return {"growth_rate": [8, 12, 16, 24]}
        case "learning-rate":
            usual = make_settings(optimizer=base.optimizer).with_optimizer_defaults().lr
            assert isinstance(usual, float)
            return {"lr": [float(f"{usual * factor:.1g}") for factor in (0.1, 0.3, 1, 3)]}
        case "depth":
            return _depths(base)
        case "activation":
            return {"activation": list(ACTIVATIONS)}
        case "pooling":
            return {"pooling": ["avg", "max"]}
        case "optimizer":
            return {"optimizer": ["sgd", "adam", "adamw"]}
    raise UnknownNameError("study", name, list(NAMED_STUDIES))


def _depths(base: TrainSettings) -> dict[str, Sequence[Any]]:
    assert base.model is not None
    option = next((name for name in ("block_config", "layers") if name in model_options(base.model)), None)
    if option is None:
        raise SettingsError(f"{base.model} has no blocks to deepen: vary model=... instead, or choose another --model")
    with torch.device("meta"):
        network: Any = create_model(base.model, **base.model_options)
    layers = network.architecture["options"][option]
    return {option: [[max(1, round(n * factor)) for n in layers] for factor in (0.5, 1, 2)]}
