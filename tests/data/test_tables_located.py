"""Pictures that are not at the path in their table."""

import os
import shutil

import pytest

from densekit.data.datasets import open_data
from densekit.data.tables import read_table
from densekit.errors import DataError


@pytest.fixture
def data(make_folder, tmp_path):
    """Three pictures in each of two folders: 0.png to 2.png, and 3.png to 5.png."""
    root = make_folder({"train_images/a": 3, "b": 3}, root=tmp_path / "data")
    for i in range(3):
        (root / "b" / f"{i}.png").rename(root / "b" / f"{i + 3}.png")
    (root / "b" / "notes.txt").write_text("no picture")
    return root


def located(root, screen, *names):
    lines = [f"{name},{'xy'[i % 2]}" for i, name in enumerate(names)]
    (root / "t.csv").write_text("\n".join(["image_id,label", *lines]))
    return [entry.path.relative_to(root).as_posix() for entry in read_table(root / "t.csv", screen).entries]


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_names_are_looked_up_below_the_table(data, screen, suffix):
    found = located(data, screen, f"1{suffix}", f"4{suffix}", f"0{suffix}", "b/5.png")
    assert found == ["train_images/a/1.png", "b/4.png", "train_images/a/0.png", "b/5.png"]
    assert screen.console.export_text() == (
        f"3 pictures are not at the path in the table: found by name in '{data}/train_images/a', '{data}/b'\n"
    )


def test_the_folders_of_another_computer(data, screen):
    assert located(data, screen, "/home/bob/pictures/a/2.png", "C:\\bob\\b\\3.png", "images/1.png") == [
        "train_images/a/2.png",
        "b/3.png",
        "train_images/a/1.png",
    ]


def test_a_name_with_points_is_no_suffix(data, screen):
    shutil.copy(data / "b" / "3.png", data / "b" / "1.2.840.17.png")
    assert located(data, screen, "1.2.840.17", "b/4") == ["b/1.2.840.17.png", "b/4.png"]


def test_of_two_files_the_folder_decides(data, screen):
    shutil.copytree(data / "b", data / "masks" / "b")
    shutil.copytree(data / "b", data / "old" / "c")
    assert located(data, screen, "lost/masks/b/3.png", "x/c/4.png") == ["masks/b/3.png", "old/c/4.png"]
    with pytest.raises(
        DataError, match=r"t\.csv: 3 may be \S+/b/3\.png or \S+masks/b/3\.png: write its folder too, or p"
    ):
        located(data, screen, "3")
    with pytest.raises(DataError, match=r"3\.png may be .*b/3\.png or .*b/3\.png"):
        located(data, screen, "z/b/3.png")


def test_a_link_to_a_picture_is_the_same_one(data, screen):
    (data / "link").symlink_to(data / "b")
    assert located(data, screen, "3", "4") == ["b/3.png", "b/4.png"]


def test_what_is_missing_from_a_folder_that_is_there_is_missing(data, screen):
    assert located(data, screen, "b/0.png", "b/3.png") == ["b/0.png", "b/3.png"]  # 0.png elsewhere is another picture


def test_a_stem_stays_in_its_folder(data, screen):
    assert located(data, screen, "b/0", "b/3") == ["b/0", "b/3.png"]


def test_what_is_nowhere_stays_as_written(data, screen):
    assert located(data, screen, "9.png", "notes", "4") == ["9.png", "notes", "b/4.png"]


@pytest.mark.skipif(os.sep == "\\", reason="there a backslash parts folders anyway")
def test_backslashes_of_windows(data, screen):
    shutil.copy(data / "b" / "3.png", data / "b\\9.png")  # a name, if there is such a file
    assert located(data, screen, "b\\4.png", "train_images\\a\\0.png", "b\\9.png") == [
        "b/4.png",
        "train_images/a/0.png",
        "b\\9.png",
    ]
    assert screen.console.export_text() == ""


def test_a_name_that_is_too_long_is_nowhere(data, screen):
    long = "x" * 300  # such as a picture in base64
    assert located(data, screen, long, f"{long}/1.png", "4") == [long, "train_images/a/1.png", "b/4.png"]
    (data / "t.csv").write_text(f"{long},x\n")
    with pytest.raises(DataError, match="neither begins with a picture"):
        read_table(data / "t.csv")


def test_a_picture_found_under_two_names_is_one(data, screen):
    assert located(data, screen, "3", "4.png", "b/3.png") == ["b/3.png", "b/4.png"]
    with pytest.raises(DataError, match=r"line 3: \S+b/3\.png was already given another label"):
        located(data, screen, "3", "b/3.png")


def test_a_data_set_of_names(data, screen):
    located(data, screen, *"012345")
    dataset = open_data(data / "t.csv", test_fraction=0, val_fraction=0, screen=screen)
    assert {
        path.name: int(label) for path, label in zip(dataset.train.pictures, dataset.train.labels, strict=True)
    } == {f"{i}.png": i % 2 for i in range(6)}
