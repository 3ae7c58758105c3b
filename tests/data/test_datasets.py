import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from densekit.data.datasets import open_data
from densekit.data.memory import load_into_memory
from densekit.data.picture_set import PictureSet
from densekit.data.splits import limit_per_class, stratified_split
from densekit.errors import DataError, PictureError, SettingsError


def names(part):
    return [] if part is None else [part.name(i) for i in range(len(part))]


def test_split_folders_keep_their_splits(make_folder, screen):
    root = make_folder({"train/a": 10, "train/b": 20, "val/a": 1, "test/b": 2})
    data = open_data(root, screen=screen)
    assert data.classes == ("a", "b")
    assert data.train.counts(2).tolist() == [10, 20]
    assert names(data.val) == [str(root / "val/a/0.png")]
    assert data.test is not None
    assert data.test.labels.tolist() == [1, 1]
    assert {part.split for part in (data.train, data.val, data.test)} == {"train", "val", "test"}
    assert (data.channels, data.size) == (3, (6, 8))


def test_a_test_split_is_only_cut_where_there_are_no_splits(make_folder, screen):
    cut = open_data(make_folder({"a": 20, "b": 40}), screen=screen)
    assert [part.counts(2).tolist() for part in (cut.test, cut.val, cut.train)] == [[2, 4], [2, 4], [16, 32]]
    every = names(cut.train) + names(cut.val) + names(cut.test)
    assert len(set(every)) == len(every) == 60


def test_no_test_split_is_cut_beside_a_train_folder(make_folder, screen):
    data = open_data(make_folder({"train/a": 5, "train/b": 5}), screen=screen)
    assert data.test is None
    assert data.val is not None
    assert data.val.counts(2).tolist() == [1, 1]


def test_nothing_is_cut_at_fraction_0(make_folder, screen):
    data = open_data(make_folder({"a": 5, "b": 5}), val_fraction=0, test_fraction=0, screen=screen)
    assert (len(data.train), data.val, data.test) == (10, None, None)


def test_cuts_depend_on_the_seed_and_not_on_place_or_order(tmp_path, make_folder, screen):
    def cut(root, seed=0):
        data = open_data(root, seed=seed, screen=screen)
        return [[name.removeprefix(str(root)) for name in names(part)] for part in (data.train, data.val, data.test)]

    first = make_folder({"a": 30, "b": 30}, root=tmp_path / "first")
    second = make_folder({"b": 30}, root=tmp_path / "second")  # made in another order
    make_folder({"a": 30}, root=second)
    assert cut(first) == cut(second)
    assert cut(first, seed=1) != cut(first)


def test_a_fold_takes_the_place_of_other_test_pictures(make_folder, screen):
    root = make_folder({"train/a": 10, "train/b": 20, "test/b": 2})
    folds = [open_data(root, fold=f"{number}/5", screen=screen) for number in range(1, 6)]
    assert [fold.test.counts(2).tolist() for fold in folds] == [[2, 4]] * 5
    tested = [name for fold in folds for name in names(fold.test)]
    assert sorted(tested) == sorted(str(path) for path in (root / "train").rglob("*.png"))
    for fold in folds:
        assert len(fold.train) + len(fold.val) == 24
        assert not set(names(fold.test)) & {*names(fold.train), *names(fold.val)}


def test_a_fold_keeps_the_validation_pictures_that_are_named(make_folder, screen):
    root = make_folder({"train/a": 6, "train/b": 6, "val/a": 1, "val/b": 3})
    folds = [open_data(root, fold=f"{number}/3", screen=screen) for number in (1, 2, 3)]
    assert [(len(fold.train), len(fold.val), len(fold.test)) for fold in folds] == [(8, 4, 4)] * 3


def test_limits_cut_before_folds(make_folder, screen):
    data = open_data(make_folder({"a": 30, "b": 40}), fold="1/2", limit_per_class=10, screen=screen)
    assert len(data.train) + len(data.val) == len(data.test) == 10


def test_a_class_of_one_picture_cannot_be_in_folds(make_folder, screen):
    root = make_folder({"a": 5, "b": 1})
    with pytest.raises(DataError, match="'b' cannot be in 3 folds: each class needs two pictures or more"):
        open_data(root, fold="1/3", screen=screen)


def test_classes_that_differ_by_case_are_told(make_folder, screen):
    """They are one class or, as letters, two."""
    assert open_data(make_folder({"A": 3, "a": 3, "b": 3}), screen=screen).classes == ("A", "a", "b")
    assert "classes 'A' and 'a' differ by case only" in screen.console.export_text()


def test_limits_cut_before_validation(make_folder, screen):
    root = make_folder({"train/a": 30, "train/b": 8, "test/a": 9, "test/b": 2})
    data = open_data(root, limit_per_class=20, limit_test_per_class=3, screen=screen)
    assert data.train.counts(2).tolist() == [18, 7]
    assert data.val is not None
    assert data.val.counts(2).tolist() == [2, 1]
    assert data.test is not None
    assert data.test.counts(2).tolist() == [3, 2]
    assert max(int(name.rpartition("/")[2][:-4]) for name in names(data.train)) > 20  # not simply the first files


def test_bad_files_are_named_and_left_out(make_folder, screen):
    root = make_folder({"train/a": 6, "train/b": 6, "train/empty": 0})
    (root / "train/a/2.png").write_bytes(b"")
    (root / "train/b/5.png").write_text("no picture")
    (root / "train/b/notes.txt").write_text("notes")
    data = open_data(root, screen=screen)
    assert data.classes == ("a", "b")
    assert {skipped.path.name: skipped.reason for skipped in data.skipped} == {
        "2.png": "the file is empty",
        "5.png": "not a picture of a known format",
        "notes.txt": "not a picture file name",
        "empty": "class folder without pictures",
    }
    shown = screen.console.export_text()
    assert f"2 pictures cannot be read and are left out, first {root}/train/a/2.png: the file is empty" in shown
    assert "class folders without pictures: 'empty'" in shown
    with pytest.raises(PictureError, match=r"2\.png: the file is empty"):
        open_data(root, strict=True, screen=screen)


UNLEARNABLE = {
    "one_class": ({"train/a": 2}, "only one class, 'a'"),
    "class_in_test_only": ({"train/a": 2, "train/b": 2, "test/c": 1}, "no training pictures of 'c'"),
    "no_train_folder": ({"test/a": 1, "test/b": 1}, "no training pictures of 'a', 'b'"),
    "names_differ_by_case_in_another_split": (
        {"train/Cat": 2, "train/b": 2, "test/cat": 2},
        "no training pictures of 'cat'",
    ),
}


@pytest.mark.parametrize(("counts", "message"), UNLEARNABLE.values(), ids=UNLEARNABLE)
def test_unlearnable_folders(make_folder, screen, counts, message):
    with pytest.raises(DataError, match=message):
        open_data(make_folder(counts), screen=screen)


def test_no_readable_picture(make_folder, screen):
    root = make_folder({"a": 1, "b": 1})
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the pictures can be read"):
        open_data(root, screen=screen)


def test_no_such_data(screen):
    with pytest.raises(DataError, match=r"no-such: no such folder or table, and no data set's name \(digits, mnist"):
        open_data("no-such", screen=screen)


@pytest.mark.parametrize(
    "settings",
    [
        {"val_fraction": 1.0},
        {"test_fraction": -0.1},
        {"limit_per_class": 0},
        {"limit_test_per_class": -1},
        {"seed": -1},
    ],
    ids=str,
)
def test_settings_that_cannot_work(settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        open_data("digits", **settings)


def test_table_with_missing_file(make_folder, screen):
    root = make_folder({"pictures": 4})
    lines = [f"pictures/{i}.png,{'ab'[i % 2]}" for i in range(5)]
    (root / "table.csv").write_text("path,label\n" + "\n".join(lines))
    data = open_data(root / "table.csv", val_fraction=0, test_fraction=0, screen=screen)
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert [skipped.reason for skipped in data.skipped] == ["no such file"]


def test_lines_without_a_label_are_left_out_and_told(make_folder, screen):
    root = make_folder({"pictures": 5})
    lines = [f"pictures/{i}.png,{'ab'[i % 2] if i < 4 else ''}" for i in range(5)]
    (root / "table.csv").write_text("path,label\n" + "\n".join(lines))
    data = open_data(root / "table.csv", val_fraction=0, test_fraction=0, screen=screen)
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert [skipped.path.name for skipped in data.skipped] == ["4.png"]
    assert "warning: left out, because the table has no label for them: '4.png'\n" in screen.console.export_text()


def test_grey_only_where_all_splits_are_grey(make_folder, screen):
    root = make_folder({"train/a": 3, "train/b": 3}, mode="L", size=(5, 9))
    assert open_data(root, screen=screen).channels == 1
    make_folder({"test/a": 1}, mode="RGB", root=root)
    assert open_data(root, screen=screen).channels == 3


def test_size_is_the_median(make_folder, screen):
    root = make_folder({"train/a": 3}, size=(10, 20))
    make_folder({"train/b": 2}, size=(500, 5), root=root)
    assert open_data(root, val_fraction=0, screen=screen).size == (10, 20)


def test_digits_are_scikit_learns(screen):
    data = open_data("digits", val_fraction=0, screen=screen)
    assert data.test is not None
    assert (len(data.train), len(data.test), data.channels, data.size) == (1438, 359, 1, (8, 8))
    reference = {
        (np.rint(image * 255 / 16).astype(np.uint8).tobytes(), label)
        for image, label in zip(load_digits().images, load_digits().target, strict=True)
    }
    ours = {
        (picture.tobytes(), label)
        for part in (data.train, data.test)
        for picture, label in zip(part.pictures, part.labels, strict=True)
    }
    assert ours == reference
    assert data.train.pictures.max() == 255
    assert data.test.name(3) == "test/3"


def test_named_sets_are_cut_as_by_earlier_releases(screen):
    """Their runs hold no table of the splits: cut another way, evaluate would test on what was learned from."""
    data = open_data("digits", seed=0, screen=screen)
    first = {
        split: [int(np.asarray(part.read(i)).sum()) for i in range(6)]
        for split, part in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    assert first == {
        "train": [4687, 5483, 5450, 4625, 5689, 5240],
        "val": [4240, 4112, 4479, 5055, 4640, 5038],
        "test": [4989, 4256, 4114, 4877, 5083, 5116],
    }


@pytest.mark.parametrize("counts", [(10, 10), (1, 30), (2, 3), (7, 1000)], ids=str)
@pytest.mark.parametrize("fraction", [0, 0.01, 0.1, 0.5, 0.99])
def test_stratified_split(counts, fraction):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    stay, out = stratified_split(labels, fraction, seed=0)
    assert sorted([*stay, *out]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        held = (labels[out] == label).sum()
        assert held <= count - 1
        if fraction and count > 1:
            assert held == max(1, min(count - 1, round(fraction * count)))


def test_limit_is_nested():
    """A smaller limit takes a part of what a larger one takes, so studies of data size are comparable."""
    labels = np.repeat([0, 1], [50, 30])
    small, large = (set(limit_per_class(labels, limit, seed=3)) for limit in (10, 40))
    assert small < large
    assert len(large) == 70


def test_picture_set_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="2 pictures, 1 labels"):
        PictureSet(np.zeros((2, 4, 4), np.uint8), np.zeros(1, np.int64), "train")


def test_into_memory(make_folder, screen):
    root = make_folder({"train/a": 3}, size=(4, 5))
    make_folder({"train/b": 4}, mode="L", size=(7, 3), root=root)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    picture.save(root / "train/b/1.png")
    damaged = root / "train/b/1.png"
    damaged.write_bytes(damaged.read_bytes()[:2000])  # its header is whole
    train = open_data(root, val_fraction=0, screen=screen).train
    assert len(train) == 7
    cached, bad = load_into_memory(train, screen=screen)
    assert [skipped.path for skipped in bad] == [damaged]
    assert bad[0].reason.startswith("damaged or cut short")
    assert str(damaged) in screen.console.export_text()
    assert names(cached) == names(train)
    order = [names(train).index(str(damaged)), 0, 2]
    for part in (cached, cached.select(order), cached.select(order[1:])):
        for i in range(len(part)):
            if part.name(i) == str(damaged):
                with pytest.raises(PictureError, match=r"1\.png: damaged"):
                    part.read(i)
            else:
                np.testing.assert_array_equal(np.asarray(part.read(i)), np.asarray(Image.open(part.name(i))))
    with pytest.raises(PictureError, match=r"1\.png: damaged"):
        load_into_memory(train, strict=True, screen=screen)
    Image.new("RGB", (1, 1)).save(root / "train/a/0.png")  # since its header was read
    first, _ = load_into_memory(train, screen=screen)[1]
    assert first.reason == "changed while it was being read"
    assert load_into_memory(train, max_bytes=100, screen=screen) == (train, [])
    assert load_into_memory(cached, screen=screen) == (cached, [])
