"""The folder for timm, opened and used by timm itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from densekit.data.preprocessing import Preprocessing
from densekit.errors import CheckpointError, SettingsError
from densekit.export.targets import Options
from densekit.export.to_timm import write_timm
from densekit.runtimes.exported import open_exported

SMALL = {"block_config": [2, 1], "growth_rate": 8, "num_init_features": 16}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("densenet121", SMALL),
        ("densenet264", {**SMALL, "bn_size": 2, "activation": "leaky_relu", "drop_rate": 0.2}),
        ("densenet161", {}),
        ("densenet121", {**SMALL, "activation": "tanh", "memory_efficient": True}),
    ],
)
@torch.no_grad()
def test_timm_computes_the_logits(name, options, make, tmp_path):
    ours = make(name, **options)
    file = write_timm(ours, tmp_path, Options())
    theirs = open_exported(tmp_path, {"target": "timm", "file": file.name})
    pictures = torch.randn(2, 3, 37, 45)
    torch.testing.assert_close(theirs(pictures), ours.network(pictures), atol=1e-5, rtol=1e-5)
    layer = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).features.denseblock1.denselayer1
    assert layer.drop_rate == options.get("drop_rate", 0.0)  # for those who train on with it


@torch.no_grad()
def test_a_network_of_timms_own(make, tmp_path):
    ours = make("timm:deit_tiny_distilled_patch16_224", size=(32, 48), in_channels=1, img_size=(32, 48), depth=1)
    write_timm(ours, tmp_path, Options())
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    pictures = torch.randn(2, 1, 32, 48)
    torch.testing.assert_close(theirs(pictures), ours.network(pictures), atol=1e-5, rtol=1e-5)
    assert list(theirs.pretrained_cfg["classifier"]) == ["head", "head_dist"]
    assert theirs.pretrained_cfg["fixed_input_size"]


def test_no_other_file_of_the_folder_is_read(make, tmp_path):
    """timm would take pytorch_model.bin, a pickle, which some of its versions let run code."""
    file = write_timm(make("densenet121", **SMALL), tmp_path, Options())
    torch.save({}, tmp_path / "pytorch_model.bin")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*model\.safetensors"):
        open_exported(tmp_path, {"target": "timm", "file": "model.safetensors"})


def test_a_configuration_cannot_make_timm_read_files(make, tmp_path):
    file = write_timm(make("densenet121", **SMALL), tmp_path, Options())
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["model_args"]["checkpoint_path"] = "weights.bin"
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="timm:densenet121 has no option 'checkpoint_path'"):
        open_exported(tmp_path, {"target": "timm", "file": file.name})


@torch.no_grad()
def test_grey_pictures(make, tmp_path):
    ours = make("densenet121", in_channels=1, **SMALL)
    write_timm(ours, tmp_path, Options())
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    pictures = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(theirs(pictures), ours.network(pictures), atol=1e-5, rtol=1e-5)
    assert theirs.pretrained_cfg["input_size"] == (1, 32, 32)


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(size=(40, 33), mean=(0.4,), std=(0.2,)),
        Preprocessing(size=(35, 35), resize="crop", crop_fraction=0.875, interpolation="bicubic", mean=(0.1, 0.2, 0.3)),
        *(Preprocessing(size=(35, 35), resize="crop", crop_fraction=fraction) for fraction in (1.0, 0.9, 0.8, 0.77)),
    ],
    ids=["squash", "crop", "crop_of_all", "crop_0.9", "crop_0.8", "crop_0.77"],
)
def test_timms_own_transform_sees_what_ours_sees(preprocessing, make, tmp_path):
    write_timm(replace(make("densenet121", **SMALL), preprocessing=preprocessing), tmp_path, Options())
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=theirs))
    smooth = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(smooth).resize((71, 53), Image.Resampling.BICUBIC)
    step = 1.01 / 255 / preprocessing.std[0]  # Pillow and torchvision round a resampled byte differently at times
    torch.testing.assert_close(transform(picture), preprocessing(picture), atol=step, rtol=0)


def test_class_names_travel(make, tmp_path):
    write_timm(
        replace(make("densenet121", **SMALL), classes=("deep blue", "grün", "red", "white")), tmp_path, Options()
    )
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert theirs.pretrained_cfg["label_names"] == ["deep blue", "grün", "red", "white"]


@pytest.mark.parametrize(
    ("name", "options", "lacks"),
    [
        ("densenet_bc100_k12_cifar", {"block_config": [1, 1]}, "stem='cifar'"),
        ("densenet121", {**SMALL, "num_init_features": 8}, r"num_init_features=8 \(growth_rate=8 makes it 16\)"),
        ("densenet121", {**SMALL, "growth_rate": [8, 8]}, "a growth rate for each block"),
        ("densenet_plain_4_4_4_4", {}, r"plain layers \(bn_size=None\)"),
        ("se_densenet121", SMALL, "se_reduction=16"),
        ("densenet121", {**SMALL, "activation": "prelu"}, "activation='prelu' with PyTorch's keys"),
        ("densenet121", {**SMALL, "groups": 2, "pooling": "max"}, "groups=2, pooling='max'"),
    ],
)
def test_what_timm_cannot_build_is_refused(name, options, lacks, make, tmp_path):
    with pytest.raises(SettingsError, match=f"^timm's DenseNet does not have {lacks}: export it to another target$"):
        write_timm(make(name, **options), tmp_path, Options())
    assert not list(tmp_path.iterdir())


def test_other_networks_are_refused(make, tmp_path):
    with pytest.raises(
        SettingsError, match=r"^timm takes densekit's DenseNets of pictures, not this simple_cnn: export it to onnx"
    ):
        write_timm(make("simple_cnn"), tmp_path, Options())
