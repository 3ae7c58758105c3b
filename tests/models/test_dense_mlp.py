import numpy as np
import pytest
import torch

from densekit.errors import SettingsError
from densekit.models.dense_mlp import DenseMLP, GrowthLayer


def numpy_forward(state: dict[str, np.ndarray], x: np.ndarray, block_config: tuple[int, ...]) -> np.ndarray:
    """DenseMLP's definition in evaluation mode, from its weights alone."""

    def norm_relu(key: str, x: np.ndarray) -> np.ndarray:
        scale = state[f"{key}.weight"] / np.sqrt(state[f"{key}.running_var"] + 1e-5)
        return np.maximum((x - state[f"{key}.running_mean"]) * scale + state[f"{key}.bias"], 0)

    def linear(key: str, x: np.ndarray) -> np.ndarray:
        return x @ state[f"{key}.weight"].T + state[f"{key}.bias"]

    x = linear("features.0", x)
    place = 1
    for block, layers in enumerate(block_config):
        if block > 0:
            x = linear(f"features.{place}.2", norm_relu(f"features.{place}.0", x))
            place += 1
        for _ in range(layers):
            new = linear(f"features.{place}.2", norm_relu(f"features.{place}.0", x))
            x = np.concatenate([x, new], axis=1)
            place += 1
    return linear("head", norm_relu(f"features.{place}", x))


@pytest.mark.parametrize(
    ("block_config", "compression"),
    [
        pytest.param((3, 2), 0.5, id="halved"),
        pytest.param((2,), 0.5, id="one_block"),
        pytest.param((1, 2, 1), 0.3, id="odd_widths"),
        pytest.param((2, 2), 1.0, id="nothing_dropped"),
    ],
)
def test_equals_numpy(block_config: tuple[int, ...], compression: float):
    torch.manual_seed(0)
    net = DenseMLP(7, block_config, growth_rate=5, compression=compression, out_features=2).double().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    x = torch.randn(4, 7, dtype=torch.float64)
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    torch.testing.assert_close(net(x).detach().numpy(), numpy_forward(state, x.numpy(), block_config))


def test_widths_grow_and_halve():
    net = DenseMLP(7, (3, 2), growth_rate=5)
    # stem 10, block 10 + 3 * 5 = 25, transition 12, block 12 + 2 * 5 = 22
    assert net.forward_features(torch.rand(4, 7)).shape == (4, 22)


def test_dropout_drops_new_features_in_training_only():
    layer = next(m for m in DenseMLP(7, (1,), growth_rate=64, dropout=0.5).modules() if isinstance(m, GrowthLayer))
    x = torch.randn(8, 128)
    new = layer.train()(x)[:, 128:]
    assert 0.4 < (new == 0).float().mean() < 0.6
    assert (layer.eval()(x)[:, 128:] != 0).all()
    assert torch.equal(layer.train()(x)[:, :128], x)


def test_fits_a_function_of_a_table():
    torch.manual_seed(0)
    x = torch.randn(512, 4)
    y = (x[:, :1] * x[:, 1:2]).sin() + x[:, 2:3]
    net = DenseMLP(4, (2, 2), growth_rate=16)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    held_out = torch.randn(512, 4)
    wanted = (held_out[:, :1] * held_out[:, 1:2]).sin() + held_out[:, 2:3]
    with torch.no_grad():
        error = torch.nn.functional.mse_loss(net.eval()(held_out), wanted)
    assert error < 0.15 * wanted.var()


@pytest.mark.parametrize("compression", [0.0, 1.5])
def test_compression_must_keep_a_share(compression: float):
    with pytest.raises(SettingsError, match="compression is"):
        DenseMLP(7, compression=compression)
