"""densekit models and densekit recipes."""

from typing import Annotated

from cyclopts import Parameter


def models(
    pattern: str = "*", /, *, macs: Annotated[bool, Parameter(negative="")] = False, classes: int | None = None
) -> None:
    """List the networks, with their parameters.

    Parameters
    ----------
    pattern
        Part of a name, or a pattern such as densenet*.
    macs
        Also count multiply-adds, which takes up to a second a network.
    classes
        Number of classes. [10 for networks for 32x32 pictures, 1000 for 224x224]
    """
    from densekit.errors import UnknownNameError
    from densekit.models.catalogue import list_models

    names = list_models(pattern)
    if not names:
        raise UnknownNameError("model", pattern, list_models())
    for name in names:
        size = 32 if name.endswith("_cifar") or name == "simple_cnn" else 224
        count = classes if classes is not None else (10 if size == 32 else 1000)
        print(_describe(name, size, count, macs))


def _describe(name: str, size: int, classes: int, macs: bool) -> str:
    import torch

    from densekit.models.catalogue import count_macs, count_parameters, create_model

    with torch.device("meta"):  # counts without making weights
        network = create_model(name, num_classes=classes)
    line = f"{name:<30} {count_parameters(network):>12,} parameters  {classes:>4} classes"
    return f"{line}  {count_macs(network, 3, size, size) / 1e9:>7.3f} G MACs at {size}x{size}" if macs else line


def recipes() -> None:
    """List the recipes, each with what it is for."""
    from densekit.training.settings import describe_recipe, list_recipes

    names = list_recipes()
    for name in names:
        print(f"{name:<{max(map(len, names))}}  {describe_recipe(name)}")
