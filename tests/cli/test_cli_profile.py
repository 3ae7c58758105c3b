import csv
import io
import json
import sys

import pytest
import torch
from PIL import Image

import densekit as dk
from densekit.hardware import list_gpus
from densekit.models.catalogue import count_parameters


class TestCommand:
    def test_table_and_plot(self, densekit, tmp_path, colour_run):
        plot = tmp_path / "costs.png"
        options = ["--batch", 4, 32, "--memory", "2GB", "--plot", plot, "--device", "cpu", "--seconds", 0]
        answer = densekit("profile", "resnet14_cifar", colour_run, *options)
        assert answer.status == 0
        title, header, *rows = answer.out.splitlines()
        assert title.startswith("cpu ")
        assert header.split() == ["resnet14_cifar", str(colour_run)]
        cells = {row[:34].strip(): row[34:].split() for row in rows}
        assert cells["parameters"] == ["175,258", f"{count_parameters(dk.load(colour_run).network):,}"]
        assert cells["pictures measured"] == ["4", "of", "32x32", "4", "of", "12x12"]
        assert all(int(cell) > 32 for cell in cells["largest batch in 2.00 GB"])
        assert answer.err.splitlines()[-1] == f"picture: {plot}"
        with Image.open(plot) as picture:
            assert picture.width > 1000

    def test_csv_and_json_say_the_same(self, densekit):
        options = ["--batch", 2, 8, "--size", 32, 40, "--memory", "1GB", "--device", "cpu", "--seconds", 0]
        (plain,) = json.loads(densekit("profile", "resnet14_cifar", *options, "--format", "json").out)
        rows = list(csv.DictReader(io.StringIO(densekit("profile", "resnet14_cifar", *options, "--format", "csv").out)))
        assert [(row["at_size"], row["at_batch"]) for row in rows] == [
            *(("32x32", "2"), ("32x32", "8")),
            *(("40x40", "2"), ("40x40", "8")),
        ]
        for key in ("parameters", "macs_per_picture", "batch", "size"):
            assert {row[key] for row in rows} == {str(plain[key])}
        assert [row["predicted_bytes"] for row in rows] == [str(one["predicted_bytes"]) for one in plain["predicted"]]
        assert float(rows[0]["training_median_s"]) > 0
        assert (plain["measured_bytes"] is None) == (sys.platform != "linux")

    def test_gpus(self, densekit):
        answer = densekit("profile", "--gpus")
        assert answer.status == 0
        if torch.cuda.is_available():
            assert answer.out.count("\n") == torch.cuda.device_count() == len(list_gpus())
        else:
            assert answer.out.startswith("no GPU: PyTorch ")
            assert answer.out.count("\n") == 1

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ([], "no networks named"),
            (["simple_cnn", "--size", "big"], "--size big: give pixels, such as 224, or HEIGHTxWIDTH"),
            (["simple_cnn", "--memory", "lots"], "--memory lots: give an amount with its unit"),
            (["simple_cnn", "--batch", 1], "batch=1"),
            (["simple_cnn", "--batch", 4, 0], "--batch 0: a batch has 1 picture or more"),
            (["densenet121", "--size", 16], "resize it to at least 29 x 29"),
            (["simple_cnn", "--batch", 10**9], "are free: a batch of "),
            (["simple_cnn", "--plot", "costs.txt"], "costs.txt: a picture needs a name that ends in .png"),
        ],
    )
    def test_refusals(self, refused, arguments, reason):
        assert reason in refused("profile", *arguments, "--device", "cpu", "--quiet")

    def test_a_picture_is_not_overwritten(self, refused, tmp_path):
        plot = tmp_path / "costs.png"
        plot.write_bytes(b"mine")
        assert "exists already" in refused("profile", "simple_cnn", "--plot", plot)
        assert plot.read_bytes() == b"mine"
