"""Two processes, one network: as under torchrun, on the CPU."""

import csv
import socket

import pytest
import torch
from safetensors.torch import load_file

from densekit.classifier import load_classifier
from densekit.data.datasets import open_data
from densekit.training.run_folder import RunFolder
from densekit.training.settings import read_settings

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
def two_processes(tiny, start_python, tmp_path_factory):
    out = tmp_path_factory.mktemp("processes") / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = {**tiny, "epochs": 1, "limit_per_class": 7, "batch_size": 8, "lr": 0.1}
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        start_python(SCRIPT, {"settings": settings, "out": str(out)}, RANK=rank, LOCAL_RANK=rank, **common)
        for rank in ("0", "1")
    ]
    texts = [process.communicate(timeout=150)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(texts)
    return out, texts


def test_both_end_with_the_same_weights(two_processes):
    out, _ = two_processes
    first, second = (load_file(f"{out}-{rank}.safetensors") for rank in (0, 1))
    for name, value in first.items():
        if "running" not in name and "num_batches" not in name:  # each process has its own statistics
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
    pixels = torch.stack([classifier.preprocessing.transform()(validation.read(i)) for i in range(len(validation))])
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
