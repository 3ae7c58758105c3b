"""The loop computes what a loop of plain PyTorch, written out here, computes, to the last bit."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from densekit.data.batches import EpochBatches
from densekit.data.datasets import open_data
from densekit.data.loaders import make_loader
from densekit.data.preprocessing import Preprocessing
from densekit.data.transforms import mix_batch
from densekit.models.catalogue import create_model
from densekit.training.interruption import Interruption
from densekit.training.loop import train_epoch

EPOCHS, BATCH, STEPS = 2, 16, 4  # 50 pictures: batches of 16, 16, 16 and 2


def same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


def digits():
    return open_data("digits", limit_per_class=6)


def plain_batches(train_set, epoch):
    values = np.asarray(train_set.pictures) / 255
    plain = Preprocessing(channels=1, size=(8, 8), mean=(float(values.mean()),), std=(float(values.std()),))
    batches = EpochBatches(len(train_set), BATCH, seed=0)
    batches.set_epoch(epoch)
    return make_loader(train_set, plain, batches, workers=0)


def plain_network(options):
    torch.manual_seed(0)
    return create_model("densenet40_k12_cifar", num_classes=10, in_channels=1, **options)


def plain_loop(options, new_optimizer, rate, *, epochs=1, loss=F.cross_entropy, clip=None, decay=None, layout=None):
    """``rate`` is the learning rate as a function of the epochs done; ``decay`` that of an average of the weights."""
    network = plain_network(options).to(memory_format=layout or torch.contiguous_format)
    optimizer = new_optimizer(network.parameters())
    average = None
    for epoch in range(epochs):
        network.train()
        for step, (pictures, labels, *_) in enumerate(plain_batches(digits().train, epoch)):
            optimizer.param_groups[0]["lr"] = rate(epoch + (step + 0.5) / STEPS)
            optimizer.zero_grad()
            loss(network(pictures.to(memory_format=layout or torch.contiguous_format)), labels).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
            optimizer.step()
            weights = {name: value.clone() for name, value in network.state_dict().items()}
            if average is None or decay is None:
                average = weights
            for name, value in average.items():
                if value.is_floating_point() and decay is not None:
                    average[name] = decay * value + (1 - decay) * weights[name]
    return network.state_dict(), average


def one_cycle(done):  # of two epochs, up during the first 0.4
    return done / 0.4 if done < 0.4 else (2 - done) / 1.6


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.0, momentum=0.9, nesterov=True, weight_decay=5e-4)


def test_training_with_sgd_and_one_cycle(train_tiny, tiny):
    run = train_tiny(lr=0.1, fused=False, channels_last=False, val_fraction=0.1)
    expected, _ = plain_loop(tiny["model_options"], sgd, lambda done: 0.1 * one_cycle(done), epochs=EPOCHS)
    stored = load_file(run.folder / "checkpoints" / "last.safetensors")
    same({k.removeprefix("network."): v for k, v in stored.items() if k.startswith("network.")}, expected)
    assert run.history[-1]["lr"] == pytest.approx(0.1 * one_cycle(2 - 0.5 / STEPS))


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        pytest.param({}, {}, id="sgd"),
        pytest.param({"channels_last": True}, {"layout": torch.channels_last}, id="channels_last"),
        pytest.param(
            {"momentum": 0.5, "nesterov": False, "weight_decay": 0.01},
            {"new_optimizer": lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.5, weight_decay=0.01)},
            id="sgd_without_nesterov",
        ),
        pytest.param(
            {"momentum": 0.0}, {"new_optimizer": lambda p: torch.optim.SGD(p, weight_decay=5e-4)}, id="no_momentum"
        ),
        pytest.param(
            {"optimizer": "adam", "lr": 0.01, "weight_decay": 1e-3},
            {"new_optimizer": lambda p: torch.optim.Adam(p, weight_decay=1e-3), "rate": lambda _: 0.01},
            id="adam",
        ),
        pytest.param(
            {"optimizer": "adamw", "lr": 0.01},
            {"new_optimizer": lambda p: torch.optim.AdamW(p, weight_decay=0.05), "rate": lambda _: 0.01},
            id="adamw",
        ),
        pytest.param(
            {"label_smoothing": 0.1},
            {"loss": lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=0.1)},
            id="label_smoothing",
        ),
        pytest.param({"clip": 0.3}, {"clip": 0.3}, id="clip"),
        pytest.param(
            {"schedule": "cosine"}, {"rate": lambda done: 0.1 * (1 + np.cos(np.pi * done / 2)) / 2}, id="cosine"
        ),
    ],
)
def test_an_epoch(settings, plain, make_job, tiny):
    job = make_job(**{"lr": 0.1, "schedule": "constant", "channels_last": False, "fused": False, **settings})
    train_epoch(job, Interruption())
    defaults = {"new_optimizer": sgd, "rate": lambda _: 0.1}
    expected, _ = plain_loop(tiny["model_options"], **{**defaults, **plain})
    same(job.state.network.state_dict(), expected)


def test_average_of_the_weights(make_job, tiny):
    job = make_job(lr=0.1, schedule="constant", channels_last=False, fused=False, ema=0.8)
    train_epoch(job, Interruption())
    last, average = plain_loop(tiny["model_options"], sgd, lambda _: 0.1, decay=0.8)
    assert average is not None
    same(job.state.network.state_dict(), last)
    kept = job.state.result.state_dict()
    for name, expected in average.items():
        if expected.is_floating_point():  # not the counters of batch norm
            torch.testing.assert_close(kept[name], expected, rtol=1e-5, atol=1e-6)


def test_the_average_is_what_is_kept(train_tiny):
    run = train_tiny(ema=0.8, fused=False, val_fraction=0, epochs=1)
    stored = load_file(run.folder / "checkpoints" / "last.safetensors")
    prefix = "average.module."
    same(run.classifier().network.state_dict(), {k.removeprefix(prefix): v for k, v in stored.items() if prefix in k})


def rare_class(make_folder):
    return {"data": str(make_folder({"train/many": 30, "train/few": 6, "val/many": 2, "val/few": 2}))}


def test_weights_of_the_loss_make_up_for_rare_classes(make_job, make_folder):
    job = make_job(
        **rare_class(make_folder), class_balance="loss", limit_per_class=None, lr=0.1, fused=False, schedule="constant"
    )
    twin = copy.deepcopy(job.state.network)
    optimizer = sgd(twin.parameters())
    optimizer.param_groups[0]["lr"] = 0.1
    job.batches.set_epoch(0)
    weights = torch.tensor([36 / (2 * 6), 36 / (2 * 30)])  # few, many: scikit-learn's rule "balanced"
    for batch in job.loader:
        losses = F.cross_entropy(twin(batch.pictures), batch.labels, reduction="none")
        share = weights[batch.labels]
        ((losses * share).sum() / share.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    train_epoch(job, Interruption())
    for actual, expected in zip(job.state.network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_sampler_draws_classes_equally_often(make_job, make_folder):
    job = make_job(**rare_class(make_folder), class_balance="sampler", limit_per_class=None)
    drawn = np.zeros(2)
    for epoch in range(30):
        job.batches.set_epoch(epoch)
        drawn += np.bincount(np.concatenate([batch.labels for batch in job.loader]), minlength=2)
    assert drawn.sum() == 30 * 36
    assert drawn[0] / drawn.sum() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / drawn.sum()))


def test_every_step_and_every_seed_mixes_otherwise(make_job):
    job = make_job(mixup=0.4, seed=1, lr=0.1, batch_size=BATCH)
    expected = [
        mix_batch(batch.pictures, batch.labels, 10, job.settings, seed=1, epoch=0, step=step)[0]
        for step, batch in enumerate(job.loader)
    ]
    seen = []
    job.state.network.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    train_epoch(job, Interruption())
    for actual, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=0)


def test_augmentation_follows_the_seed(make_job):
    """At the same places of an epoch other pictures are mirrored."""

    def mirrored(seed):
        job = make_job(out=f"seed{seed}", flip=True, seed=seed, lr=0.1, limit_per_class=None, epochs=1)
        preprocessing = job.classifier.preprocessing
        (pictures, _, numbers, _), *_ = job.loader
        return [
            not torch.equal(one, preprocessing(job.loader.dataset.pictures.read(int(number))))
            for one, number in zip(pictures, numbers, strict=True)
        ]

    first, second = mirrored(0), mirrored(1)
    assert 0 < sum(first) < len(first)
    assert first != second


def test_crop_is_what_is_trained_on(make_job, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "wide" / name).mkdir(parents=True)
        for number in range(6):
            noise = np.random.default_rng(number).integers(0, 256, (8, 24), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "wide" / name / f"{number}.png")
    job = make_job(data=str(tmp_path / "wide"), limit_per_class=None, resize="crop", size=8, mean=(0.0,), std=(1.0,))
    assert job.classifier.preprocessing.resize == "crop"  # and so in model.json
    for pictures, _, numbers, _ in job.loader:
        for one, number in zip(pictures, numbers, strict=True):
            whole = np.asarray(job.loader.dataset.pictures.read(int(number)))
            np.testing.assert_allclose(one[0], whole[:, 8:16] / 255, atol=1e-6)
