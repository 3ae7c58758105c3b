import csv
import signal
import time
from contextlib import contextmanager

import optuna
import pytest
import yaml

from densekit.errors import CheckpointError, SettingsError
from densekit.evaluation.evaluate import evaluate
from densekit.studies.search import search
from densekit.studies.search_space import SPACES
from densekit.studies.trial_storage import open_trials, quiet_optuna, without_password
from densekit.training.run_folder import RunFolder
from densekit.training.settings import TrainSettings, make_settings
from densekit.training.train import train

WORKER = """
from densekit.studies.search import search
found = search(out=out, storage=storage, name=name, trials=trials, heartbeat=heartbeat, **settings)
print("END", sum(trial.state.name == "COMPLETE" for trial in found.trials))
"""
HEARTBEAT = 2  # seconds
DOOMED = """
import os, signal
from itertools import count
from torch.optim.optimizer import register_optimizer_step_post_hook
steps = count(1)
die = lambda *_: next(steps) == 6 and os.kill(os.getpid(), signal.SIGKILL)  # in the second of two-epoch trials
register_optimizer_step_post_hook(die)
"""


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    return search(out=tmp_path_factory.mktemp("search") / "s", trials=3, test=True, **tiny)


@contextmanager
def open_again(url, name="densekit"):
    with quiet_optuna(), open_trials(url, name, seed=0, warmup=0, heartbeat=HEARTBEAT) as trials:
        yield trials


def test_a_trial_is_the_training_it_says(finished, tiny, tmp_path):
    trial = finished.trials[1]
    names = {"lr": "lr_sgd", "weight_decay": "weight_decay_sgd", "label_smoothing": "label_smoothing"}
    changes = {setting: trial.params[name] for setting, name in names.items()}
    run = train(out=tmp_path / "run", **{**tiny, **changes})
    assert [row["val_accuracy"] for row in run.history] == list(trial.intermediate_values.values())
    assert trial.value == max(trial.intermediate_values.values())


def test_the_best_on_validation_is_tested_and_kept_as_a_recipe(finished):
    assert finished.best.value == max(trial.value for trial in finished.trials)
    run = finished.folder / "runs" / finished.best.user_attrs["run"]
    assert evaluate(run, device="cpu", workers=0).metrics.accuracy == finished.test_score
    recipe = make_settings(str(finished.folder / "best.yaml"))
    assert recipe.lr == finished.best.params["lr_sgd"]
    assert recipe.batch_size == 25  # what all trials shared


def test_only_the_best_network_was_tested(finished):
    assert len(list(finished.folder.rglob("metrics.json"))) == 1


def test_files_hold_what_was_found(finished):
    with (finished.folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_score"]) for row in rows] == [trial.value for trial in finished.trials]
    assert {row["state"] for row in rows} == {"complete"}
    names = {"study.yaml", "results.csv", "study.png", "best.yaml", "trials.sqlite", "runs", ".lock"}
    assert {path.name for path in finished.folder.iterdir()} == names


def test_trial_that_falls_behind_is_pruned(tiny, tmp_path, screen):
    folder = tmp_path / "s"
    folder.mkdir()
    ranges = {
        "lr_sgd": optuna.distributions.FloatDistribution(0.005, 0.5, log=True),
        "weight_decay_sgd": optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True),
        "label_smoothing": optuna.distributions.FloatDistribution(0.0, 0.2, step=0.05),
    }
    values = {"lr_sgd": 0.1, "weight_decay_sgd": 1e-3, "label_smoothing": 0.0}
    perfect = {"value": 1.0, "intermediate_values": dict.fromkeys(range(1, 5), 1.0)}
    with open_again(f"sqlite:///{folder / 'trials.sqlite'}") as trials:
        for _ in range(5):
            trials.add_trial(optuna.create_trial(params=values, distributions=ranges, **perfect))
    plan = {"settings": make_settings(**{**tiny, "epochs": 4}).model_dump(mode="json"), "trials": 6}
    (folder / "study.yaml").write_text(yaml.safe_dump(plan))
    found = search(out=folder, resume=True, screen=screen)
    assert found.trials[5].state.name == "PRUNED"
    assert list(found.trials[5].intermediate_values) == [1, 2]  # the first third is granted
    assert "pruned after epoch 2" in screen.console.export_text()


def test_ctrl_c_puts_the_trial_back_where_it_was(finished, tiny, tmp_path, training_passes, screen):
    out = tmp_path / "s"
    training_passes.at = 4, lambda: signal.raise_signal(signal.SIGINT)  # last step of the second trial
    with pytest.raises(KeyboardInterrupt):
        search(out=out, trials=3, screen=screen, **tiny)
    resumed = search(out=out, resume=True, screen=screen)
    assert training_passes.count == 3 * 2  # trials, steps: none twice
    states = [trial.state.name for trial in resumed.trials]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"]
    again = next(trial for trial in resumed.trials[2:] if trial.user_attrs["run"] == "trial-0001")
    assert (again.params, again.value) == (finished.trials[1].params, finished.trials[1].value)
    assert again.intermediate_values == finished.trials[1].intermediate_values


def test_a_search_that_was_killed_is_finished_when_it_goes_on(tiny, tmp_path, start_python, screen):
    """At once: without a database that is shared nobody else can be at its last trial."""
    out, settings = tmp_path / "s", {**tiny, "epochs": 2}
    script = DOOMED + "from densekit.studies.search import search; search(out=out, trials=2, **settings)"
    doomed = start_python(script, {"out": str(out), "settings": settings})
    text, _ = doomed.communicate(timeout=280)
    assert doomed.returncode == -signal.SIGKILL, text
    states = sorted(trial.state.name for trial in search(out=out, resume=True, screen=screen).trials)
    assert states == ["COMPLETE", "COMPLETE", "FAIL"]


def test_worker_whose_trial_was_given_up_goes_on_with_another(tiny, tmp_path, training_passes, screen):
    out = tmp_path / "s"

    def give_up():
        with open_again(f"sqlite:///{out / 'trials.sqlite'}") as trials:
            trials._storage.set_trial_state_values(trials.trials[0]._trial_id, optuna.trial.TrialState.FAIL)

    training_passes.at = 2, give_up
    found = search(out=out, trials=1, screen=screen, **tiny)
    assert [trial.state.name for trial in found.trials] == ["FAIL", "COMPLETE"]
    assert "trial 0 was given up" in screen.console.export_text()


@pytest.mark.timeout(900)  # three processes that import torch, and a database
def test_two_workers_share_a_search_and_one_that_is_killed_loses_only_its_trial(
    shared_storage, tiny, tmp_path, start_python
):
    values = {"storage": shared_storage, "name": "shared", "settings": {**tiny, "epochs": 2}, "heartbeat": HEARTBEAT}
    doomed = start_python(DOOMED + WORKER, {**values, "trials": 200, "out": str(tmp_path / "doomed")})
    text, _ = doomed.communicate(timeout=280)
    assert doomed.returncode == -signal.SIGKILL, text
    with open_again(shared_storage, "shared") as trials:
        assert [trial.state.name for trial in trials.trials] == ["COMPLETE", "RUNNING"]
    time.sleep(3 * HEARTBEAT + 1)  # until it counts as lost: the others may need less time than that for all they do
    wanted = 8  # enough for both, though one may begin a few seconds later
    workers = [
        start_python(WORKER, {**values, "trials": wanted, "out": str(tmp_path / name)}) for name in ("one", "two")
    ]
    for worker in workers:
        text, _ = worker.communicate(timeout=280)
        assert worker.returncode == 0, text
    with open_again(shared_storage, "shared") as trials:
        found = trials.trials
    lost = [trial for trial in found if trial.state.name == "FAIL"]
    assert [trial.user_attrs["run"] for trial in lost] == ["trial-0001"]
    retried = [trial for trial in found if trial.params == lost[0].params and trial.state.is_finished()]
    assert len(retried) == 2  # itself, and once more
    assert sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in found) >= wanted
    assert all(list((tmp_path / name / "runs").iterdir()) for name in ("one", "two"))  # both had work


def test_a_search_is_joined_with_the_same_settings_only(tiny, tmp_path):
    storage = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    search(out=tmp_path / "a", storage=storage, trials=1, **tiny)
    with pytest.raises(SettingsError, match="the search 'densekit' in this storage has epochs=1, not 3"):
        search(out=tmp_path / "b", storage=storage, trials=2, **{**tiny, "epochs": 3})
    with pytest.raises(SettingsError, match="has space='small', not 'default'"):
        search(out=tmp_path / "c", storage=storage, space="default", trials=2, **tiny)
    with pytest.raises(SettingsError, match=r"trials are in sqlite:.*: resume with the same --storage"):
        search(out=tmp_path / "a", resume=True)
    joined = search(out=tmp_path / "d", storage=storage, trials=1, **{**tiny, "workers": 1})  # may differ
    assert len(joined.trials) == 1


@pytest.mark.parametrize("space", SPACES)
def test_every_proposal_of_a_space_can_be_trained(space):
    base = TrainSettings(model="densenet12_wide_cifar", model_options={"groups": 2})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    proposals = [make_settings(**{**base.model_dump(), **SPACES[space](study.ask(), base)}) for _ in range(20)]
    assert len({proposal.to_yaml() for proposal in proposals}) == 20
    assert all(proposal.model_options["groups"] == 2 for proposal in proposals)


def test_passwords_are_not_written_down(tmp_path):
    assert without_password("postgresql://anna:secret@host:1/db") == "postgresql://anna:***@host:1/db"
    assert without_password("sqlite:///a.sqlite") == "sqlite:///a.sqlite"
    with pytest.raises(SettingsError, match="not a database URL"):
        without_password("somewhere")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"storage": "postgresql://127.0.0.1:1/none"}, "the storage cannot be used: ", id="no_server"),
        pytest.param({"storage": "nosuch://host/db"}, "the storage cannot be used: ", id="no_such_kind"),
        pytest.param({"space": "huge"}, "space='huge': ", id="no_such_space"),
        pytest.param(
            {"space": "default", "class_balance": "loss"}, "space 'default' does not fit these settings", id="no_mixup"
        ),
        pytest.param(
            {"space": "densenet", "model": "resnet14_cifar", "model_options": {}},
            "space 'densenet' does not fit these settings",
            id="no_densenet",
        ),
        pytest.param({"trials": 0}, "trials=0: ", id="no_trials"),
        pytest.param({"val_fraction": 0.0}, "variants are compared on validation pictures", id="no_val"),
        pytest.param({"resume": True}, "leave it out", id="resume_with_settings"),
    ],
)
def test_what_cannot_be_searched(given, message, tiny, tmp_path):
    with pytest.raises(SettingsError, match=message):
        search(out=tmp_path / "s", **{**tiny, **given})
    if "storage" not in given:
        assert not (tmp_path / "s").exists()


def test_there_must_be_a_search_to_resume(tmp_path):
    with pytest.raises(SettingsError, match="resume needs the folder"):
        search(resume=True)
    with pytest.raises(CheckpointError, match=r"is not the folder of a search: there is no study\.yaml"):
        search(out=tmp_path, resume=True)
    (tmp_path / "study.yaml").write_text("settings: {}\nvariants: {a: {}}\n")
    with pytest.raises(CheckpointError, match="does not describe a search: unknown setting 'variants'"):
        search(out=tmp_path, resume=True)


def test_several_labels_are_searched_by_their_mean_average_precision(halves, tmp_path):
    fixed = {"model": "simple_cnn", "epochs": 2, "batch_size": 18, "device": "cpu", "workers": 0, "tensorboard": False}
    found = search(halves, out=tmp_path / "s", trials=2, test=True, **fixed)
    for trial in found.trials:
        rows = RunFolder(tmp_path / "s" / "runs" / trial.user_attrs["run"]).read_history()
        assert [row["val_mean_average_precision"] for row in rows] == list(trial.intermediate_values.values())
    assert found.table().columns[1].header == "val mean average precision"
    assert "test mean average precision of trial" in str(found.table().caption)
