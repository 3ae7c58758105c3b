"""Calls that a fused module cannot compute: the stock modules do, with their numbers and their errors."""

import logging
from copy import deepcopy

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils._pytree import tree_map_only

from densekit.engine.choose_ops import choose_ops, log_once
from densekit.engine.fused_block import Fused
from densekit.engine.swap import fuse
from densekit.errors import SettingsError
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
    negative_view: "no plain dense tensors",
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


def test_an_engine_asked_for_by_name_does_not_step_aside(pair):
    fused = fuse(pair[1], "torch")
    inner_hook(fused)
    with pytest.raises(SettingsError, match="engine 'torch' cannot compute this: hooks on its inner modules; try auto"):
        fused(pictures())


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_full_backward_hook", "register_forward_pre_hook"])
def test_hooks_on_the_block_itself_do_not_disturb_it(pair, hook):
    _, fused = pair
    seen = []
    getattr(fused[1], hook)(lambda *args: seen.append(type(args[0]).__name__))
    fused(pictures()).sum().backward()
    assert seen == ["FusedDenseBlock"]
    assert fused[1].ran == AUTO


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_dropout_runs_stock_while_training_only(training):
    stock = DenseBlock(2, 10, 6, drop_rate=0.5).double().train(training)
    fused = fuse(deepcopy(stock))
    x = pictures(2, 10, 5, 5)
    seen = []
    for model in (stock, fused):
        torch.manual_seed(3)
        seen.append(model(x))
    torch.testing.assert_close(*seen, **CLOSE)
    assert fused.ran == ("stock: dropout while training" if training else AUTO)


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize(
    ("x", "training"),
    [
        pytest.param(torch.rand(2, 9, 4, 4), True, id="wrong_channels"),
        pytest.param(torch.ones(2, 10, 4, 4, dtype=torch.int64), True, id="integers"),
        pytest.param(torch.rand(2, 10, 4, 4).double(), True, id="double_input"),
        pytest.param(torch.rand(2, 10, 4, 4).bfloat16(), True, id="bfloat16_input"),
        pytest.param(torch.rand(10, 4, 4), True, id="three_dimensions"),
        pytest.param(torch.rand(2, 10, 4, 4, 4), True, id="five_dimensions"),
        pytest.param(torch.rand(0, 10, 4, 4), True, id="empty_batch"),
        pytest.param(torch.rand(0, 10, 4, 4), False, id="empty_batch_eval"),
        pytest.param(torch.rand(2, 10, 4, 4, device="meta"), True, id="meta_input"),
        pytest.param(torch.rand(1, 10, 1, 1), True, id="one_value_per_channel"),
        pytest.param(torch.rand(1, 10, 1, 1), False, id="one_value_per_channel_eval"),
        pytest.param(torch.rand(1, 10, 1, 1).double(), True, id="one_value_double"),
        pytest.param(torch.rand(1, 10, 1, 1, 1), True, id="one_value_of_a_volume"),
        pytest.param([1.0], True, id="a_list"),
        pytest.param(torch.rand(2, 10, 4, 4).to_mkldnn(), False, id="mkldnn"),
    ],
)
@pytest.mark.parametrize(
    "stock",
    [
        DenseBlock(2, 10, 6),
        Transition(10, 6),
        DenseBlock(2, 10, 6, spatial_dims=3),
        Transition(10, 6, spatial_dims=3),
    ],
    ids=["block", "transition", "block_of_volumes", "transition_of_volumes"],
)
def test_input_that_stock_refuses_is_refused_alike(stock, x, training, autocast):
    stock = deepcopy(stock).train(training)
    fused = fuse(deepcopy(stock))
    results = []
    for model in (stock, fused):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            try:
                results.append(model(x))
            except Exception as error:
                results.append((type(error), str(error)))
    if isinstance(results[0], torch.Tensor):
        torch.testing.assert_close(results[1].to_dense(), results[0].to_dense(), rtol=2e-2, atol=2e-2)
    else:
        assert results[1] == results[0]


def test_one_value_per_channel_changes_nothing(small_block):
    """Stock counts the batch before it refuses it; here the error comes before anything else."""
    fused = fuse(small_block)
    before = deepcopy(fused.state_dict())
    with pytest.raises(ValueError, match=r"Expected more than 1 value per channel .* torch.Size\(\[1, 10, 1, 1\]\)"):
        fused(pictures(1, 10, 1, 1))
    torch.testing.assert_close(fused.state_dict(), before, rtol=0, atol=0)


def test_sync_batch_norm_runs_stock(pair):
    fused = nn.SyncBatchNorm.convert_sync_batchnorm(pair[1]).eval()
    torch.testing.assert_close(fused(x := pictures()), pair[0].eval()(x), **CLOSE)
    assert fused[1].ran == "stock: SyncBatchNorm in the place of BatchNorm2d or BatchNorm3d"


def test_the_reason_is_logged_once(pair, caplog):
    log_once.cache_clear()
    _, fused = pair
    inner_hook(fused)
    with caplog.at_level(logging.INFO, "densekit.engine"):
        fused(pictures()), fused(pictures())
    assert caplog.messages == ["a fused DenseBlock runs as stock modules: hooks on its inner modules"]
    assert caplog.records[0].levelno == logging.WARNING
    assert "ran=stock: hooks on its inner modules" in repr(fused)


class Quantised(torch.Tensor):
    """A weight that holds no memory of its own: operations on it are given what it stands for."""

    @staticmethod
    def __new__(cls, values):
        made = torch.Tensor._make_wrapper_subclass(cls, values.shape, strides=values.stride(), dtype=values.dtype)
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = tree_map_only(Quantised, lambda tensor: tensor.values, (args, kwargs or {}))
        return func(*args, **kwargs)


def test_weights_without_memory_run_the_stock_modules(pair):
    stock, fused = (model.eval().requires_grad_(False) for model in pair)
    conv = fused[1].denselayer1.conv1
    values = conv.weight.data
    del conv.weight
    conv.weight = Quantised(values)
    x = pictures()
    torch.testing.assert_close(fused(x), stock(x), **CLOSE)
    assert fused[1].ran == "stock: weights that are no plain dense tensors"


def test_another_default_device_changes_nothing(pair, gradients):
    stock, fused = pair
    x = pictures().requires_grad_()
    dy = torch.randn(stock(x.detach()).shape, dtype=x.dtype)
    stock.load_state_dict(fused.state_dict())
    expected = gradients(stock, x, dy)
    with torch.device("meta"):
        seen = gradients(fused, x, dy)
        fused.eval()(x.detach())
    assert fused[1].ran == AUTO
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, **CLOSE)


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
    assert all("of which a method was replaced" in each for each in ran)


def test_an_error_of_stock_modules_comes_alone(pair):
    with pytest.raises(RuntimeError, match="expected input") as raised:
        pair[1](pictures(2, 5, 9, 8))
    assert raised.value.__context__ is None


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


def test_tensors_that_carry_labels_keep_them(pair):
    """MONAI's loaders make such."""
    from monai.data import MetaTensor

    stock, fused = pair
    x = pictures()
    labelled = MetaTensor(x, meta={"filename_or_obj": "one.png"}).requires_grad_()
    seen, expected = fused[1](fused[0](labelled)), stock[1](stock[0](MetaTensor(x)))
    assert fused[1].ran == AUTO
    assert type(seen) is MetaTensor
    assert seen.meta["filename_or_obj"] == "one.png"
    torch.testing.assert_close(seen.as_tensor(), expected.as_tensor(), **CLOSE)
    seen.square().sum().backward()
    plain = x.clone().requires_grad_()
    stock[1](stock[0](plain)).square().sum().backward()
    torch.testing.assert_close(labelled.grad, plain.grad, **CLOSE)
