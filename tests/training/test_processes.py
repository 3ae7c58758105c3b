"""Two processes, one network: as under torchrun, on the CPU."""

import csv

import pytest
import torch
from safetensors.torch import load_file

from densekit.console import Screen
from densekit.data.datasets import open_data
from densekit.errors import SettingsError
from densekit.evaluation.multilabel import mean_average_precision
from densekit.evaluation.outcomes import Outcomes
from densekit.loading import load_classifier
from densekit.training.run_folder import RunFolder
from densekit.training.settings import read_settings
from densekit.training.train import train

SCRIPT = """
import torch
from safetensors.torch import save_file
from torch.nn.modules.module import register_module_forward_pre_hook
networks = []
seen = [0, 0]
def note(module, args):
    if hasattr(module, "architecture"):
        networks.append(module)
        seen[module.training] += len(args[0])
register_module_forward_pre_hook(note)
from densekit.training.train import train
run = train(out=out, **settings)
rank = torch.distributed.get_rank()
weights = {name: value.contiguous() for name, value in networks[-1].state_dict().items()}
save_file(weights, f"{out}-{rank}.safetensors")
print("seen", rank, *seen)
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two_processes(tiny, run_in_two_processes, tmp_path_factory):
    out = tmp_path_factory.mktemp("processes") / "run"
    settings = {**tiny, "epochs": 1, "limit_per_class": 7, "batch_size": 8, "lr": 0.1}
    return out, run_in_two_processes(SCRIPT, {"settings": settings, "out": str(out)})


def test_both_end_with_the_same_weights(two_processes):
    out, _ = two_processes
    first, second = (load_file(f"{out}-{rank}.safetensors") for rank in (0, 1))
    for name, value in first.items():  # statistics too: those of the main process are validated, and kept
        torch.testing.assert_close(second[name], value, rtol=0, atol=0)


def test_pictures_are_shared_out(two_processes):
    """60 to train on, 10 to validate on: half of each to each process."""
    _, texts = two_processes
    lines = [line.split() for text in texts for line in text.splitlines() if line.startswith("seen")]
    assert sorted(lines) == [["seen", "0", "5", "30"], ["seen", "1", "5", "30"]]


def test_validation_counts_every_picture_once(two_processes):
    out, texts = two_processes
    classifier = load_classifier(out)
    settings = read_settings(RunFolder(out).settings)
    validation = open_data("digits", limit_per_class=settings.limit_per_class).val
    assert validation is not None
    pixels = torch.stack([classifier.preprocessing(validation.read(i)) for i in range(len(validation))])
    with torch.inference_mode():
        logits = classifier.network.eval()(pixels)
    labels = torch.from_numpy(validation.labels)
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    (line,) = (line for text in texts for line in text.splitlines() if line.startswith("epoch 1/1"))
    assert f"acc {accuracy:6.2%}" in line.partition("val")[2]


def test_training_figures_count_both_processes(two_processes):
    out, _ = two_processes
    with (out / "history.csv").open() as file:
        (row,) = csv.DictReader(file)
    pictures = float(row["pictures_per_s"]) * float(row["seconds"])
    assert pictures == pytest.approx(60, rel=0.02)
    hits = float(row["train_accuracy"]) * 60
    assert hits == pytest.approx(round(hits), abs=1e-6)


@pytest.fixture
def damaged(make_folder):
    """Pictures of which more than half cannot be read, so that some batches are left with one and none is empty."""
    root = make_folder({"train/a": 16, "train/b": 16, "val/a": 4, "val/b": 4})
    for folder in ("train/a", "train/b"):
        for i in range(9):
            (root / folder / f"{i}.png").write_bytes((root / folder / f"{i}.png").read_bytes()[:80])
    (root / "val/a/1.png").write_bytes(b"")
    return root


def test_what_one_process_meets_alone(tiny, damaged, run_in_two_processes, tmp_path):
    """A rate to find, batches in parts, pictures that cannot be read: the other one does not wait for ever."""
    out = tmp_path / "run"
    settings = {**tiny, "data": str(damaged), "limit_per_class": None, "memory_gib": 0.0, "batch_size": 8}
    settings |= {"lr": "auto", "accumulate": 3, "mean": [0.5], "std": [0.25]}
    run_in_two_processes(SCRIPT, {"settings": settings, "out": str(out)})
    first, second = (load_file(f"{out}-{rank}.safetensors") for rank in (0, 1))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0)
    with (out / "skipped.csv").open() as file:
        skipped = {row["path"] for row in csv.DictReader(file)}
    assert skipped == {str(path) for path in damaged.rglob("*.png") if path.stat().st_size <= 80}


def test_resuming_takes_as_many_processes(two_processes):
    out, _ = two_processes
    with pytest.raises(SettingsError, match=r"was begun by 2 processes.* resume it with as many, not 1"):
        train(out=out, resume=True, epochs=1, screen=Screen(quiet=True))


def test_saving_memory_changes_nothing_for_several_processes(tiny, run_in_two_processes, tmp_path):
    """What is computed again in the backward pass is not exchanged, nor counted in the statistics, a second time."""
    settings = {**tiny, "epochs": 1, "limit_per_class": 7, "batch_size": 8, "lr": 0.1, "fused": False}
    seen = []
    for saving in (False, True):
        out = tmp_path / f"run-{saving}"
        options = {**tiny["model_options"], "memory_efficient": saving}
        run_in_two_processes(SCRIPT, {"settings": {**settings, "model_options": options}, "out": str(out)})
        seen.append([load_file(f"{out}-{rank}.safetensors") for rank in (0, 1)])
    torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=0)


def test_several_labels_are_validated_together(tiny, halves, run_in_two_processes, tmp_path):
    """107 pictures to train on end in a step of five each, less one left over; 13 validate, seven and six."""
    settings = {**tiny, "data": str(halves), "limit_per_class": None, "epochs": 1, "batch_size": 8}
    run_in_two_processes(SCRIPT, {"settings": settings, "out": str(tmp_path / "run")})
    classifier = load_classifier(tmp_path / "run")
    validation = open_data(halves).val
    pixels = torch.stack([classifier.preprocessing(validation.read(i)) for i in range(len(validation))])
    with torch.inference_mode():
        logits = classifier.network.eval()(pixels)
    outcomes = Outcomes(logits, torch.from_numpy(validation.labels), torch.arange(len(validation)))
    (row,) = RunFolder(tmp_path / "run").read_history()
    assert row["val_mean_average_precision"] == pytest.approx(mean_average_precision(outcomes))
    assert row["val_loss"] == pytest.approx(outcomes.loss, rel=1e-5)
