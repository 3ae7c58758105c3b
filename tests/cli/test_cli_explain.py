import re

import pytest

from densekit.models.catalogue import create_model


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(b"no picture")
    return path


def test_explains_in_the_run_folder_and_never_twice_in_the_same(densekit, colour_run, colours, bad):
    files = [colours / "test" / "red" / "100.png", bad]
    for name in ("explained", "explained-2"):
        answer = densekit("explain", colour_run, *files, "--top", 2)
        assert answer.status == 0
        rows = answer.out.splitlines()
        assert re.search(r"100\.png +red \d+\.\d%  [\w ]+ \d+\.\d%$", rows[0])
        assert rows[1].endswith("cannot be read: not a picture of a known format")
        assert rows[2:] == [f"written to {colour_run / name}"]
        assert answer.err == "warning: 1 of 2 pictures could not be read\n"
        assert [path.name for path in (colour_run / name).iterdir()] == ["001-100.png"]


@pytest.mark.parametrize("method", ["cam", "gradcam", "occlusion", "integrated-gradients"])
def test_methods(densekit, colour_run, colours, tmp_path, method):
    folder = tmp_path / "why"
    answer = densekit("explain", colour_run, f"{colours}/test/red/10[01].png", "--method", method, "--out", folder)
    assert answer.status == 0
    names = {"001-100.png", "002-101.png", "contact-sheet-1.png"}
    assert {path.name for path in folder.iterdir()} == names


def test_status_2_if_nothing_could_be_read(densekit, colour_run, bad, tmp_path):
    answer = densekit("explain", colour_run, bad, "--out", tmp_path / "why")
    assert answer.status == 2
    assert "written" not in answer.out
    assert not (tmp_path / "why").exists()


def test_refusals(refused, colour_run, colours, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    picture = colours / "test" / "red" / "100.png"
    assert "used exists already: choose another --out" in refused(
        "explain", colour_run, picture, "--out", tmp_path / "used"
    )
    assert refused("explain", colour_run).startswith("no pictures named: densekit explain RUN IMAGE...")
    assert "no dense block in this SimpleCNN" in refused("explain", colour_run, picture, "--feature-reuse")
    assert "top=0" in refused("explain", colour_run, picture, "--top", 0)


def test_feature_reuse_needs_no_pictures(densekit, colour_run, tmp_path):
    from densekit.classifier import Classifier
    from densekit.loading import load_classifier

    like = load_classifier(colour_run, device="cpu")
    network = create_model("densenet121", num_classes=3, block_config=(2, 2), growth_rate=4, stem="cifar")
    Classifier(network, like.classes, like.preprocessing).save(tmp_path / "run")
    answer = densekit("explain", tmp_path / "run", "--feature-reuse", "--out", tmp_path / "why")
    assert (answer.status, answer.out) == (0, f"written to {tmp_path / 'why'}\n")
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == ["feature-reuse.csv", "feature-reuse.png"]
