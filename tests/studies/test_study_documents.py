"""The plans and the tutorial in docs/ do what they say."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from densekit.models.catalogue import count_parameters, create_model
from densekit.studies.plan import read_plan

DOCS = Path(__file__).parents[2] / "docs"


def parameters(settings):
    with torch.device("meta"):
        return count_parameters(create_model(settings.model, num_classes=10, **settings.model_options))


@pytest.mark.parametrize("path", sorted((DOCS / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_plan_can_be_trained(path):
    runs = list(read_plan(path).runs())
    assert len({run.settings.to_yaml() for run in runs}) == len(runs)
    assert all(parameters(run.settings) > 0 for run in runs)


def test_densenet_and_resnet_are_equally_large():
    path = DOCS / "studies" / "cifar10-cut.yaml"
    sizes = {run.variant: f"{parameters(run.settings):,}" for run in read_plan(path).runs()}
    assert (sizes["DenseNet k=12"], sizes["ResNet-14"]) == ("176,122", "175,258")
    assert "176,122 parameters, ResNet-14 has 175,258" in " ".join(path.read_text().replace("#", "").split())


def test_house_prices_on_a_few_sales(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "sales.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Order", "PID", "MS SubClass", "Neighborhood", "Gr Liv Area", "Lot Frontage", "SalePrice"])
        for i in range(400):
            area, place = random.integers(500, 3000), random.choice(["NAmes", "OldTown", "Somerst", ""])
            price = area * (150 if place == "Somerst" else 100) * random.lognormal(0, 0.1)
            rare = "190" if i == 0 else "20"
            writer.writerow([i, i, rare, place, area, "" if i % 9 else 60, round(price)])
    script = DOCS / "tutorials" / "house_prices.py"
    done = subprocess.run([sys.executable, script, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "400 sales, 2 columns of numbers, 2 of words" in done.stdout
    deviation = float(re.search(r"standard deviation (\d\.\d+)", done.stdout)[1])
    errors = dict(re.findall(r"^   (ridge|gradient boosting|DenseNet) +(\d\.\d+)", done.stdout, re.MULTILINE))
    assert len(errors) == 3
    for error in errors.values():
        assert 0.09 < float(error) < 0.5 * deviation  # no model sees through the noise of 0.1
