"""A run that was stopped, in whatever way, ends with the very bits of one that was not."""

import csv
import dataclasses
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from densekit.errors import CheckpointError, SettingsError
from densekit.files import alone_in
from densekit.training.train import train

STEPS = 4  # an epoch: 50 pictures in batches of 16

# dropout draws from torch's random numbers, mixup and the crop from their own; Adam and the average have a memory
SETTINGS = {
    "epochs": 3,
    "optimizer": "adam",
    "lr": 0.01,
    "ema": 0.9,
    "mixup": 0.4,
    "crop_padding": 1,
    "label_smoothing": 0.1,
}

STOP_ITSELF = """
import os, signal
from densekit.models.densenet import DenseNet
passes, forward = 0, DenseNet.forward
def stop_itself(network, x):
    global passes
    passes += network.training
    if network.training and passes == stop_at:
        os.killpg(os.getpgrp(), getattr(signal, stop_signal))  # as a terminal does: the loader processes too
    return forward(network, x)
DenseNet.forward = stop_itself
"""
RUN = STOP_ITSELF + "from densekit.training.train import train; train(out=out, **settings)"
COMMAND = STOP_ITSELF + "import sys; sys.argv = argv; from densekit.cli.main import main; main()"


@pytest.fixture(scope="module")
def settings(tiny):
    return {**tiny, **SETTINGS, "model_options": {**tiny["model_options"], "drop_rate": 0.2}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def killed(folder, settings, start_python):
    """Killed without warning in the third step of the second epoch."""
    out = str(folder / "killed")
    values = {"settings": settings, "out": out, "stop_at": STEPS + 3, "stop_signal": "SIGKILL"}
    return start_python(RUN, values), out


@pytest.fixture(scope="module")
def interrupted(folder, settings, start_python):
    """Ctrl-C at the command line in the third step of the second epoch, with a loader process."""
    out = str(folder / "interrupted")
    elsewhere = ("data", "model_options", "tensorboard", "workers")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if name not in elsewhere]
    options = [f"--model-options.{name}={value}" for name, value in settings["model_options"].items()]
    options = [option.replace("None", "null") for option in options]
    argv = ["densekit", "train", "digits", "--out", out, "--no-tensorboard", "--workers=1", *flags, *options]
    values = {"argv": argv, "stop_at": STEPS + 3, "stop_signal": "SIGINT"}
    return start_python(COMMAND, values), out


@pytest.fixture(scope="module")
def uninterrupted(folder, settings, killed, interrupted):  # started first: they run meanwhile
    return train(out=folder / "whole", **settings)


def test_a_recipe_may_name_places_from_where_it_stands(make_folder, tiny, tmp_path, monkeypatch):
    photos = make_folder({"a": 20, "b": 20})
    (tmp_path / "elsewhere").mkdir()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {photos.name}\ndata_root: root\nepochs: 1\nlr: 0.1\n")
    monkeypatch.chdir(photos.parent)
    run = train(out=tmp_path / "run", recipe=str(recipe), **{name: tiny[name] for name in tiny.keys() - {"data"}})
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run.settings.data == str(photos)
    assert run.settings.data_root == str(photos.parent / "root")
    assert train(out=run.folder, resume=True).history == run.history


def test_options_that_came_with_weights_do_not_change_what_goes_on(train_tiny, tiny):
    first = train_tiny("first", epochs=1)
    options = {**tiny["model_options"], "drop_rate": 0.1}
    given = {"epochs": 1, "weights": str(first.folder), "model_options": {"drop_rate": 0.1}}
    second = train_tiny("second", **given)
    assert second.settings.model_options == {**second.settings.model_options, **options}
    assert train(out=second.folder, resume=True, data="digits", **given).history == second.history


def test_a_run_that_goes_on_elsewhere_is_left_alone(train_tiny):
    """Or both would write its checkpoints."""
    run = train_tiny(epochs=1)
    before = contents(run.folder)
    with alone_in(run.folder), pytest.raises(SettingsError, match=f"another process is using {run.folder}: "):
        train(out=run.folder, resume=True)
    assert contents(run.folder) == before


def test_a_killed_loader_process_is_told_in_one_line(folder, start_python):
    out = folder / "loader"
    script = """
import sys, psutil
from densekit.cli.main import main
from densekit.training import loop

train_step, kill = loop.train_step, lambda: [child.kill() for child in psutil.Process().children()]
loop.train_step = lambda *args: kill() and train_step(*args)
options = "--workers=1 --model=simple_cnn --epochs=2 --device=cpu --out"
sys.argv = ["densekit", "train", "digits", *options.split(), out]
main()
"""
    process = start_python(script, {"out": str(out)})
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 2, text
    assert text.splitlines()[-1].startswith("densekit: a process that loads pictures was killed, "), text
    assert "Traceback" not in text
    assert train(out=out, resume=True).history[-1]["epoch"] == 2


def figures(history):
    return [{k: v for k, v in row.items() if k not in ("seconds", "pictures_per_s")} for row in history]


def assert_same_end(run, expected):
    assert figures(run.history) == figures(expected.history)
    assert run.best_epoch == expected.best_epoch
    for file in ("model.safetensors", "checkpoints/last.safetensors"):
        actual, wanted = load_file(run.folder / file), load_file(expected.folder / file)
        assert actual.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert torch.equal(actual[name], tensor), f"{file}: {name}"


def test_killed_run_resumes_to_the_same_bits(killed, uninterrupted):
    process, out = killed
    assert process.wait(120) == -signal.SIGKILL, process.communicate()[0]
    run = train(out=out, resume=True)
    assert_same_end(run, uninterrupted)


def test_ctrl_c_saves_and_resumes_in_the_middle_of_the_epoch(interrupted, uninterrupted, screen, forwards):
    process, out = interrupted
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert f"densekit: interrupted; go on with densekit train --out {out} --resume" in text
    run = train(out=out, resume=True, workers=0, screen=screen)
    assert "going on after epoch 1, step 3" in screen.console.export_text()
    assert sum(logits.requires_grad for _, _, logits in forwards) == STEPS - 3 + STEPS
    assert_same_end(run, uninterrupted)
    with (run.folder / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]


@pytest.fixture(scope="module")
def one_epoch(folder, tiny):
    return train(out=folder / "one-epoch", **{**tiny, "epochs": 1})


@pytest.fixture
def finished(one_epoch, tmp_path):
    """A finished run of its own for each test."""
    copy = shutil.copytree(one_epoch.folder, tmp_path / "run")
    return dataclasses.replace(one_epoch, folder=copy)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_finished_run_has_nothing_left_to_do(finished, forwards):
    again = train(out=finished.folder, resume=True)
    assert not forwards
    assert (again.history, again.best_epoch) == (finished.history, finished.best_epoch)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param(
            {"epochs": 5},
            "resume goes on with epochs=1 of .*settings.yaml, not 5: .*start a new run from it, --weights ",
            id="epochs",
        ),
        pytest.param({"lr": 0.5}, "resume goes on with lr=0.1", id="rate"),
        pytest.param({"data": "cifar10"}, "resume goes on with data='digits'", id="data"),
        pytest.param({"recipe": "finetune"}, "resume goes on with ", id="recipe"),
        pytest.param({"epoch": 5}, "unknown setting 'epoch'", id="unknown"),
    ],
)
def test_resuming_another_run_than_was_begun_is_refused(changed, message, finished):
    before = contents(finished.folder)
    with pytest.raises(SettingsError, match=message):
        train(out=finished.folder, resume=True, **changed)
    assert contents(finished.folder) == before


def test_settings_given_again_as_they_were_are_accepted(finished, tiny):
    again = train(out=finished.folder, resume=True, **{**tiny, "epochs": 1, "size": 8})
    assert again.history == finished.history


def test_the_command_that_began_a_run_also_resumes_it(folder, tiny, tmp_path):
    """Somebody fetches the last line of the shell and adds --resume: recipe, flags, and what was left to densekit."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("epochs: 1\noptimizer: adam\nlr: auto\nsize: null\nprecision: auto\n", encoding="utf-8")
    given = {name: value for name, value in tiny.items() if name not in {"epochs", "optimizer", "lr", "precision"}}
    out = tmp_path / "run"
    begun = train(out=out, recipe=str(recipe), **given)
    assert train(out=out, recipe=str(recipe), resume=True, **given).history == begun.history


@pytest.mark.parametrize(("given", "largest"), [({"accumulate": 4}, 4), ({}, 16)], ids=["asked_for", "as_before"])
def test_parts_of_a_batch_can_change_when_resuming(given, largest, train_tiny, tmp_path, forwards):
    with pytest.raises(KeyboardInterrupt):
        interrupt_after_one_step(train_tiny)
    forwards.clear()
    train(out=tmp_path / "stopped", resume=True, **given)
    assert max(len(pictures) for _, pictures, logits in forwards if logits.requires_grad) == largest


def interrupt_after_one_step(train_tiny):
    def interrupt(module, _):
        if hasattr(module, "architecture"):
            signal.raise_signal(signal.SIGINT)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(interrupt)
    try:
        train_tiny("stopped", epochs=1)
    finally:
        handle.remove()


def test_pictures_that_are_gone_begin_the_epoch_anew(make_folder, train_tiny, tmp_path, screen):
    data = make_folder({"train/a": 20, "train/b": 20, "val/a": 2, "val/b": 2})
    own = {"data": str(data), "limit_per_class": None, "epochs": 2, "batch_size": 4}
    passes = []

    def interrupt(module, _):
        if hasattr(module, "architecture") and module.training:
            passes.append(module)
            if len(passes) == 9:
                signal.raise_signal(signal.SIGINT)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_tiny("stopped", **own)
    finally:
        handle.remove()
    for number in range(10):
        (data / "train/a" / f"{number}.png").unlink()
    resumed = train(out=tmp_path / "stopped", resume=True, screen=screen)
    told = "there are 30 training pictures now, 40 when the run stopped: epoch 1 begins anew"
    assert told in screen.console.export_text(clear=False)
    assert len(resumed.history) == 2
    with (tmp_path / "stopped/history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_interruption_gives_the_signals_back(train_tiny):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        interrupt_after_one_step(train_tiny)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_there_must_be_a_run_to_resume(tmp_path):
    with pytest.raises(SettingsError, match="resume needs the run folder: --out RUN --resume"):
        train(resume=True)
    with pytest.raises(CheckpointError, match=r"is not a run folder: there is no settings\.yaml in it"):
        train(out=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"missing is not a run folder: nothing has been saved there yet"):
        train(out=tmp_path / "missing", resume=True)
    (tmp_path / "settings.yaml").write_text("epochs: 3\n")
    with pytest.raises(CheckpointError, match="has no checkpoint yet: delete the folder and start it again"):
        train(out=tmp_path, resume=True)
    with alone_in(tmp_path), pytest.raises(SettingsError, match="another process is using"):
        train(out=tmp_path, resume=True)
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {"settings.yaml"}


@pytest.mark.parametrize("damage", ["cut_short", "overwritten", "emptied", "of_another_network", "without_progress"])
def test_damaged_checkpoint_is_refused(damage, finished):
    from safetensors.torch import save_file

    path = finished.folder / "checkpoints" / "last.safetensors"
    whole = path.read_bytes()
    tensors = load_file(path)
    match damage:
        case "cut_short":
            path.write_bytes(whole[: len(whole) // 2])
        case "overwritten":
            path.write_bytes(bytes(64) + whole[64:])
        case "emptied":
            path.write_bytes(b"")
        case "of_another_network":
            tensors["network.classifier.bias"] = torch.zeros(3)
            save_file(tensors, path, metadata={"progress": "{}"})
        case "without_progress":
            save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"cannot resume from .*last\.safetensors: ") as caught:
        train(out=finished.folder, resume=True)
    assert "\n" not in str(caught.value)
