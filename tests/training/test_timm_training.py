"""A run with one of timm's networks, from training to a second run that starts from it."""

import numpy as np
import pytest
import torch

from densekit.errors import SettingsError
from densekit.evaluation.evaluate import evaluate
from densekit.loading import load_classifier
from densekit.models.weights import load_model
from densekit.training.train import train

QUICK = {"epochs": 1, "device": "cpu", "precision": "fp32", "workers": 0, "tensorboard": False}


def test_a_vision_transformer_takes_the_size_of_the_pictures(colours, tmp_path):
    options = {"depth": 1, "patch_size": 4}
    run = train(colours, model="timm:deit_tiny_patch16_224", model_options=options, out=tmp_path / "run", **QUICK)
    classifier = load_classifier(run.folder)
    assert classifier.network.patch_embed.img_size == (12, 12)
    figures = evaluate(run.folder).metrics
    right = [p.label == f.parent.name for f in (colours / "test").glob("*/*.png") for p in classifier.predict(f)]
    assert figures.accuracy == pytest.approx(np.mean(right))


def test_the_head_learns_alone_and_other_classes_get_a_new_one(colours, paint, tmp_path):
    first = train(colours, model="timm:resnet10t", out=tmp_path / "first", size=32, **QUICK)
    for name in ("red", "grün"):
        paint(tmp_path / "two" / name, name, 9)
    second = train(tmp_path / "two", weights=str(first.folder), freeze_epochs=1, out=tmp_path / "second", **QUICK)
    (before, _), (after, _) = load_model(first.folder), load_model(second.folder)
    new = dict(after.named_parameters())
    assert new["fc.weight"].shape == (2, 512)
    for name, value in before.named_parameters():
        if not name.startswith("fc."):
            torch.testing.assert_close(new[name], value, atol=0, rtol=0)


def test_pictures_that_the_network_cannot_take_are_told_before_anything_is_made(colours, tmp_path):
    message = r"timm:inception_v4 cannot take pictures of 12x12 \(.+\): choose --size 299"
    with pytest.raises(SettingsError, match=message):
        train(colours, model="timm:inception_v4", out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()
