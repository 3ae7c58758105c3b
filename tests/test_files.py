import json
import os
import stat
import subprocess
import sys

import pytest
import torch

from densekit.errors import SettingsError
from densekit.files import alone_in, check_writable, free_path, write_atomically, write_json, write_tensors, write_text


def test_a_folder_is_one_process_at_a_time(tmp_path):
    """A child that is killed leaves its lock file, but not the lock."""
    script = "import sys; from pathlib import Path; from densekit.files import alone_in\n"
    script += "with alone_in(Path(sys.argv[1])): print('in', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "in\n"
        with pytest.raises(SettingsError, match=f"another process is using {tmp_path}: "), alone_in(tmp_path):
            pass
        child.kill()
        child.wait()
        with alone_in(tmp_path):
            pass


@pytest.mark.parametrize("before", [None, "old and longer"], ids=["new_file", "replaces"])
def test_writes_utf8_and_makes_folders(tmp_path, before):
    path = tmp_path / "new" / "deeper" / "text.txt"
    if before is not None:
        path.parent.mkdir(parents=True)
        path.write_text(before)
    write_text(path, "grün ☃\n")
    assert path.read_bytes() == "grün ☃\n".encode()
    assert [file.name for file in path.parent.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt], ids=["error", "ctrl_c"])
@pytest.mark.parametrize("before", [None, "old"], ids=["new_file", "replaces"])
def test_failure_half_way_leaves_what_was_there(tmp_path, before, error):
    path = tmp_path / "text.txt"
    if before is not None:
        path.write_text(before)

    def write_half(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(error):
        write_atomically(path, write_half)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == ({"text.txt": "old"} if before else {})


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "text.txt"
    write_text(path, "old")

    def write(temporary):
        assert temporary.parent == path.parent  # a move between file systems would not be one step
        assert temporary.suffix == path.suffix  # writers choose the format by it
        temporary.write_text("new")
        assert path.read_text() == "old"

    write_atomically(path, write)
    assert path.read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0, 0o666)], ids=oct)
def test_permissions_are_those_of_ordinary_files(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "file", "x")
        assert os.umask(umask) == umask  # and the umask is as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_json_is_for_people_too(tmp_path):
    write_json(tmp_path / "a.json", {"classes": ["grün"], "n": 1})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == '{\n  "classes": [\n    "grün"\n  ],\n  "n": 1\n}\n'
    assert json.loads(text) == {"classes": ["grün"], "n": 1}


def test_json_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "a.json", {1: object()})
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_folder_that_is_a_file(tmp_path):
    write_text(tmp_path / "file", "x")
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "below", "x")


def test_tensors_on_a_full_disk_leave_the_old_ones(tmp_path):
    resource = pytest.importorskip("resource", reason="this system limits no files")
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {"format": "pt"})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*x\.safetensors: "):
            write_tensors(path, {"a": torch.ones(3000)}, {"format": "pt"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_where_nothing_can_be_written(tmp_path):
    check_writable(tmp_path / "new" / "deeper")
    assert list((tmp_path / "new" / "deeper").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot write into .*file/out \(Not a directory\): choose another --out"):
        check_writable(tmp_path / "file" / "out")


def test_free_path_finds_the_first_gap(tmp_path):
    for name in ("a", "a-2", "a-4"):
        (tmp_path / name).mkdir()
    assert free_path(tmp_path / "a") == tmp_path / "a-3"
    assert free_path(tmp_path / "b") == tmp_path / "b"
