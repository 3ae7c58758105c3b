import copy

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from densekit.errors import TrainingError
from densekit.training.learning_rate import find_learning_rate
from densekit.training.settings import read_settings


def test_the_sweep_leaves_no_trace_but_its_picture(make_job):
    options = {"block_config": [2], "growth_rate": 32, "drop_rate": 0.2}
    job = make_job(lr="auto", optimizer="adam", ema=0.9, model_options=options)
    state = job.state
    pieces = (state.network, state.average, state.optimizer)
    before, random = [copy.deepcopy(piece.state_dict()) for piece in pieces], torch.get_rng_state()
    progress = copy.deepcopy(state.progress)
    rate = find_learning_rate(job)
    assert 1e-4 < rate <= 1
    for piece, expected in zip(pieces[:2], before, strict=False):
        actual = piece.state_dict()
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value, rtol=0, atol=0)
    assert state.optimizer.state_dict() == before[2]
    assert all(parameter.grad is None for parameter in state.network.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert state.progress == progress
    with Image.open(job.run.path / "learning_rate.png") as picture:
        assert min(picture.size) > 100


def test_auto_trains_as_if_the_rate_had_been_given(train_tiny, screen):
    found = train_tiny("auto", lr="auto", epochs=1)
    rate = read_settings(found.folder / "settings.yaml").lr
    assert isinstance(rate, float)
    assert f"learning rate {rate:.2g} chosen from" in screen.console.export_text()
    given = train_tiny("given", lr=rate, epochs=1)
    assert given.history[0]["train_loss"] == found.history[0]["train_loss"]
    expected = load_file(given.folder / "model.safetensors")
    for name, value in load_file(found.folder / "model.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def test_a_network_that_cannot_learn_gets_no_rate(make_job):
    job = make_job(lr="auto")
    for parameter in job.state.network.parameters():
        parameter.requires_grad_(parameter.dim() == 1)  # the norms alone change little
        parameter.data.zero_()
    with pytest.raises(TrainingError, match="no learning rate makes the loss fall"):
        find_learning_rate(job)


def test_the_rate_is_a_tenth_of_the_one_with_the_lowest_loss(make_job, monkeypatch):
    """The loss falls for 40 steps and explodes in the next, which ends the sweep from 1e-6 to 10 in 100 steps."""
    job, rates = make_job(lr="auto", limit_per_class=None), []
    job.state.optimizer.param_groups[0]["lr_share"] = 0.1  # as of a backbone that is to learn slower

    def step(job, batch):
        backbone, head = (group["lr"] for group in job.state.optimizer.param_groups)
        assert backbone == pytest.approx(0.1 * head)
        rates.append(head)
        mean = 3 - 0.05 * len(rates) if len(rates) <= 40 else 1e4
        return torch.tensor([mean * len(batch.labels), 0, len(batch.labels)])

    monkeypatch.setattr("densekit.training.learning_rate.train_step", step)
    assert find_learning_rate(job) == pytest.approx(1e-6 * 1e7 ** (39 / 99) / 10)
    assert rates == pytest.approx([1e-6 * 1e7 ** (k / 99) for k in range(41)])
