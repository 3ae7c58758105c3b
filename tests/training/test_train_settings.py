import pytest
import yaml

from densekit.data.datasets import open_data
from densekit.errors import CheckpointError, SettingsError, UnknownNameError
from densekit.training.resolve import resolve
from densekit.training.settings import (
    TrainSettings,
    list_recipes,
    load_recipe,
    make_settings,
    read_settings,
)
from densekit.training.train import train

# one value other than the default for every setting, the awkward ones of YAML among them
VALUES = {
    "data": "no: #1 'Käfer'",
    "data_root": "~",
    "val_fraction": 0.05,
    "test_fraction": 1e-05,
    "fold": "2/5",
    "limit_per_class": 7,
    "limit_test_per_class": 3,
    "strict": True,
    "seed": 123456789012,
    "crop_padding": 4,
    "flip": True,
    "vertical_flip": True,
    "rotation": 12.5,
    "random_resized_crop": True,
    "crop_scale": (1e-05, 0.5),
    "trivial_augment": True,
    "random_erasing": 0.25,
    "mixup": 0.2,
    "cutmix": 1.0,
    "model": "densenet121",
    "model_options": {"growth_rate": [8, 16], "bn_size": None, "activation": "leaky_relu", "drop_rate": 1e-05},
    "weights": "hf-hub:owner/name",
    "freeze_epochs": 2,
    "backbone_lr_factor": 0.1,
    "freeze_bn": True,
    "size": (28, 32),
    "channels": 1,
    "resize": "crop",
    "mean": (0.1, 1e-07, 1 / 3),
    "std": (0.1, 2.5e-07, 2 / 3),
    "epochs": 3,
    "batch_size": 100,
    "accumulate": 4,
    "optimizer": "adamw",
    "lr": 1e-05,
    "momentum": 0.0,
    "nesterov": False,
    "weight_decay": 1e-10,
    "schedule": "multistep",
    "warmup": 0.5,
    "step_every": 2,
    "milestones": (0.3, 0.6, 0.9),
    "gamma": 0.31622776601683794,
    "label_smoothing": 0.1,
    "ema": 0.9999,
    "clip": 1.0,
    "class_balance": "sampler",
    "thresholds": "f1",
    "early_stopping": 5,
    "device": "cuda:1",
    "precision": "bf16",
    "channels_last": False,
    "compile": True,
    "fused": False,
    "deterministic": True,
    "workers": 2,
    "memory_gib": 0.0,
    "log_every": 1,
    "tensorboard": False,
}
PARTNERS = {"mean": ("std",), "std": ("mean",)}
PARTNERS |= dict.fromkeys(("freeze_epochs", "backbone_lr_factor", "freeze_bn"), ("weights",))


@pytest.fixture
def read_back(tmp_path):
    def there_and_back(settings):
        (tmp_path / "settings.yaml").write_text(settings.to_yaml(), encoding="utf-8")
        return read_settings(tmp_path / "settings.yaml")

    return there_and_back


def test_every_setting_has_a_sample():
    assert set(VALUES) == set(TrainSettings.model_fields)


@pytest.mark.parametrize("name", VALUES)
def test_every_setting_survives_yaml(name, read_back):
    settings = make_settings(**{field: VALUES[field] for field in (name, *PARTNERS.get(name, ()))})
    default = TrainSettings.model_fields[name].get_default(call_default_factory=True)
    assert getattr(settings, name) == VALUES[name] != default
    assert read_back(settings) == settings


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="all_defaults_and_nones"),
        pytest.param({"size": 96, "lr": "auto", "workers": "auto"}, id="other_kind_of_a_union"),
        pytest.param({"data": "2024", "model": "null"}, id="text_that_looks_like_another_type"),
        pytest.param({"data": "a\nb", "device": "on"}, id="line_break_and_yaml_bool"),
        pytest.param({"mean": (0.5,), "std": (0.5,)}, id="tuple_of_one"),
        pytest.param({"milestones": ()}, id="empty_tuple"),
    ],
)
def test_more_values_survive_yaml(values, read_back):
    settings = make_settings(**values)
    assert read_back(settings) == settings


def test_every_setting_in_yaml_stands_below_its_description():
    text = make_settings(epochs=7).to_yaml()
    assert "# passes over the training pictures\nepochs: 7\n" in text
    assert set(yaml.safe_load(text)) == set(TrainSettings.model_fields)


def test_given_settings_win_over_the_recipe_and_that_over_the_defaults(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("epochs: 7\nbatch_size: 32\nlr: 1e-5\n")  # hand-written 1e-5 is text to YAML 1.1
    settings = make_settings(str(recipe), batch_size=8)
    assert (settings.epochs, settings.batch_size, settings.lr) == (7, 8, 1e-05)
    assert settings == make_settings(epochs=7, batch_size=8, lr=1e-05)
    assert make_settings("digits", epochs=1) == make_settings(**{**load_recipe("digits"), "epochs": 1})


@pytest.mark.parametrize(
    ("optimizer", "lr", "weight_decay"), [("sgd", 0.1, 5e-4), ("adam", 1e-3, 0.0), ("adamw", 1e-3, 0.05)]
)
def test_optimizers_bring_their_usual_rates_unless_one_is_given(optimizer, lr, weight_decay):
    chosen = make_settings(optimizer=optimizer).with_optimizer_defaults()
    assert (chosen.lr, chosen.weight_decay) == (lr, weight_decay)
    given = make_settings(optimizer=optimizer, lr=0.7, weight_decay=0.0).with_optimizer_defaults()
    assert (given.lr, given.weight_decay) == (0.7, 0.0)
    assert make_settings(optimizer=optimizer, lr="auto").with_optimizer_defaults().lr == "auto"


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        ("densenet12_wide_cifar", "sgd"),
        ("resnet14_cifar", "sgd"),
        ("simple_cnn", "adam"),
        ("timm:vit_tiny_patch16_224", "adamw"),
        ("timm:resnet10t", "sgd"),
    ],
)
def test_networks_bring_their_usual_optimizer_unless_one_is_given(model, optimizer):
    dataset = open_data("digits", limit_per_class=2)
    chosen, _ = resolve(make_settings(model=model, size=32), dataset)
    assert (chosen.optimizer, chosen.lr) == (optimizer, 0.1 if optimizer == "sgd" else 0.001)
    for given in ("sgd", "adam"):
        assert resolve(make_settings(model=model, size=32, optimizer=given), dataset)[0].optimizer == given


def test_pictures_must_be_named(tmp_path):
    for nothing in ({}, {"recipe": "finetune"}):
        with pytest.raises(SettingsError, match="no pictures named: give a folder, a table, or a name such as digits"):
            train(out=tmp_path / "run", **nothing)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("0.5", 0.5),
        (".5", 0.5),
        ("[1, 1]", [1, 1]),
        ("true", True),
        ("null", None),
        ("leaky_relu", "leaky_relu"),
        ('"8"', "8"),
        ("[1, 1", "[1, 1"),
    ],
)
def test_model_options_come_as_text_from_the_command_line(text, value):
    assert make_settings(model_options={"growth-rate": text}).model_options == {"growth_rate": value}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"epoch": 3}, "unknown setting 'epoch'; did you mean: epochs?", id="unknown_near"),
        pytest.param({"zzz": 3}, "unknown setting 'zzz'", id="unknown_far"),
        pytest.param({"learning_rate": 3}, "unknown setting 'learning_rate'; here it is lr", id="name_of_others"),
        pytest.param({"epochs": 0}, "epochs=0: .*greater than 0", id="no_epochs"),
        pytest.param({"batch_size": 1}, "batch_size=1: .*at least 2|batch_size=1: .*equal to 2", id="batch_of_one"),
        pytest.param({"lr": -0.1}, "lr=-0.1: .*greater than 0", id="negative_rate"),
        pytest.param({"lr": float("nan")}, "lr=nan", id="rate_is_no_number"),
        pytest.param({"momentum": 1}, "momentum=1: .*less than 1", id="momentum_of_one"),
        pytest.param({"ema": 1.0}, "ema=1.0: .*less than 1", id="average_that_never_moves"),
        pytest.param({"precision": "fp8"}, "precision='fp8': .*'bf16'", id="unknown_precision"),
        pytest.param({"optimizer": "sdg"}, "optimizer='sdg': .*'sgd'", id="unknown_optimizer"),
        pytest.param({"size": "big"}, "size='big'", id="size_in_words"),
        pytest.param({"val_fraction": 1.0}, "val_fraction=1.0: .*less than 1", id="nothing_left_to_train_on"),
        pytest.param({"class_balance": "loss", "mixup": 0.2}, "class_balance=sampler", id="weights_and_mixup"),
        pytest.param({"class_balance": "loss", "cutmix": 1.0}, "class_balance=sampler", id="weights_and_cutmix"),
        pytest.param({"mean": (0.5,)}, "give both or neither", id="mean_without_std"),
        pytest.param({"std": (0.5,)}, "give both or neither", id="std_without_mean"),
        pytest.param({"warmup": 20}, "warmup=20.0 epochs leaves nothing of 20", id="all_warm_up"),
        pytest.param({"crop_padding": 4, "random_resized_crop": True}, "use one of the two", id="two_crops"),
        pytest.param({"crop_scale": (0.5, 0.2)}, "crop_scale=", id="crop_scale_backwards"),
        pytest.param({"weight_decay": float("inf")}, "weight_decay=inf: .*finite", id="endless_decay"),
        pytest.param({"mixup": float("inf")}, "mixup=inf: .*finite", id="endless_mixup"),
        pytest.param({"mean": (float("nan"),), "std": (1.0,)}, "mean=.*finite", id="mean_is_no_number"),
        pytest.param({"memory_gib": float("inf")}, "memory_gib=inf: .*finite", id="endless_memory"),
        pytest.param({"seed": 10**26}, "seed=1", id="seed_too_long"),
        pytest.param({"size": 1_000_000}, "size=1000000: .*16384", id="size_too_large"),
        pytest.param({"model_options": {"num-classes": "3"}}, "num_classes follows from the pictures", id="classes"),
    ],
)
def test_settings_that_cannot_work_are_told_in_one_line(values, message, tmp_path):
    with pytest.raises(SettingsError, match=message) as caught:
        make_settings(**values)
    assert "\n" not in str(caught.value)
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(SettingsError):
        make_settings(str(tmp_path / "recipe.yaml"))


def test_unknown_recipe_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown recipe 'digit'; did you mean: digits"):
        make_settings("digit")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("- epochs", "does not contain settings", id="list"),
        pytest.param("", "does not contain settings", id="empty"),
        pytest.param("a: [1", "is not valid YAML", id="not_yaml"),
        pytest.param(b"\xff\xfe\x00", "is not valid YAML", id="not_text"),
        pytest.param(None, "cannot read", id="missing"),
    ],
)
def test_files_that_hold_no_settings(text, message, tmp_path):
    path = tmp_path / "settings.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError, match=message) as caught:
        make_settings(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=message):
        read_settings(path)


def test_settings_of_a_run_that_cannot_be_right(tmp_path):
    (tmp_path / "settings.yaml").write_text("epochs: many\n")
    with pytest.raises(CheckpointError, match="does not hold the settings of a run: epochs='many'"):
        read_settings(tmp_path / "settings.yaml")


def test_there_are_recipes():
    assert "digits" in list_recipes()


@pytest.mark.parametrize(("text", "size"), [("96", 96), ("28x32", (28, 32))])
def test_size_as_people_write_it(text, size):
    assert make_settings(size=text).size == size
