import numpy as np
import pytest

from densekit.data.datasets import open_data, open_labelled
from densekit.errors import DataError, PictureError

CLASSES = ("zebra", "cat", "dog")  # on purpose in no order: labels are places in this tuple


def labels_by_folder(pictures) -> set[tuple[str, int]]:
    return {(path.parent.name, int(label)) for path, label in zip(pictures.pictures, pictures.labels, strict=True)}


def test_labels_are_places_in_the_classes_given(make_folder):
    pictures = open_labelled(make_folder({"cat": 2, "dog": 3, "zebra": 1}), classes=CLASSES)
    assert (pictures.split, len(pictures)) == ("all", 6)
    assert labels_by_folder(pictures) == {("zebra", 0), ("cat", 1), ("dog", 2)}
    assert pictures.counts(3).tolist() == [1, 2, 3]


@pytest.mark.parametrize("beside", [{}, {"train/cat": 2, "val/dog": 1}], ids=["test_alone", "beside_others"])
def test_only_the_test_split(make_folder, beside):
    pictures = open_labelled(make_folder({"test/cat": 2, "test/dog": 1, **beside}), classes=CLASSES)
    assert (pictures.split, len(pictures)) == ("test", 3)
    assert {path.parent.parent.name for path in pictures.pictures} == {"test"}


@pytest.mark.parametrize("counts", [{"dog": 4}, {"test/dog": 4}], ids=["no_splits", "test_split"])
def test_one_class_is_enough(make_folder, counts):
    assert open_labelled(make_folder(counts), classes=CLASSES).labels.tolist() == [2, 2, 2, 2]


def test_test_split_equals_that_of_open_data(make_folder):
    folder = make_folder({"train/cat": 4, "train/dog": 4, "test/cat": 2, "test/dog": 3})
    trained = open_data(folder)
    assert trained.test is not None
    pictures = open_labelled(folder, classes=trained.classes)
    assert list(pictures.pictures) == list(trained.test.pictures)
    assert pictures.labels.tolist() == trained.test.labels.tolist()


def test_table(make_folder):
    root = make_folder({"x": 3})
    lines = ["path,label,split", "x/0.png,dog,train", "x/1.png,cat,test", "x/2.png,zebra,test"]
    (root / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    pictures = open_labelled(root / "list.csv", classes=CLASSES)
    assert (pictures.split, pictures.labels.tolist()) == ("test", [1, 0])


@pytest.mark.parametrize("turn", [1, -1], ids=["as_published", "reversed"])
def test_named_set(turn):
    digits = open_data("digits")
    assert digits.test is not None
    pictures = open_labelled("digits", classes=digits.classes[::turn])
    expected = digits.test.labels if turn == 1 else 9 - digits.test.labels
    assert pictures.split == "test"
    np.testing.assert_array_equal(pictures.labels, expected)
    np.testing.assert_array_equal(pictures.pictures, digits.test.pictures)


def test_unreadable_header_is_left_out(make_folder, screen):
    root = make_folder({"cat": 2, "dog": 2})
    (root / "cat" / "0.png").write_bytes(b"no picture")
    pictures = open_labelled(root, classes=CLASSES, screen=screen)
    assert pictures.counts(3).tolist() == [0, 1, 2]
    assert [(skipped.path, skipped.reason) for skipped in pictures.skipped] == [
        (root / "cat" / "0.png", "not a picture of a known format")
    ]
    assert "1 picture cannot be read and is left out" in screen.console.export_text()
    with pytest.raises(PictureError, match=r"0\.png: not a picture"):
        open_labelled(root, classes=CLASSES, strict=True, screen=screen)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        pytest.param({"Cat": 1}, "no class 'Cat'; it knows 'zebra', 'cat', 'dog'", id="other_case"),
        pytest.param({"cat": 1, "elk": 1}, "no class 'elk'; it knows", id="one_unknown"),
        pytest.param({f"c{i}": 1 for i in range(12)}, "'c0', 'c1', 'c2', 'c3', 'c4' and 7 more; it knows", id="many"),
        pytest.param({"train/cat": 1, "val/cat": 1}, "train or val pictures but no test split", id="no_test_split"),
    ],
)
def test_refused(make_folder, screen, counts, message):
    with pytest.raises(DataError, match=message):
        open_labelled(make_folder(counts), classes=CLASSES, screen=screen)


def test_named_set_of_other_classes(screen):
    with pytest.raises(DataError, match="digits: the classifier has no class '0'"):
        open_labelled("digits", classes=CLASSES, screen=screen)


def test_nowhere(tmp_path, screen):
    with pytest.raises(DataError, match="no such folder or table"):
        open_labelled(tmp_path / "nowhere", classes=CLASSES, screen=screen)
