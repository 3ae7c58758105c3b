"""The splits of a run stay what they were, whatever happens to the folder."""

import csv

import pytest

from densekit.data.datasets import open_data
from densekit.data.split_record import write_split_record
from densekit.errors import DataError


@pytest.fixture
def root(make_folder):
    return make_folder({"a": 20, "b": 20, "ü, c": 20})


@pytest.fixture
def record(root, tmp_path, screen):
    """The table of a run on ``root``, and the files of each split."""
    dataset = open_data(root, test_fraction=0.2, limit_per_class=12, screen=screen)
    path = tmp_path / "run" / "splits.csv"
    write_split_record(path, dataset)
    return path, splits(dataset)


def splits(dataset):
    parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {name: set(map(str, part.pictures)) for name, part in parts.items() if part is not None}


def test_a_changed_folder_changes_no_split(root, record, make_folder, screen):
    path, before = record
    make_folder({"a": 25, "0": 30}, root=root)  # five more of a class, and a new class, first by its name
    gone = sorted(before["test"])[0]
    (root / gone).unlink()
    dataset = open_data(root, record=path, screen=screen)
    assert dataset.classes == ("a", "b", "ü, c")
    assert splits(dataset) == {**before, "test": before["test"] - {gone}}
    train = dataset.train
    assert [picture.parent.name for picture in train.pictures] == [dataset.classes[label] for label in train.labels]
    text = screen.console.export_text()
    # 60 + 5 + 30 are there, one of 48 recorded is gone; 12 were beyond the limit
    assert "47 pictures are newer than this run: left out" in text
    assert "1 picture of this run is gone or cannot be read" in text
    open_data(root, record=path, limit_per_class=20, screen=screen)
    assert "newer than this run" not in screen.console.export_text()  # nor are those beyond a limit


def test_a_table_of_pictures_anywhere(root, tmp_path, screen):
    table = tmp_path / "lists" / "list.csv"
    table.parent.mkdir()
    files = sorted(root.glob("[ab]/*.png"))
    lines = [f"../{file.relative_to(tmp_path)},{file.parent.name}" for file in files[::2]]
    lines += [f"{file},{file.parent.name}" for file in files[1::2]]  # whole paths
    table.write_text("\n".join(lines))
    dataset, path = open_data(table, screen=screen), tmp_path / "splits.csv"
    write_split_record(path, dataset)
    with path.open(encoding="utf-8") as file:
        assert {row["path"] for row in csv.DictReader(file)} == {line.rpartition(",")[0] for line in lines}
    table.write_text("\n".join(reversed(lines)))
    assert splits(open_data(table, seed=5, record=path, screen=screen)) == splits(dataset)


def test_named_sets_need_no_record(tmp_path, screen):
    write_split_record(tmp_path / "splits.csv", open_data("digits", screen=screen))
    assert not (tmp_path / "splits.csv").exists()


@pytest.mark.parametrize("text", ["", "path,label,split\na/1.png,a,tset\n", "a/1.png,a,train\n"])
def test_a_damaged_record(root, tmp_path, screen, text):
    path = tmp_path / "splits.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"splits\.csv does not hold the splits of a run|none of the 0 pictures"):
        open_data(root, record=path, screen=screen)


def test_nothing_of_it_is_there(record, make_folder, tmp_path, screen):
    path, _ = record
    other = make_folder({"d": 3, "e": 3}, root=tmp_path / "other")
    with pytest.raises(DataError, match=r"none of the 48 pictures of .*splits\.csv can be read there"):
        open_data(other, record=path, screen=screen)


def test_another_class_than_then_is_told(root, tmp_path, screen):
    table, record = tmp_path / "list.csv", tmp_path / "splits.csv"
    files = sorted(root.glob("[ab]/*.png"))
    table.write_text("".join(f"{file},{file.parent.name}\n" for file in files))
    write_split_record(record, open_data(table, screen=screen))
    open_data(table, record=record, screen=screen)
    assert "another class" not in screen.console.export_text()
    lines = table.read_text().splitlines()
    lines[3] = lines[3].removesuffix("a") + "b"
    table.write_text("\n".join(lines))
    open_data(table, record=record, screen=screen)
    told = screen.console.export_text()
    assert (
        f"1 picture has another class than when the run began, first {files[3].relative_to(tmp_path)} was 'a', is 'b'"
        in told
    )


def test_names_that_are_no_utf_8(make_folder, tmp_path, screen):
    root = make_folder({"a": 5, "b": 5})
    odd = root / "a" / "p\udcff.png"  # a byte that begins no character, as Python names it
    (root / "a" / "0.png").rename(odd)
    dataset, record = open_data(root, screen=screen), tmp_path / "splits.csv"
    write_split_record(record, dataset)
    assert splits(open_data(root, record=record, screen=screen)) == splits(dataset)
