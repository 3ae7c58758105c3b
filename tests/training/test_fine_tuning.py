"""Training that starts from weights: what is taken from them, what is frozen when, and how fast the parts learn."""

import csv
import json
import signal
from itertools import count

import pytest
import torch
from safetensors.torch import load_file, save_file

from densekit.errors import CheckpointError, SettingsError
from densekit.loading import load_classifier
from densekit.models.catalogue import create_model
from densekit.models.densenet import DenseNet
from densekit.models.weights import load_model, save_model
from densekit.training.interruption import Interruption
from densekit.training.loop import finish_epoch, train_epoch
from densekit.training.settings import make_settings
from densekit.training.step import train_step
from densekit.training.train import train

STEPS = 4  # an epoch: 50 pictures in batches of 16
NORMALISATION = {"mean": [0.2], "std": [0.5]}


@pytest.fixture
def weights(tiny, tmp_path):
    """A folder as a run leaves it: the network of `tiny`, of ten other classes, with statistics of its own."""
    torch.manual_seed(1)
    model = create_model(tiny["model"], num_classes=10, in_channels=1, **tiny["model_options"])
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    preprocessing = {"channels": 1, "size": [8, 8], **NORMALISATION}
    save_model(tmp_path / "weights", model, classes=list("abcdefghij"), preprocessing=preprocessing)
    return tmp_path / "weights"


def state_of(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def changed(before, after, *, more_than=0.0):
    return {key for key, value in before.items() if (after[key] - value).abs().max() > more_than}


HEAD = {"classifier.weight", "classifier.bias"}


def running(keys):
    return {key for key in keys if "running" in key or "num_batches" in key}


@pytest.fixture
def job_from(weights, make_job):
    return lambda out="job", **settings: make_job(out, **{"weights": str(weights), "lr": 0.1, **settings})


@pytest.mark.parametrize("freeze_bn", [False, True], ids=["norms_follow", "norms_frozen"])
def test_what_learns_in_which_epoch(freeze_bn, job_from):
    job = job_from(epochs=3, freeze_epochs=2, freeze_bn=freeze_bn)
    network = job.state.network
    for epoch in range(3):
        before = state_of(network)
        train_epoch(job, Interruption())
        moved = changed(before, network.state_dict())
        assert network.training
        if epoch < 2:
            assert moved == HEAD  # not even the statistics of the batch norms, nor weight decay
        else:
            assert moved == before.keys() - (running(before) if freeze_bn else set())
        finish_epoch(job)


def test_without_settings_everything_learns_from_the_first_step(job_from):
    job = job_from()
    before = state_of(job.state.network)
    train_epoch(job, Interruption())
    assert changed(before, job.state.network.state_dict()) == before.keys()


def test_frozen_norms_answer_in_training_as_they_do_in_use(job_from):
    job = job_from(epochs=1, freeze_bn=True, schedule="constant")
    batch = next(iter(job.loader))
    seen = []
    job.state.network.register_forward_hook(lambda module, args, logits: seen.append(logits.detach()))
    kept = state_of(job.state.network)
    train_epoch(job, Interruption())
    job.state.network.load_state_dict(kept)
    job.state.network.eval()(batch.pictures)
    torch.testing.assert_close(seen[0], seen[-1])


def test_the_backbone_learns_at_its_share_of_the_rate(job_from):
    """One step of plain gradient descent against the gradients of autograd."""
    job = job_from(backbone_lr_factor=0.25, momentum=0.0, weight_decay=0.0, nesterov=False, schedule="constant")
    network, batch = job.state.network, next(iter(job.loader))
    names = [name for name, _ in network.named_parameters()]
    loss = torch.nn.functional.cross_entropy(network.train()(batch.pictures), batch.labels)
    gradients = dict(zip(names, torch.autograd.grad(loss, list(network.parameters())), strict=True))
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    for group in job.state.optimizer.param_groups:
        group["lr"] = 0.1 * group["lr_share"]
    train_step(job, batch)
    for name, value in network.named_parameters():
        rate = 0.1 if name in HEAD else 0.025
        torch.testing.assert_close(value, before[name] - rate * gradients[name], rtol=1e-5, atol=1e-7)


def test_the_history_tells_the_rate_of_the_head(train_tiny, weights):
    run = train_tiny(weights=weights, backbone_lr_factor=0.1, lr=0.05, schedule="constant", epochs=1)
    assert run.history[0]["lr"] == 0.05


def stop_at(monkeypatch, *numbers):
    """Ctrl-C in the passes of training with these numbers; no hook, with which fused blocks would run as stock ones."""
    passes, forward = count(1), DenseNet.forward

    def stopping(network, x):
        if network.training and next(passes) in numbers:
            signal.raise_signal(signal.SIGINT)
        return forward(network, x)

    monkeypatch.setattr(DenseNet, "forward", stopping)


def test_stopped_while_frozen_and_again_after_it_ends_with_the_same_bits(
    tiny, weights, tmp_path, train_tiny, monkeypatch
):
    """The file of the weights is not needed to go on."""
    settings = {"epochs": 4, "freeze_epochs": 2, "backbone_lr_factor": 0.3, "lr": 0.05, "momentum": 0.9, "ema": 0.9}
    expected = train_tiny("whole", weights=weights, **settings)
    stop_at(monkeypatch, STEPS + 2, 2 * STEPS + 3)  # while frozen, and in the epoch after
    with pytest.raises(KeyboardInterrupt):
        train_tiny("stopped", weights=weights, **settings)
    for file in weights.iterdir():
        file.unlink()
    with pytest.raises(KeyboardInterrupt):
        train(out=tmp_path / "stopped", resume=True)
    run = train(out=tmp_path / "stopped", resume=True)
    assert len(run.history) == 4
    for file in ("model.safetensors", "checkpoints/last.safetensors"):
        torch.testing.assert_close(load_file(run.folder / file), load_file(expected.folder / file), rtol=0, atol=0)
    assert (run.settings.mean, run.settings.std) == ((0.2,), (0.5,))


def test_a_run_gives_network_preprocessing_and_a_record(tiny, weights, train_tiny, screen, monkeypatch):
    monkeypatch.chdir(weights.parent)
    run = train_tiny(weights="weights", model=None, model_options={}, epochs=1, freeze_epochs=1)
    assert run.settings.weights == str(weights)  # the whole path, for any folder later
    assert run.settings.model == tiny["model"]
    network, _ = load_model(run.folder)
    source, _ = load_model(weights)
    assert network.architecture == source.architecture
    assert changed(source.state_dict(), network.state_dict()) == HEAD
    kept = load_classifier(run.folder)
    assert (kept.preprocessing.mean, kept.preprocessing.std) == ((0.2,), (0.5,))
    assert kept.record["trained"]["weights"] == "weights"  # it may travel
    assert "new: classifier.weight and 1 more (for other classes)" in screen.console.export_text()
    with (run.folder / "weights.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["tensor"] for row in rows if row["became"] == "new"} == HEAD
    assert {row["tensor"] for row in rows} | running(source.state_dict()) == set(source.state_dict())


def test_the_head_stays_where_the_classes_are_the_same(weights, train_tiny):
    record = json.loads((weights / "model.json").read_text())
    (weights / "model.json").write_text(json.dumps({**record, "classes": list("0123456789")}))
    run = train_tiny(weights=weights, epochs=1, lr=1e-30, freeze_epochs=1)
    before, after = (load_model(folder)[0].state_dict() for folder in (weights, run.folder))
    assert changed(before, after, more_than=1e-9) == set()  # at a rate of nothing the weights are still there


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, ((0.2,), (0.5,)), id="of_the_weights"),
        pytest.param({"mean": (0.1,), "std": (0.3,)}, ((0.1,), (0.3,)), id="given"),
        pytest.param({"channels": 3}, ((0.2,), (0.5,)), id="one_for_all_channels"),
    ],
)
def test_normalisation_follows_the_weights(given, expected, weights, train_tiny):
    settings = train_tiny(weights=weights, epochs=1, **given).settings
    assert (settings.mean, settings.std) == expected


def test_grey_pictures_take_the_average_of_the_colours(tiny, weights, train_tiny, tmp_path):
    torch.manual_seed(1)
    colour = create_model(tiny["model"], num_classes=3, **tiny["model_options"])
    preprocessing = {"mean": [0.1, 0.2, 0.6], "std": [0.2, 0.3, 0.4]}
    save_model(tmp_path / "colour", colour, preprocessing=preprocessing)
    run = train_tiny(weights=tmp_path / "colour", epochs=1, lr=1e-30)
    assert run.settings.mean == pytest.approx((0.3,))
    assert run.settings.std == pytest.approx((0.3,))
    stem = load_model(run.folder)[0].features.conv0.weight
    torch.testing.assert_close(stem, colour.features.conv0.weight.sum(1, keepdim=True))


def test_a_checkpoint_file_says_nothing_of_pictures(tiny, weights, train_tiny, tmp_path):
    """Then they are normalised by what they are, and the named network is taken."""
    torch.save({"state_dict": load_model(weights)[0].state_dict()}, tmp_path / "file.pth")
    run = train_tiny(weights=tmp_path / "file.pth", epochs=1, lr=1e-30, freeze_epochs=1)
    plain = train_tiny("plain", epochs=1).settings
    assert (run.settings.mean, run.settings.std) == (plain.mean, plain.std)
    source, network = load_model(weights)[0].state_dict(), load_model(run.folder)[0].state_dict()
    assert (
        changed(source, network, more_than=1e-9) == set()
    )  # ten classes there and here, whose names the file does not say


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        pytest.param(
            {"freeze_epochs": 2}, SettingsError, "freeze_epochs is for trained weights, .*--weights", id="freeze"
        ),
        pytest.param({"freeze_bn": True}, SettingsError, "freeze_bn is for trained weights", id="norms"),
        pytest.param({"backbone_lr_factor": 0.1}, SettingsError, "backbone_lr_factor is for trained", id="rate"),
        pytest.param({"weights": "no.pth"}, CheckpointError, "cannot read no.pth: No such file", id="no_file"),
        pytest.param({"weights": "imagenet"}, CheckpointError, "has no published ImageNet weights", id="not_published"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_made(settings, error, message, train_tiny, tmp_path):
    with pytest.raises(error, match=message):
        train_tiny(**settings)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_network_end_before_a_run_folder_is_made(train_tiny, tmp_path):
    save_file(create_model("resnet14_cifar").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other.safetensors: the weights are of another network"):
        train_tiny(weights=tmp_path / "other.safetensors")
    assert not (tmp_path / "run").exists()


def test_the_recipe_starts_from_imagenet_and_frees_the_backbone():
    settings = make_settings("finetune", weights="RUN")
    assert (settings.weights, settings.model) == ("RUN", None)
    assert 0 < settings.freeze_epochs < settings.epochs
    assert settings.backbone_lr_factor < 1
    assert make_settings("finetune").weights == "imagenet"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model": "resnet18"}, "--recipe finetune --model resnet18 starts from ImageNet's weights"),
        ({"model": "timm:resnet10t"}, "--recipe finetune --model timm:resnet10t starts"),
        ({"model": "resnet14_cifar"}, None),
    ],
)
def test_few_pictures_from_scratch_are_told_of_weights(settings, told, train_tiny, screen):
    train_tiny(model_options={}, size=32, epochs=1, **settings)
    said = screen.console.export_text()
    assert (f"50 pictures are few to train {settings['model']} from scratch" in said) == (told is not None)
    assert told is None or told in said
