"""densekit: train, explain and ship image classifiers, DenseNets first.

The public names are imported when they are first used, so that the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from densekit.version import __version__

if TYPE_CHECKING:
    from densekit.classifier import Classifier, Prediction
    from densekit.classifier import load_classifier as load
    from densekit.engine.swap import fuse, unfuse
    from densekit.evaluation.evaluate import evaluate
    from densekit.export.export import export_run
    from densekit.export.push import push
    from densekit.models.catalogue import create_model, list_models
    from densekit.training.settings import list_recipes
    from densekit.training.train import Run, train

_HOMES = {
    "Classifier": "densekit.classifier:Classifier",
    "Prediction": "densekit.classifier:Prediction",
    "Run": "densekit.training.train:Run",
    "create_model": "densekit.models.catalogue:create_model",
    "evaluate": "densekit.evaluation.evaluate:evaluate",
    "export_run": "densekit.export.export:export_run",
    "fuse": "densekit.engine.swap:fuse",
    "list_models": "densekit.models.catalogue:list_models",
    "list_recipes": "densekit.training.settings:list_recipes",
    "load": "densekit.classifier:load_classifier",
    "push": "densekit.export.push:push",
    "train": "densekit.training.train:train",
    "unfuse": "densekit.engine.swap:unfuse",
}

__all__ = [
    "Classifier",
    "Prediction",
    "Run",
    "__version__",
    "create_model",
    "evaluate",
    "export_run",
    "fuse",
    "list_models",
    "list_recipes",
    "load",
    "push",
    "train",
    "unfuse",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'densekit' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
