"""Dense layer, block and transition against their NumPy definition, and the memory-saving mode."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densekit.models.dense_block import ACTIVATIONS, NORM, DenseBlock, DenseLayer, Transition
from densekit.reference import dense_block as oracle

EXACT = {"atol": 0, "rtol": 0}
CLOSE = {"atol": 1e-11, "rtol": 1e-11}  # float64
MODES = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
LAYERS = pytest.mark.parametrize("bn_size", [4, None], ids=["bottleneck", "plain"])


def prepare(module: nn.Module, training: bool = True) -> nn.Module:
    """Make it float64 and give every norm values of its own, so that a forgotten or swapped one shows."""
    for part in module.modules():
        if isinstance(part, tuple(NORM.values())):
            nn.init.normal_(part.weight, 1)
            nn.init.normal_(part.bias)
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            part.num_batches_tracked.fill_(7)
    return module.double().train(training)


def to_numpy(state: dict[str, Tensor]) -> dict:
    return {name: tensor.numpy().copy() for name, tensor in state.items()}


def assert_equals_oracle(module: nn.Module, definition, *features: Tensor):
    before = to_numpy(module.state_dict())
    stacked = torch.cat(features, 1).numpy()
    wanted, buffers = definition(stacked, before, training=module.training)
    torch.testing.assert_close(module(*features).detach(), torch.from_numpy(wanted), **CLOSE)
    assert len(buffers) == (len(list(module.buffers())) if module.training else 0)
    for name, value in (before | buffers).items():
        torch.testing.assert_close(module.state_dict()[name], torch.as_tensor(value), **CLOSE, msg=name)


SHAPES = pytest.mark.parametrize(
    "shape", [(3, 4, 1, 1), (2, 7, 5, 4), (1, 2, 3, 6)], ids=["one_pixel", "odd_channels", "batch_of_one"]
)


@MODES
@LAYERS
@SHAPES
def test_dense_layer_is_its_definition(shape, bn_size, training: bool):
    torch.manual_seed(0)
    layer = prepare(DenseLayer(shape[1] + 3, 5, bn_size=bn_size), training)
    newer = torch.randn(shape[0], 3, *shape[2:], dtype=torch.float64)
    assert_equals_oracle(layer, oracle.dense_layer, torch.randn(*shape, dtype=torch.float64), newer)


@MODES
@LAYERS
@SHAPES
def test_dense_block_is_its_definition(shape, bn_size, training: bool):
    torch.manual_seed(0)
    block = prepare(DenseBlock(3, shape[1], 5, bn_size=bn_size), training)
    assert_equals_oracle(block, oracle.dense_block, torch.randn(*shape, dtype=torch.float64))


SIZES = pytest.mark.parametrize(
    "size", [(4, 6), (5, 4), (4, 7), (2, 3)], ids=["even", "odd_height", "odd_width", "one_pixel_left"]
)


@MODES
@SIZES
def test_transition_is_its_definition(size, training: bool):
    torch.manual_seed(0)
    transition = prepare(Transition(7, 3), training)
    assert_equals_oracle(transition, oracle.transition, torch.randn(2, 7, *size, dtype=torch.float64))


@LAYERS
@pytest.mark.parametrize(
    ("layers", "k", "given", "returned"),
    [
        pytest.param(3, 12, (1, 3, 96, 96), (1, 39, 96, 96), id="three_layers"),
        pytest.param(2, 10, (4, 3, 8, 8), (4, 23, 8, 8), id="two_layers"),
    ],
)
def test_dense_block_appends_k_channels_per_layer(layers, k, given, returned, bn_size):
    x = torch.randn(given)
    y = DenseBlock(layers, given[1], k, bn_size=bn_size)(x)
    assert y.shape == returned
    torch.testing.assert_close(y[:, : given[1]], x, **EXACT)  # the input itself comes first


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        pytest.param((1, 3, 96, 96), (1, 12, 48, 48), id="three_channels"),
        pytest.param((4, 23, 8, 8), (4, 10, 4, 4), id="after_a_block"),
    ],
)
def test_transition_halves_the_size(given, returned):
    assert Transition(given[1], returned[1])(torch.randn(given)).shape == returned


@pytest.mark.parametrize("pooling", ["avg", "max"])
@SIZES
def test_transition_equals_convolving_before_pooling(pooling: str, size):
    """The average is taken first because it costs less; the maximum cannot be, it does not commute."""
    torch.manual_seed(0)
    transition = prepare(Transition(7, 3, pooling=pooling))
    pool = {"avg": F.avg_pool2d, "max": F.max_pool2d}[pooling]
    x = torch.randn(2, 7, *size, dtype=torch.float64, requires_grad=True)
    y, wanted = transition(x), pool(transition.conv(transition.relu(transition.norm(x))), 2)
    torch.testing.assert_close(y, wanted, **CLOSE)
    leaves, weights = [x, *transition.parameters()], torch.randn_like(y)
    gradients = [torch.autograd.grad((out * weights).sum(), leaves) for out in (y, wanted)]
    torch.testing.assert_close(*gradients, **CLOSE)


def test_average_pooling_transition_convolves_a_quarter_of_the_pixels():
    transition, seen = Transition(7, 3), []
    transition.conv.register_forward_hook(lambda conv, inputs, output: seen.append(inputs[0].shape))
    transition(torch.randn(2, 7, 8, 9))
    assert seen == [(2, 7, 4, 4)]


FORMULAS = {
    "relu": lambda x: x * (x > 0),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "prelu": lambda x: torch.where(x > 0, x, 0.25 * x),  # its slope is learned and starts at 1/4
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_is_its_formula(activation: str):
    torch.manual_seed(0)
    act, x = FORMULAS[activation], torch.randn(2, 6, 4, 4, dtype=torch.float64)
    layer, transition = DenseLayer(6, 4, activation=activation), Transition(6, 4, activation=activation)
    prepare(layer), prepare(transition)
    new = layer.conv2(act(layer.norm2(layer.conv1(act(layer.norm1(x))))))
    torch.testing.assert_close(layer(x), new, **CLOSE)
    torch.testing.assert_close(transition(x), F.avg_pool2d(transition.conv(act(transition.norm(x))), 2), **CLOSE)


@LAYERS
def test_grouped_layer_is_an_ungrouped_one_without_weights_between_groups(bn_size):
    torch.manual_seed(0)
    grouped, whole = (prepare(DenseLayer(6, 4, bn_size=bn_size, groups=groups)) for groups in (2, 1))
    key = "conv1.weight" if bn_size is None else "conv2.weight"
    upper, lower = grouped.state_dict()[key].chunk(2)
    zeros = torch.zeros_like(upper)
    full = torch.cat([torch.cat([upper, zeros], 1), torch.cat([zeros, lower], 1)])
    whole.load_state_dict(grouped.state_dict() | {key: full})
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(grouped(x), whole(x), **CLOSE)


@LAYERS
def test_squeeze_and_excitation_scales_the_new_features_once(bn_size):
    torch.manual_seed(0)
    plain = prepare(DenseLayer(6, 8, bn_size=bn_size), training=False)
    layer = prepare(DenseLayer(6, 8, bn_size=bn_size, se_reduction=2), training=False)
    layer.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    new = plain(x)
    scales = []
    for sample in new.mean((2, 3)):  # each sample by its own means
        hidden = (layer.se.fc1.weight @ sample + layer.se.fc1.bias).clamp(min=0)
        scales.append(1 / (1 + torch.exp(-(layer.se.fc2.weight @ hidden + layer.se.fc2.bias))))
    torch.testing.assert_close(layer(x), new * torch.stack(scales)[:, :, None, None], **CLOSE)


def test_dropout_zeroes_new_features_in_training_only():
    torch.manual_seed(0)
    layer, plain = prepare(DenseLayer(6, 16, drop_rate=0.3)), prepare(DenseLayer(6, 16))
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(4, 6, 16, 16, dtype=torch.float64)
    new, whole = layer(x), plain(x)
    dropped = new == 0
    assert 0.28 < dropped.double().mean() < 0.32  # 16,384 values: 0.02 are 5 standard deviations
    torch.testing.assert_close(new[~dropped], whole[~dropped] / 0.7, **CLOSE)
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x), **EXACT)


@pytest.mark.parametrize(("dims", "size"), [(1, (9,)), (3, (4, 5, 6))], ids=["series", "volume"])
def test_other_dimensions_have_the_same_shapes(dims: int, size: tuple[int, ...]):
    x = torch.randn(2, 3, *size)
    y = DenseBlock(2, 3, 4, spatial_dims=dims)(x)
    assert y.shape == (2, 11, *size)
    halves = tuple(length // 2 for length in size)
    assert Transition(11, 5, spatial_dims=dims)(y).shape == (2, 5, *halves)
    assert Transition(11, 5, spatial_dims=dims, pooling="max")(y).shape == (2, 5, *halves)


OPTIONS = pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="bottleneck"),
        pytest.param({"bn_size": None}, id="plain"),
        pytest.param({"drop_rate": 0.3}, id="dropout"),
        pytest.param({"se_reduction": 2, "activation": "prelu", "groups": 2}, id="se_prelu_groups"),
        pytest.param({"spatial_dims": 1}, id="series"),
    ],
)


def twins(options: dict) -> tuple[nn.Module, nn.Module]:
    """Return an ordinary and a memory-saving block with the same weights."""
    ordinary, saving = (prepare(DenseBlock(4, 6, 4, memory_efficient=m, **options)) for m in (False, True))
    saving.load_state_dict(ordinary.state_dict())
    return ordinary, saving


@OPTIONS
def test_memory_efficient_training_is_identical(options: dict):
    """Two steps: outputs, gradients, weights, running statistics and the count of batches, bit for bit."""
    torch.manual_seed(0)
    blocks = twins(options)
    steppers = [torch.optim.SGD(block.parameters(), lr=0.1, momentum=0.9) for block in blocks]
    for step in range(2):
        inputs = torch.randn(3, 6, *[5] * options.get("spatial_dims", 2), dtype=torch.float64)
        results = []
        for block, stepper in zip(blocks, steppers, strict=True):
            torch.manual_seed(step)
            x = inputs.clone().requires_grad_()
            y = block(x)
            stepper.zero_grad()
            y.square().sum().backward()
            results.append({"y": y, "x": x.grad} | {n: p.grad for n, p in block.named_parameters()})
            stepper.step()
        torch.testing.assert_close(*results, **EXACT)
    states = [block.state_dict() for block in blocks]
    torch.testing.assert_close(*states, **EXACT)
    assert {int(n) for key, n in states[0].items() if key.endswith("num_batches_tracked")} == {7 + 2}
    blocks[0].eval(), blocks[1].eval()
    torch.testing.assert_close(blocks[0](inputs), blocks[1](inputs), **EXACT)


def test_memory_efficient_counts_a_batch_once_however_often_it_goes_back():
    torch.manual_seed(0)
    ordinary, saving = twins({})
    x = torch.randn(3, 6, 4, 4, dtype=torch.float64)
    for block in (ordinary, saving):
        loss = block(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
    torch.testing.assert_close(ordinary.state_dict(), saving.state_dict(), **EXACT)
    gradients = [[p.grad for p in block.parameters()] for block in (ordinary, saving)]
    torch.testing.assert_close(*gradients, **EXACT)


def test_memory_efficient_leaves_frozen_norms_alone():
    torch.manual_seed(0)
    results = []
    for block in twins({}):
        for norm in block.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.eval()
        before = {name: buffer.clone() for name, buffer in block.named_buffers()}
        torch.manual_seed(1)
        block(torch.randn(3, 6, 4, 4, dtype=torch.float64)).square().sum().backward()
        torch.testing.assert_close(dict(block.named_buffers()), before, **EXACT)
        results.append([p.grad for p in block.parameters()])
    torch.testing.assert_close(*results, **EXACT)


def saved_bytes(block: nn.Module, x: Tensor) -> int:
    """Return the size of what a forward pass keeps for the backward pass beside the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # counted once; held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(x)
    return sum(storage.nbytes() for storage in kept.values())


@LAYERS
def test_memory_efficient_keeps_no_concatenation(bn_size):
    """The ordinary block keeps each layer's inputs twice, joined and activated; the saving one once."""
    layers, channels, k, pixels = 12, 16, 8, 2 * 16 * 16
    blocks = [DenseBlock(layers, channels, k, bn_size=bn_size, memory_efficient=m) for m in (False, True)]
    x = torch.randn(2, channels, 16, 16)
    ordinary, saving = (saved_bytes(block, x) for block in blocks)
    twice = 2 * sum(channels + i * k for i in range(layers)) * pixels * 4
    once = (channels + (layers - 1) * k) * pixels * 4
    assert ordinary - saving == pytest.approx(twice - once, rel=0.01)  # beside the norms' statistics
    assert saved_bytes(blocks[0].eval(), x) == saved_bytes(blocks[1].eval(), x)
