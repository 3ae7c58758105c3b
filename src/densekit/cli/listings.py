"""densekit models and densekit recipes."""

from typing import Annotated

from cyclopts import Parameter


def models(
    pattern: str = "*",
    /,
    *,
    macs: Annotated[bool, Parameter(negative="")] = False,
    weights: Annotated[bool, Parameter(negative="")] = False,
    num_classes: int | None = None,
) -> None:
    """List the networks, with their parameters and whether trained weights are published for them.

    Parameters
    ----------
    pattern
        Part of a name, or a pattern such as densenet* or timm:*convnext*.
    macs
        Also count multiply-adds, which takes up to a second per network.
    weights
        Also list the published weights, for train --weights NAME.
    num_classes
        Number of classes. [10 for networks for 32x32 pictures, 1000 for 224x224]
    """
    from densekit.errors import UnknownNameError
    from densekit.models.catalogue import list_models, picture_size
    from densekit.models.published import published_names
    from densekit.models.timm_networks import PREFIX, is_timm

    names = list_models(pattern)
    if not names:
        raise UnknownNameError("model", pattern, list_models(PREFIX if is_timm(pattern) else "*"))
    for name in names:
        size = picture_size(name)
        count = num_classes if num_classes is not None else (10 if size == 32 else 1000)
        published = published_names(name)
        print(_describe(name, size, count, macs) + ("  pretrained" if published else ""))
        if weights and published:
            print(f"    {'  '.join(published)}")


def _describe(name: str, size: int, classes: int, macs: bool) -> str:
    import torch

    from densekit.models.catalogue import count_parameters, create_model
    from densekit.models.flops import count_flops

    with torch.device("meta"):  # counts without making weights
        network = create_model(name, num_classes=classes)
    line = f"{name:<30} {count_parameters(network):>12,} parameters  {classes:>4} classes"
    if not macs:
        return line
    return f"{line}  {count_flops(network, (3, size, size)) / 2e9:>7.3f} G MACs at {size}x{size}"


def recipes() -> None:
    """List the recipes, each with what it is for."""
    from densekit.training.settings import describe_recipe, list_recipes

    names = list_recipes()
    for name in names:
        print(f"{name:<{max(map(len, names))}}  {describe_recipe(name)}")
