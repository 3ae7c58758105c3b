"""Labels that may have been meant otherwise, classes in a column each, and lists in a cell."""

import csv

import pytest

from densekit.data.datasets import open_data, open_labelled
from densekit.data.tables import read_table
from densekit.errors import DataError


@pytest.fixture
def read(tmp_path, screen):
    """Read a table of this text: the listing, and what was shown."""

    def write_and_read(text):
        (tmp_path / "table.csv").write_text(text)
        listing = read_table(tmp_path / "table.csv", screen)
        return listing, screen.console.export_text()

    return write_and_read


ONE_CLASS = "warning: each picture has exactly one label: if these are classes, call the column label\n"
ONE_HOT = (
    "warning: each picture has exactly one label: if these are classes, write class: before the names of their "
    "columns, such as class:MEL\n"
)
PLANET = "\n".join(
    f"{sky}{land}.jpg,{sky} {land}" for sky in ("clear", "hazy") for land in ("primary", "road", "water")
)
DOUBTS = {
    "no_picture_has_it": ("path,cat,dog\na,1,0\nb,0,0\n", "warning: no picture has the label 'dog': left out\n"),
    "commas": ('path,labels\na,"cat,dog"\nb,cat\nc,dog\n', "warning: 'cat,dog' is taken for one label: if"),
    "semicolons": ("path,labels\na,cat; dog\nb,cat|dog\n", "warning: 'cat; dog' is taken for one label: if"),
    "spaces": (
        "path,labels\na,cat x\nb,x\nc,cat\n",
        "warning: 'cat x' is taken for one label: if these are several, s",
    ),
    "spaces_planet": (f"image_name,tags\n{PLANET}", "warning: 'clear primary' is taken for one label: if these"),
    "names_of_two_words": ("path,labels\na,red car|blue car\nb,red bus|blue bus\nc,red van|blue van\n", ""),
    "names_of_two_words_and_none": ("path,labels\na,No Finding\nb,Pleural Effusion\nc,\n", ""),
    "a_comma_in_a_name": ('path,labels\na,"Smith, John"\nb,cat\nc,\n', ""),
    "one_each": ("path,labels\na,cat\nb,dog\nc,cat\n", ONE_CLASS),
    "one_each_of_two_words": ("path,labels\na,red cat\nb,dog\n", ONE_CLASS),
    "one_label": ("path,labels\na,cat\nb,cat\n", ""),
    "one_hot": ("image,MEL,NV\na,1.0,0.0\nb,0.0,1.0\n", ONE_HOT),
    "one_hot_and_never": (
        "image,MEL,NV,UNK\na,1,0,0\nb,0,1,0\n",
        "warning: no picture has the label 'UNK': left out\n" + ONE_HOT,
    ),
    "not_quite_one_hot": ("image,MEL,NV\na,1,0\nb,0,1\nc,0,0\n", ""),
    "one_yes_or_no": ("image,defect\na,1\nb,1\n", ""),
    "classes_in_a_list": (
        "path,label\na,\"['cat', 'x']\"\nb,x\n",
        "warning: \"['cat', 'x']\" is taken for one class: if",
    ),
    "classes_with_a_bar": (
        "path,label\na,cat|x\nb,x\nc,cat\n",
        "warning: 'cat|x' is taken for one class: if these are",
    ),
    "classes_with_spaces": ("Id,Target\na,16 0\nb,0\nc,16\n", "warning: '16 0' is taken for one class: if these are"),
    "classes_of_two_words": ("path,label\na,red cat\nb,cat\n", ""),
}


@pytest.mark.parametrize(("text", "doubt"), DOUBTS.values(), ids=DOUBTS)
def test_labels_that_may_have_been_meant_otherwise(read, text, doubt):
    _, shown = read(text)
    assert shown.startswith(doubt) if doubt else shown == ""
    assert shown.count("\n") == max(doubt.count("\n"), bool(doubt))


LISTS = {
    "python": "['cat', 'x']",
    "json": '["x", "cat"]',
    "numpy": "['cat' 'x']",
    "an_apostrophe": """['x', "cat"]""",
    "spaces": "[ 'cat','x', ]",
}


@pytest.mark.parametrize("cell", LISTS.values(), ids=LISTS)
def test_lists_in_a_cell(tmp_path, cell):
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "labels"], ["a.png", cell], ["b.png", "[]"], ["c.png", "['a\\'b']"]])
    listing = read_table(tmp_path / "table.csv")
    assert [entry.labels for entry in listing.entries] == [("cat", "x"), (), ("a'b",)]


def test_numbers_in_a_list(read):
    assert [entry.labels for entry in read('path,labels\na,"[1, 20]"\nb,[]\n')[0].entries] == [("1", "20"), ()]


@pytest.mark.parametrize("cell", ["[cat, x]", "['cat', x]", "['cat'", "[np.str_('cat')]"])
def test_what_is_no_list_of_names(read, cell):
    if cell.endswith("]"):
        with pytest.raises(
            DataError, match=r"line 2: .* is not a list of quoted names: write \['cat', 'dog'\], or cat"
        ):
            read(f'path,labels\na,"{cell}"\n')
    else:
        assert read(f'path,labels\na,"{cell}"\n')[0].entries[0].labels == (cell,)


def test_a_label_that_the_separator_would_cut(read):
    with pytest.raises(DataError, match=r"line 3: a label is 'x\|y', but \| separates labels: rename it"):
        read("""path,labels\na,"['x']"\nb,"['z', 'x|y']"\n""")


def test_classes_in_a_column_each(make_folder, screen):
    root = make_folder({"a": 6, "b": 6})
    lines = [f"{'ab'[i % 2]}/{i // 2}.png,{1 - i % 2}.0,{i % 2}.0,0.0,{i}" for i in range(12)]
    (root / "t.csv").write_text("\n".join(["image,class:MEL,Class: NV,class:UNK,age", *lines]))
    dataset = open_data(root / "t.csv", screen=screen)
    assert (dataset.classes, dataset.multilabel) == (("MEL", "NV"), False)
    pairs = zip(dataset.train.pictures, dataset.train.labels, strict=True)
    assert {(path.parent.name, int(label)) for path, label in pairs} == {("a", 0), ("b", 1)}
    assert screen.console.export_text() == (
        "columns not used: age\nwarning: no picture has the class 'UNK': left out\n"
    )
    assert open_labelled(root / "t.csv", classes=("NV", "MEL"), screen=screen).labels.tolist() == [1, 0] * 6


def test_of_classes_in_a_column_each_a_picture_has_one(read):
    with pytest.raises(
        DataError, match="line 3: has the classes 'a', 'b', but only one is possible; if they are labels"
    ):
        read("image,class:a,class:b\n1.png,1,0\n2.png,1,1\n")
    listing, _ = read("image,class:a,class:b\n1.png,1,0\n2.png,0,0\n3.png,0,1\n")
    assert [skipped.path.name for skipped in listing.skipped] == ["2.png"]
    with pytest.raises(DataError, match="two columns are named 'a'"):
        read("image,class:a,class: a\n1.png,1,0\n")
