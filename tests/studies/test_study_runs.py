import csv
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from densekit.errors import CheckpointError, DataError, SettingsError
from densekit.evaluation.evaluate import evaluate
from densekit.loading import load_classifier
from densekit.models.catalogue import count_parameters, create_model
from densekit.models.weights import save_model
from densekit.studies.results import Result, best_variants, read_results, summarise
from densekit.studies.study import study
from densekit.training.run_folder import RunFolder
from densekit.training.train import train

CHOICES = {"growth_rate": [4, 8]}


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    return study(choices=CHOICES, seeds=2, test=True, out=tmp_path_factory.mktemp("study") / "s", **tiny)


def figures(results):
    return [result.model_dump(exclude={"seconds"}) for result in results]


def test_every_run_is_the_one_that_train_makes(finished, tiny, tmp_path):
    options = {**tiny["model_options"], "growth_rate": 8}
    run = train(out=tmp_path / "run", **{**tiny, "seed": 1, "model_options": options})
    result = finished.results[3]
    assert (result.variant, result.seed) == ("growth_rate=8", 1)
    kept = run.history[run.best_epoch - 1]
    assert (result.val_score, result.val_loss) == (kept["val_accuracy"], kept["val_loss"])


def test_accuracies_are_those_of_the_named_splits(finished):
    for result in finished.results:
        for split in ("val", "test"):
            found = evaluate(finished.folder / result.run, split=split, device="cpu", workers=0)
            assert found.metrics.accuracy == getattr(result, f"{split}_score")


def test_costs_are_those_of_the_trained_network(finished):
    for result in finished.results:
        network = load_classifier(finished.folder / result.run, device="cpu").network
        assert result.parameters == sum(parameter.numel() for parameter in network.parameters())
    # 3x3 stem 1->8 at 8x8, 3x3 8->k; transition 8+k -> itself at 4x4 (pooled first), 3x3 to k; linear
    k = 4
    macs = 64 * 9 * 8 + 64 * 9 * 8 * k + 16 * (8 + k) ** 2 + 16 * 9 * (8 + k) * k + (8 + 2 * k) * 10
    assert finished.results[0].macs == macs


def test_mean_and_sample_deviation(finished):
    for summary, first in zip(finished.summaries(), (0, 1), strict=True):
        values = [finished.results[first].val_score, finished.results[first + 2].val_score]
        np.testing.assert_allclose(summary.val_score.mean, np.mean(values))
        np.testing.assert_allclose(summary.val_score.deviation, np.std(values, ddof=1))


def test_validation_chooses_even_against_the_test_split():
    row = {"seed": 0, "run": "r", "parameters": 1, "macs": 1}
    rows = [
        Result(variant="a", val_score=0.8, test_score=0.1, **row),
        Result(variant="b", val_score=0.7, test_score=0.9, **row),
        Result(variant="c", error="the loss is nan", **row),
    ]
    assert [best.variant for best in best_variants(summarise(rows, "abc"))] == ["a"]


def test_a_variant_that_fails_now_and_then_is_not_the_best():
    row = {"run": "r", "parameters": 1, "macs": 1}
    steady = [Result(variant="a", seed=seed, val_score=0.80, **row) for seed in range(3)]
    lucky = Result(variant="b", seed=0, val_score=0.81, **row)
    failed = [Result(variant="b", seed=seed, error="the loss is nan", **row) for seed in (1, 2)]
    assert [best.variant for best in best_variants(summarise([*steady, lucky, *failed], "ab"))] == ["a"]
    assert [best.variant for best in best_variants(summarise([lucky, *failed], "ab"))] == ["b"]


def test_variants_that_tie_are_all_named():
    row = {"seed": 0, "run": "r", "parameters": 1, "macs": 1}
    rows = [Result(variant=name, val_score=score, **row) for name, score in (("a", 0.7), ("b", 0.8), ("c", 0.8))]
    assert [best.variant for best in best_variants(summarise(rows, "abc"))] == ["b", "c"]
    assert best_variants(summarise([Result(variant="a", error="x", **row)], "a")) == []


def test_variants_start_from_weights_of_another_network(tiny, tmp_path, monkeypatch):
    """The network is that of the weights, as in train, and they are found again from anywhere."""
    network = create_model("resnet14_cifar", num_classes=10, in_channels=1)
    save_model(tmp_path / "weights", network)
    monkeypatch.chdir(tmp_path)
    given = {**tiny, "model": None, "model_options": {}, "weights": "weights"}
    found = study(choices={"lr": [0.05, 0.1]}, seeds=1, out=tmp_path / "s", **given)
    assert found.plan.settings["model"] == "resnet14_cifar"
    assert found.plan.settings["weights"] == str(tmp_path / "weights")
    assert {result.parameters for result in found.results} == {count_parameters(network)}
    record = json.loads((tmp_path / "s" / found.results[0].run / "model.json").read_text())
    assert record["trained"]["weights"] == "weights"  # it may travel: no folders of this computer


def test_files_hold_what_was_found(finished):
    assert read_results(finished.folder / "results.csv") == finished.results
    names = {"study.yaml", "results.csv", "study.png", "runs", ".lock"}
    assert {path.name for path in finished.folder.iterdir()} == names
    pixels = np.asarray(Image.open(finished.folder / "study.png").convert("L"))
    assert (pixels < 128).mean() > 0.005


def test_interrupted_study_goes_on_where_it_stopped(finished, tiny, tmp_path, screen, training_passes):
    out = tmp_path / "s"
    training_passes.at = 4, lambda: signal.raise_signal(signal.SIGINT)  # second step of the second of four runs
    with pytest.raises(KeyboardInterrupt, match=f"^go on with densekit study --out {out} --resume$"):
        study(choices=CHOICES, seeds=2, test=True, out=out, screen=screen, **tiny)
    assert len(read_results(out / "results.csv")) == 1
    resumed = study(out=out, resume=True, screen=screen)
    assert training_passes.count == 4 * 2  # runs, steps: none twice
    assert figures(resumed.results) == figures(finished.results)


def test_finished_study_can_be_given_more_seeds_and_be_tested(tiny, tmp_path, training_passes):
    first = study(choices=CHOICES, seeds=1, out=tmp_path / "s", **tiny)
    assert not list(first.folder.rglob("metrics.json"))  # the test pictures were not looked at
    more = study(out=first.folder, resume=True, seeds=2, test=True)
    assert training_passes.count == 4 * 2
    assert [result.seconds for result in more.results[:2]] == [result.seconds for result in first.results]
    assert all(result.test_score is not None for result in more.results)
    again = study(out=first.folder, resume=True)
    assert again.results == more.results
    assert training_passes.count == 4 * 2


def test_a_trained_classifier_that_the_table_does_not_know_stays(tiny, tmp_path):
    """Somebody has deleted its checkpoint to make room, and the table's line got lost."""
    first = study(choices=CHOICES, seeds=1, out=tmp_path / "s", **tiny)
    run = first.folder / "runs" / Path(first.results[0].run).name
    shutil.rmtree(run / "checkpoints")
    before = (run / "model.safetensors").read_bytes()
    lines = (first.folder / "results.csv").read_text().splitlines(keepends=True)
    (first.folder / "results.csv").write_text(lines[0] + lines[2])
    with pytest.raises(SettingsError, match=rf"{run.name} holds a trained classifier without its checkpoint"):
        study(out=first.folder, resume=True)
    assert (run / "model.safetensors").read_bytes() == before


def test_a_plan_that_was_edited_does_not_get_the_figures_of_the_old_one(tiny, tmp_path, screen):
    first = study(choices=CHOICES, seeds=1, out=tmp_path / "s", **tiny)
    plan = yaml.safe_load((first.folder / "study.yaml").read_text())
    one, other = plan["variants"]
    changed = {**plan, "variants": {one: plan["variants"][one], other: {"epochs": 2}}}
    (first.folder / "study.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(
        SettingsError, match=rf"variant '{other}' is trained already, call the new one differently: .*epochs"
    ):
        study(out=first.folder, resume=True)
    renamed = {**plan, "variants": {one: plan["variants"][one], "longer": {"epochs": 2}}}
    (first.folder / "study.yaml").write_text(yaml.safe_dump(renamed))
    second = study(out=first.folder, resume=True)
    assert [(summary.variant, summary.results[0].epochs) for summary in second.summaries()] == [(one, 1), ("longer", 2)]
    kept = {result.variant for result in read_results(first.folder / "results.csv")}
    assert kept == {one, other, "longer"}  # nothing that was trained is lost


def test_exploding_run_is_noted_and_the_others_go_on(tiny, tmp_path):
    found = study(choices={"lr": [1e30, 0.05]}, seeds=1, out=tmp_path / "s", **{**tiny, "lr": None})
    exploded, trained = read_results(found.folder / "results.csv")
    assert exploded.val_score is None
    assert "the loss is" in exploded.error
    assert trained.val_score is not None
    assert [best.variant for best in best_variants(found.summaries())] == ["lr=0.05"]
    assert (found.folder / "study.png").exists()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        pytest.param({"choices": {"growth_rate": [8, 0]}}, SettingsError, "growth_rate is", id="impossible_network"),
        pytest.param({"choices": {"epochs": [1, 0]}}, SettingsError, "variant 'epochs=0'", id="impossible_setting"),
        pytest.param({"val_fraction": 0.0, "choices": CHOICES}, SettingsError, "--val-fraction above 0", id="no_val"),
        pytest.param({}, SettingsError, "needs something to vary", id="nothing"),
        pytest.param({"what": "nothing.yaml"}, SettingsError, "cannot read nothing.yaml", id="no_file"),
        pytest.param(
            {"choices": {"size": [8, 1]}, "model": "densenet40_k12_cifar"}, SettingsError, "size", id="too_small"
        ),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_is_begun(given, error, message, tiny, tmp_path):
    with pytest.raises(error, match=message):
        study(out=tmp_path / "s", **{**tiny, **given})
    assert not (tmp_path / "s").exists()


def test_test_split_must_be_there(tiny, tmp_path, paint):
    for colour in ("red", "grün"):
        paint(tmp_path / "data" / "train" / colour, colour, 10)
    data = {**tiny, "data": str(tmp_path / "data")}
    with pytest.raises(DataError, match="has no test pictures: leave out --test"):
        study(choices=CHOICES, test=True, out=tmp_path / "s", **data)


def test_resuming_takes_the_study_as_it_is(finished, tmp_path):
    with pytest.raises(SettingsError, match="leave out the rest"):
        study(out=finished.folder, resume=True, epochs=9)
    with pytest.raises(SettingsError, match="resume needs the folder"):
        study(resume=True)
    with pytest.raises(CheckpointError, match=r"is not the folder of a study: there is no study\.yaml"):
        study(out=tmp_path, resume=True)
    with pytest.raises(SettingsError, match="exists already"):
        study("digits", "depth", out=finished.folder)


def test_variants_of_a_file(tiny, tmp_path):
    plan = tmp_path / "plan.yaml"
    options = "{block_config: [1, 1], growth_rate: 4, bn_size: null}"
    plan.write_text(
        f"settings: {{epochs: 1, lr: 0.05}}\nseeds: 1\nvariants:\n  cnn: {{model: simple_cnn}}\n"
        f"  densenet: {{model: densenet40_k12_cifar, model_options: {options}}}\n"
    )
    shared = {name: tiny[name] for name in ("limit_per_class", "device", "precision", "workers", "tensorboard")}
    found = study("digits", plan, out=tmp_path / "s", **shared)
    assert [result.variant for result in found.results] == ["cnn", "densenet"]
    assert load_classifier(found.folder / "runs" / "cnn-seed0").network.architecture["name"] == "simple_cnn"
    with (found.folder / "results.csv").open() as file:
        assert [row["epochs"] for row in csv.DictReader(file)] == ["1", "1"]


def test_several_labels_are_compared_by_their_mean_average_precision(halves, tmp_path):
    fixed = {"model": "simple_cnn", "epochs": 2, "batch_size": 18, "device": "cpu", "workers": 0, "tensorboard": False}
    choices = {"lr": [0.01, 1e-6]}
    done = study(halves, choices=choices, test=True, out=tmp_path / "s", optimizer="adam", **fixed)
    for result in done.results:
        rows = RunFolder(tmp_path / "s" / result.run).read_history()
        assert result.val_score == rows[result.kept_epoch - 1]["val_mean_average_precision"]
        figures = json.loads((tmp_path / "s" / result.run / "metrics.json").read_text())
        assert result.test_score == figures["mean_average_precision"]
    assert [column.header for column in done.table().columns][2:4] == [
        "val mean average precision",
        "test mean average precision",
    ]
    assert "highest: lr=0.01" in str(done.table().caption)


def test_pictures_without_labels_compare_nothing(halves, tmp_path):
    lines = halves.read_text(encoding="utf-8").splitlines()
    rows = [line.split(",")[:2] for line in lines[1:31]]
    table = [f"{halves.parent}/{name},,val" for name, _ in rows[:5]]
    table += [f"{halves.parent}/{name},{labels},train" for name, labels in rows[5:]]
    (tmp_path / "t.csv").write_text("\n".join([lines[0], *table]), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"and none of .*t\.csv has a label"):
        study(tmp_path / "t.csv", choices={"lr": [0.1, 0.2]}, out=tmp_path / "s", model="simple_cnn", epochs=1)
    assert not (tmp_path / "s").exists()


def test_what_several_labels_do_not_allow_is_told_before_anything_is_trained(halves, tmp_path):
    with pytest.raises(SettingsError, match="class_balance=sampler is for pictures of one class each"):
        study(halves, choices={"class_balance": ["none", "sampler"]}, out=tmp_path / "s", model="simple_cnn", epochs=1)
    assert not (tmp_path / "s").exists()
