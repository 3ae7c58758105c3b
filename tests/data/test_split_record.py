"""The splits of a run stay what they were, whatever happens to the folder."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densekit.data.datasets import open_data
from densekit.data.split_record import write_split_record
from densekit.errors import DataError


@pytest.fixture
def root(make_folder, tmp_path):
    """A folder of pictures that are all different."""
    root = make_folder({"a": 20, "b": 20, "ü, c": 20}, root=tmp_path / "root")
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        paint(path, number)
    return root


def paint(path, number):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)).save(path)


@pytest.fixture
def record(root, tmp_path, screen):
    """The table of a run on ``root``, and the files of each split."""
    dataset = open_data(root, test_fraction=0.2, limit_per_class=12, screen=screen)
    path = tmp_path / "run" / "splits.csv"
    write_split_record(path, dataset, screen)
    return path, splits(dataset)


@pytest.fixture
def begun(root, tmp_path, screen):
    """A data set of ``root``, whole, and the record of its splits."""
    dataset, record = open_data(root, test_fraction=0.2, screen=screen), tmp_path / "splits.csv"
    write_split_record(record, dataset, screen)
    return dataset, record


def splits(dataset):
    parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {name: set(map(str, part.pictures)) for name, part in parts.items() if part is not None}


def test_a_changed_folder_changes_no_split(root, record, screen):
    path, before = record
    for number in range(35):  # five more of a class, and a new class, first by its name
        paint(root / "a" / f"{number + 20}.png" if number < 5 else root / "0" / f"{number}.png", 100 + number)
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
    write_split_record(path, dataset, screen)
    with path.open(encoding="utf-8") as file:
        assert {row["path"] for row in csv.DictReader(file)} == {line.rpartition(",")[0] for line in lines}
    table.write_text("\n".join(reversed(lines)))
    assert splits(open_data(table, seed=5, record=path, screen=screen)) == splits(dataset)


def test_named_sets_need_no_record(tmp_path, screen):
    write_split_record(tmp_path / "splits.csv", open_data("digits", screen=screen), screen)
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
    write_split_record(record, open_data(table, screen=screen), screen)
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
    write_split_record(record, dataset, screen)
    assert splits(open_data(root, record=record, screen=screen)) == splits(dataset)


def contents(dataset):
    return {name: {Path(file).read_bytes() for file in files} for name, files in splits(dataset).items()}


def test_pictures_with_names_given_anew_keep_their_splits(root, begun, screen):
    """As an export that numbers its pictures gives them: by path, most of the test pictures would be training's."""
    dataset, record = begun
    before = contents(dataset)
    for folder in root.iterdir():
        files = sorted(folder.iterdir())
        pixels = [file.read_bytes() for file in files]
        for file, content in zip(files, reversed(pixels), strict=True):
            file.write_bytes(content)
    assert contents(open_data(root, record=record, screen=screen)) == before
    assert "60 pictures have other names than when the run began" in screen.console.export_text()


def test_classes_that_change_names(root, begun, screen):
    dataset, record = begun
    before = contents(dataset)
    (root / "a").rename(root / "was a")
    (root / "b").rename(root / "a")
    (root / "was a").rename(root / "b")
    assert contents(open_data(root, record=record, screen=screen)) == before
    assert "40 pictures have another class than when the run began" in screen.console.export_text()


def test_new_names_for_all_beside_new_pictures(root, begun, screen):
    dataset, record = begun
    before = contents(dataset)
    for file in sorted(root.rglob("*.png")):
        file.rename(file.with_stem(f"x{file.stem}"))
    for number in range(5):
        paint(root / "a" / f"{number}.png", 100 + number)  # under the names of others
    (root / "a" / "copy.png").write_bytes((root / "a" / "x3.png").read_bytes())
    assert contents(open_data(root, record=record, screen=screen)) == before
    text = screen.console.export_text()
    assert "60 pictures have other names than when the run began, but the same split" in text
    assert "6 pictures are newer than this run: left out" in text
    assert "gone" not in text
    assert "contents" not in text


def test_other_contents_are_told(root, begun, screen):
    dataset, record = begun
    tested = sorted(splits(dataset)["test"])[0]
    Image.new("RGB", (8, 6)).save(tested)
    assert splits(open_data(root, record=record, screen=screen)) == splits(dataset)
    told = "1 picture has other contents than when the run began, first "
    assert f"{told}{Path(tested).relative_to(root)}" in screen.console.export_text()


def test_one_picture_in_two_classes_is_told(root, tmp_path, screen):
    (root / "b" / "copy.png").write_bytes((root / "a" / "3.png").read_bytes())
    (root / "a" / "copy.png").write_bytes((root / "a" / "4.png").read_bytes())  # of one class: nothing to tell
    write_split_record(tmp_path / "splits.csv", open_data(root, screen=screen), screen)
    text = screen.console.export_text()
    assert "1 picture is there again with another label, byte for byte" in text
    assert "a/3.png (a)" in text
    assert "b/copy.png (b)" in text


def test_a_copy_of_a_training_picture_is_never_tested(root, begun, screen):
    dataset, record = begun
    tested, learned = (Path(sorted(splits(dataset)[name])[0]) for name in ("test", "train"))
    tested.write_bytes(learned.read_bytes())
    after = splits(open_data(root, record=record, screen=screen))
    assert after == {**splits(dataset), "test": splits(dataset)["test"] - {str(tested)}}
    text = screen.console.export_text()
    assert "1 picture is a copy of what the run was trained on by now, and left out" in text
    assert "newer" not in text


def test_numbers_that_move_up_where_a_picture_is_missing(root, begun, screen):
    """No held-out name need be there to show it."""
    dataset, record = begun
    before = contents(dataset)
    gone = sorted(splits(dataset)["train"])[0]
    before["train"].discard(Path(gone).read_bytes())
    files = sorted(Path(gone).parent.iterdir())
    kept = [file.read_bytes() for file in files if file != Path(gone)]
    for file, content in zip(files, kept, strict=False):
        file.write_bytes(content)
    files[-1].unlink()
    assert contents(open_data(root, record=record, screen=screen)) == before


def test_a_record_without_digests_goes_by_names(root, begun, screen):
    dataset, record = begun
    lines = record.read_text(encoding="utf-8").splitlines()
    place = lines[0].split(",").index("digest")
    cut = [next(csv.reader([line])) for line in lines]
    with record.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(row[:place] + row[place + 1 :] for row in cut)
    sorted(root.rglob("*.png"))[0].unlink()
    after = splits(open_data(root, record=record, screen=screen))
    assert sum(map(len, after.values())) == 59
    assert all(after[name] <= files for name, files in splits(dataset).items())


def test_held_out_pictures_under_training_names(root, tmp_path, screen):
    """One picture is missing and the others move up: no held-out name is left that would show it."""
    files = [root / "a" / f"{number}.png" for number in range(3)] + [root / "b" / "0.png"]
    table, record = tmp_path / "list.csv", tmp_path / "splits.csv"
    lines = [f"{file},{file.parent.name},{'val' if file.stem == '2' else 'train'}" for file in files]
    table.write_text("\n".join(["path,label,split", *lines]))
    dataset = open_data(table, screen=screen)
    write_split_record(record, dataset, screen)
    before = contents(dataset)
    before["train"].discard(files[0].read_bytes())
    files[1].replace(files[0])
    files[2].replace(files[1])
    assert contents(open_data(table, record=record, screen=screen)) == before
