"""densekit: train, explain and ship image classifiers, DenseNets first.

The public names are imported when they are first used, so that the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from densekit.version import __version__

if TYPE_CHECKING:
    from densekit.classifier import Classifier
    from densekit.console import Screen
    from densekit.data.preprocessing import Preprocessing
    from densekit.engine.create import create_model
    from densekit.engine.swap import fuse, unfuse
    from densekit.errors import DensekitError
    from densekit.evaluation.evaluate import Evaluation, evaluate
    from densekit.explain.explain_pictures import Explanations, explain_pictures
    from densekit.explain.feature_reuse import feature_reuse
    from densekit.explain.heat_maps import heat_maps
    from densekit.explain.overlay import overlay
    from densekit.export.export import Export, export_run
    from densekit.export.push import push
    from densekit.loading import load_classifier as load
    from densekit.models.catalogue import list_models
    from densekit.models.pretrained import load_weights
    from densekit.prediction import Embeddings, Prediction
    from densekit.profiling.profile import Profile, profile
    from densekit.report.write import write_report
    from densekit.serving.serve import serve
    from densekit.studies.cross_validation import CrossValidation, cross_validate
    from densekit.studies.search import search
    from densekit.studies.study import Study, study
    from densekit.training.settings import TrainSettings, list_recipes
    from densekit.training.train import Run, train

_HOMES = {
    "Classifier": "densekit.classifier:Classifier",
    "CrossValidation": "densekit.studies.cross_validation:CrossValidation",
    "DensekitError": "densekit.errors:DensekitError",
    "Embeddings": "densekit.prediction:Embeddings",
    "Evaluation": "densekit.evaluation.evaluate:Evaluation",
    "Explanations": "densekit.explain.explain_pictures:Explanations",
    "Export": "densekit.export.export:Export",
    "Prediction": "densekit.prediction:Prediction",
    "Preprocessing": "densekit.data.preprocessing:Preprocessing",
    "Profile": "densekit.profiling.profile:Profile",
    "Run": "densekit.training.train:Run",
    "Screen": "densekit.console:Screen",
    "Study": "densekit.studies.study:Study",
    "TrainSettings": "densekit.training.settings:TrainSettings",
    "cross_validate": "densekit.studies.cross_validation:cross_validate",
    "create_model": "densekit.engine.create:create_model",
    "evaluate": "densekit.evaluation.evaluate:evaluate",
    "explain_pictures": "densekit.explain.explain_pictures:explain_pictures",
    "export_run": "densekit.export.export:export_run",
    "feature_reuse": "densekit.explain.feature_reuse:feature_reuse",
    "fuse": "densekit.engine.swap:fuse",
    "heat_maps": "densekit.explain.heat_maps:heat_maps",
    "list_models": "densekit.models.catalogue:list_models",
    "list_recipes": "densekit.training.settings:list_recipes",
    "load": "densekit.loading:load_classifier",
    "load_weights": "densekit.models.pretrained:load_weights",
    "overlay": "densekit.explain.overlay:overlay",
    "profile": "densekit.profiling.profile:profile",
    "push": "densekit.export.push:push",
    "search": "densekit.studies.search:search",
    "serve": "densekit.serving.serve:serve",
    "study": "densekit.studies.study:study",
    "train": "densekit.training.train:train",
    "unfuse": "densekit.engine.swap:unfuse",
    "write_report": "densekit.report.write:write_report",
}

__all__ = [
    "Classifier",
    "CrossValidation",
    "DensekitError",
    "Embeddings",
    "Evaluation",
    "Explanations",
    "Export",
    "Prediction",
    "Preprocessing",
    "Profile",
    "Run",
    "Screen",
    "Study",
    "TrainSettings",
    "__version__",
    "create_model",
    "cross_validate",
    "evaluate",
    "explain_pictures",
    "export_run",
    "feature_reuse",
    "fuse",
    "heat_maps",
    "list_models",
    "list_recipes",
    "load",
    "load_weights",
    "overlay",
    "profile",
    "push",
    "search",
    "serve",
    "study",
    "train",
    "unfuse",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'densekit' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
