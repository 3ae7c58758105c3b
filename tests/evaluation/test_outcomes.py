import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from densekit.console import Screen
from densekit.data.datasets import open_labelled
from densekit.data.loaders import evaluation_loader
from densekit.data.picture_set import PictureSet
from densekit.data.preprocessing import Preprocessing
from densekit.evaluation.outcomes import collect_outcomes

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(channels=3, size=(6, 6), mean=(0.5,), std=(0.25,))


@pytest.fixture
def network() -> nn.Module:
    """A network whose answers depend on its mode, by batch norm and dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3)
    )


@pytest.fixture
def pictures() -> PictureSet:
    random = np.random.default_rng(0)
    return PictureSet(random.integers(0, 256, (10, 6, 6, 3), np.uint8), random.integers(0, 3, 10), "test")


def load(pictures: PictureSet, batch_size: int = 4):
    return evaluation_loader(pictures, PREPROCESSING, batch_size, workers=0)


def all_at_once(pictures: PictureSet) -> torch.Tensor:
    return torch.stack([PREPROCESSING(pictures.read(i)) for i in range(len(pictures))])  # (N, 3, 6, 6)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64], ids=["one_by_one", "last_is_short", "exact", "one_batch"])
def test_every_picture_once_whatever_the_batch(network, pictures, batch_size):
    outcomes = collect_outcomes(network, load(pictures, batch_size), device=CPU)
    assert outcomes.index.tolist() == list(range(10))
    assert outcomes.labels.tolist() == pictures.labels.tolist()
    torch.testing.assert_close(outcomes.logits, network.eval()(all_at_once(pictures)).detach())


@pytest.mark.parametrize("training", [True, False], ids=["was_training", "was_evaluating"])
def test_network_is_left_as_it_was(network, pictures, training):
    network.train(training)
    before = copy.deepcopy(network.state_dict())
    collect_outcomes(network, load(pictures), device=CPU)
    assert all(module.training is training for module in network.modules())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)  # running statistics too


def test_mode_is_put_back_after_an_error(network, pictures):
    broken = nn.Sequential(network, nn.Linear(99, 2)).train()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        collect_outcomes(broken, load(pictures), device=CPU)
    assert broken.training
    assert network.training


def test_lower_precision_is_used_and_given_back_as_float32(network, pictures):
    plain = collect_outcomes(network, load(pictures), device=CPU)
    low = collect_outcomes(network, load(pictures), device=CPU, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    assert low.logits.dtype == torch.float32
    torch.testing.assert_close(low.logits, plain.logits, rtol=0.05, atol=0.05)
    assert (low.logits != plain.logits).any()


def test_channels_last_changes_the_layout_only(network, pictures):
    layouts = []
    network.register_forward_pre_hook(
        lambda _, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    plain = collect_outcomes(network, load(pictures), device=CPU)
    turned = collect_outcomes(network, load(pictures), device=CPU, channels_last=True)
    torch.testing.assert_close(turned.logits, plain.logits)
    assert layouts == [False] * 3 + [True] * 3


def test_unreadable_pictures_are_named_and_left_out(network, tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    damaged = tmp_path / "a" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:5000])  # the header is whole, the pixels are not
    pictures = open_labelled(tmp_path, classes=("a", "b"), screen=Screen(quiet=True))
    outcomes = collect_outcomes(network, load(pictures), device=CPU)
    assert outcomes.index.tolist() == [0, 2, 3, 4, 5]
    assert outcomes.labels.tolist() == [0, 0, 1, 1, 1]
    assert len(outcomes.unreadable) == 1
    assert str(outcomes.unreadable[0]).startswith(f"{damaged}: damaged")

    alone = collect_outcomes(network, load(pictures.select([1]), 1), device=CPU)
    assert (len(alone), len(alone.unreadable)) == (0, 1)


def test_bar_moves_by_batches(network, pictures):
    loader = load(pictures)
    with Screen(quiet=True).bar("evaluating", len(loader)) as bar:
        collect_outcomes(network, loader, device=CPU, bar=bar)
        assert bar.progress.tasks[0].completed == len(loader) == 3
