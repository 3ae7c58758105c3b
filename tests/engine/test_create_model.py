"""A network that is fused when it is built."""

import pytest
import torch

import densekit as dk
from densekit.errors import SettingsError
from densekit.models import catalogue


def build(fused: bool, **options) -> torch.nn.Module:
    torch.manual_seed(3)
    return dk.create_model(
        "densenet121", num_classes=3, in_channels=4, block_config=[2, 2], growth_rate=8, fused=fused, **options
    ).double()


def test_it_is_the_same_network(assert_ran):
    stock, fused, x = build(False), build(True), torch.randn(2, 4, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(fused(x), stock(x), rtol=1e-10, atol=1e-10)
    assert_ran(fused, "cpu")
    torch.testing.assert_close(fused.state_dict(), stock.state_dict(), rtol=1e-10, atol=1e-10)
    assert fused.architecture == stock.architecture
    again = catalogue.create_model(stock.architecture["name"], **stock.architecture["options"])
    again.load_state_dict(fused.state_dict())


def test_trained_weights_are_there_before(tmp_path):
    stock = build(False)
    path = tmp_path / "weights.pth"
    torch.save(stock.state_dict(), path)
    fused = build(True, weights=path)
    torch.testing.assert_close(fused.state_dict(), stock.state_dict(), check_dtype=False)


def test_a_network_without_dense_blocks_cannot_be():
    with pytest.raises(SettingsError, match="nothing to fuse in this ResNet"):
        dk.create_model("resnet18", fused=True)
