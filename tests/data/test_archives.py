import io
import tarfile

import pytest

from densekit.data.archives import read_cifar
from densekit.errors import DataError


def test_class_names_that_are_no_text(tmp_path):
    path = tmp_path / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("batches.meta.txt")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"\xff\xfe"))
    with pytest.raises(DataError, match=r"cifar\.tar\.gz: damaged or unreadable .*delete it to download it again"):
        read_cifar(path)
