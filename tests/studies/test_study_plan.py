import pytest
import torch

from densekit.errors import SettingsError, UnknownNameError
from densekit.models.catalogue import create_model
from densekit.studies.named_studies import NAMED_STUDIES, named_study
from densekit.studies.plan import Plan, make_plan, parse_choices, read_plan, vary
from densekit.training.settings import TrainSettings

BASE = TrainSettings(model="densenet121")


def test_combinations_of_settings_and_options():
    variants = vary({"growth-rate": [8, 16], "lr": [0.1, 0.2]}, BASE)
    assert list(variants) == [f"growth_rate={k}, lr={lr}" for k in (8, 16) for lr in (0.1, 0.2)]
    assert variants["growth_rate=16, lr=0.2"] == {"lr": 0.2, "model_options": {"growth_rate": 16}}


def test_runs_change_only_what_their_variant_says():
    settings = {"seed": 5, "model": "densenet121", "model_options": {"groups": 2}, "epochs": 3}
    plan = Plan(settings=settings, variants=vary({"growth_rate": [8, 16]}, BASE), seeds=2)
    runs = list(plan.runs())
    assert [(run.variant, run.seed) for run in runs] == [(f"growth_rate={k}", seed) for seed in (5, 6) for k in (8, 16)]
    for run, k in zip(runs, (8, 16, 8, 16), strict=True):
        changed = {"seed": run.seed, "model_options": {"groups": 2, "growth_rate": k}}
        assert run.settings == TrainSettings(**settings).model_copy(update=changed)
    assert len({run.name for run in runs}) == 4


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        pytest.param(
            {"grwth_rate": [1, 2]}, r"unknown setting, or option of densenet121, 'grwth_rate'.*growth_rate", id="typo"
        ),
        pytest.param({"lr": 0.1}, "vary lr=0.1: give a list of values", id="a_number"),
        pytest.param({"optimizer": "sgd"}, "vary optimizer='sgd': give a list of values", id="a_word"),
        pytest.param({"lr": [0.1]}, "vary lr=0.1: give two values or more", id="one_value"),
        pytest.param({"lr": [0.1, 0.10]}, "each once", id="twice"),
        pytest.param({"seed": [0, 1]}, "vary seed: .*; --seeds says", id="seed"),
        pytest.param({"data": ["a", "b"]}, "vary data: ", id="data"),
    ],
)
def test_choices_that_cannot_be_compared(choices, message):
    with pytest.raises((SettingsError, UnknownNameError), match=message):
        vary(choices, BASE)


@pytest.mark.parametrize("text", ["lr", "=1,2", "lr=[1,2", ""])
def test_choices_mistyped(text):
    with pytest.raises(SettingsError, match=r"expected NAME=A,B,C"):
        parse_choices([text])


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a": {"seed": 7}}, "variant 'a' cannot change seed: all are compared on the same pictures"),
        ({"a": {"val_fraction": 0.5}}, "variant 'a' cannot change val_fraction"),
        ({"a": {"model_options": None}}, "variant 'a': model_options must be a mapping"),
        ({"a" * 300: {}}, "has too long a name for a folder"),
        ({"Adam": {}, "adam": {"optimizer": "adam"}}, "variants 'Adam' and 'adam' would share a run folder"),
    ],
    ids=["seed", "pictures", "no_options", "long", "case"],
)
def test_variants_that_could_not_be_compared(variants, message):
    with pytest.raises(SettingsError, match=message):
        make_plan(variants=variants)


def test_impossible_variant_is_named():
    plan = Plan(settings={"epochs": 2}, variants={"good": {}, "bad": {"lr": -1}})
    with pytest.raises(SettingsError, match=r"variant 'bad': lr=-1"):
        list(plan.runs())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("variants: {}", "variants=", id="no_variant"),
        pytest.param("variant: {a: {}}", "unknown setting 'variant'; did you mean: variants", id="typo"),
        pytest.param("variants: {a b: {}, a_b: {}}", "'a b' and 'a_b' would share a run folder", id="same_folder"),
        pytest.param("just words", "does not contain settings", id="words"),
        pytest.param("variants: {a: {}}\nseeds: 0", "seeds=0", id="no_seeds"),
    ],
)
def test_plan_files_that_are_none(text, message, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_plan(path)
    with pytest.raises(SettingsError, match="cannot read"):
        read_plan(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", NAMED_STUDIES)
def test_every_variant_of_a_named_study_is_another_network_or_training(name):
    base = TrainSettings(model="densenet12_wide_cifar")
    plan = make_plan(settings=base.model_dump(), variants=vary(named_study(name, base), base), seeds=1)
    runs = list(plan.runs())
    assert len({run.settings.with_optimizer_defaults().to_yaml() for run in runs}) == len(plan.variants) >= 2
    for run in runs:
        with torch.device("meta"):
            create_model("densenet12_wide_cifar", **run.settings.model_options)


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("densenet121", {}, {"block_config": [[3, 6, 12, 8], [6, 12, 24, 16], [12, 24, 48, 32]]}),
        ("densenet121", {"block_config": [1, 3]}, {"block_config": [[1, 2], [1, 3], [2, 6]]}),
        ("resnet20_cifar", {}, {"layers": [[2, 2, 2], [3, 3, 3], [6, 6, 6]]}),
    ],
    ids=["densenet", "own_blocks", "resnet"],
)
def test_depths_are_half_whole_and_double(model, options, expected):
    assert named_study("depth", TrainSettings(model=model, model_options=options)) == expected


def test_depth_needs_blocks():
    with pytest.raises(SettingsError, match="simple_cnn has no blocks to deepen"):
        named_study("depth", TrainSettings(model="simple_cnn"))
    with pytest.raises(UnknownNameError, match="unknown study 'dept'; did you mean: depth"):
        named_study("dept", BASE)
