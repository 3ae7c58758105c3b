from importlib.resources import files

import pytest
import torch

from densekit.data.downloads import NAMED_SETS
from densekit.models.catalogue import create_model, model_options
from densekit.training.settings import describe_recipe, list_recipes, load_recipe, make_settings

SIZES = {"digits": 8, "mnist": 28, "fashion-mnist": 28, "cifar10": 32, "cifar100": 32}
CHANNELS = {"cifar10": 3, "cifar100": 3}


WITH_DATA = [name for name in list_recipes() if "data" in load_recipe(name)]


def test_only_fine_tuning_is_for_pictures_of_every_kind():
    assert set(list_recipes()) - set(WITH_DATA) == {"finetune"}


@pytest.mark.parametrize("name", WITH_DATA)
def test_recipe_names_a_network_that_takes_its_pictures(name):
    settings = make_settings(name).with_optimizer_defaults()
    assert settings.data in NAMED_SETS
    size = settings.size or SIZES[settings.data]
    size = (size, size) if isinstance(size, int) else size
    classes, channels = (100 if settings.data == "cifar100" else 10), CHANNELS.get(settings.data, 1)
    assert settings.model is not None
    options = {"image_size": size} if "image_size" in model_options(settings.model) else {}
    with torch.device("meta"):  # shapes are computed, values are not
        network = create_model(
            settings.model, num_classes=classes, in_channels=channels, **options, **settings.model_options
        )
        assert network(torch.empty(2, channels, *size)).shape == (2, classes)


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_says_what_it_is_for(name):
    assert len(describe_recipe(name)) > 20
    assert (files("densekit.training") / "recipes" / f"{name}.yaml").read_text().startswith("# ")
