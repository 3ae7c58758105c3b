"""Networks whose modules were changed: the fused ones compute what they have become."""

from copy import deepcopy

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, prune

from densekit.engine.choose_ops import choose_ops
from densekit.engine.fused_block import Fused
from densekit.engine.swap import fuse
from densekit.models.dense_block import DenseBlock, DenseLayer, Transition

AUTO = choose_ops("auto", "cpu").name
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def pictures(*size: int) -> torch.Tensor:
    return torch.randn(*(size or (2, 3, 9, 8)), dtype=torch.float64)


def inner_hook(model: nn.Module) -> None:
    model[1].denselayer1.norm2.register_forward_hook(lambda module, inputs, output: output * 2)


def layer_pre_hook(model: nn.Module) -> None:
    model[1].denselayer2.register_forward_pre_hook(lambda module, inputs: tuple(2 * x for x in inputs))


def hook_on_what_does_nothing(model: nn.Module) -> None:
    model[1].denselayer1.se.register_forward_hook(lambda module, inputs, output: output * 2)


def pruned(model: nn.Module) -> None:
    prune.l1_unstructured(model[1].denselayer1.conv1, "weight", amount=0.5)


def weight_norm(model: nn.Module) -> None:
    parametrizations.weight_norm(model[1].denselayer1.conv2)


def forward_replaced(model: nn.Module) -> None:
    model[1].denselayer1.relu1.forward = torch.tanh


def seamless(model: nn.Module) -> None:
    """Pictures that continue on the other side, as makers of textures have them."""
    conv = model[1].denselayer1.conv2
    conv._conv_forward = lambda x, weight, bias: nn.functional.conv2d(
        nn.functional.pad(x, (1, 1, 1, 1), "circular"), weight, bias
    )


def other_first_convolution(model: nn.Module) -> None:
    layer = model[1].denselayer1
    layer._first_convolution = lambda *features: 0.5 * type(layer)._first_convolution(layer, *features)


def negative_view(model: nn.Module) -> None:
    conv = model[1].denselayer1.conv1
    conv.weight = nn.Parameter(torch._neg_view(conv.weight.detach()))


def other_activation(model: nn.Module) -> None:
    model[1].denselayer1.relu1 = nn.GELU()


def other_convolution(model: nn.Module) -> None:
    model[1].denselayer1.conv2 = nn.Conv2d(12, 6, 3, padding=1).double()


def other_layer(model: nn.Module) -> None:
    model[1].denselayer2.extra = nn.Identity()


def no_running_statistics(model: nn.Module) -> None:
    norm = model[1].denselayer1.norm1
    norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    norm.track_running_stats = False


CHANGES = {
    inner_hook: "hooks",
    layer_pre_hook: "hooks",
    hook_on_what_does_nothing: "hooks",
    pruned: "hooks",
    weight_norm: "ParametrizedConv2d",
    forward_replaced: "forward was replaced",
    seamless: "whose forward was replaced",
    other_first_convolution: "forward was replaced",
    negative_view: "not plain dense tensors",
    other_activation: "GELU in the place of ReLU",
    other_convolution: "with bias",
    other_layer: "extra",
    no_running_statistics: "without running statistics",
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_inner_modules_run_as_they_are(pair, change, training):
    stock, fused = pair
    x = pictures()
    for model in pair:
        torch.manual_seed(1)
        change(model.train(training))
    torch.testing.assert_close(fused(x), stock(x), **CLOSE)
    torch.testing.assert_close(fused.state_dict(), stock.state_dict(), **CLOSE)
    assert fused[1].ran.startswith("stock: ")
    assert CHANGES[change] in fused[1].ran
    assert fused[3].ran == AUTO  # only the block that was changed


def monais_block() -> nn.Module:
    from monai.networks.nets.densenet import _DenseBlock

    return _DenseBlock(2, 2, 10, bn_size=2, growth_rate=6, dropout_prob=0.5)


def timms_block() -> nn.Module:
    return timm.models.densenet.DenseBlock(2, 10, bn_size=2, growth_rate=6)


@pytest.mark.parametrize(
    ("build", "inner"),
    [(monais_block, "denselayer1.layers.dropout"), (timms_block, "denselayer2.norm1.drop")],
    ids=["monais_dropout", "timms_drop"],
)
def test_hooks_on_what_does_nothing_in_other_libraries(build, inner):
    stock = build().double().eval()
    fused = fuse(deepcopy(stock))
    x = pictures(2, 10, 5, 5)
    torch.testing.assert_close(fused(x), stock(x), **CLOSE)
    assert fused.ran == AUTO
    for model in (stock, fused):
        model.get_submodule(inner).register_forward_hook(lambda module, inputs, output: output * 2)
    torch.testing.assert_close(fused(x), stock(x), **CLOSE)
    assert fused.ran == "stock: hooks on its inner modules"


def test_another_module_in_the_place_of_dropout_is_not_left_out():
    stock = monais_block().double().eval()
    stock.denselayer1.layers.dropout = nn.GELU().eval()
    fused = fuse(nn.ModuleList([deepcopy(stock), Transition(10, 6)]))[0]
    x = pictures(2, 10, 5, 5)
    torch.testing.assert_close(fused(x), stock(x), **CLOSE)
    assert not isinstance(fused, Fused)


def test_sync_batch_norm_runs_stock(pair):
    fused = nn.SyncBatchNorm.convert_sync_batchnorm(pair[1]).eval()
    torch.testing.assert_close(fused(x := pictures()), pair[0].eval()(x), **CLOSE)
    assert fused[1].ran == "stock: SyncBatchNorm in the place of BatchNorm2d or BatchNorm3d"


def test_statistics_that_are_not_tracked_stay(pair):
    """Their buffers may be there nevertheless: setting this is a way to freeze them."""
    before = []
    for model in pair:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
        before.append({name: buffer.clone() for name, buffer in model.named_buffers()})
        model.train()(pictures())
    assert pair[1][1].ran == AUTO
    for model, buffers in zip(pair, before, strict=True):
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, buffers[name]), name


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (DenseLayer, "forward"),
        (DenseLayer, "_first_convolution"),
        (DenseBlock, "forward"),
        (nn.Sequential, "forward"),
        (nn.Conv2d, "forward"),
        (nn.functional, "conv2d"),
        (nn.functional, "relu"),
        (nn.functional, "avg_pool2d"),
        (nn.functional, "conv3d"),
        (nn.functional, "max_pool2d"),
        (torch, "cat"),
    ],
)
def test_what_was_replaced_for_all_modules(pair, owner, name, monkeypatch):
    before = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **settings: before(*args, **settings).tanh())
    stock, fused = pair
    torch.testing.assert_close(fused(x := pictures()), stock(x), **CLOSE)
    assert "was replaced" in fused[1].ran


@pytest.mark.parametrize("owner", [Transition, timm.layers.BatchNormAct2d])
def test_what_was_replaced_for_all_transitions_or_norms(owner, monkeypatch):
    before = owner.forward
    monkeypatch.setattr(owner, "forward", lambda self, x: before(self, x).tanh())
    stock = nn.Sequential(Transition(6, 4)) if owner is Transition else timm.models.DenseNet(8, (2,), num_classes=2)
    stock.double().eval()
    fused = fuse(deepcopy(stock))
    x = pictures(2, 6 if owner is Transition else 3, 40, 32)
    torch.testing.assert_close(fused(x), stock(x), **CLOSE)
    ran = [module.ran for module in fused.modules() if isinstance(module, Fused)]
    assert ran
    assert all("a method of" in each for each in ran)


@pytest.mark.parametrize("shape", [(6, 12, 5, 5), (6, 12, 1, 1), (6, 12, 3, 3, 1)], ids=str)
def test_weights_of_another_size_than_their_convolutions(pair, shape):
    """Stock computes what it can with them and refuses the rest; nothing may be read past their end."""
    results = []
    for model in pair:
        model[1].denselayer1.conv2.weight = nn.Parameter(torch.ones(shape, dtype=torch.float64))
        try:
            results.append(model(pictures()))
        except RuntimeError as error:
            results.append(type(error))
    assert results == [RuntimeError, RuntimeError]


def test_a_convolution_of_volumes_among_those_of_pictures(pair):
    """Flattened to a matrix, its weight would fit."""
    results = []
    for model in pair:
        model[1].denselayer1.conv1 = nn.Conv3d(10, 12, 1, bias=False).double()
        with pytest.raises(RuntimeError) as raised:
            model(pictures())
        results.append(str(raised.value))
    assert results[0] == results[1]


def monais_transition() -> nn.Module:
    from monai.networks.nets.densenet import _Transition

    return _Transition(2, 10, 5)


def torchvisions_transition() -> nn.Module:
    return torchvision.models.densenet._Transition(10, 5)


def timms_transition() -> nn.Module:
    return timm.models.densenet.DenseTransition(10, 5)


@pytest.mark.parametrize(
    ("build", "inner", "order"),
    [
        (torchvisions_transition, "", ("norm", "conv", "relu", "pool")),
        (timms_transition, "", ("pool", "norm", "conv")),
        (monais_transition, "", ("relu", "norm", "conv", "pool")),
        (monais_block, "denselayer1.layers", ("relu1", "norm1", "conv1", "norm2", "relu2", "conv2", "dropout")),
    ],
    ids=["torchvisions_transition", "timms_transition", "monais_transition", "monais_layer"],
)
def test_a_sequential_in_another_order(build, inner, order, randomise):
    """It computes something else with the same modules."""
    stock = randomise(build().double()).eval()
    usual = fuse(deepcopy(stock))
    sequential = stock.get_submodule(inner)
    sequential._modules = {name: sequential._modules[name] for name in order}
    fused = fuse(nn.ModuleList([deepcopy(stock), Transition(10, 6)]))[0]
    x = pictures(2, 10, 6, 6)
    expected = stock(x)
    torch.testing.assert_close(fused(x), expected, **CLOSE)
    assert (usual(x) - expected).abs().max() > 0.01
    assert usual.ran == AUTO


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_sequential_of_another_class():
    stock = monais_block().double().eval()
    stock.denselayer2.layers.__class__ = Doubled
    fused = fuse(nn.ModuleList([deepcopy(stock), Transition(10, 6)]))[0]
    x = pictures(2, 10, 5, 5)
    torch.testing.assert_close(fused(x), stock(x), **CLOSE)
    assert not isinstance(fused, Fused)
