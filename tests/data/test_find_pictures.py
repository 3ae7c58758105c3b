"""Picture files that files, folders and patterns name."""

import shutil

import pytest

from densekit.data.find_pictures import find_pictures
from densekit.errors import DataError


def test_folder_is_searched_through(photos):
    found = [path.relative_to(photos).as_posix() for path in find_pictures([photos])]
    assert found == [
        "deep blue/deeper/20.png",
        "deep blue/deeper/21.png",
        "grün/10.png",
        "grün/11.png",
        "red/0.png",
        "red/1.png",
        "red/2.png",
    ]


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("red/*", 3), ("*/1?.png", 2), ("**/*.png", 7), ("gr[üu]n/*", 2)],
    ids=["star", "question_mark", "any_depth", "set_of_characters"],
)
def test_pattern(photos, pattern, count):
    found = find_pictures([f"{photos}/{pattern}"])
    assert len(found) == count
    assert found == sorted(found)


def test_each_file_once_in_the_order_given(photos):
    last, folder = photos / "red" / "2.png", photos / "red"
    assert find_pictures([last, str(folder), f"{folder}/*.png"]) == [last, folder / "0.png", folder / "1.png"]


def test_file_is_taken_whatever_its_name(photos):
    shutil.copy(photos / "red" / "0.png", photos / "a[1] picture")
    named = [photos / "red" / "notes.txt", photos / "a[1] picture", photos / "missing.png", photos / ("a" * 300)]
    assert find_pictures(map(str, named)) == named


def test_home_folder(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos))
    assert find_pictures(["~/red/0.png", "~/grün/*1.png"]) == [photos / "red" / "0.png", photos / "grün" / "11.png"]


@pytest.mark.parametrize("source", ["nothing", "*.gif", "no*/x?.png"], ids=["empty_folder", "pattern", "deep"])
def test_nothing_found(photos, source):
    (photos / "nothing").mkdir()
    with pytest.raises(DataError, match="no pictures found"):
        find_pictures([photos / "red", f"{photos}/{source}"])
