"""Names of columns: which are known, and what becomes of the others."""

import re
from pathlib import Path

import pytest

from densekit.data.columns import KNOWN
from densekit.data.tables import read_table
from densekit.errors import DataError

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.fixture
def read(tmp_path, screen):
    """Read a table of this text: its entries, and what was shown."""

    def write_and_read(text):
        (tmp_path / "table.csv").write_text(text)
        entries = read_table(tmp_path / "table.csv", screen).entries
        return entries, screen.console.export_text()

    return write_and_read


@pytest.mark.parametrize("name", ["is_valid", "Is Valid", "is_val", "isValidation"])
@pytest.mark.parametrize("labels", ["label", "labels", "cat"])
def test_is_valid_says_which_pictures_validate(read, name, labels):
    one = "1" if labels == "cat" else "x"
    values = ["True", "1", "yes", "False", "0", ""]
    lines = [f"{i}.png,{one},{value}" for i, value in enumerate(values)]
    entries, shown = read("\n".join([f"image,{labels},{name}", *lines]))
    assert [entry.split for entry in entries] == ["val"] * 3 + ["train"] * 3
    assert {entry.labels for entry in entries} == {("cat" if labels == "cat" else "x",)}
    assert "not used" not in shown


def test_is_valid_is_true_or_false(read):
    with pytest.raises(DataError, match=r"line 2: unknown split 'test'; use true, false, 1 or 0$"):
        read("image,label,is_valid\na.png,x,test\n")


def test_columns_that_are_not_used_are_told(read):
    _, shown = read("Unnamed: 0,image,label,age,lesion_id,note,patient\n0,a.png,x,50,l,n,p\n")
    assert shown == "columns not used: age, lesion_id, note\n"


def test_a_column_without_a_name_is_told_too(read):
    assert read("a.png,x,train,50,60\n")[1] == "columns not used: number 4, number 5\n"


def test_nothing_is_told_where_all_are_used(read):
    assert read("image,label,split,patient\na.png,x,train,p\nb.png,y,test,q\n")[1] == ""


@pytest.mark.parametrize("name", ["set", "subset", "dataset", "partition", "phase", "fold"])
def test_some_names_mean_a_split_if_the_values_do(read, name):
    entries, shown = read(f"image,label,{name}\na.png,x,training\nb.png,x,Valid\nc.png,x,\n")
    assert ([entry.split for entry in entries], shown) == (["train", "val", "train"], "")
    with pytest.raises(DataError, match="line 3: unknown split 'tset'; use one of train, val, test"):
        read(f"image,label,{name}\na.png,x,train\nb.png,x,tset\n")
    for labels in ("label", "labels", "cat"):
        one = "1" if labels == "cat" else "x"
        entries, shown = read(f"image,{labels},{name}\na.png,{one},1\nb.png,{one},1\n")
        assert [(entry.split, len(entry.labels)) for entry in entries] == [(None, 1)] * 2
        assert f"columns not used: {name}\n" in shown


def test_a_column_split_holds_splits(read):
    with pytest.raises(DataError, match="line 2: unknown split '1'"):
        read("image,label,split\na.png,x,1\n")


@pytest.mark.parametrize("name", KNOWN["group"])
def test_names_of_groups(read, name):
    entries, shown = read(f"image,cat,{name}\na.png,1,7\nb.png,0,\n")
    assert ([(entry.labels, entry.group) for entry in entries], shown) == ([(("cat",), "7"), ((), None)], "")


def test_of_several_groups_the_largest_counts(read):
    entries, shown = read("image,cat,lesion_id,study_id,patient_id\na.png,1,l,s,p\n")
    assert [entry.group for entry in entries] == ["p"]
    assert shown == "columns not used: lesion_id, study_id\n"


@pytest.mark.parametrize("name", KNOWN["path"])
def test_names_of_pictures(read, tmp_path, name):
    (tmp_path / name).mkdir()  # as in a folder img/ beside the table
    entries, _ = read(f"{name},label\na.png,x\n")
    assert [(entry.path.name, entry.labels) for entry in entries] == [("a.png", ("x",))]


def test_a_folder_is_no_picture(read, tmp_path):
    (tmp_path / "photographs").mkdir()
    with pytest.raises(DataError, match="its first line, 'photographs,label', neither begins with a picture"):
        read("photographs,label\na.png,x\n")


def test_a_number_beside_a_name_is_no_picture(read):
    entries, shown = read("id,label,file_name\n17,x,a.png\n")
    assert (entries[0].path.name, shown) == ("a.png", "columns not used: id\n")


@pytest.mark.parametrize("column", KNOWN)
def test_the_documentation_names_them_all(column):
    """Nobody finds a name that only the code knows."""
    (cell,) = re.findall(rf"^\| {column} \|([^|]*)\|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    named = [re.sub(r"[\s_-]", "", name.lower()) for name in re.findall(r"`([^`]+)`", cell)]
    assert named == list(KNOWN[column])
