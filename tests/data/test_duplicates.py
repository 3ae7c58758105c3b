import numpy as np
import pytest

from densekit.data.duplicates import find_duplicates


def files(folder, contents):
    folder.mkdir()
    for i, content in enumerate(contents):
        (folder / f"{i}.png").write_bytes(content)
    return [folder / f"{i}.png" for i in range(len(contents))]


def test_files_of_equal_bytes(tmp_path):
    one = files(tmp_path / "one", [b"aa", b"bb", b"ccc", b"bb", b""])
    other = files(tmp_path / "other", [b"bb", b"ab", b"ccc", b"dddd", b"", b"aa"])
    (tmp_path / "other" / "5.png").unlink()
    assert find_duplicates(one, other) == [(1, 0), (2, 2), (4, 4)]
    assert find_duplicates(other, one) == [(0, 1), (2, 2), (0, 3), (4, 4)]


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_arrays(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
    assert find_duplicates(pixels[:4], pixels[[5, 2, 0]]) == [(2, 1), (0, 2)]


def test_arrays_and_files_have_nothing_in_common(tmp_path):
    pixels = np.zeros((2, 2, 1), np.uint8)
    assert find_duplicates(pixels, files(tmp_path / "one", [b"aa"])) == []
