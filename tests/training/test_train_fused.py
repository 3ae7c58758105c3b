"""Dense blocks train fused by default: in the same way, on the same run folder."""

import csv

import pytest
import torch

from densekit.engine.fused_block import Fused
from densekit.models.weights import load_model


def fused_modules(network: torch.nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, Fused)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, ["features.denseblock1", "features.transition1", "features.denseblock2"], id="by_default"),
        pytest.param({"fused": False}, [], id="turned_off"),
        pytest.param({"compile": True}, [], id="compiled"),
        pytest.param({"model": "simple_cnn", "model_options": {}}, [], id="nothing_to_fuse"),
    ],
)
def test_dense_blocks_are_fused_where_that_is_faster(make_job, changes, expected):
    assert fused_modules(make_job(**changes).state.network) == expected


def test_training_goes_the_same_way_fused_and_not(train_tiny):
    losses = []
    for fused in (True, False):
        run = train_tiny(fused=fused, out=f"fused-{fused}")
        load_model(run.folder)  # the keys are the stock ones
        with (run.folder / "history.csv").open() as file:
            losses.append([float(row[kind]) for row in csv.DictReader(file) for kind in ("train_loss", "val_loss")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
