import pytest
from PIL import Image

from densekit.data.tables import read_table
from densekit.errors import DataError


def listed(listing, root):
    return [(str(entry.path.relative_to(root)), *entry.labels, entry.split) for entry in listing.entries]


TABLES = {
    "no_header": "a.png,cat\nb.png,dog\n",
    "header": "path,label\na.png,cat\nb.png,dog\n",
    "header_other_order": "Label,Other,File\ncat,1,a.png\ndog,2,b.png\n",
    "header_other_names": "category;image_path\ncat;a.png\ndog;b.png\n",
    "semicolons": "path;label\na.png;cat\nb.png;dog\n",
    "tabs": "a.png\tcat\nb.png\tdog\n",
    "byte_order_mark_and_windows_lines": "\ufeffpath,label\r\na.png,cat\r\n\r\nb.png,dog\r\n",
    "spaces_and_quotes": '"a.png", cat\n"b.png" ,dog',
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_tables(tmp_path, text):
    table = tmp_path / "table.csv"
    table.write_text(text, encoding="utf-8", newline="")
    assert listed(read_table(table), tmp_path) == [("a.png", "cat", None), ("b.png", "dog", None)]


@pytest.mark.parametrize("header", ["", "path,label,split\n"])
def test_table_with_splits(tmp_path, header):
    table = tmp_path / "table.csv"
    table.write_text(header + "a.png,cat,Train\nb.png,cat,validation\nc.png,cat,test\nd.png,cat,\n")
    assert [entry.split for entry in read_table(table).entries] == ["train", "val", "test", "train"]


def test_a_picture_listed_twice_is_one(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a.png,cat\nb.png,dog\na.png,cat\na.png,cat\n")
    listing = read_table(table)
    assert listed(listing, tmp_path) == [("a.png", "cat", None), ("b.png", "dog", None)]
    assert listing.repeated == 2


def test_a_line_without_a_label_is_skipped(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("path,label,split\na.png,cat,train\nb.png,,train\nc.png\nd.png,dog,\n")
    listing = read_table(table)
    assert listed(listing, tmp_path) == [("a.png", "cat", "train"), ("d.png", "dog", "train")]
    assert [(skipped.path.name, skipped.reason) for skipped in listing.skipped] == [
        ("b.png", "its line of the table has no label"),
        ("c.png", "its line of the table has no label"),
    ]


BAD_TABLES = {
    "no_path": ("a.png,cat\n,dog\n", r"line 2: expected path,label\[,split\], got ',dog'"),
    "no_label": ("path,label\na.png,\n", "no lines of path,label"),
    "unknown_split": (
        "a.png,cat,training set\n",
        "line 1: unknown split 'training set'; use one of train, val",
    ),
    "two_labels": ("a.png,cat\na.png,dog\n", r"line 2: .*a\.png was already given another label"),
    "two_splits": (
        "a.png,cat,train\na.png,cat,test\n",
        r"line 2: .*a\.png was already given another label, split or group",
    ),
    "nothing": ("path,label\n", "no lines of path,label"),
    "no_yes_or_no": ("path,cat,age\na.png,1,58\n", "line 2: age is '58', but a column for each label holds 1 or 0"),
    "uncertain": ("path,cat\na.png,-1.0\n", "line 2: cat is '-1.0'"),
    "other_labels": ("path,labels\na.png,x|y\na.png,x\n", r"line 3: .*a\.png was already given another label"),
    "two_columns": ("path,cat,cat\na.png,1,0\n", "two columns are named 'cat'"),
    "nothing_of_several": ("path,labels\n", "no lines"),
    "separated_by_commas": ("path,labels\na.png,cat,dog\n", "line 2: has more cells than the first line names"),
    "cut_short": ("path,labels,split\na.png\n", "line 2: ends before its labels"),
    "a_label_is_missing": ("path,cat,dog\na.png,1\n", "line 2: ends before its labels"),
    "separator_in_a_name": ("path,cat|dog\na.png,1\n", r"a column is named 'cat\|dog', but \| separates labels"),
}


@pytest.mark.parametrize(("text", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_tables_name_the_line(tmp_path, text, message):
    table = tmp_path / "table.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(table)


def test_a_quote_that_is_not_closed_is_told_and_swallows_nothing(tmp_path):
    table = tmp_path / "table.csv"
    lines = ["path,label", *[f"cat/{number}.png,cat" for number in range(20_000)]]
    lines[4] = lines[4].replace(",", ',"')
    for text in ("\n".join(lines), "\n".join(lines[:9])):
        table.write_text(text)
        with pytest.raises(
            DataError, match=r"table\.csv, near line [45]: a quote that is not closed takes in the next"
        ):
            read_table(table)


def test_a_picture_given_as_table(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("L", (2, 2), 200).save(path)
    with pytest.raises(DataError, match="is a picture: name a folder of pictures"):
        read_table(path)


@pytest.mark.parametrize("header", ["path,label,target", "target,path,file,label", "label,class,path"])
def test_of_two_names_for_a_column_the_usual_one_counts(tmp_path, header):
    cells = {"path": "a.png", "file": "b.png", "label": "cat", "target": "x0", "class": "y0"}
    (tmp_path / "list.csv").write_text(f"{header}\n{','.join(cells[name] for name in header.split(','))}\n")
    (entry,) = read_table(tmp_path / "list.csv").entries
    assert (entry.path.name, *entry.labels) == ("a.png", "cat")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_table_that_is_no_utf_8_says_so(tmp_path, encoding):
    (tmp_path / "list.csv").write_bytes("path,label\ngrün.png,grün\n".encode(encoding))
    with pytest.raises(DataError, match=r"list.csv is not UTF-8 text: save it as CSV UTF-8$"):
        read_table(tmp_path / "list.csv")


def test_a_header_that_is_not_known_is_no_picture(tmp_path):
    (tmp_path / "list.csv").write_text("photo_url,species\na.png,cat\n")
    with pytest.raises(
        DataError, match=r"its first line, 'photo_url,species', neither begins with a picture nor names"
    ):
        read_table(tmp_path / "list.csv")


def test_a_picture_is_one_however_its_path_is_written(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text("i/0.png,cat\ni/../i/0.png,cat\n")
    assert (len(read_table(table).entries), read_table(table).repeated) == (1, 1)
    table.write_text("i/0.png,cat\n./i/0.png,dog\n")
    with pytest.raises(DataError, match="was already given another label, split or group"):
        read_table(table)


SEVERAL = {
    "cells": "path,labels\na.png,dog|cat\nb.png,\nc.png,dog\n",
    "spaces_and_repeats": "Path;Tags\na.png; cat | dog |cat\nb.png;|\nc.png;dog\n",
    "a_column_each": "path,dog,cat,never\na.png,1,1,0\nb.png,0,0,0\nc.png,1,0,0\n",
    "words_and_gaps": "cat,file,dog\nTrue,a.png,yes\n,b.png,\n0.0,c.png,1.0\n",
    "unnamed_by_pandas": "Unnamed: 0,path,dog,cat\n0,a.png,1,1\n7,b.png,0,0\n2,c.png,1,0\n",
    "numbered_lines": ",path,dog,cat\n0,a.png,1,1\n1,b.png,0,0\n2,c.png,1,0\n",  # as pandas writes them
}


@pytest.mark.parametrize("text", SEVERAL.values(), ids=SEVERAL)
def test_tables_of_any_number_of_labels(tmp_path, text):
    table = tmp_path / "table.csv"
    table.write_text(text)
    listing = read_table(table)
    assert listing.multilabel
    assert [(entry.path.name, entry.labels) for entry in listing.entries] == [
        ("a.png", ("cat", "dog")),
        ("b.png", ()),
        ("c.png", ("dog",)),
    ]
    assert not listing.skipped


def test_one_class_each_is_not_multilabel(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("path,label,labels\na.png,cat|dog,x\n")  # label comes first, and is a name as it stands
    listing = read_table(table)
    assert (listing.multilabel, listing.entries[0].labels) == (False, ("cat|dog",))


def test_splits_and_accents_of_several_labels(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("path,cafe\u0301,split\na.png,1,test\nb.png,1,\n", encoding="utf-8")
    entries = read_table(table).entries
    assert [(entry.labels, entry.split) for entry in entries] == [(("caf\u00e9",), "test"), (("caf\u00e9",), "train")]


def test_the_same_labels_in_another_order_are_the_same(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("path,labels\na.png,x|y\na.png,y|x\n")
    assert read_table(table).repeated == 1


@pytest.mark.parametrize("name", ["group", "Patient", "subject", "patient_id", "Patient ID", "patientId"])
@pytest.mark.parametrize("kind", ["label", "labels"])
def test_groups(tmp_path, name, kind):
    table = tmp_path / "table.csv"
    table.write_text(f"path,{name},{kind}\na.png,p1,x\nb.png,,x\nc.png,p1,y\n")
    assert [entry.group for entry in read_table(table).entries] == ["p1", None, "p1"]
    table.write_text(f"path,{name},{kind}\na.png,p1,x\na.png,p2,x\n")
    with pytest.raises(DataError, match="already given another label, split or group"):
        read_table(table)


def test_a_group_is_no_label(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("path,cat,patient\na.png,1,7\n")
    (entry,) = read_table(table).entries
    assert (entry.labels, entry.group) == (("cat",), "7")


def test_only_line_breaks_end_a_line(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("path,label\na.png,one\u2028class\nb.png,other\n", encoding="utf-8")
    assert [entry.labels[0] for entry in read_table(table).entries] == ["one\u2028class", "other"]


def test_the_table_of_chestxray14_is_read_as_it_is(tmp_path):
    """Its columns (Wang et al., ChestX-ray8, 2017), and lines of their kind."""
    table = tmp_path / "Data_Entry_2017.csv"
    table.write_text(
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
        "00000001_001.png,Cardiomegaly|Emphysema,1,1,58,M,PA,2894,2729,0.143,0.143,\n"
        "00000002_000.png,No Finding,0,2,81,M,PA,2500,2048,0.171,0.171,\n"
    )
    listing = read_table(table)
    assert [(entry.path.name, entry.labels, entry.group) for entry in listing.entries] == [
        ("00000001_001.png", ("Cardiomegaly", "Emphysema"), "1"),
        ("00000002_000.png", ("No Finding",), "2"),
    ]
