"""What a fused block does inside autograd: bits, graphs kept, gradients left out, dtypes."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from densekit.engine.swap import fuse
from densekit.models.dense_block import DenseBlock, Transition
from densekit.models.densenet import DenseNet

CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def plain_block() -> nn.Module:
    return DenseBlock(3, 10, 6, bn_size=None)


def bottleneck_block() -> nn.Module:
    return DenseBlock(3, 10, 6, bn_size=2)


def transition() -> nn.Module:
    return Transition(10, 6)


BUILDERS = pytest.mark.parametrize("build", [plain_block, bottleneck_block, transition])


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def pictures(*size: int) -> torch.Tensor:
    return torch.randn(*(size or (3, 10, 6, 5)), dtype=torch.float64)


@BUILDERS
def test_gradients_are_the_finite_differences(fused, assert_ran, engine):
    """Not against stock modules, but against the function itself."""
    parameters = list(fused.parameters())
    for norm in norms(fused):
        norm.momentum = 0.0  # gradcheck calls often
    x = pictures(2, 10, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: fused(x), (x, *parameters), fast_mode=True)
    assert_ran(fused, engine)


@BUILDERS
def test_two_runs_give_the_same_bits(build, randomise, gradients, assert_ran, engine):
    model = randomise(build())
    x = torch.randn(4, 10, 17, 13)
    runs = [gradients(fuse(deepcopy(model), engine), x) for _ in range(2)]
    torch.testing.assert_close(*runs, rtol=0, atol=0)


def test_two_runs_on_volumes_give_the_same_bits(randomise, gradients, engine):
    model = randomise(DenseNet((2, 2), 8, num_classes=3, spatial_dims=3))
    x = torch.randn(3, 3, 20, 22, 19)
    runs = [gradients(fuse(deepcopy(model), engine), x) for _ in range(2)]
    torch.testing.assert_close(*runs, rtol=0, atol=0)


@BUILDERS
def test_no_memory_is_read_before_it_is_written(stock, fused, gradients, assert_ran, engine):
    """Among deterministic algorithms PyTorch fills new tensors with NaN."""
    x = pictures()
    torch.use_deterministic_algorithms(True)
    try:
        seen = gradients(fused, x)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(seen, gradients(stock, x), **CLOSE)
    assert_ran(fused, engine)


@BUILDERS
def test_a_kept_graph_gives_the_same_gradients_again(fused):
    """The first backward pass must leave what was saved as it was."""
    x = pictures().requires_grad_()
    y = fused(x)
    inputs = [x, *fused.parameters()]
    first = torch.autograd.grad(y.square().sum(), inputs, retain_graph=True)
    second = torch.autograd.grad(y.square().sum(), inputs)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@BUILDERS
def test_the_gradient_given_to_it_stays_as_it_is(fused):
    y = fused(pictures().requires_grad_())
    dy = torch.randn_like(y)
    before = dy.clone()
    y.backward(dy)
    torch.testing.assert_close(dy, before, rtol=0, atol=0)


@BUILDERS
def test_a_batch_in_between_changes_no_gradient(stock, fused):
    """The statistics that an evaluation used are those of then."""
    for model in (stock, fused):
        model.eval()
    x = pictures().requires_grad_()
    (expected,) = torch.autograd.grad(stock(x).square().sum(), x)
    y = fused(x).square().sum()
    fused.train()(pictures(4, 10, 6, 5) + 3)
    (seen,) = torch.autograd.grad(y, x)
    torch.testing.assert_close(seen, expected, **CLOSE)


def test_a_stock_graph_survives_a_fused_batch(small_block):
    """PyTorch's own batch norm counts a batch without telling autograd; so must this one."""
    x = pictures().requires_grad_()
    y = small_block.eval()(x).square().sum()
    fuse(small_block).train()(pictures())
    torch.autograd.grad(y, x)


def subsets(model: nn.Module) -> dict[str, list[str]]:
    names = [name for name, _ in model.named_parameters()]
    chosen = {name: [name] for name in names}
    chosen |= {"norms": [n for n in names if "norm" in n], "convolutions": [n for n in names if "conv" in n]}
    return chosen | {"last_third": names[-len(names) // 3 :], "first_third": names[: len(names) // 3]}


@BUILDERS
@pytest.mark.parametrize("wants_input", [False, True], ids=["no_input", "input"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_only_wanted_gradients_are_made(stock, fused, wants_input, training, assert_ran, engine):
    """Every single parameter, groups of them and none, with and without the gradient of the input."""
    x = pictures()
    for chosen in [*subsets(stock).values(), [] if wants_input else ["norm.weight", "denselayer2.norm1.bias"]]:
        seen = []
        for model in (stock.train(training), fused.train(training)):
            model.zero_grad()
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in chosen)
            inputs = x.clone().requires_grad_(wants_input)
            model(inputs).square().sum().backward()
            seen.append({"input": inputs.grad} | {name: p.grad for name, p in model.named_parameters()})
        assert {name for name, grad in seen[1].items() if grad is not None} == {*chosen} & {
            *dict(stock.named_parameters())
        } | ({"input"} if wants_input else set())
        for name, grad in seen[0].items():
            if grad is not None:
                torch.testing.assert_close(seen[1][name], grad, **CLOSE)
    assert_ran(fused, engine)


LAYOUTS = {
    "channels_last": lambda dy: dy.contiguous(memory_format=torch.channels_last),
    "transposed": lambda dy: dy.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda dy: dy[:, :, :1, :1].expand_as(dy),
    "every_second": lambda dy: torch.stack([dy, dy], -1).flatten(3)[..., ::2],
}


@BUILDERS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_and_gradients_of_any_layout(stock, fused, layout, gradients, assert_ran, engine):
    x = LAYOUTS[layout](pictures())
    y = stock(x)
    stock.load_state_dict(fused.state_dict())
    dy = LAYOUTS[layout](torch.randn(y.shape, dtype=torch.float64))
    x = LAYOUTS[layout](pictures()) if layout != "expanded" else pictures()
    torch.testing.assert_close(gradients(fused, x, dy), gradients(stock, x, dy), **CLOSE)
    assert_ran(fused, engine)


@BUILDERS
@pytest.mark.parametrize("size", [(1, 10, 2, 2), (5, 10, 1, 1), (1, 10, 1, 7), (2, 10, 3, 2)], ids=str)
def test_odd_and_tiny_pictures(stock, fused, size, gradients, assert_ran, engine):
    if min(size[2:]) < 2 and isinstance(stock, Transition):
        size = (2, 10, 2, 5)
    x = pictures(*size)
    torch.testing.assert_close(gradients(fused, x), gradients(stock, x), rtol=1e-8, atol=1e-8)
    assert_ran(fused, engine)


@BUILDERS
def test_a_checkpoint_around_it(stock, fused, gradients):
    """It counts the batch once, as stock does without a checkpoint: what is computed again ends at what it saves."""
    x = pictures()
    wrapped = nn.Module()
    wrapped.inner = fused
    wrapped.forward = lambda x: checkpoint(fused, x, use_reentrant=False)
    seen = {name.removeprefix("inner."): tensor for name, tensor in gradients(wrapped, x).items()}
    torch.testing.assert_close(seen, gradients(stock, x), **CLOSE)
    torch.testing.assert_close(fused.state_dict(), stock.state_dict(), **CLOSE)
    assert {int(norm.num_batches_tracked) for norm in norms(fused)} == {1}


@pytest.mark.parametrize(
    ("use_reentrant", "early_stop", "last"), [(False, True, 1), (False, False, 2), (True, True, 2)]
)
def test_a_checkpoint_around_several_counts_as_stocks_does(pair, use_reentrant, early_stop, last):
    """What is computed again counts again, but for the last fused module, at whose saved tensors PyTorch stops."""
    stock, fused = pair
    once, x = deepcopy(stock), pictures(2, 3, 9, 8)
    once(x)
    for model in pair:
        with set_checkpoint_early_stop(early_stop):
            checkpoint(model, x.requires_grad_(), use_reentrant=use_reentrant).sum().backward()
    for number, counted in ((1, 2), (2, 2), (3, last)):
        assert {int(norm.num_batches_tracked) for norm in norms(stock[number])} == {2}
        assert {int(norm.num_batches_tracked) for norm in norms(fused[number])} == {counted}
        expected = stock if counted == 2 else once
        torch.testing.assert_close(fused[number].state_dict(), expected[number].state_dict(), **CLOSE)


@BUILDERS
def test_changing_saved_weights_before_backward_is_an_error(fused):
    y = fused(pictures().requires_grad_())
    with torch.no_grad():
        next(fused.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@BUILDERS
def test_running_statistics_wait_until_all_has_succeeded(fused):
    """Saving for the backward pass fails here, as it does when memory runs out."""

    def fail(tensor):
        raise MemoryError("no room")

    before = deepcopy(fused.state_dict())
    with torch.autograd.graph.saved_tensors_hooks(fail, lambda tensor: tensor), pytest.raises(MemoryError):
        fused(pictures().requires_grad_())
    torch.testing.assert_close(fused.state_dict(), before, rtol=0, atol=0)


@BUILDERS
def test_autocast_around_the_backward_pass_changes_nothing(build, randomise, engine):
    """As for stock modules: the forward pass has decided the types."""
    fused = fuse(randomise(build()), engine)
    x = pictures().float().requires_grad_()
    inputs, seen = [x, *fused.parameters()], []
    for enabled in (False, True):
        y = fused(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            seen.append(torch.autograd.grad(y, inputs, torch.ones_like(y)))
    torch.testing.assert_close(*seen, rtol=0, atol=0)


@BUILDERS
def test_a_gradient_scaler_steps_it_like_the_stock_one(stock, fused):
    x = pictures()
    for model in (stock, fused):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler.scale(model(x).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(fused.state_dict(), stock.state_dict(), **CLOSE)


@pytest.mark.parametrize("place", [1, 2], ids=["block", "transition"])
def test_what_follows_may_work_in_place_without_gradients(pair, place):
    stock, fused = (model[: place + 1].requires_grad_(False) for model in pair)
    x = pictures(2, 3, 9, 8)
    torch.testing.assert_close(torch.relu_(fused(x)), torch.relu_(stock(x)), **CLOSE)


def test_what_follows_a_transition_may_work_in_place(pair, gradients):
    stock, fused = (nn.Sequential(*model[:3], nn.ReLU(inplace=True)) for model in pair)
    x = pictures(2, 3, 9, 8)
    torch.testing.assert_close(gradients(fused, x), gradients(stock, x), **CLOSE)


def test_what_follows_a_block_in_place_is_an_error(pair):
    """Its output is what its backward pass needs; in the stock block every layer concatenates a copy."""
    stock, fused = (model[:2] for model in pair)
    x = pictures(2, 3, 9, 8)
    torch.relu_(stock(x)).sum().backward()
    y = torch.relu_(fused(x)).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
