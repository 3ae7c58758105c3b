import json

import pytest
import torch
from safetensors import SafetensorError, safe_open

from densekit.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from densekit.training.interruption import Interruption
from densekit.training.loop import train_epoch


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"optimizer": "sgd"}, id="sgd"),
        pytest.param({"optimizer": "sgd", "momentum": 0.0}, id="optimizer_without_memory"),
        pytest.param({"optimizer": "adamw", "lr": 0.01}, id="adamw"),
        pytest.param({"ema": 0.9, "channels_last": True}, id="average_and_strided_weights"),
    ],
)
def test_everything_comes_back(settings, make_job, tmp_path):
    job = make_job("first", **{"lr": 0.1, **settings})
    train_epoch(job, Interruption())
    progress = job.state.progress
    progress.history.append({"epoch": 1, "val_loss": None, "train_loss": 1 / 3})
    progress.unreadable["a: b.png"] = "damaged"
    random = torch.get_rng_state()
    save_checkpoint(tmp_path / "last.safetensors", job.state)

    other = make_job("second", **{"lr": 0.1, **settings, "seed": 7})
    torch.manual_seed(99)
    load_checkpoint(tmp_path / "last.safetensors", other.state)
    assert other.state.progress == progress
    assert torch.equal(torch.get_rng_state(), random)
    for ours, theirs in (
        (other.state.network, job.state.network),
        (other.state.average or torch.nn.Identity(), job.state.average or torch.nn.Identity()),
    ):
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=0)
    slots, expected = (state.optimizer.state_dict()["state"] for state in (other.state, job.state))
    assert slots.keys() == expected.keys()
    for number, tensors in expected.items():
        for name, value in tensors.items():
            torch.testing.assert_close(slots[number][name], value, rtol=0, atol=0)
    weights = list(other.state.network.parameters())
    assert [weight.stride() for weight in weights] == [weight.stride() for weight in job.state.network.parameters()]


def test_a_resumed_job_goes_on_with_the_same_steps(make_job, tmp_path):
    """Stored and loaded in the middle: the weights of an epoch without a stop."""
    settings = {"lr": 0.05, "optimizer": "adam"}
    whole, first, second = make_job("whole", **settings), make_job("first", **settings), make_job("second", **settings)
    train_epoch(whole, Interruption())
    interruption = Interruption()
    interruption.asked = True  # stops after one step
    train_epoch(first, interruption)
    assert first.state.progress.step == 1
    save_checkpoint(tmp_path / "last.safetensors", first.state)
    load_checkpoint(tmp_path / "last.safetensors", second.state)
    train_epoch(second, Interruption())
    for actual, expected in zip(second.state.network.parameters(), whole.state.network.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert second.state.progress.loss_sum == pytest.approx(whole.state.progress.loss_sum, rel=1e-12)
    assert second.state.progress.pictures == 50


def test_a_full_disk_leaves_the_last_checkpoint(make_job, tmp_path):
    resource = pytest.importorskip("resource", reason="Windows has no limits of file sizes")
    job = make_job()
    path = tmp_path / "checkpoints" / "last.safetensors"
    save_checkpoint(path, job.state)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises((OSError, SafetensorError), match="File too large"):
            save_checkpoint(path, job.state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_progress_is_plain_json(make_job, tmp_path):
    job = make_job()
    save_checkpoint(tmp_path / "last.safetensors", job.state)
    with safe_open(tmp_path / "last.safetensors", framework="np") as file:
        assert Progress(**json.loads(file.metadata()["progress"])) == Progress()
