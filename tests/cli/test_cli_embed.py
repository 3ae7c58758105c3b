from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from densekit.data.pictures import read_picture
from densekit.errors import SettingsError
from densekit.loading import load_classifier
from densekit.runtimes.exported import ExportedNetwork


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(b"no picture")
    return path


def test_writes_a_vector_for_each_picture_that_can_be_read(densekit, colour_run, colours, bad, tmp_path):
    """Each times the last layer's weights, plus its bias, is what the network answers about the picture alone."""
    files = [colours / "test" / "red" / "100.png", bad, colours / "test" / "red" / "101.png"]
    answer = densekit("embed", colour_run, *files, "--out", tmp_path / "new" / "e.npz", "--batch-size", 2)
    assert answer.status == 0
    assert answer.err.startswith(f"warning: 1 of 3 pictures could not be read, first {bad}: not a picture of a known")
    with np.load(tmp_path / "new" / "e.npz") as found:
        paths, vectors = found["paths"].tolist(), found["embeddings"]
    assert paths == [str(files[0]), str(files[2])]
    assert answer.out == f"{tmp_path}/new/e.npz: 2 vectors of {vectors.shape[1]} values\n"
    classifier = load_classifier(colour_run, device="cpu")
    weight, bias = list(classifier.network.parameters())[-2:]
    for path, vector in zip(paths, torch.from_numpy(vectors), strict=True):
        with torch.no_grad():
            logits = classifier.network.eval()(classifier.preprocessing(read_picture(path))[None])[0]
            torch.testing.assert_close(weight @ vector + bias, logits)


def test_nothing_is_written_if_nothing_could_be_read(densekit, colour_run, bad, tmp_path):
    answer = densekit("embed", colour_run, bad, "--out", tmp_path / "e.npz")
    assert answer.status == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]


def test_refusals(refused, colour_run, colours, tmp_path):
    picture, used = colours / "test" / "red" / "100.png", tmp_path / "used.npz"
    used.write_text("mine", encoding="utf-8")
    assert "used.npz exists already: choose another --out" in refused("embed", colour_run, picture, "--out", used)
    assert used.read_text(encoding="utf-8") == "mine"
    assert "e.csv is no .npz file" in refused("embed", colour_run, picture, "--out", tmp_path / "e.csv")
    assert refused("embed", colour_run, "--out", tmp_path / "e.npz").startswith("no pictures named: densekit embed")
    assert "batch_size=0" in refused("embed", colour_run, picture, "--out", tmp_path / "e.npz", "--batch-size", 0)


def test_an_exported_network_gives_its_answers_alone(colour_run, colours):
    classifier = replace(load_classifier(colour_run, device="cpu"), network=ExportedNetwork(lambda pictures: pictures))
    for embed in (partial(classifier.embed, colours / "test"), partial(classifier.embeddings, torch.zeros(1, 3, 8, 8))):
        with pytest.raises(SettingsError, match="embed pictures with its run"):
            embed()
