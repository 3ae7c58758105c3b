"""Data sets whose pictures have any number of labels."""

import csv

import numpy as np
import pytest

from densekit.console import Screen
from densekit.data.batches import OrderedBatches, class_weights
from densekit.data.datasets import open_data, open_labelled
from densekit.data.loaders import make_loader
from densekit.data.preprocessing import Preprocessing
from densekit.data.split_record import write_split_record
from densekit.errors import DataError

NAMES = {"a": ("cat", "dog"), "b": (), "c": ("dog",), "d": ("elk 10", "elk 2", "cat")}


@pytest.fixture
def table(make_folder, tmp_path):
    """Ten pictures with the labels of each of ``NAMES``."""
    root = make_folder(dict.fromkeys(NAMES, 10), root=tmp_path / "data")
    lines = [f"{name}/{i}.png,{'|'.join(labels)}" for name, labels in NAMES.items() for i in range(10)]
    (root / "labels.csv").write_text("\n".join(["path,labels", *lines]))
    return root / "labels.csv"


def named(dataset, part) -> dict[str, tuple[str, ...]]:
    rows = zip(part.pictures, part.labels, strict=True)
    return {str(path): tuple(dataset.classes[place] for place in np.flatnonzero(row)) for path, row in rows}


def test_labels_are_a_row_of_ones_and_zeros(table, screen):
    dataset = open_data(table, test_fraction=0.2, val_fraction=0.25, screen=screen)
    assert dataset.multilabel
    assert dataset.classes == ("cat", "dog", "elk 2", "elk 10")
    parts = [dataset.train, dataset.val, dataset.test]
    assert [len(part) for part in parts] == [24, 8, 8]
    for part in parts:
        assert (part.labels.dtype, part.labels.shape) == (np.float32, (len(part), 4))
        assert part.counts(4).tolist() == part.labels.sum(0).tolist()
        for path, labels in named(dataset, part).items():
            assert sorted(labels) == sorted(NAMES[path.split("/")[-2]])


def test_a_batch_has_its_rows(table, screen):
    train = open_data(table, screen=screen).train
    batches = list(make_loader(train, Preprocessing(size=(6, 8)), OrderedBatches(len(train), 7), workers=0))
    assert str(batches[0].labels.dtype) == "torch.float32"
    assert np.array_equal(np.concatenate([batch.labels for batch in batches]), train.labels)


def test_a_single_label_is_a_yes_or_no(make_folder, screen):
    root = make_folder({"a": 6})
    (root / "t.csv").write_text("path,defect\n" + "\n".join(f"a/{i}.png,{i % 2}" for i in range(6)))
    dataset = open_data(root / "t.csv", screen=screen)
    assert dataset.classes == ("defect",)
    assert dataset.train.labels.shape[1] == 1


def test_no_label_at_all(make_folder, screen):
    root = make_folder({"a": 3})
    (root / "t.csv").write_text("path,labels\na/0.png,\na/1.png,\n")
    with pytest.raises(DataError, match="no picture has any label"):
        open_data(root / "t.csv", screen=screen)


def test_a_label_of_test_pictures_only(make_folder, screen):
    root = make_folder({"a": 3})
    (root / "t.csv").write_text("path,labels,split\na/0.png,x,train\na/1.png,x|y,test\n")
    with pytest.raises(DataError, match="no training pictures of 'y'"):
        open_data(root / "t.csv", screen=screen)


def test_pictures_to_test_on_must_be_of_the_same_kind(table, make_folder, tmp_path, screen):
    classes = ("cat", "dog", "elk 2", "elk 10", "yak")
    found = open_labelled(table, classes=classes, multilabel=True, screen=screen)
    assert found.labels.shape == (40, 5)
    assert found.labels.sum(0).tolist() == [20, 20, 10, 10, 0]
    assert "has 'yak': if nobody looked for these, their figures say nothing" in screen.console.export_text()
    with pytest.raises(DataError, match="several labels per picture, but the classifier gives each picture one class"):
        open_labelled(table, classes=classes, screen=screen)
    folder = make_folder({"cat": 2, "dog": 2}, root=tmp_path / "folder")
    for data in (folder, "digits"):
        with pytest.raises(DataError, match="one class per picture, but the classifier gives several"):
            open_labelled(data, classes=classes, multilabel=True, screen=screen)
    with pytest.raises(DataError, match="the classifier has no class 'elk 2', 'elk 10'"):
        open_labelled(table, classes=("cat", "dog"), multilabel=True, screen=screen)


def test_splits_of_a_run_stay(table, tmp_path, screen):
    before, record = open_data(table, seed=4, screen=screen), tmp_path / "splits.csv"
    write_split_record(record, before, screen)
    with record.open(encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["path", "labels", "split", "digest"]
    lines = table.read_text().replace("b/3.png,", "b/3.png,dog").splitlines()
    table.write_text("\n".join([lines[0], *reversed(lines[1:]), "a/new.png,cat"]))
    after = open_data(table, seed=9, record=record, screen=screen)
    assert after.classes == before.classes
    for name in ("train", "val", "test"):
        part, old = getattr(after, name), getattr(before, name)
        assert set(map(str, part.pictures)) == set(map(str, old.pictures))
        changed = {path for path, labels in named(after, part).items() if labels != named(before, old)[path]}
        assert all(path.endswith("b/3.png") for path in changed)
    assert "1 picture has other labels than when the run began, first b/3.png was '', is 'dog'" in (
        screen.console.export_text()
    )
    table.write_text("path,label\na/0.png,cat\nc/0.png,dog\n")
    with pytest.raises(DataError, match="another kind of labels"):
        open_data(table, record=record, screen=screen)


def test_weights_make_up_for_rare_labels():
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]], np.float32)
    assert class_weights(labels, 3).tolist() == pytest.approx([1 / 3, 3.0, 4.0])
    assert class_weights(labels[:3], 3)[0] == 1  # on every picture: it would be unlearned


def test_a_picture_that_got_a_new_label_is_left_out_of_a_run(table, tmp_path, screen):
    record = tmp_path / "splits.csv"
    write_split_record(record, open_data(table, screen=screen), screen)
    table.write_text(table.read_text().replace("c/3.png,dog", "c/3.png,dog|yak"))
    again = open_data(table, record=record, screen=screen)
    parts = [part for part in (again.train, again.val, again.test) if part is not None]
    assert sum(len(part) for part in parts) == 39
    text = screen.console.export_text()
    assert "1 picture is labelled with what this run does not know, and left out, first c/3.png: 'yak'" in text
    assert "gone" not in text
    assert "newer" not in text


class TestGroups:
    @pytest.fixture
    def patients(self, make_folder):
        """Sixty pictures of two classes, three of each of twenty patients; ``patients(split) -> table``."""
        root = make_folder({"x": 60})

        def write(split):
            lines = [f"x/{i}.png,{'ab'[i // 3 % 2]},p{i // 3},{split(i)}" for i in range(60)]
            (root / "t.csv").write_text("\n".join(["path,label,patient,split", *lines]))
            return root / "t.csv"

        return write

    def test_are_never_cut(self, patients, screen):
        table = patients(lambda i: "")
        table.write_text(table.read_text().replace(",split", ",note"))
        dataset = open_data(table, test_fraction=0.2, val_fraction=0.25, screen=screen)
        parts = [dataset.train, dataset.val, dataset.test]
        found = [{int(picture.stem) // 3 for picture in part.pictures} for part in parts]
        assert sorted(number for numbers in found for number in numbers) == list(range(20))  # each in one part
        assert [len(part) for part in parts] == [36, 12, 12]
        assert all(np.ptp(part.counts(2)) == 0 for part in parts)

    def test_pictures_of_no_group_are_cut_one_by_one(self, patients, screen):
        table = patients(lambda i: "")
        lines = [line.rpartition(",")[0] for line in table.read_text().splitlines()]
        table.write_text("\n".join([lines[0], *(line.rpartition(",")[0] + "," for line in lines[1:10]), *lines[10:]]))
        counts = set()
        for seed in range(10):
            val = open_data(table, test_fraction=0, val_fraction=0.3, seed=seed, screen=screen).val
            counts.add(len({int(picture.stem) for picture in val.pictures} & set(range(9))))
        assert counts - {0, 9}

    def test_that_the_table_cuts_are_told(self, patients, screen):
        open_data(patients(lambda i: "train" if i % 3 else "test"), screen=screen)
        told = "20 groups have pictures in more than one split, which flatters the figures: 'p0', 'p1'"
        assert told in screen.console.export_text()

    def test_that_a_run_has_cut_are_told_again(self, patients, tmp_path, screen):
        dataset = open_data(patients(lambda i: "train" if i % 3 else "test"), screen=Screen(quiet=True))
        write_split_record(tmp_path / "splits.csv", dataset, screen)
        open_data(dataset.name, record=tmp_path / "splits.csv", screen=screen)
        assert "20 groups have pictures in more than one split" in screen.console.export_text()

    def test_that_it_keeps_whole_are_not(self, patients, screen):
        dataset = open_data(patients(lambda i: "test" if i < 12 else ""), val_fraction=0.25, screen=screen)
        assert "more than one split" not in screen.console.export_text()
        cut = [{int(picture.stem) // 3 for picture in part.pictures} for part in (dataset.train, dataset.val)]
        assert not cut[0] & cut[1]


def test_labels_of_many_kinds_are_remembered_by_a_limited_run(make_folder, tmp_path, screen):
    root = make_folder({"x": 40})
    lines = [f"x/{i}.png,{'all|rare' if i < 2 else 'all'}" for i in range(40)]
    (root / "t.csv").write_text("\n".join(["path,labels", *lines]))
    dataset = open_data(root / "t.csv", limit_per_class=3, test_fraction=0, val_fraction=0, screen=screen)
    write_split_record(tmp_path / "splits.csv", dataset, screen)
    again = open_data(root / "t.csv", record=tmp_path / "splits.csv", limit_per_class=3, screen=screen)
    assert again.classes == dataset.classes == ("all", "rare")
