"""fuse and unfuse: what stands where in the network before and after."""

import logging
import pickle
from copy import deepcopy

import pytest
import timm
import torch
from torch import nn
from torchvision.models.densenet import DenseNet as TorchvisionDenseNet
from torchvision.models.densenet import _DenseBlock, _Transition

from densekit.engine.choose_ops import choose_ops, log_once
from densekit.engine.fused_block import Fused, FusedDenseBlock, FusedTransition
from densekit.engine.swap import fuse, unfuse
from densekit.errors import SettingsError
from densekit.models import dense_block as densekit_parts
from densekit.models.densenet import DenseNet
from densekit.models.resnet import ResNet

CLOSE = {"rtol": 1e-9, "atol": 1e-10}

AUTO = choose_ops("auto", "cpu").name


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    torch.manual_seed(5)
    optimizer.zero_grad()
    model(torch.randn(2, 3, 32, 32, dtype=torch.float64)).square().mean().backward()
    optimizer.step()


def test_the_very_same_tensors_stay_in_place(small_network):
    stock = small_network
    modules = dict(stock.named_modules())
    tensors = {name: id(t) for name, t in [*stock.named_parameters(), *stock.named_buffers()]}
    keys = list(stock.state_dict())
    fused = fuse(stock)
    assert fused is stock
    assert isinstance(fused.features.denseblock1, FusedDenseBlock)
    assert isinstance(fused.features.denseblock1, _DenseBlock)
    assert isinstance(fused.features.transition1, FusedTransition)
    assert list(fused.state_dict()) == keys
    assert {name: id(t) for name, t in [*fused.named_parameters(), *fused.named_buffers()]} == tensors
    assert dict(fused.named_modules()) == modules  # the very objects, not equal ones
    assert unfuse(fused) is stock
    assert dict(stock.named_modules()) == modules
    assert type(stock.features.denseblock1) is _DenseBlock
    assert not {"engine", "ran"} & vars(stock.features.denseblock1).keys()


def test_an_optimizer_built_before_keeps_working(small_network):
    stock, fused = small_network, deepcopy(small_network)
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in (stock, fused)]
    for round in range(4):
        unfuse(fused) if round == 2 else fuse(fused)
        step(stock, optimizers[0]), step(fused, optimizers[1])
    torch.testing.assert_close(fused.state_dict(), stock.state_dict(), **CLOSE)


def test_fusing_again_changes_the_engine_only(small_network):
    fuse(small_network)
    block = small_network.features.denseblock1
    fuse(small_network, "torch")
    assert small_network.features.denseblock1 is block
    assert block.engine == "torch"


def test_what_happens_to_the_fused_module_stays(small_network):
    fused = fuse(small_network.eval())
    block = fused.features.denseblock1
    fused.train()
    calls = []
    block.register_forward_hook(lambda *args: calls.append(args))
    block.denselayer2 = nn.Identity()
    block.note = "mine"
    fused.float()
    unfuse(fused)
    assert block.training
    assert block.note == "mine"
    assert isinstance(block.denselayer2, nn.Identity)
    assert {parameter.dtype for parameter in block.parameters()} == {torch.float32}
    del block.denselayer2
    block(torch.rand(2, 10, 4, 4))
    assert len(calls) == 1


def test_a_class_made_of_the_fused_one_is_not_taken_away(small_block):
    """As libraries make them that shard a model."""
    fuse(small_block)
    network = nn.Sequential(fuse(deepcopy(small_block)), small_block)
    small_block.__class__ = type("Sharded", (type(small_block),), {})
    x = torch.rand(2, 10, 4, 4, dtype=torch.float64)
    small_block(x)
    assert small_block.ran == AUTO
    with pytest.raises(SettingsError, match="Sharded was made of a fused module: unfuse the network before that"):
        unfuse(network)
    assert all(isinstance(module, Fused) for module in network)
    copied = deepcopy(small_block)
    assert type(copied) is type(small_block)
    torch.testing.assert_close(copied(x), small_block(x), rtol=0, atol=0)


def test_a_wrapper_of_the_fused_forward_outlives_it(small_network):
    """As hooks of accelerate are made: `forward` is wrapped, and put back later."""
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    network = small_network.eval()
    expected, fused = network(x), fuse(network)
    for module in (fused.features, fused.features.denseblock1, fused.features.transition1):
        before = module.forward
        module.forward = lambda x, before=before: before(x)
    assert torch.equal(unfuse(fused)(x), expected)


def replica(module: nn.Module, factor: float) -> nn.Module:
    """As `nn.parallel.replicate` makes one for another GPU, with other weights to tell it by."""
    made = module._replicate_for_data_parallel()
    made._modules = {name: replica(child, factor) for name, child in module._modules.items()}
    made._parameters = {}
    for name, parameter in module._parameters.items():
        setattr(made, name, None if parameter is None else parameter * factor)
    made._buffers = {name: buffer.clone() for name, buffer in module._buffers.items()}
    return made


@pytest.mark.parametrize("drop_rate", [0.0, 1e-12], ids=["fused", "steps_aside"])
def test_replicas_compute_with_their_own_tensors(small_block, drop_rate):
    for layer in small_block.children():
        layer.drop_rate = drop_rate
    before, seen = deepcopy(small_block.state_dict()), []
    x = torch.rand(2, 10, 4, 4, dtype=torch.float64)
    for block in (small_block, fuse(small_block)):
        torch.manual_seed(0)
        seen.append(replica(block, 1.5)(x))
    torch.testing.assert_close(seen[1], seen[0], **CLOSE)
    torch.testing.assert_close(small_block.state_dict(), before, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_compiles_the_stock_modules(small_network):
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    fused = fuse(small_network.eval())
    scripted = torch.jit.script(fused)
    torch.testing.assert_close(scripted(x), unfuse(fused)(x), **CLOSE)


def test_containers_stay_containers(randomise):
    from monai.networks.nets.densenet import _DenseBlock as Block

    block = fuse(randomise(Block(2, 2, 10, bn_size=2, growth_rate=6, dropout_prob=0.0)))
    assert isinstance(block, nn.Sequential)
    assert list(block) == [block[0], block[1]] == list(block.children())
    assert block(torch.rand(2, 10, 4, 4)).shape == (2, 22, 4, 4)
    assert block.ran == AUTO


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: densekit_parts.DenseBlock(2, 10, 6), "x"),
        (lambda: densekit_parts.Transition(10, 6), "x"),
        (lambda: _DenseBlock(2, 10, 2, 6, 0.0), "init_features"),
        (lambda: _Transition(10, 6), "input"),
        (lambda: timm.models.densenet.DenseBlock(2, 10, 2, 6), "init_features"),
        (lambda: timm.models.densenet.DenseTransition(10, 6), "input"),
        (lambda: TorchvisionDenseNet(6, (2,), 10).features, "input"),
    ],
)
def test_inputs_by_keyword(build, name, randomise):
    stock = randomise(build().double().eval())
    channels = 3 if hasattr(stock, "conv0") else 10
    fused, x = fuse(deepcopy(stock)), torch.rand(2, channels, 32, 32, dtype=torch.float64)
    expected = stock(**{name: x})
    torch.testing.assert_close(fused(**{name: x}), expected, **CLOSE)
    assert fused.ran == AUTO
    program = torch.export.export(fused, (), {name: x})
    torch.testing.assert_close(program.module()(**{name: x}), expected, **CLOSE)
    for model in (stock, fused):
        with pytest.raises(TypeError):
            model(pictures=x)


def through_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def test_hooks_from_before_stay(small_network):
    calls = []
    handle = small_network.features.denseblock1.register_forward_hook(lambda *args: calls.append(args))
    fused = fuse(small_network)
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    fused(x)
    handle.remove()
    fused(x)
    assert len(calls) == 1


@pytest.mark.parametrize("copy", [deepcopy, through_pickle])
def test_copies_stand_on_their_own(small_network, copy):
    fused = fuse(small_network)
    copied = copy(fused)
    inner = copied.features.denseblock1
    assert isinstance(inner, FusedDenseBlock)
    assert inner.denselayer1 is not fused.features.denseblock1.denselayer1
    before = deepcopy(fused.state_dict())
    step(copied, torch.optim.SGD(copied.parameters(), lr=1.0))
    torch.testing.assert_close(fused.state_dict(), before, rtol=0, atol=0)
    assert inner.ran == AUTO
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    fused.load_state_dict(copied.state_dict())
    torch.testing.assert_close(unfuse(copied.eval())(x), unfuse(fused.eval())(x), rtol=0, atol=0)


def test_a_block_by_itself(small_block):
    assert fuse(small_block) is small_block
    assert isinstance(small_block, FusedDenseBlock)
    assert list(small_block) == ["denselayer1", "denselayer2", "denselayer3"]  # still a ModuleDict to look into
    assert unfuse(small_block) is small_block
    assert type(small_block) is _DenseBlock
    assert unfuse(small_block) is small_block


def test_a_block_in_two_places(small_block):
    model = fuse(nn.Sequential(small_block, small_block))
    assert model[0] is model[1] is small_block
    assert isinstance(small_block, FusedDenseBlock)
    unfuse(model)
    assert type(small_block) is _DenseBlock


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: ResNet(layers=(1, 1, 1, 1)), "it has no dense block of densekit, torchvision, timm or MONAI"),
        (lambda: DenseNet((2,), 8, stem="cifar", se_reduction=4), "squeeze-and-excitation"),
        (lambda: DenseNet((2,), 8, stem="cifar", groups=2), "grouped convolutions"),
        (lambda: DenseNet((2,), 8, stem="cifar", activation="leaky_relu"), "LeakyReLU in the place of ReLU"),
        (
            lambda: DenseNet((2,), 8, stem="cifar", spatial_dims=1),
            "BatchNorm1d in the place of BatchNorm2d or BatchNorm3d",
        ),
        (lambda: type("Mine", (_DenseBlock,), {})(2, 8, 4, 4, 0.0), "it has no dense block"),
    ],
    ids=["resnet", "se", "groups", "leaky_relu", "signals", "derived_class"],
)
def test_nothing_to_fuse_is_an_error_that_says_why(build, why):
    with pytest.raises(SettingsError, match=f"nothing to fuse in this .*{why}"):
        fuse(build())


def test_blocks_that_cannot_are_left_and_the_rest_is_fused():
    model = fuse(DenseNet((2, 2), 8, se_reduction=4))
    assert isinstance(model.features.transition1, FusedTransition)
    assert not isinstance(model.features.denseblock1, FusedDenseBlock)


def test_an_unknown_engine_is_an_error(small_network):
    with pytest.raises(SettingsError, match="engine is 'tpu', must be one of auto, torch, cpu"):
        fuse(small_network, engine="tpu")
    assert not isinstance(small_network.features.denseblock1, FusedDenseBlock)


def test_says_what_runs(small_network, caplog):
    log_once.cache_clear()
    with caplog.at_level(logging.INFO, "densekit.engine"):
        fuse(small_network)
    said = (
        f"DenseNet: 2 FusedDenseBlock, 1 FusedStem, 1 FusedTransition run {AUTO!r} ({choose_ops('auto', 'cpu').reason})"
    )
    slow = ": in less memory, but not known to be faster than the stock modules"
    expected = (said, logging.INFO) if AUTO == "cpu" else (said + slow, logging.WARNING)
    assert [(record.message, record.levelno) for record in caplog.records] == [expected]
    assert "of torchvision _DenseBlock, engine=auto, ran=None" in repr(small_network)
    small_network(torch.rand(2, 3, 32, 32, dtype=torch.float64))
    assert f"engine=auto, ran={AUTO}" in repr(small_network)


def test_twenty_training_steps_go_the_same_way(assert_ran):
    """float32, a network of its own size: the losses agree far better than one step changes them."""
    stock = DenseNet((2, 2), 8, num_init_features=16, num_classes=4, stem="cifar")
    fused = fuse(deepcopy(stock))
    x, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    losses = []
    for model in (stock, fused):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        losses.append([])
        for _ in range(20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < 0.5 * losses[0][0]
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=1e-3, atol=1e-4)
    assert_ran(fused, AUTO)


@pytest.mark.parametrize("nothing", [None, "densenet121"])
def test_what_is_no_module(nothing):
    with pytest.raises(SettingsError, match=r"nothing to fuse in .*: it is not a torch\.nn\.Module"):
        fuse(nothing)
