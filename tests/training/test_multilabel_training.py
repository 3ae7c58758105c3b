"""Training on pictures with any number of labels computes what a plain loop does, and keeps the best epoch."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from densekit.data.batches import EpochBatches
from densekit.data.datasets import open_data
from densekit.data.loaders import make_loader
from densekit.data.transforms import mix_batch
from densekit.errors import SettingsError
from densekit.evaluation.calibration import fit_thresholds
from densekit.evaluation.evaluate import evaluate
from densekit.evaluation.multilabel import compute_multilabel_metrics
from densekit.loading import load_classifier
from densekit.models.catalogue import create_model
from densekit.training.checkpoint import Progress
from densekit.training.interruption import Interruption
from densekit.training.loop import train_epoch


@pytest.fixture
def table(tmp_path):
    """24 noisy grey pictures of 8x8 pixels; bright rows are "top" and "bottom", and "rare" is on two of them."""
    random = np.random.default_rng(0)
    lines = ["path,labels"]
    for i in range(24):
        names = [name for name, there in (("top", i % 2), ("bottom", i % 3 == 0), ("rare", i % 12 == 0)) if there]
        pixels = random.integers(0, 90, (8, 8))
        pixels[:4] += 120 * ("top" in names)
        pixels[4:] += 120 * ("bottom" in names)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'|'.join(names)}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return tmp_path / "table.csv"


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        pytest.param({}, F.binary_cross_entropy_with_logits, id="plain"),
        pytest.param(
            {"label_smoothing": 0.2},
            lambda z, y: F.binary_cross_entropy_with_logits(z, 0.8 * y + 0.1),
            id="label_smoothing",
        ),
        pytest.param({"class_balance": "loss"}, None, id="class_balance"),
        pytest.param({"mixup": 0.4}, F.binary_cross_entropy_with_logits, id="mixup"),
        pytest.param({"accumulate": 2}, None, id="accumulate"),
    ],
)
def test_an_epoch(settings, loss, table, make_job, tiny):
    shared = {"data": str(table), "limit_per_class": None, "batch_size": 8, "lr": 0.1, "schedule": "constant"}
    exact = {"channels_last": False, "fused": False, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}
    job = make_job(**{**shared, **exact, **settings})
    train_epoch(job, Interruption())
    train_set = open_data(table).train
    if loss is None:
        share = torch.tensor(train_set.labels).mean(0)
        weight = (1 - share) / share if "class_balance" in settings else torch.ones(3)

        def loss(z, y):
            return -(weight * y * F.logsigmoid(z) + (1 - y) * F.logsigmoid(-z)).mean()

    torch.manual_seed(0)
    network = create_model("densenet40_k12_cifar", num_classes=3, in_channels=1, **tiny["model_options"]).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    batches = EpochBatches(len(train_set), 8, seed=0)
    loader = make_loader(train_set, job.classifier.preprocessing, batches, workers=0)
    total = right = 0.0
    for step, (pictures, labels, *_) in enumerate(loader):
        targets = labels
        if "mixup" in settings:
            pictures, targets = mix_batch(pictures, labels, 3, job.settings, seed=0, epoch=0, step=step)
        optimizer.zero_grad()
        middle = [len(labels) // 2] if "accumulate" in settings and len(labels) > 3 else []
        for part in torch.arange(len(labels)).tensor_split(middle):
            logits = network(pictures[part])
            part_loss = loss(logits, targets[part]) * len(part)
            (part_loss / len(labels)).backward()
            total += part_loss.item()
            right += ((logits > 0) == labels[part].bool()).all(1).sum().item()
        optimizer.step()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(job.state.network.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert job.state.progress.loss_sum == pytest.approx(total, rel=1e-5)
    assert job.state.progress.correct == right


def test_drawing_rare_classes_more_often_is_for_one_class_each(table, train_tiny):
    with pytest.raises(SettingsError, match="class_balance=sampler is for pictures of one class each"):
        train_tiny(data=str(table), limit_per_class=None, class_balance="sampler")


def test_thresholds_are_those_with_the_best_f1_on_the_validation_pictures(table, train_tiny, tmp_path):
    run = train_tiny(data=str(table), limit_per_class=None, val_fraction=0.4, epochs=2, thresholds="f1")
    found = evaluate(run.folder, split="val", device="cpu", out=tmp_path / "val")
    thresholds = found.classifier.thresholds
    assert thresholds == pytest.approx(fit_thresholds(found.outcomes.probabilities, found.outcomes.labels), abs=1e-5)
    assert set(thresholds) != {0.5}
    assert [row.threshold for row in found.metrics.classes] == list(thresholds)
    other = replace(found.outcomes, thresholds=None)
    half = compute_multilabel_metrics(other, found.classifier.classes, split="val")
    assert found.metrics.macro_f1 > half.macro_f1
    assert json.loads((tmp_path / "val" / "metrics.json").read_text())["macro_f1"] == found.metrics.macro_f1


def test_thresholds_need_what_they_are_fitted_to(table, colours, train_tiny, tmp_path):
    with pytest.raises(SettingsError, match="needs pictures to validate on"):
        train_tiny(data=str(table), limit_per_class=None, val_fraction=0, thresholds="f1")
    with pytest.raises(SettingsError, match="one class each"):
        train_tiny(data=str(colours), thresholds="f1")
    assert not (tmp_path / "run").exists()


def test_a_run_tells_its_mean_average_precision(table, train_tiny, screen):
    run = train_tiny(data=str(table), limit_per_class=None, epochs=3, val_fraction=0.3)
    rows = (run.folder / "history.csv").read_text().splitlines()
    assert "val_mean_average_precision" in rows[0].split(",")
    kept = run.history[run.best_epoch - 1]
    best = max((row["val_mean_average_precision"], -row["val_loss"]) for row in run.history)
    assert (kept["val_mean_average_precision"], -kept["val_loss"]) == best
    text = screen.console.export_text()
    assert f"kept epoch {run.best_epoch}: validation mean average precision {best[0]:.2%}" in text
    assert "mAP" in text
    assert "pictures of 3 labels" in text
    record = json.loads((run.folder / "model.json").read_text())
    assert record["multilabel"] is True
    assert record["trained"]["val_mean_average_precision"] == kept["val_mean_average_precision"]
    assert load_classifier(run.folder, device="cpu").multilabel


def test_stopping_early_names_what_it_goes_by(table, train_tiny, screen):
    settings = {"epochs": 40, "val_fraction": 0.3, "early_stopping": 1, "lr": 0.3}
    train_tiny(data=str(table), limit_per_class=None, **settings)
    assert "no better validation mean average precision in 1 epoch: stopped early" in screen.console.export_text()


def test_going_on_is_exact(table, train_tiny, tmp_path):
    shared = {"data": str(table), "limit_per_class": None, "val_fraction": 0.3, "epochs": 3}

    class StopError(Exception):
        pass

    def stop(row):
        if row["epoch"] == 2:
            raise StopError

    whole = train_tiny(**shared, out="whole")
    with pytest.raises(StopError):
        train_tiny(**shared, out="parts", on_epoch=stop)
    from densekit.training.train import train

    parts = train(out=tmp_path / "parts", resume=True)
    assert [{**row, "seconds": 0, "pictures_per_s": 0} for row in parts.history] == [
        {**row, "seconds": 0, "pictures_per_s": 0} for row in whole.history
    ]
    one, other = (load_file(run.folder / "model.safetensors") for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_best_epoch_goes_by_the_precision_then_the_loss():
    progress = Progress()
    rows = [(0.4, 0.9, 1.0), (0.6, 0.1, 0.9), (0.6, 0.2, 0.8), (0.6, 0.9, 0.8), (None, 1.0, 0.1)]
    kept = []
    for epoch, (precision, accuracy, loss) in enumerate(rows, start=1):
        row = {"epoch": epoch, "val_loss": loss, "val_accuracy": accuracy, "val_mean_average_precision": precision}
        kept.append(progress.finish_epoch(row))
    assert kept == [True, True, True, False, False]
    assert progress.best_epoch == 3
