import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from densekit.data.batches import EpochBatches
from densekit.data.datasets import open_data
from densekit.errors import DivergenceError, TrainingError
from densekit.loading import load_classifier
from densekit.training.interruption import Interruption
from densekit.training.loop import finish_epoch, run_epochs, train_epoch
from densekit.training.step import train_step

STEPS, VAL_BATCHES = 4, 1  # 50 pictures in batches of 16; 10 to validate in one of 32


def weights_of(network):
    return [value.clone() for value in network.state_dict().values()]


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9}], ids=["plain", "average"])
def test_every_epoch_trains_in_training_mode(settings, train_tiny, forwards):
    modes = []

    def note(module, args):
        if hasattr(module, "architecture"):
            modes.append((module.training, any(part.training for part in module.modules())))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    train_tiny(**settings)
    handle.remove()
    epoch = [(True, True)] * STEPS + [(False, False)] * VAL_BATCHES
    assert modes == epoch * 2
    assert [logits.requires_grad for _, _, logits in forwards] == [training for training, _ in modes]


def test_figures_are_averages_over_pictures(train_tiny, forwards):
    """Also where the last batch is smaller; and validation figures are those of the network that is kept."""
    run = train_tiny(epochs=1, lr=0.3)
    dataset = open_data("digits", limit_per_class=6)
    labels = torch.from_numpy(dataset.train.labels[EpochBatches(50, 16, seed=0).order()])
    logits = [logits.detach() for _, _, logits in forwards[:STEPS]]
    assert [len(part) for part in logits] == [16, 16, 16, 2]
    (row,) = run.history
    assert row["train_loss"] == pytest.approx(F.cross_entropy(torch.cat(logits), labels).item(), rel=1e-5)
    assert row["train_accuracy"] == (torch.cat(logits).argmax(1) == labels).sum().item() / 50
    over_batches = [(part.argmax(1) == own).float().mean() for part, own in zip(logits, labels.split(16), strict=True)]
    assert abs(np.mean(over_batches) - row["train_accuracy"]) > 0.005, "the sample does not tell the two apart"

    kept = run.classifier()
    assert dataset.val is not None
    pixels = [kept.preprocessing(dataset.val.read(i)) for i in range(len(dataset.val))]
    with torch.inference_mode():
        answers = kept.network.eval()(torch.stack(pixels))
    truth = torch.from_numpy(dataset.val.labels)
    assert row["val_loss"] == pytest.approx(F.cross_entropy(answers, truth).item(), rel=1e-5)
    assert row["val_accuracy"] == (answers.argmax(1) == truth).double().mean().item()


def test_training_learns(train_tiny):
    run = train_tiny(limit_per_class=20, epochs=4, lr=0.5)
    assert run.history[-1]["train_accuracy"] > 0.5 > run.history[0]["train_accuracy"]
    assert run.history[-1]["val_loss"] < run.history[0]["val_loss"]


@pytest.mark.parametrize("parts", [2, 3, 16], ids=["even", "uneven", "one_picture_each"])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="plain"),
        pytest.param({"label_smoothing": 0.1, "clip": 0.1}, id="smooth_and_clipped"),
        pytest.param({"mixup": 0.4}, id="mixup"),
        pytest.param({"class_balance": "loss"}, id="class_weights"),
    ],
)
def test_a_step_in_parts_is_the_same_step(settings, parts, make_job, make_folder):
    data = make_folder({"train/few": 5, "train/many": 18, "val/few": 1, "val/many": 1})
    results = []
    for accumulate in (1, parts):
        job = make_job(
            f"run-{accumulate}", data=str(data), limit_per_class=None, accumulate=accumulate, lr=0.1, **settings
        )
        job.state.network.eval()  # batch norm would look at each part by itself
        job.state.optimizer.param_groups[0]["lr"] = 0.1
        totals = train_step(job, next(iter(job.loader)))
        results.append((totals, list(job.state.network.parameters())))
    (totals, whole), (totals_in_parts, in_parts) = results
    torch.testing.assert_close(totals_in_parts, totals, rtol=1e-5, atol=1e-5)
    for actual, expected in zip(in_parts, whole, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_out_of_memory_splits_the_batch_and_goes_on(kind, make_job, screen):
    def no_room(network, args):
        if len(args[0]) > 4 and kind == "cpu":
            torch.empty(10**15)  # more than any machine has
        if len(args[0]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    job, twin = make_job("job", lr=0.1), make_job("twin", lr=0.1, accumulate=4)
    job.state.network.register_forward_pre_hook(no_room)
    train_epoch(job, Interruption())
    train_epoch(twin, Interruption())
    progress = job.state.progress
    assert (progress.pictures, progress.step, progress.accumulate) == (50, STEPS, 4)
    assert (progress.loss_sum, progress.correct) == (twin.state.progress.loss_sum, twin.state.progress.correct)
    for actual, expected in zip(weights_of(job.state.network), weights_of(twin.state.network), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    text = screen.console.export_text()
    assert "out of memory with 16 pictures at once: every batch now goes through in 2 parts of 8" in text
    assert "out of memory with 8 pictures at once: every batch now goes through in 4 parts of 4" in text


def test_no_part_is_a_single_picture(make_job):
    """From which batch norm could not learn, at the end of a network that leaves one position."""
    job, sizes = make_job(lr=0.1, accumulate=4), []
    job.state.network.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    batch = next(iter(job.loader))
    for count in (9, 5, 3, 2):
        train_step(job, batch._replace(pictures=batch.pictures[:count], labels=batch.labels[:count]))
    assert sizes == [2, 2, 2, 3, 2, 3, 3, 2]


def test_no_room_for_one_picture_and_other_faults_are_not_hidden(make_job):
    job = make_job(lr=0.1)
    handle = job.state.network.register_forward_pre_hook(lambda *_: torch.empty(10**15))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        train_epoch(job, Interruption())
    handle.remove()
    job.state.network.register_forward_pre_hook(lambda *_: torch.ones(2) @ torch.ones(3))
    before = job.state.progress.accumulate
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        train_epoch(job, Interruption())
    assert job.state.progress.accumulate == before


def test_loss_that_explodes_is_an_error_and_the_last_good_state_is_kept(make_job):
    job = make_job(lr=0.1, schedule="constant")
    train_epoch(job, Interruption())
    finish_epoch(job)
    files = {path: path.read_bytes() for path in job.run.path.rglob("*") if path.is_file()}
    job.settings = job.settings.model_copy(update={"lr": 1e30})
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in epoch 2, step \d: .* the state before epoch 2"):
        run_epochs(job)
    assert {path: path.read_bytes() for path in job.run.path.rglob("*") if path.is_file()} == files
    assert all(value.isfinite().all() for value in weights_of(load_classifier(job.run.path).network))


def test_a_network_that_answers_nothing_is_not_kept(make_job):
    """The last step of an epoch can explode: its loss is from before, but not the validation's."""
    job = make_job(lr=0.1)
    train_epoch(job, Interruption())
    next(job.state.network.parameters()).data.fill_(math.nan)
    with pytest.raises(DivergenceError, match="the validation loss is nan after epoch 1: try a lower --lr than"):
        finish_epoch(job)
    assert not (job.run.path / "model.safetensors").exists()
    assert not job.state.progress.history


def test_explosion_in_the_first_epoch(train_tiny, tmp_path):
    with pytest.raises(TrainingError, match=r"try a lower --lr than 1e\+30, or --clip 1$"):
        train_tiny(lr=1e30)
    assert not (tmp_path / "run").exists()  # so that the lower rate may go there


def set_answer(job, label, strength):
    """Make the network answer ``label`` to every picture; the greater ``strength``, the surer."""
    linear = job.state.network.classifier
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.copy_(torch.tensor([strength if i == label else -strength for i in range(2)]))


@pytest.fixture
def lopsided(make_folder, make_job):
    """A job whose validation pictures are three "a" and one "b"."""
    data = make_folder({"train/a": 8, "train/b": 8, "val/a": 3, "val/b": 1})
    return lambda **settings: make_job(data=str(data), limit_per_class=None, lr=0.1, **settings)


def test_the_best_epoch_has_the_best_accuracy_then_the_lowest_loss(lopsided):
    job = lopsided(epochs=6)
    answers = [(1, 0.01), (0, 5.0), (0, 1.0), (0, 5.0), (1, 0.01), (0, 1.0)]
    best = []
    for label, strength in answers:
        set_answer(job, label, strength)
        finish_epoch(job)
        best.append(job.state.progress.best_epoch)
    assert best == [1, 2, 3, 3, 3, 3]
    accuracies = [row["val_accuracy"] for row in job.state.progress.history]
    assert accuracies == [0.25, 0.75, 0.75, 0.75, 0.25, 0.75]
    kept = load_classifier(job.run.path)
    torch.testing.assert_close(kept.network.classifier.bias.detach(), torch.tensor([1.0, -1.0]))
    assert kept.record["trained"]["epoch"] == 3
    assert kept.record["trained"]["val_accuracy"] == 0.75


def test_early_stopping_waits_for_its_patience_and_no_longer(lopsided, screen):
    job = lopsided(epochs=50, early_stopping=2)
    for strength in (1.0, 2.0):
        set_answer(job, 0, strength)
        finish_epoch(job)
    set_answer(job, 1, 50.0)
    job.settings = job.settings.model_copy(update={"lr": 1e-30})  # what comes is no better
    run_epochs(job)
    assert (job.state.progress.epoch, job.state.progress.best_epoch) == (3, 1)
    assert "no better validation accuracy in 2 epochs: stopped early after epoch 3" in screen.console.export_text()


def test_without_validation_the_last_epoch_is_kept(train_tiny):
    run = train_tiny(val_fraction=0)
    assert run.best_epoch == 2
    assert [(row["val_loss"], row["val_accuracy"]) for row in run.history] == [(None, None)] * 2
    assert run.classifier().record["trained"]["epoch"] == 2
