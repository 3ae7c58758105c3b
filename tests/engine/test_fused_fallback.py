"""Calls that a fused module cannot compute: the stock modules do, with their numbers and their errors."""

import logging
from copy import deepcopy

import pytest
import torch
from torch.utils._pytree import tree_map_only

from densekit.engine.choose_ops import choose_ops, log_once
from densekit.engine.swap import fuse
from densekit.errors import SettingsError
from densekit.models.dense_block import DenseBlock, Transition

AUTO = choose_ops("auto", "cpu").name
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def pictures(*size: int) -> torch.Tensor:
    return torch.randn(*(size or (2, 3, 9, 8)), dtype=torch.float64)


def test_an_engine_asked_for_by_name_does_not_step_aside(pair):
    fused = fuse(pair[1], "torch")
    fused[1].denselayer1.norm2.register_forward_hook(lambda *_: None)
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


def test_the_reason_is_logged_once(pair, caplog):
    log_once.cache_clear()
    _, fused = pair
    fused[1].denselayer1.norm2.register_forward_hook(lambda *_: None)
    with caplog.at_level(logging.INFO, "densekit.engine"):
        fused(pictures()), fused(pictures())
    assert caplog.messages == ["a fused DenseBlock runs as stock modules: hooks on its inner modules"]
    assert caplog.records[0].levelno == logging.WARNING
    assert "ran=stock: hooks on its inner modules" in repr(fused)


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


def test_an_error_of_stock_modules_comes_alone(pair):
    with pytest.raises(RuntimeError, match="expected input") as raised:
        pair[1](pictures(2, 5, 9, 8))
    assert raised.value.__context__ is None


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
    assert fused[1].ran == "stock: weights that are not plain dense tensors"
