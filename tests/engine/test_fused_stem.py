"""The stem within a network's features: fused where norm, ReLU and pooling stand together, stock elsewhere."""

from copy import deepcopy

import pytest
import timm
import torch
from torch import nn
from torchvision.models.densenet import DenseNet as TorchvisionDenseNet

from densekit.engine.choose_ops import choose_ops
from densekit.engine.fused_block import FusedStem
from densekit.engine.swap import fuse, unfuse
from densekit.errors import SettingsError
from densekit.models.densenet import DenseNet

AUTO = choose_ops("auto", "cpu").name
CLOSE = {"rtol": 1e-9, "atol": 1e-10}
OPTIONS = {"growth_rate": 6, "block_config": (2,), "num_init_features": 10, "bn_size": 2}


def torchvisions() -> nn.Module:
    return TorchvisionDenseNet(**OPTIONS)


def densekits() -> nn.Module:
    return DenseNet((2,), 6)


def monais() -> nn.Module:
    nets = pytest.importorskip("monai.networks.nets")
    options = {"growth_rate": 6, "block_config": (2, 2), "bn_size": 2, "init_features": 10}
    return nets.DenseNet(spatial_dims=2, in_channels=3, out_channels=5, **options)


def timms() -> nn.Module:
    return timm.models.densenet.DenseNet(growth_rate=6, block_config=(2, 2), bn_size=2)


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randn(2, 3, 37, 40, dtype=torch.float64)


@pytest.fixture
def features(randomise) -> nn.Sequential:
    """Those of torchvision's network of one block, in float64."""
    return randomise(torchvisions().features.double())


@pytest.mark.parametrize("build", [torchvisions, timms, monais, densekits])
def test_every_imagenet_stem_is_fused(build):
    features = fuse(build()).features
    features(torch.randn(2, 3, 32, 32))
    assert isinstance(features, FusedStem)
    assert isinstance(features, nn.Sequential)
    assert features.ran == AUTO
    assert type(unfuse(features)) is nn.Sequential


@pytest.mark.parametrize("features_only", [False, True], ids=["logits", "features_only"])
def test_the_stages_of_densekits_network_run_its_stem_fused(pictures, features_only, randomise):
    stock = randomise(DenseNet((2, 2), 6, features_only=features_only).double())
    fused = fuse(deepcopy(stock))
    torch.testing.assert_close(fused.forward_stages(pictures), stock.forward_stages(pictures), **CLOSE)
    torch.testing.assert_close(fused.state_dict(), stock.state_dict(), **CLOSE)
    assert fused.features.ran == AUTO
    expected = stock.eval().forward_stages(pictures)
    fused.eval().forward = fused.forward_stages
    compiled = torch.compile(fused, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(pictures), expected, **CLOSE)
    program = torch.export.export(fused, (pictures,)).module()
    torch.testing.assert_close(program(pictures), expected, **CLOSE)


def rebuilt(features: nn.Sequential, order: list[str]) -> None:
    """Put the modules into another order, as one may who changes a network by hand."""
    modules = dict(features._modules)
    features._modules.clear()
    features._modules.update({name: modules[name] for name in order})


def something_between(features: nn.Sequential) -> None:
    features.add_module("blur", nn.AvgPool2d(3, stride=1, padding=1))
    names = list(features._modules)
    rebuilt(features, [*names[:3], "blur", *names[3:-1]])


def without_pooling(features: nn.Sequential) -> None:
    features.pool0 = nn.Identity()


def pooling_gone(features: nn.Sequential) -> None:
    del features.pool0


def pooling_first(features: nn.Sequential) -> None:
    names = list(features._modules)
    rebuilt(features, [names[0], "pool0", "norm0", "relu0", *names[4:]])


def other_window(features: nn.Sequential) -> None:
    features.pool0.stride = 1


def other_activation(features: nn.Sequential) -> None:
    features.relu0 = nn.GELU()


def hook_inside(features: nn.Sequential) -> None:
    features.relu0.register_forward_hook(lambda module, inputs, output: output * 2)


def no_running_statistics(features: nn.Sequential) -> None:
    features.norm0 = nn.BatchNorm2d(10, track_running_stats=False).double()


CHANGES = (something_between, without_pooling, pooling_gone, pooling_first, other_window, other_activation, hook_inside,
           no_running_statistics)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_changed_stems_run_as_they_are(features, pictures, change, training):
    features.train(training)
    fused = fuse(deepcopy(features))
    fused(pictures)
    fused.load_state_dict(features.state_dict())
    change(features), change(fused)
    torch.testing.assert_close(fused(pictures), features(pictures), **CLOSE)
    torch.testing.assert_close(fused.state_dict(), features.state_dict(), **CLOSE)
    assert fused.denseblock1.ran == AUTO


@pytest.mark.parametrize("change", CHANGES)
def test_changed_stems_are_not_fused(features, change):
    change(features)
    fuse(features)
    assert isinstance(features, FusedStem) == (change is hook_inside)  # which may be removed


def test_an_engine_asked_for_by_name_does_not_step_aside(features, pictures):
    hook_inside(fuse(features, "torch"))
    with pytest.raises(SettingsError, match="engine 'torch' cannot compute this: hooks on its inner modules; try auto"):
        features(pictures)


@pytest.mark.parametrize("part", [slice(None, 4), slice(2, None), slice(None, -1)], ids=str)
def test_parts_of_the_features_are_stock(features, part):
    """As makers of encoders cut them out."""
    cut = fuse(features)[part]
    assert type(cut) is nn.Sequential
    assert cut[0] is list(features)[part][0]
    assert features["norm0" in dict(features.named_children())] is features.norm0


def test_modules_by_themselves_are_stock(features, pictures):
    """As segmentation networks walk through an encoder."""
    fused, x = fuse(deepcopy(features)).eval(), pictures
    for module in fused:
        x = module(x)
    torch.testing.assert_close(x, features.eval()(pictures), **CLOSE)


def test_channels_that_do_not_fit_are_an_error(features, pictures):
    features.conv0 = nn.Conv2d(3, 8, 7, stride=2, padding=3).double()
    messages: list[str] = []
    for model in (deepcopy(features), fuse(features)):
        with pytest.raises(RuntimeError) as error:
            model(pictures)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_a_single_value_per_channel_is_the_stock_error(features):
    for model in (deepcopy(features), fuse(features)):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            model(torch.rand(1, 3, 1, 1, dtype=torch.float64))
