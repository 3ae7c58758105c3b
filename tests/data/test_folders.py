import os
import threading
import time

import pytest

from densekit.data.folders import check_headers, natural_key, scan_folder
from densekit.data.pictures import picture_header
from densekit.errors import DataError, PictureError


def listed(listing, root):
    return [(str(entry.path.relative_to(root)), *entry.labels, entry.split) for entry in listing.entries]


def reasons(listing, root):
    return {str(skipped.path.relative_to(root)): skipped.reason for skipped in listing.skipped}


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_split_folders(make_folder, val):
    root = make_folder({"train/cat": 1, "train/dog": 1, f"{val}/cat": 1, "test/dog": 1})
    assert listed(scan_folder(root), root) == [
        ("test/dog/0.png", "dog", "test"),
        ("train/cat/0.png", "cat", "train"),
        ("train/dog/0.png", "dog", "train"),
        (f"{val}/cat/0.png", "cat", "val"),
    ]


def test_class_folders_with_deep_unicode_and_spaced_names(make_folder):
    root = make_folder({"größe 2/a/b": 1, "größe 10": 1, "größe 10/ü ü": 1})
    assert listed(scan_folder(root), root) == [
        ("größe 2/a/b/0.png", "größe 2", None),
        ("größe 10/0.png", "größe 10", None),
        ("größe 10/ü ü/0.png", "größe 10", None),
    ]


def test_unicode_forms_of_one_name_are_one_class(make_folder):
    root = make_folder({"train/caf\u00e9": 1, "train/tea": 1, "test/cafe\u0301": 1})
    assert {entry.labels[0] for entry in scan_folder(root).entries} == {"caf\u00e9", "tea"}


def test_a_class_may_be_called_train(make_folder):
    root = make_folder({"train": 1, "bus": 1})
    assert [label for _, label, _ in listed(scan_folder(root), root)] == ["bus", "train"]


def test_unlabelled_split_folders_are_no_classes(make_folder):
    with pytest.raises(DataError, match=r"no pictures found; expected train/CLASS"):
        scan_folder(make_folder({"train": 1, "test": 1}))


def test_other_files_are_recorded_and_hidden_ones_ignored(make_folder):
    root = make_folder({"cat": 1, "dog": 1, ".git": 1, "__MACOSX": 1, "cat/.hidden": 1, "empty": 0})
    for name in ("cat/Thumbs.db", "cat/.DS_Store", "cat/notes.txt", "README.md", "cat/no_suffix"):
        (root / name).write_text("text")
    listing = scan_folder(root)
    assert len(listing.entries) == 2
    assert reasons(listing, root) == {
        "README.md": "not in a class folder",
        "cat/no_suffix": "not a picture file name",
        "cat/notes.txt": "not a picture file name",
        "empty": "class folder without pictures",
    }


def test_folders_beside_the_splits_are_recorded(make_folder):
    root = make_folder({"train/cat": 1, "train/dog": 1, "raw": 1})
    assert reasons(scan_folder(root), root) == {"raw": "not a split folder (train, val, test)"}


def test_two_folders_for_one_split(make_folder):
    with pytest.raises(DataError, match=r"both val/ and validation/ are the val split"):
        scan_folder(make_folder({"train/cat": 1, "val/cat": 1, "validation/cat": 1}))


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match=r"no pictures found; expected train/CLASS"):
        scan_folder(tmp_path)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no symbolic links")
def test_links_are_followed_but_not_in_circles(make_folder):
    root = make_folder({"cat": 1, "dog": 1})
    (root / "cat" / "circle").symlink_to(root / "cat")
    (root / "cat" / "more").symlink_to(root / "dog")
    assert [path for path, _, _ in listed(scan_folder(root), root)] == [
        "cat/0.png",
        "cat/more/0.png",
        "dog/0.png",
    ]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no symbolic links")
@pytest.mark.parametrize("counts", [{"cat": 1, "dog": 1}, {"train/cat": 1, "train/dog": 1}], ids=["classes", "splits"])
def test_a_link_to_all_classes_makes_no_picture_one_of_another_class(make_folder, counts):
    root = make_folder(counts)
    (root / next(iter(counts)) / "all").symlink_to(root)
    assert [path for path, _, _ in listed(scan_folder(root), root)] == [f"{folder}/0.png" for folder in counts]


@pytest.mark.parametrize(
    "names", [("settings.yaml", "checkpoints"), ("model.json", "model.safetensors"), ("study.yaml", "runs")]
)
def test_curves_of_a_run_are_no_pictures(make_folder, names):
    """As in ``cd photos; densekit train .``, for the second time."""
    root = make_folder({"cat": 1, "dog": 1, "runs/photos-densenet121": 1, "dog/run": 1})
    for folder in ("runs/photos-densenet121", "dog/run"):
        for name in names:
            (root / folder / name).write_text("{}")
    (root / "cat" / "settings.yaml").write_text("of the camera")
    listing = scan_folder(root)
    assert [path for path, _, _ in listed(listing, root)] == ["cat/0.png", "dog/0.png"]
    assert [(skipped.path.name, skipped.reason) for skipped in listing.skipped] == [
        ("settings.yaml", "not a picture file name"),
        ("runs", "class folder without pictures"),
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(make_folder, screen):
    root = make_folder({"cat": 1, "dog": 1})
    os.mkfifo(root / "cat" / "pipe.png")
    good, _, bad = check_headers(scan_folder(root), strict=False, screen=screen)
    assert len(good) == 2
    assert [(skipped.path.name, skipped.reason) for skipped in bad] == [("pipe.png", "a pipe or device, not a file")]


def test_natural_order_mixes_words_and_numbers():
    names = ["10", "9", "a", "Ab", "a1b10", "a1b9", "²"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a1b9", "a1b10", "Ab", "²"]


def test_headers_are_checked_in_order(make_folder, screen):
    root = make_folder({"cat": 30, "dog": 1}, size=(5, 7))
    (root / "cat" / "3.png").write_bytes(b"")
    listing = scan_folder(root)
    good, headers, bad = check_headers(listing, strict=False, screen=screen)
    assert [entry.path.name for entry in good[:4]] == ["0.png", "1.png", "2.png", "4.png"]
    assert set(headers) == {(5, 7, 3)}
    assert [(skipped.path, skipped.reason) for skipped in bad] == [(root / "cat" / "3.png", "the file is empty")]
    with pytest.raises(PictureError, match=r"3\.png: the file is empty"):
        check_headers(listing, strict=True, screen=screen)


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines"], ids=["latin_1", "line_break"])
def test_a_class_whose_name_could_not_be_read_back_is_refused(make_folder, name):
    """As archives from elsewhere unpack them: the run would be written, and never opened again."""
    root = make_folder({"cat": 1, "dog": 1})
    (root / "dog").rename(root / os.fsdecode(name))
    with pytest.raises(DataError, match="no class can have the name"):
        scan_folder(root)
    (root / os.fsdecode(name)).rename(root / "sheep\u00a0dog\u200d🐕")  # joiners and no-break spaces are writing
    assert {entry.labels[0] for entry in scan_folder(root).entries} == {"cat", "sheep\u00a0dog\u200d🐕"}


def test_headers_from_a_slow_place_are_read_together(make_folder, screen, monkeypatch):
    """As on another machine's disk, where each file takes its time and many take no longer than one."""
    root = make_folder({"cat": 100, "dog": 100}, size=(5, 7))
    threads: list[str] = []

    def slowly(path):
        threads.append(threading.current_thread().name)
        time.sleep(0.002)
        return picture_header(path)

    monkeypatch.setattr("densekit.data.folders.picture_header", slowly)
    good, _, bad = check_headers(listing := scan_folder(root), strict=False, screen=screen)
    assert (good, bad) == (listing.entries, [])
    assert len(set(threads)) > 2


@pytest.mark.parametrize("names", ["training/testing/dev", "Training/Testing/Validation"])
def test_other_spellings_of_splits(make_folder, names):
    train, test, val = names.split("/")
    root = make_folder({f"{split}/{name}": 1 for split in (train, test, val) for name in ("cat", "dog")})
    found = {(entry.path.relative_to(root).parts[0], entry.split) for entry in scan_folder(root).entries}
    assert found == {(train, "train"), (test, "test"), (val, "val")}


def test_splits_below_the_classes(make_folder):
    root = make_folder({"cat/train": 2, "cat/test": 1, "dog/train": 1, "dog/val/deep": 1})
    (root / "cat" / "notes.txt").write_text("text")
    listing = scan_folder(root)
    assert listed(listing, root) == [
        ("cat/test/0.png", "cat", "test"),
        ("cat/train/0.png", "cat", "train"),
        ("cat/train/1.png", "cat", "train"),
        ("dog/train/0.png", "dog", "train"),
        ("dog/val/deep/0.png", "dog", "val"),
    ]
    assert reasons(listing, root) == {"cat/notes.txt": "not in a split folder"}


def test_classes_that_look_like_splits_are_told(make_folder):
    root = make_folder({f"{top}/{name}": 1 for top in ("trn", "tst") for name in ("cat", "dog")})
    listing = scan_folder(root)
    assert {entry.labels[0] for entry in listing.entries} == {"trn", "tst"}
    assert listing.doubt == (
        "'trn', 'tst' are taken for classes, and each holds 'cat', 'dog': "
        "if they are splits, name them train, val and test"
    )
    for layout in ({"cat/a": 1, "dog/b": 1}, {"cat": 1, "dog": 1}, {"cat/a": 1, "dog/a": 1}):
        assert scan_folder(make_folder(layout)).doubt is None


@pytest.mark.parametrize(("link", "target"), [("frog", "cat"), ("train/frog", "train/cat"), ("test", "train")])
def test_one_folder_under_two_names_has_two_classes_or_splits(make_folder, link, target):
    root = make_folder({f"{'' if link == 'frog' else 'train/'}{name}": 2 for name in ("cat", "dog")})
    (root / link).symlink_to(root / target)
    with pytest.raises(DataError, match="are the same folder: a picture has one class and one split"):
        scan_folder(root)
