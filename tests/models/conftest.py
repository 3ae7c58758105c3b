"""The same small DenseNet as densekit, torchvision, timm and MONAI build it."""

import io
import json
from functools import partial

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from densekit.console import Screen
from densekit.models.catalogue import create_model

SIZES = {"growth_rate": 8, "block_config": (2, 3, 2, 2)}


@pytest.fixture
def small():
    """densekit's, with other weights every time: ``small(num_classes=7, in_channels=3, **options)``."""

    def build(num_classes: int = 7, **options) -> nn.Module:
        chosen = {"num_init_features": 16, **SIZES, **options}
        return create_model("densenet121", num_classes=num_classes, **chosen).double().eval()

    return build


@pytest.fixture
def foreign():
    """The others', with random statistics, in float64: ``foreign("timm", num_classes=7)``."""

    def build(library: str, num_classes: int = 7, dims: int = 2) -> nn.Module:
        match library:
            case "torchvision":
                from torchvision.models.densenet import DenseNet

                model = DenseNet(num_init_features=16, num_classes=num_classes, **SIZES)
            case "timm":
                from timm.models.densenet import DenseNet

                model = DenseNet(num_classes=num_classes, **SIZES)
            case _:
                from monai.networks.nets.densenet import DenseNet

                model = DenseNet(dims, 3, num_classes, init_features=16, **SIZES)
        return randomise(model)

    return build


def randomise(model: nn.Module) -> nn.Module:
    """Make forgotten, swapped or repeated norms show in the output."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.bias)
    return model.double().eval()


@pytest.fixture(name="randomise")
def _randomise():
    return randomise


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randn(2, 3, 40, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def screen():
    """A screen that records what it shows: ``screen.console.export_text()``."""
    return Screen(console=Console(file=io.StringIO(), record=True, width=1000))


@pytest.fixture
def same():
    """Assert equality to float64's precision."""
    return partial(torch.testing.assert_close, atol=1e-10, rtol=1e-10)


@pytest.fixture
def timm_files(foreign, tmp_path):
    """What timm uploads for a model, small: weights and config.json."""
    save_file(foreign("timm").float().state_dict(), tmp_path / "t")
    config = {
        "architecture": "densenet121",
        "num_classes": 7,
        "pretrained_cfg": {"tag": "ra_in1k", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.21, 0.22]},
    }
    return {"model.safetensors": (tmp_path / "t").read_bytes(), "config.json": json.dumps(config).encode()}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Caches of this test only, densekit's and torch's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache" / "densekit" / "weights"
