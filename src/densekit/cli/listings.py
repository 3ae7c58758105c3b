"""densekit models and densekit recipes."""


def models(pattern: str = "*", /) -> None:
    """List the networks, with their parameters at 10 classes.

    Parameters
    ----------
    pattern
        Part of a name, or a pattern such as densenet*.
    """
    import torch

    from densekit.errors import UnknownNameError
    from densekit.models.catalogue import count_parameters, create_model, list_models

    names = list_models(pattern)
    if not names:
        raise UnknownNameError("model", pattern, list_models())
    for name in names:
        with torch.device("meta"):  # counts without making the weights
            network = create_model(name, num_classes=10)
        print(f"{name:<30} {count_parameters(network):>12,} parameters")


def recipes() -> None:
    """List the recipes, each with what it is for."""
    from densekit.training.settings import describe_recipe, list_recipes

    names = list_recipes()
    for name in names:
        print(f"{name:<{max(map(len, names))}}  {describe_recipe(name)}")
